//! The Tempo routes, by cases in `tests/http/tempo.json`, on spans in memory, in files, and after a crash.

use std::{fs, path::Path};

use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use tracehouse::{
    api::tempo::tempopb::{
        SearchResponse, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsResponse, SearchTagsV2Response,
    },
    config::ByteSize,
    server::Server,
};

use crate::{frame, tempo_strict};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    get: String,
    #[serde(default)]
    query: std::collections::BTreeMap<String, String>,
    accept: Option<String>,
    status: u16,
    /// The body as JSON; parts at the pointers in `mask` are not compared.
    json: Option<Value>,
    #[serde(default)]
    mask: Vec<String>,
    /// Headers of the answer; without it, that of JSON is looked at.
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    text: Option<String>,
    text_starts: Option<String>,
    text_contains: Option<String>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http"))
}

async fn start(data: &Path) -> Server {
    frame::start(&frame::settings(data)).await
}

/// Sends the spans of `tests/http/spans.json`.
pub(crate) async fn send(server: &Server) {
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    let response = request.body(fs::read(folder().join("spans.json")).unwrap()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "{}"));
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(folder().join("tempo.json")).unwrap()).unwrap()
}

async fn run(server: &Server, case: &Case, state: &str) {
    let context = format!("{} ({state})", case.name);
    let base = format!("http://{}{}", server.addresses().tempo, case.get);
    let url = if case.query.is_empty() { base.parse() } else { reqwest::Url::parse_with_params(&base, &case.query) };
    let mut request = reqwest::Client::new().get(url.unwrap());
    if let Some(accept) = &case.accept {
        request = request.header("accept", accept);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = response.text().await.unwrap();
    assert_eq!(status, case.status, "{context}: {body}");
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    for (name, expected) in &case.headers {
        assert_eq!(header(name), Some(expected.as_str()), "{context}: {name}");
    }
    if let Some(expected) = &case.json {
        if !case.headers.contains_key("content-type") {
            assert_eq!(header("content-type"), Some("application/json"), "{context}");
        }
        let (mut found, mut expected) = (serde_json::from_str::<Value>(&body).unwrap(), expected.clone());
        for pointer in &case.mask {
            for side in [&mut found, &mut expected] {
                *side.pointer_mut(pointer).unwrap_or_else(|| panic!("{context}: nothing at {pointer}")) = Value::Null;
            }
        }
        assert_eq!(found, expected, "{context}");
    }
    if status == 200 && header("content-type") == Some("application/json") {
        let checked = tempo_strict::check(case.get.split('?').next().unwrap(), &body);
        assert_eq!(checked, Ok(()), "{context}");
    }
    if let Some(expected) = &case.text {
        assert_eq!(&body, expected, "{context}");
    }
    if let Some(expected) = &case.text_starts {
        assert!(body.starts_with(expected), "{context}: {body}");
    }
    if let Some(expected) = &case.text_contains {
        assert!(body.contains(expected), "{context}: {body}");
    }
}

/// Grafana follows pointers without looking: what protobuf would leave out must be there.
async fn check_protobuf(server: &Server, state: &str) {
    let get = async |path: &str| {
        let url = format!("http://{}{path}", server.addresses().tempo);
        let response = reqwest::Client::new().get(url).header("accept", "application/protobuf").send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/protobuf", "{state}");
        response.bytes().await.unwrap()
    };
    let v1 = get("/api/traces/710ec6be421f317a63a021cfac429c21").await;
    let trace = TracesData::decode(v1.clone()).unwrap();
    let spans: Vec<_> = trace
        .resource_spans
        .iter()
        .inspect(|resource| assert!(resource.resource.is_some(), "{state}"))
        .flat_map(|resource| &resource.scope_spans)
        .inspect(|scope| assert!(scope.scope.is_some(), "{state}"))
        .flat_map(|scope| &scope.spans)
        .collect();
    assert_eq!(spans.len(), 3, "{state}");
    assert!(spans.iter().all(|span| span.status.is_some()), "{state}");
    // Field 1 is the trace, of the same bytes; field 2 are empty metrics.
    let v2 = get("/api/v2/traces/710ec6be421f317a63a021cfac429c21").await;
    let mut expected = vec![0x0a];
    prost::encoding::encode_varint(v1.len() as u64, &mut expected);
    expected.extend_from_slice(&v1);
    expected.extend_from_slice(&[0x12, 0]);
    assert_eq!(v2, expected, "{state}");
    assert_eq!(get("/api/v2/traces/abab").await, [0x0a, 0, 0x12, 0].as_slice(), "{state}");

    let found = SearchResponse::decode(get("/api/search?q=%7B%20status%20%3D%20error%20%7D").await).unwrap();
    let [trace] = found.traces.as_slice() else { panic!("{state}: {found:?}") };
    assert_eq!((trace.trace_id.as_str(), trace.span_sets[0].matched), ("710ec6be421f317a63a021cfac429c21", 2));
    let names = SearchTagsResponse::decode(get("/api/search/tags?scope=event").await).unwrap();
    assert_eq!(names.tag_names, ["exception.message"], "{state}");
    let names = SearchTagsV2Response::decode(get("/api/v2/search/tags?scope=event").await).unwrap();
    assert_eq!(names.scopes[0].tags, ["exception.message"], "{state}");
    let values = SearchTagValuesResponse::decode(get("/api/search/tag/service.name/values").await).unwrap();
    assert_eq!(values.tag_values, ["checkout", "frontend-web"], "{state}");
    let values = SearchTagValuesV2Response::decode(get("/api/v2/search/tag/span.app.vip/values").await).unwrap();
    assert_eq!((values.tag_values[0].r#type.as_str(), values.tag_values[0].value.as_str()), ("bool", "false"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tempo_routes_answer_the_same_from_memory_files_and_a_replayed_log() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    send(&server).await;
    check(&server, "in memory").await;
    // An orderly stop flushes.
    server.stop().await.unwrap();
    let server = start(data.path()).await;
    check(&server, "in files").await;
    server.stop().await.unwrap();
}

async fn check(server: &Server, state: &str) {
    for case in cases() {
        run(server, &case, state).await;
    }
    check_protobuf(server, state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_above_the_limit_is_refused_by_the_first_version_and_cut_by_the_second() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.query.trace_bytes_max = ByteSize::from_bytes(600);
    let server = frame::start(&settings).await;
    send(&server).await;
    let get = async |version: &str| {
        let id = "710ec6be421f317a63a021cfac429c21";
        let response = frame::get(&server, &format!("{version}/traces/{id}")).await;
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let refused = (422, "trace exceeds max size (max bytes: 600; query.trace_bytes_max)".to_owned());
    assert_eq!(get("/api").await, refused);
    let (status, body) = get("/api/v2").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer["status"].as_str()), (200, Some("PARTIAL")), "{body}");
    let message = "Trace exceeds maximum size of 600 bytes, a partial trace is returned";
    assert_eq!(answer["message"].as_str(), Some(message), "{body}");
    assert!(body.matches("startTimeUnixNano").count() < 3, "{body}");
    server.stop().await.unwrap();
}
