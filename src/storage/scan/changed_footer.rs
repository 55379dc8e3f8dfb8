//! Footers that are changed after they are read, so that a file is decoded in another form than it is stored in.
//!
//! What the reader decodes of a file, and into which Arrow types, is said by its footer. The footers as they are changed are
//! kept beside the ones that were read, in the same cache and under the same limit, by another name.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::{
    datasource::physical_plan::parquet::CachedParquetMetaData,
    execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache},
    object_store::{ObjectMeta, path::Path},
};
use parquet::{
    arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema},
    basic::ColumnOrder,
    errors::Result,
    file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder},
    schema::types::SchemaDescPtr,
};

use crate::storage::footer::{KEYS_METADATA, entry_of_schema};

/// Name of the entry that says of which file a footer is.
const FILE_METADATA: &str = "tracehouse.file";

/// The file that a schema is of, where its rows are numbered.
pub(crate) fn file_of_schema(schema: &Schema) -> Option<Path> {
    Path::parse(entry_of_schema(schema, FILE_METADATA)?).ok()
}

/// The footer of a file as it was changed in this way, if it is kept.
pub(crate) fn kept(cache: &Arc<FileMetadataCache>, file: &ObjectMeta, change: &str) -> Option<Arc<ParquetMetaData>> {
    let entry = cache.get(&changed_name(file, change))?;
    let metadata = entry.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?;
    Some(Arc::clone(metadata.parquet_metadata()))
}

/// Keeps the changed footer of a file.
pub(crate) fn keep(
    cache: &Arc<FileMetadataCache>,
    file: &ObjectMeta,
    change: &str,
    changed: ParquetMetaData,
) -> Arc<ParquetMetaData> {
    let changed = Arc::new(changed);
    let entry = CachedFileMetadataEntry::new(file.clone(), Arc::new(CachedParquetMetaData::new(Arc::clone(&changed))));
    cache.put(&changed_name(file, change), entry);
    changed
}

/// The name under which it is kept.
pub(crate) fn changed_name(file: &ObjectMeta, change: &str) -> Path {
    // No file of a table is in a folder that is named like a file.
    file.location.clone().join(change)
}

/// The beginning of a footer for another Arrow schema, of which the fields count, and for these columns: it has no row groups
/// and no indexes yet.
pub(crate) fn begun(
    footer: &FileMetaData,
    schema: &Schema,
    columns: SchemaDescPtr,
    orders: Option<Vec<ColumnOrder>>,
) -> ParquetMetaDataBuilder {
    // The rest of the footer's entries is metadata of the schema already.
    let encoded = encode_arrow_schema(schema);
    let mut entries = footer.key_value_metadata().cloned().unwrap_or_default();
    entries.retain(|entry| entry.key != ARROW_SCHEMA_META_KEY);
    entries.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encoded));
    let created_by = footer.created_by().map(str::to_owned);
    let footer = FileMetaData::new(footer.version(), footer.num_rows(), created_by, Some(entries), columns, orders);
    ParquetMetaDataBuilder::new(footer)
}

/// The footer for another Arrow schema of the same columns, of which the fields count.
pub(crate) fn with_schema(metadata: ParquetMetaData, schema: &Schema) -> ParquetMetaData {
    let footer = metadata.file_metadata();
    let changed = begun(footer, schema, footer.schema_descr_ptr(), footer.column_orders().cloned());
    let mut rest = metadata.into_builder();
    changed
        .set_row_groups(rest.take_row_groups())
        .set_column_index(rest.take_column_index())
        .set_offset_index(rest.take_offset_index())
        .build()
}

/// The footer for a scan that reads the numbers of rows: row groups say which they are, and a field has the list of attributes
/// and the name of the file, since the schema that adapters get then has the file's fields, and not its metadata.
pub(crate) fn numbered(metadata: ParquetMetaData, file: &Path) -> Result<ParquetMetaData> {
    let footer = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
    let keys = schema.metadata().get_key_value(KEYS_METADATA);
    let keys = keys.map(|(name, keys)| (name.clone(), keys.clone()));
    let file = (FILE_METADATA.to_owned(), file.to_string());
    let mut fields: Vec<FieldRef> = schema.fields().to_vec();
    if let Some(first) = fields.first_mut() {
        *first = Arc::new(first.as_ref().clone().with_metadata(keys.into_iter().chain([file]).collect()));
    }
    let mut changed = with_schema(metadata, &Schema::new(fields)).into_builder();
    let groups = changed.take_row_groups().into_iter().enumerate();
    let groups = groups.map(|(index, group)| group.into_builder().set_ordinal(i16::try_from(index)?).build());
    Ok(changed.set_row_groups(groups.collect::<Result<_>>()?).build())
}
