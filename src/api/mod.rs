//! What clients ask over the network: HTTP and gRPC in, requests to the engine, rendered answers out.

pub mod flight;
pub mod sql;
pub mod tempo;
