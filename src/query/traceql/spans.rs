//! The spans of a pipeline's final spansets as rows, for whoever counts or joins them.
//!
//! Filters that speak of the span itself are a filtered scan, in which copies of a span are rows like any other. Everything
//! else is decided on whole traces by [`crate::query::spansets`], and each span of the result is there once.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::{
    catalog::TableProvider,
    common::{DFSchema, Result as DfResult},
    logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, col},
};

use super::{computed, lower, shown};
use crate::{
    functions::CodedText,
    model::{
        schema::{column, logical_schema},
        time::TimeRange,
    },
    query::{
        search::{self, Candidates, finder::Reach, starts_of},
        session::scan_base,
        spansets::{Output, Program, SpanColumn, SpanColumnValue, TextForm},
    },
    traceql::{
        TraceQlError,
        ast::{FieldName, Pipeline},
        plan::{Condition, Spansets, Value},
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
    /// The traces that are looked at, where they were found before: [`SpanSource::on_traces`]. Else the plan finds them.
    pub(crate) candidates: Option<Candidates>,
}

/// Where a column comes from.
#[derive(Clone, Debug)]
pub(crate) enum SpanValue {
    /// An expression on the base table.
    Expr(Expr),
    /// An expression on the base table that gives text, which may come as a dictionary and codes.
    Text(Expr),
    /// A field of TraceQL, as the struct that attribute values are: status and kind as words, durations as text as Go
    /// writes them, NULL where the span has none.
    Field(FieldName),
    /// The same, but durations are integers of nanoseconds.
    Number(FieldName),
    /// Whether the span fulfils a condition.
    Holds(Condition),
}

impl SpanValue {
    /// Whether only the whole trace tells it.
    fn reads_trace(&self) -> bool {
        match self {
            SpanValue::Expr(_) | SpanValue::Text(_) => false,
            SpanValue::Field(name) | SpanValue::Number(name) => name.is_of_trace(),
            SpanValue::Holds(condition) => condition.reads_trace(),
        }
    }

    /// The expression of one that the span itself tells.
    fn of_span(&self, texts: TextForm) -> Expr {
        match self {
            SpanValue::Text(text) if texts == TextForm::Coded => CodedText::of(text.clone()),
            SpanValue::Expr(expr) | SpanValue::Text(expr) => expr.clone(),
            SpanValue::Field(name) => shown::value(name),
            SpanValue::Number(name) => computed::call(&Value::Field(name.clone())),
            SpanValue::Holds(condition) => lower::filter(condition).is_true(),
        }
    }

    /// The value of one that only the whole trace tells.
    fn of_trace(&self) -> Option<SpanColumnValue> {
        self.reads_trace().then(|| match self {
            SpanValue::Field(name) => Some(SpanColumnValue::Late(name.clone())),
            SpanValue::Number(name) => Some(SpanColumnValue::LateNumber(name.clone())),
            SpanValue::Holds(condition) => Some(SpanColumnValue::Holds(condition.clone())),
            SpanValue::Expr(_) | SpanValue::Text(_) => None,
        })?
    }
}

impl SpanSource {
    /// Plans the pipeline of a query that [`crate::traceql::check()`] has passed. The error has no excerpt yet; see
    /// [`TraceQlError::in_text`].
    pub(crate) fn compile(pipeline: &Pipeline) -> Result<Self, TraceQlError> {
        Ok(Self { spansets: Spansets::build(pipeline)? })
    }

    /// The same spans, decided on whole traces if something else that the query says of them needs it, even where constants
    /// decide without.
    pub(crate) fn on_traces_if(mut self, reads_trace: bool) -> Self {
        self.spansets.reads_trace |= reads_trace;
        self
    }

    /// Whether whole traces decide which spans there are.
    pub(crate) fn reads_trace(&self) -> bool {
        self.spansets.filters().is_none()
    }

    /// The plan that yields the spans.
    pub(crate) fn plan(&self, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        match self.one_by_one(request) {
            Some(conditions) => filtered(&conditions, request, base),
            None => self.evaluated(request, base),
        }
    }

    /// The conditions, if the spans are found one by one.
    fn one_by_one(&self, request: &SpanRequest) -> Option<Vec<&Condition>> {
        let is_late = request.columns.iter().any(|(_, value)| value.reads_trace());
        self.spansets.filters().filter(|_| !is_late)
    }

    /// What decides which traces are looked at, if the spans are found on whole traces.
    pub(crate) fn on_traces(&self, request: &SpanRequest) -> DfResult<Option<Program>> {
        match self.one_by_one(request) {
            Some(_) => Ok(None),
            None => Program::new(&self.spansets, request.range, Output::Spans(Vec::new())).map(Some),
        }
    }

    /// The spans with all columns of the base table, for SQL.
    pub(crate) fn rows(
        &self,
        range: TimeRange,
        extent_nano: i64,
        base: &Arc<dyn TableProvider>,
    ) -> DfResult<LogicalPlan> {
        if let Some(conditions) = self.spansets.filters() {
            return rows_of(&conditions, range, base)?.build();
        }
        self.found(SpanColumn::of_base(), Reach { range, extent_nano }, None, base)
    }

    fn evaluated(&self, request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        let schema = DFSchema::try_from(logical_schema())?;
        let computed = |name: &str, expr: Expr| -> DfResult<SpanColumn> {
            let field = Field::new(name, expr.get_type(&schema)?, true);
            Ok(SpanColumn { name: name.to_owned(), value: SpanColumnValue::Expr(expr, field) })
        };
        let texts = Candidates::text_form(request.candidates.as_ref());
        let mut columns = Vec::with_capacity(OWN_COLUMNS.len() + request.columns.len());
        for name in OWN_COLUMNS {
            columns.push(computed(name, col(name))?);
        }
        for (name, value) in &request.columns {
            columns.push(match value.of_trace() {
                Some(value) => SpanColumn { name: name.clone(), value },
                None => computed(name, value.of_span(texts))?,
            });
        }
        let reach = Reach { range: request.range, extent_nano: request.extent_nano };
        self.found(columns, reach, request.candidates.clone(), base)
    }

    fn found(
        &self,
        columns: Vec<SpanColumn>,
        reach: Reach,
        candidates: Option<Candidates>,
        base: &Arc<dyn TableProvider>,
    ) -> DfResult<LogicalPlan> {
        let program = Program::new(&self.spansets, reach.range, Output::Spans(columns))?;
        let candidates = match candidates {
            Some(candidates) => candidates,
            None => search::all_candidates(&program, base, reach)?,
        };
        search::evaluated(program, base, reach.wide(), candidates)
    }
}

/// The rows that fulfil all conditions, each by itself: fields of events in two of them may speak of two events.
fn rows_of(conditions: &[&Condition], range: TimeRange, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlanBuilder> {
    let rows = scan_base(base)?;
    match lower::filters(conditions).into_iter().chain(starts_of(base, range)).reduce(Expr::and) {
        Some(filter) => rows.filter(filter),
        None => Ok(rows),
    }
}

fn filtered(conditions: &[&Condition], request: &SpanRequest, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
    let mut columns: Vec<Expr> = OWN_COLUMNS.into_iter().map(col).collect();
    columns.extend(request.columns.iter().map(|(name, value)| value.of_span(TextForm::Coded).alias(name)));
    rows_of(conditions, request.range, base)?.project(columns)?.build()
}
