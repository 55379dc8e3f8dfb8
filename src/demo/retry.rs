//! When and after how long a refused OTLP request is sent again, by the rules of the OTLP specification.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

/// How long to wait before `status`'s request is sent again: `None` if it must not be, `Some(None)` if the server left
/// the delay to us.
pub(super) fn retry_delay(status: &Status) -> Option<Option<Duration>> {
    let asked = asked_delay(status);
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::DataLoss => Some(asked),
        // Without a delay it means that the request is too large, and always will be.
        Code::ResourceExhausted => asked.map(Some),
        _ => None,
    }
}

/// The delay of a `google.rpc.RetryInfo` among the status's details.
fn asked_delay(status: &Status) -> Option<Duration> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}

/// Delays that double, for servers that name none.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(100) }
    }
}

impl Backoff {
    const MAX: Duration = Duration::from_secs(5);

    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(Self::MAX);
        asked.unwrap_or(delay)
    }
}

/// `google.rpc.Status`, the form of a gRPC status's details.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled(code: Code, retry_delay: ProtoDuration) -> Status {
        let value = RetryInfo { retry_delay: Some(retry_delay) }.encode_to_vec();
        let detail = AnyMessage { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value };
        let status = RpcStatus { code: code as i32, message: String::new(), details: vec![detail] };
        Status::with_details(code, "slow down", status.encode_to_vec().into())
    }

    #[test]
    fn the_delay_that_the_server_asks_for_is_kept() {
        let delay = ProtoDuration { seconds: 2, nanos: 500_000_000 };
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            assert_eq!(retry_delay(&throttled(code, delay.clone())), Some(Some(Duration::from_millis(2_500))));
        }
        assert_eq!(retry_delay(&throttled(Code::InvalidArgument, delay)), None);
    }

    #[test]
    fn only_transient_statuses_are_tried_again() {
        assert_eq!(retry_delay(&Status::unavailable("")), Some(None));
        assert_eq!(retry_delay(&Status::resource_exhausted("message too large")), None);
        assert_eq!(retry_delay(&Status::internal("")), None);
        let garbage = Status::with_details(Code::Unavailable, "", vec![0xff; 9].into());
        assert_eq!(retry_delay(&garbage), Some(None));
        let negative = throttled(Code::Unavailable, ProtoDuration { seconds: -1, nanos: 0 });
        assert_eq!(retry_delay(&negative), Some(None));
    }

    #[test]
    fn delays_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(None).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }
}
