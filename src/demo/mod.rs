//! Example traces: a small shop that never closes, and a sender that plays it to any OTLP endpoint.
//!
//! Nothing comes in but a seed and a timeline. [`Workload`] turns them into OTLP requests: [`shop`] says which services
//! and operations there are, [`tree`] grows the calls of one trace and gives them faults and times, [`trace`] makes spans
//! of them with the [`attributes`] of their kind, and [`workload`] lays traces on the timeline and cuts requests. [`run`]
//! sends those at a chosen pace, sends again what it is asked to, and reports what the endpoint took and refused.
//! The same seed and timeline give the same bytes, so tests and benchmarks use the workload as their data. Ids depend on
//! the start of the timeline, so that a second run adds traces of its own.
//!
//! The shape is that of a measured production-like load: spans per trace median 15, 90th percentile 48, 99th 131,
//! largest about 2,000; 2 % of the spans failed, in 17 % of the traces; log-normal durations with 0.2 % above a second;
//! about 400 bytes per span as protobuf.
//!
//! On request the services also log ([`lines`]), to standard output. Metrics are deliberately absent, and so is anything that
//! knows the receiver: the sender speaks plain OTLP.

mod random;
mod shop;

mod faults;
mod tree;

mod attributes;
mod pods;
mod trace;

mod workload;

mod lines;
mod progress;
mod retry;
mod sender;

pub use progress::ProgressStyle;
pub use sender::{DemoCompression, DemoMode, DemoReport, DemoSettings, run};
pub use workload::{Timeline, Workload, WorkloadSettings, spans_in};
