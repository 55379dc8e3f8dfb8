//! Reading text as the dictionary and the codes that a file holds.
//!
//! Which Arrow type the reader makes of a column is said by the schema in the file's footer, and there it is plain text. For
//! scans that gain by it, the footer is changed after it is read: columns of which every page has codes become dictionaries.
//! The changed footers are kept beside the ones that are read, in the same cache and under the same limit, by another name.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::{
    datasource::physical_plan::parquet::CachedParquetMetaData,
    execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache},
    object_store::{ObjectMeta, path::Path},
};
use parquet::{
    arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema},
    errors::Result,
    file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder},
};

use crate::{functions::coded_text_type, storage::dictionary};

/// The type that the values of a column have, in codes or not.
pub(crate) fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// The changed footer of a file, if it is kept.
pub(crate) fn kept(cache: &Arc<FileMetadataCache>, file: &ObjectMeta) -> Option<Arc<ParquetMetaData>> {
    let entry = cache.get(&changed_name(file))?;
    let metadata = entry.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?;
    Some(Arc::clone(metadata.parquet_metadata()))
}

/// Changes the footer of a file and keeps it.
pub(crate) fn keep(
    cache: &Arc<FileMetadataCache>,
    file: &ObjectMeta,
    metadata: &ParquetMetaData,
) -> Result<Arc<ParquetMetaData>> {
    let changed = Arc::new(with_codes(metadata)?);
    let entry = CachedFileMetadataEntry::new(file.clone(), Arc::new(CachedParquetMetaData::new(Arc::clone(&changed))));
    cache.put(&changed_name(file), entry);
    Ok(changed)
}

fn changed_name(file: &ObjectMeta) -> Path {
    // No file of a table is in a folder that is named like a file.
    file.location.clone().join("coded-text")
}

fn with_codes(metadata: &ParquetMetaData) -> Result<ParquetMetaData> {
    let footer = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
    let fields: Vec<Arc<Field>> = schema
        .fields()
        .iter()
        .map(|field| match *field.data_type() == DataType::Utf8 && dictionary::is_all_codes(metadata, field.name()) {
            true => Arc::new(field.as_ref().clone().with_data_type(coded_text_type())),
            false => Arc::clone(field),
        })
        .collect();
    // The rest of the footer's entries is metadata of the schema already.
    let encoded = encode_arrow_schema(&Schema::new(fields));
    let mut entries = footer.key_value_metadata().cloned().unwrap_or_default();
    entries.retain(|entry| entry.key != ARROW_SCHEMA_META_KEY);
    entries.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encoded));
    let footer = FileMetaData::new(
        footer.version(),
        footer.num_rows(),
        footer.created_by().map(str::to_owned),
        Some(entries),
        footer.schema_descr_ptr(),
        footer.column_orders().cloned(),
    );
    Ok(ParquetMetaDataBuilder::new(footer)
        .set_row_groups(metadata.row_groups().to_vec())
        .set_column_index(metadata.column_index().cloned())
        .set_offset_index(metadata.offset_index().cloned())
        .build())
}
