//! What drivers ask before they run anything: catalogues, tables, keys, types, and the server itself.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Int32Type, Int64Type, Schema, UInt32Type},
};
use arrow_flight::{
    FlightInfo,
    sql::{
        CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
        CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, SqlInfo, client::FlightSqlServiceClient,
    },
};
use tonic::transport::Channel;

use super::{client, column, fetched};

async fn tables(client: &mut FlightSqlServiceClient<Channel>, query: CommandGetTables) -> Vec<String> {
    let info = client.get_tables(query).await.unwrap();
    let (_, batches) = fetched(client, info).await;
    column(&batches, "table_name")
}

#[tokio::test]
async fn tables_are_found_by_pattern_and_by_any_name_of_their_type() {
    let (_server, mut client) = client().await;
    let all = CommandGetTables { db_schema_filter_pattern: Some("public".to_owned()), ..CommandGetTables::default() };
    let every = ["attributes", "otel_traces", "service_edges", "span_events", "span_links", "spans", "traces"];
    assert_eq!(tables(&mut client, all.clone()).await, every);
    let named = |pattern: &str| CommandGetTables {
        table_name_filter_pattern: Some(pattern.to_owned()),
        ..CommandGetTables::default()
    };
    assert_eq!(tables(&mut client, named("sp_ns")).await, ["spans"]);
    assert_eq!(tables(&mut client, named("sp%s")).await, ["span_events", "span_links", "spans"]);
    assert!(tables(&mut client, named("x%")).await.is_empty());
    // pandas asks whether the text of a query is a table.
    assert!(tables(&mut client, named("SELECT '%' || name FROM spans WHERE x LIKE '_[(\\' ")).await.is_empty());
    let typed = |names: &[&str]| CommandGetTables {
        table_types: names.iter().map(|name| (*name).to_owned()).collect(),
        ..all.clone()
    };
    assert_eq!(tables(&mut client, typed(&["BASE TABLE", "table"])).await, every);
    assert_eq!(tables(&mut client, typed(&["TABLE"])).await, every);
    assert!(tables(&mut client, typed(&["SYSTEM TABLE"])).await.is_empty());
    let about = CommandGetTables { db_schema_filter_pattern: Some("sys%".to_owned()), ..CommandGetTables::default() };
    assert!(tables(&mut client, about).await.contains(&"files".to_owned()));
    let elsewhere = CommandGetTables { catalog: Some(String::new()), ..CommandGetTables::default() };
    assert!(tables(&mut client, elsewhere).await.is_empty());

    let with_schema = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(with_schema).await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    let row = column(&batches, "table_name").iter().position(|name| name == "spans").unwrap();
    let message = batches[0]["table_schema"].as_binary::<i32>().value(row).to_vec();
    let listed = Schema::try_from(arrow_flight::IpcMessage(message.into())).unwrap();
    let info = client.execute("SELECT * FROM spans".to_owned(), None).await.unwrap();
    assert_eq!(listed, info.try_decode_schema().unwrap());
}

/// The columns of a schema as the protocol's text writes them.
fn written(schema: &Schema) -> Vec<String> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let not_null = if field.is_nullable() { "" } else { " not null" };
        format!("{}: {}{not_null}", field.name(), field.data_type().to_string().to_lowercase())
    };
    schema.fields().iter().map(column).collect()
}

/// The rows of an answer that has exactly these columns.
async fn rows(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo, columns: &[&str]) -> usize {
    let (schema, batches) = fetched(client, info).await;
    assert_eq!(written(&schema), columns);
    batches.iter().map(|batch| batch.num_rows()).sum()
}

#[tokio::test]
async fn every_metadata_answer_has_the_columns_of_the_protocol() {
    let (_server, mut client) = client().await;
    let client = &mut client;
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(rows(client, info, &["catalog_name: utf8 not null"]).await, 1);
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    let schemas = ["catalog_name: utf8", "db_schema_name: utf8 not null"];
    assert_eq!(rows(client, info, &schemas).await, 2);
    let mut tables =
        vec!["catalog_name: utf8", "db_schema_name: utf8", "table_name: utf8 not null", "table_type: utf8 not null"];
    let info = client.get_tables(CommandGetTables::default()).await.unwrap();
    assert!(rows(client, info, &tables).await > 5);
    tables.push("table_schema: binary not null");
    let with_schema = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(with_schema).await.unwrap();
    assert!(rows(client, info, &tables).await > 5);
    let info = client.get_table_types().await.unwrap();
    assert_eq!(rows(client, info, &["table_type: utf8 not null"]).await, 1);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo::default()).await.unwrap();
    let types = [
        "type_name: utf8 not null",
        "data_type: int32 not null",
        "column_size: int32",
        "literal_prefix: utf8",
        "literal_suffix: utf8",
        "create_params: list(non-null utf8)",
        "nullable: int32 not null",
        "case_sensitive: boolean not null",
        "searchable: int32 not null",
        "unsigned_attribute: boolean",
        "fixed_prec_scale: boolean not null",
        "auto_increment: boolean",
        "local_type_name: utf8",
        "minimum_scale: int32",
        "maximum_scale: int32",
        "sql_data_type: int32 not null",
        "datetime_subcode: int32",
        "num_prec_radix: int32",
        "interval_precision: int32",
    ];
    assert!(rows(client, info, &types).await > 10);
}

#[tokio::test]
async fn keys_are_empty_sets_of_the_columns_of_the_protocol() {
    let (_server, mut client) = client().await;
    let client = &mut client;
    let table = || "spans".to_owned();
    let query = CommandGetPrimaryKeys { table: table(), ..CommandGetPrimaryKeys::default() };
    let info = client.get_primary_keys(query).await.unwrap();
    let primary = [
        "catalog_name: utf8",
        "db_schema_name: utf8",
        "table_name: utf8 not null",
        "column_name: utf8 not null",
        "key_sequence: int32 not null",
        "key_name: utf8",
    ];
    assert_eq!(rows(client, info, &primary).await, 0);
    let foreign = [
        "pk_catalog_name: utf8",
        "pk_db_schema_name: utf8",
        "pk_table_name: utf8 not null",
        "pk_column_name: utf8 not null",
        "fk_catalog_name: utf8",
        "fk_db_schema_name: utf8",
        "fk_table_name: utf8 not null",
        "fk_column_name: utf8 not null",
        "key_sequence: int32 not null",
        "fk_key_name: utf8",
        "pk_key_name: utf8",
        "update_rule: uint8 not null",
        "delete_rule: uint8 not null",
    ];
    let query = CommandGetExportedKeys { table: table(), ..CommandGetExportedKeys::default() };
    let info = client.get_exported_keys(query).await.unwrap();
    assert_eq!(rows(client, info, &foreign).await, 0);
    let query = CommandGetImportedKeys { table: table(), ..CommandGetImportedKeys::default() };
    let info = client.get_imported_keys(query).await.unwrap();
    assert_eq!(rows(client, info, &foreign).await, 0);
    let query =
        CommandGetCrossReference { pk_table: table(), fk_table: table(), ..CommandGetCrossReference::default() };
    let info = client.get_cross_reference(query).await.unwrap();
    assert_eq!(rows(client, info, &foreign).await, 0);
}

#[tokio::test]
async fn schemas_and_catalogs_are_filtered_as_the_protocol_says() {
    let (_server, mut client) = client().await;
    let named = |catalog: Option<&str>, pattern: Option<&str>| CommandGetDbSchemas {
        catalog: catalog.map(str::to_owned),
        db_schema_filter_pattern: pattern.map(str::to_owned),
    };
    // An empty name means those without a catalogue, and none means all.
    for (catalog, pattern, expected) in [
        (None, None, vec!["public", "system"]),
        (Some("tracehouse"), Some("pub%"), vec!["public"]),
        (None, Some("_ublic"), vec!["public"]),
        (Some(""), None, vec![]),
        (Some("other"), None, vec![]),
        (None, Some("x%"), vec![]),
    ] {
        let info = client.get_db_schemas(named(catalog, pattern)).await.unwrap();
        let (_, batches) = fetched(&mut client, info).await;
        assert_eq!(column(&batches, "db_schema_name"), expected, "{catalog:?} {pattern:?}");
    }
}

/// The value of a row of GetSqlInfo as text.
fn shown(value: &ArrayRef) -> String {
    match value.data_type() {
        DataType::Utf8 => value.as_string::<i32>().value(0).to_owned(),
        DataType::Boolean => value.as_boolean().value(0).to_string(),
        DataType::Int32 => value.as_primitive::<Int32Type>().value(0).to_string(),
        DataType::Int64 => value.as_primitive::<Int64Type>().value(0).to_string(),
        DataType::List(_) => {
            let words = value.as_list::<i32>().value(0);
            words.as_string::<i32>().iter().flatten().collect::<Vec<_>>().join(" ")
        }
        DataType::Map(..) => format!("{} types", value.as_map().value(0).len()),
        other => panic!("{other}"),
    }
}

async fn sql_info(client: &mut FlightSqlServiceClient<Channel>, wanted: Vec<SqlInfo>) -> BTreeMap<u32, String> {
    let info = client.get_sql_info(wanted).await.unwrap();
    let (_, batches) = fetched(client, info).await;
    let mut found = BTreeMap::new();
    for batch in &batches {
        let (names, values) = (batch["info_name"].as_primitive::<UInt32Type>(), batch["value"].as_union());
        for row in 0..batch.num_rows() {
            found.insert(names.value(row), shown(&values.value(row)));
        }
    }
    found
}

#[tokio::test]
async fn sql_info_answers_every_question_of_the_protocol() {
    let (_server, mut client) = client().await;
    let wanted =
        [SqlInfo::FlightSqlServerTransaction, SqlInfo::FlightSqlServerReadOnly, SqlInfo::SqlIdentifierQuoteChar];
    let some = sql_info(&mut client, wanted.to_vec()).await;
    assert_eq!(some.into_values().collect::<Vec<_>>(), ["true", "0", "\""]);
    // No list means all of them.
    let all = sql_info(&mut client, Vec::new()).await;
    let numbers: Vec<u32> = all.keys().copied().collect();
    let every: Vec<u32> = (0..=11).chain(100..=101).chain(500..=576).collect();
    assert_eq!(numbers, every);
    assert_eq!(all[&(SqlInfo::FlightSqlServerCancel as u32)], "true");
    assert_eq!(all[&(SqlInfo::SqlSupportsConvert as u32)], "12 types");
}

#[tokio::test]
async fn the_functions_that_sql_info_names_are_there() {
    let (_server, mut client) = client().await;
    let info = client.execute("SELECT DISTINCT routine_name FROM information_schema.routines".to_owned(), None).await;
    let (_, batches) = fetched(&mut client, info.unwrap()).await;
    let there = column(&batches, "routine_name");
    let lists = [
        SqlInfo::SqlNumericFunctions,
        SqlInfo::SqlStringFunctions,
        SqlInfo::SqlSystemFunctions,
        SqlInfo::SqlDatetimeFunctions,
    ];
    for (number, names) in sql_info(&mut client, lists.to_vec()).await {
        let missing: Vec<&str> = names.split(' ').filter(|name| !there.iter().any(|known| known == name)).collect();
        assert!(missing.is_empty(), "{number}: {missing:?}");
    }
}
