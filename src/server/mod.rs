//! The running server: listeners, the parts behind them, readiness and an orderly stop.
//!
//! ```text
//!  Server::start   bind all listeners -> answer /ready with 503, everything else with "starting"
//!                  -> open the parts (replays the log) -> put their routes behind the listeners -> /ready is 200
//!  Server::stop    /ready is 503 -> accept no more -> let requests finish, at most server.shutdown_timeout
//!                  -> cut off what is left -> close the parts (flush, sync)
//! ```
//!
//! All listeners are bound before anything else happens, so that a port in use is reported at once and under its name.
//! They then answer while the log is replayed: senders hear "retry" instead of a refused connection, and an orchestrator
//! can tell a server that starts from one that hangs.
//!
//! Nothing that was acknowledged depends on an orderly stop: it is in the log. A stop that is cut short by a second
//! signal, or by the power, costs a replay at the next start and no span.
//!
//! Absent on purpose: the meaning of any route. Each listener serves one [`axum::Router`] that a module below built.

mod admin;
mod connections;
mod deletion;
mod engine;
mod folder;
mod listeners;
mod logs;
mod parts;
mod routes;
mod shutdown;
mod signals;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    admin::{Admin, Phase},
    connections::Connections,
    listeners::Listeners,
    parts::Parts,
    routes::RouteSlot,
};
pub use self::{
    deletion::{DELETE_ROUTE, DeleteRequest},
    engine::LocalFolder,
    folder::OwnedFolder,
    listeners::Addresses,
    logs::init_logs,
    signals::Signals,
};
use crate::{
    clock::Clock,
    config::{Settings, WalSync},
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
};

/// A server that answers. Dropping it without [`Server::stop`] leaves its tasks to the runtime.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    shutdown_timeout: Duration,
    admin: Arc<Admin>,
    connections: Connections,
    parts: Parts,
    asked_to_stop: CancellationToken,
}

impl Server {
    /// Binds the listeners of `settings`, opens the data folder and serves.
    ///
    /// # Errors
    /// An address that cannot be bound, or a data folder that cannot be opened.
    pub async fn start(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        let listeners = Listeners::bind(&settings.server).await?;
        let addresses = listeners.addresses();
        let metrics = Metrics::new()
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot set up metrics").with_source(error))?;
        let metrics = Arc::new(metrics);
        let admin = Arc::new(Admin::new(Arc::clone(&metrics), Arc::clone(&clock)));
        let slots = routes::Slots::new(&admin);
        let connections = Connections::default();
        serve(listeners, &slots, &connections);

        let asked_to_stop = CancellationToken::new();
        let (parts, routes) = match Parts::open(settings, clock, metrics, &asked_to_stop).await {
            Ok(opened) => opened,
            Err(error) => {
                connections.cut_off().await;
                return Err(error);
            }
        };
        slots.fill(routes, &admin);
        admin.watch(Arc::clone(parts.live()));
        admin.enter(Phase::Ready);
        info!(
            otlp_grpc = %addresses.otlp_grpc,
            otlp_http = %addresses.otlp_http,
            tempo = %addresses.tempo,
            tempo_grpc = %addresses.tempo_grpc,
            flight = %addresses.flight,
            data = %settings.data,
            "ready"
        );
        if settings.wal.sync == WalSync::Relaxed {
            warn!(
                "wal.sync = relaxed: spans are acknowledged before they are on disk, and a crash of the machine loses the last"
            );
        }
        let shutdown_timeout = settings.server.shutdown_timeout.get();
        Ok(Self { addresses, shutdown_timeout, admin, connections, parts, asked_to_stop })
    }

    /// Where the server listens; with port 0 in the settings, the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Whether the tables have been asked. A server whose bucket is away when it starts takes spans, and refuses queries.
    pub fn answers_queries(&self) -> bool {
        self.parts.live().is_settled()
    }

    /// Waits until a request asks the server to stop; what follows is up to the caller.
    pub async fn asked_to_stop(&self) {
        self.asked_to_stop.cancelled().await;
    }

    /// Stops taking requests, lets those that run finish within the shutdown timeout, flushes, syncs and closes.
    ///
    /// # Errors
    /// What kept the parts from flushing or syncing. Acknowledged spans are in the log also then.
    pub async fn stop(self) -> Result<()> {
        info!("stopping");
        self.admin.enter(Phase::Stopping);
        if !self.connections.drain(self.shutdown_timeout).await {
            warn!(timeout = ?self.shutdown_timeout, "requests were cut off at the shutdown timeout");
        }
        self.parts.close().await?;
        info!("stopped");
        Ok(())
    }
}

fn serve(listeners: Listeners, slots: &routes::Slots, connections: &Connections) {
    let Listeners { otlp_grpc, otlp_http, tempo, tempo_grpc, flight } = listeners;
    let pairs: [(_, &RouteSlot); 5] = [
        (otlp_grpc, &slots.otlp_grpc),
        (otlp_http, &slots.otlp_http),
        (tempo, &slots.tempo),
        (tempo_grpc, &slots.tempo_grpc),
        (flight, &slots.flight),
    ];
    for (listener, slot) in pairs {
        connections.spawn_accept(listener, slot.clone());
    }
}
