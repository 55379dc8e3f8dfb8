//! A trace as Tempo's HTTP API writes it: the JSON of Go's `jsonpb`, which is neither OTLP/JSON nor plain.
//!
//! Ids are base64, enums are names, 64-bit integers are strings, and whatever is zero or empty is left out, but for the
//! alternatives of a value. Fields come in the order of the `.proto` file.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status, TracesData,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};

use crate::otlp::json_text::{non_finite_name, push_display, push_string};

/// The name of the list of a trace, by which the two versions of the route differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListName {
    /// `/api/traces/{id}`.
    Batches,
    /// `/api/v2/traces/{id}`, below `trace`.
    ResourceSpans,
}

impl ListName {
    fn as_str(self) -> &'static str {
        match self {
            ListName::Batches => "batches",
            ListName::ResourceSpans => "resourceSpans",
        }
    }
}

/// Appends `{"batches":[...]}` or `{"resourceSpans":[...]}`; `{}` for a trace without spans.
pub fn push_trace(out: &mut String, trace: &TracesData, list: ListName) {
    let mut object = Object::open(out);
    object.list(list.as_str(), &trace.resource_spans, resource_spans);
    object.close();
}

fn resource_spans(out: &mut String, group: &ResourceSpans) {
    let mut object = Object::open(out);
    object.message("resource", group.resource.as_ref(), resource);
    object.list("scopeSpans", &group.scope_spans, scope_spans);
    object.text("schemaUrl", &group.schema_url);
    object.close();
}

fn resource(out: &mut String, resource: &Resource) {
    let mut object = Object::open(out);
    object.list("attributes", &resource.attributes, key_value);
    object.number("droppedAttributesCount", resource.dropped_attributes_count);
    object.close();
}

fn scope_spans(out: &mut String, group: &ScopeSpans) {
    let mut object = Object::open(out);
    object.message("scope", group.scope.as_ref(), scope);
    object.list("spans", &group.spans, span);
    object.text("schemaUrl", &group.schema_url);
    object.close();
}

fn scope(out: &mut String, scope: &InstrumentationScope) {
    let mut object = Object::open(out);
    object.text("name", &scope.name);
    object.text("version", &scope.version);
    object.list("attributes", &scope.attributes, key_value);
    object.number("droppedAttributesCount", scope.dropped_attributes_count);
    object.close();
}

fn span(out: &mut String, span: &Span) {
    let mut object = Object::open(out);
    object.bytes("traceId", &span.trace_id);
    object.bytes("spanId", &span.span_id);
    object.text("traceState", &span.trace_state);
    object.bytes("parentSpanId", &span.parent_span_id);
    object.number("flags", span.flags);
    object.text("name", &span.name);
    object.name("kind", SpanKind::try_from(span.kind).ok().filter(|_| span.kind != 0).map(|kind| kind.as_str_name()));
    object.long("startTimeUnixNano", span.start_time_unix_nano);
    object.long("endTimeUnixNano", span.end_time_unix_nano);
    object.list("attributes", &span.attributes, key_value);
    object.number("droppedAttributesCount", span.dropped_attributes_count);
    object.list("events", &span.events, event);
    object.number("droppedEventsCount", span.dropped_events_count);
    object.list("links", &span.links, link);
    object.number("droppedLinksCount", span.dropped_links_count);
    object.message("status", span.status.as_ref(), status);
    object.close();
}

fn event(out: &mut String, event: &Event) {
    let mut object = Object::open(out);
    object.long("timeUnixNano", event.time_unix_nano);
    object.text("name", &event.name);
    object.list("attributes", &event.attributes, key_value);
    object.number("droppedAttributesCount", event.dropped_attributes_count);
    object.close();
}

fn link(out: &mut String, link: &Link) {
    let mut object = Object::open(out);
    object.bytes("traceId", &link.trace_id);
    object.bytes("spanId", &link.span_id);
    object.text("traceState", &link.trace_state);
    object.list("attributes", &link.attributes, key_value);
    object.number("droppedAttributesCount", link.dropped_attributes_count);
    object.number("flags", link.flags);
    object.close();
}

fn status(out: &mut String, status: &Status) {
    let mut object = Object::open(out);
    object.text("message", &status.message);
    object.name("code", StatusCode::try_from(status.code).ok().filter(|_| status.code != 0).map(|c| c.as_str_name()));
    object.close();
}

fn key_value(out: &mut String, attribute: &KeyValue) {
    let mut object = Object::open(out);
    object.text("key", &attribute.key);
    object.message("value", attribute.value.as_ref(), any_value);
    object.close();
}

fn any_value(out: &mut String, value: &AnyValue) {
    let mut object = Object::open(out);
    match &value.value {
        // The second is a reference into a dictionary, which spans do not have.
        None | Some(Value::StringValueStrindex(_)) => {}
        Some(Value::StringValue(text)) => push_string(object.field("stringValue"), text),
        Some(Value::BoolValue(truth)) => push_display(object.field("boolValue"), truth),
        Some(Value::IntValue(number)) => push_display(object.field("intValue"), format_args!("\"{number}\"")),
        Some(Value::DoubleValue(number)) => push_double(object.field("doubleValue"), *number),
        Some(Value::BytesValue(bytes)) => push_base64(object.field("bytesValue"), bytes),
        Some(Value::ArrayValue(array)) => {
            let mut inner = Object::open(object.field("arrayValue"));
            inner.list("values", &array.values, any_value);
            inner.close();
        }
        Some(Value::KvlistValue(list)) => {
            let mut inner = Object::open(object.field("kvlistValue"));
            inner.list("values", &list.values, key_value);
            inner.close();
        }
    }
    object.close();
}

fn push_double(out: &mut String, number: f64) {
    if let Some(name) = non_finite_name(number) {
        push_display(out, format_args!("\"{name}\""));
        return;
    }
    push_display(out, format_args!("{number:?}"));
    if out.ends_with(".0") {
        out.truncate(out.len() - 2);
    }
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    BASE64.encode_string(bytes, out);
    out.push('"');
}

/// An object being written; its methods leave out what is zero or empty.
struct Object<'o> {
    out: &'o mut String,
    is_empty: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, is_empty: true }
    }

    fn close(self) {
        self.out.push('}');
    }

    /// Writes a key; the value is to follow.
    fn field(&mut self, name: &str) -> &mut String {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.push(',');
        }
        push_display(self.out, format_args!("\"{name}\":"));
        self.out
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            push_string(self.field(name), text);
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            push_base64(self.field(name), bytes);
        }
    }

    fn number(&mut self, name: &str, number: u32) {
        if number != 0 {
            push_display(self.field(name), number);
        }
    }

    fn long(&mut self, name: &str, number: u64) {
        if number != 0 {
            push_display(self.field(name), format_args!("\"{number}\""));
        }
    }

    fn name(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            push_display(self.field(name), format_args!("\"{value}\""));
        }
    }

    fn message<M>(&mut self, name: &str, message: Option<&M>, write: fn(&mut String, &M)) {
        if let Some(message) = message {
            write(self.field(name), message);
        }
    }

    fn list<M>(&mut self, name: &str, messages: &[M], write: fn(&mut String, &M)) {
        if messages.is_empty() {
            return;
        }
        let out = self.field(name);
        let mut separator = '[';
        for message in messages {
            out.push(std::mem::replace(&mut separator, ','));
            write(out, message);
        }
        out.push(']');
    }
}
