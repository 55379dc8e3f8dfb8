//! OTLP/gRPC: the unary call `TraceService/Export`.
//!
//! The message is taken as raw bytes, so that one walk over them fills the columns and the limit on the decompressed
//! size answers with the code that OTLP asks for: `RESOURCE_EXHAUSTED` without a retry hint, which senders do not retry.
//! Hence the framing is read here: one compression flag, four bytes of length, the message.
//!
//! Source: gRPC over HTTP/2, and the OTLP specification, "OTLP/gRPC".

use axum::{Router, body::Body, extract::State, routing::post};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tonic::Status;

use super::{
    GRPC, Receiver,
    body::{self, Compression},
    retry_after, rpc_status,
};
use crate::error::{Error, ErrorKind, Result};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CONTENT_TYPE: &str = "application/grpc";
const FRAME_HEADER_BYTES: usize = 5;

/// What `grpc-accept-encoding` tells senders.
const ACCEPTED: &str = "identity,gzip,zstd,deflate";

pub(super) fn router(receiver: Receiver) -> Router {
    Router::new().route(EXPORT, post(export)).fallback(unimplemented).with_state(receiver)
}

async fn unimplemented(request: Request<Body>) -> Response<Body> {
    Status::unimplemented(format!("there is no method {}", request.uri().path())).into_http()
}

async fn export(State(receiver): State<Receiver>, request: Request<Body>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(|value| value.starts_with(CONTENT_TYPE)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let encoding = request.headers().get("grpc-encoding").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Ok(compression) = Compression::parse(encoding) else {
        let status = Status::unimplemented(format!("unsupported grpc-encoding {encoding:?}, supported: {ACCEPTED}"));
        let mut response: Response<Body> = status.into_http();
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
        return response;
    };
    let (head, mut body) = request.into_parts();
    let outcome = handle(&receiver, compression, &head.headers, &mut body).await;
    receiver.count(GRPC, &outcome);
    match outcome {
        Ok(message) => answer(&message),
        Err(error) => status(&error).into_http(),
    }
}

async fn handle(
    receiver: &Receiver,
    compression: Option<Compression>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Vec<u8>> {
    let bytes_max = receiver.request_bytes_max();
    let mut reservation = receiver.reserve();
    let framed_bytes_max = bytes_max.saturating_add(FRAME_HEADER_BYTES);
    let framed =
        body::read(headers, body, framed_bytes_max, &mut reservation, framed_length).await.map_err(|error| {
            // The sender knows the limit of a message, not of a frame.
            if error.kind() == ErrorKind::TooLarge { body::too_large(bytes_max) } else { error }
        })?;
    let (compressed, message) = unframe(&framed)?;
    let compression = match (compressed, compression) {
        (false, _) => None,
        (true, Some(compression)) => Some(compression),
        (true, None) => return Err(Error::invalid("the message is compressed and grpc-encoding does not say how")),
    };
    Ok(receiver.export(GRPC, compression, message, reservation).await?.encode_to_vec())
}

/// Length of a frame that begins so.
fn framed_length(start: &[u8]) -> Option<usize> {
    let [_, length @ ..] = start.first_chunk::<FRAME_HEADER_BYTES>()?;
    (u32::from_be_bytes(*length) as usize).checked_add(FRAME_HEADER_BYTES)
}

/// The one message of a unary call, and whether it is compressed.
fn unframe(framed: &Bytes) -> Result<(bool, Bytes)> {
    let Some((header, rest)) = framed.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(Error::invalid("the request has no message"));
    };
    let [flag, length @ ..] = header;
    let length = u32::from_be_bytes(*length) as usize;
    if rest.len() != length {
        let found = rest.len();
        return Err(Error::invalid(format!("the message has {found} bytes where its frame says {length}")));
    }
    match flag {
        0 | 1 => Ok((*flag == 1, framed.slice(FRAME_HEADER_BYTES..))),
        other => Err(Error::invalid(format!("the message has compression flag {other}, allowed are 0 and 1"))),
    }
}

fn answer(message: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok::<_, std::convert::Infallible>(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
    response
}

fn status(error: &Error) -> Status {
    let code = error.kind().grpc_code();
    match retry_after(error) {
        Some(_) => Status::with_details(code, error.grpc_message(), Bytes::from(rpc_status::protobuf(error))),
        None => Status::new(code, error.grpc_message()),
    }
}
