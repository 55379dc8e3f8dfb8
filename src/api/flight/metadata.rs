//! Catalogues, schemas, tables and keys, as drivers and their tools browse them.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tonic::Status;

use crate::{
    api::flight::status,
    model::tenant::TenantId,
    query::{NamedTable, QueryEngine},
};

/// The type that all tables are announced with, views included: tools that list tables ask for it.
const TABLE_TYPE: &str = "TABLE";
/// What clients call it, in lower case.
const TABLE_TYPE_NAMES: &[&str] = &["table", "base table", "view"];

fn failed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The one catalogue.
pub(super) fn catalogs(engine: &QueryEngine, query: CommandGetCatalogs) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    builder.append(engine.namespace().0);
    builder.build().map_err(failed)
}

/// The schemas that there are tables in.
pub(super) async fn schemas(engine: &QueryEngine, query: CommandGetDbSchemas) -> Result<RecordBatch, Status> {
    let (catalog, _) = engine.namespace();
    let tables = engine.tables(&TenantId::single()).await.map_err(|error| status(&error))?;
    let names: BTreeSet<String> = tables.into_iter().map(|table| table.schema).collect();
    let mut builder = query.into_builder();
    for name in names {
        builder.append(catalog, name);
    }
    builder.build().map_err(failed)
}

/// The schema of [`schemas`].
pub(super) fn schemas_schema(query: CommandGetDbSchemas) -> SchemaRef {
    query.into_builder().schema()
}

/// The tables whose names match the patterns.
pub(super) async fn tables(engine: &QueryEngine, mut query: CommandGetTables) -> Result<RecordBatch, Status> {
    // The builder compares types exactly; tools write them in any case and by several names.
    let wanted = std::mem::take(&mut query.table_types);
    let any = wanted.is_empty() || wanted.iter().any(|name| TABLE_TYPE_NAMES.contains(&name.to_lowercase().as_str()));
    let (catalog, _) = engine.namespace();
    let mut builder = query.into_builder();
    if any {
        let tables = engine.tables(&TenantId::single()).await.map_err(|error| status(&error))?;
        for NamedTable { schema, name, columns } in tables {
            builder.append(catalog, schema, name, TABLE_TYPE, &columns).map_err(failed)?;
        }
    }
    builder.build().map_err(failed)
}

/// The schema of [`tables`].
pub(super) fn tables_schema(query: CommandGetTables) -> SchemaRef {
    query.into_builder().schema()
}

/// The one table type.
pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    builder.append(TABLE_TYPE);
    builder.build().map_err(failed)
}

/// No table has a primary key.
pub(super) fn primary_keys() -> RecordBatch {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("catalog_name", DataType::Utf8, true),
            Field::new("db_schema_name", DataType::Utf8, true),
            Field::new("table_name", DataType::Utf8, false),
            Field::new("column_name", DataType::Utf8, false),
            Field::new("key_sequence", DataType::Int32, false),
            Field::new("key_name", DataType::Utf8, true),
        ]))
    });
    RecordBatch::new_empty(Arc::clone(&SCHEMA))
}

/// No table has a foreign key, from either side.
pub(super) fn foreign_keys() -> RecordBatch {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("pk_catalog_name", DataType::Utf8, true),
            Field::new("pk_db_schema_name", DataType::Utf8, true),
            Field::new("pk_table_name", DataType::Utf8, false),
            Field::new("pk_column_name", DataType::Utf8, false),
            Field::new("fk_catalog_name", DataType::Utf8, true),
            Field::new("fk_db_schema_name", DataType::Utf8, true),
            Field::new("fk_table_name", DataType::Utf8, false),
            Field::new("fk_column_name", DataType::Utf8, false),
            Field::new("key_sequence", DataType::Int32, false),
            Field::new("fk_key_name", DataType::Utf8, true),
            Field::new("pk_key_name", DataType::Utf8, true),
            Field::new("update_rule", DataType::UInt8, false),
            Field::new("delete_rule", DataType::UInt8, false),
        ]))
    });
    RecordBatch::new_empty(Arc::clone(&SCHEMA))
}
