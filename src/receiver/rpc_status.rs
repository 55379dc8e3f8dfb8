//! `google.rpc.Status`: the body of an error in OTLP, and the details of a gRPC status.
//!
//! Source: google/rpc/status.proto and error_details.proto.

use std::time::Duration;

use prost::Message;
use serde::Serialize;

use super::retry_after;
use crate::error::Error;

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    code: i32,
    message: &'a str,
}

fn retry_info(delay: Duration) -> Any {
    let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
    let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos: delay.subsec_nanos().cast_signed() }) };
    Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() }
}

/// The status in protobuf, with the retry hint of the error.
pub(super) fn protobuf(error: &Error) -> Vec<u8> {
    let details = retry_after(error).map(retry_info).into_iter().collect();
    Status { code: error.kind().grpc_code() as i32, message: error.message().to_owned(), details }.encode_to_vec()
}

/// The status in JSON.
pub(super) fn json(error: &Error) -> Vec<u8> {
    let status = JsonStatus { code: error.kind().grpc_code() as i32, message: error.message() };
    // A number and a text can always be written.
    serde_json::to_vec(&status).unwrap_or_default()
}
