//! How much a query may ask for, so that planning it takes bounded time: each different field is some columns of a plan,
//! and each stage and metrics function a step in it.

use std::collections::HashSet;

use super::{
    ast::{
        AggregateFunction, Body, FieldExpr, FieldName, Metrics, MetricsFunction, MetricsSource, Pipeline, Query,
        ScalarExpr, SeriesExpr, SpansetExpr, StageKind, TextRange,
    },
    error::TraceQlError,
};

/// Most different fields that a query names.
pub const FIELDS_MAX: usize = 100;
/// Most stages of all pipelines of a query; every `{ ... }` is one.
pub const STAGES_MAX: usize = 500;
/// Most metrics functions of a query.
pub const FUNCTIONS_MAX: usize = 20;

type Result = std::result::Result<(), TraceQlError>;

/// Refuses a query that asks for too much.
pub(super) fn check_size(query: &Query) -> Result {
    let mut size = Size::default();
    match &query.body {
        Body::Spansets(pipeline) => size.pipeline(pipeline),
        Body::Metrics(metrics) => size.metrics(metrics),
    }
}

#[derive(Debug, Default)]
struct Size<'a> {
    fields: HashSet<&'a FieldName>,
    stages: usize,
    functions: usize,
}

fn count(counted: &mut usize, most: usize, what: &str, at: TextRange) -> Result {
    *counted += 1;
    if *counted > most {
        return Err(TraceQlError::invalid(format!("query has more than {most} {what}"), at));
    }
    Ok(())
}

impl<'a> Size<'a> {
    fn field(&mut self, name: &'a FieldName, at: TextRange) -> Result {
        self.fields.insert(name);
        if self.fields.len() > FIELDS_MAX {
            return Err(TraceQlError::invalid(format!("query names more than {FIELDS_MAX} different fields"), at));
        }
        Ok(())
    }

    fn expr(&mut self, expr: &'a FieldExpr) -> Result {
        let mut names = Vec::new();
        expr.for_each_field(&mut |name| names.push(name));
        names.into_iter().try_for_each(|name| self.field(name, expr.at))
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline) -> Result {
        for stage in &pipeline.stages {
            count(&mut self.stages, STAGES_MAX, "stages", stage.at)?;
            match &stage.kind {
                StageKind::Spansets(spansets) => self.spansets(spansets)?,
                StageKind::Filter(filter) => {
                    self.scalar(&filter.lhs)?;
                    self.scalar(&filter.rhs)?;
                }
                StageKind::GroupBy(expr) => self.expr(expr)?,
                StageKind::Coalesce => {}
                StageKind::Select(fields) => {
                    fields.iter().try_for_each(|field| self.field(&field.name, field.at))?;
                }
            }
        }
        Ok(())
    }

    fn spansets(&mut self, spansets: &'a SpansetExpr) -> Result {
        match spansets {
            SpansetExpr::Filter(expr) => self.expr(expr),
            SpansetExpr::Pipeline(pipeline) => self.pipeline(pipeline),
            SpansetExpr::Binary { lhs, rhs, at, .. } => {
                count(&mut self.stages, STAGES_MAX, "stages", *at)?;
                self.spansets(lhs)?;
                self.spansets(rhs)
            }
        }
    }

    fn scalar(&mut self, scalar: &'a ScalarExpr) -> Result {
        match scalar {
            ScalarExpr::Number(_) => Ok(()),
            ScalarExpr::Aggregate(aggregate) => match &aggregate.function {
                AggregateFunction::Count => Ok(()),
                AggregateFunction::Reduce(_, expr) => self.expr(expr),
            },
            ScalarExpr::Pipeline(inner) => {
                self.pipeline(&inner.pipeline)?;
                self.scalar(&inner.value)
            }
            ScalarExpr::Binary { lhs, rhs, .. } => {
                self.scalar(lhs)?;
                self.scalar(rhs)
            }
            ScalarExpr::Negate(inner) => self.scalar(inner),
        }
    }

    fn metrics(&mut self, metrics: &'a Metrics) -> Result {
        let (pipeline, call) = match &metrics.source {
            MetricsSource::Math(series) => return self.series(series),
            MetricsSource::Spans { pipeline, call } => (pipeline, call),
        };
        self.pipeline(pipeline)?;
        count(&mut self.functions, FUNCTIONS_MAX, "metrics functions", call.at)?;
        call.by.iter().try_for_each(|field| self.field(&field.name, field.at))?;
        match &call.function {
            MetricsFunction::Rate | MetricsFunction::CountOverTime => Ok(()),
            MetricsFunction::ReduceOverTime(_, field)
            | MetricsFunction::HistogramOverTime(field)
            | MetricsFunction::QuantileOverTime(field, _) => self.field(&field.name, field.at),
            MetricsFunction::Compare { selection, .. } => self.expr(selection),
        }
    }

    fn series(&mut self, series: &'a SeriesExpr) -> Result {
        match series {
            SeriesExpr::Metrics(metrics) => self.metrics(metrics),
            SeriesExpr::Number(_) => Ok(()),
            SeriesExpr::Binary { lhs, rhs, .. } => {
                self.series(lhs)?;
                self.series(rhs)
            }
        }
    }
}
