//! OTLP in: gRPC and HTTP, protobuf and JSON, to a durable acknowledgement.
//!
//! ```text
//!  gRPC  \                                                        / partial_success, in the request's encoding
//!         > body (bounded, decompressed) -> otlp decode -> ingest
//!  HTTP  /                                                        \ google.rpc.Status with the code senders act on
//! ```
//!
//! Senders act on the status: they retry on 429, 502, 503, 504 and on `UNAVAILABLE`, and drop the data on anything
//! else. So whatever may pass (a full buffer, a failing disk, a stop) is 503 or `UNAVAILABLE` with a hint, and never
//! 500; what can never succeed (malformed, too large) is final at once. Spans that break a rule are counted, reported
//! as rejected in `partial_success`, and do not hold up the others.
//!
//! What a sender can make the server hold is bounded twice: each request by its size after decompression, and all
//! requests together by [`inflight`], where every byte is reserved before it is kept. A length that was announced is
//! reserved before the body is read, so that a refusal under pressure is early and cheap. There is no queue.
//!
//! gRPC framing is read here and not by a library: its codec would see messages only after they were decompressed on the
//! network's threads, and would answer one that is too large with `OUT_OF_RANGE`, which OTLP senders retry.
//!
//! Deliberately absent: tenants from headers (there is one tenant), gRPC-Web, reflection.

mod body;
mod grpc;
mod http;
mod inflight;
mod rpc_status;

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use axum::Router;
use bytes::Bytes;
use chrono::{NaiveDate, NaiveTime};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};

use tokio::sync::Semaphore;
use tracing::debug;

use self::{
    body::Compression,
    inflight::{InFlight, Reservation},
};
use crate::{
    clock::Clock,
    config::IngestSettings,
    error::{Error, ErrorKind, Result},
    ingest::{Ingest, RETRY_AFTER, WriteRequest, dedup},
    metrics::Metrics,
    model::{tenant::TenantId, time::TimeRange},
    otlp::{
        Decoded,
        decode::{REQUEST_BYTES_MAX, decode_protobuf},
        json::decode_json,
        rules::{Limits, Rules},
    },
};

/// Bodies below this size that are not compressed are decoded where they were received: that takes less time than
/// handing them over and back. How much a compressed one becomes shows only when it is decompressed.
const INLINE_BYTES: usize = 16 << 10;

/// How a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// The way a request came: a label in metrics.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    label: &'static str,
    encoding: Encoding,
}

const GRPC: Protocol = Protocol { label: "otlp_grpc", encoding: Encoding::Protobuf };
const HTTP_PROTOBUF: Protocol = Protocol { label: "otlp_http_protobuf", encoding: Encoding::Protobuf };
const HTTP_JSON: Protocol = Protocol { label: "otlp_http_json", encoding: Encoding::Json };

/// The OTLP receivers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ingest: Arc<Ingest>,
    in_flight: InFlight,
    /// As many requests are decoded at once as there are cores; the others wait, within the budget.
    decoders: Arc<Semaphore>,
    settings: IngestSettings,
    limits: Limits,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Receiver {
    /// Receivers that write to `ingest` within the limits of `settings`.
    pub fn new(ingest: Arc<Ingest>, settings: &IngestSettings, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let limits = Limits {
            spans_max: settings.spans_per_request_max,
            attributes_max: settings.attributes_per_span_max,
            attribute_bytes_max: settings.attribute_bytes_max.as_usize(),
            nesting_depth_max: settings.nesting_depth_max,
            ..Limits::default()
        };
        let in_flight = InFlight::new(settings.in_flight_bytes_max.as_usize(), metrics.ingest_in_flight_bytes.clone());
        Self(Arc::new(Inner {
            ingest,
            in_flight,
            decoders: Arc::new(Semaphore::new(available_parallelism().map_or(4, usize::from))),
            settings: settings.clone(),
            limits,
            clock,
            metrics,
        }))
    }

    /// The routes of OTLP/gRPC.
    pub fn grpc_router(&self) -> Router {
        grpc::router(self.clone())
    }

    /// The routes of OTLP/HTTP.
    pub fn http_router(&self) -> Router {
        http::router(self.clone())
    }

    fn request_bytes_max(&self) -> usize {
        self.0.settings.request_bytes_max.as_usize().min(REQUEST_BYTES_MAX)
    }

    fn reserve(&self) -> Reservation {
        self.0.in_flight.reservation()
    }

    /// Decompresses, decodes and stores a request; returns when what was accepted is durable and visible.
    async fn export(
        &self,
        protocol: Protocol,
        compression: Option<Compression>,
        body: Bytes,
        mut reservation: Reservation,
    ) -> Result<ExportTraceServiceResponse> {
        let received_unix_nano = self.0.clock.now_unix_nano();
        let (decoded, _reservation) = if compression.is_none() && body.len() < INLINE_BYTES {
            (self.decode(protocol, compression, &body, received_unix_nano, &mut reservation)?, reservation)
        } else {
            let turn = Arc::clone(&self.0.decoders).acquire_owned().await.map_err(defect)?;
            let receiver = self.clone();
            let decode = move || {
                // A sender that goes away does not stop the thread, so the turn ends with the work and not with the wait.
                let _turn = turn;
                let decoded = receiver.decode(protocol, compression, &body, received_unix_nano, &mut reservation)?;
                Ok::<_, Error>((decoded, reservation))
            };
            tokio::task::spawn_blocking(decode).await.map_err(defect)??
        };
        let Digested { decoded: Decoded { batch, rejected }, digest, bytes } = decoded;
        if !rejected.is_empty() {
            debug!(protocol = protocol.label, rejected = rejected.total(), reasons = %rejected, "spans rejected");
        }

        let spans = batch.num_spans();
        let request = WriteRequest { batch, digest, received_unix_nano };
        let written = self.0.ingest.write(&TenantId::single(), request).await.map_err(retryable)?;
        let metrics = &self.0.metrics;
        if written.duplicate {
            metrics.count_duplicates(protocol.label, spans);
        } else {
            metrics.count_accepted(protocol.label, spans, bytes);
            for (reason, count) in rejected.iter() {
                metrics.count_rejected(protocol.label, reason.label(), usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
        let partial_success = (!rejected.is_empty()).then(|| ExportTracePartialSuccess {
            rejected_spans: rejected.total().cast_signed(),
            error_message: rejected.to_string(),
        });
        Ok(ExportTraceServiceResponse { partial_success })
    }

    fn decode(
        &self,
        protocol: Protocol,
        compression: Option<Compression>,
        body: &[u8],
        now_unix_nano: i64,
        reservation: &mut Reservation,
    ) -> Result<Digested> {
        let body = body::decompress(body, compression, self.request_bytes_max(), reservation)?;
        let settings = &self.0.settings;
        let rules = Rules {
            limits: self.0.limits.clone(),
            time_window: TimeRange::new(
                day_start(settings.time_window_start),
                now_unix_nano.saturating_add(settings.time_window_future.as_nanos()),
            ),
        };
        let promotion = self.0.ingest.live().promotion(&TenantId::single());
        let decoded = match protocol.encoding {
            Encoding::Protobuf => decode_protobuf(&body, &promotion, &rules),
            Encoding::Json => decode_json(&body, &promotion, &rules),
        }?;
        Ok(Digested { decoded, digest: dedup::digest(&body), bytes: body.len() })
    }

    /// Counts a request by what becomes of it.
    fn count<T>(&self, protocol: Protocol, outcome: &Result<T>) {
        let label = match outcome.as_ref().map_err(Error::kind) {
            Ok(_) => "ok",
            Err(ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::DeadlineExceeded) => "retry",
            Err(_) => "refused",
        };
        self.0.metrics.count_request(protocol.label, label);
    }
}

/// A decoded request and the digest and size of its body after decompression.
struct Digested {
    decoded: Decoded,
    digest: dedup::Digest,
    bytes: usize,
}

/// A panic while decoding.
fn defect(panic: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "the request could not be processed; retry later").with_source(panic)
}

/// The first instant of a UTC day, in Unix nanoseconds.
fn day_start(day: NaiveDate) -> i64 {
    day.and_time(NaiveTime::MIN).and_utc().timestamp_nanos_opt().unwrap_or(i64::MIN)
}

/// What goes wrong behind the decoder is not the request's fault, so senders should keep it.
fn retryable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::DeadlineExceeded | ErrorKind::Cancelled => {
            let message = format!("the request could not be stored: {}", error.message());
            Error::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER).with_source(error)
        }
        _ => error,
    }
}

/// The hint for senders where a retry makes sense, in whole seconds and at least one.
fn retry_after(error: &Error) -> Option<Duration> {
    let passes =
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::DeadlineExceeded);
    passes.then(|| {
        let delay = error.retry_after().unwrap_or(RETRY_AFTER);
        Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(Duration::from_secs(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_behind_the_decoder_is_worth_a_retry_with_a_hint() {
        use ErrorKind::{Cancelled, Corrupt, DeadlineExceeded, Internal};
        for kind in [Internal, Corrupt, DeadlineExceeded, Cancelled] {
            let error = retryable(Error::new(kind, "disk"));
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(error.message(), "the request could not be stored: disk");
            assert_eq!(retry_after(&error), Some(RETRY_AFTER));
        }
        assert_eq!(retryable(Error::new(ErrorKind::TooLarge, "x")).kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn hints_are_whole_seconds_and_only_for_what_may_pass() {
        let hint = |kind, delay_ms: u64| {
            retry_after(&Error::new(kind, "x").with_retry_after(Duration::from_millis(delay_ms))).map(|d| d.as_secs())
        };
        assert_eq!(hint(ErrorKind::Unavailable, 0), Some(1));
        assert_eq!(hint(ErrorKind::Unavailable, 2500), Some(3));
        assert_eq!(hint(ErrorKind::ResourceExhausted, 7000), Some(7));
        assert_eq!(hint(ErrorKind::TooLarge, 7000), None);
        assert_eq!(hint(ErrorKind::InvalidArgument, 7000), None);
    }
}
