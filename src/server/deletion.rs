//! `POST /admin/v1/delete` on the listener of the Tempo API: deletes spans for good.
//!
//! ```text
//!  {"tenant": "single-tenant", "filter": {"trace_id": "<hex>"} | {"traceql": "{ .. }"} | {"sql": "<condition>"},
//!   "start_unix_nano": .., "end_unix_nano": ..}
//!  -> 200 {"spans": .., "files": .., "files_checked": ..}
//! ```
//!
//! Only `filter` is required. Without times a trace goes with all of its spans, present and future; with another filter
//! only spans that started before the request do. The body must be declared as `application/json`, which no page of
//! another origin can send without being asked.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    error::{Error, Result},
    ingest::Ingest,
    maintain::delete::{DeleteReport, Deleter},
    model::{tenant::TenantId, time::TimeRange},
    query::SpanFilter,
};

/// Where the route is.
pub const DELETE_ROUTE: &str = "/admin/v1/delete";

/// The body of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteRequest {
    /// Whose spans; without it, those of the only tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Which spans.
    pub filter: SpanFilter,
    /// Their first start, in Unix nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_unix_nano: Option<i64>,
    /// The first start that is outside again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_unix_nano: Option<i64>,
}

impl DeleteRequest {
    /// Whose spans.
    pub(super) fn tenant(&self) -> Result<TenantId> {
        match &self.tenant {
            None => Ok(TenantId::single()),
            Some(name) => TenantId::parse(name).map_err(|cause| Error::invalid(cause.to_string())),
        }
    }

    /// When they start.
    pub(super) fn range(&self, now_unix_nano: i64) -> TimeRange {
        let end = match self.filter {
            SpanFilter::TraceId(_) => i64::MAX,
            SpanFilter::Traceql(_) | SpanFilter::Sql(_) => now_unix_nano,
        };
        TimeRange::new(self.start_unix_nano.unwrap_or(i64::MIN), self.end_unix_nano.unwrap_or(end))
    }
}

/// What the route needs.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) deleter: Arc<Deleter>,
    pub(super) ingest: Arc<Ingest>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Deletion {
    pub(super) fn router(self) -> Router {
        Router::new().route(DELETE_ROUTE, post(delete)).with_state(Arc::new(self))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<DeleteReport> {
        let range = request.range(self.clock.now_unix_nano());
        let tenant = request.tenant()?;
        let flush = async { self.ingest.flush_tenant(&tenant).await.map(|_| ()) };
        self.deleter.delete(&tenant, request.filter, range, flush).await
    }
}

async fn delete(
    State(deletion): State<Arc<Deletion>>,
    request: std::result::Result<Json<DeleteRequest>, JsonRejection>,
) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(refused) => return (refused.status(), format!("{}\n", refused.body_text())).into_response(),
    };
    // A client that goes away does not stop a deletion half way.
    let deleting = tokio::spawn(async move { deletion.delete(request).await });
    match deleting.await {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => (error.kind().http_status(), format!("{error}\n")).into_response(),
        Err(_) => {
            (http::StatusCode::INTERNAL_SERVER_ERROR, "the deletion ended early; it goes on later\n").into_response()
        }
    }
}
