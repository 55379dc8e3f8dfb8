//! What the footer of a file says besides Parquet's own metadata.
//!
//! ```text
//! tracehouse.version  the number of the layout, writer::FORMAT_VERSION
//! tracehouse.sort     order::SORT_ORDER
//! tracehouse.keys     which attributes are in the file: model::keys
//! ```

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::{
    common::Result,
    datasource::physical_plan::parquet::metadata::DFParquetMetadata,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
};
use parquet::file::metadata::ParquetMetaData;

use crate::{
    model::keys::AttributeKeys,
    storage::scan::{FOOTER_BYTES_GUESS, ScanFile},
};

/// The footer key of the layout's number.
pub const VERSION_METADATA: &str = "tracehouse.version";

/// The footer key of the sort order.
pub const SORT_METADATA: &str = "tracehouse.sort";

/// The footer key of the list of attributes.
pub const KEYS_METADATA: &str = "tracehouse.keys";

/// The attributes in the file with this footer; `None` if it does not say.
pub fn keys_of(metadata: &ParquetMetaData) -> Option<AttributeKeys> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let json = entries.iter().find(|entry| entry.key == KEYS_METADATA)?.value.as_deref()?;
    AttributeKeys::from_json(json)
}

/// The same, from the schema of the file.
pub(crate) fn keys_of_schema(schema: &Schema) -> Option<AttributeKeys> {
    AttributeKeys::from_json(entry_of_schema(schema, KEYS_METADATA)?)
}

/// An entry of a footer, from the schema of the file, whose metadata is that of the footer. Where a scan has added the number of the
/// row to the schema, it has lost that, and a field has kept it.
pub(crate) fn entry_of_schema<'a>(schema: &'a Schema, key: &str) -> Option<&'a String> {
    let of_field = || schema.fields().iter().find_map(|field| field.metadata().get(key));
    schema.metadata().get(key).or_else(of_field)
}

/// The attributes in a file.
pub async fn read_keys(runtime: &RuntimeEnv, store: &ObjectStoreUrl, file: &ScanFile) -> Result<Option<AttributeKeys>> {
    Ok(keys_of(read_metadata(runtime, store, file).await?.as_ref()))
}

/// The footer of a file. Footers are kept in the runtime's cache, so only the first look reads the file.
pub async fn read_metadata(
    runtime: &RuntimeEnv,
    store: &ObjectStoreUrl,
    file: &ScanFile,
) -> Result<Arc<ParquetMetaData>> {
    let store = runtime.object_store(store)?;
    let meta = file.object_meta();
    DFParquetMetadata::new(store.as_ref(), &meta)
        .with_metadata_size_hint(Some(FOOTER_BYTES_GUESS))
        .with_file_metadata_cache(Some(runtime.cache_manager.get_file_metadata_cache()))
        .fetch_metadata()
        .await
}
