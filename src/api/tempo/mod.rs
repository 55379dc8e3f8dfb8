//! Tempo's API, as Grafana's data source, Perses, Kiali and `tempo-cli` call it.
//!
//! ```text
//!  /api/traces, /api/v2/traces                   trace by id                    trace
//!  /api/search                                   TraceQL, and tags before it    search
//!  /api/search/tags, /api/search/tag, .../v2     names and values               tags
//!  /api/metrics                                  series, services, summaries    metrics
//!  /status, /api/status, /api/echo, /flush       who and how we are             status
//!  /api/mcp                                      the same for assistants       mcp
//!  /tempopb.StreamingQuerier                     all but trace by id, streamed  grpc
//! ```
//!
//! The same port answers Grafana's streaming calls. Errors are plain text, as in Tempo. Routes of Tempo that are not built
//! answer 400 and say so; they never answer with an empty result that looks like an answer. Bodies have no field that
//! Tempo's have not, since clients refuse it; what goes beyond Tempo is in headers, and in routes of our own.

mod params;
mod status;

mod trace;

mod search;

mod tags;

mod metrics;

mod grpc;
mod mcp;
mod messages;
pub mod tempopb;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::{get, post, post_service},
};
use http::{HeaderValue, StatusCode, header};
use tonic::{server::NamedService, service::Routes};
use tower_http::compression::CompressionLayer;

pub use self::metrics::services::ServiceMetrics;
use self::tempopb::streaming_querier_server::StreamingQuerierServer;

use crate::{
    clock::Clock,
    config::{QuerySettings, Settings},
    error::{Error, ErrorKind},
    ingest::Ingest,
    model::tenant::TenantId,
    query::QueryEngine,
};

/// Routes of Tempo that exist there and are not built here.
const NOT_BUILT: [&str; 1] = ["/api/v2/traces/diff"];

/// The routes that are there, for `/status/endpoints`.
const ROUTES: [&str; 30] = [
    "/api/echo",
    "/api/mcp",
    "/api/metrics/query",
    "/api/metrics/query_range",
    "/api/metrics/service_graph",
    "/api/metrics/summary",
    "/api/search",
    "/api/search/tag/{name}/values",
    "/api/search/tags",
    "/api/sql",
    "/api/status/buildinfo",
    "/api/traces/{id}",
    "/api/v2/search/tag/{identifier}/values",
    "/api/v2/search/tags",
    "/api/v2/traces/{id}",
    "/flush",
    "/metrics",
    "/metrics/services",
    "/ready",
    "/shutdown",
    "/status",
    "/status/config",
    "/status/endpoints",
    "/status/overrides",
    "/status/overrides/{tenant}",
    "/status/runtime_config",
    "/status/services",
    "/status/usage-stats",
    "/status/version",
    "/tempopb.StreamingQuerier/{method}",
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
    /// All settings, for those who ask how this process was started.
    pub config: Arc<Settings>,
    /// What is flushed on request.
    pub ingest: Arc<Ingest>,
    /// Counters of calls between services.
    pub service_metrics: Arc<ServiceMetrics>,
}

impl TempoState {
    /// Whose data a request is about: the only tenant there is, as in a Tempo without multi-tenancy.
    fn tenant(&self) -> TenantId {
        TenantId::single()
    }
}

/// The routes of the API.
pub fn router(state: TempoState) -> Router {
    let mut api = Router::new()
        .route("/api/echo", get(status::echo))
        .route("/api/status/buildinfo", get(status::build_info))
        .route("/api/traces/{id}", get(trace::v1))
        .route("/api/v2/traces/{id}", get(trace::v2))
        .route("/api/search", get(search::search))
        .route("/api/metrics/query_range", get(metrics::range))
        .route("/api/metrics/query", get(metrics::instant))
        .route("/api/metrics/service_graph", get(metrics::graph::service_graph))
        .route("/api/metrics/summary", get(metrics::summary::summary))
        .route("/api/search/tags", get(tags::v1))
        .route("/api/v2/search/tags", get(tags::v2))
        .route("/api/search/tag/{*rest}", get(tags::values::v1))
        .route("/api/v2/search/tag/{*rest}", get(tags::values::v2))
        .route("/api/mcp", post(mcp::post).fallback(mcp::other));
    for path in NOT_BUILT {
        api = api.route(path, axum::routing::any(not_built));
    }
    let others = Router::new()
        .route("/status", get(status::all))
        .route("/status/version", get(status::version))
        .route("/status/services", get(status::services))
        .route("/status/endpoints", get(status::endpoints))
        .route("/status/config", get(status::config))
        .route("/status/runtime_config", get(status::nothing_at_runtime))
        .route("/status/overrides", get(status::nothing_at_runtime))
        .route("/status/overrides/{tenant}", get(status::nothing_at_runtime))
        .route("/status/usage-stats", get(status::usage))
        .route("/metrics/services", get(metrics::services::scraped))
        .route("/flush", get(status::flush).post(status::flush));
    let router = match state.config.server.tempo_prefix.as_str() {
        "" => others.merge(api),
        prefix => others.nest(prefix, api),
    };
    // Compression comes before the gRPC routes, which have their own.
    let router = router.layer(CompressionLayer::new());
    let grpc = format!("/{}/{{method}}", <StreamingQuerierServer<grpc::Querier> as NamedService>::NAME);
    router.route(&grpc, post_service(grpc::service(state.clone()))).fallback(not_found).with_state(state)
}

/// The routes of the API over gRPC alone.
pub fn grpc_router(state: TempoState) -> Router {
    Routes::new(grpc::service(state)).into_axum_router()
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

fn protobuf(message: &impl prost::Message) -> Response {
    body(PROTOBUF, message.encode_to_vec())
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/protobuf";
const LLM: &str = "application/vnd.grafana.llm+json";
