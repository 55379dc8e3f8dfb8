//! Exemplars are the same wherever the spans lie: they are found by their starts in a buffer, and by their rows in files.

use std::path::Path;

use serde_json::Value;
use tracehouse::server::Server;

use crate::{frame, support::spans::send_json};

const START: u64 = 1_795_239_000;

/// By text, by a struct that is read in parts, of a number, with filters that many and few pass, of a part of
/// events, and on whole traces.
const QUERIES: [&str; 8] = [
    "{} | rate()",
    "{} | rate() by(name)",
    "{} | quantile_over_time(duration, 0.5, 0.99) by(resource.service.name)",
    "{} | count_over_time() by(span:id) | topk(5)",
    "{ span.text != nil && kind != server } | histogram_over_time(duration)",
    "{ name = \"op-7\" } | max_over_time(duration)",
    "{ event.a = \"a3\" } | rate() by(event.a)",
    "{} && { kind = internal } | rate() by(kind)",
];

/// Traces of two spans each, several seconds apart, of some names, kinds and durations.
async fn send(server: &Server) {
    let span = |index: u64| {
        let start = START * 1_000_000_000 + index * 900_000_000 + index % 2 * 3_000_000_000;
        let end = start + index % 7 * 1_000_000 + 2;
        let (trace, name, kind) = (index / 2 + 1, index % 11, index % 4 + 1);
        format!(
            r#"{{"traceId":"{trace:032x}","spanId":"{index:016x}","name":"op-{name}","kind":{kind},"startTimeUnixNano":"{start}","endTimeUnixNano":"{end}","attributes":[{{"key":"text","value":{{"stringValue":"t{name}"}}}}],"events":[{{"name":"e","timeUnixNano":"{start}","attributes":[{{"key":"a","value":{{"stringValue":"a{name}"}}}},{{"key":"b","value":{{"intValue":"{name}"}}}}]}}]}}"#,
        )
    };
    send_json(server, (1..=400).map(span)).await;
}

async fn answers(server: &Server) -> Vec<(usize, Value)> {
    let mut answers = Vec::new();
    for query in QUERIES {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let path = format!("/api/metrics/query_range?q={query}&start={START}&end={}&step=10&exemplars=50", START + 400);
        let response = frame::get(server, &path).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{query}: {text}");
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        let series = answer["series"].take();
        let shown = series.as_array().unwrap().iter().map(|one| one["exemplars"].as_array().map_or(0, Vec::len)).sum();
        answers.push((shown, series));
    }
    answers
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
    send(&server).await;
    let buffered = answers(&server).await;
    assert_eq!(parquet_files(data.path()), 0);
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    assert!(parquet_files(data.path()) > 0, "a stopped server has stored its spans");
    let stored = answers(&server).await;
    for ((query, before), after) in QUERIES.iter().zip(&buffered).zip(&stored) {
        assert!(before.0 > 0, "{query} shows no exemplar");
        assert_eq!(before, after, "{query}");
    }
    server.stop().await.unwrap();
}
