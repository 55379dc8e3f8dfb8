//! TraceQL on whole traces.
//!
//! What a pipeline means is decided on all spans of a trace at once, wherever they are stored. What single spans tell is
//! computed by expressions on the base table, next to the data; what only the trace tells is computed by one operator:
//!
//! ```text
//!  plan::Spansets --Program--> columns of the input        trace_id, span_id, ..., condition_0, value_0, shown_0, ...
//!                              the operator                 TraceEval (logical), TraceEvalExec (physical)
//!                 --witnesses--> predicates on single spans  which traces need to be looked at
//!
//!  scan -> columns -> by hash of trace id -> sorted by trace id -> TraceEvalExec -> rows per trace, or per span
//!      \---> in any order, if the traces are known ----------------/   copies -> order -> edges -> stages -> range
//! ```
//!
//! The sort spills, so memory is bounded by the largest trace, and that by [`gather`]. It also copies every column twice. A
//! query that knows its traces, and how many spans each of them has, does without: spans of a trace lie together in files,
//! and only pieces of traces that lie apart wait for each other ([`known`]). Rules for copies, order, parents, cycles and orphans are in
//! `grammar/README.md`, sections 2 to 7; here they are in [`trace`], [`tree`] and [`stages`]. Which traces are worth a look,
//! and when there are enough of them, is decided by [`crate::query::search`].

mod candidates;
mod program;

mod node;

mod gather;

mod exec;
mod known;

mod texts;
mod trace;
mod tree;

mod structure;

mod stages;

mod answer;

use std::sync::Arc;

use datafusion::{
    catalog::TableProvider,
    common::{Result, ScalarValue},
    logical_expr::{LogicalPlan, col, lit},
};

use self::program::Place;
pub(crate) use self::{
    candidates::{Witness, witnesses},
    exec::TRACES_CUT,
    gather::{TraceBounds, cut_text},
    node::{TracePlanner, trace_eval},
    program::{Output, Program, SpanColumn, SpanColumnValue, TextForm},
};
use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::session::scan_base,
    traceql::plan::Spansets,
};

/// The columns of a span's place in its trace, in the order in which [`tree_of`] gives them.
pub(crate) const TREE_COLUMNS: [&str; 6] =
    ["nested_set_left", "nested_set_right", "nested_set_parent", "depth", "self_time_nano", "critical_path_share"];

/// The distinct spans of one trace: all columns of the base table, then [`TREE_COLUMNS`].
pub(crate) fn tree_of(id: TraceId, base: &Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let places = [
        Place::NestedSetLeft,
        Place::NestedSetRight,
        Place::NestedSetParent,
        Place::Depth,
        Place::SelfTime,
        Place::CriticalPathShare,
    ];
    let place =
        |(name, place): (&str, Place)| SpanColumn { name: name.to_owned(), value: SpanColumnValue::Place(place) };
    let mut columns = SpanColumn::of_base();
    columns.extend(TREE_COLUMNS.into_iter().zip(places).map(place));
    let program = Program::new(&Spansets::all(), TimeRange::ALL, Output::Spans(columns))?;
    let id = ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(id.as_bytes().to_vec()));
    let spans = scan_base(base)?
        .filter(col(column::TRACE_ID).eq(lit(id)))?
        .project(program.columns(TextForm::Plain))?
        .build()?;
    trace_eval(program, spans, None)
}
