//! A trace as Tempo writes it for language models: plain JSON, one group per resource, attributes as objects.
//!
//! ```text
//! {"traceId": hex, "services": [{"serviceName", "resource": {..}, "scopes": [{"name", "version", "spans": [
//!   {"spanId": hex, "name", "parentSpanId": hex, "kind", "startTimeUnixNano": text, "endTimeUnixNano": text,
//!    "durationMs": number, "attributes": {..}, "events": [{"name", "timeUnixNano", "attributes"}],
//!    "links": [{"traceId", "spanId", "attributes"}], "status": {"code", "message"}}]}]}]}
//! ```
//!
//! What is empty is left out, but for the status. The service's name is not repeated among the resource's attributes.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, TracesData,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use serde_json::{Map, Value, json};

use crate::otlp::json_text::non_finite_name;

const SERVICE_NAME: &str = "service.name";

/// The trace; an object without services if it has no spans.
pub fn trace(trace: &TracesData) -> Value {
    let mut object = Map::new();
    if let Some(span) =
        trace.resource_spans.iter().flat_map(|group| &group.scope_spans).flat_map(|group| &group.spans).next()
    {
        object.insert("traceId".to_owned(), hex::encode(&span.trace_id).into());
    }
    put_list(&mut object, "services", trace.resource_spans.iter().map(service));
    Value::Object(object)
}

fn service(group: &ResourceSpans) -> Value {
    let all = group.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    let mut object = Map::new();
    if let Some(name) = all.iter().find(|attribute| attribute.key == SERVICE_NAME) {
        object.insert("serviceName".to_owned(), any(name.value.as_ref()));
    }
    put_attributes(&mut object, "resource", all.iter().filter(|attribute| attribute.key != SERVICE_NAME));
    put_list(&mut object, "scopes", group.scope_spans.iter().map(scope));
    Value::Object(object)
}

fn scope(group: &ScopeSpans) -> Value {
    let mut object = Map::new();
    if let Some(scope) = &group.scope {
        put_text(&mut object, "name", &scope.name);
        put_text(&mut object, "version", &scope.version);
        put_attributes(&mut object, "attributes", &scope.attributes);
    }
    put_list(&mut object, "spans", group.spans.iter().map(span));
    Value::Object(object)
}

fn span(span: &Span) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "spanId", &hex::encode(&span.span_id));
    put_text(&mut object, "name", &span.name);
    put_text(&mut object, "parentSpanId", &hex::encode(&span.parent_span_id));
    put_text(&mut object, "kind", SpanKind::try_from(span.kind).unwrap_or_default().as_str_name());
    put_text(&mut object, "startTimeUnixNano", &span.start_time_unix_nano.to_string());
    put_text(&mut object, "endTimeUnixNano", &span.end_time_unix_nano.to_string());
    let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    object.insert("durationMs".to_owned(), json!(nanos as f64 / 1e6));
    put_attributes(&mut object, "attributes", &span.attributes);
    put_list(&mut object, "events", span.events.iter().map(event));
    put_list(&mut object, "links", span.links.iter().map(link));
    let (code, message) = span.status.as_ref().map_or((0, ""), |status| (status.code, status.message.as_str()));
    let code = StatusCode::try_from(code).unwrap_or_default().as_str_name();
    object.insert("status".to_owned(), json!({"code": code, "message": message}));
    Value::Object(object)
}

fn event(event: &Event) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "name", &event.name);
    put_text(&mut object, "timeUnixNano", &event.time_unix_nano.to_string());
    put_attributes(&mut object, "attributes", &event.attributes);
    Value::Object(object)
}

fn link(link: &Link) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "traceId", &hex::encode(&link.trace_id));
    put_text(&mut object, "spanId", &hex::encode(&link.span_id));
    put_attributes(&mut object, "attributes", &link.attributes);
    Value::Object(object)
}

fn put_text(object: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.to_owned(), text.into());
    }
}

fn put_list(object: &mut Map<String, Value>, name: &str, items: impl Iterator<Item = Value>) {
    let items: Vec<Value> = items.collect();
    if !items.is_empty() {
        object.insert(name.to_owned(), items.into());
    }
}

fn put_attributes<'a>(object: &mut Map<String, Value>, name: &str, attributes: impl IntoIterator<Item = &'a KeyValue>) {
    let attributes = map(attributes);
    if !attributes.is_empty() {
        object.insert(name.to_owned(), attributes.into());
    }
}

fn map<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> Map<String, Value> {
    attributes.into_iter().map(|attribute| (attribute.key.clone(), any(attribute.value.as_ref()))).collect()
}

fn any(value: Option<&AnyValue>) -> Value {
    use any_value::Value::*;
    match value.and_then(|value| value.value.as_ref()) {
        // The second is a reference into a dictionary, which spans do not have.
        None | Some(StringValueStrindex(_)) => Value::Null,
        Some(StringValue(text)) => text.as_str().into(),
        Some(BoolValue(truth)) => (*truth).into(),
        Some(IntValue(number)) => (*number).into(),
        Some(DoubleValue(number)) => non_finite_name(*number).map_or_else(|| (*number).into(), Value::from),
        Some(BytesValue(bytes)) => BASE64.encode(bytes).into(),
        Some(ArrayValue(array)) => array.values.iter().map(|value| any(Some(value))).collect(),
        Some(KvlistValue(list)) => map(&list.values).into(),
    }
}
