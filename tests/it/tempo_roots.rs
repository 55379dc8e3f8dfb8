//! The names of roots that autocompletion lists are those with which a search finds a trace: in the same range, whatever
//! part of a trace lies there, and of several roots of a trace only the one that counts.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tracehouse::server::Server;

use crate::frame;

/// Unix second of the start of the range.
const START: u64 = 1_795_239_000;
const RANGE: u64 = 60;

/// A trace, the id of a span and of its parent, its service and name, and how many seconds after the range's start it starts.
type Row = (u8, u8, u8, &'static str, &'static str, i64);

const ROWS: &[Row] = &[
    // A root and its child in the range.
    (1, 1, 0, "shop", "plain", 1),
    (1, 2, 1, "cart", "get", 2),
    // The root starts before the range, and in another trace after it.
    (2, 1, 0, "early", "before", -30),
    (2, 2, 1, "cart", "get", 5),
    (3, 1, 0, "late", "after", 90),
    (3, 2, 1, "cart", "put", 5),
    // Several roots: the first is outside of the range, or in it, or starts with the other and has the lower id.
    (4, 1, 0, "outer", "first of two", -5),
    (4, 2, 0, "inner", "second of two", 5),
    (5, 2, 0, "inner", "first in the range", 6),
    (5, 1, 0, "outer", "second in the range", 7),
    (6, 9, 0, "nine", "ninth", 8),
    (6, 8, 0, "eight", "eighth", 8),
    // Nothing in the range, no root, a root without a service.
    (7, 1, 0, "gone", "outside", -10),
    (7, 2, 1, "gone", "get", 70),
    (8, 2, 1, "cart", "orphan", 9),
    (9, 1, 0, "", "nameless", 10),
    (9, 2, 0, "second", "put", 11),
    // Too far away to be looked at as parts of the trace.
    (10, 1, 0, "far", "far away", -7_200),
    (10, 2, 0, "near", "near", 12),
];

async fn send(server: &Server, rows: &[Row]) {
    let spans = rows.iter().map(|(trace, id, parent, service, name, start)| {
        let start = (START as i64 + start) * 1_000_000_000;
        let parent = if *parent == 0 { String::new() } else { format!("{parent:016x}") };
        let service = if service.is_empty() {
            json!([])
        } else {
            json!([{"key": "service.name", "value": {"stringValue": service}}])
        };
        json!({"resource": {"attributes": service}, "scopeSpans": [{"spans": [{
            "traceId": format!("{trace:032x}"), "spanId": format!("{id:016x}"), "parentSpanId": parent, "name": name,
            "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000).to_string(),
        }]}]})
    });
    let body = json!({"resourceSpans": spans.collect::<Vec<_>>()}).to_string();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}

async fn get(server: &Server, path: &str, query: &str) -> Value {
    let url = format!("http://{}{path}?start={START}&end={}", server.addresses().tempo, START + RANGE);
    let response = reqwest::Client::new().get(url).query(&[("q", query)]).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200, "{path} {query}");
    response.json().await.unwrap()
}

async fn listed(server: &Server, field: &str, query: &str) -> Vec<String> {
    let answer = get(server, &format!("/api/v2/search/tag/{field}/values"), query).await;
    let values = answer["tagValues"].as_array().unwrap().iter();
    values.map(|value| value["value"].as_str().unwrap().to_owned()).collect()
}

/// The roots' names and services of the traces that a search finds.
async fn shown(server: &Server, query: &str) -> [BTreeSet<String>; 2] {
    let answer = get(server, "/api/search", query).await;
    let traces = answer["traces"].as_array().unwrap();
    ["rootTraceName", "rootServiceName"].map(|key| {
        let texts = traces.iter().filter_map(|trace| trace[key].as_str());
        texts.filter(|text| !text.is_empty() && !text.starts_with('<')).map(str::to_owned).collect()
    })
}

async fn check(server: &Server, state: &str) {
    for query in
        ["", "{ }", "{ name = \"get\" }", "{ .service.name = \"inner\" || name = \"put\" }", "{ name = \"outside\" }"]
    {
        let expected = shown(server, if query.is_empty() { "{ }" } else { query }).await;
        for (field, expected) in ["trace:rootName", "rootServiceName"].into_iter().zip(expected) {
            let expected: Vec<String> = expected.into_iter().collect();
            assert_eq!(listed(server, field, query).await, expected, "{state}: {field} {query}");
        }
    }
    let all = ["after", "before", "eighth", "first in the range", "first of two", "nameless", "near", "plain"];
    assert_eq!(listed(server, "rootName", "").await, all, "{state}");
}

#[tokio::test]
async fn names_of_roots_are_listed_exactly_when_a_search_finds_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = frame::settings(folder.path());
    let server = frame::start(&settings).await;
    // Roots and their children lie apart.
    let (some, others): (Vec<Row>, Vec<Row>) = ROWS.iter().partition(|row| row.1 % 2 == 1);
    send(&server, &some).await;
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    send(&server, &others).await;
    check(&server, "in a file and in memory").await;
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    check(&server, "in files").await;
    let listed = listed(&server, "rootName", "").await;
    for (.., name, _) in ROWS {
        let [found, _] = shown(&server, &format!("{{ rootName = \"{name}\" }}")).await;
        assert_eq!(found.contains(*name), listed.iter().any(|listed| listed == name), "{name}");
    }
    server.stop().await.unwrap();
}
