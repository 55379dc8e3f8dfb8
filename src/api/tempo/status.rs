//! Routes by which clients and operators find out who we are: text, as Tempo has it.

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Serialize;

use super::{TempoState, params::Params, refusal, text};
use crate::{
    config::{Settings, WalSync},
    error::Error,
};

/// The version of Tempo whose API this is. Grafana up to 12 turns features on by it: streaming search from 2.2.0,
/// streaming metrics from 2.7.0.
const TEMPO_API_VERSION: &str = "2.9.0";

/// Our own version.
const VERSION: &str = concat!("tracehouse-", env!("CARGO_PKG_VERSION"));

/// Parts of Tempo whose work is done here, all of them in one process.
const SERVICES: [&str; 6] = ["distributor", "live-store", "metrics-generator", "querier", "query-frontend", "server"];

/// A route of our own, which is where it is whatever stands before Tempo's.
const SQL: &str = "/api/sql";

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
    text(StatusCode::OK, "echo")
}

/// `/api/status/buildinfo`: the version of the API in `version`, our own in `revision`.
pub(super) async fn build_info() -> Json<BuildInfo> {
    Json(BuildInfo {
        version: TEMPO_API_VERSION,
        revision: VERSION,
        branch: "",
        build_user: "",
        build_date: "",
        go_version: "",
    })
}

/// `/status`: all of the following.
pub(super) async fn all(State(state): State<TempoState>) -> Response {
    let settings = settings_text(&state.config, &Settings::default(), Mode::All);
    let parts = [version_text(), state_text(&state), services_text(), endpoints_text(&state.config), settings];
    text(StatusCode::OK, parts.join("\n"))
}

/// `/status/version`.
pub(super) async fn version() -> Response {
    text(StatusCode::OK, version_text())
}

/// `/status/services`.
pub(super) async fn services() -> Response {
    text(StatusCode::OK, services_text())
}

/// `/status/endpoints`.
pub(super) async fn endpoints(State(state): State<TempoState>) -> Response {
    text(StatusCode::OK, endpoints_text(&state.config))
}

/// `/status/config`: the settings of this process, `mode=diff` for those that differ from the defaults, `mode=defaults`
/// for the defaults.
pub(super) async fn config(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    let defaults = Settings::default();
    let mode = match Params::of(query.as_deref()).get("mode") {
        None => Mode::All,
        Some("diff") => Mode::Different,
        Some("defaults") => return text(StatusCode::OK, settings_text(&defaults, &defaults, Mode::All)),
        Some(mode) => return refusal(&Error::invalid(format!("invalid mode: {mode:?} is none of diff, defaults"))),
    };
    text(StatusCode::OK, settings_text(&state.config, &defaults, mode))
}

/// `/status/runtime_config`, `/status/overrides`: settings do not change while the process runs.
pub(super) async fn nothing_at_runtime() -> Response {
    text(StatusCode::OK, "no settings are changed at runtime\n")
}

/// `/status/usage-stats`.
pub(super) async fn usage() -> Response {
    text(StatusCode::OK, "usage statistics are not collected\n")
}

/// `/flush`: what is buffered goes to files. Answers when that is done.
pub(super) async fn flush(State(state): State<TempoState>) -> Response {
    match state.ingest.flush().await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refusal(&error),
    }
}

fn version_text() -> String {
    format!("{VERSION}, the API of Tempo {TEMPO_API_VERSION}\n")
}

/// What an operator has to know beyond that the process runs.
fn state_text(state: &TempoState) -> String {
    let spans = match state.config.wal.sync {
        WalSync::Always => "spans: acknowledged when they are on disk (wal.sync = always)",
        WalSync::Relaxed => {
            "spans: acknowledged before they are on disk; a crash of the machine loses the last of them (wal.sync = relaxed)"
        }
    };
    let queries = match state.ingest.live().is_settled() {
        true => "queries: answered".to_owned(),
        false => format!("queries: refused until the tables in {} can be reached", state.config.data),
    };
    format!("{spans}\n{queries}\n")
}

fn services_text() -> String {
    SERVICES.map(|service| format!("{service}: Running\n")).concat()
}

fn endpoints_text(config: &Settings) -> String {
    let prefix = |route: &str| match route.starts_with("/api/") && route != SQL {
        true => config.server.tempo_prefix.clone(),
        false => String::new(),
    };
    super::ROUTES.map(|route| format!("{}{route}\n", prefix(route))).concat()
}

/// Which settings are shown.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    All,
    Different,
}

fn settings_text(settings: &Settings, defaults: &Settings, mode: Mode) -> String {
    let (ours, defaults) = (settings.shown(), defaults.shown());
    let entries = ours.iter().zip(&defaults).filter(|(ours, default)| mode == Mode::All || ours != default);
    entries.map(|((key, value), _)| format!("{key} = {value}\n")).collect()
}
