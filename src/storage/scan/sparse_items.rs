//! Events or links that few spans of a file have, in memory: decoded once, and found by the number of the row.
//!
//! The reader walks through the levels of a nested column for every row, those that it skips included, and most spans have no
//! event. So a list of which few rows have items is kept as these rows and their items, cut down to the columns that a
//! question asks for ([`crate::storage::scan::items`]), beside the footers and under the same limit. A scan then reads the numbers of its
//! rows in place of the list:
//!
//! ```text
//!  events of a file   [] [] [a] [] [] [b, c] [] ..     few = rows 2, 5; items [a] [b, c]
//!  rows 4, 5, 6       [] [b, c] []
//! ```
//!
//! Which files keep their lists so is seen when they are opened, so that expressions come in both forms ([`ItemsOfRow`]), of
//! which a file's adapter takes one.

use std::{
    any::Any,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array, new_empty_array},
    buffer::OffsetBuffer,
    compute::{concat, take},
    datatypes::{DataType, FieldRef, Int64Type, Schema},
};
use bytes::Bytes;
use datafusion::{
    common::{HashMap, Result, exec_err},
    execution::cache::cache_manager::FileMetadata,
    logical_expr::ColumnarValue,
    physical_expr::PhysicalExpr,
};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    errors::{ParquetError, Result as ParquetResult},
    file::metadata::ParquetMetaData,
};

use crate::storage::chunks::{Chunk, Parts};

/// One row in so many may have items; lists of more rows are left to the reader.
const ROWS_PER_LIST_MIN: usize = 16;

/// Largest columns that are read for it, in bytes of the file per row: where they are larger, many rows have items.
const ROW_BYTES_MAX: u64 = 2;

/// Columns of this many bytes are read in any case.
const READ_BYTES_MIN: u64 = 64 << 10;

/// Most memory that the items of a file take, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The items of one list of a file.
#[derive(Debug)]
pub(crate) enum SparseItems {
    /// Of these rows, in order, a list each.
    Few(Vec<u32>, ListArray),
    /// Too many rows have some.
    Many,
}

impl FileMetadata for SparseItems {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn memory_size(&self) -> usize {
        match self {
            Self::Few(rows, items) => rows.capacity() * size_of::<u32>() + items.get_array_memory_size(),
            Self::Many => 0,
        }
    }

    fn extra_info(&self) -> HashMap<String, String> {
        HashMap::new()
    }
}

impl SparseItems {
    /// The parts of a file that hold a list, by the footer that has the wanted columns alone; `None` if they are too large.
    pub(crate) fn ranges(metadata: &ParquetMetaData, list: &str) -> Option<Vec<std::ops::Range<u64>>> {
        let columns = metadata.file_metadata().schema_descr().columns().iter().enumerate();
        let of_list = |path: &[String]| path.first().is_some_and(|root| root == list);
        let leaves: Vec<usize> =
            columns.filter(|(_, leaf)| of_list(leaf.path().parts())).map(|(index, _)| index).collect();
        let mut ranges = Vec::new();
        for group in metadata.row_groups() {
            for leaf in &leaves {
                let (start, length) = group.column(*leaf).byte_range();
                ranges.push(start..start.checked_add(length)?);
            }
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let rows = u64::try_from(metadata.file_metadata().num_rows()).ok()?;
        (bytes <= READ_BYTES_MIN.max(rows.saturating_mul(ROW_BYTES_MAX))).then_some(ranges)
    }

    /// Decodes a list out of its parts of the file, each with its start.
    pub(crate) fn decode(metadata: Arc<ParquetMetaData>, list: &str, parts: Vec<(u64, Bytes)>) -> ParquetResult<Self> {
        let rows_all = usize::try_from(metadata.file_metadata().num_rows())?;
        let rows_max = rows_all / ROWS_PER_LIST_MIN;
        let parts = Parts(parts.into_iter().map(|(start, bytes)| Chunk { start, bytes }).collect());
        let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
        let root = metadata.schema().index_of(list)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, metadata);
        let mask = ProjectionMask::roots(builder.parquet_schema(), [root]);
        let (mut rows, mut found, mut first) = (Vec::new(), Vec::<ArrayRef>::new(), 0);
        let mut item_type = None;
        for batch in builder.with_projection(mask).build()? {
            let batch = batch?;
            let Some(lists) = batch.column(0).as_list_opt::<i32>() else { return Ok(Self::Many) };
            item_type.get_or_insert_with(|| lists.data_type().clone());
            let has_items = |row: &usize| lists.is_valid(*row) && lists.value_length(*row) > 0;
            let here: Vec<u32> = (0..lists.len()).filter(has_items).map(|row| row as u32).collect();
            rows.extend(here.iter().map(|row| first + row));
            if rows.len() > rows_max {
                return Ok(Self::Many);
            }
            if !here.is_empty() {
                found.push(take(lists, &UInt32Array::from(here), None)?);
            }
            first = u32::try_from(batch.num_rows())?
                .checked_add(first)
                .ok_or_else(|| ParquetError::General("a file has more rows than can be numbered".to_owned()))?;
        }
        let Some(item_type) = item_type else { return Ok(Self::Many) };
        let items = match found.is_empty() {
            true => new_empty_array(&item_type),
            false => concat(&found.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
        };
        let few = Self::Few(rows, items.as_list().clone());
        Ok(if few.memory_size() > KEPT_BYTES_MAX { Self::Many } else { few })
    }
}

/// The lists of rows with these numbers.
fn lists_of_rows(few: &[u32], items: &ListArray, numbers: &[i64]) -> Result<ListArray> {
    let DataType::List(element) = items.data_type() else { return exec_err!("a list has the type of none") };
    if let (Some(first), Some(last)) = (numbers.first(), numbers.last())
        && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
    {
        // All rows from one to another, mostly without items.
        let from = few.partition_point(|row| i64::from(*row) < *first);
        let to = from + few[from..].partition_point(|row| i64::from(*row) <= *last);
        let found = items.slice(from, to - from);
        let mut lengths = vec![0; numbers.len()];
        for (at, row) in few[from..to].iter().enumerate() {
            lengths[(i64::from(*row) - first) as usize] = found.value_length(at) as usize;
        }
        let (start, end) = (found.value_offsets()[0] as usize, found.value_offsets()[to - from] as usize);
        let values = items.values().slice(start, end - start);
        return Ok(ListArray::try_new(Arc::clone(element), OffsetBuffer::from_lengths(lengths), values, None)?);
    }
    let mut wanted = Vec::new();
    let (mut lengths, mut at, mut last) = (Vec::with_capacity(numbers.len()), 0, i64::MAX);
    for number in numbers {
        // Rows come in order, but for where another row group starts.
        let from = if *number < last { 0 } else { at };
        let is_before = |row: &u32| i64::from(*row) < *number;
        at = match few.get(from).is_some_and(is_before) {
            true => from + few[from..].partition_point(is_before),
            false => from,
        };
        last = *number;
        let found = few.get(at).is_some_and(|row| i64::from(*row) == *number);
        lengths.push(if found { items.value_length(at) as usize } else { 0 });
        if found {
            wanted.push(at as u32);
        }
    }
    let values = take(items, &UInt32Array::from(wanted), None)?;
    let values = Arc::clone(values.as_list::<i32>().values());
    Ok(ListArray::try_new(Arc::clone(element), OffsetBuffer::from_lengths(lengths), values, None)?)
}

/// A call on a list, and the number of the row in its file, by which a file that keeps the list finds it.
#[derive(Debug)]
pub(crate) struct ItemsOfRow {
    pub(crate) call: Arc<dyn PhysicalExpr>,
    pub(crate) row: Arc<dyn PhysicalExpr>,
}

impl PartialEq for ItemsOfRow {
    fn eq(&self, other: &Self) -> bool {
        self.call.as_ref() == other.call.as_ref() && self.row.as_ref() == other.row.as_ref()
    }
}

impl Eq for ItemsOfRow {}

impl Hash for ItemsOfRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call.hash(state);
        self.row.hash(state);
    }
}

impl fmt::Display for ItemsOfRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

impl PhysicalExpr for ItemsOfRow {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.call.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.call.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.call.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.call.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.call, &self.row]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 2]>::try_from(children) {
            Ok([call, row]) => Ok(Arc::new(Self { call, row })),
            Err(_) => exec_err!("the items of a row are a call and the row"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt_sql(f)
    }
}

/// The list of each row, by its number.
#[derive(Debug)]
pub(crate) struct KeptList {
    pub(crate) items: Arc<SparseItems>,
    pub(crate) row: Arc<dyn PhysicalExpr>,
}

impl PartialEq for KeptList {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.items, &other.items) && self.row.as_ref() == other.row.as_ref()
    }
}

impl Eq for KeptList {}

impl Hash for KeptList {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.row.hash(state);
    }
}

impl fmt::Display for KeptList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kept_list({})", self.row)
    }
}

impl PhysicalExpr for KeptList {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        match self.items.as_ref() {
            SparseItems::Few(_, items) => Ok(items.data_type().clone()),
            SparseItems::Many => exec_err!("too many items are kept nowhere"),
        }
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let SparseItems::Few(few, items) = self.items.as_ref() else {
            return exec_err!("too many items are kept nowhere");
        };
        let numbers = self.row.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(numbers) = numbers.as_primitive_opt::<Int64Type>() else {
            return exec_err!("the number of a row has the type {}", numbers.data_type());
        };
        Ok(ColumnarValue::Array(Arc::new(lists_of_rows(few, items, numbers.values())?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.row]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(row), true) => Ok(Arc::new(Self { items: Arc::clone(&self.items), row })),
            _ => exec_err!("a kept list is found by one number"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kept_list({})", self.row)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::Int64Builder, array::ListBuilder};

    use super::*;

    #[test]
    fn rows_find_their_items_in_whatever_order_row_groups_come() {
        let mut items = ListBuilder::new(Int64Builder::new());
        items.append_value([Some(1)]);
        items.append_value([Some(2), Some(3)]);
        items.append_value([Some(4)]);
        let (few, items) = (vec![2, 5, 900], items.finish());
        let lists = |numbers: &[i64]| {
            let lists = lists_of_rows(&few, &items, numbers).unwrap();
            let list = |row| lists.value(row).as_primitive::<Int64Type>().values().to_vec();
            (0..lists.len()).map(list).collect::<Vec<_>>()
        };
        assert_eq!(lists(&[0, 1, 2, 3, 4, 5]), [vec![], vec![], vec![1], vec![], vec![], vec![2, 3]]);
        assert_eq!(lists(&[900, 901, 2, 4, 5]), [vec![4], vec![], vec![1], vec![], vec![2, 3]]);
        assert_eq!(lists(&[6, 1_000, 5_000_000_000]), vec![Vec::<i64>::new(); 3]);
        assert!(lists(&[]).is_empty());
    }
}
