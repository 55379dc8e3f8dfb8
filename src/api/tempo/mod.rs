//! Tempo's HTTP API, as Grafana's data source, Perses, Kiali and `tempo-cli` call it.
//!
//! Errors are plain text, as in Tempo. Routes of Tempo that are not built answer 400 and say so; they never answer
//! with an empty result that looks like an answer.

mod found;
mod metrics;
mod params;
mod search;
mod search_json;
mod series;
mod series_json;
mod status;
mod trace;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};

use crate::{
    clock::Clock,
    config::QuerySettings,
    error::{Error, ErrorKind},
    model::tenant::TenantId,
    query::QueryEngine,
};

/// Routes of Tempo that exist there and are not built here.
const NOT_BUILT: [&str; 6] = [
    "/api/search/tags",
    "/api/v2/search/tags",
    "/api/search/tag/{*rest}",
    "/api/v2/search/tag/{*rest}",
    "/api/v2/traces/diff",
    "/api/mcp",
];

/// What the routes need.
#[derive(Clone, Debug)]
pub struct TempoState {
    /// The engine that answers.
    pub engine: Arc<QueryEngine>,
    /// Defaults and limits of searches.
    pub settings: Arc<QuerySettings>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl TempoState {
    /// Whose data a request is about: the only tenant there is, as in a Tempo without multi-tenancy.
    fn tenant(&self) -> TenantId {
        TenantId::single()
    }
}

/// The routes of the API.
pub fn router(state: TempoState) -> Router {
    let mut router = Router::new()
        .route("/api/echo", get(status::echo))
        .route("/api/status/buildinfo", get(status::build_info))
        .route("/api/traces/{id}", get(trace::v1))
        .route("/api/v2/traces/{id}", get(trace::v2))
        .route("/api/search", get(search::search))
        .route("/api/metrics/query_range", get(metrics::range))
        .route("/api/metrics/query", get(metrics::instant));
    for path in NOT_BUILT {
        router = router.route(path, axum::routing::any(not_built));
    }
    router.fallback(not_found).with_state(state)
}

async fn not_built(request: Request) -> Response {
    refusal(&Error::unsupported(request.uri().path()))
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// An error as Tempo answers it: the text alone.
fn refusal(error: &Error) -> Response {
    if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::error!(%error, source = ?std::error::Error::source(error), "request failed");
    }
    let mut response = text(error.kind().http_status(), error.message().to_owned());
    if let Some(delay) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
    }
    response
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body.into()).into_response()
}

fn body(content_type: &'static str, bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], bytes).into_response()
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/protobuf";
