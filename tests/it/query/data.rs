//! A handful of spans, and engines over them.

use std::{io::Cursor, path::Path, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, json::ReaderBuilder};
use datafusion::{catalog::TableProvider, datasource::MemTable};
use futures::FutureExt;
use tracehouse::{
    clock::ManualClock,
    metrics::Metrics,
    model::{schema::logical_schema, tenant::TenantId},
    query::{BaseTables, EngineOptions, QueryEngine, QueryLimits, QueryRequest},
};

/// 2026-01-01T00:00:00Z in Unix nanoseconds; the spans start some seconds after it.
pub(crate) const START: i64 = 1_767_225_600_000_000_000;

/// One span as JSON. `extra` are further members, with a comma in front.
fn span(trace: u8, span: u8, parent: u8, second: i64, name: &str, extra: &str) -> String {
    let parent = if parent == 0 { "null".to_owned() } else { format!("\"{parent:016x}\"") };
    let start = START + second * 1_000_000_000;
    format!(
        r#"{{"trace_id":"{trace:032x}","span_id":"{span:016x}","parent_span_id":{parent},"flags":1,"name":"{name}",
        "start_time_unix_nano":{start},"duration_nano":{duration},
        "scope_name":"lib","scope_attributes":{{}},
        "dropped_attributes_count":0,"dropped_events_count":0,"dropped_links_count":0,
        "resource_dropped_attributes_count":0,"scope_dropped_attributes_count":0{extra}}}"#,
        duration = 1_000_000 * i64::from(span),
    )
    .replace('\n', "")
}

fn shop(kind: &str, status: &str, service: &str, attributes: &str) -> String {
    format!(
        r#","kind":"{kind}","status_code":"{status}","resource_attributes":{{"service.name":{{"str":"{service}"}}}},
        "span_attributes":{{{attributes}}},"events":[],"links":[]"#
    )
}

/// Six spans of three traces; one span is there twice.
pub(crate) fn spans() -> RecordBatch {
    let get = shop("server", "unset", "gateway", r#""http.route":{"str":"/cart"},"status":{"int":200}"#);
    let fails = shop("client", "error", "cart", r#""http.route":{"str":"/cart/{id}"},"status":{"int":503}"#);
    let rich = r#","kind":"internal","status_code":"ok","resource_attributes":{"service.name":{"str":"worker"}},
        "span_attributes":{"ratio":{"float":0.5},"on":{"bool":true},"list":{"json":"[1,2]"},"none":{}},
        "events":[{"time_unix_nano":1767225605000000000,"name":"retry","attributes":{"n":{"int":3}},
                   "dropped_attributes_count":0}],
        "links":[{"trace_id":"00000000000000000000000000000001","span_id":"0000000000000001","flags":0,
                  "attributes":{},"dropped_attributes_count":0}]"#;
    let lines = [
        span(1, 1, 0, 0, "GET /cart", &get),
        span(1, 2, 1, 1, "cart.get", &fails),
        span(1, 2, 1, 1, "cart.get", &fails),
        span(2, 3, 0, 5, "job", rich),
        span(3, 4, 9, 7, "orphan", &shop("server", "unset", "gateway", "")),
        span(3, 5, 4, 8, "late", &shop("producer", "unset", "gateway", "")),
    ];
    of_json(&lines.join("\n"))
}

/// Rows of the base table, one per line of JSON.
pub(crate) fn of_json(lines: &str) -> RecordBatch {
    let mut reader = ReaderBuilder::new(logical_schema()).with_batch_size(1 << 20).build(Cursor::new(lines)).unwrap();
    reader.next().unwrap().unwrap()
}

/// A span of many: `at` is its start after [`START`] in nanoseconds.
pub(crate) fn plain_span(trace: u32, span: u32, is_root: bool, at: i64, service: &str, is_hit: bool) -> String {
    let parent = if is_root { "null".to_owned() } else { "\"00000000000000ff\"".to_owned() };
    let status = if is_hit { "error" } else { "unset" };
    format!(
        r#"{{"trace_id":"{trace:032x}","span_id":"{span:016x}","parent_span_id":{parent},"flags":0,"name":"s{span}","kind":"server","status_code":"{status}","start_time_unix_nano":{start},"duration_nano":10,"resource_attributes":{{"service.name":{{"str":"{service}"}}}},"scope_attributes":{{}},"span_attributes":{{"n":{{"int":{span}}}}},"events":[],"links":[],"dropped_attributes_count":0,"dropped_events_count":0,"dropped_links_count":0,"resource_dropped_attributes_count":0,"scope_dropped_attributes_count":0}}"#,
        start = START + at,
    )
}

/// A table that holds `batches` in as many partitions.
pub(crate) fn tables(batches: Vec<RecordBatch>) -> BaseTables {
    let partitions = batches.into_iter().map(|batch| vec![batch]).collect();
    let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(logical_schema(), partitions).unwrap());
    Arc::new(move |_: &TenantId| {
        let table = Arc::clone(&table);
        async move { Ok(table) }.boxed()
    })
}

/// An engine over `tables` whose clock stands 10 s after [`START`].
pub(crate) fn engine(tables: BaseTables, limits: QueryLimits, spill: &Path) -> QueryEngine {
    QueryEngine::try_new(EngineOptions {
        store: None,
        tables,
        limits,
        threads: 2,
        spill_folder: spill.to_owned(),
        clock: Arc::new(ManualClock::new(START + 10_000_000_000)),
        metrics: Arc::new(Metrics::new().unwrap()),
        settings: Arc::default(),
    })
    .unwrap()
}

/// An engine over [`spans`] with limits that a test never meets.
pub(crate) fn small_engine() -> QueryEngine {
    let limits = QueryLimits { timeout: Duration::from_secs(120), ..QueryLimits::default() };
    engine(tables(vec![spans()]), limits, &std::env::temp_dir())
}

/// A request for the only tenant.
pub(crate) fn sql(text: &str) -> QueryRequest {
    QueryRequest::sql(TenantId::single(), text)
}

/// The answer to a SQL text as a table, or the error's message after `error: `.
pub(crate) async fn shown(engine: &QueryEngine, text: &str) -> String {
    let answer = async { engine.execute(sql(text)).await?.collect().await };
    match answer.await {
        Ok((batches, _)) => arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string(),
        Err(error) => format!("error: {error}"),
    }
}
