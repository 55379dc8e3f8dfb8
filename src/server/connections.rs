//! Accepting connections, and letting them go.
//!
//! HTTP/1.1 and HTTP/2 are told apart by their first bytes on every listener, so a gRPC listener also answers `curl`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

use super::{listeners::Listener, routes::RouteSlot};

/// Most open connections per listener; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 4_096;

/// A connection on which no request starts for so long is closed. Longer than the pause between the exports of an SDK, so
/// that senders do not lose a race against it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a silent HTTP/2 peer is asked whether it is still there, and how long it has for an answer.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest frame of HTTP/2 that a peer may send, which is also what it may send unasked (hyper's window). A request of a
/// thousand spans comes in one piece then, and is decoded where it was read.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Requests that run at once on one HTTP/2 connection; further ones wait for the client's own turn.
const STREAMS_MAX: u32 = 256;

/// The pause after the system refused a connection, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long tasks have to notice that they are cut off.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Who sent a request: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// All connections of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    /// Every accept loop and connection is a task in here.
    pub(super) tracker: TaskTracker,
    /// No new connections and no new requests.
    pub(super) stop: CancellationToken,
    /// No connections.
    pub(super) cut: CancellationToken,
}

impl Connections {
    /// Accepts on `listener` until the stop and serves every connection from `routes`.
    pub(super) fn spawn_accept(&self, listener: Listener, routes: RouteSlot) {
        let connections = self.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = connections.accept(&listener, &routes) => {}
                () = connections.stop.cancelled() => {}
            }
            debug!(listener = listener.name, "closed");
        });
    }

    /// Waits until no request runs, at most for `timeout`, and then cuts the rest off; tells whether none was left.
    pub(super) async fn drain(&self, timeout: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let drained = tokio::time::timeout(timeout, self.tracker.wait()).await.is_ok();
        if !drained {
            self.cut_off().await;
        }
        drained
    }

    /// Closes all connections at once.
    pub(super) async fn cut_off(&self) {
        self.stop.cancel();
        self.cut.cancel();
        self.tracker.close();
        if tokio::time::timeout(CUT_TIMEOUT, self.tracker.wait()).await.is_err() {
            warn!(connections = self.tracker.len(), "connections did not close");
        }
    }

    async fn accept(&self, listener: &Listener, routes: &RouteSlot) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.socket.accept().await {
                Ok((stream, peer)) => {
                    debug!(listener = listener.name, %peer, "connection");
                    let connection = self.clone().serve(stream, peer, routes.clone());
                    self.tracker.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(listener = listener.name, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, routes: RouteSlot) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot turn off delays");
        }
        let service = routes.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            request.map(Body::new)
        });
        let cut = self.cut.clone();
        tokio::select! {
            () = serve_requests(TokioIo::new(stream), service, &self.stop) => {}
            () = cut.cancelled() => {}
        }
    }
}

async fn serve_requests<S>(stream: TokioIo<TcpStream>, service: S, stop: &CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_BYTES_MAX);
    let connection = builder.serve_connection(stream, TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Notify,
    };

    use super::*;

    /// Far more than anything takes here.
    const LONG: Duration = Duration::from_secs(60);

    /// A server with one route, whose answer waits for `permission`, and a connection with a request that has begun.
    async fn busy(permission: &Arc<Notify>) -> (Connections, TcpStream) {
        let begun = Arc::new(Notify::new());
        let route = {
            let (begun, permission) = (Arc::clone(&begun), Arc::clone(permission));
            get(move || async move {
                begun.notify_one();
                permission.notified().await;
                "done"
            })
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let connections = Connections::default();
        let routes = RouteSlot::new(Router::new().route("/", route));
        connections.spawn_accept(Listener { name: "test", socket, address }, routes);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        begun.notified().await;
        (connections, client)
    }

    async fn answer(mut client: TcpStream) -> String {
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_drain_waits_for_requests_that_run() {
        let permission = Arc::new(Notify::new());
        let (connections, client) = busy(&permission).await;
        let drain = tokio::spawn({
            let connections = connections.clone();
            async move { connections.drain(LONG).await }
        });
        connections.stop.cancelled().await;
        permission.notify_one();
        assert!(drain.await.unwrap());
        let answer = answer(client).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    }

    #[tokio::test]
    async fn a_drain_cuts_off_what_does_not_end() {
        let (connections, client) = busy(&Arc::new(Notify::new())).await;
        assert!(!connections.drain(Duration::from_millis(20)).await);
        assert!(connections.tracker.is_empty());
        assert_eq!(answer(client).await, "");
    }
}
