//! The sockets: bound all at once, each known by the setting that gave its address.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{
    config::ServerSettings,
    error::{Error, ErrorKind, Result},
};

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// OTLP over gRPC.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// The Tempo API over HTTP and gRPC, `/ready` and `/metrics`.
    pub tempo: SocketAddr,
    /// The Tempo API over gRPC alone.
    pub tempo_grpc: SocketAddr,
    /// Flight SQL.
    pub flight: SocketAddr,
}

/// The bound sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) otlp_grpc: Listener,
    pub(super) otlp_http: Listener,
    pub(super) tempo: Listener,
    pub(super) tempo_grpc: Listener,
    pub(super) flight: Listener,
}

/// One bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// What it serves, for messages.
    pub(super) name: &'static str,
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

impl Listeners {
    /// Binds every listener, or none.
    pub(super) async fn bind(settings: &ServerSettings) -> Result<Self> {
        Ok(Self {
            otlp_grpc: bind("OTLP/gRPC", "server.otlp_grpc_listen", settings.otlp_grpc_listen).await?,
            otlp_http: bind("OTLP/HTTP", "server.otlp_http_listen", settings.otlp_http_listen).await?,
            tempo: bind("the Tempo API", "server.tempo_listen", settings.tempo_listen).await?,
            tempo_grpc: bind("the Tempo API/gRPC", "server.tempo_grpc_listen", settings.tempo_grpc_listen).await?,
            flight: bind("Flight SQL", "server.flight_listen", settings.flight_listen).await?,
        })
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            otlp_grpc: self.otlp_grpc.address,
            otlp_http: self.otlp_http.address,
            tempo: self.tempo.address,
            tempo_grpc: self.tempo_grpc.address,
            flight: self.flight.address,
        }
    }
}

async fn bind(name: &'static str, setting: &'static str, address: SocketAddr) -> Result<Listener> {
    let refused = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "the port is in use by another process or listener".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
            _ => error.to_string(),
        };
        let message = format!("cannot listen on {address} for {name} ({setting}): {reason}");
        Error::new(ErrorKind::Unavailable, message).with_source(error)
    };
    let socket = TcpListener::bind(address).await.map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    Ok(Listener { name, socket, address })
}
