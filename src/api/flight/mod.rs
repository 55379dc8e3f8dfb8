//! Arrow Flight SQL: how notebooks, BI tools and our own command line ask the engine.
//!
//! A statement comes in, a [`QueryRequest`](crate::query::QueryRequest) goes to the engine, and its batches go out as
//! they are; nothing here plans. What drivers need beyond that, and why it is as it is:
//!
//! - **No state between calls.** Tickets and handles of prepared statements hold the statement and its parameters
//!   ([`statement`]), cookies the options of a session ([`session`]), so any server can answer any call, and there is
//!   nothing to expire. What runs can be cancelled by
//!   its ticket, on the server that runs it ([`running`]); closing the stream does it from anywhere.
//! - **The announced schema is the sent schema.** Drivers compare the two field by field. In both every column is
//!   nullable, and rows of other types are cast to what was announced.
//! - **Endpoints have no location**, which means "the connection you have": an address that the server knows of itself
//!   is wrong behind a proxy.
//! - **Batches are split** to messages below 2 MiB ([`pieces`]); clients refuse messages above 4 or 16 MiB.
//! - **Read only.** Updates, ingestion and transactions are refused; the server says so in its SQL info.
//!
//! Headers of a call say what a statement is and how its answer looks:
//!
//! | header | |
//! |---|---|
//! | `x-tracehouse-language` | `sql`, or `traceql`: the statement is TraceQL |
//! | `x-tracehouse-types` | `plain`: types that drivers know, nested ones among them; `flat`: numbers, text and nanosecond timestamps, what is nested as JSON text; `typed`: as the engine has them, ids as bytes and attributes with their types |
//! | | without it: what the session says, else `flat` for Grafana's data source, which can show nothing else, else `plain` |
//! | `x-tracehouse-start`, `-end`, `-limit`, `-spans-per-trace`, `-step` | of TraceQL |

mod session;
mod statement;

mod answer;
mod pieces;
mod running;

mod actions;
mod handshake;
mod metadata;
mod sql_info;
mod xdbc_types;

mod service;
mod surface;

use std::{future::Future, io, sync::Arc};

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, transport::Server};

pub use self::{service::FlightSql, surface::Surface};
use crate::{error::Error, query::QueryEngine};

/// Largest message that a client may send: a statement, or one batch of parameters.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The gRPC service, to be mounted on a server.
pub fn grpc_service(engine: Arc<QueryEngine>) -> FlightServiceServer<Surface> {
    FlightServiceServer::new(Surface::new(FlightSql::new(engine)))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        // Rows can be larger than any split of a batch.
        .max_encoding_message_size(usize::MAX)
}

/// Serves Flight SQL on `listener` until `shutdown`; running calls end first.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<QueryEngine>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    Server::builder()
        .add_service(grpc_service(engine))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown)
        .await
        .map_err(io::Error::other)
}

/// The gRPC status of an error.
pub(crate) fn status(error: &Error) -> Status {
    let mut status = Status::new(error.kind().grpc_code(), error.grpc_message());
    if let Some(delay) = error.retry_after()
        && let Ok(value) = delay.as_millis().to_string().parse()
    {
        status.metadata_mut().insert("grpc-retry-pushback-ms", value);
    }
    status
}
