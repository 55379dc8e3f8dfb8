//! Exemplars are the same wherever the spans lie: they are found by their starts in a buffer, and by their rows in files. Of
//! spans in files nothing is read for them but which trace rows belong to, once.

use std::{ops::RangeInclusive, path::Path};

use serde_json::Value;
use tracehouse::server::Server;

use crate::{frame, support::spans::send_json};

const START: u64 = 1_795_239_000;

/// By text, by a struct that is read in parts, by what some spans lack, of a number, with filters that many and few pass, of a
/// part of events, and on whole traces.
const QUERIES: [&str; 12] = [
    "{} | rate()",
    "{} | rate() by(name)",
    "{} | quantile_over_time(duration, 0.5, 0.99) by(resource.service.name)",
    "{} | count_over_time() by(span:id) | topk(5)",
    "{ span.text != nil && kind != server } | histogram_over_time(duration)",
    "{ name = \"op-7\" } | max_over_time(duration)",
    "{ event.a = \"a3\" } | rate() by(event.a)",
    "{} && { kind = internal } | rate() by(kind)",
    "{} | rate() by(span.odd)",
    "{} | quantile_over_time(span.number, 0.5) by(kind)",
    "{ kind = client && name = \"op-3\" } | rate()",
    "{ name = \"op-3\" } && { kind = internal } | avg_over_time(duration) by(span.odd)",
];

/// Of these queries everything that is shown is told by what is added up.
const TOLD: [&str; 6] = [
    "{} | rate()",
    "{} | rate() by(resource.service.name)",
    "{} | quantile_over_time(duration, 0.5, 0.99) by(resource.service.name)",
    "{ kind = client && name = \"op-3\" } | histogram_over_time(span.number) by(span.text)",
    "{ status = unset } | max_over_time(duration) by(name)",
    "{ kind = server } && { kind = internal } | rate() by(kind)",
];

const ALL: RangeInclusive<u64> = 1..=400;

/// Traces of two spans each, several seconds apart, of some names, kinds and durations.
async fn send(server: &Server, indexes: RangeInclusive<u64>) {
    let span = |index: u64| {
        let start = START * 1_000_000_000 + index * 900_000_000 + index % 2 * 3_000_000_000;
        let end = start + index % 7 * 1_000_000 + 2;
        let (trace, name, kind) = (index / 2 + 1, index % 11, index % 4 + 1);
        let odd = if index.is_multiple_of(2) { "" } else { r#",{"key":"odd","value":{"boolValue":true}}"# };
        format!(
            r#"{{"traceId":"{trace:032x}","spanId":"{index:016x}","name":"op-{name}","kind":{kind},"startTimeUnixNano":"{start}","endTimeUnixNano":"{end}","attributes":[{{"key":"text","value":{{"stringValue":"t{name}"}}}},{{"key":"number","value":{{"intValue":"{index}"}}}}{odd}],"events":[{{"name":"e","timeUnixNano":"{start}","attributes":[{{"key":"a","value":{{"stringValue":"a{name}"}}}},{{"key":"b","value":{{"intValue":"{name}"}}}}]}}]}}"#,
        )
    };
    send_json(server, indexes.map(span)).await;
}

async fn answer(server: &Server, query: &str, exemplars: usize) -> Value {
    let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let range = format!("start={START}&end={}&step=10", START + 400);
    let path = format!("/api/metrics/query_range?q={query}&{range}&exemplars={exemplars}");
    let response = frame::get(server, &path).await;
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{query}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn shown(series: &Value) -> usize {
    series.as_array().unwrap().iter().map(|one| one["exemplars"].as_array().map_or(0, Vec::len)).sum()
}

async fn answers(server: &Server) -> Vec<(usize, Value)> {
    let mut answers = Vec::new();
    for query in QUERIES {
        let series = answer(server, query, 50).await["series"].take();
        answers.push((shown(&series), series));
    }
    answers
}

/// Spans and bytes that a query has read, and its exemplars.
async fn read(server: &Server, query: &str, exemplars: usize) -> (Value, usize) {
    let mut answer = answer(server, query, exemplars).await;
    let read =
        serde_json::json!([answer["metrics"]["inspectedSpans"].take(), answer["metrics"]["inspectedBytes"].take()]);
    (read, shown(&answer["series"]))
}

fn parquet_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => parquet_files(&path),
        false => usize::from(path.extension().is_some_and(|extension| extension == "parquet")),
    };
    entries.map(count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_spans_have_the_exemplars_that_they_had_in_the_buffer() {
    let data = tempfile::tempdir().unwrap();
    let settings = frame::settings(data.path());
    let server = frame::start(&settings).await;
    send(&server, ALL).await;
    let buffered = answers(&server).await;
    assert_eq!(parquet_files(data.path()), 0);
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    assert!(parquet_files(data.path()) > 0, "a stopped server has stored its spans");
    let stored = answers(&server).await;
    server.stop().await.unwrap();

    // Of two files and a buffer, which reach over the same time.
    let data = tempfile::tempdir().unwrap();
    let settings = frame::settings(data.path());
    for (part, indexes) in [1..=151, 152..=290].into_iter().enumerate() {
        let server = frame::start(&settings).await;
        assert_eq!(parquet_files(data.path()), part);
        send(&server, indexes).await;
        server.stop().await.unwrap();
    }
    let server = frame::start(&settings).await;
    assert_eq!(parquet_files(data.path()), 2);
    send(&server, 291..=400).await;
    let mixed = answers(&server).await;
    for (((query, before), after), mixed) in QUERIES.iter().zip(&buffered).zip(&stored).zip(&mixed) {
        assert!(before.0 > 0, "{query} shows no exemplar");
        assert_eq!(before, after, "{query}");
        assert_eq!(before, mixed, "{query}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exemplars_of_what_is_added_up_cost_no_second_look_at_spans() {
    let data = tempfile::tempdir().unwrap();
    let settings = frame::settings(data.path());
    let server = frame::start(&settings).await;
    send(&server, ALL).await;
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    assert!(parquet_files(data.path()) > 0, "a stopped server has stored its spans");
    // Which trace a row belongs to is read once.
    answer(&server, "{} | rate()", 50).await;
    for query in TOLD {
        let (with, without) = (read(&server, query, 50).await, read(&server, query, 0).await);
        assert!(with.1 > 0 && without.1 == 0, "{query}: {with:?}, {without:?}");
        assert_eq!(with.0, without.0, "{query}");
    }
    // What neither a label nor the function takes has to be looked up.
    let other = "{ span.text != nil } | rate()";
    let (with, without) = (read(&server, other, 50).await, read(&server, other, 0).await);
    assert_ne!(with.0, without.0);
    server.stop().await.unwrap();
}
