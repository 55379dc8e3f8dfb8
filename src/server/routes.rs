//! What each listener serves now: "starting" until the parts are open, then their routes.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use axum::{Router, body::Body, response::IntoResponse, routing::future::RouteFuture};
use http::{HeaderValue, Request, Response, StatusCode, header};
use tower::Service;

use super::admin::Admin;

/// Seconds after which a sender may try again while the server starts.
const RETRY_AFTER_SECONDS: &str = "1";

/// The routes that the parts offer, one set per listener.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) otlp_grpc: Router,
    pub(super) otlp_http: Router,
    pub(super) tempo: Router,
    pub(super) tempo_grpc: Router,
    pub(super) flight: Router,
}

/// The places of the routes, filled when the parts are open.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) otlp_grpc: RouteSlot,
    pub(super) otlp_http: RouteSlot,
    pub(super) tempo: RouteSlot,
    pub(super) tempo_grpc: RouteSlot,
    pub(super) flight: RouteSlot,
}

impl Slots {
    /// Slots that say "starting"; the Tempo listener already has the routes of `admin`.
    pub(super) fn new(admin: &Arc<Admin>) -> Self {
        Self {
            otlp_grpc: RouteSlot::new(Router::new().fallback(starting_grpc)),
            otlp_http: RouteSlot::new(Router::new().fallback(starting_http)),
            tempo: RouteSlot::new(Arc::clone(admin).router().fallback(starting_http)),
            tempo_grpc: RouteSlot::new(Router::new().fallback(starting_grpc)),
            flight: RouteSlot::new(Router::new().fallback(starting_grpc)),
        }
    }

    /// Serves `routes` from the next request on.
    pub(super) fn fill(&self, routes: Routes, admin: &Arc<Admin>) {
        self.otlp_grpc.set(routes.otlp_grpc);
        self.otlp_http.set(routes.otlp_http);
        self.tempo.set(Arc::clone(admin).router().merge(routes.tempo));
        self.tempo_grpc.set(routes.tempo_grpc);
        self.flight.set(routes.flight);
    }
}

/// A service that hands each request to the routes of the moment.
#[derive(Clone, Debug)]
pub(super) struct RouteSlot(Arc<ArcSwap<Router>>);

impl RouteSlot {
    /// A slot with its first routes.
    pub(super) fn new(router: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(router)))
    }

    fn set(&self, router: Router) {
        self.0.store(Arc::new(router));
    }
}

impl Service<Request<Body>> for RouteSlot {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready; the routes behind it apply their own back-pressure.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Router::clone(&self.0.load()).call(request)
    }
}

async fn starting_http() -> Response<Body> {
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, "the server is starting\n").into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    response
}

async fn starting_grpc() -> Response<Body> {
    tonic::Status::unavailable("the server is starting").into_http()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;
    use crate::{clock::SystemClock, metrics::Metrics, server::admin::Phase};

    async fn ask(slot: &RouteSlot, path: &str) -> Response<Body> {
        slot.clone().call(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn listeners_ask_for_patience_until_their_routes_are_there() {
        let admin = Arc::new(Admin::new(Arc::new(Metrics::new().unwrap()), Arc::new(SystemClock)));
        let slots = Slots::new(&admin);
        let refused = ask(&slots.otlp_http, "/v1/traces").await;
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "1"));
        let refused = ask(&slots.otlp_grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Export").await;
        let unavailable = (tonic::Code::Unavailable as i32).to_string();
        assert_eq!(
            (refused.status().as_u16(), refused.headers()["grpc-status"].to_str().unwrap()),
            (200, &*unavailable)
        );
        assert_eq!(ask(&slots.tempo, "/api/echo").await.status().as_u16(), 503);
        assert_eq!(ask(&slots.tempo, "/ready").await.status().as_u16(), 503);
        assert_eq!(ask(&slots.tempo, "/metrics").await.status().as_u16(), 200);

        let tempo = Router::new().route("/api/echo", get(|| async { "echo" }));
        slots.fill(Routes { tempo, ..Routes::default() }, &admin);
        admin.enter(Phase::Ready);
        assert_eq!(ask(&slots.tempo, "/api/echo").await.status().as_u16(), 200);
        assert_eq!(ask(&slots.tempo, "/ready").await.status().as_u16(), 200);
        admin.enter(Phase::Stopping);
        assert_eq!(ask(&slots.tempo, "/ready").await.status().as_u16(), 503);
    }
}
