//! Every query of Traces Drilldown, with each primary signal and several filters, sent as Grafana sends it.
//!
//! `tests/http/drilldown.json` has the queries, `tests/http/shop.json` the spans. Each answer is decoded strictly, holds
//! what Drilldown's panels rely on, and is the answer of the reference evaluator, which shares the syntax tree with the
//! server and nothing behind it. `tests/http/drilldown.answers` has the answers without a filter, to be read;
//! `TRACEHOUSE_BLESS=1` writes them.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tracehouse::{
    server::Server,
    traceql::{self, ast::Body},
};

use crate::{
    frame, tempo_strict,
    traceql::{
        evaluated,
        reference::{self, Attr, Attributes, Buckets, Span},
    },
};

/// The start of all data; `start` in the file of spans counts milliseconds from here.
const EPOCH_SECONDS: i64 = 1_795_239_000;
const SECOND_NANO: i64 = 1_000_000_000;
const MILLI_NANO: i64 = 1_000_000;

/// The range that is asked for, in seconds from the start of all data.
const RANGE_SECONDS: i64 = 20;

/// How far from a range the rest of a trace may be: the default of `query.trace_extent_max`.
const EXTENT_NANO: i64 = 3_600 * SECOND_NANO;

/// Requests at a time.
const CONCURRENCY: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    signals: Vec<String>,
    filters: Vec<String>,
    queries: Vec<Query>,
    refused: Vec<Query>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    name: String,
    /// `PS` stands for the primary signal, `F` for the filters.
    q: String,
    /// Of metrics.
    step: Option<String>,
    /// Of searches.
    limit: Option<String>,
    spss: Option<String>,
    /// What `compare` compares with the rest.
    selection: Option<String>,
    /// Whether the panel builds a tree of the answer.
    #[serde(default)]
    structure: bool,
}

impl Query {
    fn filled(&self, signal: &str, filter: &str) -> Self {
        let q = self.q.replace("PS && F", &format!("{signal} && {filter}"));
        Self { q, ..self.clone() }
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http"))
}

fn cases() -> Cases {
    serde_json::from_slice(&fs::read(folder().join("drilldown.json")).unwrap()).unwrap()
}

/// The spans, with times in nanoseconds from the start of all data.
fn spans() -> Vec<Span> {
    let spans: Vec<Value> = serde_json::from_slice(&fs::read(folder().join("shop.json")).unwrap()).unwrap();
    let in_nanos = |json: &Value| {
        let mut span = evaluated::span(json);
        span.start *= MILLI_NANO;
        span.duration *= MILLI_NANO;
        span.events.iter_mut().for_each(|event| event.at *= MILLI_NANO);
        span
    };
    spans.iter().map(in_nanos).collect()
}

fn otlp_attributes(attributes: &Attributes) -> Vec<Value> {
    let value = |attribute: &Attr| match attribute {
        Attr::Str(text) => json!({ "stringValue": text }),
        Attr::Int(int) => json!({ "intValue": int.to_string() }),
        Attr::Float(float) => json!({ "doubleValue": float }),
        Attr::Bool(bool) => json!({ "boolValue": bool }),
        Attr::Empty | Attr::Json(_) => panic!("{attribute:?} is not among these spans"),
    };
    attributes.iter().map(|(key, attribute)| json!({ "key": key, "value": value(attribute) })).collect()
}

fn otlp(span: &Span) -> Value {
    let at = |nanos: i64| (EPOCH_SECONDS * SECOND_NANO + nanos).to_string();
    let (trace, id) = (|id: u64| format!("{id:032x}"), |id: u64| format!("{id:016x}"));
    let events = span.events.iter().map(|event| {
        json!({ "timeUnixNano": at(event.at), "name": event.name, "attributes": otlp_attributes(&event.attributes) })
    });
    let links = span.links.iter().map(|link| {
        json!({
            "traceId": trace(link.trace), "spanId": id(link.span), "attributes": otlp_attributes(&link.attributes),
        })
    });
    let sent = json!({
        "traceId": trace(span.trace), "spanId": id(span.id), "parentSpanId": span.parent.map(id).unwrap_or_default(),
        "name": span.name, "kind": span.kind, "startTimeUnixNano": at(span.start),
        "endTimeUnixNano": at(span.start + span.duration), "attributes": otlp_attributes(&span.own),
        "events": events.collect::<Vec<_>>(), "links": links.collect::<Vec<_>>(),
        "status": { "code": span.status, "message": span.message },
    });
    json!({
        "resource": { "attributes": otlp_attributes(&span.resource) },
        "scopeSpans": [{ "scope": { "name": span.scope_name, "version": span.scope_version }, "spans": [sent] }],
    })
}

async fn send(server: &Server, spans: &[Span]) {
    let body = json!({ "resourceSpans": spans.iter().map(otlp).collect::<Vec<_>>() });
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    let response = request.body(body.to_string()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "{}"));
}

async fn ask(base: &str, query: &Query) -> (u16, String) {
    let end = EPOCH_SECONDS + RANGE_SECONDS;
    let mut parameters = vec![("q", query.q.clone()), ("start", EPOCH_SECONDS.to_string()), ("end", end.to_string())];
    let (path, more) = match &query.step {
        Some(step) => ("/api/metrics/query_range", vec![("step", step.clone()), ("exemplars", "0".to_owned())]),
        None => {
            let of = |value: &Option<String>| value.clone().unwrap();
            ("/api/search", vec![("limit", of(&query.limit)), ("spss", of(&query.spss))])
        }
    };
    parameters.extend(more);
    let url = reqwest::Url::parse_with_params(&format!("{base}{path}"), &parameters).unwrap();
    let response = reqwest::get(url).await.unwrap();
    let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
    if status == 200 {
        assert_eq!(tempo_strict::check(path, &body), Ok(()), "{}", query.q);
    }
    (status, body)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

// ---- searches -------------------------------------------------------------------------------------------------------

/// Traces with the ids of the spans that are shown, a line each.
fn found_lines(answer: &Value) -> Vec<String> {
    let ids = |set: &Value| {
        let ids =
            list(set, "spans").iter().map(|span| u64::from_str_radix(span["spanID"].as_str().unwrap(), 16).unwrap());
        ids.map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
    };
    let line = |trace: &Value| {
        let sets: Vec<String> = list(trace, "spanSets").iter().map(ids).collect();
        format!("{}: {}", trace["traceID"].as_str().unwrap(), sets.join(" / "))
    };
    list(answer, "traces").iter().map(line).collect()
}

/// The same of the reference.
fn expected_lines(pipeline: &traceql::ast::Pipeline, spans: &[Span]) -> Vec<String> {
    // The second that `end` names is asked for, too.
    let range = (0, (RANGE_SECONDS + 1) * SECOND_NANO);
    let found = reference::search(pipeline, spans, range, EXTENT_NANO);
    let line = |found: &reference::Found| {
        let sets = found.spansets.iter().map(|set| set.spans.iter().map(|span| span.id.to_string()));
        let sets: Vec<String> = sets.map(|ids| ids.collect::<Vec<_>>().join(" ")).collect();
        format!("{:x}: {}", found.trace, sets.join(" / "))
    };
    found.iter().map(line).collect()
}

/// What the panel of a trace's structure throws at, if it is not there.
fn check_structure(answer: &Value, query: &str) {
    for trace in list(answer, "traces") {
        let [set] = list(trace, "spanSets") else { panic!("{query}: there should be only 1 spanset") };
        for span in list(set, "spans") {
            let attributes: BTreeMap<&str, &Value> = list(span, "attributes")
                .iter()
                .map(|attribute| (attribute["key"].as_str().unwrap(), &attribute["value"]))
                .collect();
            for name in ["nestedSetLeft", "nestedSetRight", "nestedSetParent"] {
                assert!(attributes.get(name).is_some_and(|value| value["intValue"].is_string()), "{query}: {span}");
            }
            for name in ["service.name", "status"] {
                assert!(attributes.get(name).is_some_and(|value| value["stringValue"].is_string()), "{query}: {span}");
            }
        }
    }
}

// ---- series ---------------------------------------------------------------------------------------------------------

fn label_text(value: &Value) -> String {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "doubleValue" => format!("{:?}", value.as_f64().unwrap()),
        "boolValue" => value.to_string(),
        _ => value.as_str().unwrap().to_owned(),
    }
}

/// Series as the reference writes them, with times from the start of all data.
fn series_lines(answer: &Value) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for series in list(answer, "series") {
        let labels: Vec<String> = list(series, "labels")
            .iter()
            .map(|label| format!("{}={}", label["key"].as_str().unwrap(), label_text(&label["value"])))
            .collect();
        let mut line = format!("{{{}}}", labels.join(", "));
        for sample in list(series, "samples") {
            let millis: i64 = sample["timestampMs"].as_str().unwrap().parse().unwrap();
            sample_text(&mut line, millis - EPOCH_SECONDS * 1_000, sample["value"].as_f64().unwrap_or(0.0));
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

fn sample_text(line: &mut String, millis: i64, value: f64) {
    // Sums in another order differ in their last digits.
    write!(line, " {}:{}", millis / 1_000, (value * 1e9).round() / 1e9).unwrap();
}

fn expected_series(query: &str, metrics: &traceql::ast::Metrics, spans: &[Span], step_nano: i64) -> Vec<String> {
    let buckets = Buckets::of_range(0, (0, RANGE_SECONDS * SECOND_NANO), step_nano);
    let answer = reference::metrics(metrics, spans, buckets, EXTENT_NANO);
    if answer.is_empty() && query.contains("| rate()") && !query.contains(" by(") {
        // A rate of nothing is zero where it has no labels to be zero for, so that a panel has a line.
        let mut line = "{__name__=rate}".to_owned();
        for bucket in 0..buckets.count {
            sample_text(&mut line, (buckets.first + bucket as i64 * buckets.step) / MILLI_NANO, 0.0);
        }
        return vec![line];
    }
    let line = |(labels, samples): &(String, Vec<(i64, f64)>)| {
        let mut line = labels.replace('"', "");
        samples.iter().for_each(|(nanos, value)| sample_text(&mut line, nanos / MILLI_NANO, *value));
        line
    };
    let mut lines: Vec<String> = answer.iter().map(line).collect();
    lines.sort();
    lines
}

/// Counts by `__meta_type` of the totals of all spans: of the service's name, which every span has.
fn totals(answer: &Value) -> BTreeMap<String, f64> {
    let mut totals = BTreeMap::new();
    for series in list(answer, "series") {
        let labels: BTreeMap<&str, String> = list(series, "labels")
            .iter()
            .map(|label| (label["key"].as_str().unwrap(), label_text(&label["value"])))
            .collect();
        let meta = &labels["__meta_type"];
        assert!(["baseline", "selection", "baseline_total", "selection_total"].contains(&meta.as_str()), "{labels:?}");
        assert_eq!(labels.keys().filter(|key| !key.starts_with("__")).count(), 1, "{labels:?}");
        if labels.contains_key("resource.service.name") && meta.ends_with("_total") {
            let sum: f64 = list(series, "samples").iter().filter_map(|sample| sample["value"].as_f64()).sum();
            *totals.entry(meta.trim_end_matches("_total").to_owned()).or_default() += sum;
        }
    }
    totals
}

/// How many spans a filter matches.
fn matches(filter: &str, spans: &[Span]) -> f64 {
    let query = traceql::compile(&format!("{{ {filter} }}")).unwrap();
    let Body::Spansets(pipeline) = &query.body else { panic!("{filter}") };
    let found = reference::search(pipeline, spans, (0, RANGE_SECONDS * SECOND_NANO), EXTENT_NANO);
    found.iter().flat_map(|found| &found.spansets).map(|set| set.spans.len() as f64).sum()
}

// ---- the test -------------------------------------------------------------------------------------------------------

/// A query, its filter, and the lines of its answer or what is wrong with it.
type Answered = (Query, String, Result<Vec<String>, String>);

/// The answer as lines, after everything that can be checked of it.
async fn checked(base: &str, query: &Query, signal: &str, filter: &str, spans: &[Span]) -> Result<Vec<String>, String> {
    let (status, body) = ask(base, query).await;
    assert_eq!(status, 200, "{}: {body}", query.q);
    let answer: Value = serde_json::from_str(&body).unwrap();
    let compiled = traceql::compile(&query.q).unwrap();
    let (lines, expected) = match (&compiled.body, &query.selection) {
        (Body::Spansets(pipeline), _) => (found_lines(&answer), expected_lines(pipeline, spans)),
        (Body::Metrics(_), Some(selection)) => {
            let all = matches(&format!("{signal} && {filter}"), spans);
            let selected = matches(&format!("{signal} && {filter} && {selection}"), spans);
            let totals = totals(&answer);
            let of = |name: &str| totals.get(name).copied().unwrap_or(0.0);
            assert_eq!((of("selection"), of("baseline")), (selected, all - selected), "{}", query.q);
            (series_lines(&answer), series_lines(&answer))
        }
        (Body::Metrics(metrics), None) => {
            let seconds: i64 = query.step.as_ref().unwrap().trim_end_matches('s').parse().unwrap();
            (series_lines(&answer), expected_series(&query.q, metrics, spans, seconds * SECOND_NANO))
        }
    };
    if lines != expected {
        return Err(format!("{}\n  {}\n  not\n  {}", query.q, lines.join("\n  "), expected.join("\n  ")));
    }
    if query.structure {
        check_structure(&answer, &query.q);
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_drilldown_has_the_answer_of_the_reference() {
    let (cases, spans) = (cases(), spans());
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    send(&server, &spans).await;
    let base = format!("http://{}", server.addresses().tempo);
    let mut asked: Vec<(Query, String, String)> = Vec::new();
    for query in &cases.queries {
        for (index, signal) in cases.signals.iter().enumerate() {
            let filled = |filter: &String| (query.filled(signal, filter), signal.clone(), filter.clone());
            // Drilldown begins with the first signal; of the others, one filter is enough.
            let step = if index == 0 { 1 } else { 2 };
            asked.extend(cases.filters.iter().step_by(step).map(filled));
        }
    }
    let answer = |(query, signal, filter): (Query, String, String)| {
        let (base, spans) = (&base, &spans);
        async move {
            let lines = checked(base, &query, &signal, &filter, spans).await;
            (query, filter, lines)
        }
    };
    let answers: Vec<Answered> =
        futures::stream::iter(asked.into_iter().map(answer)).buffered(CONCURRENCY).collect().await;
    let faults: Vec<&str> =
        answers.iter().filter_map(|(_, _, lines)| lines.as_ref().err().map(String::as_str)).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), answers.len(), faults.join("\n"));
    let some = answers.iter().filter(|(_, _, lines)| lines.as_ref().is_ok_and(|lines| !lines.is_empty())).count();
    assert!(answers.len() >= 300 && some * 2 > answers.len(), "{some} of {} have an answer", answers.len());
    for refused in &cases.refused {
        let (status, body) = ask(&base, &refused.filled(&cases.signals[0], "true")).await;
        assert_eq!(status, 400, "{}: {body}", refused.name);
        assert!(body.contains("parse error at line 1, col "), "{}: {body}", refused.name);
    }
    compare_with_file(&answers);
    server.stop().await.unwrap();
}

/// The answers without a filter and to questions that have one, as text to be read.
fn compare_with_file(answers: &[Answered]) {
    let mut text = String::new();
    for (query, filter, lines) in answers {
        let Ok(lines) = lines else { continue };
        if filter != "true" || query.selection.is_some() {
            continue;
        }
        let lines = if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") };
        writeln!(text, "{} {}\n{lines}\n", query.name, query.q.trim()).unwrap();
    }
    let path = folder().join("drilldown.answers");
    if std::env::var_os("TRACEHOUSE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    for (line, (found, expected)) in text.lines().zip(known.lines()).enumerate() {
        assert_eq!(found, expected, "drilldown.answers:{}", line + 1);
    }
    assert_eq!(text.lines().count(), known.lines().count());
}
