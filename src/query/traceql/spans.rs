//! The spans of a pipeline's final spansets as rows, for whoever counts or joins them.
//!
//! One filter is a filtered scan. Everything else is decided on whole traces, by
//! whole-trace evaluation; each span of the result is then there once.

#![expect(dead_code, reason = "metrics are the first to count spans")]

use std::sync::Arc;

use datafusion::{
    catalog::TableProvider,
    common::Result as DfResult,
    logical_expr::{Expr, LogicalPlan, col},
};

use super::{lower, shown};
use crate::{
    model::{schema::column, time::TimeRange},
    query::{search::starts_in, session::scan_base},
    traceql::{
        TraceQlError,
        ast::{FieldName, Pipeline},
        plan::{self, Search},
    },
};

/// A pipeline that is ready to be planned over any base table.
#[derive(Clone, Debug)]
pub(crate) struct SpanSource {
    search: Search,
}

/// Which spans, and what of them.
#[derive(Clone, Debug)]
pub(crate) struct SpanRequest {
    /// Where the spans start.
    pub(crate) range: TimeRange,
    /// How far from the range other spans of their traces may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// Columns after `trace_id`, `span_id`, `start_time_unix_nano` and `duration_nano`.
    pub(crate) columns: Vec<(String, SpanValue)>,
}

/// Where a column comes from.
#[derive(Clone, Debug)]
pub(crate) enum SpanValue {
    /// An expression on the base table.
    Expr(Expr),
    /// A field of TraceQL, as the struct that attribute values are: status and kind as words, durations as text as Go
    /// writes them, NULL where the span has none.
    Field(FieldName),
}

impl SpanSource {
    /// Plans the pipeline of a query that [`crate::traceql::check()`] has passed. The error has no excerpt yet; see
    /// [`TraceQlError::in_text`].
    pub(crate) fn compile(pipeline: &Pipeline) -> Result<Self, TraceQlError> {
        Ok(Self { search: plan::plan_pipeline(pipeline)? })
    }

    /// The plan that yields the spans.
    pub(crate) fn plan(&self, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        let filter = lower::filter(&self.search.condition);
        let filter = starts_in(request.range).into_iter().fold(filter, Expr::and);
        let mut columns =
            vec![col(column::TRACE_ID), col(column::SPAN_ID), col(column::START_TIME), col(column::DURATION)];
        columns.extend(request.columns.iter().map(|(name, value)| match value {
            SpanValue::Expr(expr) => expr.clone().alias(name),
            SpanValue::Field(field) => shown::value(field).alias(name),
        }));
        scan_base(base)?.filter(filter)?.project(columns)?.build()
    }
}
