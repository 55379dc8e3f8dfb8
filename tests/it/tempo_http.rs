//! The Tempo routes, by cases in `tests/http`, on spans in memory and in files, and under limits.
//!
//! `tempo.json` goes through the routes and what they refuse, `operators.json` through those that are not about spans,
//! `clients.json` through what each client sends; `limits.json` has cases for servers with settings of their own. A case is
//! a request, the status, and what is to be found in the answer. Every answer in JSON is decoded strictly, and asked for
//! again in protobuf.

use std::{fs, path::Path};

use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tracehouse::{
    api::tempo::tempopb::{
        SearchResponse, SearchTagValuesResponse, SearchTagValuesV2Response, SearchTagsResponse, SearchTagsV2Response,
    },
    config::{ByteSize, Effective, Flag, Settings, Sources},
    server::Server,
};

use crate::{frame, tempo_strict};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// GET without it.
    method: Option<String>,
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

fn read<T: DeserializeOwned>(file: &str) -> T {
    serde_json::from_slice(&fs::read(folder().join(file)).unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn cases() -> Vec<Case> {
    ["tempo.json", "operators.json", "clients.json"].into_iter().flat_map(read::<Vec<Case>>).collect()
}

fn url(server: &Server, case: &Case) -> reqwest::Url {
    let base = format!("http://{}{}", server.addresses().tempo, case.get);
    let url = if case.query.is_empty() { base.parse() } else { reqwest::Url::parse_with_params(&base, &case.query) };
    url.unwrap()
}

async fn run(server: &Server, case: &Case, state: &str) {
    let context = format!("{} ({state})", case.name);
    let method = case.method.as_deref().map_or(reqwest::Method::GET, |method| method.parse().unwrap());
    let mut request = reqwest::Client::new().request(method, url(server, case));
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
        let path = case.get.split('?').next().unwrap();
        assert_eq!(tempo_strict::check(path, &body), Ok(()), "{context}");
        check_in_protobuf(server, case, path, &serde_json::from_str(&body).unwrap(), &context).await;
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

/// The same answer as the message of the gRPC API, with as many items, and without a byte that the message does not know.
async fn check_in_protobuf(server: &Server, case: &Case, path: &str, json: &Value, context: &str) {
    let count = |list: &str| json[list].as_array().map_or(0, Vec::len);
    let decoded: fn(&[u8]) -> (usize, Vec<u8>) = match path {
        "/api/search" => |bytes| again::<SearchResponse>(bytes, |message| message.traces.len()),
        "/api/search/tags" => |bytes| again::<SearchTagsResponse>(bytes, |message| message.tag_names.len()),
        "/api/v2/search/tags" => |bytes| again::<SearchTagsV2Response>(bytes, |message| message.scopes.len()),
        _ if path.starts_with("/api/search/tag/") => {
            |bytes| again::<SearchTagValuesResponse>(bytes, |message| message.tag_values.len())
        }
        _ if path.starts_with("/api/v2/search/tag/") => {
            |bytes| again::<SearchTagValuesV2Response>(bytes, |message| message.tag_values.len())
        }
        _ if path.starts_with("/api/traces/") => {
            |bytes| again::<TracesData>(bytes, |message| message.resource_spans.len())
        }
        // Series are always JSON; traces of the second version are looked at below.
        _ => return,
    };
    let lists = ["traces", "tagNames", "scopes", "tagValues", "batches"];
    let items: usize = lists.into_iter().map(count).sum();
    let request = reqwest::Client::new().get(url(server, case)).header("accept", "application/protobuf");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/protobuf", "{context}");
    let bytes = response.bytes().await.unwrap();
    let (found, written) = decoded(&bytes);
    assert_eq!(found, items, "{context}");
    assert_eq!(written.len(), bytes.len(), "{context}: the message has fields that are not known");
}

/// Decodes a message, counts its items, and encodes it again, which leaves out what is not known.
fn again<M: Message + Default>(bytes: &[u8], count: fn(&M) -> usize) -> (usize, Vec<u8>) {
    let message = M::decode(bytes).unwrap();
    (count(&message), message.encode_to_vec())
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
async fn every_route_has_a_case() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let routes = frame::get(&server, "/status/endpoints").await.text().await.unwrap();
    let cases = cases();
    let asked = |route: &str| {
        let pattern = regex::escape(route).replace(r"\{name\}", ".+").replace(r"\{identifier\}", ".+");
        let pattern =
            pattern.replace(r"\{id\}", "[^/]+").replace(r"\{method\}", "[^/]+").replace(r"\{tenant\}", "[^/]+");
        let pattern = regex::Regex::new(&format!("^{pattern}$")).unwrap();
        cases.iter().any(|case| pattern.is_match(case.get.split('?').next().unwrap()))
    };
    let without: Vec<&str> = routes.lines().filter(|line| line.starts_with('/') && !asked(line)).collect();
    assert!(without.is_empty(), "{without:?}");
    assert!(routes.lines().count() > 20, "{routes}");
    server.stop().await.unwrap();
}

/// A server's settings with those of the query section as a command line would give them.
fn with_settings(settings: Settings, given: &[String]) -> Settings {
    let flag = |text: &String| {
        let (key, value) = text.split_once('=').unwrap();
        assert!(key.starts_with("query."), "{key}");
        Flag { name: "--set".to_owned(), key: key.to_owned(), value: value.to_owned() }
    };
    let flags = given.iter().map(flag).collect();
    let query = Effective::load(&Sources { flags, ..Sources::default() }).unwrap().settings().query.clone();
    Settings { query, ..settings }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    settings: Vec<String>,
    /// A statement of which one client takes the answer very slowly meanwhile.
    meanwhile: Option<String>,
    /// Whether spans are flushed, and the files of the table lost after that.
    #[serde(default)]
    is_table_lost: bool,
    cases: Vec<Case>,
}

/// Begins to take the answer to a statement; it runs until this is dropped.
pub(crate) async fn slow_client(server: &Server, statement: &str) -> reqwest::Response {
    let url = format!("http://{}/api/sql?format=csv", server.addresses().tempo);
    let mut response = reqwest::Client::new().post(url).body(statement.to_owned()).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    response
}

fn lose_files(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            lose_files(&entry);
        } else if entry.extension().is_some_and(|extension| extension == "parquet") {
            fs::remove_file(entry).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_has_its_status_and_is_named() {
    for limited in read::<Vec<Limited>>("limits.json") {
        let data = tempfile::tempdir().unwrap();
        let server = frame::start(&with_settings(frame::settings(data.path()), &limited.settings)).await;
        send(&server).await;
        if limited.is_table_lost {
            assert_eq!(frame::get(&server, "/flush").await.status().as_u16(), 204);
            lose_files(data.path());
        }
        let slow = match &limited.meanwhile {
            Some(statement) => Some(slow_client(&server, statement).await),
            None => None,
        };
        for case in &limited.cases {
            run(&server, case, &limited.settings.join(" ")).await;
        }
        if slow.is_some() {
            // Where the client is gone, there is room for others.
            drop(slow);
            while frame::get(&server, "/api/search?q=%7B%7D").await.status().as_u16() != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let counted = frame::get(&server, "/metrics").await.text().await.unwrap();
            let cancelled = r#"tracehouse_query_seconds_count{kind="sql",outcome="cancelled"} 1"#;
            assert!(counted.contains(cancelled), "{counted}");
        }
        server.stop().await.unwrap();
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_from_a_part_of_a_giant_trace_say_so_where_strict_clients_do_not_mind() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.query.trace_spans_max = 1;
    let server = frame::start(&settings).await;
    send(&server).await;
    let search = frame::get(&server, "/api/search?q=%7B%20%7D%20%7C%20count()%20%3E%200&start=1&end=4000000000").await;
    assert_eq!(search.status().as_u16(), 200);
    let why = search.headers()["tracehouse-partial"].to_str().unwrap().to_owned();
    assert!(why.contains("query.trace_spans_max = 1 "), "{why}");
    let whole = frame::get(&server, "/api/search?q=%7B%20name%20%3D%20%22none%22%20%7D&start=1&end=4000000000").await;
    assert_eq!((whole.status().as_u16(), whole.headers().get("tracehouse-partial")), (200, None));
    let series = "/api/metrics/query?q=%7B%20%7D%20%26%26%20%7B%20%7D%20%7C%20rate()&start=1&end=4000000000";
    let body = frame::get(&server, series).await.text().await.unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["status"].as_str(), Some("PARTIAL"), "{body}");
    assert_eq!(answer["message"].as_str(), Some(why.as_str()), "{body}");
    server.stop().await.unwrap();
}
