//! Plain spans with ids that a test can count: OTLP requests of them, and rows for a batch.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tonic::{Status, transport::Channel};
use tracehouse::{
    model::{
        builder::SpanFields,
        ids::{SpanId, TraceId},
    },
    server::Server,
};

pub(crate) type Sender = TraceServiceClient<Channel>;

/// A text attribute.
pub(crate) fn text_attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

/// A request of one service with a root span for each number; the number is the span id, and half of the trace id.
pub(crate) fn request(
    name: &str,
    numbers: impl IntoIterator<Item = u64>,
    start_unix_nano: u64,
) -> ExportTraceServiceRequest {
    let span = |number: u64| Span {
        trace_id: [number.to_be_bytes(), number.to_be_bytes()].concat(),
        span_id: number.to_be_bytes().to_vec(),
        name: name.to_owned(),
        kind: 2,
        start_time_unix_nano: start_unix_nano,
        end_time_unix_nano: start_unix_nano + 1_000_000,
        attributes: vec![
            text_attribute("http.route", "/orders/{id}"),
            text_attribute("test.number", &number.to_string()),
        ],
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text_attribute("service.name", "order-service")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans: numbers.into_iter().map(span).collect(), ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

/// A sender that is connected to an OTLP/gRPC address.
pub(crate) async fn sender(address: &str) -> Result<Sender, tonic::transport::Error> {
    Sender::connect(format!("http://{address}")).await
}

/// Sends a request and demands that every span of it was accepted.
pub(crate) async fn send(sender: &mut Sender, request: ExportTraceServiceRequest) -> Result<(), Status> {
    let response = sender.export(request).await?.into_inner();
    assert_eq!(response.partial_success.map_or(0, |partial| partial.rejected_spans), 0);
    Ok(())
}

/// The fields of a server's root span with a name of its own, for a test to change what it is about.
pub(crate) fn plain_span(
    trace_id: TraceId,
    span_id: u64,
    start_time_unix_nano: i64,
    duration_nano: i64,
) -> SpanFields<'static> {
    SpanFields {
        trace_id,
        span_id: SpanId::from_bytes(span_id.to_be_bytes()),
        parent_span_id: None,
        trace_state: "",
        flags: 0,
        name: "op",
        kind: 2,
        status_code: 0,
        status_message: "",
        start_time_unix_nano,
        duration_nano,
        dropped_attributes_count: 0,
        dropped_events_count: 0,
        dropped_links_count: 0,
    }
}

/// Posts spans of a service `many`, each as OTLP/JSON writes it.
pub(crate) async fn send_json(server: &Server, spans: impl IntoIterator<Item = String>) {
    let spans = spans.into_iter().collect::<Vec<_>>().join(",");
    let resource = r#"{"attributes":[{"key":"service.name","value":{"stringValue":"many"}}]}"#;
    let body = format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#);
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}
