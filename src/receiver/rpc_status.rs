//! The body of an error: `google.rpc.Status` in the request's encoding.

use prost::Message;
use serde::Serialize;

use super::retry_after;
use crate::{error::Error, otlp::rpc_status::RpcStatus};

#[derive(Serialize)]
struct JsonStatus<'a> {
    code: i32,
    message: &'a str,
}

/// The status in protobuf, with the retry hint of the error.
pub(super) fn protobuf(error: &Error) -> Vec<u8> {
    RpcStatus::new(error.kind().grpc_code() as i32, error.message(), retry_after(error)).encode_to_vec()
}

/// The status in JSON.
pub(super) fn json(error: &Error) -> Vec<u8> {
    let status = JsonStatus { code: error.kind().grpc_code() as i32, message: error.message() };
    // A number and a text can always be written.
    serde_json::to_vec(&status).unwrap_or_default()
}
