//! The promise of `sql/README.md`: columns are appended, never renamed or re-typed, and each says what it means.
//!
//! `tests/sql/columns.txt` is what was promised. After a column was appended, `TRACEHOUSE_BLESS=1` writes the file anew; a
//! line that changes or leaves breaks somebody's query.

use std::{fs, path::Path};

use arrow::array::{Array, AsArray, RecordBatch};
use futures::TryStreamExt;

use crate::query::data::{small_engine, sql};

async fn rows(engine: &tracehouse::query::QueryEngine, text: &str) -> Vec<Vec<Option<String>>> {
    let batches: Vec<RecordBatch> = engine.execute(sql(text)).await.unwrap().try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &arrow::array::ArrayRef| {
                let texts = column.as_string::<i32>();
                texts.is_valid(row).then(|| texts.value(row).to_owned())
            };
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

#[tokio::test]
async fn no_column_of_any_table_is_renamed_moved_or_re_typed() {
    let engine = small_engine();
    let tables = "SELECT table_schema, table_name FROM information_schema.tables \
        WHERE table_schema <> 'information_schema' ORDER BY 1, 2";
    let mut found = String::new();
    for table in rows(&engine, tables).await {
        let name = format!("{}.{}", table[0].as_ref().unwrap(), table[1].as_ref().unwrap());
        let prepared = engine.prepare(sql(&format!("SELECT * FROM {name}"))).await.unwrap();
        for field in prepared.schema.fields() {
            found.push_str(&format!("{name} {} {}\n", field.name(), field.data_type()));
        }
    }
    let promised = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/columns.txt");
    if std::env::var_os("TRACEHOUSE_BLESS").is_some() {
        fs::write(&promised, &found).unwrap();
    }
    let promised = fs::read_to_string(promised).unwrap();
    for (promised, found) in promised.lines().zip(found.lines()) {
        assert_eq!(promised, found, "a promised column is not there any more, or not in its place");
    }
    assert_eq!(promised.lines().count(), found.lines().count(), "columns were appended and not written down");
}

#[tokio::test]
async fn every_column_says_what_it_means() {
    let engine = small_engine();
    let silent = "SELECT table_schema || '.' || table_name || '.' || column_name FROM information_schema.columns \
        WHERE table_schema <> 'information_schema' AND coalesce(column_comment, '') = ''";
    assert_eq!(rows(&engine, silent).await, Vec::<Vec<Option<String>>>::new());
    let one = "SELECT column_comment FROM information_schema.columns \
        WHERE table_schema = 'public' AND table_name = 'spans' AND column_name = 'dropped_links_count'";
    assert_eq!(rows(&engine, one).await, [[Some("how many the sender left out of the span".to_owned())]]);
}

#[tokio::test]
async fn tools_find_what_they_look_for_in_the_information_schema() {
    let engine = small_engine();
    for (text, expected) in [
        (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1 LIMIT 1",
            "attributes",
        ),
        ("SELECT schema_name FROM information_schema.schemata WHERE schema_name = 'system'", "system"),
        (
            "SELECT routine_name FROM information_schema.routines WHERE routine_name = 'sketch_merge' LIMIT 1",
            "sketch_merge",
        ),
        ("SELECT routine_name FROM information_schema.routines WHERE routine_name = 'traceql'", "traceql"),
        (
            "SELECT CASE WHEN definition LIKE '%GROUP BY trace_id%' THEN 'y' END FROM information_schema.views WHERE table_name = 'traces'",
            "y",
        ),
        ("SELECT kind FROM system.functions WHERE name = 'trace'", "table"),
        ("SELECT value FROM system.settings WHERE name = 'query.timeout'", "\"1m\""),
        ("SELECT tenant FROM system.tenants", "single-tenant"),
        (
            "SELECT name FROM system.metrics WHERE name = 'tracehouse_queries_running' LIMIT 1",
            "tracehouse_queries_running",
        ),
        ("SELECT state FROM system.queries LIMIT 1", "running"),
    ] {
        assert_eq!(rows(&engine, text).await, [[Some(expected.to_owned())]], "{text}");
    }
    for empty in ["table_constraints", "key_column_usage", "referential_constraints"] {
        assert!(rows(&engine, &format!("SELECT * FROM information_schema.{empty}")).await.is_empty());
        for listing in ["tables", "columns"] {
            let listed =
                format!("SELECT DISTINCT table_schema FROM information_schema.{listing} WHERE table_name = '{empty}'");
            assert_eq!(rows(&engine, &listed).await, [[Some("information_schema".to_owned())]], "{listed}");
        }
    }
}

/// A function that appears, with a new version of a library for instance, is looked at before it is there.
#[tokio::test]
async fn every_function_was_allowed() {
    let engine = small_engine();
    let found = rows(&engine, "SELECT kind, name FROM system.functions").await;
    let found: String =
        found.iter().map(|row| format!("{} {}\n", row[0].as_ref().unwrap(), row[1].as_ref().unwrap())).collect();
    let allowed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/functions.txt");
    if std::env::var_os("TRACEHOUSE_BLESS").is_some() {
        fs::write(&allowed, &found).unwrap();
    }
    let allowed = fs::read_to_string(allowed).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (allowed, found) = (lines(&allowed), lines(&found));
    let new: Vec<_> = found.difference(&allowed).collect();
    assert!(new.is_empty(), "nobody has looked at what these can do: {new:?}");
    let gone: Vec<_> = allowed.difference(&found).collect();
    assert!(gone.is_empty(), "functions that queries may call are gone: {gone:?}");
    for forbidden in ["read_parquet", "read_csv", "read_json", "glob", "load_extension", "getenv", "array_repeat"] {
        assert!(!found.iter().any(|function| function.ends_with(&format!(" {forbidden}"))), "{forbidden}");
    }
}
