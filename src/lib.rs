//! tracehouse: a SQL-first analytical trace warehouse.
//!
//! # Bird's-eye view
//!
//! Spans arrive over OTLP, become Arrow batches, and are synced to a write-ahead log before the sender hears OK. From
//! then on every query sees them: first in a buffer in memory, later in sorted Parquet files that a Delta table lists.
//! SQL, TraceQL and trace-by-id are three kinds of one request to one [`query`] engine, a DataFusion session per
//! tenant; the Tempo HTTP API, Flight SQL and the command line only translate requests and render Arrow.
//!
//! ```text
//!  OTLP gRPC/HTTP                                          Tempo HTTP   Flight SQL   CLI
//!       |                                                        \          |        /
//!   receiver -> otlp -> ingest -> wal (sync, then ack)            v         v       v
//!                         |                                    query::QueryEngine::execute(QueryRequest)
//!                    live::buffer --flush--> storage (Parquet)      |   Sql | TraceQl | TraceById
//!                         |                     |                   |
//!                         |               catalog.commit            |
//!                         \__ live::ReadView = table snapshot + buffered records above its txn version
//!                                                                   v
//!                                                SpansTable -> DataFusion -> batches -> render
//! ```
//!
//! # Code map
//!
//! Modules import downwards only, and never from their own line; `tests/it/layers.rs` holds them to it.
//!
//! | layer | modules | what they do |
//! |---|---|---|
//! | 8 | [`cli`] | commands |
//! | 7 | [`server`] | builds the parts, binds listeners, shuts down |
//! | 6 | [`receiver`], [`api`], [`maintain`], [`demo`] | OTLP in; Tempo HTTP and Flight SQL out; compaction; a sender of example traces |
//! | 5 | [`ingest`], [`query`] | limits, dedup, log, flush; the one query engine |
//! | 4 | [`live`] | buffer and `ReadView`: what is visible now |
//! | 3 | [`wal`], [`catalog`] | the durable log; which files are live |
//! | 2 | [`otlp`], [`traceql`], [`storage`] | convert; parse, check, print; folder or bucket, caches, Parquet, per-file rewriting |
//! | 1 | [`model`], [`functions`] | ids, spans, attributes, schema; SQL functions on them |
//! | 0 | [`error`], [`config`], [`clock`], [`metrics`], [`crashpoint`] | kinds and statuses; settings; time; Prometheus families; where tests crash it |
//!
//! # Invariants
//!
//! - An acknowledged span is durable, visible to the next query, and visible once, whatever crashes.
//! - A view is a table snapshot and the buffered records above that snapshot's transaction version for the log; no
//!   other rule decides what a query sees ([`live`]).
//! - Attribute promotion never changes an answer ([`storage`]).
//! - What a peer sends is bounded before it is believed, and never reaches a panic.

pub mod clock;
pub mod config;
pub mod crashpoint;
pub mod error;
pub mod metrics;

pub mod functions;
pub mod model;

pub mod otlp;
pub mod storage;
pub mod traceql;

pub mod catalog;
pub mod wal;

pub mod live;

pub mod ingest;
pub mod query;

pub mod api;
pub mod demo;
pub mod maintain;
pub mod receiver;

pub mod server;

pub mod cli;
