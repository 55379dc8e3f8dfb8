//! Rows of a column by their places: what sorting, filtering and joining resources to spans come down to.
//!
//! Rows of one array are taken, rows of several are interleaved. Arrow's `take` copies lists and maps row by row through type-erased closures, which for maps of attributes costs more than
//! all other columns together. Here the places of a list's elements are counted out first, and each column of the
//! elements is then taken at once.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, MapArray, StringArray, StringBuilder, StructArray,
        UInt32Array,
    },
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    compute::{interleave, take},
    datatypes::DataType,
    error::ArrowError,
};

/// Where a row is: the number of an array or batch, and the row in it.
pub(crate) type Place = (usize, usize);

/// The texts of `arrays` at `places`, in that order. An array that is not there is NULL in all of its rows.
///
/// As `interleave`, but in one walk over the places and not three, and most of them are NULL where an attribute is rare.
pub(crate) fn gather_texts(arrays: &[Option<&StringArray>], places: &[Place]) -> StringArray {
    let (rows, bytes) = arrays
        .iter()
        .flatten()
        .fold((0, 0), |(rows, bytes), texts| (rows + texts.len(), bytes + texts.value_data().len()));
    // The share of the places among all rows, should they be fewer.
    let bytes = if places.len() < rows { bytes / rows * places.len() } else { bytes };
    let mut gathered = StringBuilder::with_capacity(places.len(), bytes);
    let mut missing = 0;
    for (array, row) in places {
        match arrays[*array] {
            Some(texts) if texts.is_valid(*row) => {
                if missing > 0 {
                    gathered.append_nulls(missing);
                    missing = 0;
                }
                gathered.append_value(texts.value(*row));
            }
            _ => missing += 1,
        }
    }
    gathered.append_nulls(missing);
    gathered.finish()
}

/// The values of `arrays` at `places`, in that order. As `interleave`, but fast for ids. There is at least one array.
pub(crate) fn gather_of_many(arrays: &[&dyn Array], places: &[Place]) -> Result<ArrayRef, ArrowError> {
    let Some(DataType::FixedSizeBinary(width)) = arrays.first().map(|first| first.data_type()) else {
        return interleave(arrays, places);
    };
    let ids: Vec<&FixedSizeBinaryArray> = arrays
        .iter()
        .map(|array| array.as_fixed_size_binary_opt().filter(|ids| ids.value_length() == *width))
        .collect::<Option<_>>()
        .ok_or_else(|| ArrowError::InvalidArgumentError("arrays of ids with other arrays".to_owned()))?;
    let mut bytes = Vec::with_capacity(places.len() * width.unsigned_abs() as usize);
    places.iter().for_each(|(array, row)| bytes.extend_from_slice(ids[*array].value(*row)));
    let has_nulls = ids.iter().any(|ids| ids.null_count() > 0);
    let nulls = has_nulls.then(|| places.iter().map(|(array, row)| ids[*array].is_valid(*row)).collect());
    Ok(Arc::new(FixedSizeBinaryArray::try_new(*width, Buffer::from_vec(bytes), nulls)?))
}

/// The values of `values` in `rows`, in that order. As `take`, but fast for lists and maps.
pub(crate) fn gather(values: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, ArrowError> {
    if rows.null_count() > 0 {
        return take(values, rows, None);
    }
    Ok(match values.data_type() {
        DataType::List(field) => {
            let list = values.as_list::<i32>();
            let nulls = gather_nulls(list.nulls(), rows);
            let (offsets, elements) = elements(list.value_offsets(), list.nulls(), rows)?;
            Arc::new(ListArray::try_new(Arc::clone(field), offsets, gather(list.values(), &elements)?, nulls)?)
        }
        DataType::Map(field, is_sorted) => {
            let map = values.as_map();
            let nulls = gather_nulls(map.nulls(), rows);
            let (offsets, elements) = elements(map.value_offsets(), map.nulls(), rows)?;
            let entries = gather_struct(map.entries(), &elements)?;
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *is_sorted)?)
        }
        DataType::Struct(_) => Arc::new(gather_struct(values.as_struct(), rows)?),
        _ => return take(values, rows, None),
    })
}

fn gather_struct(values: &StructArray, rows: &UInt32Array) -> Result<StructArray, ArrowError> {
    let columns = values.columns().iter().map(|column| gather(column, rows)).collect::<Result<Vec<_>, _>>()?;
    let nulls = gather_nulls(values.nulls(), rows);
    StructArray::try_new_with_length(values.fields().clone(), columns, nulls, rows.len())
}

fn gather_nulls(nulls: Option<&NullBuffer>, rows: &UInt32Array) -> Option<NullBuffer> {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0)?;
    Some(rows.values().iter().map(|row| nulls.is_valid(*row as usize)).collect::<Vec<bool>>().into())
}

/// Where the gathered lists begin and end, and the places of their elements. A list that is NULL has none.
fn elements(
    offsets: &[i32],
    nulls: Option<&NullBuffer>,
    rows: &UInt32Array,
) -> Result<(OffsetBuffer<i32>, UInt32Array), ArrowError> {
    let range = |row: u32| -> Range<u32> {
        let row = row as usize;
        match nulls.is_some_and(|nulls| nulls.is_null(row)) {
            true => 0..0,
            false => offsets[row].cast_unsigned()..offsets[row + 1].cast_unsigned(),
        }
    };
    let count: usize = rows.values().iter().map(|row| range(*row).len()).sum();
    if i32::try_from(count).is_err() {
        let message = format!("{count} elements of lists, above the limit of {} in an array", i32::MAX);
        return Err(ArrowError::InvalidArgumentError(message));
    }
    let mut ends = Vec::with_capacity(rows.len() + 1);
    let mut places = Vec::with_capacity(count);
    ends.push(0);
    for row in rows.values() {
        places.extend(range(*row));
        ends.push(places.len() as i32);
    }
    Ok((OffsetBuffer::new(ends.into()), UInt32Array::from(places)))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int64Builder, ListBuilder, MapBuilder, StringArray, StringBuilder},
        datatypes::{Field, Fields},
    };
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    type Row = Option<Vec<(String, Option<i64>)>>;

    fn map_of(rows: &[Row]) -> ArrayRef {
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for row in rows {
            for (key, value) in row.iter().flatten() {
                map.keys().append_value(key);
                map.values().append_option(*value);
            }
            map.append(row.is_some()).unwrap();
        }
        Arc::new(map.finish())
    }

    fn list_of(rows: &[Row]) -> ArrayRef {
        let mut list = ListBuilder::new(Int64Builder::new());
        for row in rows {
            for (_, value) in row.iter().flatten() {
                list.values().append_option(*value);
            }
            list.append(row.is_some());
        }
        Arc::new(list.finish())
    }

    fn struct_of(rows: &[Row]) -> ArrayRef {
        let texts: StringArray = rows.iter().map(|row| row.as_ref().map(|row| format!("{}", row.len()))).collect();
        let (map, list) = (map_of(rows), list_of(rows));
        let fields = Fields::from(vec![
            Field::new("map", map.data_type().clone(), true),
            Field::new("list", list.data_type().clone(), true),
            Field::new("text", DataType::Utf8, true),
        ]);
        let nulls = rows.iter().map(|row| row.as_ref().is_none_or(|row| row.len() != 1)).collect::<Vec<bool>>().into();
        Arc::new(StructArray::new(fields, vec![map, list, Arc::new(texts)], Some(nulls)))
    }

    proptest! {
        #[test]
        fn ids_of_several_arrays_are_interleaved(
            rows in vec(vec(option::of(any::<[u8; 8]>()), 1..6), 1..4),
            places in vec(any::<(proptest::sample::Index, proptest::sample::Index)>(), 0..20),
        ) {
            let arrays: Vec<FixedSizeBinaryArray> = rows
                .iter()
                .map(|rows| FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.iter().copied(), 8).unwrap())
                .collect();
            let arrays: Vec<&dyn Array> = arrays.iter().map(|ids| ids as &dyn Array).collect();
            let place = |(array, row): (proptest::sample::Index, proptest::sample::Index)| {
                let array = array.index(arrays.len());
                (array, row.index(arrays[array].len()))
            };
            let places: Vec<Place> = places.into_iter().map(place).collect();
            let expected = interleave(&arrays, &places).unwrap();
            prop_assert_eq!(&gather_of_many(&arrays, &places).unwrap(), &expected);
        }

        #[test]
        fn it_gives_what_take_gives(
            rows in vec(option::weighted(0.8, vec((".{0,3}", option::of(any::<i64>())), 0..4)), 1..12),
            places in vec(any::<proptest::sample::Index>(), 0..20),
            skipped in 0..4_usize,
        ) {
            for whole in [map_of(&rows), list_of(&rows), struct_of(&rows)] {
                // Also of arrays that begin inside of others.
                let skipped = skipped.min(rows.len() - 1);
                let values = whole.slice(skipped, rows.len() - skipped);
                let places: UInt32Array = places.iter().map(|place| Some(place.index(values.len()) as u32)).collect();
                let expected = take(&values, &places, None).unwrap();
                prop_assert_eq!(&gather(&values, &places).unwrap(), &expected);
            }
        }
    }
}
