//! Queries over spans that a reader can check by hand: the reference gives the expected spansets, and the engine the same.
//!
//! `tests/traceql/evaluated/<world>.json` holds the spans, `<world>/*.traceql` the queries. An answer has a line per trace,
//! latest first: its number, then its spansets, each with its attributes in brackets and its spans by id. Spans of one id
//! and several kinds are told apart by the first letters of the kind.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tracehouse::traceql::{
    self,
    ast::Body,
    literal::{Kind, Status},
};

use super::{
    corpus,
    random::{
        engine::{self, Data, Layout, Question},
        series::{self, Times},
    },
    reference::{self, Attr, Attributes, Event, Found, Link, Span},
};

const EVERYTHING: (i64, i64) = (-1_000_000, 1_000_000);
const EXTENT: i64 = 1_000_000;

/// Spans of an answer, more than any trace here has.
const SHOWN: usize = 100;

pub(super) fn read(world: &str) -> Vec<Span> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/traceql/evaluated/{world}.json"));
    let spans: Vec<Json> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    spans.iter().map(span).collect()
}

/// A span of a file.
pub(crate) fn span(json: &Json) -> Span {
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let scope = &json["scope"];
    let items = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    Span {
        trace: json["trace"].as_u64().unwrap(),
        id: json["id"].as_u64().unwrap(),
        parent: json["parent"].as_u64(),
        kind: Kind::ALL.iter().position(|kind| kind.name() == json["kind"]).unwrap(),
        status: Status::ALL.iter().position(|status| status.name() == json["status"]).unwrap_or_default(),
        name: text("name"),
        message: text("message"),
        start: json["start"].as_i64().unwrap(),
        duration: json["duration"].as_i64().unwrap(),
        scope_name: scope["name"].as_str().unwrap_or_default().to_owned(),
        scope_version: scope["version"].as_str().unwrap_or_default().to_owned(),
        own: attributes(&json["span"]),
        resource: attributes(&json["resource"]),
        scope: Attributes::new(),
        events: items("events")
            .iter()
            .map(|event| Event {
                at: event["at"].as_i64().unwrap(),
                name: event["name"].as_str().unwrap().to_owned(),
                attributes: attributes(&event["attributes"]),
            })
            .collect(),
        links: items("links")
            .iter()
            .map(|link| Link {
                trace: link["trace"].as_u64().unwrap(),
                span: link["span"].as_u64().unwrap(),
                attributes: attributes(&link["attributes"]),
            })
            .collect(),
    }
}

fn attributes(json: &Json) -> Attributes {
    let value = |json: &Json| match json {
        Json::Null => Attr::Empty,
        Json::Bool(value) => Attr::Bool(*value),
        Json::String(text) => Attr::Str(text.clone()),
        Json::Number(number) => number.as_i64().map_or_else(|| Attr::Float(number.as_f64().unwrap()), Attr::Int),
        Json::Array(_) | Json::Object(_) => Attr::Json(json.to_string()),
    };
    json.as_object().into_iter().flatten().map(|(key, json)| (key.clone(), value(json))).collect()
}

/// The answer as the corpus shows it.
fn shown(found: &[Found], spans: &[Span]) -> String {
    let mut ids: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for span in spans {
        let kinds = ids.entry((span.trace, span.id)).or_default();
        if !kinds.contains(&span.kind) {
            kinds.push(span.kind);
        }
    }
    let line = |found: &Found| {
        let spansets = found.spansets.iter().map(|spanset| {
            let mut words: Vec<String> = Vec::new();
            if !spanset.attributes.is_empty() {
                let attributes: Vec<String> =
                    spanset.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
                words.push(format!("[{}]", attributes.join(", ")));
            }
            words.extend(spanset.spans.iter().map(|span| {
                let shared = ids[&(found.trace, span.id)].len() > 1;
                let suffix = if shared { &Kind::ALL[span.kind].name()[..1] } else { "" };
                format!("{}{suffix}", span.id)
            }));
            words.join(" ")
        });
        format!("{}: {}", found.trace, spansets.collect::<Vec<_>>().join(" / "))
    };
    let lines: Vec<String> = found.iter().map(line).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
}

/// How the spans lie in each of the engines.
const DIVISIONS: [&str; 3] = ["in a file", "buffered", "divided"];

/// Engines over the same spans: all in one file, all buffered, and spread over files and buffers. A query is asked of one
/// of them; the random queries divide their spans in every way.
fn engines(spans: &[Span]) -> (Runtime, Vec<Data>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let divided = (0..spans.len()).map(|row| row % 5).collect();
    let layouts = [
        Layout { division: vec![0; spans.len()], files: 1, merged: 0 },
        Layout { division: vec![0; spans.len()], files: 0, merged: 0 },
        Layout { division: divided, files: 4, merged: 2 },
    ];
    let data = layouts.iter().map(|layout| runtime.block_on(Data::of(spans, layout, EXTENT))).collect();
    (runtime, data)
}

fn check(world: &str) {
    let spans = read(world);
    let (runtime, engines) = engines(&spans);
    corpus::check(&format!("evaluated/{world}"), |text| {
        let query = traceql::compile(text).map_err(|error| error.to_string())?;
        let Body::Spansets(pipeline) = &query.body else { return Err("no search".to_owned()) };
        let found = reference::search(pipeline, &spans, EVERYTHING, EXTENT);
        let wanted: Vec<String> = found.iter().map(|found| engine::lines(found, SHOWN)).collect();
        let which = text.len() % engines.len();
        let division = DIVISIONS[which];
        let question = Question { text, range: EVERYTHING, limit: SHOWN, shown: SHOWN };
        let answer = runtime.block_on(engine::ask(&engines[which].engine, &question))?;
        if answer != wanted {
            return Err(format!("the engine, {division}:\n{}\nnot\n{}", answer.join("\n"), wanted.join("\n")));
        }
        Ok(shown(&found, &spans))
    });
}

#[test]
fn queries_over_a_shop_find_these_spansets() {
    check("shop");
}

#[test]
fn queries_over_odd_traces_find_these_spansets() {
    check("odd");
}

fn check_series(folder: &str, spans: &[Span], times: Times) {
    let (runtime, engines) = engines(spans);
    corpus::check(&format!("evaluated/{folder}"), |text| {
        let query = traceql::compile(text).map_err(|error| error.to_string())?;
        let Body::Metrics(metrics) = &query.body else { return Err("no metrics".to_owned()) };
        let wanted = reference::metrics(metrics, spans, times.buckets(), EXTENT);
        let which = text.len() % engines.len();
        let answer = runtime.block_on(series::ask(&engines[which].engine, text, times))?;
        if !series::are_same(&answer, &wanted) {
            let (answer, wanted) = (series::shown(&answer), series::shown(&wanted));
            return Err(format!("the engine, {}:\n{answer}\nnot\n{wanted}", DIVISIONS[which]));
        }
        Ok(series::shown(&wanted))
    });
}

#[test]
fn metrics_over_a_shop_make_these_series() {
    let spans = read("shop");
    check_series("shop_series", &spans, Times { start: 1500, end: 6500, step: Some(2000) });
    check_series("shop_instant", &spans, Times { start: 500, end: 10_000, step: None });
}
