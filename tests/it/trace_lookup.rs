//! A trace is found among many files without opening them, by id in every language.

use tracehouse::{
    model::{ids::TraceId, tenant::TenantId},
    query::{QueryEngine, QueryKind, QueryRequest, QueryStats, TraceByIdQuery, TraceQlQuery},
};

use crate::ingest::{House, quiet};

const FILES: u64 = 60;
const SPANS: u64 = 50;

/// The trace of a span that [`House::write`] made.
fn trace(number: u64) -> TraceId {
    TraceId::from_bytes(u128::from(number).to_be_bytes())
}

#[tokio::test]
async fn one_file_of_many_is_opened_for_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    for file in 0..FILES {
        house.write(file * SPANS + 1..(file + 1) * SPANS + 1, file.into()).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    let engine = house.engine(folder.path());
    let by_id = |id| QueryKind::TraceById(TraceByIdQuery { trace_id: id, hint: None, filter: None });
    let sql = |text: String| QueryRequest::sql(TenantId::single(), text).kind;
    let (first, last) = (trace(1), trace(FILES * SPANS));
    let cases = [
        (by_id(first), 1, 1),
        (by_id(last), 1, 1),
        (by_id(trace(u64::MAX)), 0, 0),
        (sql(format!("SELECT * FROM spans WHERE trace_id = '{last}'")), 1, 1),
        (sql(format!("SELECT name FROM spans WHERE trace_id IN ('{first}', '{last}') AND duration_nano > 0")), 2, 2),
        (sql("SELECT name FROM spans WHERE trace_id = 'no id'".to_owned()), 0, 0),
    ];
    for (kind, rows, files) in cases {
        let text = format!("{kind:?}");
        let (found, stats) = run(&engine, kind).await;
        assert_eq!(found, rows, "{text}");
        // One of 4,096 foreign files is opened in vain.
        assert!((files..=files + 1).contains(&stats.files_scanned), "{} for {text}", stats.files_scanned);
        if !text.contains("no id") {
            assert_eq!(stats.files_without_trace + stats.files_scanned, FILES, "{text}");
        }
    }
    house.ingest.shutdown().await.unwrap();
}

/// Rows of an answer, and what it cost.
async fn run(engine: &QueryEngine, kind: QueryKind) -> (usize, QueryStats) {
    let request = QueryRequest { kind, ..QueryRequest::sql(TenantId::single(), "") };
    let (batches, stats) = engine.execute(request).await.unwrap().collect().await.unwrap();
    (batches.iter().map(|batch| batch.num_rows()).sum(), stats)
}

#[tokio::test]
async fn searches_read_the_row_groups_that_can_hold_an_attribute() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = quiet();
    settings.promotion.allow = vec!["span.order".to_owned()];
    let house = House::open(folder.path(), settings).await;
    let files = 6;
    for file in 0..files {
        house.write(file * SPANS + 1..(file + 1) * SPANS + 1, file.into()).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    let engine = house.engine(folder.path());
    let traceql = |text: &str| QueryKind::TraceQl(TraceQlQuery::new(text));
    let sql = |text: &str| QueryRequest::sql(TenantId::single(), text).kind;

    let (rows, stats) = run(&engine, traceql("{ span.order = 77 }")).await;
    assert_eq!(rows, 1);
    assert!(stats.row_groups_pruned >= files - 1, "{stats:?}");
    let absent = ["{ span.nowhere = 1 }", "{ .nowhere = 1 }", "{ event.nowhere = \"x\" }", "{ link.nowhere = 1 }"];
    for text in absent {
        let (rows, stats) = run(&engine, traceql(text)).await;
        assert!(rows == 0 && stats.row_groups_pruned >= files, "{text}: {stats:?}");
        assert_eq!((stats.files_skipped, stats.files_pruned), (stats.files_scanned, 0), "{text}: {stats:?}");
    }
    let (rows, stats) = run(&engine, sql("SELECT name FROM spans WHERE span_attributes['order'] = '77'")).await;
    assert_eq!((rows, stats.row_groups_pruned), (1, files - 1), "{stats:?}");
    house.ingest.shutdown().await.unwrap();
}
