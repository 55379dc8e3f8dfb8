//! The different values of a column of a file, out of its dictionaries.
//!
//! A column chunk whose data pages are all dictionary-encoded begins with a page that has every value of it once:
//!
//! ```text
//!  row group 1: | dictionary: a b c | data: 0 0 1 2 0 .. | data .. |
//!  row group 2: | dictionary: b d   | data: 1 1 0 ..     |
//!                 ^^^^^^^^^^^^^^^^^ all that is read
//! ```
//!
//! Our own writer puts no value into a dictionary that no row has, so these are the values of the column, exactly. A chunk
//! that ran out of room for its dictionary, as one with mostly different values does, tells nothing.

use std::{ops::Range, sync::Arc};

use bytes::{Buf, Bytes};
use datafusion::{
    common::Result,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
    object_store::{ObjectStore, ObjectStoreExt},
};
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData},
        serialized_reader::SerializedPageReader,
    },
};

use crate::storage::{chunks::Chunk, footer::read_metadata, scan::ScanFile};

/// Largest dictionary that is read, in bytes of the file.
const DICTIONARY_BYTES_MAX: u64 = 8 << 20;

/// A value in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredValue {
    /// Text.
    Text(String),
    /// An integer.
    Int(i64),
    /// A double.
    Float(f64),
    /// True or false, which no dictionary has.
    Bool(bool),
    /// An array, a map or bytes, as JSON.
    Nested(String),
}

/// Values that were found in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredValues {
    /// Those of all row groups; one that several have is there several times.
    pub values: Vec<StoredValue>,
    /// Bytes that were read of the file.
    pub read_bytes: u64,
}

/// The values of the column of this path, read by way of `objects`, or of the runtime's store; `None` if dictionaries do not
/// tell all of them.
///
/// # Errors
/// The file cannot be read.
pub async fn dictionary_values(
    runtime: &RuntimeEnv,
    store: &ObjectStoreUrl,
    objects: Option<&Arc<dyn ObjectStore>>,
    file: &ScanFile,
    path: &[&str],
) -> Result<Option<StoredValues>> {
    let objects = match objects {
        Some(objects) => Arc::clone(objects),
        None => runtime.object_store(store)?,
    };
    let metadata = read_metadata(runtime, store, file).await?;
    let Some(chunks) = chunks(&metadata, path) else { return Ok(None) };
    let mut found = StoredValues::default();
    for (chunk, bytes) in chunks {
        let read = objects.get_range(&file.path, bytes.clone()).await?;
        found.read_bytes += read.len() as u64;
        let Some(values) = dictionary_of(chunk, Chunk { start: bytes.start, bytes: read })? else { return Ok(None) };
        found.values.extend(values);
    }
    Ok(Some(found))
}

/// Whether all values of a top-level column are codes of dictionaries.
pub(crate) fn is_all_codes(metadata: &ParquetMetaData, column: &str) -> bool {
    let schema = metadata.file_metadata().schema_descr();
    let Some(index) = schema.columns().iter().position(|descriptor| descriptor.path().parts() == [column]) else {
        return false;
    };
    let is_coded = |chunk: &ColumnChunkMetaData| has_codes_only(chunk) || is_all_null(chunk);
    metadata.row_groups().iter().all(|group| group.columns().get(index).is_some_and(is_coded))
}

fn is_all_null(chunk: &ColumnChunkMetaData) -> bool {
    let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
    nulls.is_some_and(|nulls| u64::try_from(chunk.num_values()) == Ok(nulls))
}

type Place<'a> = (&'a ColumnChunkMetaData, Range<u64>);

/// The chunks of the column that have values, and where their dictionaries are; nothing if one of them has none.
fn chunks<'a>(metadata: &'a ParquetMetaData, path: &[&str]) -> Option<Vec<Place<'a>>> {
    let schema = metadata.file_metadata().schema_descr();
    let index = schema.columns().iter().position(|descriptor| descriptor.path().parts() == path)?;
    let mut places = Vec::new();
    for group in metadata.row_groups() {
        let chunk = group.columns().get(index)?;
        if is_all_null(chunk) {
            continue;
        }
        places.push((chunk, dictionary_range(chunk)?));
    }
    Some(places)
}

/// Where the dictionary of a chunk is, if it has all values of the chunk and is not too large.
pub(super) fn dictionary_range(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let from = u64::try_from(chunk.dictionary_page_offset().filter(|_| has_codes_only(chunk))?).ok()?;
    let to = u64::try_from(chunk.data_page_offset()).ok()?;
    to.checked_sub(from).is_some_and(|bytes| bytes <= DICTIONARY_BYTES_MAX).then_some(from..to)
}

fn has_codes_only(chunk: &ColumnChunkMetaData) -> bool {
    chunk
        .page_encoding_stats_mask()
        .is_some_and(|mask| mask.is_only(Encoding::PLAIN_DICTIONARY) || mask.is_only(Encoding::RLE_DICTIONARY))
}

/// The values of the dictionary of a chunk, which `bytes` begin with.
pub(super) fn dictionary_of(chunk: &ColumnChunkMetaData, bytes: Chunk) -> Result<Option<Vec<StoredValue>>> {
    let mut pages = SerializedPageReader::new(Arc::new(bytes), chunk, 0, None)?;
    let Some(Page::DictionaryPage { buf, num_values, encoding, .. }) = pages.get_next_page()? else {
        return Ok(None);
    };
    // Both names stand for plain values in a dictionary.
    if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
        return Ok(None);
    }
    Ok(plain_values(chunk.column_type(), buf, num_values as usize))
}

/// Values one after the other; nothing if they are of another type, or not all there.
fn plain_values(of_type: Type, mut buf: Bytes, count: usize) -> Option<Vec<StoredValue>> {
    let mut values = Vec::with_capacity(count.min(buf.len()));
    for _ in 0..count {
        values.push(match of_type {
            Type::INT64 => StoredValue::Int(buf.try_get_i64_le().ok()?),
            Type::DOUBLE => StoredValue::Float(buf.try_get_f64_le().ok()?),
            Type::BYTE_ARRAY => {
                let length = usize::try_from(buf.try_get_u32_le().ok()?).ok()?;
                if length > buf.len() {
                    return None;
                }
                StoredValue::Text(String::from_utf8(buf.split_to(length).to_vec()).ok()?)
            }
            _ => return None,
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_are_read_and_torn_ones_refused() {
        let text = [&3_u32.to_le_bytes()[..], b"abc", &0_u32.to_le_bytes()].concat();
        let texts = plain_values(Type::BYTE_ARRAY, Bytes::from(text.clone()), 2);
        let text_of = |text: &str| StoredValue::Text(text.to_owned());
        assert_eq!(texts, Some(vec![text_of("abc"), text_of("")]));
        assert_eq!(plain_values(Type::BYTE_ARRAY, Bytes::from(text[..6].to_vec()), 1), None);
        assert_eq!(plain_values(Type::BYTE_ARRAY, Bytes::from(text), 3), None);
        let ints = plain_values(Type::INT64, Bytes::from(7_i64.to_le_bytes().to_vec()), 1);
        assert_eq!(ints, Some(vec![StoredValue::Int(7)]));
        assert_eq!(plain_values(Type::BOOLEAN, Bytes::from_static(&[1]), 1), None);
    }
}
