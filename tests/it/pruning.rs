//! What a scan does not read: predicates on promoted attributes and on ids reach files, row groups, pages and bloom
//! filters.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
    util::pretty::pretty_format_batches,
};
use datafusion::{logical_expr::ScalarUDF, prelude::SessionContext};
use object_store::{ObjectStore, memory::InMemory};
use tracehouse::{
    functions::ItemHas,
    model::{
        batch::SpanBatch,
        builder::{Attribute, EventFields, ResourceFields, ScopeFields, SpanBatchBuilder, Value},
        ids::TraceId,
        promotion::standard,
    },
};

use crate::{
    span_table::{StoredTable, context, store_url, write},
    support::spans::plain_span,
};

const SPANS: u64 = 20_000;

/// Spans in traces of two. The attributes follow the time: the status code is the number of hundreds, the user is one in
/// two thousand.
fn batch(first: u64, extra: &str) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&standard());
    let service = Attribute { key: "service.name", value: Value::Str("shop") };
    let resource = builder.push_resource(&ResourceFields::default(), &[service]).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for n in first..first + SPANS {
        let span = plain_span(trace(n / 2), n + 1, n as i64, 5);
        let user = format!("user {}", scrambled(n) % 2_000);
        let attributes = [
            Attribute { key: "http.response.status_code", value: Value::Int((n / 100) as i64) },
            Attribute { key: "user.id", value: Value::Str(&user) },
            Attribute { key: extra, value: Value::Int(n as i64) },
        ];
        let on_event = [Attribute { key: extra, value: Value::Str("x") }];
        let event = EventFields { time_unix_nano: n, name: "e", attributes: &on_event, dropped_attributes_count: 0 };
        let events = (n == first).then_some(event).into_iter();
        builder.push_span((resource, scope), &span, &attributes, events, [].into_iter()).unwrap();
    }
    builder.finish().unwrap()
}

fn scrambled(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7
}

fn trace(n: u64) -> TraceId {
    TraceId::from_bytes(((u128::from(scrambled(n)) << 64) | u128::from(n + 1)).to_be_bytes())
}

/// Two files, the second later than the first.
async fn files() -> SessionContext {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut files = write(store.as_ref(), "first", &batch(0, "only.first")).await;
    files.extend(write(store.as_ref(), "second", &batch(SPANS, "only.second")).await);
    let context = context(1, 8192);
    context.register_object_store(store_url().as_ref(), store);
    context.register_udf(ScalarUDF::from(ItemHas::default()));
    context.register_table("t", Arc::new(StoredTable { files, buffered: Vec::new() })).unwrap();
    context
}

/// Rows of the answer, and the line of the scan in `EXPLAIN ANALYZE`.
async fn run(context: &SessionContext, sql: &str) -> (usize, String) {
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap().iter().map(|batch| batch.num_rows()).sum();
    let analyzed = context.sql(&format!("EXPLAIN ANALYZE VERBOSE {sql}")).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&analyzed).unwrap().to_string();
    let scan = text.lines().find(|line| line.contains("DataSourceExec")).unwrap().to_owned();
    (rows, scan)
}

/// How a metric such as `files_ranges_pruned_statistics=2 total -> 1 matched` ends.
fn matched(scan: &str, metric: &str) -> String {
    let (_, rest) = scan.split_once(&format!("{metric}=")).unwrap();
    let (_, matched) = rest.split(", ").next().unwrap().split_once("total ").unwrap();
    matched.chars().filter(|c| c.is_ascii_alphanumeric() || " .".contains(*c)).collect::<String>().trim().to_owned()
}

struct Expected {
    rows: usize,
    /// Row groups left by statistics, then by bloom filters; the two files have one each.
    row_groups: [usize; 2],
    /// Rows of pages left by the page index, as the metric shows them.
    page_rows: &'static str,
}

async fn check(condition: &str, expected: Expected) {
    let (rows, scan) = run(&files().await, &format!("SELECT span_id FROM t WHERE {condition}")).await;
    assert_eq!(rows, expected.rows, "{condition}");
    let [by_statistics, by_bloom] = expected.row_groups.map(|left| format!("{left} matched"));
    assert_eq!(matched(&scan, "row_groups_pruned_statistics"), by_statistics, "{scan}");
    assert_eq!(matched(&scan, "row_groups_pruned_bloom_filter"), by_bloom, "{scan}");
    assert_eq!(matched(&scan, "page_index_rows_pruned"), format!("{} matched", expected.page_rows), "{scan}");
}

const ONE_PAGE: &str = "8.19 K";

#[tokio::test]
async fn a_promoted_int_prunes_row_groups_and_pages_as_int_and_as_text() {
    for condition in [
        "attr_int(span_attributes, 'http.response.status_code') = 250",
        "attr_number(span_attributes, 'http.response.status_code') = 250 AND attr_int(span_attributes, 'http.response.status_code') > 249 AND attr_int(span_attributes, 'http.response.status_code') < 251",
        "span_attributes['http.response.status_code'] = '250'",
        "CAST(span_attributes['http.response.status_code'] AS BIGINT) BETWEEN 250 AND 250",
    ] {
        check(condition, Expected { rows: 100, row_groups: [1, 1], page_rows: ONE_PAGE }).await;
    }
}

#[tokio::test]
async fn a_promoted_text_prunes_by_its_bloom_filter() {
    for condition in ["attr_str(span_attributes, 'user.id') = 'user 77x'", "span_attributes['user.id'] = 'user 77x'"] {
        check(condition, Expected { rows: 0, row_groups: [2, 0], page_rows: "0" }).await;
    }
}

#[tokio::test]
async fn a_file_without_the_key_is_skipped() {
    for condition in [
        "attr_int(span_attributes, 'only.first') >= 0",
        "attr_exists(span_attributes, 'only.first')",
        "span_attributes['only.first'] LIKE '%'",
        "attr_int(span_attributes, 'only.first') >= 0 OR attr_str(span_attributes, 'nowhere') = 'x'",
    ] {
        check(condition, Expected { rows: SPANS as usize, row_groups: [1, 1], page_rows: "0" }).await;
    }
    let nowhere = "attr_int(resource_attributes, 'only.first') = 1 OR attr_str(span_attributes, 'elsewhere') = 'x'";
    check(nowhere, Expected { rows: 0, row_groups: [0, 0], page_rows: "0" }).await;
    // Of another type than any that occurs.
    let wrong_type = "attr_bool(span_attributes, 'only.first')";
    check(wrong_type, Expected { rows: 0, row_groups: [0, 0], page_rows: "0" }).await;
}

#[tokio::test]
async fn a_file_whose_events_lack_the_key_is_skipped() {
    check("item_has(events, 'only.first')", Expected { rows: 1, row_groups: [1, 1], page_rows: "0" }).await;
    check("item_has(links, 'only.first')", Expected { rows: 0, row_groups: [0, 0], page_rows: "0" }).await;
    let anywhere = "item_has(events, 'only.second') AND attr_exists(span_attributes, 'only.first')";
    check(anywhere, Expected { rows: 0, row_groups: [0, 0], page_rows: "0" }).await;
}

#[tokio::test]
async fn an_id_prunes_by_its_bloom_filter_and_filters_while_decoding() {
    let id = trace(77);
    for condition in [format!("trace_id = trace_id('{id}')"), format!("id_hex(trace_id) = '{id}'")] {
        check(&condition, Expected { rows: 2, row_groups: [2, 1], page_rows: "20.00 K" }).await;
        let (_, scan) = run(&files().await, &format!("SELECT * FROM t WHERE {condition}")).await;
        assert!(scan.contains("pushdown_rows_matched=2,"), "{scan}");
    }
}

#[tokio::test]
async fn start_times_prune_files_before_they_are_opened() {
    let (rows, scan) = run(&files().await, "SELECT span_id FROM t WHERE start_time_unix_nano < 100").await;
    assert_eq!(rows, 100);
    assert_eq!(matched(&scan, "files_ranges_pruned_statistics"), "1 matched", "{scan}");
    assert_eq!(matched(&scan, "page_index_rows_pruned"), format!("{ONE_PAGE} matched"), "{scan}");
}

/// The whole plan of a query, with what its operators did.
async fn explained(context: &SessionContext, sql: &str) -> String {
    let batches = context.sql(&format!("EXPLAIN ANALYZE {sql}")).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test]
async fn no_condition_stays_above_a_scan_whether_decoding_chooses_rows_or_not() {
    let context = files().await;
    // Each file has a key that the other one lacks, and the status code in a column of its own; nothing promotes `other`.
    for (condition, rows) in [
        ("kind = 'server'", 2 * SPANS),
        ("kind <> 'server'", 0),
        ("kind = 'server' AND start_time_unix_nano < 100", 100),
        ("attr_int(span_attributes, 'http.response.status_code') = 3", 100),
        ("attr_int(span_attributes, 'http.response.status_code') = 3 AND name LIKE '%'", 100),
        ("attr_exists(span_attributes, 'only.first')", SPANS),
        ("attr_int(span_attributes, 'only.first') < 100", 100),
        ("attr_int(span_attributes, 'only.first') < 100 OR attr_exists(span_attributes, 'none')", 100),
        ("attr_int(span_attributes, 'only.first') < 100 AND kind IN ('server', 'client', 'a', 'b')", 100),
    ] {
        let plan = explained(&context, &format!("SELECT span_id FROM t WHERE {condition}")).await;
        assert!(!plan.contains("FilterExec"), "{condition}: {plan}");
        for what in ["count(*)", "count(span_id)", "count(*) FILTER (WHERE name <> '')"] {
            let sql = format!("SELECT {what} AS n FROM t WHERE {condition}");
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            let found = batches[0].column(0).as_primitive::<Int64Type>().value(0);
            assert_eq!(found, rows as i64, "{sql}");
        }
        // A limit is for the rows that are left.
        let sql = format!("SELECT name FROM t WHERE {condition} LIMIT 70");
        let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 70.min(rows as usize), "{sql}");
        // One above which there is a limit already is about the rows that it leaves.
        let sql = format!("SELECT count(*) FROM (SELECT * FROM t LIMIT 70) WHERE {condition}");
        let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
        assert!(batches[0].column(0).as_primitive::<Int64Type>().value(0) <= 70, "{sql}");
    }
}

#[tokio::test]
async fn an_attribute_that_few_rows_have_chooses_rows_while_a_file_is_decoded() {
    let sql =
        "SELECT max(duration_nano) FROM t WHERE attr_int(span_attributes, 'http.response.status_code') IS NOT NULL";
    let (_, scan) = run(&files().await, sql).await;
    assert!(scan.contains("pushdown_rows_matched=40.00 K,"), "{scan}");
}

#[tokio::test]
async fn what_few_rows_meet_is_asked_before_what_many_do() {
    let context = files().await;
    let conditions = ["start_time_unix_nano > 10", "attr_str(span_attributes, 'user.id') = 'user 77'"];
    for order in [[0, 1], [1, 0]] {
        let [first, second] = order.map(|at| conditions[at]);
        let (rows, scan) = run(&context, &format!("SELECT span_id FROM t WHERE {first} AND {second}")).await;
        assert!(rows > 0 && rows < 100, "{rows}");
        let expected = "predicate=attr_str(span_attributes@17, user.id) = user 77 AND start_time_unix_nano@9 > 10";
        assert!(scan.contains(expected), "{scan}");
    }
}

#[tokio::test]
async fn newest_first_reaches_the_scan_as_a_moving_filter() {
    let sql = "SELECT span_id FROM t ORDER BY attr_int(span_attributes, 'http.response.status_code') DESC LIMIT 3";
    let (rows, scan) = run(&files().await, sql).await;
    assert_eq!(rows, 3);
    assert!(scan.contains("predicate=DynamicFilter [ attr_int(span_attributes"), "{scan}");
}

#[tokio::test]
async fn files_and_buffered_batches_take_the_same_output_expressions() {
    let context = files().await;
    let provider = context.table_provider("t").await.unwrap();
    let table = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<StoredTable>().unwrap();
    let buffered = vec![Arc::new(batch(2 * SPANS, "only.third"))];
    let both = StoredTable { files: table.files.clone(), buffered };
    context.register_table("both", Arc::new(both)).unwrap();
    let sql = "SELECT attr_str(span_attributes, 'user.id'), count(*) FROM both \
               WHERE attr_int(span_attributes, 'only.third') < 40010 GROUP BY 1";
    let (rows, scan) = run(&context, sql).await;
    assert_eq!(rows, 10);
    let (files, buffer) = scan.split_once("; buffered_batches=1, spans=20000").unwrap();
    for part in [files, buffer] {
        assert!(part.contains("attr_str(span_attributes@17, user.id)"), "{scan}");
        assert!(part.contains("predicate=attr_int(span_attributes@17, only.third) < 40010"), "{scan}");
    }
    assert_eq!(matched(&scan, "row_groups_pruned_statistics"), "0 matched", "{scan}");
}
