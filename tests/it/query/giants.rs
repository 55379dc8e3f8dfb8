//! Traces too large to be looked at as a whole.

use std::{env::temp_dir, io::Write, sync::Arc};

use arrow::{
    array::{AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::Int64Type,
};
use datafusion::{catalog::TableProvider, datasource::MemTable};
use futures::FutureExt;
use tracehouse::{
    error::{Error, ErrorKind},
    model::{
        ids::TraceId,
        schema::{column, logical_schema},
        tenant::TenantId,
        time::TimeRange,
    },
    query::{
        BaseTables, MetricsQuery, PartialAnswers, QueryEngine, QueryKind, QueryLimits, QueryRequest, QueryStats,
        TraceByIdQuery, TraceQlQuery,
    },
};

use crate::query::data::{START, engine, of_json, plain_span, sql, tables};

/// Rows of a batch.
const ROWS: u64 = 8192;

/// One trace of `count` spans, all children of one that is not there; each starts a nanosecond after the one before, and
/// they come from last to first.
fn giant(count: u64) -> Vec<RecordBatch> {
    let one = of_json(&plain_span(7, 1, false, 0, "shop", true));
    let all = take_record_batch(&one, &UInt32Array::from(vec![0; ROWS as usize])).unwrap();
    let place = |name: &str| all.schema().index_of(name).unwrap();
    let (id, start) = (place(column::SPAN_ID), place(column::START_TIME));
    let batch = |first: u64| {
        let numbers = (first..(first + ROWS).min(count)).rev();
        let mut columns = all.slice(0, numbers.clone().count()).columns().to_vec();
        let ids = numbers.clone().map(|number| (number + 1_000).to_be_bytes());
        columns[id] = Arc::new(FixedSizeBinaryArray::try_from_iter(ids).unwrap());
        columns[start] = Arc::new(numbers.map(|number| START + number as i64).collect::<Int64Array>());
        RecordBatch::try_new(all.schema(), columns).unwrap()
    };
    (0..count.div_ceil(ROWS)).rev().map(|part| batch(part * ROWS)).collect()
}

fn over(batches: Vec<RecordBatch>, limits: QueryLimits) -> QueryEngine {
    engine(tables(batches), limits, &temp_dir())
}

fn at_most(spans: usize) -> QueryLimits {
    QueryLimits { trace_spans_max: spans, ..QueryLimits::default() }
}

async fn ask(
    engine: &QueryEngine,
    kind: QueryKind,
    partial: PartialAnswers,
) -> Result<(Vec<RecordBatch>, QueryStats), Error> {
    let mut request = QueryRequest::new(TenantId::single(), kind);
    request.partial = partial;
    engine.execute(request).await?.collect().await
}

fn search(text: &str) -> QueryKind {
    QueryKind::TraceQl(TraceQlQuery::new(text))
}

/// Start and matched spans of each found trace.
fn found(batches: &[RecordBatch]) -> Vec<(i64, i64)> {
    let ints = |batch: &RecordBatch, name: &str| batch[name].as_primitive::<Int64Type>().values().to_vec();
    let of_batch = |batch| ints(batch, column::START_TIME).into_iter().zip(ints(batch, "matched"));
    batches.iter().flat_map(of_batch).map(|(start, matched)| (start - START, matched)).collect()
}

#[tokio::test]
async fn of_a_trace_with_too_many_spans_the_earliest_are_looked_at_and_the_answer_says_so() {
    let other = of_json(&plain_span(1, 1, true, 5, "shop", true));
    for (what, giant) in [("in one batch", giant(300)), ("in many", giant(300).remove(0).split_rows(7))] {
        let mut batches = giant;
        batches.push(other.clone());
        let engine = over(batches, at_most(100));
        let query = search("{ status = error } | count() > 0");
        let (answer, stats) = ask(&engine, query.clone(), PartialAnswers::Marked).await.unwrap();
        assert_eq!(found(&answer), [(5, 1), (0, 100)], "{what}");
        let why = stats.partial.unwrap();
        assert!(why.contains("query.trace_spans_max = 100"), "{why}");

        let refused = ask(&engine, query, PartialAnswers::Refused).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("query.trace_spans_max = 100"), "{refused}");
        let rows = "SELECT count(*) FROM traceql('{ } && { status = error }')";
        let refused = engine.execute(sql(rows)).await.unwrap().collect().await.unwrap_err();
        assert!(refused.message().contains("query.trace_spans_max = 100"), "{refused}");

        // What single spans tell needs no whole trace.
        let rows = "SELECT count(*) FROM traceql('{ status = error }')";
        let (counted, stats) = engine.execute(sql(rows)).await.unwrap().collect().await.unwrap();
        assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), 301);
        assert_eq!(stats.partial, None);
    }
}

#[tokio::test]
async fn series_over_a_giant_trace_say_that_they_are_partial() {
    let engine = over(giant(300), at_most(100));
    let query = MetricsQuery {
        start_unix_nano: Some(START - 1),
        end_unix_nano: Some(START + 1_000),
        instant: true,
        ..MetricsQuery::new("{ } ~ { } | count_over_time()")
    };
    let (answer, stats) = ask(&engine, QueryKind::Metrics(query), PartialAnswers::Marked).await.unwrap();
    let samples = answer[0]["samples"].as_list::<i32>().value(0);
    let value = samples.as_struct()["value"].as_primitive::<arrow::datatypes::Float64Type>().value(0);
    assert_eq!(value, 100.0);
    assert!(stats.partial.is_some());
}

#[tokio::test]
async fn a_trace_beyond_the_memory_of_a_query_is_answered_in_part() {
    let batches = giant(200_000);
    let with_memory = |bytes| {
        let limits = QueryLimits { query_memory_bytes_max: bytes, ..QueryLimits::default() };
        over(batches.clone(), limits)
    };
    let query = search("{ status = error } ~ { status = error } | count() > 1 | select(name)");
    let (answer, stats) = ask(&with_memory(256 << 20), query.clone(), PartialAnswers::Marked).await.unwrap();
    assert_eq!((found(&answer), stats.partial), (vec![(0, 200_000)], None));
    let (answer, stats) = ask(&with_memory(48 << 20), query.clone(), PartialAnswers::Marked).await.unwrap();
    let [(0, matched)] = found(&answer)[..] else { panic!("{answer:?}") };
    assert!((1_000..200_000).contains(&matched), "{matched}");
    assert!(stats.partial.unwrap().contains("fit into memory"));
    let refused = ask(&with_memory(48 << 20), query, PartialAnswers::Refused).await.unwrap_err();
    assert!(refused.message().contains("only its earliest spans can be looked at"), "{refused}");
}

/// The parts of a batch, of so many rows each.
trait SplitRows {
    fn split_rows(self, rows: usize) -> Vec<RecordBatch>;
}

impl SplitRows for RecordBatch {
    fn split_rows(self, rows: usize) -> Vec<RecordBatch> {
        (0..self.num_rows()).step_by(rows).map(|at| self.slice(at, rows.min(self.num_rows() - at))).collect()
    }
}

/// Most memory that this process has held at a time, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}

#[tokio::test]
#[ignore = "minutes in a debug build, and a gigabyte of memory and of disk; run with --ignored --nocapture"]
async fn ten_million_spans_in_one_trace_neither_crash_nor_exhaust_memory() {
    const SPANS: u64 = 10_000_000;
    let batches = giant(SPANS);
    let before = peak_bytes();
    let limits = QueryLimits { timeout: std::time::Duration::from_secs(3_600), ..QueryLimits::default() };
    // As many partitions as a server has threads: each has an operator of its own.
    let partitions = batches.chunks(batches.len().div_ceil(4)).map(<[RecordBatch]>::to_vec).collect();
    let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(logical_schema(), partitions).unwrap());
    let tables: BaseTables = Arc::new(move |_: &TenantId| {
        let table = Arc::clone(&table);
        async move { Ok(table) }.boxed()
    });
    let engine = engine(tables, limits, &temp_dir());
    let whole = QueryKind::TraceById(TraceByIdQuery {
        trace_id: TraceId::from_bytes(7_u128.to_be_bytes()),
        hint: None,
        filter: None,
    });
    let mut report = Vec::new();
    for (name, kind) in [
        ("filter", search("{ status = error }")),
        ("structure", search("{ status = error } ~ { status = error }")),
        ("group", search("{ } | by(name) | count() > 1 | select(span.n)")),
        ("row series", QueryKind::Metrics(range("{ status = error } | rate() by(name)"))),
        ("trace series", QueryKind::Metrics(range("{ } ~ { } | max_over_time(trace:duration)"))),
        ("by id", whole),
    ] {
        let started = std::time::Instant::now();
        let outcome = match ask(&engine, kind, PartialAnswers::Marked).await {
            Ok((answer, stats)) => {
                let rows: usize = answer.iter().map(RecordBatch::num_rows).sum();
                assert!(stats.peak_memory_bytes <= QueryLimits::default().query_memory_bytes_max as u64);
                let (peak, spilled) = (stats.peak_memory_bytes >> 20, stats.spilled_bytes >> 20);
                format!("{rows} rows, {peak} MiB of query memory, {spilled} MiB spilled, {:?}", stats.partial)
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::ResourceExhausted | ErrorKind::TooLarge), "{error}");
                format!("refused: {error}")
            }
        };
        report.push(format!("{name}: {outcome}, {:?}", started.elapsed()));
    }
    let grown = peak_bytes().saturating_sub(before) >> 20;
    assert!(grown < 2_048, "the process has grown by {grown} MiB\n{}", report.join("\n"));
    let report = format!("{}\nthe process has grown by {grown} MiB\n", report.join("\n"));
    std::io::stderr().write_all(report.as_bytes()).unwrap();
}

fn range(text: &str) -> MetricsQuery {
    let range = TimeRange::new(START, START + 20_000_000);
    MetricsQuery {
        start_unix_nano: Some(range.start_unix_nano),
        end_unix_nano: Some(range.end_unix_nano),
        step_nano: Some(10_000_000),
        ..MetricsQuery::new(text)
    }
}
