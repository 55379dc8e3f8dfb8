//! From a checked query to what the engine has to find: one filter, and the fields to show.
//!
//! ```text
//!  { span.a = 1 && .b =~ `x.*` } | select(name, resource.c)
//!    `--------- condition -----'          `--- shown ---'
//! ```
//!
//! A [`Condition`] has resolved names, typed constants and compiled patterns, folded where nothing depends on the span.
//! What TraceQL knows and this engine does not answer is refused here, by name and place.

mod condition;
mod value;

pub use condition::{Condition, Pattern, Value};
pub use value::Dynamic;

use super::{
    ast::{
        AggregateFunction, Body, Field, FieldName, Intrinsic, MetricsFunction, MetricsSource, Pipeline, Query,
        ScalarExpr, ScalarFilter, SeriesExpr, SpansetExpr, SpansetOp, Stage, StageKind, TextRange,
    },
    error::TraceQlError,
    literal::Literal,
};

/// A search for spans.
#[derive(Clone, Debug)]
pub struct Search {
    /// What a span has to be.
    pub condition: Condition,
    /// What is shown of it besides ids, name and times: what the filter mentions, then what `select` asks for.
    pub shown: Vec<FieldName>,
    /// `with(most_recent=...)`, if it is there.
    pub most_recent: Option<bool>,
}

/// Plans a query that [`super::check()`] has passed. The error has no excerpt yet; see [`TraceQlError::in_text`].
pub fn plan(query: &Query) -> Result<Search, TraceQlError> {
    let pipeline = match &query.body {
        Body::Spansets(pipeline) => pipeline,
        Body::Metrics(metrics) => return Err(unsupported_metrics(&metrics.source)),
    };
    let most_recent = query.hints.iter().rev().find_map(|hint| match (hint.name.as_str(), &hint.value) {
        ("most_recent", Literal::Bool(value)) => Some(*value),
        _ => None,
    });
    Ok(Search { most_recent, ..plan_pipeline(pipeline)? })
}

/// Plans a pipeline of a query that [`super::check()`] has passed.
pub fn plan_pipeline(pipeline: &Pipeline) -> Result<Search, TraceQlError> {
    let (first, rest) = split_stages(pipeline)?;
    let StageKind::Spansets(SpansetExpr::Filter(filter)) = &first.kind else {
        return Err(unsupported_stage(first));
    };
    let condition = Condition::build(filter)?;
    let mut shown = Vec::new();
    filter.for_each_field(&mut |name| show(&mut shown, name));
    for stage in rest {
        let StageKind::Select(fields) = &stage.kind else {
            return Err(unsupported_stage(stage));
        };
        for Field { name, at } in fields {
            condition::check_selectable(name, *at)?;
            show(&mut shown, name);
        }
    }
    Ok(Search { condition, shown, most_recent: None })
}

fn split_stages(pipeline: &Pipeline) -> Result<(&Stage, &[Stage]), TraceQlError> {
    pipeline.stages.split_first().ok_or_else(|| TraceQlError::unsupported("an empty pipeline", TextRange::default()))
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

fn unsupported_stage(stage: &Stage) -> TraceQlError {
    let (what, at) = match &stage.kind {
        StageKind::Spansets(SpansetExpr::Binary { op: SpansetOp::Logical(op), at, .. }) => {
            (format!("filters combined by {}", op.sign()), *at)
        }
        StageKind::Spansets(SpansetExpr::Binary { op, at, .. }) => (format!("structural operator {}", op.sign()), *at),
        StageKind::Spansets(SpansetExpr::Pipeline(_)) => ("pipelines in parentheses".to_owned(), stage.at),
        StageKind::Spansets(SpansetExpr::Filter(_)) => ("a filter after another stage".to_owned(), stage.at),
        StageKind::Filter(filter) => (format!("aggregate {}", aggregate_name(filter)), stage.at),
        StageKind::GroupBy(_) => ("by()".to_owned(), stage.at),
        StageKind::Coalesce => ("coalesce()".to_owned(), stage.at),
        StageKind::Select(_) => ("select() as the first stage".to_owned(), stage.at),
    };
    TraceQlError::unsupported(what, at)
}

fn aggregate_name(filter: &ScalarFilter) -> &'static str {
    let aggregate = [&filter.lhs, &filter.rhs].into_iter().find_map(|side| match side {
        ScalarExpr::Aggregate(aggregate) => Some(&aggregate.function),
        _ => None,
    });
    match aggregate {
        Some(AggregateFunction::Reduce(reducer, _)) => match reducer.name() {
            "min" => "min()",
            "max" => "max()",
            "avg" => "avg()",
            _ => "sum()",
        },
        _ => "count()",
    }
}

fn unsupported_metrics(source: &MetricsSource) -> TraceQlError {
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
            return TraceQlError::unsupported(format!("metrics function {name}"), call.at);
        }
        MetricsSource::Math(series) => series,
    };
    loop {
        match series {
            SeriesExpr::Binary { lhs, .. } if !matches!(**lhs, SeriesExpr::Number(_)) => series = lhs,
            SeriesExpr::Binary { rhs, .. } => series = rhs,
            SeriesExpr::Metrics(metrics) => return unsupported_metrics(&metrics.source),
            SeriesExpr::Number(_) => {
                return TraceQlError::unsupported("arithmetic on time series", TextRange::default());
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
