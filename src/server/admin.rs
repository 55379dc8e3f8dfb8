//! What operators and orchestrators ask: `/ready` and `/metrics`, on the listener of the Tempo API.
//!
//! Ready means that spans are taken: an orchestrator that took the server out of service because its bucket is away would
//! lose the spans that the log could have kept. Its text says when queries are not answered yet.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, Ordering},
};

use axum::{Router, body::Body, extract::State, response::IntoResponse, routing::get};
use http::{Response, StatusCode, header};
use tracing::error;

use crate::{clock::Clock, live::Live, metrics::Metrics};

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Ready,
    Stopping,
}

/// The state behind the two routes.
#[derive(Debug)]
pub(super) struct Admin {
    phase: AtomicU8,
    /// There from when the parts are open.
    live: OnceLock<Arc<Live>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Admin {
    pub(super) fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { phase: AtomicU8::new(Phase::Starting as u8), live: OnceLock::new(), metrics, clock }
    }

    /// Makes `/ready` answer for `phase`.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Makes `/ready` tell whether `live` can be queried.
    pub(super) fn watch(&self, live: Arc<Live>) {
        // A server opens its parts once.
        let _ = self.live.set(live);
    }

    /// The two routes.
    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new().route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(self)
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let phase = admin.phase.load(Ordering::Acquire);
    let (status, text) = if phase == Phase::Ready as u8 {
        let is_settled = admin.live.get().is_none_or(|live| live.is_settled());
        let text = if is_settled { "ready\n" } else { "ready for spans; queries wait for the tables\n" };
        (StatusCode::OK, text)
    } else if phase == Phase::Stopping as u8 {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    };
    (status, text).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response<Body> {
    match admin.metrics.encode(admin.clock.now_unix_nano()) {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::content_type())], text).into_response(),
        Err(error) => {
            error!(%error, "cannot write metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot write metrics; the log has the reason\n").into_response()
        }
    }
}
