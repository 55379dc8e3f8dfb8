//! Reading entries of an attribute map without copying them.

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, MapArray, StringArray, StructArray, UInt32Array},
    buffer::NullBuffer,
};
use datafusion::common::{Result, exec_err};

use crate::model::attributes::is_attribute_map;

/// An attribute map, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries<'a> {
    map: &'a MapArray,
    /// The keys of all rows.
    pub(crate) keys: &'a StringArray,
    /// The values of all rows.
    pub(crate) values: &'a StructArray,
}

impl<'a> Entries<'a> {
    pub(crate) fn try_new(array: &'a ArrayRef) -> Result<Self> {
        if !is_attribute_map(array.data_type()) {
            return exec_err!("expected an attribute map, got {}", array.data_type());
        }
        let map = array.as_map();
        Ok(Self { map, keys: map.keys().as_string(), values: map.values().as_struct() })
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.map.len()
    }

    /// Start of each row's entries, and the end of the last one's.
    pub(crate) fn offsets(&self) -> &'a [i32] {
        self.map.value_offsets()
    }

    pub(crate) fn nulls(&self) -> Option<&'a NullBuffer> {
        self.map.nulls()
    }

    /// For each row the entry that holds `key`, NULL where there is none.
    pub(crate) fn positions(&self, key: &str) -> UInt32Array {
        self.positions_by(|_| Some(key))
    }

    /// For each row the entry that holds this row's key, NULL where there is none.
    pub(crate) fn positions_by<'k>(&self, key_of_row: impl Fn(usize) -> Option<&'k str>) -> UInt32Array {
        let key_offsets = self.keys.value_offsets();
        let key_bytes = self.keys.value_data();
        let find = |row: usize| {
            let key = key_of_row(row)?.as_bytes();
            if self.map.is_null(row) {
                return None;
            }
            let entries = self.offsets()[row] as usize..self.offsets()[row + 1] as usize;
            entries.into_iter().find(|entry| {
                let (start, end) = (key_offsets[*entry] as usize, key_offsets[entry + 1] as usize);
                end - start == key.len() && &key_bytes[start..end] == key
            })
        };
        (0..self.num_rows()).map(|row| find(row).map(|entry| entry as u32)).collect()
    }

    /// Whether `positions` found an entry; NULL where the map is NULL.
    pub(crate) fn found(&self, positions: &UInt32Array) -> BooleanArray {
        let found = match positions.nulls() {
            Some(nulls) => nulls.inner().clone(),
            None => arrow::buffer::BooleanBuffer::new_set(positions.len()),
        };
        BooleanArray::new(found, self.nulls().cloned())
    }
}
