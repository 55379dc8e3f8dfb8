//! OTLP/JSON as senders write it, and as they should not.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use serde_json::{Map, Value as Json, json};
use tracehouse::{
    error::{Error, ErrorKind},
    model::promotion::standard,
    otlp::{Decoded, decode::DecodeError, json::decode_json, rules::Reason},
};

use crate::otlp_samples::rules;

fn decode(json: &str) -> Result<Decoded, DecodeError> {
    decode_json(json.as_bytes(), &standard(), &rules())
}

/// The ways in which senders differ, one bit each.
struct Style(u64);

impl Style {
    fn bit(&self, n: u32) -> bool {
        self.0 >> n & 1 == 1
    }

    fn long(&self, number: impl Into<i128>) -> Json {
        let number: i128 = number.into();
        let plain = i64::try_from(number).map(Json::from).or_else(|_| u64::try_from(number).map(Json::from));
        if self.bit(0) { json!(number.to_string()) } else { plain.unwrap() }
    }

    fn id(&self, bytes: &[u8]) -> Json {
        if self.bit(1) { json!(hex::encode_upper(bytes)) } else { json!(hex::encode(bytes)) }
    }

    /// Leaves empty things out, writes them, or writes `null`.
    fn put(&self, object: &mut Map<String, Json>, key: &str, value: Json) {
        let is_empty = value == json!("") || value == json!(0) || value == json!([]);
        if is_empty && self.bit(2) {
            if self.bit(3) {
                object.insert(key.to_owned(), Json::Null);
            }
            return;
        }
        object.insert(key.to_owned(), value);
    }

    fn attributes(&self, attributes: &[KeyValue]) -> Json {
        attributes.iter().map(|attribute| self.key_value(attribute)).collect()
    }

    fn key_value(&self, attribute: &KeyValue) -> Json {
        let mut object = Map::new();
        object.insert("unknown".to_owned(), json!([{ "a": null }]));
        self.put(&mut object, "key", json!(attribute.key));
        if let Some(value) = &attribute.value {
            object.insert("value".to_owned(), self.any_value(value));
        }
        Json::Object(object)
    }

    fn any_value(&self, value: &AnyValue) -> Json {
        match &value.value {
            None | Some(Value::StringValueStrindex(_)) => json!({}),
            Some(Value::StringValue(text)) => json!({ "stringValue": text }),
            Some(Value::BoolValue(truth)) => json!({ "boolValue": truth }),
            Some(Value::IntValue(number)) => json!({ "intValue": self.long(*number) }),
            Some(Value::DoubleValue(number)) if number.is_nan() => json!({ "doubleValue": "NaN" }),
            Some(Value::DoubleValue(number)) if number.is_finite() && self.bit(4) => json!({ "doubleValue": number }),
            Some(Value::DoubleValue(number)) if number.is_finite() => json!({ "doubleValue": format!("{number:?}") }),
            Some(Value::DoubleValue(number)) if *number > 0.0 => json!({ "doubleValue": "Infinity" }),
            Some(Value::DoubleValue(_)) => json!({ "doubleValue": "-Infinity" }),
            Some(Value::BytesValue(bytes)) => {
                use base64::Engine as _;
                json!({ "bytesValue": base64::engine::general_purpose::STANDARD.encode(bytes) })
            }
            Some(Value::ArrayValue(array)) => {
                let values: Json = array.values.iter().map(|value| self.any_value(value)).collect();
                json!({ "arrayValue": { "values": values } })
            }
            Some(Value::KvlistValue(list)) => json!({ "kvlistValue": { "values": self.attributes(&list.values) } }),
        }
    }

    fn object<const N: usize>(&self, fields: [(&str, Json); N]) -> Json {
        let mut object = Map::new();
        for (key, value) in fields {
            self.put(&mut object, key, value);
        }
        Json::Object(object)
    }
}

/// The request as OTLP/JSON; `style` chooses among the habits of senders.
pub(crate) fn to_json(request: &ExportTraceServiceRequest, style: u64) -> String {
    let s = Style(style);
    let resource_spans: Json = request
        .resource_spans
        .iter()
        .map(|group| {
            let resource = group.resource.as_ref().map(|resource| {
                s.object([
                    ("attributes", s.attributes(&resource.attributes)),
                    ("droppedAttributesCount", json!(resource.dropped_attributes_count)),
                ])
            });
            let scope_spans: Json = group.scope_spans.iter().map(|group| scope_spans(&s, group)).collect();
            s.object([
                ("resource", json!(resource)),
                ("scopeSpans", scope_spans),
                ("schemaUrl", json!(group.schema_url)),
            ])
        })
        .collect();
    let json = json!({ "resourceSpans": resource_spans });
    if s.bit(5) { serde_json::to_string_pretty(&json).unwrap() } else { json.to_string() }
}

fn scope_spans(s: &Style, group: &opentelemetry_proto::tonic::trace::v1::ScopeSpans) -> Json {
    let scope = group.scope.as_ref().map(|scope| {
        s.object([
            ("name", json!(scope.name)),
            ("version", json!(scope.version)),
            ("attributes", s.attributes(&scope.attributes)),
            ("droppedAttributesCount", json!(scope.dropped_attributes_count)),
        ])
    });
    let spans: Json = group.spans.iter().map(|span| span_json(s, span)).collect();
    s.object([("scope", json!(scope)), ("spans", spans), ("schemaUrl", json!(group.schema_url))])
}

fn span_json(s: &Style, span: &opentelemetry_proto::tonic::trace::v1::Span) -> Json {
    let events: Json = span
        .events
        .iter()
        .map(|event| {
            s.object([
                ("timeUnixNano", s.long(event.time_unix_nano)),
                ("name", json!(event.name)),
                ("attributes", s.attributes(&event.attributes)),
                ("droppedAttributesCount", json!(event.dropped_attributes_count)),
            ])
        })
        .collect();
    let links: Json = span
        .links
        .iter()
        .map(|link| {
            s.object([
                ("traceId", s.id(&link.trace_id)),
                ("spanId", s.id(&link.span_id)),
                ("traceState", json!(link.trace_state)),
                ("attributes", s.attributes(&link.attributes)),
                ("droppedAttributesCount", json!(link.dropped_attributes_count)),
                ("flags", json!(link.flags)),
            ])
        })
        .collect();
    let status =
        span.status.as_ref().map(|status| s.object([("message", json!(status.message)), ("code", json!(status.code))]));
    s.object([
        ("traceId", s.id(&span.trace_id)),
        ("spanId", s.id(&span.span_id)),
        ("parentSpanId", s.id(&span.parent_span_id)),
        ("traceState", json!(span.trace_state)),
        ("flags", json!(span.flags)),
        ("name", json!(span.name)),
        ("kind", json!(span.kind)),
        ("startTimeUnixNano", s.long(span.start_time_unix_nano)),
        ("endTimeUnixNano", s.long(span.end_time_unix_nano)),
        ("attributes", s.attributes(&span.attributes)),
        ("droppedAttributesCount", json!(span.dropped_attributes_count)),
        ("events", events),
        ("droppedEventsCount", json!(span.dropped_events_count)),
        ("links", links),
        ("droppedLinksCount", json!(span.dropped_links_count)),
        ("status", json!(status)),
    ])
}

fn one_span(fields: &str) -> String {
    format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{
            "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174",
            "startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,{fields}}}]}}]}}]}}"#
    )
}

#[test]
fn a_bad_id_rejects_the_span_and_not_the_request() {
    let check = |fields: &str, reason: Reason, example: &str| {
        let decoded = decode(&one_span(fields)).unwrap();
        assert_eq!(decoded.rejected.iter().collect::<Vec<_>>(), [(reason, 1)]);
        let message = decoded.rejected.to_string();
        assert!(message.ends_with(&format!("({example})")), "{message}");
    };
    check(r#""traceId":"5b8e""#, Reason::InvalidTraceId, "trace id of 2 bytes, must have 16");
    check(r#""traceId":"5b8"  "#, Reason::InvalidTraceId, "trace id \"5b8\" is not hex");
    check(r#""traceId":null"#, Reason::InvalidTraceId, "trace id of 0 bytes, must have 16");
    let no_hex = "trace id \"zz8efff798038103d269b633813fc60c\" is not hex";
    check(r#""traceId":"zz8efff798038103d269b633813fc60c""#, Reason::InvalidTraceId, no_hex);
    check(r#""spanId":"0000000000000000""#, Reason::InvalidSpanId, "span id of zeros only");
    check(r#""parentSpanId":"x""#, Reason::InvalidParentSpanId, "parent span id \"x\" is not hex");
}

#[test]
fn a_time_that_is_none_rejects_its_span_and_not_those_beside_it() {
    let good = to_json(&crate::otlp_samples::request(vec![crate::otlp_samples::span(1)]), 0);
    let good = good.strip_prefix(r#"{"resourceSpans":["#).unwrap().strip_suffix("]}").unwrap();
    let check = |fields: &str, reason: Reason, text: &str| {
        let bad = one_span(fields);
        let decoded = decode(&bad.replacen('[', &format!("[{good},"), 1)).unwrap();
        assert_eq!(decoded.batch.num_spans(), 1, "{fields}: the good span is kept");
        assert_eq!(decoded.rejected.iter().collect::<Vec<_>>(), [(reason, 1)], "{fields}");
        let message = decoded.rejected.to_string();
        let expected = format!("{text:?} is not a whole number of unix nanoseconds in the range of 64 bits)");
        assert!(message.ends_with(&expected), "{message}");
    };
    let start = Reason::InvalidStartTime;
    check(r#""startTimeUnixNano":-5"#, start, "-5");
    check(r#""startTimeUnixNano":"-1544712660000000000""#, start, "-1544712660000000000");
    check(r#""startTimeUnixNano":"18446744073709551616""#, start, "18446744073709551616");
    check(r#""startTimeUnixNano":1e40"#, start, "1e40");
    check(r#""startTimeUnixNano":1544712660000.5"#, start, "1544712660000.5");
    check(r#""startTimeUnixNano":"2018-12-13T14:51:00Z""#, start, "2018-12-13T14:51:00Z");
    check(r#""startTimeUnixNano":"""#, start, "");
    check(r#""startTimeUnixNano":true"#, start, "a truth value");
    check(r#""startTimeUnixNano":{"seconds":[1]}"#, start, "an object");
    check(r#""endTimeUnixNano":"soon""#, Reason::InvalidEndTime, "soon");
    check(r#""events":[{"timeUnixNano":7},{"timeUnixNano":-7,"name":"e"}]"#, Reason::InvalidEventTime, "-7");
    // The last of several fields of one name counts, as for every other field.
    let healed = one_span(r#""startTimeUnixNano":"soon","startTimeUnixNano":"1544712660000000000""#);
    assert_eq!(decode(&healed).unwrap().batch.num_spans(), 1);
    // What protobuf can hold is judged alike in both encodings.
    let decoded = decode(&one_span(r#""startTimeUnixNano":"18446744073709551615""#)).unwrap();
    assert!(decoded.rejected.to_string().contains("is above the limit of 9223372036854775807"));
    let decoded = decode(&one_span(r#""events":[{"timeUnixNano":"18446744073709551615"},{"timeUnixNano":null},{}]"#));
    assert_eq!(decoded.unwrap().batch.num_spans(), 1);
}

#[test]
fn what_senders_write_is_read() {
    for fields in [
        r#""kind":2"#,
        r#""kind":"2""#,
        r#""kind":"SPAN_KIND_SERVER""#,
        r#""status":{"code":"STATUS_CODE_ERROR"},"kind":null"#,
        r#""events":[],"links":[],"status":{"code":0},"flags":257,"droppedAttributesCount":0"#,
        r#""startTimeUnixNano":1.544712660e18"#,
        r#""startTimeUnixNano":"1544712660000000000.0""#,
        r#""attributes":[{"key":"a","value":{"intValue":1e3}},{"key":"b","value":{"doubleValue":"1.5"}},{},null]"#,
        r#""attributes":null,"events":null,"something":{"new":[1,2,{"x":"}"}]}"#,
        r#""attributes":[{"key":"a","value":{"bytesValue":"AAE"}},{"key":"b","value":null}]"#,
    ] {
        let decoded = decode(&one_span(fields)).unwrap_or_else(|error| panic!("{fields}: {error}"));
        assert_eq!((decoded.batch.num_spans(), decoded.rejected.total()), (1, 0), "{fields}");
    }
    assert_eq!(decode("{}").unwrap().batch.num_spans(), 0);
    assert_eq!(decode(r#"{"resourceSpans":null}"#).unwrap().batch.num_spans(), 0);
}

#[test]
fn what_is_not_otlp_is_an_error_with_its_place() {
    let check = |json: &str, expected: &str| {
        let error: Error = decode(json).unwrap_err().into();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.message(), expected);
    };
    check("", "invalid JSON: the JSON text ends too early at line 1, column 1");
    check("[]", "invalid JSON: expected an object at line 1, column 1");
    check("{\"resourceSpans\":\n 1}", "invalid JSON: expected an array at line 2, column 2");
    check("{} x", "invalid JSON: text after the end of the JSON value at line 1, column 4");
    let span = |fields: &str| decode(&one_span(fields)).unwrap_err().to_string();
    assert!(span(r#""flags":-1"#).starts_with("invalid JSON: flags is not a whole number in range at line 3"));
    assert!(span(r#""flags":1.5"#).starts_with("invalid JSON: flags is not a whole number in range"));
    assert!(span(r#""name":1"#).starts_with("invalid JSON: expected a string"));
    assert!(span(r#""kind":"SERVER""#).contains("\"SERVER\" is not a name or a number of this enum"));
    assert!(span(r#""attributes":[{"key":"a","value":{"bytesValue":"*"}}]"#).contains("bytesValue is not base64"));
    let error = decode_json(b"{\"\xff", &standard(), &rules()).unwrap_err();
    assert_eq!(error.to_string(), "invalid JSON: byte 2 of the request is not UTF-8");
}

#[test]
fn every_truncation_is_an_error() {
    let json = to_json(&crate::otlp_samples::request(vec![crate::otlp_samples::span(1)]), 0);
    for end in 0..json.len() {
        assert!(decode(&json[..end]).is_err(), "{end}");
    }
    assert_eq!(decode(&json).unwrap().batch.num_spans(), 1);
}

#[test]
fn deep_nesting_rejects_the_span_and_deeper_nesting_the_request() {
    let nested = |depth: usize| {
        let value = r#"{"arrayValue":{"values":["#.repeat(depth) + "{\"intValue\":1}" + &"]}}".repeat(depth);
        decode(&one_span(&format!(r#""attributes":[{{"key":"deep","value":{value}}}]"#)))
    };
    assert!(nested(32).unwrap().rejected.is_empty());
    assert_eq!(nested(33).unwrap().rejected.iter().collect::<Vec<_>>(), [(Reason::ValueTooDeep, 1)]);
    assert!(nested(100_000).unwrap_err().to_string().contains("nested deeper than the limit of 256"));
    assert!(decode(&"[".repeat(1_000_000)).is_err());
    assert!(decode(&format!("{{\"x\":{}", "[".repeat(1_000_000))).is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "[\\[\\]{}:,\"a0-9.eE\\\\ -]{0,60}") {
        let _ = decode(&text);
    }

    #[test]
    fn flipped_bytes_never_panic(at in 0..10_000_usize, byte in proptest::prelude::any::<u8>()) {
        let mut json = to_json(&crate::otlp_samples::request(vec![crate::otlp_samples::span(1)]), 0).into_bytes();
        let at = at % json.len();
        json[at] = byte;
        let _ = decode_json(&json, &standard(), &rules());
    }
}
