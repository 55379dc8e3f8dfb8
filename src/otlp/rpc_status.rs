//! `google.rpc.Status`: the body of an error in OTLP/HTTP, and the details of a gRPC status, with the hint when to retry.
//!
//! Source: google/rpc/status.proto and error_details.proto.

use std::time::Duration;

use prost::Message;

/// The name by which a hint is known among the details.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For the person who reads it.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Messages with the names of their types.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// The name of the type, after a slash.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<ProtoDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct ProtoDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl RpcStatus {
    /// A status with a hint when to send again, if there is one.
    pub fn new(code: i32, message: &str, retry_delay: Option<Duration>) -> Self {
        let retry_info = |delay: Duration| {
            let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
            let delay = ProtoDuration { seconds, nanos: delay.subsec_nanos().cast_signed() };
            Any { type_url: RETRY_INFO.to_owned(), value: RetryInfo { retry_delay: Some(delay) }.encode_to_vec() }
        };
        Self { code, message: message.to_owned(), details: retry_delay.map(retry_info).into_iter().collect() }
    }

    /// When the peer asks to be tried again: `None` if it says nothing that makes sense.
    pub fn retry_delay(&self) -> Option<Duration> {
        let info = self.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
        let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_comes_back_as_it_was_given() {
        for delay in [None, Some(Duration::ZERO), Some(Duration::from_millis(2_500)), Some(Duration::new(7, 1))] {
            let bytes = RpcStatus::new(14, "slow down", delay).encode_to_vec();
            let status = RpcStatus::decode(bytes.as_slice()).unwrap();
            assert_eq!((status.code, status.message.as_str(), status.retry_delay()), (14, "slow down", delay));
        }
    }

    #[test]
    fn a_hint_that_makes_no_sense_is_none() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            let value = RetryInfo { retry_delay: Some(ProtoDuration { seconds, nanos }) }.encode_to_vec();
            let mut status = RpcStatus::new(14, "", Some(Duration::ZERO));
            status.details[0].value = value;
            assert_eq!(status.retry_delay(), None, "{seconds} {nanos}");
            status.details[0].value = vec![0xff; 9];
            assert_eq!(status.retry_delay(), None);
        }
    }
}
