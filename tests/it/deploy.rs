//! The dashboards are JSON that Grafana takes, on data sources that are provisioned, and what they ask has answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use futures::StreamExt;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use regex::Regex;
use serde_json::{Map, Value};
use tracehouse::{
    clock::{Clock, SystemClock},
    demo::{Workload, WorkloadSettings},
    server::Server,
};

use crate::{frame, tempo_queries, tempo_strict};

/// Panels that the dashboards use; all are part of Grafana.
const PANELS: [&str; 6] = ["heatmap", "nodeGraph", "stat", "table", "text", "timeseries"];

/// What the variables of the dashboards stand for when everything is chosen.
const VARIABLES: [(&str, &str); 2] = [("$service", ".*"), ("$__rate_interval", "1m")];

/// Example spans, of the last minutes.
const SPANS: u64 = 4_000;
const PERIOD: Duration = Duration::from_secs(300);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The types of the data sources that are provisioned, by id.
fn provisioned() -> BTreeMap<String, String> {
    let yaml = fs::read_to_string(root().join("deploy/grafana/provisioning/datasources/tracehouse.yaml")).unwrap();
    let of = |name: &str| -> Vec<String> {
        let values = yaml.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        values.map(str::to_owned).collect()
    };
    of("uid").into_iter().zip(of("type")).collect()
}

/// Every dashboard with its path.
fn boards() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join("deploy/grafana/dashboards")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let board = |path: &Path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    paths.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), board(&path))).collect()
}

fn objects<'a>(value: &'a Value, found: &mut Vec<&'a Map<String, Value>>) {
    match value {
        Value::Object(object) => {
            found.push(object);
            object.values().for_each(|value| objects(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, found)),
        _ => {}
    }
}

/// A question of a panel, with its variables filled in.
#[derive(Debug)]
struct Target {
    place: String,
    source: String,
    fields: Map<String, Value>,
}

impl Target {
    fn text(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn filled(&self, name: &str) -> String {
        VARIABLES.iter().fold(self.text(name).to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    for (file, board) in boards() {
        for panel in board["panels"].as_array().unwrap() {
            let place = format!("{file}: {}", panel["title"].as_str().unwrap());
            for target in panel["targets"].as_array().unwrap() {
                let source = target["datasource"]["type"].as_str().unwrap().to_owned();
                targets.push(Target { place: place.clone(), source, fields: target.as_object().unwrap().clone() });
            }
        }
    }
    targets
}

#[test]
fn dashboards_are_what_grafana_takes_and_use_provisioned_data_sources() {
    let known = provisioned();
    assert_eq!(known.get("tracehouse").map(String::as_str), Some("tempo"), "{known:?}");
    let mut uids = BTreeSet::new();
    for (file, board) in boards() {
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{file}: the uid is not unique");
        assert!(board["title"].as_str().is_some_and(|title| !title.is_empty()), "{file}");
        assert!(board["schemaVersion"].as_u64().is_some_and(|version| version >= 36), "{file}");
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: two panels have one id");
            assert!(PANELS.contains(&panel["type"].as_str().unwrap()), "{file}: {}", panel["type"]);
            let place = &panel["gridPos"];
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| place[name].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= 24, "{file}: {place} ({y})");
        }
        let mut found = Vec::new();
        objects(&board, &mut found);
        for source in found.iter().filter_map(|object| object.get("datasource")) {
            let (uid, kind) = (source["uid"].as_str().unwrap(), source["type"].as_str());
            assert_eq!(known.get(uid).map(String::as_str), kind, "{file}: no such data source: {source}");
        }
    }
    for subject in ["rate", "explorer", "service-map", "red", "llm"] {
        assert!(uids.contains(&format!("tracehouse-{subject}")), "no dashboard {subject}: {uids:?}");
    }
}

/// Sends example traces of the last minutes; the range that covers them, in Unix seconds.
async fn send_example(server: &Server) -> (i64, i64) {
    let now = SystemClock.now_unix_nano();
    let start = u64::try_from(now).unwrap() - u64::try_from(PERIOD.as_nanos()).unwrap();
    let address = format!("http://{}", server.addresses().otlp_grpc);
    let mut client = TraceServiceClient::connect(address).await.unwrap();
    for request in Workload::new(WorkloadSettings::period(7, start, PERIOD, SPANS)) {
        client.export(request).await.unwrap();
    }
    let now_seconds = now / 1_000_000_000;
    (now_seconds - i64::try_from(PERIOD.as_secs()).unwrap() - 60, now_seconds + 60)
}

/// What is wrong with the answer to a panel's question in TraceQL.
async fn fault(base: &str, target: &Target, range: (i64, i64), metrics: &Regex) -> Option<String> {
    let query = target.filled("query");
    let number = |name: &str| target.fields.get(name).map(Value::to_string);
    let mut parameters = vec![("q", query.clone()), ("start", range.0.to_string()), ("end", range.1.to_string())];
    let (path, list) = match (metrics.is_match(&query), target.text("metricsQueryType")) {
        (true, "instant") => ("/api/metrics/query", "series"),
        (true, "range") => {
            parameters.push(("step", "15s".to_owned()));
            ("/api/metrics/query_range", "series")
        }
        (false, "") => {
            parameters.extend([("limit", number("limit").unwrap()), ("spss", number("spss").unwrap())]);
            ("/api/search", "traces")
        }
        (_, other) => return Some(format!("{}: {query} with metricsQueryType {other:?}", target.place)),
    };
    let url = reqwest::Url::parse_with_params(&format!("{base}{path}"), &parameters).unwrap();
    let response = reqwest::get(url).await.unwrap();
    let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
    let fault = match (status, tempo_strict::check(path, &body)) {
        (200, Ok(())) if has_data(&body, list) => return None,
        (200, Ok(())) => "no data".to_owned(),
        (200, Err(fault)) => fault,
        _ => format!("{status} {body}"),
    };
    Some(format!("{}: {query}\n  {fault}", target.place))
}

/// Whether an answer has something that a panel shows.
fn has_data(body: &str, list: &str) -> bool {
    let answer: Value = serde_json::from_str(body).unwrap();
    let items = answer[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let shows = |item: &Value| match item["samples"].as_array() {
        Some(samples) => samples.iter().any(|sample| sample["value"].is_number()),
        None => true,
    };
    items.iter().any(shows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_something_of_the_example_traces() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    let range = send_example(&server).await;
    let base = format!("http://{}", server.addresses().tempo);
    let (targets, metrics) = (targets(), tempo_queries::metrics());
    let traceql: Vec<&Target> = targets.iter().filter(|target| target.text("queryType") == "traceql").collect();
    assert!(traceql.len() >= 25, "{} queries", traceql.len());
    let faults: Vec<String> =
        futures::stream::iter(traceql.into_iter().map(|target| fault(&base, target, range, &metrics)))
            .buffer_unordered(4)
            .filter_map(async |fault| fault)
            .collect()
            .await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Variables are lists of values.
    for (file, board) in boards() {
        for variable in board["templating"]["list"].as_array().unwrap() {
            let label = variable["query"]["label"].as_str().unwrap();
            let answer = frame::get(&server, &format!("/api/v2/search/tag/.{label}/values?limit=5000")).await;
            let values: Value = answer.json().await.unwrap();
            assert!(values["tagValues"].as_array().unwrap().len() > 5, "{file}: {label}: {values}");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panels_about_the_server_ask_for_metrics_that_it_has() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    send_example(&server).await;
    let metrics = frame::get(&server, "/metrics").await.text().await.unwrap();
    let name = Regex::new(r"\b(?:tracehouse|process)_[a-z_]+\b").unwrap();
    let targets = targets();
    let expressions = targets.iter().filter(|target| target.source == "prometheus");
    let mut known = 0;
    for target in expressions {
        for wanted in name.find_iter(&target.filled("expr")) {
            let line = metrics.lines().find(|line| line.starts_with(wanted.as_str()));
            assert!(line.is_some(), "{}: {}", target.place, wanted.as_str());
            known += 1;
        }
    }
    assert!(known >= 8, "{known}");
    server.stop().await.unwrap();
}
