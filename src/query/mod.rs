//! The query engine: requests come in, streams of Arrow batches go out.
//!
//! Every front end builds a [`QueryRequest`] and renders the [`QueryStream`] that [`QueryEngine::execute`] answers with;
//! none of them plans. A request is SQL, TraceQL, TraceQL metrics or a trace id, for one tenant, under limits:
//!
//! ```text
//!  QueryRequest -> admission -> one base table (the tenant's data at one moment)
//!     Sql       -> sandbox: one read-only statement -> DataFusion's planner over views
//!     TraceQl   -> parse, check, lower              -> a plan on the base table
//!     Metrics   -> parse, check, lower              -> plans on the base table, series out of their rows
//!     TraceById                                     -> a plan on the base table
//!     TagNames, TagValues                           -> a plan on the base table, or lists of keys
//!  plan -> optimize -> run on threads of its own -> batches, limits, statistics -> QueryStream
//! ```
//!
//! Planning and running happen on a runtime of the engine, away from the network's; the stream between the two is
//! bounded, and dropping it cancels the query. Answers to SQL leave in plain types ([`wire`]), the others typed.
//!
//! Limits and the names that errors give them are in [`limits`]; which error means what to the caller is one table in
//! [`failure`]. There is no way to write through this module, and no session that outlives a query.

mod request;

mod limits;
mod sandbox;

mod engine;
mod ids;
mod planning;
mod rewriting;
mod rules;
mod session;
mod spans_table;
mod system;
mod text;
mod trace_rows;
mod views;

mod functions;
mod matching;
mod metrics;
mod search;
mod spansets;
mod table_functions;
mod tags;
mod trace;
pub mod traceql;

mod admission;
mod explained;
mod failure;
mod log;
mod memory;
mod row_bytes;
mod run;
mod stats;
mod stream;
mod wire;
mod yielding;

#[doc(hidden)]
pub mod fuzzing;

pub use self::{
    engine::{BaseTables, EngineOptions, NamedTable, Prepared, QueryEngine},
    failure::SEE_LOG,
    limits::QueryLimits,
    matching::SpanFilter,
    request::{
        AnswerForm, DurationBounds, Explain, Generations, LimitOverrides, MetricsQuery, PartialAnswers, QueryKind,
        QueryRequest, SqlQuery, TagNamesQuery, TagValuesQuery, TraceByIdQuery, TraceCursor, TraceFilter, TraceQlQuery,
    },
    row_bytes::row_bytes,
    spans_table::SpansTable,
    stats::QueryStats,
    stream::QueryStream,
};
