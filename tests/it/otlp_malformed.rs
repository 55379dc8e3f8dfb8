//! Requests that are broken, hostile or odd: an error or an exact account, never a panic, never a wrong answer.

use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};
use proptest::prelude::*;
use prost::Message;
use tracehouse::{
    error::{Error, ErrorKind},
    model::{promotion::standard, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Reason, Rules},
    },
};

use crate::otlp_samples::{START, attribute, bytes, decode, list, rules, span};

/// A span after `change`, sent next to a good one.
fn rejection_of(change: impl FnOnce(&mut Span)) -> (Vec<(Reason, u64)>, String) {
    let mut bad = span(2);
    change(&mut bad);
    let decoded = decode(&bytes(vec![span(1), bad])).unwrap();
    assert_eq!(decoded.batch.num_spans(), 1, "the good span is kept");
    (decoded.rejected.iter().collect(), decoded.rejected.to_string())
}

#[test]
fn a_span_that_breaks_a_rule_is_rejected_alone_with_its_reason() {
    let check = |change: fn(&mut Span), reason: Reason, example: &str| {
        let (counts, message) = rejection_of(change);
        assert_eq!(counts, [(reason, 1)]);
        assert_eq!(message, format!("rejected 1 span: 1 {} ({example})", reason.label().replace('_', " ")));
    };
    check(|s| s.trace_id.truncate(2), Reason::InvalidTraceId, "trace id of 2 bytes, must have 16");
    check(|s| s.trace_id.fill(0), Reason::InvalidTraceId, "trace id of zeros only");
    check(|s| s.trace_id.clear(), Reason::InvalidTraceId, "trace id of 0 bytes, must have 16");
    check(|s| s.span_id.push(1), Reason::InvalidSpanId, "span id of 9 bytes, must have 8");
    check(|s| s.span_id.fill(0), Reason::InvalidSpanId, "span id of zeros only");
    check(|s| s.parent_span_id.truncate(7), Reason::InvalidParentSpanId, "parent span id of 7 bytes, must have 8");
    check(|s| s.start_time_unix_nano = 0, Reason::InvalidStartTime, "start time is missing");
    check(|s| s.end_time_unix_nano = 0, Reason::InvalidEndTime, "end time is missing");
    check(
        |s| s.start_time_unix_nano = u64::MAX,
        Reason::InvalidStartTime,
        "start time 18446744073709551615 is above the limit of 9223372036854775807 unix nanoseconds",
    );
    check(
        |s| s.attributes = vec![attribute("big", crate::otlp_samples::text(&"x".repeat((4 << 20) - 2)))],
        Reason::AttributeTooLarge,
        "attribute \"big\" of 4194305 bytes, above the limit of 4194304",
    );
    check(
        |s| s.events[0].attributes = vec![attribute("k", Value::BoolValue(true)); 4097],
        Reason::TooManyAttributes,
        "more attributes than the limit of 4096",
    );
    check(|s| s.links = vec![s.links[0].clone(); 10_001], Reason::TooManyLinks, "more links than the limit of 10000");
    check(
        |s| s.events = vec![s.events[0].clone(); 10_001],
        Reason::TooManyEvents,
        "more events than the limit of 10000",
    );
    check(
        |s| s.attributes.push(attribute("deep", nested(33))),
        Reason::ValueTooDeep,
        "attribute \"deep\" nests deeper than the limit of 32",
    );
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::IntValue(1), |value, _| list([value]))
}

#[test]
fn values_nest_as_deep_as_the_limit() {
    let mut deep = span(1);
    deep.attributes.push(attribute("deep", nested(32)));
    assert!(decode(&bytes(vec![deep])).unwrap().rejected.is_empty());
}

#[test]
fn spans_outside_of_the_time_window_are_rejected_and_the_window_is_named() {
    let window = TimeRange::new(START as i64, START as i64 + 1_000_000_000);
    let rules = Rules { limits: Limits::default(), time_window: window };
    let mut late = span(2);
    late.start_time_unix_nano = START + 1_000_000_000;
    let decoded = decode_protobuf(&bytes(vec![span(1), late]), &standard(), &rules).unwrap();
    assert_eq!(decoded.batch.num_spans(), 1);
    assert_eq!(
        decoded.rejected.to_string(),
        "rejected 1 span: 1 outside time window (start time 2026-11-21T06:00:01Z is outside of 2026-11-21T06:00:00Z \
         to 2026-11-21T06:00:01Z)"
    );
}

#[test]
fn a_fault_of_the_resource_rejects_its_spans() {
    let mut request = crate::otlp_samples::request(vec![span(1), span(2)]);
    let resource = request.resource_spans[0].resource.as_mut().unwrap();
    resource.attributes = vec![attribute("k", Value::BoolValue(true)); 4097];
    let decoded = decode(&request.encode_to_vec()).unwrap();
    assert_eq!(decoded.batch.num_spans(), 0);
    assert_eq!(decoded.batch.resources().num_rows(), 0);
    assert_eq!(decoded.rejected.iter().collect::<Vec<_>>(), [(Reason::TooManyAttributes, 2)]);
}

#[test]
fn a_parent_of_zeros_and_an_end_before_the_start_are_kept() {
    let mut odd = span(1);
    odd.parent_span_id = vec![0; 8];
    odd.end_time_unix_nano = odd.start_time_unix_nano - 7;
    let batch = decode(&bytes(vec![odd])).unwrap().batch;
    let column = |name: &str| batch.flat_column(name).unwrap().unwrap();
    assert_eq!(column("parent_span_id").null_count(), 1);
    let durations = column("duration_nano");
    assert_eq!(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&durations).value(0), -7);
}

#[test]
fn too_many_spans_refuse_the_request() {
    let rules = Rules { limits: Limits { spans_max: 1, ..Limits::default() }, ..rules() };
    let error: Error = decode_protobuf(&bytes(vec![span(1), span(2)]), &standard(), &rules).unwrap_err().into();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(error.message(), "request has more spans than the limit of 1");
}

#[test]
fn millions_of_empty_messages_cost_nothing() {
    // 2 bytes each: resources without spans, then spans without ids.
    assert_eq!(decode(&[0x0a, 0x00].repeat(1_000_000)).unwrap().batch.resources().num_rows(), 0);
    let spans = [0x12, 0x00].repeat(500_000);
    let scope_spans = [&[0x12][..], &length(spans.len()), &spans].concat();
    let resource_spans = [&[0x0a][..], &length(scope_spans.len()), &scope_spans].concat();
    let decoded = decode(&resource_spans).unwrap();
    assert_eq!(decoded.rejected.total(), 500_000);
    assert_eq!(decoded.batch.memory_bytes() / 100_000, 0);
}

/// A length as protobuf writes it.
fn length(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(length as u64, &mut bytes);
    bytes
}

#[test]
fn every_truncation_is_an_error_or_a_shorter_request() {
    let whole = bytes(vec![span(1), span(2)]);
    for end in 0..whole.len() {
        match decode(&whole[..end]) {
            // The one resource is one field, so nothing but nothing at all is a request.
            Ok(decoded) => assert_eq!((end, decoded.batch.num_spans()), (0, 0)),
            Err(error) => assert_eq!(Error::from(error).kind(), ErrorKind::InvalidArgument),
        }
    }
}

#[test]
fn errors_name_the_place() {
    let message = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    assert_eq!(
        message(b"\xff\xff"),
        "invalid protobuf at byte 0 of the request: the message ends in the middle of a field"
    );
    assert_eq!(
        message(b"\x0a\x05\x0a"),
        "invalid protobuf at byte 1 of the request: a field of 5 bytes in a message that has 1 bytes left"
    );
    assert_eq!(
        message(b"\x08\x00"),
        "invalid protobuf at byte 1 of the request: field 1 of ExportTraceServiceRequest has wire type 0"
    );
    let mut broken = bytes(vec![span(1)]);
    let at = broken.windows(10).position(|window| window == b"GET /users").unwrap();
    broken[at + 4] = 0xff;
    assert_eq!(
        message(&broken),
        format!("invalid protobuf at byte {} of the request: Span.name is not valid UTF-8", at + 4)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bytes_never_panic_and_never_lose_a_span_silently(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes(vec![span(1), span(2)]);
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        let theirs = opentelemetry_proto::tonic::trace::v1::TracesData::decode(&bytes[..]);
        if let (Ok(decoded), Ok(theirs)) = (decode(&bytes), &theirs) {
            let spans = theirs.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum::<usize>();
            prop_assert_eq!(decoded.batch.num_spans() as u64 + decoded.rejected.total(), spans as u64);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }
}
