//! Searches that stop early: the answer is what reading everything gives.

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use tracehouse::{
    model::{
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
        ids::{SpanId, TraceId},
        promotion,
        tenant::TenantId,
        time::TimeRange,
    },
    query::{QueryKind, QueryRequest, TraceQlQuery},
};

use crate::{maintain::house::House, query::data::START, support::spans::plain_span};

const SECOND: i64 = 1_000_000_000;

/// Spans of one file: more than a search looks through at first, all files together.
const SPANS: u64 = 18_000;

/// Spans in traces of ten. Most traces last a second; every 50th starts a quarter of an hour before its other spans, and
/// every 70th has its error only there.
fn spans(first_trace: u64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let service = [Attribute { key: "service.name", value: Value::Str("shop") }];
    let resource = builder.push_resource(&ResourceFields::default(), &service).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for number in 0..SPANS {
        let (trace, span) = (first_trace + number / 10, number % 10);
        let is_long = trace.is_multiple_of(50);
        let late = if is_long && span > 0 { 900 * SECOND } else { 0 };
        let start = START + trace as i64 * SECOND + span as i64 * SECOND / 10 + late;
        let is_error = if trace.is_multiple_of(70) { span == 0 } else { span == trace % 13 };
        let attributes = [Attribute { key: "n", value: Value::Int(span as i64) }];
        let fields = SpanFields {
            parent_span_id: (span > 0).then(|| SpanId::from_bytes(span.to_be_bytes())),
            status_code: if is_error { 2 } else { 0 },
            ..plain_span(TraceId::from_bytes(u128::from(trace + 1).to_be_bytes()), span + 1, start, 1_000)
        };
        builder.push_span((resource, scope), &fields, &attributes, std::iter::empty(), std::iter::empty()).unwrap();
    }
    builder.finish().unwrap()
}

/// The traces of an answer in order, and the spans that were read for it.
async fn found(house: &House, text: &str, range: TimeRange, limit: usize) -> (Vec<(u128, i64, i64)>, u64) {
    let query = TraceQlQuery { range, limit: Some(limit), ..TraceQlQuery::new(text) };
    let request = QueryRequest::new(TenantId::single(), QueryKind::TraceQl(query));
    let (batches, stats) = house.engine.execute(request).await.unwrap().collect().await.unwrap();
    let of_batch = |batch: &RecordBatch| {
        let ids = batch["trace_id"].as_fixed_size_binary().clone();
        let ints = |name: &str| batch[name].as_primitive::<Int64Type>().values().to_vec();
        let (starts, matched) = (ints("start_time_unix_nano"), ints("matched"));
        let id = move |row: usize| u128::from_be_bytes(ids.value(row).try_into().unwrap());
        (0..starts.len()).map(|row| (id(row), starts[row] - START, matched[row])).collect::<Vec<_>>()
    };
    (batches.iter().flat_map(of_batch).collect(), stats.scanned_rows)
}

#[tokio::test]
async fn a_small_limit_reads_less_and_finds_the_beginning_of_the_whole_answer() {
    let house = House::open().await;
    for file in 0..3 {
        house.store(spans(file * SPANS / 10)).await;
    }
    house.write(spans(3 * SPANS / 10)).await;
    let middle = TimeRange::new(START + 2_000 * SECOND, START + 6_500 * SECOND);
    for (text, range) in [
        ("{ status = error }", TimeRange::ALL),
        ("{ status = error }", middle),
        ("{ span.n = 3 } >> { status = error }", TimeRange::ALL),
        ("{ } | count() > 9", middle),
    ] {
        let (all, spans_of_all) = found(&house, text, range, 100_000).await;
        for limit in [1, 7, 40] {
            let (few, spans_of_few) = found(&house, text, range, limit).await;
            assert_eq!(few, all[..limit.min(all.len())], "{text} limit {limit}");
            assert!(spans_of_few < spans_of_all, "{text}: {spans_of_few} of {spans_of_all} for {limit}");
        }
    }
}
