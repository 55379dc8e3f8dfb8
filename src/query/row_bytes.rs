//! How large rows are, for limits and for messages.

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::DataType,
};

/// Bytes of the rows of a batch and of nothing else: batches are often slices of larger ones, and so are the lists and
/// maps in them.
pub fn row_bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(array_bytes).sum::<usize>() as u64
}

fn array_bytes(array: &ArrayRef) -> usize {
    let nulls = if array.nulls().is_some() { array.len().div_ceil(8) } else { 0 };
    let values = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = ends(list.value_offsets());
            offset_bytes(array) + array_bytes(&list.values().slice(first, last - first))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (first, last) = ends(map.value_offsets());
            let bytes = |column: &ArrayRef| array_bytes(&column.slice(first, last - first));
            offset_bytes(array) + map.entries().columns().iter().map(bytes).sum::<usize>()
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(array_bytes).sum(),
        DataType::Utf8View => view_bytes(array.as_string_view().lengths()),
        DataType::BinaryView => view_bytes(array.as_binary_view().lengths()),
        // Counts the bits of NULLs itself.
        _ => return array.to_data().get_slice_memory_size().unwrap_or_default(),
    };
    nulls + values
}

fn ends(offsets: &[i32]) -> (usize, usize) {
    let end = |offset: Option<&i32>| offset.copied().unwrap_or_default() as usize;
    (end(offsets.first()), end(offsets.last()))
}

fn offset_bytes(array: &ArrayRef) -> usize {
    (array.len() + 1) * size_of::<i32>()
}

/// Values of up to twelve bytes are in the view itself.
fn view_bytes(lengths: impl Iterator<Item = u32>) -> usize {
    lengths.map(|length| 16 + if length > 12 { length as usize } else { 0 }).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ListArray, StringViewArray, types::Int64Type};

    use super::*;

    fn bytes(array: impl Array + 'static) -> u64 {
        row_bytes(&RecordBatch::try_from_iter([("x", Arc::new(array) as ArrayRef)]).unwrap())
    }

    #[test]
    fn a_slice_counts_its_own_rows_at_any_depth() {
        let rows = (0..1000).map(|_| Some([Some(1), Some(2)]));
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(rows);
        let (all, ten) = (bytes(list.clone()), bytes(list.slice(500, 10)));
        assert!((19_000..22_000).contains(&all), "{all}");
        assert!((160..250).contains(&ten), "{ten}");
        let views = StringViewArray::from(vec!["short", &"x".repeat(100), "short"]);
        assert_eq!(bytes(views.clone()), 3 * 16 + 100);
        assert_eq!(bytes(views.slice(2, 1)), 16);
    }
}
