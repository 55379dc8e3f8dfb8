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
//! requests together by [`inflight`], where every byte is reserved before it is kept.

mod body;
mod grpc;
mod http;
mod inflight;
mod rpc_status;

use std::{sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use chrono::{NaiveDate, NaiveTime};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};

use self::inflight::{InFlight, Reservation};
use crate::{
    clock::Clock,
    config::IngestSettings,
    error::{Error, ErrorKind, Result},
    ingest::{Ingest, RETRY_AFTER, WriteRequest, dedup},
    metrics::Metrics,
    model::{
        promotion::{self, Promotion},
        tenant::TenantId,
        time::TimeRange,
    },
    otlp::{
        Decoded,
        decode::decode_protobuf,
        json::decode_json,
        rules::{Limits, Rules},
    },
};

/// Bodies of at least this many bytes are decompressed and decoded away from the network's threads. Below it, handing
/// over costs more than it saves.
const OFFLOAD_BYTES: usize = 64 << 10;

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
    settings: IngestSettings,
    limits: Limits,
    promotion: Arc<Promotion>,
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
        let settings = settings.clone();
        Self(Arc::new(Inner { ingest, in_flight, settings, limits, promotion: promotion::standard(), clock, metrics }))
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
        self.0.settings.request_bytes_max.as_usize()
    }

    fn reserve(&self) -> Reservation {
        self.0.in_flight.reservation()
    }

    /// Decodes and stores a request; returns when what was accepted is durable and visible.
    async fn export(&self, protocol: Protocol, body: Bytes) -> Result<ExportTraceServiceResponse> {
        let outcome = self.try_export(protocol, body).await;
        let label = match outcome.as_ref().map_err(Error::kind) {
            Ok(_) => "ok",
            Err(ErrorKind::Unavailable | ErrorKind::ResourceExhausted) => "retry",
            Err(_) => "refused",
        };
        self.0.metrics.count_request(protocol.label, label);
        outcome
    }

    async fn try_export(&self, protocol: Protocol, body: Bytes) -> Result<ExportTraceServiceResponse> {
        let received_unix_nano = self.0.clock.now_unix_nano();
        let digest = dedup::digest(&body);
        let bytes = body.len();
        let receiver = self.clone();
        let Decoded { batch, rejected } =
            offload(bytes, move || receiver.decode(protocol, &body, received_unix_nano)).await??;

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

    fn decode(&self, protocol: Protocol, body: &[u8], now_unix_nano: i64) -> Result<Decoded> {
        let settings = &self.0.settings;
        let rules = Rules {
            limits: self.0.limits.clone(),
            time_window: TimeRange::new(
                day_start(settings.time_window_start),
                now_unix_nano.saturating_add(settings.time_window_future.as_nanos()),
            ),
        };
        let decoded = match protocol.encoding {
            Encoding::Protobuf => decode_protobuf(body, &self.0.promotion, &rules),
            Encoding::Json => decode_json(body, &self.0.promotion, &rules),
        };
        Ok(decoded?)
    }
}

/// Runs work on `bytes` bytes where it holds up nothing else.
async fn offload<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if bytes < OFFLOAD_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|panic| {
        Error::new(ErrorKind::Unavailable, "the request could not be processed; retry later").with_source(panic)
    })
}

/// The first instant of a UTC day, in Unix nanoseconds.
fn day_start(day: NaiveDate) -> i64 {
    day.and_time(NaiveTime::MIN).and_utc().timestamp_nanos_opt().unwrap_or(i64::MIN)
}

/// What goes wrong behind the decoder is not the request's fault, so senders should keep it.
fn retryable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Internal | ErrorKind::Corrupt => {
            let message = format!("the request could not be stored: {}", error.message());
            Error::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER).with_source(error)
        }
        _ => error,
    }
}

/// The hint for senders, in whole seconds and at least one.
fn retry_after(error: &Error) -> Option<Duration> {
    error.retry_after().map(|delay| Duration::from_secs(delay.as_secs().max(1)))
}
