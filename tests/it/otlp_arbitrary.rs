//! Arbitrary requests, their normal form, and legal but odd ways to write them on the wire.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status, TracesData,
        span::{Event, Link},
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};

/// Keys that are promoted, keys that are not, the empty one, and ones that look like the escapes of nested values.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "service.name",
            "service.namespace",
            "http.route",
            "http.response.status_code",
            "server.port",
            "gen_ai.usage.input_tokens",
            "",
            "$bytes",
            "$map",
            "app.b",
            "app.a",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ]
}

fn value() -> impl Strategy<Value = Option<AnyValue>> {
    let leaf = prop_oneof![
        1 => Just(None),
        4 => "\\PC{0,16}".prop_map(|text| Some(Value::StringValue(text))),
        1 => "[\\x00-\\x1f\"\\\\]{0,6}".prop_map(|text| Some(Value::StringValue(text))),
        3 => any::<i64>().prop_map(|number| Some(Value::IntValue(number))),
        2 => any::<f64>().prop_map(|number| Some(Value::DoubleValue(number))),
        1 => select(vec![0.0, -0.0, 1.0, 1e300, 5e-324, f64::INFINITY, f64::NEG_INFINITY, f64::NAN])
            .prop_map(|number| Some(Value::DoubleValue(number))),
        2 => any::<bool>().prop_map(|truth| Some(Value::BoolValue(truth))),
        1 => vec(any::<u8>(), 0..6).prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ];
    let leaf = leaf.prop_map(|value| AnyValue { value });
    let nested = leaf.prop_recursive(4, 24, 4, |inner| {
        let entry = (key(), option::weighted(0.9, inner.clone())).prop_map(|(key, value)| KeyValue {
            key,
            value,
            key_strindex: 0,
        });
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(entry, 0..4).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    });
    option::weighted(0.9, nested)
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec((key(), value()).prop_map(|(key, value)| KeyValue { key, value, key_strindex: 0 }), 0..6)
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![1..i64::MAX as u64, 1_u64..50, Just(i64::MAX as u64 - 1)]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), "\\PC{0,8}", attributes(), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    let id = || vec(any::<u8>(), 0..20);
    (id(), id(), "\\PC{0,8}", attributes(), any::<u32>(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    let status = option::of(("\\PC{0,8}", -2..5).prop_map(|(message, code)| Status { message, code }));
    let parent = prop_oneof![Just(vec![]), Just(vec![0; 8]), vec(any::<u8>(), 8)];
    let ids = (1..4_u8, 1..6_u8, parent);
    let texts = ("\\PC{0,8}", "\\PC{0,8}", any::<u32>(), -2..8, status);
    let counts = (any::<u32>(), any::<u32>(), any::<u32>());
    (ids, texts, counts, (time(), time()), attributes(), vec(event(), 0..3), vec(link(), 0..3)).prop_map(
        |(ids, (trace_state, name, flags, kind, status), dropped, times, attributes, events, links)| Span {
            trace_id: vec![ids.0; 16],
            span_id: vec![ids.1; 8],
            trace_state,
            parent_span_id: ids.2,
            flags,
            name,
            kind,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            attributes,
            dropped_attributes_count: dropped.0,
            events,
            dropped_events_count: dropped.1,
            links,
            dropped_links_count: dropped.2,
            status,
        },
    )
}

fn scope() -> impl Strategy<Value = InstrumentationScope> {
    (select(vec!["", "http", "rpc"]), select(vec!["", "1"]), attributes(), 0..2_u32).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name: name.to_owned(),
            version: version.to_owned(),
            attributes,
            dropped_attributes_count,
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    (attributes(), 0..2_u32).prop_map(|(attributes, dropped_attributes_count)| Resource {
        attributes,
        dropped_attributes_count,
        entity_refs: Vec::new(),
    })
}

fn url() -> impl Strategy<Value = String> {
    select(vec!["", "https://example.org/1"]).prop_map(str::to_owned)
}

pub(crate) fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope_spans = (option::of(scope()), vec(span(), 0..4), url())
        .prop_map(|(scope, spans, schema_url)| ScopeSpans { scope, spans, schema_url });
    let resource_spans = (option::of(resource()), vec(scope_spans, 0..3), url())
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    vec(resource_spans, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// What a request is when it comes back, by the list in the documentation of `tracehouse::otlp`.
pub(crate) fn normal_form(request: &ExportTraceServiceRequest) -> TracesData {
    let mut spans = Vec::new();
    for group in &request.resource_spans {
        let mut resource = group.resource.clone().unwrap_or_default();
        normalize_attributes(&mut resource.attributes);
        for scope_spans in &group.scope_spans {
            let mut scope = scope_spans.scope.clone().unwrap_or_default();
            normalize_attributes(&mut scope.attributes);
            for span in &scope_spans.spans {
                let resource = (resource.clone(), group.schema_url.clone());
                let scope = (scope.clone(), scope_spans.schema_url.clone());
                spans.push((resource, scope, normal_span(span)));
            }
        }
    }
    let kind_name = |kind: i32| ["unspecified", "internal", "server", "client", "producer", "consumer"][kind as usize];
    spans.sort_by_key(|(.., span)| (span.start_time_unix_nano, span.span_id.clone(), kind_name(span.kind)));

    let mut traces = TracesData::default();
    let mut resources = HashMap::new();
    let mut scopes = HashMap::new();
    for ((resource, resource_url), (scope, scope_url), span) in spans {
        let groups = &mut traces.resource_spans;
        let at = *resources.entry((resource.encode_to_vec(), resource_url.clone())).or_insert(groups.len());
        if at == groups.len() {
            groups.push(ResourceSpans { resource: Some(resource), scope_spans: Vec::new(), schema_url: resource_url });
        }
        let groups = &mut groups[at].scope_spans;
        let at = *scopes.entry((at, scope.encode_to_vec(), scope_url.clone())).or_insert(groups.len());
        if at == groups.len() {
            groups.push(ScopeSpans { scope: Some(scope), spans: Vec::new(), schema_url: scope_url });
        }
        groups[at].spans.push(span);
    }
    traces
}

fn normal_span(span: &Span) -> Span {
    let mut span = span.clone();
    normalize_attributes(&mut span.attributes);
    for event in &mut span.events {
        normalize_attributes(&mut event.attributes);
    }
    for link in &mut span.links {
        normalize_attributes(&mut link.attributes);
    }
    if span.parent_span_id == [0; 8] {
        span.parent_span_id.clear();
    }
    if !(0..=5).contains(&span.kind) {
        span.kind = 0;
    }
    let status = span.status.get_or_insert_default();
    if !(0..=2).contains(&status.code) {
        status.code = 0;
    }
    span
}

fn normalize_attributes(attributes: &mut Vec<KeyValue>) {
    let last: HashMap<String, KeyValue> =
        attributes.drain(..).map(|attribute| (attribute.key.clone(), attribute)).collect();
    attributes.extend(last.into_values());
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes.iter_mut().for_each(|attribute| normalize_value(&mut attribute.value, true));
}

fn normalize_value(value: &mut Option<AnyValue>, top: bool) {
    match &mut value.get_or_insert_default().value {
        Some(Value::ArrayValue(array)) => {
            for element in &mut array.values {
                let mut slot = Some(std::mem::take(element));
                normalize_value(&mut slot, false);
                *element = slot.unwrap();
            }
        }
        Some(Value::KvlistValue(list)) => {
            list.values.iter_mut().for_each(|entry| normalize_value(&mut entry.value, false))
        }
        Some(Value::DoubleValue(number)) if number.is_nan() && !top => *number = f64::NAN,
        _ => {}
    }
}

/// A message of OTLP, for [`odd_wire`].
#[derive(Clone, Copy)]
enum Kind {
    Request,
    ResourceSpans,
    Resource,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
    KeyValue,
    AnyValue,
    Array,
    List,
}

/// The message in a field, and whether the field is singular.
fn submessage(kind: Kind, field: u32) -> Option<(Kind, bool)> {
    Some(match (kind, field) {
        (Kind::Request, 1) => (Kind::ResourceSpans, false),
        (Kind::ResourceSpans, 1) => (Kind::Resource, true),
        (Kind::ResourceSpans, 2) => (Kind::ScopeSpans, false),
        (Kind::ScopeSpans, 1) => (Kind::Scope, true),
        (Kind::ScopeSpans, 2) => (Kind::Span, false),
        (Kind::Resource, 1) | (Kind::Scope | Kind::Event, 3) | (Kind::Span, 9) | (Kind::Link, 4) | (Kind::List, 1) => {
            (Kind::KeyValue, false)
        }
        (Kind::Span, 11) => (Kind::Event, false),
        (Kind::Span, 13) => (Kind::Link, false),
        (Kind::Span, 15) => (Kind::Status, true),
        (Kind::KeyValue, 2) => (Kind::AnyValue, true),
        (Kind::Array, 1) => (Kind::AnyValue, false),
        (Kind::AnyValue, 5) => (Kind::Array, true),
        (Kind::AnyValue, 6) => (Kind::List, true),
        _ => return None,
    })
}

/// The same request with fields in another order, singular messages in several pieces, and unknown fields between.
pub(crate) fn odd_wire(request: &ExportTraceServiceRequest, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    mangle(Kind::Request, &request.encode_to_vec(), &mut random).concat()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// The fields of a message, each with its tag.
fn mangle(kind: Kind, message: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let (field, wire_type) = decode_key(&mut rest).unwrap();
        match wire_type {
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).unwrap() as usize;
                let (content, after) = rest.split_at(length);
                rest = after;
                match submessage(kind, field) {
                    None => fields.push(before[..before.len() - rest.len()].to_vec()),
                    Some((inner, singular)) => {
                        let inner = mangle(inner, content, random);
                        let cut = if singular && random.below(3) == 0 { random.below(inner.len() + 1) } else { 0 };
                        if cut > 0 {
                            fields.push(delimited(field, &inner[..cut].concat()));
                        }
                        fields.push(delimited(field, &inner[cut..].concat()));
                    }
                }
                continue;
            }
            WireType::Varint => _ = decode_varint(&mut rest).unwrap(),
            WireType::SixtyFourBit => rest = &rest[8..],
            WireType::ThirtyTwoBit => rest = &rest[4..],
            _ => panic!("prost writes no groups"),
        }
        fields.push(before[..before.len() - rest.len()].to_vec());
    }
    if random.below(4) == 0 {
        fields.push(delimited(1000, b"unknown"));
    }
    if random.below(3) == 0 {
        for index in (1..fields.len()).rev() {
            fields.swap(index, random.below(index + 1));
        }
    }
    fields
}

fn delimited(field: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut out);
    encode_varint(content.len() as u64, &mut out);
    out.extend(content);
    out
}
