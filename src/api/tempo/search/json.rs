//! The answer of `/api/search`: found traces as Tempo's JSON.
//!
//! Grafana decodes this with a parser that refuses unknown fields, panics if one attribute key has values of two
//! types, and does not take arrays. So nothing is added to Tempo's fields, every key has one scalar type within an
//! answer ([`unify`]), and nested values are shown as text. Zero values are left out and 64-bit numbers are strings,
//! as gogo's jsonpb writes them. `spanSet` is the deprecated twin of the first of `spanSets`; Kiali reads only that.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::found::{FoundSet, FoundSpan, FoundTrace, ServiceStats, Shown};

/// What Tempo shows when no root span is known.
pub(crate) const ROOT_UNKNOWN: &str = "<root span not yet received>";

/// What the search read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SearchStats {
    /// Bytes read from files.
    pub(crate) inspected_bytes: u64,
    /// Files of the table.
    pub(crate) files: u64,
    /// Spans read from files and from memory.
    pub(crate) inspected_spans: u64,
}

/// Whether the answer has spans besides traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spansets {
    /// Those that the query matched.
    Shown,
    /// None, as in answers to searches by tags.
    Left,
}

/// A trace but for its spansets, of which the first is written once and shown twice.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    #[serde(rename = "traceID")]
    trace_id: String,
    root_service_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root_trace_name: String,
    #[serde(serialize_with = "as_text")]
    start_time_unix_nano: i64,
    #[serde(skip_serializing_if = "is_zero")]
    duration_ms: u32,
    #[serde(serialize_with = "as_counts", skip_serializing_if = "BTreeMap::is_empty")]
    service_stats: BTreeMap<String, ServiceStats>,
}

#[derive(Serialize)]
struct SpanSet {
    spans: Vec<Span>,
    #[serde(skip_serializing_if = "is_zero")]
    matched: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(serialize_with = "as_text")]
    start_time_unix_nano: i64,
    #[serde(serialize_with = "as_text", skip_serializing_if = "is_zero")]
    duration_nanos: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValue>,
}

/// An attribute or label.
#[derive(Clone, Serialize)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: AnyValue,
}

/// Its value, as OTLP has it.
#[derive(Clone, Serialize)]
pub(crate) enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue", serialize_with = "as_text")]
    Int(i64),
    #[serde(rename = "doubleValue", serialize_with = "finite_or_text")]
    Double(f64),
    #[serde(rename = "boolValue")]
    Bool(bool),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    #[serde(skip_serializing_if = "is_zero")]
    span_count: u32,
    #[serde(skip_serializing_if = "is_zero")]
    error_count: u32,
}

/// What an answer cost, as searches and series tell it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metrics {
    #[serde(serialize_with = "as_text", skip_serializing_if = "is_zero")]
    inspected_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_blocks: u64,
    completed_jobs: u32,
    total_jobs: u32,
    #[serde(serialize_with = "as_text", skip_serializing_if = "is_zero")]
    inspected_spans: u64,
}

impl Metrics {
    /// The figures of an answer that was not divided into jobs.
    pub(crate) fn of_one_job(inspected_bytes: u64, total_blocks: u64, inspected_spans: u64) -> Self {
        Self { inspected_bytes, total_blocks, completed_jobs: 1, total_jobs: 1, inspected_spans }
    }
}

/// The body of an answer.
pub(crate) fn render(
    mut traces: Vec<FoundTrace>,
    spansets: Spansets,
    stats: SearchStats,
) -> serde_json::Result<Vec<u8>> {
    unify(&mut traces);
    let mut body = br#"{"traces":["#.to_vec();
    for (index, mut found) in traces.into_iter().enumerate() {
        let sets = match spansets {
            Spansets::Shown => std::mem::take(&mut found.sets),
            Spansets::Left => Vec::new(),
        };
        if index > 0 {
            body.push(b',');
        }
        serde_json::to_writer(&mut body, &Trace::from(found))?;
        if !sets.is_empty() {
            // In front of the brace that closes the trace.
            body.pop();
            write_sets(&mut body, sets)?;
            body.push(b'}');
        }
    }
    body.extend_from_slice(br#"],"metrics":"#);
    let metrics = Metrics::of_one_job(stats.inspected_bytes, stats.files, stats.inspected_spans);
    serde_json::to_writer(&mut body, &metrics)?;
    body.push(b'}');
    Ok(body)
}

/// Writes the fields of the spansets of a trace, behind others.
fn write_sets(body: &mut Vec<u8>, sets: Vec<FoundSet>) -> serde_json::Result<()> {
    body.extend_from_slice(br#","spanSet":"#);
    for (index, set) in sets.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let start = body.len();
        serde_json::to_writer(&mut *body, &SpanSet::from(set))?;
        if index == 0 {
            let end = body.len();
            body.extend_from_slice(br#","spanSets":["#);
            body.extend_from_within(start..end);
        }
    }
    body.push(b']');
    Ok(())
}

impl From<FoundTrace> for Trace {
    fn from(found: FoundTrace) -> Self {
        Self {
            trace_id: found.trace_id.to_string().trim_start_matches('0').to_owned(),
            root_service_name: match (&found.root_name, found.root_service_name) {
                (None, _) => ROOT_UNKNOWN.to_owned(),
                (Some(_), service) => service.unwrap_or_default(),
            },
            root_trace_name: found.root_name.unwrap_or_default(),
            start_time_unix_nano: found.start_unix_nano,
            duration_ms: u32::try_from(found.duration_nano / 1_000_000).unwrap_or(u32::MAX),
            service_stats: found.services,
        }
    }
}

impl From<FoundSet> for SpanSet {
    fn from(found: FoundSet) -> Self {
        Self {
            spans: found.spans.into_iter().map(Span::from).collect(),
            matched: u32::try_from(found.matched).unwrap_or(u32::MAX),
            attributes: key_values(found.attributes),
        }
    }
}

fn key_values(attributes: Vec<(String, Shown)>) -> Vec<KeyValue> {
    attributes.into_iter().map(|(key, value)| KeyValue { key, value: value.into() }).collect()
}

impl From<FoundSpan> for Span {
    fn from(found: FoundSpan) -> Self {
        Self {
            span_id: found.span_id.to_string(),
            name: found.name,
            start_time_unix_nano: found.start_unix_nano,
            duration_nanos: found.duration_nano.max(0),
            attributes: key_values(found.attributes),
        }
    }
}

impl From<Shown> for AnyValue {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Text(text) => AnyValue::Text(text),
            Shown::Int(int) => AnyValue::Int(int),
            Shown::Float(float) => AnyValue::Double(float),
            Shown::Bool(bool) => AnyValue::Bool(bool),
        }
    }
}

impl From<ServiceStats> for Counts {
    fn from(stats: ServiceStats) -> Self {
        Self { span_count: stats.span_count, error_count: stats.error_count }
    }
}

fn attributes_of(set: &FoundSet) -> impl Iterator<Item = &(String, Shown)> {
    set.attributes.iter().chain(set.spans.iter().flat_map(|span| &span.attributes))
}

/// Gives every key one type: numbers of both kinds become floats, any other mixture becomes text.
fn unify(traces: &mut [FoundTrace]) {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Text,
        Int,
        Float,
        Bool,
    }
    let kind = |value: &Shown| match value {
        Shown::Text(_) => Kind::Text,
        Shown::Int(_) => Kind::Int,
        Shown::Float(_) => Kind::Float,
        Shown::Bool(_) => Kind::Bool,
    };
    let mut kinds: HashMap<String, Kind> = HashMap::new();
    for (key, value) in traces.iter().flat_map(|trace| &trace.sets).flat_map(attributes_of) {
        let seen = kind(value);
        kinds
            .entry(key.clone())
            .and_modify(|known| {
                *known = match (*known, seen) {
                    (a, b) if a == b => a,
                    (Kind::Int | Kind::Float, Kind::Int | Kind::Float) => Kind::Float,
                    _ => Kind::Text,
                }
            })
            .or_insert(seen);
    }
    let sets = traces.iter_mut().flat_map(|trace| &mut trace.sets);
    for (key, value) in sets.flat_map(|set| {
        let spans = set.spans.iter_mut().flat_map(|span| &mut span.attributes);
        set.attributes.iter_mut().chain(spans)
    }) {
        let shown = match (kinds.get(key), &*value) {
            (Some(Kind::Float), Shown::Int(int)) => Shown::Float(*int as f64),
            (Some(Kind::Text), Shown::Int(int)) => Shown::Text(int.to_string()),
            (Some(Kind::Text), Shown::Float(float)) => Shown::Text(float.to_string()),
            (Some(Kind::Text), Shown::Bool(bool)) => Shown::Text(bool.to_string()),
            _ => continue,
        };
        *value = shown;
    }
}

pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn as_counts<S: serde::Serializer>(
    services: &BTreeMap<String, ServiceStats>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(services.iter().map(|(service, stats)| (service, Counts::from(*stats))))
}

pub(crate) fn as_text<T: ToString, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn finite_or_text<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *value {
        value if value.is_finite() => serializer.serialize_f64(value),
        value if value.is_nan() => serializer.serialize_str("NaN"),
        value if value > 0.0 => serializer.serialize_str("Infinity"),
        _ => serializer.serialize_str("-Infinity"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::ids::{SpanId, TraceId};

    fn trace(attributes: &[(&str, Shown)]) -> FoundTrace {
        FoundTrace {
            trace_id: TraceId::from_bytes([0, 0x1b, 0x83, 0x65, 0x2b, 0xc9, 0x7a, 0x7b, 1, 2, 3, 4, 5, 6, 7, 8]),
            root_service_name: Some("api-gateway".to_owned()),
            root_name: Some("GET /".to_owned()),
            start_unix_nano: 1_795_239_229_798_115_452,
            duration_nano: 165_900_000,
            sets: vec![FoundSet {
                attributes: Vec::new(),
                matched: 2,
                spans: vec![FoundSpan {
                    span_id: SpanId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7]),
                    name: None,
                    start_unix_nano: 1_795_239_229_798_115_452,
                    duration_nano: 0,
                    attributes: attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
                }],
            }],
            services: BTreeMap::from([
                ("api-gateway".to_owned(), ServiceStats { span_count: 5, error_count: 2 }),
                ("auth-service".to_owned(), ServiceStats { span_count: 1, error_count: 0 }),
            ]),
        }
    }

    fn rendered(traces: Vec<FoundTrace>) -> Value {
        serde_json::from_slice(&render(traces, Spansets::Shown, SearchStats::default()).unwrap()).unwrap()
    }

    #[test]
    fn a_trace_looks_as_in_tempo() {
        let found = trace(&[("status", Shown::Text("error".to_owned()))]);
        let spans = json!({
            "spans": [{
                "spanID": "0001020304050607",
                "startTimeUnixNano": "1795239229798115452",
                "attributes": [{"key": "status", "value": {"stringValue": "error"}}],
            }],
            "matched": 2,
        });
        let expected = json!({
            "traces": [{
                "traceID": "1b83652bc97a7b0102030405060708",
                "rootServiceName": "api-gateway",
                "rootTraceName": "GET /",
                "startTimeUnixNano": "1795239229798115452",
                "durationMs": 165,
                "spanSet": spans,
                "spanSets": [spans],
                "serviceStats": {"api-gateway": {"spanCount": 5, "errorCount": 2}, "auth-service": {"spanCount": 1}},
            }],
            "metrics": {"completedJobs": 1, "totalJobs": 1},
        });
        assert_eq!(rendered(vec![found]), expected);
    }

    #[test]
    fn a_trace_without_root_says_so() {
        let mut found = trace(&[]);
        (found.root_name, found.root_service_name) = (None, None);
        let trace = &rendered(vec![found])["traces"][0];
        assert_eq!(trace["rootServiceName"], "<root span not yet received>");
        assert_eq!(trace.get("rootTraceName"), None);
    }

    #[test]
    fn a_key_has_one_type_within_an_answer() {
        let traces = vec![
            trace(&[("n", Shown::Int(1)), ("mixed", Shown::Int(1)), ("same", Shown::Bool(true))]),
            trace(&[
                ("n", Shown::Float(f64::NAN)),
                ("mixed", Shown::Text("x".to_owned())),
                ("same", Shown::Bool(false)),
            ]),
        ];
        let answer = rendered(traces);
        let values = |index: usize| {
            let attributes = answer["traces"][index]["spanSet"]["spans"][0]["attributes"].as_array().unwrap().clone();
            attributes.into_iter().map(|attribute| attribute["value"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(values(0), [json!({"doubleValue": 1.0}), json!({"stringValue": "1"}), json!({"boolValue": true})]);
        assert_eq!(values(1)[..2], [json!({"doubleValue": "NaN"}), json!({"stringValue": "x"})]);
    }

    #[test]
    fn every_spanset_shows_with_its_attributes_and_the_first_one_twice() {
        let mut found = trace(&[]);
        let set = |service: &str, matched| FoundSet {
            attributes: vec![
                ("by(resource.service.name)".to_owned(), Shown::Text(service.to_owned())),
                ("count()".to_owned(), Shown::Int(matched)),
            ],
            matched: matched.unsigned_abs(),
            spans: Vec::new(),
        };
        found.sets = vec![set("a", 2), set("b", 1)];
        let trace = &rendered(vec![found])["traces"][0];
        let attributes = |service: &str, count: &str| {
            json!([
                {"key": "by(resource.service.name)", "value": {"stringValue": service}},
                {"key": "count()", "value": {"intValue": count}},
            ])
        };
        let sets = json!([
            {"spans": [], "matched": 2, "attributes": attributes("a", "2")},
            {"spans": [], "matched": 1, "attributes": attributes("b", "1")},
        ]);
        assert_eq!((&trace["spanSets"], &trace["spanSet"]), (&sets, &sets[0]));
    }

    #[test]
    fn an_answer_to_tags_has_no_spans() {
        let json = render(vec![trace(&[])], Spansets::Left, SearchStats::default()).unwrap();
        let answer: Value = serde_json::from_slice(&json).unwrap();
        let trace = answer["traces"][0].as_object().unwrap();
        assert!(!trace.contains_key("spanSet") && !trace.contains_key("spanSets"), "{trace:?}");
    }

    #[test]
    fn nothing_found_is_an_empty_list() {
        assert_eq!(rendered(Vec::new()), json!({"traces": [], "metrics": {"completedJobs": 1, "totalJobs": 1}}));
    }
}
