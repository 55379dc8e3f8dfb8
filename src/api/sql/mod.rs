//! SQL over plain HTTP, for `curl`, scripts and browsers: `POST /api/sql` on the listener of the Tempo API.
//!
//! A statement comes in, rows go out while the query makes them; memory does not grow with the answer, and a client that
//! goes away stops the query.
//!
//! ```text
//!  POST /api/sql[?format=..&timeout=..&rows_max=..]     body: the statement as text, or
//!       application/json   {"query": "..", "params": [..], "format": "..", "timeout": "10s", "rows_max": 1000}
//!  GET  /api/sql?query=..                               the same, for a browser's address bar
//!
//!  format    Accept                                 body
//!  json      application/json (default)             {"columns": [{"name", "type"}], "rows": [{..}, ..], "stats": {..}}
//!  ndjson    application/x-ndjson                   one object per row and line
//!  csv       text/csv                               with a header; maps, lists and structs as JSON
//!  arrow     application/vnd.apache.arrow.stream    Arrow IPC, the stream format
//!  parquet   application/vnd.apache.parquet         one file, zstd
//! ```
//!
//! **Errors.** Before the first byte of rows an error is a status and
//! `{"error": {"kind", "message", "line", "column"}}`; line and column, counted from 1, are there where the text has a
//! place that is wrong. After it the status is sent already, so the answer is cut off: the connection ends without the
//! end of the body, which every HTTP client reports (`curl` exits with 18), and no part is taken for the whole. JSON
//! and NDJSON say why before that, in a last member or line `"error"`. `x-tracehouse-query-id` is the number of the
//! query in `system.queries`, where the reason stays for a while.
//!
//! Limits are the engine's; a request can only lower them. Absent on purpose: sessions, and anything that writes.

mod answer;
mod encode;
pub(crate) mod flat;
mod format;
mod question;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, RawQuery, State},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use tower_http::compression::CompressionLayer;

use self::question::Question;
use crate::{
    error::{Error, ErrorKind},
    query::QueryEngine,
};

/// Where the route is.
pub const SQL_ROUTE: &str = "/api/sql";

/// Largest body of a request in bytes: a statement with its parameters. The statement alone has a limit of its own.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The route.
pub fn router(engine: Arc<QueryEngine>) -> Router {
    Router::new()
        .route(SQL_ROUTE, post(by_body).get(by_address))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CompressionLayer::new())
        .with_state(engine)
}

async fn by_body(
    State(engine): State<Arc<QueryEngine>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match Question::of_body(query.as_deref(), &headers, &body) {
        Ok(question) => answered(&engine, question).await,
        Err(error) => refusal(&error),
    }
}

async fn by_address(State(engine): State<Arc<QueryEngine>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match Question::of_address(query.as_deref(), &headers) {
        Ok(question) => answered(&engine, question).await,
        Err(error) => refusal(&error),
    }
}

async fn answered(engine: &QueryEngine, question: Question) -> Response {
    let format = question.format;
    match answer::stream(engine, question).await {
        Ok((id, body)) => {
            let mut response = body.into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            headers.insert(QUERY_ID, HeaderValue::from(id));
            if let Some(name) = format.file_name() {
                headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
            }
            response
        }
        Err(error) => refusal(&error),
    }
}

/// The number of the query in `system.queries`.
const QUERY_ID: &str = "x-tracehouse-query-id";

fn refusal(error: &Error) -> Response {
    if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::error!(%error, source = ?std::error::Error::source(error), "request failed");
    }
    let mut response = (error.kind().http_status(), Json(json!({ "error": described(error) }))).into_response();
    if let Some(delay) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
    }
    response
}

/// An error as JSON.
fn described(error: &Error) -> serde_json::Value {
    let mut described = json!({ "kind": error.kind().name(), "message": error.message() });
    if let Some(place) = error.place() {
        described["line"] = place.line.into();
        described["column"] = place.column.into();
    }
    described
}
