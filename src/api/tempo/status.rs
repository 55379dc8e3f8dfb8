//! Routes by which clients find out who we are.

use axum::{Json, response::Response};
use http::StatusCode;
use serde::Serialize;

/// The version of Tempo whose API this is. Grafana up to 12 turns features on by it: streaming search from 2.2.0,
/// streaming metrics from 2.7.0.
const TEMPO_API_VERSION: &str = "2.9.0";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    build_user: &'static str,
    build_date: &'static str,
    go_version: &'static str,
}

/// `/api/echo`: Grafana's "Save & test".
pub(super) async fn echo() -> Response {
    super::text(StatusCode::OK, "echo")
}

/// `/api/status/buildinfo`: the version of the API in `version`, our own in `revision`.
pub(super) async fn build_info() -> Json<BuildInfo> {
    Json(BuildInfo {
        version: TEMPO_API_VERSION,
        revision: concat!("tracehouse-", env!("CARGO_PKG_VERSION")),
        branch: "",
        build_user: "",
        build_date: "",
        go_version: "",
    })
}
