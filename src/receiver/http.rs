//! OTLP/HTTP: `POST /v1/traces`, protobuf or JSON, the answer in the encoding of the request.
//!
//! Source: the OTLP specification, "OTLP/HTTP", and the OpenTelemetry Collector where that is silent.

use std::time::Duration;

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
    Encoding, HTTP_JSON, HTTP_PROTOBUF, Protocol, Receiver,
    body::{self, Compression, SUPPORTED},
    retry_after, rpc_status,
};
use crate::error::{Error, Result};

const PATH: &str = "/v1/traces";

/// How long browsers remember that they may send.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7200);

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) fn router(receiver: Receiver) -> Router {
    let cors = cors(&receiver.0.settings.cors_allowed_origins);
    let router = Router::new().route(PATH, any(traces)).fallback(not_found).with_state(receiver);
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
        // Settings that were checked hold header values only. No browser sends the slash that they may end in.
        origins => {
            let origins = origins.iter().map(|origin| origin.trim_end_matches('/'));
            AllowOrigin::list(origins.filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .max_age(PREFLIGHT_MAX_AGE),
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
        body::drain(request.into_body());
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    };
    let name = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let Ok(compression) = Compression::parse(name.unwrap_or_default()) else {
        let message = format!("unsupported content encoding {:?}, supported: {SUPPORTED}", name.unwrap_or_default());
        body::drain(request.into_body());
        return refusal(encoding, StatusCode::UNSUPPORTED_MEDIA_TYPE, &Error::invalid(message));
    };
    let protocol = match encoding {
        Encoding::Protobuf => HTTP_PROTOBUF,
        Encoding::Json => HTTP_JSON,
    };
    let (head, mut body) = request.into_parts();
    let outcome = export(&receiver, protocol, compression, &head.headers, &mut body).await;
    receiver.count(protocol, &outcome);
    match outcome {
        Ok(response) => accepted(encoding, &response),
        Err(error) => {
            body::drain(body);
            refusal(encoding, error.kind().http_status(), &error)
        }
    }
}

async fn export(
    receiver: &Receiver,
    protocol: Protocol,
    compression: Option<Compression>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<ExportTraceServiceResponse> {
    let mut reservation = receiver.reserve();
    let body = body::read(headers, body, receiver.request_bytes_max(), &mut reservation, |_| None).await?;
    receiver.export(protocol, compression, body, reservation).await
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 not found, traces are received at /v1/traces")
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
