//! OTLP/HTTP: `POST /v1/traces`, protobuf or JSON, the answer in the encoding of the request.
//!
//! Source: the OTLP specification, "OTLP/HTTP", and the OpenTelemetry Collector where that is silent.

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::any,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::json;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::{
    Encoding, HTTP_JSON, HTTP_PROTOBUF, Receiver,
    body::{self, Compression, SUPPORTED},
    retry_after, rpc_status,
};
use crate::error::{Error, Result};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) fn router(receiver: Receiver) -> Router {
    let cors = cors(&receiver.0.settings.cors_allowed_origins);
    let router = Router::new().route("/v1/traces", any(traces)).with_state(receiver);
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// Lets pages of these origins send; `None` if there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        origins if origins.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        // An origin that is not a header value is no origin that a browser sends.
        origins => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::POST])
            .allow_headers(AllowHeaders::mirror_request()),
    )
}

async fn traces(State(receiver): State<Receiver>, request: Request<Body>) -> Response {
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed, supported: [POST]");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let Some(encoding) = encoding(request.headers()) else {
        let message = "415 unsupported media type, supported: [application/json, application/x-protobuf]";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    };
    let name = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let Ok(compression) = Compression::parse(name.unwrap_or_default()) else {
        let message = format!("unsupported content encoding {:?}, supported: {SUPPORTED}", name.unwrap_or_default());
        return refusal(encoding, StatusCode::UNSUPPORTED_MEDIA_TYPE, &Error::invalid(message));
    };
    match export(&receiver, encoding, compression, request.into_body()).await {
        Ok(response) => accepted(encoding, &response),
        Err(error) => refusal(encoding, error.kind().http_status(), &error),
    }
}

async fn export(
    receiver: &Receiver,
    encoding: Encoding,
    compression: Option<Compression>,
    body: Body,
) -> Result<ExportTraceServiceResponse> {
    let bytes_max = receiver.request_bytes_max();
    let mut reservation = receiver.reserve();
    let body = body::read(body, bytes_max, &mut reservation).await?;
    let (body, _reservation) = body::decompress(body, compression, bytes_max, reservation).await?;
    let protocol = match encoding {
        Encoding::Protobuf => HTTP_PROTOBUF,
        Encoding::Json => HTTP_JSON,
    };
    receiver.export(protocol, body).await
}

/// The encoding that the content type names, whatever its parameters.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match value.split(';').next()?.trim().to_ascii_lowercase().as_str() {
        PROTOBUF | "application/protobuf" => Some(Encoding::Protobuf),
        JSON => Some(Encoding::Json),
        _ => None,
    }
}

fn accepted(encoding: Encoding, response: &ExportTraceServiceResponse) -> Response {
    let body = match (encoding, &response.partial_success) {
        (Encoding::Protobuf, _) => response.encode_to_vec(),
        (Encoding::Json, None) => b"{}".to_vec(),
        (Encoding::Json, Some(partial)) => json!({
            "partialSuccess": {
                "rejectedSpans": partial.rejected_spans.to_string(),
                "errorMessage": partial.error_message,
            }
        })
        .to_string()
        .into_bytes(),
    };
    encoded(encoding, StatusCode::OK, body)
}

fn refusal(encoding: Encoding, status: StatusCode, error: &Error) -> Response {
    let body = match encoding {
        Encoding::Protobuf => rpc_status::protobuf(error),
        Encoding::Json => rpc_status::json(error),
    };
    let mut response = encoded(encoding, status, body);
    if let Some(delay) = retry_after(error) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs()));
    }
    response
}

fn encoded(encoding: Encoding, status: StatusCode, body: Vec<u8>) -> Response {
    let content_type = match encoding {
        Encoding::Protobuf => PROTOBUF,
        Encoding::Json => JSON,
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

fn text(status: StatusCode, message: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain")], message).into_response()
}
