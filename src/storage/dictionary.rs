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

use datafusion::{
    common::Result,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
    object_store::ObjectStore,
};
use parquet::{
    basic::{Encoding, Type},
    file::metadata::{ColumnChunkMetaData, ParquetMetaData},
};

use crate::storage::{
    chunks::Chunk,
    dictionary_page::{CodedValue, CodedValues},
    footer::read_metadata,
    pages::{Decompressor, Pages},
    scan::ScanFile,
};

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

impl From<CodedValue<'_>> for StoredValue {
    fn from(value: CodedValue<'_>) -> Self {
        match value {
            CodedValue::Text(text) => Self::Text(text.to_owned()),
            CodedValue::Int(int) => Self::Int(int),
            CodedValue::Float(float) => Self::Float(float),
        }
    }
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
    for (chunk, place) in chunks {
        let read = Chunk::fetch(&objects, &file.path, place).await?;
        found.read_bytes += read.bytes.len() as u64;
        let Some(values) = dictionary_of(chunk, read)? else { return Ok(None) };
        for value in values.iter() {
            found.values.push(value?.into());
        }
    }
    Ok(Some(found))
}

/// Whether all values of a top-level column are codes of dictionaries.
pub(crate) fn is_all_codes(metadata: &ParquetMetaData, column: &str) -> bool {
    leaf_of_codes(metadata, &[column]).is_some()
}

/// The column of this path, if all of its values are codes of dictionaries, or bits of booleans.
pub(crate) fn leaf_of_codes(metadata: &ParquetMetaData, path: &[&str]) -> Option<usize> {
    let schema = metadata.file_metadata().schema_descr();
    let leaf = schema.columns().iter().position(|descriptor| descriptor.path().parts() == path)?;
    let is_bits = |chunk: &ColumnChunkMetaData| {
        chunk.column_type() == Type::BOOLEAN
            && chunk.page_encoding_stats_mask().is_some_and(|mask| mask.is_only(Encoding::PLAIN))
    };
    let is_coded = |chunk: &ColumnChunkMetaData| has_codes_only(chunk) || is_all_null(chunk) || is_bits(chunk);
    metadata.row_groups().iter().all(|group| group.columns().get(leaf).is_some_and(is_coded)).then_some(leaf)
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

/// The values of the dictionary that a chunk, which `bytes` begin with, begins with; `None` if there is none.
///
/// # Errors
/// It cannot be read.
pub(super) fn dictionary_of(chunk: &ColumnChunkMetaData, bytes: Chunk) -> Result<Option<CodedValues>> {
    Ok(CodedValues::read(chunk, &mut Pages::of(chunk, bytes, 0)?, &mut Decompressor::default())?)
}
