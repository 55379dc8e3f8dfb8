//! `EXPLAIN ANALYZE`, in SQL and in TraceQL, says what was not read, and why: each way of skipping is seen at work.

use std::{ops::Range, sync::Arc};

use datafusion::arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use tracehouse::{
    clock::ManualClock,
    ingest::WriteRequest,
    model::{
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
        ids::{SpanId, TraceId},
        promotion,
        tenant::TenantId,
    },
    query::{EngineOptions, Explain, QueryEngine, QueryKind, QueryRequest, TraceQlQuery},
    storage::store::Store,
};

use crate::{
    engines,
    ingest::{House, NOW, quiet},
    support::spans::plain_span,
};

/// Spans of a file: three pages.
const SPANS: u64 = 20_000;
const FILES: u64 = 4;
const SECOND: i64 = 1_000_000_000;

/// Spans of traces of two, a parent and its child, a millisecond apart; files are a minute apart. The status code is the number of hundreds, the
/// user is one in two thousand, the first file has a key of its own.
fn batch(numbers: Range<u64>) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let service = [Attribute { key: "service.name", value: Value::Str("shop") }];
    let resource = builder.push_resource(&ResourceFields::default(), &service).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for n in numbers {
        let parent_span_id = (n % 2 == 1).then(|| SpanId::from_bytes(n.to_be_bytes()));
        let span = SpanFields { parent_span_id, ..plain_span(trace(n / 2), n + 1, start(n), n as i64) };
        let user = format!("user {}", scrambled(n) % 2_000);
        let own_key = if n < SPANS { "only.first" } else { "other" };
        let attributes = [
            Attribute { key: "http.response.status_code", value: Value::Int((n / 100) as i64) },
            Attribute { key: "user.id", value: Value::Str(&user) },
            Attribute { key: own_key, value: Value::Int(n as i64) },
        ];
        let (events, links) = (std::iter::empty(), std::iter::empty());
        builder.push_span((resource, scope), &span, &attributes, events, links).unwrap();
    }
    builder.finish().unwrap()
}

fn scrambled(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7
}

fn trace(n: u64) -> TraceId {
    TraceId::from_bytes(((u128::from(scrambled(n)) << 64) | u128::from(n + 1)).to_be_bytes())
}

fn start(n: u64) -> i64 {
    NOW + (n / SPANS) as i64 * 60 * SECOND + (n % SPANS) as i64 * SECOND / 1_000
}

/// The sums over all scans of a plan of what a metric such as `a=8 total → 2 matched` counted.
fn pruned(plan: &str, metric: &str) -> (u64, u64) {
    let number = |text: &str| {
        let mut words = text.split_whitespace();
        let number: f64 = words.next().unwrap().trim_end_matches(',').parse().unwrap();
        (number * if words.next() == Some("K") { 1e3 } else { 1.0 }) as u64
    };
    let start = format!("{metric}=");
    let parts = plan.split(&start).skip(1);
    parts.fold((0, 0), |(total, matched), part| {
        let part = part.split([',', ']']).next().unwrap();
        let (all, rest) = part.split_once(" total").unwrap();
        let left = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        (total + number(all), matched + number(left.split(" matched").next().unwrap()))
    })
}

#[tokio::test]
async fn each_way_of_skipping_is_seen_in_explain_analyze() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    for file in 0..FILES {
        let batch = batch(file * SPANS..(file + 1) * SPANS);
        let request = WriteRequest { batch, digest: file.into(), received_unix_nano: NOW };
        house.ingest.write(&TenantId::single(), request).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    // One thread reads the files one after the other.
    let store = Store::local(folder.path()).unwrap();
    let clock = Arc::new(ManualClock::new(NOW));
    let options = engines::options(house.ingest.live(), &store, clock, folder.path());
    let engine = QueryEngine::try_new(EngineOptions { threads: 1, ..options }).unwrap();
    let sql = async |text: &str| {
        explained(&engine, QueryRequest::sql(TenantId::single(), format!("EXPLAIN ANALYZE {text}")).kind).await
    };
    let traceql = async |text: &str| {
        let query = TraceQlQuery { explain: Some(Explain::Analyze), ..TraceQlQuery::new(text) };
        explained(&engine, QueryKind::TraceQl(query)).await
    };
    let fewer = |plan: &str, metric: &str| {
        let (total, matched) = pruned(plan, metric);
        assert!(matched < total, "{metric}: {matched} of {total}\n{plan}");
    };

    // Files by time, in the catalogue: the scan has one file.
    let from = start(3 * SPANS);
    let plan = sql(&format!("SELECT name FROM spans WHERE start_time >= TIMESTAMP '{}'", shown(from))).await;
    assert_eq!(plan.matches(".parquet").count(), 1, "{plan}");
    // Files without the key.
    fewer(
        &sql("SELECT name FROM spans WHERE attr_int(span_attributes, 'only.first') > 5").await,
        "row_groups_pruned_statistics",
    );
    fewer(&traceql("{ span.only.first > 5 }").await, "row_groups_pruned_statistics");
    // What the plan does not say is in the last row: a look at the footer ruled the files out, and nothing else was read.
    let absent = format!(
        "ruled out by the catalogue: 0, by filters of trace ids: 0, by footers (keys, statistics, bloom filters): {FILES}; read: 0"
    );
    let plan = sql("SELECT name FROM spans WHERE span_attributes['nowhere'] = 'x'").await;
    assert!(plan.ends_with(&absent), "{plan}");
    // A search looks at parts of the time one after the other, so a file can be in several scans.
    let plan = traceql("{ span.nowhere = 5 }").await;
    let by_footers = plan.rsplit_once("bloom filters): ").unwrap().1;
    let by_footers: u64 = by_footers.strip_suffix("; read: 0").unwrap_or_else(|| panic!("{plan}")).parse().unwrap();
    assert!(by_footers >= FILES, "{plan}");
    let one = format!("by footers (keys, statistics, bloom filters): {}; read: 1", FILES - 1);
    let plan = sql("SELECT name FROM spans WHERE attr_int(span_attributes, 'only.first') > 5").await;
    assert!(plan.ends_with(&one), "{plan}");
    // Files by their filters of trace ids, before they are opened; one of 4,096 foreign ones says that it may have the trace.
    let plan = sql(&format!("SELECT name FROM spans WHERE trace_id = '{}'", trace(0))).await;
    let without_trace = plan.rsplit_once("by filters of trace ids: ").unwrap().1;
    let without_trace: u64 = without_trace.split(',').next().unwrap().parse().unwrap();
    assert!((FILES - 2..FILES).contains(&without_trace), "{plan}");
    // Row groups by their least and greatest value, and pages by theirs.
    let plan = sql("SELECT name FROM spans WHERE span_attributes['http.response.status_code'] = '250'").await;
    fewer(&plan, "row_groups_pruned_statistics");
    fewer(&plan, "page_index_rows_pruned");
    let plan = traceql("{ span.http.response.status_code = 250 }").await;
    fewer(&plan, "row_groups_pruned_statistics");
    fewer(&plan, "page_index_rows_pruned");
    // Row groups by the bloom filter of a text between the least and the greatest.
    fewer(
        &sql("SELECT name FROM spans WHERE span_attributes['user.id'] = 'user 77x'").await,
        "row_groups_pruned_bloom_filter",
    );
    fewer(&traceql(r#"{ span.user.id = "user 77x" }"#).await, "row_groups_pruned_bloom_filter");
    // A filter that moves while the query runs: the shortest so far. The first file has them, and those that are opened
    // once it was read are left out. How many are open by then is a matter of timing.
    let mut plans = Vec::new();
    let skipped = loop {
        let plan = sql("SELECT name FROM spans ORDER BY duration_nano LIMIT 3").await;
        assert!(plan.contains("DynamicFilter [ duration_nano"), "{plan}");
        let (total, matched) = pruned(&plan, "row_groups_pruned_statistics");
        plans.push(plan);
        if matched < total || plans.len() == 100 {
            break matched < total;
        }
    };
    assert!(skipped, "nothing skipped in any of {} runs: {}", plans.len(), plans[0]);
    // A filter that comes out of the other side of a join.
    let plan = sql(&format!(
        "SELECT s.name FROM (SELECT trace_id FROM spans WHERE span_id = '{}') t JOIN spans s ON s.trace_id = t.trace_id",
        SpanId::from_bytes(5_u64.to_be_bytes())
    ))
    .await;
    assert!(plan.contains("DynamicFilter [ trace_id"), "{plan}");
    house.ingest.shutdown().await.unwrap();
}

#[tokio::test]
async fn trace_ids_of_rows_are_read_once_and_looked_up_after_that() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    for file in 0..2 {
        let batch = batch(file * SPANS..(file + 1) * SPANS);
        let request = WriteRequest { batch, digest: file.into(), received_unix_nano: NOW };
        house.ingest.write(&TenantId::single(), request).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    let store = Store::local(folder.path()).unwrap();
    let new_engine = || {
        let clock = Arc::new(ManualClock::new(NOW));
        QueryEngine::try_new(engines::options(house.ingest.live(), &store, clock, folder.path())).unwrap()
    };
    let engine = new_engine();
    // Rows that are chosen while files are decoded, rows that are dropped after that, parts of pages, and all rows.
    for text in [
        r#"{ span.user.id = "user 77" }"#,
        "{ duration > 100ns && duration < 30us }",
        "{ span.http.response.status_code > 150 && span.http.response.status_code <= 250 }",
        "{}",
    ] {
        let query = TraceQlQuery { limit: Some(100_000), ..TraceQlQuery::new(text) };
        let expected = answer(&new_engine(), QueryKind::TraceQl(query.clone())).await;
        assert_eq!(answer(&engine, QueryKind::TraceQl(query.clone())).await, expected, "{text}");
        // By now it is known where traces lie.
        assert_eq!(answer(&engine, QueryKind::TraceQl(query.clone())).await, expected, "{text}");
        let explained_query = TraceQlQuery { explain: Some(Explain::Analyze), ..query };
        let plan = explained(&engine, QueryKind::TraceQl(explained_query)).await;
        // Neither ids of traces nor those of parents are decoded, and nothing looks again at which traces rows belong to.
        assert!(plan.contains("trace_ids=in memory, roots=in memory"), "{plan}");
        assert!(!plan.contains("FilterExec: in_traces"), "{plan}");
    }
    for text in [
        "SELECT trace_id, count(*), min(name) FROM spans WHERE duration_nano < 300 GROUP BY trace_id ORDER BY trace_id",
        "SELECT a.trace_id, b.span_id FROM spans a JOIN spans b USING (trace_id) WHERE a.duration_nano IN (7, 20003) \
         ORDER BY b.span_id",
        "SELECT trace_id FROM spans ORDER BY trace_id DESC LIMIT 5",
        "SELECT trace_id, start_time FROM spans ORDER BY start_time DESC, span_id LIMIT 5",
        "SELECT count(DISTINCT trace_id) FROM spans",
    ] {
        let kind = QueryRequest::sql(TenantId::single(), text).kind;
        assert_eq!(answer(&engine, kind.clone()).await, answer(&new_engine(), kind).await, "{text}");
    }
    // Alone, beside conditions that are judged before or after decoding, and with nothing else that is read.
    for (condition, count) in [
        ("parent_span_id IS NULL", SPANS),
        ("parent_span_id IS NOT NULL", SPANS),
        ("parent_span_id IS NULL AND duration_nano < 1001", 501),
        ("parent_span_id IS NOT NULL AND duration_nano < 1001", 500),
        ("parent_span_id IS NULL AND duration_nano IN (7, 8, 20004)", 2),
        ("parent_span_id IS NULL AND parent_span_id IS NOT NULL AND duration_nano < 9", 0),
        ("(parent_span_id IS NULL OR duration_nano < 100) AND duration_nano < 200", 150),
    ] {
        let text = format!("SELECT count(*), count(DISTINCT span_id) FROM spans WHERE {condition}");
        let kind = QueryRequest::sql(TenantId::single(), text).kind;
        let counted = answer(&engine, kind.clone()).await;
        assert_eq!(counted, answer(&new_engine(), kind).await, "{condition}");
        assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), count as i64, "{condition}");
    }
    let text = "EXPLAIN SELECT count(*) FROM spans WHERE parent_span_id IS NULL AND duration_nano < 1000";
    let plan = explained(&engine, QueryRequest::sql(TenantId::single(), text).kind).await;
    assert!(plan.contains("roots=in memory") && !plan.contains("FilterExec"), "{plan}");
    house.ingest.shutdown().await.unwrap();
}

/// A moment as SQL writes it.
fn shown(unix_nano: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(unix_nano).format("%Y-%m-%d %H:%M:%S").to_string()
}

async fn answer(engine: &QueryEngine, kind: QueryKind) -> Vec<RecordBatch> {
    let request = QueryRequest { kind, ..QueryRequest::sql(TenantId::single(), "") };
    engine.execute(request).await.unwrap().collect().await.unwrap().0
}

pub(crate) async fn explained(engine: &QueryEngine, kind: QueryKind) -> String {
    let batches = answer(engine, kind).await;
    batches.iter().flat_map(|batch| batch["plan"].as_string::<i32>().iter().flatten()).collect()
}
