//! What the engine answers, refuses and accounts for.

use std::time::Duration;

use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use tracehouse::{
    error::ErrorKind,
    model::{ids::TraceId, tenant::TenantId},
    query::{LimitOverrides, QueryEngine, QueryKind, QueryLimits, QueryRequest, SqlQuery, TraceByIdQuery},
};

use crate::query::data::{engine, shown, small_engine, spans, sql, tables};

#[tokio::test]
async fn spans_are_shown_with_text_ids_utc_times_and_text_attributes() {
    let engine = small_engine();
    insta::assert_snapshot!(
        shown(
            &engine,
            "SELECT trace_id, span_id, parent_span_id, service_name, kind, start_time, end_time, date
             FROM spans ORDER BY start_time, span_id LIMIT 2"
        )
        .await,
        @r"
    +----------------------------------+------------------+------------------+--------------+--------+----------------------+--------------------------+------------+
    | trace_id                         | span_id          | parent_span_id   | service_name | kind   | start_time           | end_time                 | date       |
    +----------------------------------+------------------+------------------+--------------+--------+----------------------+--------------------------+------------+
    | 00000000000000000000000000000001 | 0000000000000001 |                  | gateway      | server | 2026-01-01T00:00:00Z | 2026-01-01T00:00:00.001Z | 2026-01-01 |
    | 00000000000000000000000000000001 | 0000000000000002 | 0000000000000001 | cart         | client | 2026-01-01T00:00:01Z | 2026-01-01T00:00:01.002Z | 2026-01-01 |
    +----------------------------------+------------------+------------------+--------------+--------+----------------------+--------------------------+------------+
    "
    );
    insta::assert_snapshot!(
        shown(&engine, "SELECT span_attributes, events, links FROM spans WHERE name = 'job'").await,
        @r"
    +---------------------------------------------+----------------------------------------------------------------------------------------------+-------------------------------------------------------------------------------------------------------------------------------------------------+
    | span_attributes                             | events                                                                                       | links                                                                                                                                           |
    +---------------------------------------------+----------------------------------------------------------------------------------------------+-------------------------------------------------------------------------------------------------------------------------------------------------+
    | {ratio: 0.5, on: true, list: [1,2], none: } | [{time: 2026-01-01T00:00:05Z, name: retry, attributes: {n: 3}, dropped_attributes_count: 0}] | [{trace_id: 00000000000000000000000000000001, span_id: 0000000000000001, trace_state: , flags: 0, attributes: {}, dropped_attributes_count: 0}] |
    +---------------------------------------------+----------------------------------------------------------------------------------------------+-------------------------------------------------------------------------------------------------------------------------------------------------+
    "
    );
    insta::assert_snapshot!(
        shown(
            &engine,
            "SELECT span_attributes['status'] AS text, attr_int(span_attributes, 'status') AS int,
                    attr_str(span_attributes, 'status') AS str
             FROM spans WHERE service_name = 'cart' LIMIT 1"
        )
        .await,
        @r"
    +------+-----+-----+
    | text | int | str |
    +------+-----+-----+
    | 503  | 503 |     |
    +------+-----+-----+
    "
    );
}

/// The filters in the plan of a query for spans under `condition`.
async fn filters(condition: &str) -> String {
    let engine = small_engine();
    let text = format!("EXPLAIN SELECT name FROM spans WHERE {condition}");
    let (batches, _) = engine.execute(sql(&text)).await.unwrap().collect().await.unwrap();
    let plan = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    let filters = plan.lines().filter_map(|line| line.split_once("FilterExec: "));
    filters.map(|(_, filter)| filter.trim_matches(['|', ' '])).collect::<Vec<_>>().join("\n    ")
}

#[tokio::test]
async fn conditions_on_times_and_ids_reach_the_stored_columns() {
    let mut plans = Vec::new();
    for condition in [
        "start_time >= '2026-01-01T00:00:05Z'",
        "start_time < TIMESTAMP '2026-01-01T00:00:05Z'",
        "start_time >= now() - INTERVAL '5 seconds'",
        "start_time BETWEEN '2026-01-01' AND '2026-01-02'",
        "start_time >= to_timestamp(1767225600)",
        "date = '2026-01-01'",
        "date >= DATE '2026-01-01' AND date < CURRENT_DATE",
        "date_trunc('hour', start_time) = '2026-01-01T00:00:00Z'",
        "trace_id = '00000000000000000000000000000001'",
        "trace_id IN ('00000000000000000000000000000001', '00000000000000000000000000000002')",
        "parent_span_id IS NULL",
        "service_name = 'cart' AND attr_int(span_attributes, 'status') >= 500",
        "span_attributes['http.route'] = '/cart'",
    ] {
        plans.push(format!("{condition}\n    {}", filters(condition).await));
    }
    insta::assert_snapshot!(plans.join("\n"), @r###"
    start_time >= '2026-01-01T00:00:05Z'
        start_time_unix_nano@1 >= 1767225605000000000, projection=[name@0]
    start_time < TIMESTAMP '2026-01-01T00:00:05Z'
        start_time_unix_nano@1 < 1767225605000000000, projection=[name@0]
    start_time >= now() - INTERVAL '5 seconds'
        start_time_unix_nano@1 >= 1767225605000000000, projection=[name@0]
    start_time BETWEEN '2026-01-01' AND '2026-01-02'
        start_time_unix_nano@1 >= 1767225600000000000 AND start_time_unix_nano@1 <= 1767312000000000000, projection=[name@0]
    start_time >= to_timestamp(1767225600)
        start_time_unix_nano@1 >= 1767225600000000000, projection=[name@0]
    date = '2026-01-01'
        start_time_unix_nano@1 >= 1767225600000000000 AND start_time_unix_nano@1 < 1767312000000000000, projection=[name@0]
    date >= DATE '2026-01-01' AND date < CURRENT_DATE
        start_time_unix_nano@1 >= 1767225600000000000 AND start_time_unix_nano@1 < 1767225600000000000, projection=[name@0]
    date_trunc('hour', start_time) = '2026-01-01T00:00:00Z'
        date_trunc(hour, CAST(start_time_unix_nano@1 AS Timestamp(ns, "UTC"))) = 1767225600000000000, projection=[name@0]
    trace_id = '00000000000000000000000000000001'
        trace_id@0 = 00000000000000000000..., projection=[name@1]
    trace_id IN ('00000000000000000000000000000001', '00000000000000000000000000000002')
        trace_id@0 = 00000000000000000000... OR trace_id@0 = 00000000000000000000..., projection=[name@1]
    parent_span_id IS NULL
        parent_span_id@0 IS NULL, projection=[name@1]
    service_name = 'cart' AND attr_int(span_attributes, 'status') >= 500
        __datafusion_extracted_2@0 >= 500 AND __datafusion_extracted_3@2 = cart, projection=[name@1]
    span_attributes['http.route'] = '/cart'
        __datafusion_extracted_2@0 = /cart, projection=[name@1]
    "###);
}

#[tokio::test]
async fn parameters_are_bound_by_position_and_typed_by_their_place() {
    let engine = small_engine();
    let text = "SELECT name FROM spans WHERE duration_nano >= ? AND service_name = ? ORDER BY name";
    let prepared = engine.prepare(sql(text)).await.unwrap();
    let types: Vec<String> =
        prepared.parameters.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(types, ["$1 Int64", "$2 Utf8"]);
    let params = vec![ScalarValue::Int64(Some(4_000_000)), ScalarValue::from("gateway")];
    let kind = QueryKind::Sql(SqlQuery { text: text.to_owned(), params });
    let (batches, stats) =
        engine.execute(QueryRequest::new(TenantId::single(), kind)).await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
    assert_eq!((stats.rows, stats.finished), (2, true));
}

#[tokio::test]
async fn a_trace_has_each_span_once_by_start() {
    let engine = small_engine();
    let query = TraceByIdQuery { trace_id: "1".parse::<TraceId>().unwrap(), hint: None, filter: None };
    let stream = engine.execute(QueryRequest::new(TenantId::single(), QueryKind::TraceById(query))).await.unwrap();
    assert_eq!(stream.schema(), tracehouse::model::schema::logical_schema());
    let (batches, stats) = stream.collect().await.unwrap();
    let text = arrow::util::pretty::pretty_format_batches(
        &batches.iter().map(|batch| batch.project(&[1, 5]).unwrap()).collect::<Vec<_>>(),
    )
    .unwrap()
    .to_string();
    insta::assert_snapshot!(text, @r"
    +------------------+-----------+
    | span_id          | name      |
    +------------------+-----------+
    | 0000000000000001 | GET /cart |
    | 0000000000000002 | cart.get  |
    +------------------+-----------+
    ");
    assert_eq!(stats.rows, 2);
}

/// The error of a query under these limits.
async fn refusal(limits: QueryLimits, text: &str) -> (ErrorKind, String) {
    let spill = tempfile::tempdir().unwrap();
    let engine = engine(tables(vec![spans()]), limits, spill.path());
    let answer = async { engine.execute(sql(text)).await?.collect().await };
    let error = answer.await.unwrap_err();
    (error.kind(), error.message().to_owned())
}

#[tokio::test]
async fn each_limit_names_itself_and_its_value() {
    let limits = QueryLimits::default;
    let rows = QueryLimits { result_rows_max: 3, ..limits() };
    assert_eq!(
        refusal(rows, "SELECT * FROM spans").await,
        (
            ErrorKind::TooLarge,
            "the answer has more rows than the limit query.result_rows_max = 3; add a LIMIT or a filter".to_owned()
        )
    );
    let bytes = QueryLimits { result_bytes_max: 100, ..limits() };
    assert_eq!(
        refusal(bytes, "SELECT * FROM spans").await,
        (
            ErrorKind::TooLarge,
            "the answer has more bytes than the limit query.result_bytes_max = 100; select fewer columns or rows"
                .to_owned()
        )
    );
    let time = QueryLimits { timeout: Duration::from_millis(300), ..limits() };
    assert_eq!(
        refusal(time, "SELECT count(*) FROM generate_series(1, 1000000000000)").await,
        (ErrorKind::DeadlineExceeded, "query took longer than the limit query.timeout = 0.3s".to_owned())
    );
    let memory = QueryLimits { query_memory_bytes_max: 2 << 20, ..limits() };
    let (kind, message) =
        refusal(memory, "SELECT array_agg(value) FROM generate_series(1, 10000000) GROUP BY value % 3").await;
    assert_eq!(kind, ErrorKind::ResourceExhausted, "{message}");
    assert!(message.contains("2097152 is the limit"), "{message}");
}

#[tokio::test]
async fn a_sort_larger_than_its_memory_spills_and_says_so() {
    let spill = tempfile::tempdir().unwrap();
    let limits = QueryLimits { query_memory_bytes_max: 24 << 20, ..QueryLimits::default() };
    let engine = engine(tables(vec![spans()]), limits, spill.path());
    let text = "SELECT value, repeat('x', 100) FROM generate_series(1, 300000) ORDER BY value % 1000, value DESC";
    let (batches, stats) = engine.execute(sql(text)).await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 300_000);
    assert!(stats.spilled_bytes > 0, "{stats:?}");
    assert!(stats.peak_memory_bytes <= 24 << 20, "{stats:?}");
    assert_eq!(engine.memory_used_bytes(), 0);
}

/// Statements that make hundreds of millions of pairs of rows, and find or keep few of them.
fn endless() -> [String; 5] {
    let rows = |name: &str| format!("(SELECT value AS {name} FROM generate_series(1, 30000)) AS of_{name}");
    let (a, b, c) = (rows("a"), rows("b"), rows("c"));
    [
        format!("SELECT count(*) FROM {a}, {b}, {c}"),
        format!("SELECT max(a + b) FROM {a}, {b}"),
        format!("SELECT count(*) FROM {a} JOIN {b} ON a + b < 0"),
        format!("SELECT count(*) FROM {a} JOIN {b} ON a % 2 = b % 2 AND a + b < 0"),
        format!("SELECT sum(b) FROM {a} JOIN {b} ON a % 2 = b % 2"),
    ]
}

/// Waits until no operator is at work: it holds its memory as long as it is.
async fn has_come_to_rest(engine: &QueryEngine, what: &str) {
    for _ in 0..500 {
        if engine.memory_used_bytes() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} goes on");
}

#[tokio::test]
async fn joins_stop_when_their_time_is_over() {
    let spill = tempfile::tempdir().unwrap();
    let limits = QueryLimits { timeout: Duration::from_millis(300), ..QueryLimits::default() };
    let engine = engine(tables(vec![spans()]), limits, spill.path());
    for endless in endless() {
        let refused = async { engine.execute(sql(&endless)).await?.collect().await }.await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::DeadlineExceeded, "{endless}: {refused}");
        has_come_to_rest(&engine, &endless).await;
    }
}

#[tokio::test]
async fn others_are_answered_beside_endless_joins_which_stop_when_nobody_waits() {
    let spill = tempfile::tempdir().unwrap();
    let limits = QueryLimits { timeout: Duration::from_secs(600), ..QueryLimits::default() };
    let engine = engine(tables(vec![spans()]), limits, spill.path());
    let mut running = Vec::new();
    for endless in endless() {
        running.push(engine.execute(sql(&endless)).await.unwrap());
    }
    assert!(shown(&engine, "SELECT count(*) FROM spans").await.contains("count"));
    drop(running);
    has_come_to_rest(&engine, "a query without a reader").await;
}

#[tokio::test]
async fn a_request_can_only_lower_limits() {
    let engine = small_engine();
    let mut request = sql("SELECT * FROM spans");
    request.limits = LimitOverrides { result_rows_max: Some(2), ..LimitOverrides::default() };
    let answer = async { engine.execute(request).await?.collect().await };
    assert!(answer.await.unwrap_err().message().contains("query.result_rows_max = 2"));
    let mut request = sql("SELECT * FROM spans");
    request.limits = LimitOverrides { result_rows_max: Some(u64::MAX), ..LimitOverrides::default() };
    assert!(engine.execute(request).await.unwrap().collect().await.is_ok());
}

#[tokio::test]
async fn dropping_the_stream_cancels_the_query_and_frees_its_place() {
    let spill = tempfile::tempdir().unwrap();
    let limits = QueryLimits { concurrency_max: 1, queue_max: 1, ..QueryLimits::default() };
    let engine = engine(tables(vec![spans()]), limits, spill.path());
    let endless = "SELECT value FROM generate_series(1, 1000000000000)";
    let mut stream = engine.execute(sql(endless)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert!(shown(&engine, "SELECT 1").await.contains('1'));
    assert_eq!(engine.memory_used_bytes(), 0);
}
