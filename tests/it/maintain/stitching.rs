//! Files put behind each other read as they did apart, whichever columns each of them had.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use tracehouse::storage::{
    scan::ScanFile,
    stitch::stitch,
    writer::{Origin, WrittenFile, write_files},
};

use super::house::{NOW, Plain, plain, random, seeded};
use crate::span_table::{StoredTable, context, store_url};

async fn table(store: &Arc<dyn ObjectStore>, files: &[WrittenFile], name: &str) -> StoredTable {
    let mut scanned = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let path = Path::from(format!("{name}/{number}.parquet"));
        store.put(&path, file.bytes.clone().into()).await.unwrap();
        let start_time_range = Some((file.ranges[0].min, file.ranges[0].max));
        let size_bytes = file.bytes.len() as u64;
        scanned.push(ScanFile {
            path,
            size_bytes,
            date: file.date,
            rows: Some(file.rows),
            start_time_range,
            selected: None,
            runs: None,
        });
    }
    StoredTable { files: scanned, buffered: Vec::new() }
}

#[tokio::test]
async fn a_stitched_file_answers_as_its_parts() {
    let mut seed = seeded(21);
    let mut batches: Vec<_> = (0..4).map(|_| random(&mut seed, 150, 10, NOW)).collect();
    // One without any promoted attribute of spans, and one of a single span.
    batches.insert(1, plain(&[Plain { trace: 1, span: 5, start: NOW, user: "x" }]));
    let parts: Vec<WrittenFile> =
        batches.iter().flat_map(|batch| write_files(std::slice::from_ref(batch), Origin::Merged).unwrap()).collect();
    let whole = stitch(parts.clone()).unwrap();
    assert_eq!(whole.rows, 601);

    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&whole.bytes)
        .unwrap();
    assert_eq!(metadata.num_row_groups(), parts.len());
    for group in metadata.row_groups() {
        let ids = group.columns().iter().find(|column| column.column_path().string() == "trace_id").unwrap();
        assert!(ids.bloom_filter_offset().is_some(), "filters on trace ids are kept");
        for column in group.columns() {
            let name = column.column_path();
            assert!(column.page_encoding_stats_mask().is_some(), "{name} says whether its dictionary has all values");
        }
    }

    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = context(2, 100);
    context.register_object_store(store_url().as_ref(), Arc::clone(&store));
    context.register_table("parts", Arc::new(table(&store, &parts, "parts").await)).unwrap();
    context.register_table("whole", Arc::new(table(&store, &[whole], "whole").await)).unwrap();
    for query in [
        "SELECT * FROM t ORDER BY trace_id, span_id",
        "SELECT count(*) AS n, min(start_time_unix_nano) AS a, max(duration_nano) AS b FROM t",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'http.route') = '/cart'",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'http.route') IS NULL",
        "SELECT count(*) FROM t WHERE attr_int(span_attributes, 'http.response.status_code') > 400",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'http.response.status_code') = 'odd'",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'free.text') = 'v3'",
        "SELECT count(*) FROM t WHERE attr_float(span_attributes, 'ratio') < 0.5",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'enduser') = 'x'",
        "SELECT count(*) FROM t WHERE attr_str(span_attributes, 'absent') IS NOT NULL",
        "SELECT count(*) FROM t WHERE attr_int(resource_attributes, 'rack') = 1",
    ] {
        let mut answers = Vec::new();
        for name in ["parts", "whole"] {
            let frame = context.sql(&query.replace("FROM t", &format!("FROM {name}"))).await.unwrap();
            answers.push(pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string());
        }
        assert!(answers[0] == answers[1], "{query}\n{}\n{}", answers[0], answers[1]);
    }
}
