//! Answers of the Tempo API as strict clients decode them: a field that they do not know is a failure, as it is in Grafana.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// A 64-bit integer in text.
#[derive(Debug, PartialEq)]
pub(crate) struct Long(pub(crate) i128);

impl<'de> Deserialize<'de> for Long {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Long).map_err(serde::de::Error::custom)
    }
}

/// Declares messages whose fields may all be absent, and which have no others.
macro_rules! messages {
    ($( $name:ident { $( $field:ident : $type:ty ),* $(,)? } )*) => {
        $(
            #[derive(Debug, Default, Deserialize, PartialEq)]
            #[serde(deny_unknown_fields, default, rename_all = "camelCase")]
            pub(crate) struct $name { $( pub(crate) $field: Option<$type>, )* }
        )*
    };
}

type Map<T> = std::collections::BTreeMap<String, T>;

messages! {
    SearchResponse { traces: Vec<TraceMetadata>, metrics: SearchMetrics }
    SpanSet { spans: Vec<SearchSpan>, matched: u32, attributes: Vec<KeyValue> }
    ServiceStats { span_count: u32, error_count: u32 }
    SearchMetrics {
        inspected_traces: u32, inspected_bytes: Long, total_blocks: u32, completed_jobs: u32, total_jobs: u32,
        total_block_bytes: Long, inspected_spans: Long,
    }
    KeyValue { key: String, value: AnyValue }
    AnyValue {
        string_value: String, int_value: Long, double_value: Value, bool_value: bool, array_value: ArrayValue,
        kvlist_value: KeyValueList, bytes_value: String,
    }
    ArrayValue { values: Vec<AnyValue> }
    KeyValueList { values: Vec<KeyValue> }

    TagsV1 { tag_names: Vec<String>, metrics: MetadataMetrics }
    TagsV2 { scopes: Vec<ScopeNames>, metrics: MetadataMetrics }
    ScopeNames { name: String, tags: Vec<String> }
    ValuesV1 { tag_values: Vec<String>, metrics: MetadataMetrics }
    ValuesV2 { tag_values: Vec<TagValue>, metrics: MetadataMetrics }
    TagValue { r#type: String, value: String }
    MetadataMetrics {
        inspected_bytes: Long, total_jobs: u32, completed_jobs: u32, total_blocks: u32, total_block_bytes: Long,
    }

    RangeResponse { series: Vec<Series>, metrics: SearchMetrics, status: String, message: String }
    Series { labels: Vec<KeyValue>, samples: Vec<Sample>, exemplars: Vec<Exemplar> }
    Sample { timestamp_ms: Long, value: Value }
    Exemplar { labels: Vec<KeyValue>, value: Value, timestamp_ms: Long }
    InstantResponse { series: Vec<InstantSeries>, metrics: SearchMetrics, status: String, message: String }
    InstantSeries { labels: Vec<KeyValue>, value: Value }

    TraceV1 { batches: Vec<ResourceSpans> }
    TraceV2 { trace: Trace, metrics: MetadataMetrics, status: String, message: String }
    Trace { resource_spans: Vec<ResourceSpans> }
    ResourceSpans { resource: Resource, scope_spans: Vec<ScopeSpans>, schema_url: String }
    Resource { attributes: Vec<KeyValue>, dropped_attributes_count: u32 }
    ScopeSpans { scope: Scope, spans: Vec<Span>, schema_url: String }
    Scope { name: String, version: String, attributes: Vec<KeyValue>, dropped_attributes_count: u32 }
    Span {
        trace_id: String, span_id: String, trace_state: String, parent_span_id: String, flags: u32, name: String,
        kind: String, start_time_unix_nano: Long, end_time_unix_nano: Long, attributes: Vec<KeyValue>,
        dropped_attributes_count: u32, events: Vec<Event>, dropped_events_count: u32, links: Vec<Link>,
        dropped_links_count: u32, status: Status,
    }
    Event { time_unix_nano: Long, name: String, attributes: Vec<KeyValue>, dropped_attributes_count: u32 }
    Link {
        trace_id: String, span_id: String, trace_state: String, attributes: Vec<KeyValue>,
        dropped_attributes_count: u32, flags: u32,
    }
    Status { message: String, code: String }
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TraceMetadata {
    #[serde(rename = "traceID")]
    pub(crate) trace_id: String,
    root_service_name: Option<String>,
    root_trace_name: Option<String>,
    start_time_unix_nano: Option<Long>,
    duration_ms: Option<u32>,
    span_set: Option<SpanSet>,
    span_sets: Option<Vec<SpanSet>>,
    service_stats: Option<Map<ServiceStats>>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SearchSpan {
    #[serde(rename = "spanID")]
    span_id: String,
    name: Option<String>,
    start_time_unix_nano: Option<Long>,
    duration_nanos: Option<Long>,
    attributes: Option<Vec<KeyValue>>,
}

fn decode<T: DeserializeOwned>(body: &str) -> Result<(), String> {
    serde_json::from_str::<T>(body).map(drop).map_err(|error| format!("{error}: {body}"))
}

/// Decodes a JSON answer to `path`, and says what a strict client does not know in it.
pub(crate) fn check(path: &str, body: &str) -> Result<(), String> {
    let decode: fn(&str) -> Result<(), String> = match path {
        "/api/search" => decode::<SearchResponse>,
        "/api/search/tags" => decode::<TagsV1>,
        "/api/v2/search/tags" => decode::<TagsV2>,
        "/api/metrics/query_range" => decode::<RangeResponse>,
        "/api/metrics/query" => decode::<InstantResponse>,
        _ if path.starts_with("/api/search/tag/") => decode::<ValuesV1>,
        _ if path.starts_with("/api/v2/search/tag/") => decode::<ValuesV2>,
        _ if path.starts_with("/api/traces/") => decode::<TraceV1>,
        _ if path.starts_with("/api/v2/traces/") => decode::<TraceV2>,
        _ => return Ok(()),
    };
    decode(body)
}
