//! The spans of a pipeline's final spansets as rows, for whoever counts or joins them.
//!
//! One filter is a filtered scan, in which copies of a span are rows like any other. Everything else is decided on whole
//! traces by [`crate::query::spansets`], and each span of the result is there once.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::{
    catalog::TableProvider,
    common::{DFSchema, Result as DfResult},
    logical_expr::{Expr, ExprSchemable, LogicalPlan, col},
};

use super::{lower, shown};
use crate::{
    model::{
        schema::{column, logical_schema},
        time::TimeRange,
    },
    query::{
        search::{self, starts_in},
        session::scan_base,
        spansets::{Output, Program, SpanColumn, SpanColumnValue},
    },
    traceql::{
        TraceQlError,
        ast::{FieldName, Pipeline},
        plan::{Condition, Spansets},
    },
};

/// The columns that come first.
const OWN_COLUMNS: [&str; 4] = [column::TRACE_ID, column::SPAN_ID, column::START_TIME, column::DURATION];

/// A pipeline that is ready to be planned over any base table.
#[derive(Clone, Debug)]
pub(crate) struct SpanSource {
    spansets: Spansets,
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
        Ok(Self { spansets: Spansets::build(pipeline)? })
    }

    /// The plan that yields the spans.
    pub(crate) fn plan(&self, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        let is_late = |(_, value): &(String, SpanValue)| matches!(value, SpanValue::Field(name) if name.is_of_trace());
        match self.spansets.single().filter(|_| !request.columns.iter().any(is_late)) {
            Some(condition) => filtered(condition, request, base),
            None => self.evaluated(request, base),
        }
    }

    /// The spans with all columns of the base table, for SQL.
    pub(crate) fn rows(
        &self,
        range: TimeRange,
        extent_nano: i64,
        base: &Arc<dyn TableProvider>,
    ) -> DfResult<LogicalPlan> {
        if let Some(condition) = self.spansets.single() {
            let filter = starts_in(range).into_iter().fold(lower::filter(condition), Expr::and);
            return scan_base(base)?.filter(filter)?.build();
        }
        self.found(SpanColumn::of_base(), range, extent_nano, base)
    }

    fn evaluated(&self, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        let schema = DFSchema::try_from(logical_schema())?;
        let computed = |name: &str, expr: Expr| -> DfResult<SpanColumn> {
            let field = Field::new(name, expr.get_type(&schema)?, true);
            Ok(SpanColumn { name: name.to_owned(), value: SpanColumnValue::Expr(expr, field) })
        };
        let mut columns = Vec::with_capacity(OWN_COLUMNS.len() + request.columns.len());
        for name in OWN_COLUMNS {
            columns.push(computed(name, col(name))?);
        }
        for (name, value) in &request.columns {
            columns.push(match value {
                SpanValue::Expr(expr) => computed(name, expr.clone())?,
                SpanValue::Field(field) if field.is_of_trace() => {
                    SpanColumn { name: name.clone(), value: SpanColumnValue::Late(field.clone()) }
                }
                SpanValue::Field(field) => computed(name, shown::value(field))?,
            });
        }
        self.found(columns, request.range, request.extent_nano, base)
    }

    fn found(
        &self,
        columns: Vec<SpanColumn>,
        range: TimeRange,
        extent_nano: i64,
        base: &Arc<dyn TableProvider>,
    ) -> DfResult<LogicalPlan> {
        let program = Program::new(&self.spansets, range, Output::Spans(columns))?;
        let candidates = search::all_candidates(&program, base, range, extent_nano)?;
        search::evaluated(program, base, range.widened(extent_nano), candidates)
    }
}

fn filtered(condition: &Condition, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
    let filter = starts_in(request.range).into_iter().fold(lower::filter(condition), Expr::and);
    let mut columns: Vec<Expr> = OWN_COLUMNS.into_iter().map(col).collect();
    columns.extend(request.columns.iter().map(|(name, value)| match value {
        SpanValue::Expr(expr) => expr.clone().alias(name),
        SpanValue::Field(field) => shown::value(field).alias(name),
    }));
    scan_base(base)?.filter(filter)?.project(columns)?.build()
}
