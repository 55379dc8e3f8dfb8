//! Streamed TraceQL metrics say what HTTP says: early where they can, in messages that clients take, the last one complete.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as LabelValue};
use prost::Message;
use serde_json::Value;
use tonic::Code;
use tracehouse::{
    api::tempo::tempopb::{PartialStatus, QueryInstantRequest, QueryRangeRequest, QueryRangeResponse},
    config::HumanDuration,
    server::Server,
};

use crate::{
    frame,
    tempo_grpc::{Client, all, client, send_many},
    tempo_http,
};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_795_239_000;

fn range(query: &str, seconds: u64, step: u64) -> QueryRangeRequest {
    QueryRangeRequest {
        query: query.to_owned(),
        start: START * SECOND,
        end: (START + seconds) * SECOND,
        step: step * SECOND,
        ..QueryRangeRequest::default()
    }
}

async fn ask(client: &mut Client, request: QueryRangeRequest) -> Vec<QueryRangeResponse> {
    all(client.metrics_query_range(request).await).await.unwrap()
}

/// The labels of a series as one text.
fn name(labels: &[KeyValue]) -> String {
    let value = |label: &KeyValue| match label.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(LabelValue::StringValue(text)) => text.clone(),
        Some(LabelValue::DoubleValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    labels.iter().map(|label| format!("{}={}", label.key, value(label))).collect::<Vec<_>>().join(",")
}

type Samples = BTreeMap<(String, i64), String>;

/// A number without the last digits, which the parser of JSON does not keep.
fn shown(value: f64) -> String {
    format!("{value:.9e}")
}

/// What a client has put together after these messages: later samples replace earlier ones.
fn samples(messages: &[QueryRangeResponse]) -> Samples {
    let mut all = Samples::new();
    for series in messages.iter().flat_map(|message| &message.series) {
        let name = name(&series.labels);
        all.extend(series.samples.iter().map(|sample| ((name.clone(), sample.timestamp_ms), shown(sample.value))));
    }
    all
}

/// The same of HTTP's answer.
async fn samples_over_http(server: &Server, request: &QueryRangeRequest) -> Samples {
    let query: String = url::form_urlencoded::byte_serialize(request.query.as_bytes()).collect();
    let QueryRangeRequest { start, end, step, .. } = request;
    let step = step / SECOND;
    let path = format!("/api/metrics/query_range?q={query}&start={start}&end={end}&step={step}");
    let answer: Value = frame::get(server, &path).await.json().await.unwrap();
    let mut all = Samples::new();
    for series in answer["series"].as_array().unwrap() {
        let label = |label: &Value| {
            let value = match &label["value"]["stringValue"] {
                Value::String(text) => text.clone(),
                _ => label["value"]["doubleValue"].as_f64().unwrap().to_string(),
            };
            format!("{}={value}", label["key"].as_str().unwrap())
        };
        let name = series["labels"].as_array().unwrap().iter().map(label).collect::<Vec<_>>().join(",");
        for sample in series["samples"].as_array().unwrap() {
            let at = sample["timestampMs"].as_str().unwrap().parse().unwrap();
            all.insert((name.clone(), at), shown(sample["value"].as_f64().unwrap_or_default()));
        }
    }
    all
}

fn progress(messages: &[QueryRangeResponse]) -> Vec<(u32, u32)> {
    let metrics = messages.iter().map(|message| message.metrics.unwrap());
    metrics.map(|metrics| (metrics.completed_jobs, metrics.total_jobs)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamed_metrics_are_those_of_http() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    for address in [server.addresses().tempo, server.addresses().tempo_grpc] {
        let mut client = client(address).await;
        for query in
            ["{} | rate()", "{} | count_over_time() by(name)", "{} | quantile_over_time(duration, 0.9) | topk(1)"]
        {
            let request = range(query, 100, 10);
            let expected = samples_over_http(&server, &request).await;
            assert!(!expected.is_empty(), "{query}");
            let messages = ask(&mut client, request).await;
            assert_eq!(samples(&messages), expected, "{query}");
            let (first, last) = (progress(&messages)[0], *progress(&messages).last().unwrap());
            assert_eq!((first.0, last.0), (0, last.1), "{query}");
            assert!(messages.iter().all(|message| message.status == 0));
        }
        let exemplars = ask(&mut client, range("{ status = error } | rate()", 100, 10)).await;
        let shown = exemplars.iter().flat_map(|message| &message.series).flat_map(|series| &series.exemplars);
        let labels: BTreeSet<&str> = shown.flat_map(|one| &one.labels).map(|label| label.key.as_str()).collect();
        assert!(labels.contains("trace:id"), "{labels:?}");

        let request = QueryInstantRequest {
            query: "{} | count_over_time() by(resource.service.name)".to_owned(),
            start: START * SECOND,
            end: (START + 100) * SECOND,
        };
        let messages = all(client.metrics_query_instant(request).await).await.unwrap();
        let last = messages.last().unwrap();
        let series: BTreeMap<String, f64> = last.series.iter().map(|one| (name(&one.labels), one.value)).collect();
        let expected = [("resource.service.name=checkout", 2.0), ("resource.service.name=frontend-web", 2.0)];
        assert_eq!(series, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!((last.metrics.unwrap().completed_jobs, last.metrics.unwrap().total_jobs), (1, 1));
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_part_of_a_long_range_comes_first_and_the_whole_last() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.query.stream_patience = HumanDuration::seconds(0);
    let server = frame::start(&settings).await;
    // Values that make a part of a message each.
    send_many(&server, 400, 6_000).await;
    let mut client = client(server.addresses().tempo).await;
    let request = range("{} | count_over_time() by(span.text, span:id)", 400, 10);
    let expected = samples_over_http(&server, &request).await;
    let messages = ask(&mut client, request.clone()).await;
    assert_eq!(samples(&messages), expected);
    assert!(messages.len() > 3, "{}", messages.len());
    let jobs = progress(&messages);
    assert!(jobs.is_sorted() && jobs[0] == (0, 8) && jobs.last() == Some(&(8, 8)), "{jobs:?}");
    // The part can lose the race against the whole. Where it is there, it is the newest eighth, as it is in the whole.
    let early: Vec<_> = messages.into_iter().filter(|message| message.metrics.unwrap().completed_jobs == 1).collect();
    for (key, value) in samples(&early) {
        assert!(key.1 >= (START as i64 + 350) * 1_000, "{key:?}");
        assert_eq!(expected.get(&key), Some(&value));
    }
    // Of the values of one moment a client keeps the last message alone, so that one is not cut.
    let (start, end) = (request.start, request.end);
    let instant = QueryInstantRequest { query: request.query, start, end };
    let mut stream = client.metrics_query_instant(instant).await.unwrap().into_inner();
    let (mut last, mut sizes) = (0, Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        last = message.series.len();
        sizes.push(message.encoded_len());
    }
    assert_eq!(last, 400);
    assert!(sizes.last().is_some_and(|bytes| *bytes > 1 << 20), "{sizes:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_metrics_queries_and_cut_answers_are_named_in_streams() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.query.metrics_series_max = 1;
    let server = frame::start(&settings).await;
    tempo_http::send(&server).await;
    let mut client = client(server.addresses().tempo).await;
    let messages = ask(&mut client, range("{} | rate() by(name)", 100, 10)).await;
    let last = messages.last().unwrap();
    assert_eq!(last.status, i32::from(PartialStatus::Partial));
    assert!(last.message.starts_with("Response exceeds maximum series limit of 1"), "{}", last.message);
    for (request, expected) in [
        (range("{ status = error }", 100, 10), "not a metrics query"),
        (range("{} | rate(", 100, 10), "parse error"),
        (QueryRangeRequest { end: 1, ..range("{} | rate()", 100, 10) }, "end must be greater than start"),
        (QueryRangeRequest { start: u64::MAX, ..range("{} | rate()", 100, 10) }, "invalid start"),
    ] {
        let refused = all(client.metrics_query_range(request).await).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{expected}");
        assert!(refused.message().contains(expected), "{expected}: {}", refused.message());
    }
    let refused = all(client.metrics_query_instant(QueryInstantRequest::default()).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await.unwrap();
}
