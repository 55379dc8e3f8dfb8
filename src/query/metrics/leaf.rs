//! A metrics function over spans: the plan that reads what it needs of them.
//!
//! One pass over the spans of the pipeline reads the start, the label columns and at most one number of each; [`groups`]
//! adds them up as they come.
//!
//! [`groups`]: super::groups

use std::sync::Arc;

use datafusion::{
    arrow::array::ArrayRef,
    catalog::TableProvider,
    common::Result as DfResult,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col},
};

use crate::{
    error::{Error, ErrorKind},
    model::schema::column,
    query::{
        metrics::{
            compile::{Function, Leaf},
            fields::{LabelColumns, Number, value_of},
            interval::Intervals,
            label::{Label, LabelValue},
        },
        search::Candidates,
        spans_table::SpansTable,
        spansets::Program,
        traceql::spans::{SpanRequest, SpanValue},
    },
    storage::start_set::row_in_file,
};

/// Column of the number that a function takes.
pub(crate) const NUMBER: &str = "number";
/// Column of the row that a span is in its file, where it is read.
pub(crate) const ROW: &str = "file_row";

/// What spans are asked for, and where their intervals are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    /// The base table.
    pub(crate) base: &'a Arc<dyn TableProvider>,
    /// The intervals.
    pub(crate) intervals: Intervals,
    /// How far from the range other spans of a trace may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// The traces that are looked at, where they were found before.
    pub(crate) candidates: Option<&'a Candidates>,
    /// Whether it is noted where spans are.
    pub(crate) notes_places: bool,
}

impl Leaf {
    /// The plan of what is added up: start, keys, the number if the function takes one, and if exemplars are looked for later, what
    /// leads to the spans.
    pub(crate) fn plan(&self, scope: Scope<'_>) -> DfResult<LogicalPlan> {
        let mut columns = vec![col(column::START_TIME)];
        columns.extend(self.keys());
        columns.extend(self.number().map(|number| number.value.clone().alias(NUMBER)));
        let mut asked = Vec::new();
        if scope.notes_places {
            match (scope.candidates, self.on_traces(scope)?) {
                (Some(_), _) => columns.push(col(column::TRACE_ID)),
                (None, None) if SpansTable::of(scope.base.as_ref()).is_some() => {
                    asked.push((ROW.to_owned(), SpanValue::Expr(row_in_file())));
                    columns.push(col(ROW));
                }
                // Rows that are in memory alone, or all traces, of which none is known before.
                (None, _) => {}
            }
        }
        self.spans(scope, asked)?.project(columns)?.build()
    }

    /// The spans that count, with the columns of labels and value, and `more`.
    pub(crate) fn spans(&self, scope: Scope<'_>, more: Vec<(String, SpanValue)>) -> DfResult<LogicalPlanBuilder> {
        let request = self.request(scope, more);
        let spans = LogicalPlanBuilder::from(self.source.plan(&request, scope.base)?);
        match self.number() {
            // What has no number does not count. Every span has a duration.
            Some(number) if number.asked.is_some() => spans.filter(number.value.clone().is_not_null()),
            _ => Ok(spans),
        }
    }

    fn request(&self, scope: Scope<'_>, more: Vec<(String, SpanValue)>) -> SpanRequest {
        let mut columns: Vec<_> = self.labels.iter().flat_map(|label| label.asked.iter().cloned()).collect();
        columns.extend(self.number().and_then(|number| number.asked.clone()));
        columns.extend(more);
        let (range, extent_nano) = (scope.intervals.range(), scope.extent_nano);
        SpanRequest { range, extent_nano, columns, candidates: scope.candidates.cloned() }
    }

    /// What decides which traces are looked at, if the spans are found on whole traces.
    pub(crate) fn on_traces(&self, scope: Scope<'_>) -> DfResult<Option<Program>> {
        self.source.on_traces(&self.request(scope, Vec::new()))
    }

    /// The columns that make a group of spans with equal labels, under names of their own.
    pub(crate) fn keys(&self) -> Vec<Expr> {
        let keys = self.labels.iter().flat_map(|label| label.keys.iter());
        keys.enumerate().map(|(index, key)| key.clone().alias(format!("key_{index}"))).collect()
    }

    /// The numbers that the function takes, if it takes any.
    pub(crate) fn number(&self) -> Option<&Number> {
        match &self.function {
            Function::Reduce(_, number) | Function::Histogram(number) | Function::Quantiles(number, _) => Some(number),
            Function::Count { .. } | Function::Compare { .. } => None,
        }
    }

    /// How many columns the group key has.
    pub(crate) fn key_width(&self) -> usize {
        self.labels.iter().map(LabelColumns::width).sum()
    }

    /// The labels whose fields have a value; where none has one, the first says so.
    pub(crate) fn labels_of(&self, columns: &[ArrayRef], row: usize) -> Vec<Label> {
        let mut columns = columns;
        let mut labels: Vec<Label> = Vec::with_capacity(self.labels.len());
        for label in &self.labels {
            let (own, rest) = columns.split_at(label.width());
            labels.extend(value_of(own, row).map(|value| (label.key.clone(), value)));
            columns = rest;
        }
        if let (true, Some(first)) = (labels.is_empty(), self.labels.first()) {
            labels.push((first.key.clone(), LabelValue::nil()));
        }
        labels
    }
}

/// Refuses answers that are too large.
pub(crate) fn check_samples(series: usize, intervals: Intervals, samples_max: usize) -> Result<(), Error> {
    let (count, most) = (series.saturating_mul(intervals.count()), samples_max);
    if count <= most {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!(
            "{series} series of {} intervals are {count} samples, more than the limit query.metrics_samples_max = {most}; use a longer step or fewer labels",
            intervals.count()
        ),
    ))
}
