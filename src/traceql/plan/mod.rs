//! From a checked query to what the engine has to compute: a pipeline on the spans of a trace.
//!
//! ```text
//!  { span.a = 1 } >> { .b =~ `x.*` } | avg(duration) > 1s | select(name, resource.c)
//!    conditions[0]    conditions[1]        values[0]               shown
//! ```
//!
//! A [`Condition`] has resolved names, typed constants and compiled patterns, folded where nothing depends on the span.
//! [`Spansets`] says what the stages do with conditions and values. What TraceQL knows and this engine does not answer is
//! refused here, by name and place.

mod condition;
mod pipeline;
mod value;

pub use condition::{Condition, Pattern, Value};
pub use pipeline::{PlannedSpansets, PlannedStage, Scalar, ScalarSide, Spansets};
pub use value::Dynamic;

use super::{
    ast::{Body, FieldName, Intrinsic, MetricsFunction, MetricsSource, Query, SeriesExpr, TextRange},
    error::TraceQlError,
    literal::Literal,
};

/// A search for traces.
#[derive(Clone, Debug)]
pub struct Search {
    /// What it computes on each trace.
    pub spansets: Spansets,
    /// `with(most_recent=...)`, if it is there.
    pub most_recent: Option<bool>,
}

/// Plans a query that [`super::check()`] has passed. The error has no excerpt yet; see [`TraceQlError::in_text`].
pub fn plan(query: &Query) -> Result<Search, TraceQlError> {
    let pipeline = match &query.body {
        Body::Spansets(pipeline) => pipeline,
        Body::Metrics(metrics) => return Err(no_search(&metrics.source)),
    };
    let most_recent = query.hints.iter().rev().find_map(|hint| match (hint.name.as_str(), &hint.value) {
        ("most_recent", Literal::Bool(value)) => Some(*value),
        _ => None,
    });
    Ok(Search { spansets: Spansets::build(pipeline)?, most_recent })
}

/// Adds a field that an answer does not carry anyway.
fn show(shown: &mut Vec<FieldName>, name: &FieldName) {
    use Intrinsic::*;
    let carried = matches!(
        name,
        FieldName::Intrinsic(Name | Duration | TraceDuration | RootServiceName | RootName | TraceId | SpanId)
    );
    if !carried && !shown.contains(name) {
        shown.push(name.clone());
    }
}

/// Where time series are to be had.
const METRICS_HELP: &str = "metrics are answered by /api/metrics/query_range and /api/metrics/query";

fn no_search(source: &MetricsSource) -> TraceQlError {
    let mut series = match source {
        MetricsSource::Spans { call, .. } => {
            let name = match &call.function {
                MetricsFunction::Rate => "rate()".to_owned(),
                MetricsFunction::CountOverTime => "count_over_time()".to_owned(),
                MetricsFunction::ReduceOverTime(reducer, _) => format!("{}_over_time()", reducer.name()),
                MetricsFunction::HistogramOverTime(_) => "histogram_over_time()".to_owned(),
                MetricsFunction::QuantileOverTime(..) => "quantile_over_time()".to_owned(),
                MetricsFunction::Compare { .. } => "compare()".to_owned(),
            };
            let problem = format!("a search finds traces, and {name} makes time series");
            return TraceQlError::invalid(problem, call.at).with_help(METRICS_HELP);
        }
        MetricsSource::Math(series) => series,
    };
    loop {
        match series {
            SeriesExpr::Binary { lhs, .. } if !matches!(**lhs, SeriesExpr::Number(_)) => series = lhs,
            SeriesExpr::Binary { rhs, .. } => series = rhs,
            SeriesExpr::Metrics(metrics) => return no_search(&metrics.source),
            SeriesExpr::Number(_) => {
                let problem = "a search finds traces, and this makes time series";
                return TraceQlError::invalid(problem, TextRange::default()).with_help(METRICS_HELP);
            }
        }
    }
}

impl Condition {
    /// Whether no span at all fulfils it.
    pub fn is_never(&self) -> bool {
        matches!(self, Condition::Constant(false))
    }
}
