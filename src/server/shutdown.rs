//! `/shutdown` on the listener of the Tempo API, which hooks of orchestrators call before a process goes, as in Tempo 2.
//!
//! ```text
//!  GET or POST /shutdown -> everything that is buffered goes to files -> 204 -> the server stops as by SIGTERM
//! ```
//!
//! Only peers on this machine are heard, and of those no page in a browser: whoever may send spans may not end the server.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::connections::Peer;
use crate::{
    error::{Error, ErrorKind},
    ingest::Ingest,
};

/// The header by which a browser says from where a page sends a request.
const FETCH_SITE: &str = "sec-fetch-site";

/// What the route needs.
#[derive(Debug)]
pub(super) struct Shutdown {
    pub(super) ingest: Arc<Ingest>,
    /// Cancelled when the server has to stop.
    pub(super) asked: CancellationToken,
}

impl Shutdown {
    pub(super) fn router(self) -> Router {
        Router::new().route("/shutdown", get(shutdown).post(shutdown)).with_state(Arc::new(self))
    }
}

async fn shutdown(
    State(shutdown): State<Arc<Shutdown>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if !is_allowed(peer, &headers) {
        let error =
            Error::new(ErrorKind::PermissionDenied, "/shutdown is open to programs on the machine of the server only");
        return (error.kind().http_status(), format!("{error}\n")).into_response();
    }
    info!(%peer, "asked to shut down");
    if let Err(error) = shutdown.ingest.flush().await {
        // Nothing is lost by going on: it is in the log.
        tracing::warn!(%error, "cannot flush before the shutdown");
    }
    shutdown.asked.cancel();
    StatusCode::NO_CONTENT.into_response()
}

fn is_allowed(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let from_page = headers.get(FETCH_SITE).is_some_and(|site| site != "none");
    peer.ip().to_canonical().is_loopback() && !from_page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_on_this_machine_are_allowed() {
        let allowed = |peer: &str, site: Option<&'static str>| {
            let site = site.map(|site| (http::HeaderName::from_static(FETCH_SITE), site.parse().unwrap()));
            is_allowed(peer.parse().unwrap(), &site.into_iter().collect())
        };
        assert!(allowed("127.0.0.1:1", None) && allowed("[::1]:1", None) && allowed("[::ffff:127.0.0.1]:1", None));
        assert!(allowed("127.0.0.1:1", Some("none")));
        assert!(!allowed("127.0.0.1:1", Some("cross-site")) && !allowed("10.0.0.7:1", None));
    }
}
