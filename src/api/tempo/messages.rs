//! What was found, as the messages of the gRPC API, which are also the protobuf bodies of HTTP.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

use super::{
    metrics::series,
    search::{
        found::{FoundSet, FoundSpan, FoundTrace, Shown},
        json::{ROOT_UNKNOWN, SearchStats, Spansets},
    },
    tempopb::{Exemplar, MetadataMetrics, Sample, SearchMetrics, ServiceStats, Span, SpanSet, TraceSearchMetadata},
};

const MILLISECOND_NANO: i64 = 1_000_000;

/// A trace that was found.
pub(super) fn trace(found: FoundTrace, spansets: Spansets) -> TraceSearchMetadata {
    let sets = if spansets == Spansets::Shown { found.sets } else { Vec::new() };
    let span_sets: Vec<SpanSet> = sets.into_iter().map(span_set).collect();
    let services = found.services.into_iter().map(|(service, stats)| {
        (service, ServiceStats { span_count: stats.span_count, error_count: stats.error_count })
    });
    TraceSearchMetadata {
        trace_id: found.trace_id.to_string().trim_start_matches('0').to_owned(),
        root_service_name: match &found.root_name {
            Some(_) => found.root_service_name.unwrap_or_default(),
            None => ROOT_UNKNOWN.to_owned(),
        },
        root_trace_name: found.root_name.unwrap_or_default(),
        start_time_unix_nano: found.start_unix_nano.max(0).cast_unsigned(),
        duration_ms: u32::try_from(found.duration_nano / MILLISECOND_NANO).unwrap_or(u32::MAX),
        span_set: span_sets.first().cloned(),
        span_sets,
        service_stats: services.collect(),
    }
}

fn span_set(found: FoundSet) -> SpanSet {
    SpanSet {
        spans: found.spans.into_iter().map(span).collect(),
        matched: u32::try_from(found.matched).unwrap_or(u32::MAX),
        attributes: key_values(found.attributes),
    }
}

fn span(found: FoundSpan) -> Span {
    Span {
        span_id: found.span_id.to_string(),
        name: found.name.unwrap_or_default(),
        start_time_unix_nano: found.start_unix_nano.max(0).cast_unsigned(),
        duration_nanos: found.duration_nano.max(0).cast_unsigned(),
        attributes: key_values(found.attributes),
    }
}

/// Attributes or labels.
pub(super) fn key_values(attributes: Vec<(String, Shown)>) -> Vec<KeyValue> {
    attributes.into_iter().map(|(key, value)| key_value(key, value)).collect()
}

fn key_value(key: String, shown: Shown) -> KeyValue {
    let value = match shown {
        Shown::Text(text) => Value::StringValue(text),
        Shown::Int(int) => Value::IntValue(int),
        Shown::Float(float) => Value::DoubleValue(float),
        Shown::Bool(truth) => Value::BoolValue(truth),
    };
    KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A value of a series.
pub(super) fn sample(found: series::Sample) -> Sample {
    Sample { value: found.value, timestamp_ms: found.unix_milli }
}

/// A span that stands for a value of a series.
pub(super) fn exemplar(found: series::Exemplar) -> Exemplar {
    let series::Sample { unix_milli, value } = found.sample;
    Exemplar { labels: key_values(found.labels), value, timestamp_ms: unix_milli }
}

/// What one search read, as one job that is done.
pub(super) fn search_metrics(stats: SearchStats) -> SearchMetrics {
    SearchMetrics {
        inspected_bytes: stats.inspected_bytes,
        inspected_spans: stats.inspected_spans,
        total_blocks: u32::try_from(stats.files).unwrap_or(u32::MAX),
        completed_jobs: 1,
        total_jobs: 1,
        ..SearchMetrics::default()
    }
}

/// What a question about names or values read.
pub(super) fn metadata_metrics(inspected_bytes: u64) -> MetadataMetrics {
    MetadataMetrics { inspected_bytes, total_jobs: 1, completed_jobs: 1, ..MetadataMetrics::default() }
}
