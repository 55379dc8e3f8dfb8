//! What answers show of fields that have several values in a span or a trace: those that the question is about.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracehouse::server::Server;

use crate::frame;

/// Unix second at which all spans start, one millisecond after the other.
const START: u64 = 1_795_239_000;

fn texts(pairs: &[(&str, &str)]) -> Vec<Value> {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect()
}

fn event(name: &str, attributes: &[(&str, &str)]) -> Value {
    json!({"name": name, "timeUnixNano": (START * 1_000_000_000).to_string(), "attributes": texts(attributes)})
}

/// A trace of a gateway, a shop and a store; a trace of a shop alone.
async fn send(server: &Server) {
    let span = |trace: u8, id: u8, parent: u8, service: &str, name: &str, events: Vec<Value>, links: Vec<Value>| {
        let start = START * 1_000_000_000 + u64::from(id) * 1_000_000;
        let parent = if parent == 0 { String::new() } else { format!("{parent:016x}") };
        json!({"resource": {"attributes": texts(&[("service.name", service)])}, "scopeSpans": [{"spans": [{
            "traceId": format!("{trace:032x}"), "spanId": format!("{id:016x}"), "parentSpanId": parent, "name": name,
            "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000).to_string(),
            "attributes": if id == 1 { texts(&[("level", "of the parent")]) } else { vec![] },
            "events": events, "links": links,
        }]}]})
    };
    let events = vec![
        event("log", &[("level", "info"), ("message", "asked")]),
        event("log", &[("level", "error"), ("message", "refused")]),
        event("exception", &[("exception.type", "Refused"), ("message", "no stock")]),
    ];
    let link = |id: u8, why: &str| json!({"traceId": format!("{id:032x}"), "spanId": format!("{id:016x}"), "attributes": texts(&[("why", why)])});
    let body = json!({"resourceSpans": [
        span(1, 1, 0, "gateway", "GET /cart", vec![], vec![]),
        span(1, 2, 1, "shop", "cart", events, vec![link(7, "first"), link(8, "second")]),
        span(1, 3, 2, "store", "select", vec![], vec![]),
        span(2, 4, 0, "shop", "tidy", vec![event("log", &[("level", "info")])], vec![]),
    ]});
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body.to_string());
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}

async fn get(server: &Server, path: &str, query: &str) -> Value {
    let base = format!("http://{}{path}", server.addresses().tempo);
    let end = START + 60;
    let url = format!("{base}?start={START}&end={end}");
    let response = reqwest::Client::new().get(url).query(&[("q", query)]).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200, "{path} {query}");
    response.json().await.unwrap()
}

/// What is shown of each span that a search finds.
async fn shown(server: &Server, query: &str) -> Vec<String> {
    let answer = get(server, "/api/search", query).await;
    let traces = answer["traces"].as_array().unwrap().iter();
    let spans = traces.flat_map(|trace| trace["spanSets"][0]["spans"].as_array().unwrap());
    let pair = |pair: &Value| {
        (pair["key"].as_str().unwrap().to_owned(), pair["value"]["stringValue"].as_str().unwrap().to_owned())
    };
    spans
        .map(|span| {
            let pairs: BTreeMap<String, String> =
                span["attributes"].as_array().into_iter().flatten().map(pair).collect();
            let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{}: {}", span["name"].as_str().unwrap(), pairs.join(" "))
        })
        .collect()
}

async fn check_shown(server: &Server, state: &str) {
    for (query, expected) in [
        (r#"{ event:name = "exception" }"#, "cart: event:name=exception"),
        (r#"{ event.level = "error" }"#, "cart: level=error"),
        (r#"{ .level = "error" }"#, "cart: level=error"),
        (
            r#"{ event.message =~ "no .*" && event.exception.type != nil }"#,
            "cart: exception.type=Refused message=no stock",
        ),
        (r#"{ event:name = "exception" } | select(event.message)"#, "cart: event:name=exception message=no stock"),
        (r#"{ event.level = "error" } | select(event.message)"#, "cart: level=error message=refused"),
        // The event that is looked for has no such field.
        (r#"{ event:name = "exception" } | select(event.level)"#, "cart: event:name=exception level=info"),
        (r#"{ link.why = "second" } | select(link:spanID)"#, "cart: link:spanID=0000000000000008 why=second"),
        (r#"{ link.why = "second" && event.level = "error" }"#, "cart: level=error why=second"),
        (r#"{ name = "cart" } | select(event.level, link.why)"#, "cart: level=info why=first"),
        // The first filter that finds an event here.
        (r#"{ name = "GET /cart" } > { event.level = "error" } | { event.level != "x" }"#, "cart: level=error"),
        // The parent's attribute is not the event's.
        (r#"{ event.level = "error" && parent.level = "of the parent" }"#, "cart: level=error"),
        (r#"{ event.level = "none" } || { event.level = "error" }"#, "cart: level=error"),
    ] {
        assert_eq!(shown(server, query).await, [expected], "{state}: {query}");
    }
}

async fn values(server: &Server, field: &str, query: &str) -> Vec<String> {
    let answer = get(server, &format!("/api/v2/search/tag/{field}/values"), query).await;
    let values = answer["tagValues"].as_array().unwrap().iter();
    values.map(|value| value["value"].as_str().unwrap().to_owned()).collect()
}

async fn check_roots(server: &Server, state: &str) {
    for (query, services, names) in [
        ("", &["gateway", "shop"][..], &["GET /cart", "tidy"][..]),
        (r#"{ resource.service.name = "store" }"#, &["gateway"], &["GET /cart"]),
        (r#"{ resource.service.name = "shop" }"#, &["gateway", "shop"], &["GET /cart", "tidy"]),
        (r#"{ name = "tidy" && resource.service.name = "#, &["shop"], &["tidy"]),
        (r#"{ name = "nothing" }"#, &[], &[]),
    ] {
        for field in ["rootServiceName", "trace:rootService"] {
            assert_eq!(values(server, field, query).await, services, "{state}: {field} {query}");
        }
        for field in ["rootName", "trace:rootName"] {
            assert_eq!(values(server, field, query).await, names, "{state}: {field} {query}");
        }
    }
}

async fn names(server: &Server, query: &str) -> Vec<String> {
    let answer = get(server, "/api/v2/search/tags", query).await;
    let scopes = answer["scopes"].as_array().unwrap().iter().filter(|scope| scope["name"] == "event");
    let tags = scopes.flat_map(|scope| scope["tags"].as_array().unwrap());
    tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Filters that only the whole trace decides, with parts that are not written yet.
async fn check_of_traces(server: &Server, state: &str) {
    for (field, query, expected) in [
        ("name", r#"{ rootServiceName = "gateway" }"#, &["GET /cart", "cart", "select"][..]),
        ("name", r#"{ rootServiceName = "shop" && span.a = "#, &["tidy"]),
        ("resource.service.name", r#"{ trace:rootName = "GET /cart" && name != "cart" }"#, &["gateway", "store"]),
        ("event.level", r#"{ rootName = "tidy" }"#, &["info"]),
        ("event.exception.type", r#"{ rootName = "tidy" }"#, &[]),
        ("event.message", r#"{ parent.service.name = "gateway" && event.level = "#, &["asked", "no stock", "refused"]),
        ("rootName", r#"{ span:childCount = 1 && name = "cart" }"#, &["GET /cart"]),
    ] {
        assert_eq!(values(server, field, query).await, expected, "{state}: {field} {query}");
    }
    assert_eq!(names(server, r#"{ rootName = "tidy" }"#).await, ["level"], "{state}");
    assert_eq!(names(server, r#"{ rootName = "GET /cart" "#).await, ["exception.type", "level", "message"], "{state}");
}

#[tokio::test]
async fn a_query_of_almost_64_kib_fits_the_address_of_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(folder.path())).await;
    for (length, status) in [(64_000, "200"), (66_000, "414")] {
        // The client library refuses the longer one itself.
        let mut connection = TcpStream::connect(server.addresses().tempo).await.unwrap();
        let address = format!("/api/search?q=%7Bname=%60{}%60%7D", "x".repeat(length));
        let request = format!("GET {address} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{length}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_event_that_is_looked_for_is_shown_and_roots_are_those_of_the_traces_that_match() {
    let folder = tempfile::tempdir().unwrap();
    let settings = frame::settings(folder.path());
    let server = frame::start(&settings).await;
    send(&server).await;
    check_shown(&server, "in memory").await;
    check_roots(&server, "in memory").await;
    check_of_traces(&server, "in memory").await;
    server.stop().await.unwrap();
    let server = frame::start(&settings).await;
    check_shown(&server, "in files").await;
    check_roots(&server, "in files").await;
    check_of_traces(&server, "in files").await;
    server.stop().await.unwrap();
}
