//! When and after how long a refused OTLP request is sent again, by the rules of the OTLP specification.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use crate::otlp::rpc_status::RpcStatus;

/// How long to wait before `status`'s request is sent again: `None` if it must not be, `Some(None)` if the server left
/// the delay to us.
pub(super) fn retry_delay(status: &Status) -> Option<Option<Duration>> {
    let details = RpcStatus::decode(status.details()).ok();
    let asked = details.and_then(|details| details.retry_delay());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::DataLoss => Some(asked),
        // Without a delay it means that the request is too large, and always will be.
        Code::ResourceExhausted => asked.map(Some),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled(code: Code, delay: Duration) -> Status {
        let status = RpcStatus::new(code as i32, "", Some(delay));
        Status::with_details(code, "slow down", status.encode_to_vec().into())
    }

    #[test]
    fn the_delay_that_the_server_asks_for_is_kept() {
        let delay = Duration::from_millis(2_500);
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            assert_eq!(retry_delay(&throttled(code, delay)), Some(Some(delay)));
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
    }

    #[test]
    fn delays_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(None).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }
}
