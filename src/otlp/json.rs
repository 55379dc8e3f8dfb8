//! OTLP/JSON into a batch: the protobuf messages as JSON, with hex ids and integer enums.
//!
//! Lenient where senders differ and nothing can be misread: 64-bit integers as numbers or strings, enums as numbers or
//! names, ids in any case, `null` for anything absent, unknown fields. A bad id or time rejects its span, any other wrong
//! type the request, with line and column. Resource and scope are read before the spans below them, wherever they stand, so a
//! list of spans is passed over once and read the second time.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, alphabet, engine};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as OtlpValue},
    trace::v1::{span::SpanKind, status::StatusCode},
};

use crate::{
    model::{
        builder::{Attribute, Value},
        promotion::Promotion,
    },
    otlp::{
        assemble::{
            AssembleError, Assembler, AttributeParts, Decoded, EventParts, IdPart, LinkParts, ResourceParts,
            ScopeParts, SpanParts,
        },
        decode::{DecodeError, check_size},
        json_reader::{JsonError, JsonReader, Kind},
        json_value::push_tree,
        rules::{Fault, Limits, Reason, Rules},
    },
};

/// Both alphabets' padding habits occur; the alphabet is the standard one.
const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

/// Decodes an `ExportTraceServiceRequest` (or the identical `TracesData`) in OTLP/JSON.
pub fn decode_json(request: &[u8], promotion: &Arc<Promotion>, rules: &Rules) -> Result<Decoded, DecodeError> {
    check_size(request)?;
    let text = std::str::from_utf8(request).map_err(|error| DecodeError::NotUtf8 { offset: error.valid_up_to() })?;
    let mut assembler = Assembler::new(promotion, rules, 0);
    let mut reader = JsonReader::new(text);
    message(&mut reader, |reader, key| match key {
        "resourceSpans" => each(reader, |reader| resource_spans(reader, &mut assembler)),
        _ => Ok(reader.skip()?),
    })?;
    reader.end()?;
    Ok(assembler.finish()?)
}

impl From<AssembleError> for Stop {
    fn from(error: AssembleError) -> Self {
        Stop::Assemble(error)
    }
}

/// Why reading stopped.
enum Stop {
    Json(JsonError),
    Assemble(AssembleError),
}

impl From<JsonError> for Stop {
    fn from(error: JsonError) -> Self {
        Stop::Json(error)
    }
}

impl From<Stop> for DecodeError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Json(error) => DecodeError::Json(error),
            Stop::Assemble(error) => error.into(),
        }
    }
}

fn resource_spans(reader: &mut JsonReader<'_>, assembler: &mut Assembler<'_>) -> Result<(), Stop> {
    let mut resource = Owner::default();
    let mut groups = None;
    message(reader, |reader, key| match key {
        "resource" => message(reader, |reader, key| match key {
            "attributes" => attributes(reader, &mut resource.attributes),
            "droppedAttributesCount" => number(reader, key, &mut resource.dropped_attributes_count),
            _ => reader.skip(),
        }),
        "scopeSpans" => bookmark(reader, key, &mut groups),
        "schemaUrl" => text(reader, &mut resource.schema_url),
        _ => reader.skip(),
    })?;
    let mut parts = ResourceParts::default();
    parts.fields.schema_url = &resource.schema_url;
    parts.fields.dropped_attributes_count = resource.dropped_attributes_count;
    push_attributes(assembler.limits(), &resource.attributes, &mut parts.attributes);
    assembler.next_resource();
    match groups {
        Some(mut reader) => each(&mut reader, |reader| scope_spans(reader, &parts, assembler)),
        None => Ok(()),
    }
}

fn scope_spans(
    reader: &mut JsonReader<'_>,
    resource: &ResourceParts<'_>,
    assembler: &mut Assembler<'_>,
) -> Result<(), Stop> {
    let mut scope = Owner::default();
    let mut spans = None;
    message(reader, |reader, key| match key {
        "scope" => message(reader, |reader, key| match key {
            "name" => text(reader, &mut scope.name),
            "version" => text(reader, &mut scope.version),
            "attributes" => attributes(reader, &mut scope.attributes),
            "droppedAttributesCount" => number(reader, key, &mut scope.dropped_attributes_count),
            _ => reader.skip(),
        }),
        "spans" => bookmark(reader, key, &mut spans),
        "schemaUrl" => text(reader, &mut scope.schema_url),
        _ => reader.skip(),
    })?;
    let mut parts = ScopeParts::default();
    parts.fields.name = &scope.name;
    parts.fields.version = &scope.version;
    parts.fields.schema_url = &scope.schema_url;
    parts.fields.dropped_attributes_count = scope.dropped_attributes_count;
    push_attributes(assembler.limits(), &scope.attributes, &mut parts.attributes);
    assembler.next_scope();
    let Some(mut reader) = spans else { return Ok(()) };
    each(&mut reader, |reader| {
        let mut span = Span::default();
        message(reader, |reader, key| span.field(reader, key))?;
        Ok(assembler.span(resource, &parts, &span.parts(assembler.limits()))?)
    })
}

/// Remembers where a value starts, and passes over it.
fn bookmark<'a>(reader: &mut JsonReader<'a>, key: &str, place: &mut Option<JsonReader<'a>>) -> Result<(), JsonError> {
    if place.is_some() {
        return Err(reader.error(format!("{key} occurs twice in one object")));
    }
    *place = Some(reader.clone());
    reader.skip()
}

/// A resource or a scope.
#[derive(Default)]
struct Owner<'a> {
    name: Cow<'a, str>,
    version: Cow<'a, str>,
    schema_url: Cow<'a, str>,
    attributes: Vec<KeyValue>,
    dropped_attributes_count: u32,
}

/// An id: its bytes, or the text that is not hex.
#[derive(Default)]
enum Id<'a> {
    #[default]
    Missing,
    Bytes(Vec<u8>),
    NotHex(Cow<'a, str>),
}

impl<'a> Id<'a> {
    fn read(reader: &mut JsonReader<'a>) -> Result<Self, JsonError> {
        if reader.null()? {
            return Ok(Id::Missing);
        }
        let text = reader.string()?;
        Ok(match hex::decode(text.as_ref()) {
            Ok(bytes) => Id::Bytes(bytes),
            Err(_) => Id::NotHex(text),
        })
    }

    fn part(&self) -> IdPart<'_> {
        match self {
            Id::Missing => IdPart::Missing,
            Id::Bytes(bytes) => IdPart::Bytes(bytes),
            Id::NotHex(text) => IdPart::NotHex(text),
        }
    }

    /// The ids of links are kept as sent, whatever they are.
    fn bytes(&self) -> &[u8] {
        match self {
            Id::Missing => &[],
            Id::Bytes(bytes) => bytes,
            Id::NotHex(text) => text.as_bytes(),
        }
    }
}

/// A time: its nanoseconds, or the text that is none. Protobuf can hold any 64 bits in its place, so what those make of
/// the span is decided in one place for both.
enum Time<'a> {
    UnixNano(u64),
    NotATime(Cow<'a, str>),
}

impl Default for Time<'_> {
    fn default() -> Self {
        Time::UnixNano(0)
    }
}

impl<'a> Time<'a> {
    fn read(reader: &mut JsonReader<'a>) -> Result<Self, JsonError> {
        let text = match reader.kind()? {
            Kind::Null => {
                reader.skip()?;
                return Ok(Time::default());
            }
            Kind::String => reader.string()?,
            Kind::Number => Cow::Borrowed(reader.number()?),
            other => {
                reader.skip()?;
                Cow::Borrowed(other.name())
            }
        };
        Ok(whole(&text).map_or(Time::NotATime(text), Time::UnixNano))
    }

    /// The nanoseconds, or none and the fault of the span.
    fn part(&self, reason: Reason, what: &'static str, fault: &mut Option<Fault>) -> u64 {
        match self {
            Time::UnixNano(nanos) => *nanos,
            Time::NotATime(text) => {
                fault.get_or_insert_with(|| Fault::not_a_time(reason, what, text));
                0
            }
        }
    }
}

#[derive(Default)]
struct Span<'a> {
    trace_id: Id<'a>,
    span_id: Id<'a>,
    parent_span_id: Id<'a>,
    trace_state: Cow<'a, str>,
    flags: u32,
    name: Cow<'a, str>,
    kind: i32,
    start_time: Time<'a>,
    end_time: Time<'a>,
    attributes: Vec<KeyValue>,
    dropped_attributes_count: u32,
    events: Vec<Event<'a>>,
    dropped_events_count: u32,
    links: Vec<Link<'a>>,
    dropped_links_count: u32,
    status_message: Cow<'a, str>,
    status_code: i32,
}

impl<'a> Span<'a> {
    fn field(&mut self, reader: &mut JsonReader<'a>, key: &str) -> Result<(), JsonError> {
        match key {
            "traceId" => self.trace_id = Id::read(reader)?,
            "spanId" => self.span_id = Id::read(reader)?,
            "parentSpanId" => self.parent_span_id = Id::read(reader)?,
            "traceState" => text(reader, &mut self.trace_state)?,
            "flags" => number(reader, key, &mut self.flags)?,
            "name" => text(reader, &mut self.name)?,
            "kind" => self.kind = enumeration(reader, |name| Some(SpanKind::from_str_name(name)? as i32))?,
            "startTimeUnixNano" => self.start_time = Time::read(reader)?,
            "endTimeUnixNano" => self.end_time = Time::read(reader)?,
            "attributes" => attributes(reader, &mut self.attributes)?,
            "droppedAttributesCount" => number(reader, key, &mut self.dropped_attributes_count)?,
            "events" => each(reader, |reader| {
                let mut event = Event::default();
                message(reader, |reader, key| event.field(reader, key))?;
                self.events.push(event);
                Ok::<_, JsonError>(())
            })?,
            "droppedEventsCount" => number(reader, key, &mut self.dropped_events_count)?,
            "links" => each(reader, |reader| {
                let mut link = Link::default();
                message(reader, |reader, key| link.field(reader, key))?;
                self.links.push(link);
                Ok::<_, JsonError>(())
            })?,
            "droppedLinksCount" => number(reader, key, &mut self.dropped_links_count)?,
            "status" => message(reader, |reader, key| match key {
                "message" => text(reader, &mut self.status_message),
                "code" => {
                    self.status_code = enumeration(reader, |name| Some(StatusCode::from_str_name(name)? as i32))?;
                    Ok(())
                }
                _ => reader.skip(),
            })?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn parts(&self, limits: &Limits) -> SpanParts<'_> {
        let mut time_fault = None;
        let mut parts = SpanParts {
            trace_id: self.trace_id.part(),
            span_id: self.span_id.part(),
            parent_span_id: self.parent_span_id.part(),
            trace_state: &self.trace_state,
            flags: self.flags,
            name: &self.name,
            kind: self.kind,
            start_time_unix_nano: self.start_time.part(Reason::InvalidStartTime, "start time", &mut time_fault),
            end_time_unix_nano: self.end_time.part(Reason::InvalidEndTime, "end time", &mut time_fault),
            dropped_attributes_count: self.dropped_attributes_count,
            dropped_events_count: self.dropped_events_count,
            dropped_links_count: self.dropped_links_count,
            status_code: self.status_code,
            status_message: &self.status_message,
            ..SpanParts::default()
        };
        push_attributes(limits, &self.attributes, &mut parts.attributes);
        for event in &self.events {
            if !parts.has_room_for_event(limits) {
                break;
            }
            let from = parts.nested.list.len();
            push_attributes(limits, &event.attributes, &mut parts.nested);
            parts.events.push(EventParts {
                time_unix_nano: event.time.part(Reason::InvalidEventTime, "event time", &mut time_fault),
                name: &event.name,
                attributes: from..parts.nested.list.len(),
                dropped_attributes_count: event.dropped_attributes_count,
            });
        }
        for link in &self.links {
            if !parts.has_room_for_link(limits) {
                break;
            }
            let from = parts.nested.list.len();
            push_attributes(limits, &link.attributes, &mut parts.nested);
            parts.links.push(LinkParts {
                trace_id: link.trace_id.bytes(),
                span_id: link.span_id.bytes(),
                trace_state: &link.trace_state,
                flags: link.flags,
                attributes: from..parts.nested.list.len(),
                dropped_attributes_count: link.dropped_attributes_count,
            });
        }
        parts.time_fault = time_fault;
        parts
    }
}

#[derive(Default)]
struct Event<'a> {
    time: Time<'a>,
    name: Cow<'a, str>,
    attributes: Vec<KeyValue>,
    dropped_attributes_count: u32,
}

impl<'a> Event<'a> {
    fn field(&mut self, reader: &mut JsonReader<'a>, key: &str) -> Result<(), JsonError> {
        match key {
            "timeUnixNano" => self.time = Time::read(reader)?,
            "name" => text(reader, &mut self.name)?,
            "attributes" => attributes(reader, &mut self.attributes)?,
            "droppedAttributesCount" => number(reader, key, &mut self.dropped_attributes_count)?,
            _ => reader.skip()?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct Link<'a> {
    trace_id: Id<'a>,
    span_id: Id<'a>,
    trace_state: Cow<'a, str>,
    flags: u32,
    attributes: Vec<KeyValue>,
    dropped_attributes_count: u32,
}

impl<'a> Link<'a> {
    fn field(&mut self, reader: &mut JsonReader<'a>, key: &str) -> Result<(), JsonError> {
        match key {
            "traceId" => self.trace_id = Id::read(reader)?,
            "spanId" => self.span_id = Id::read(reader)?,
            "traceState" => text(reader, &mut self.trace_state)?,
            "flags" => number(reader, key, &mut self.flags)?,
            "attributes" => attributes(reader, &mut self.attributes)?,
            "droppedAttributesCount" => number(reader, key, &mut self.dropped_attributes_count)?,
            _ => reader.skip()?,
        }
        Ok(())
    }
}

/// Adds attributes after those that `into` holds, as those of one more owner.
fn push_attributes<'a>(limits: &Limits, attributes: &'a [KeyValue], into: &mut AttributeParts<'a>) {
    let from = into.list.len();
    for KeyValue { key, value, .. } in attributes {
        let value = match value.as_ref().and_then(|any| any.value.as_ref()) {
            None => Value::Empty,
            Some(OtlpValue::StringValue(text)) => Value::Str(text),
            Some(OtlpValue::BoolValue(truth)) => Value::Bool(*truth),
            Some(OtlpValue::IntValue(number)) => Value::Int(*number),
            Some(OtlpValue::DoubleValue(number)) => Value::Float(*number),
            nested => {
                let mut json = String::new();
                if !push_tree(&mut json, nested, limits.depth_max()) {
                    into.fault.get_or_insert_with(|| Fault::too_deep(key, limits));
                    continue;
                }
                Value::Json(Cow::Owned(json))
            }
        };
        into.push(limits, from, Attribute { key, value });
    }
}

fn attributes(reader: &mut JsonReader<'_>, into: &mut Vec<KeyValue>) -> Result<(), JsonError> {
    each(reader, |reader| {
        into.push(key_value(reader)?);
        Ok(())
    })
}

fn key_value(reader: &mut JsonReader<'_>) -> Result<KeyValue, JsonError> {
    let mut name = Cow::default();
    let mut value = None;
    message(reader, |reader, key| match key {
        "key" => text(reader, &mut name),
        "value" => {
            value = Some(any_value(reader)?);
            Ok(())
        }
        _ => reader.skip(),
    })?;
    Ok(KeyValue { key: name.into_owned(), value, key_strindex: 0 })
}

fn any_value(reader: &mut JsonReader<'_>) -> Result<AnyValue, JsonError> {
    let mut value = None;
    message(reader, |reader, key| {
        let known = matches!(
            key,
            "stringValue" | "boolValue" | "intValue" | "doubleValue" | "bytesValue" | "arrayValue" | "kvlistValue"
        );
        if !known || reader.kind()? == Kind::Null {
            return reader.skip();
        }
        value = Some(match key {
            "stringValue" => OtlpValue::StringValue(reader.string()?.into_owned()),
            "boolValue" => OtlpValue::BoolValue(reader.bool()?),
            "intValue" => {
                let mut integer = 0;
                number(reader, key, &mut integer)?;
                OtlpValue::IntValue(integer)
            }
            "doubleValue" => OtlpValue::DoubleValue(double(reader)?),
            "bytesValue" => {
                let text = reader.string()?;
                let bytes = BASE64.decode(text.as_ref()).map_err(|_| reader.error("bytesValue is not base64"))?;
                OtlpValue::BytesValue(bytes)
            }
            "arrayValue" => {
                let mut values = Vec::new();
                message(reader, |reader, key| match key {
                    "values" => each(reader, |reader| {
                        values.push(any_value(reader)?);
                        Ok(())
                    }),
                    _ => reader.skip(),
                })?;
                OtlpValue::ArrayValue(ArrayValue { values })
            }
            _ => {
                let mut values = Vec::new();
                message(reader, |reader, key| match key {
                    "values" => attributes(reader, &mut values),
                    _ => reader.skip(),
                })?;
                OtlpValue::KvlistValue(KeyValueList { values })
            }
        });
        Ok::<_, JsonError>(())
    })?;
    Ok(AnyValue { value })
}

/// Reads an object, or `null` for one without fields.
fn message<'a, E: From<JsonError>>(
    reader: &mut JsonReader<'a>,
    mut field: impl FnMut(&mut JsonReader<'a>, &str) -> Result<(), E>,
) -> Result<(), E> {
    if reader.null()? {
        return Ok(());
    }
    reader.object(|reader, key| field(reader, &key))
}

/// Reads an array, or `null` for an empty one.
fn each<'a, E: From<JsonError>>(
    reader: &mut JsonReader<'a>,
    element: impl FnMut(&mut JsonReader<'a>) -> Result<(), E>,
) -> Result<(), E> {
    if reader.null()? { Ok(()) } else { reader.array(element) }
}

fn text<'a>(reader: &mut JsonReader<'a>, into: &mut Cow<'a, str>) -> Result<(), JsonError> {
    if !reader.null()? {
        *into = reader.string()?;
    }
    Ok(())
}

/// Reads an integer: a number or a string, in any form of JSON as long as the value is whole and in range.
fn number<N: std::str::FromStr + TryFrom<i128>>(
    reader: &mut JsonReader<'_>,
    key: &str,
    into: &mut N,
) -> Result<(), JsonError> {
    let text = match reader.kind()? {
        Kind::Null => return reader.skip(),
        Kind::String => reader.string()?,
        _ => Cow::Borrowed(reader.number()?),
    };
    match whole(&text) {
        Some(value) => *into = value,
        None => return Err(reader.error(format!("{key} is not a whole number in range"))),
    }
    Ok(())
}

/// The integer that a number's text means, in any form of JSON.
fn whole<N: std::str::FromStr + TryFrom<i128>>(text: &str) -> Option<N> {
    let of_float = || {
        let value: f64 = text.parse().ok()?;
        (value.trunc() == value && value.abs() < 1e30).then(|| N::try_from(value as i128).ok())?
    };
    text.parse().ok().or_else(of_float)
}

fn double(reader: &mut JsonReader<'_>) -> Result<f64, JsonError> {
    let text = match reader.kind()? {
        Kind::String => reader.string()?,
        _ => Cow::Borrowed(reader.number()?),
    };
    match text.as_ref() {
        "NaN" => Ok(f64::NAN),
        "Infinity" => Ok(f64::INFINITY),
        "-Infinity" => Ok(f64::NEG_INFINITY),
        text => JsonReader::new(text)
            .number()
            .and_then(|_| text.parse().map_err(|_| reader.error("doubleValue is not a number"))),
    }
}

/// Reads an enum: its number, or its name in the `.proto` file.
fn enumeration(reader: &mut JsonReader<'_>, of_name: fn(&str) -> Option<i32>) -> Result<i32, JsonError> {
    let mut value = 0;
    if reader.kind()? != Kind::String {
        number(reader, "an enum", &mut value)?;
        return Ok(value);
    }
    let name = reader.string()?;
    let value = name.parse().ok().or_else(|| of_name(&name));
    value.ok_or_else(|| reader.error(format!("{name:?} is not a name or a number of this enum")))
}
