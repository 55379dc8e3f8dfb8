//! What goes in comes out: protobuf and JSON, in any legal form, to Arrow and back.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::Field,
};
use datafusion::{
    common::config::ConfigOptions,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl},
    scalar::ScalarValue,
};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::TracesData};
use proptest::prelude::*;
use prost::Message;
use tracehouse::{
    functions::AttrAssemble,
    model::{
        attributes::{AttributeScope, map_type},
        batch::SpanBatch,
        promotion::{Promotion, standard},
        schema::logical_schema,
    },
    otlp::{
        decode::decode_protobuf,
        encode::encode,
        json::decode_json,
        tempo_json::{ListName, push_trace},
    },
};

use crate::{otlp_arbitrary, otlp_json::to_json, otlp_samples as samples};

/// The rows of a batch with promoted attributes back in their maps.
pub(crate) fn logical_rows(batch: &SpanBatch) -> RecordBatch {
    let flat = batch.flatten(&batch.flat_schema()).unwrap();
    let schema = logical_schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| match AttributeScope::of_map_column(field.name()) {
            None => Arc::clone(&flat[field.name().as_str()]),
            Some(scope) => assemble(&flat, field.name(), scope),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

fn assemble(flat: &RecordBatch, column: &str, scope: AttributeScope) -> ArrayRef {
    let mut args = vec![ColumnarValue::Array(Arc::clone(&flat[column]))];
    for attribute in standard().of_scope(scope) {
        if let Some(values) = flat.column_by_name(&attribute.column) {
            args.push(ColumnarValue::Scalar(ScalarValue::from(&*attribute.key)));
            args.push(ColumnarValue::Array(Arc::clone(values)));
        }
    }
    let arg_fields = args.iter().map(|arg| Arc::new(Field::new("arg", arg.data_type(), true))).collect();
    let number_rows = flat.num_rows();
    let return_field = Arc::new(Field::new("map", map_type(), false));
    let config_options = Arc::new(ConfigOptions::default());
    let args = ScalarFunctionArgs { args, arg_fields, number_rows, return_field, config_options };
    AttrAssemble::default().invoke_with_args(args).unwrap().into_array(number_rows).unwrap()
}

fn round_trip(batch: &SpanBatch) -> TracesData {
    encode(&[logical_rows(batch)]).unwrap()
}

/// Not-a-numbers differ from themselves; their bytes do not.
fn assert_same(ours: &TracesData, expected: &TracesData) {
    if ours.encode_to_vec() != expected.encode_to_vec() {
        assert_eq!(format!("{ours:#?}"), format!("{expected:#?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_request_comes_back_in_normal_form(request in otlp_arbitrary::request()) {
        let decoded = samples::decode(&request.encode_to_vec()).unwrap();
        prop_assert!(decoded.rejected.is_empty(), "{}", decoded.rejected);
        assert_same(&round_trip(&decoded.batch), &otlp_arbitrary::normal_form(&request));
    }

    #[test]
    fn without_promotion_it_comes_back_the_same(request in otlp_arbitrary::request()) {
        let bytes = request.encode_to_vec();
        let decoded = decode_protobuf(&bytes, &Arc::new(Promotion::default()), &samples::rules()).unwrap();
        assert_same(&round_trip(&decoded.batch), &otlp_arbitrary::normal_form(&request));
    }

    #[test]
    fn every_legal_way_to_write_a_request_reads_as_prost_reads_it(
        request in otlp_arbitrary::request(),
        seed in any::<u64>(),
    ) {
        let bytes = otlp_arbitrary::odd_wire(&request, seed);
        let theirs = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        let ours = samples::decode(&bytes).unwrap();
        assert_same(&round_trip(&ours.batch), &otlp_arbitrary::normal_form(&theirs));
    }

    #[test]
    fn json_reads_as_protobuf_does(request in otlp_arbitrary::request(), style in any::<u64>()) {
        let json = to_json(&request, style);
        let decoded = decode_json(json.as_bytes(), &standard(), &samples::rules()).unwrap();
        assert_same(&round_trip(&decoded.batch), &otlp_arbitrary::normal_form(&request));
    }

    #[test]
    fn rows_in_any_number_of_batches_give_the_same_trace(request in otlp_arbitrary::request(), cut in any::<u8>()) {
        let rows = logical_rows(&samples::decode(&request.encode_to_vec()).unwrap().batch);
        let cut = usize::from(cut) % (rows.num_rows() + 1);
        let parts = [rows.slice(0, cut), rows.slice(cut, rows.num_rows() - cut)];
        assert_same(&encode(&parts).unwrap(), &encode(&[rows]).unwrap());
    }

    #[test]
    fn the_json_of_tempo_is_json(request in otlp_arbitrary::request()) {
        let mut out = String::new();
        push_trace(&mut out, &otlp_arbitrary::normal_form(&request), ListName::Batches);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{}", out);
    }
}

#[test]
fn tempo_reads_base64_ids_enum_names_and_no_zeros() {
    let mut plain = samples::span(2);
    plain.kind = 0;
    plain.flags = 0;
    plain.trace_state = String::new();
    plain.parent_span_id = Vec::new();
    plain.attributes =
        vec![samples::attribute("z", opentelemetry_proto::tonic::common::v1::any_value::Value::DoubleValue(2.0))];
    plain.events = Vec::new();
    plain.links = Vec::new();
    plain.status = None;
    (plain.dropped_attributes_count, plain.dropped_events_count, plain.dropped_links_count) = (0, 0, 0);
    let batch = samples::decode(&samples::bytes(vec![samples::span(1), plain])).unwrap().batch;
    let mut out = String::new();
    push_trace(&mut out, &round_trip(&batch), ListName::ResourceSpans);
    let expected = concat!(
        r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"process.pid","value":{"intValue":"6"}},"#,
        r#"{"key":"service.name","value":{"stringValue":"users"}}],"droppedAttributesCount":6},"#,
        r#""scopeSpans":[{"scope":{"name":"io.opentelemetry.http","version":"2.9.0","attributes":"#,
        r#"[{"key":"scope.key","value":{"stringValue":"scope value"}}],"droppedAttributesCount":7},"spans":["#,
        r#"{"traceId":"AQEBAQEBAQEBAQEBAQEBAQ==","spanId":"AQEBAQEBAQE=","traceState":"a=b","#,
        r#""parentSpanId":"CQkJCQkJCQk=","flags":769,"name":"GET /users","kind":"SPAN_KIND_SERVER","#,
        r#""startTimeUnixNano":"1795240800000000001","endTimeUnixNano":"1795240800001000001","attributes":["#,
        r#"{"key":"app.cache.hit","value":{"boolValue":true}},{"key":"app.empty","value":{}},"#,
        r#"{"key":"app.list","value":{"arrayValue":{"values":[{"intValue":"1"},{"stringValue":"x"},"#,
        r#"{"arrayValue":{}}]}}},{"key":"app.map","value":{"kvlistValue":{"values":[{"key":"$k","value":"#,
        r#"{"stringValue":"v"}},{"key":"k","value":{"stringValue":"v"}}]}}},"#,
        r#"{"key":"app.raw","value":{"bytesValue":"AAH/"}},{"key":"app.score","value":{"doubleValue":"#,
        r#"0.30000000000000004}},{"key":"http.response.status_code","value":{"intValue":"200"}},"#,
        r#"{"key":"http.route","value":{"stringValue":"/users/{id}"}}],"droppedAttributesCount":1,"events":["#,
        r#"{"timeUnixNano":"1795240800000000005","name":"exception","attributes":[{"key":"exception.type","#,
        r#""value":{"stringValue":"Timeout"}}],"droppedAttributesCount":2}],"droppedEventsCount":3,"links":["#,
        r#"{"traceId":"BwcHBwcHBwcHBwcHBwcHBw==","spanId":"BwcHBwcHBwc=","traceState":"c=d","attributes":["#,
        r#"{"key":"link.reason","value":{"stringValue":"retry"}}],"droppedAttributesCount":4,"flags":1}],"#,
        r#""droppedLinksCount":5,"status":{"message":"boom","code":"STATUS_CODE_ERROR"}},"#,
        r#"{"traceId":"AgICAgICAgICAgICAgICAg==","spanId":"AgICAgICAgI=","name":"GET /users","#,
        r#""startTimeUnixNano":"1795240800000000002","endTimeUnixNano":"1795240800001000002","#,
        r#""attributes":[{"key":"z","value":{"doubleValue":2}}],"status":{}}],"#,
        r#""schemaUrl":"https://example.org/scope"}],"schemaUrl":"https://example.org/resource"}]}"#,
    );
    assert_eq!(out, expected);
}

#[test]
fn a_trace_without_spans_is_an_empty_object() {
    let mut out = String::new();
    push_trace(&mut out, &encode(&[]).unwrap(), ListName::Batches);
    assert_eq!(out, "{}");
}
