//! Requests that several tests send.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use prost::Message;
use tracehouse::{
    model::{promotion::standard, time::TimeRange},
    otlp::{
        Decoded,
        decode::{DecodeError, decode_protobuf},
        rules::{Limits, Rules},
    },
};

/// 2026-11-21T06:00:00Z.
pub(crate) const START: u64 = 1_795_240_800_000_000_000;

pub(crate) fn rules() -> Rules {
    Rules { limits: Limits::default(), time_window: TimeRange::new(0, i64::MAX) }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    decode_protobuf(bytes, &standard(), &rules())
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

pub(crate) fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

pub(crate) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    Value::ArrayValue(ArrayValue { values })
}

/// A span with something in every field.
pub(crate) fn span(n: u8) -> Span {
    Span {
        trace_id: vec![n; 16],
        span_id: vec![n; 8],
        trace_state: "a=b".to_owned(),
        parent_span_id: vec![9; 8],
        flags: 0x301,
        name: "GET /users".to_owned(),
        kind: 2,
        start_time_unix_nano: START + u64::from(n),
        end_time_unix_nano: START + u64::from(n) + 1_000_000,
        attributes: vec![
            attribute("http.route", text("/users/{id}")),
            attribute("http.response.status_code", Value::IntValue(200)),
            attribute("app.cache.hit", Value::BoolValue(true)),
            attribute("app.score", Value::DoubleValue(0.1 + 0.2)),
            attribute("app.raw", Value::BytesValue(vec![0, 1, 255])),
            attribute("app.list", list([Value::IntValue(1), text("x"), list([])])),
            attribute(
                "app.map",
                Value::KvlistValue(KeyValueList {
                    values: vec![attribute("$k", text("v")), attribute("k", text("v"))],
                }),
            ),
            KeyValue { key: "app.empty".to_owned(), value: None, key_strindex: 0 },
        ],
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: START + 5,
            name: "exception".to_owned(),
            attributes: vec![attribute("exception.type", text("Timeout"))],
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![Link {
            trace_id: vec![7; 16],
            span_id: vec![7; 8],
            trace_state: "c=d".to_owned(),
            attributes: vec![attribute("link.reason", text("retry"))],
            dropped_attributes_count: 4,
            flags: 1,
        }],
        dropped_links_count: 5,
        status: Some(Status { message: "boom".to_owned(), code: 2 }),
    }
}

/// One resource and one scope around these spans.
pub(crate) fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![attribute("service.name", text("users")), attribute("process.pid", Value::IntValue(6))],
        dropped_attributes_count: 6,
        entity_refs: Vec::new(),
    };
    let scope = InstrumentationScope {
        name: "io.opentelemetry.http".to_owned(),
        version: "2.9.0".to_owned(),
        attributes: vec![attribute("scope.key", text("scope value"))],
        dropped_attributes_count: 7,
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                schema_url: "https://example.org/scope".to_owned(),
            }],
            schema_url: "https://example.org/resource".to_owned(),
        }],
    }
}

pub(crate) fn bytes(spans: Vec<Span>) -> Vec<u8> {
    request(spans).encode_to_vec()
}
