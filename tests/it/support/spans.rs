//! OTLP requests of plain spans with ids that a test can count.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tonic::{Status, transport::Channel};

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
