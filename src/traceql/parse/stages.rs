//! Pipelines and what stands in their stages.
//!
//! A stage is parsed as one expression; here each operand and operator gets the type that its neighbours demand, so
//! that `>` between filters is "child of", between aggregates "greater than", and between a filter and a number an
//! error that says so.

use pest::iterators::Pair;

use super::{
    fields,
    grammar::{PRECEDENCE, Rule},
    only, only_child, range_of,
};
use crate::traceql::{
    ast::{
        Aggregate, AggregateFunction, ArithmeticOp, Body, ComparisonOp, Hint, LogicalOp, Metrics, MetricsCall,
        MetricsFunction, MetricsSource, Pipeline, Query, Reducer, ScalarExpr, ScalarFilter, ScalarPipeline, SeriesExpr,
        SeriesStage, SpansetExpr, SpansetOp, Stage, StageKind, TextRange,
    },
    error::TraceQlError,
    literal::{self, Literal},
    names,
};

type Result<T> = std::result::Result<T, TraceQlError>;

/// What a pipeline yields.
enum Outcome {
    Spansets(Pipeline),
    /// The last stage is a number; there may be no stages before it.
    Scalar(ScalarPipeline, TextRange),
    Metrics(Metrics),
}

/// What an operand of a stage's expression yields.
enum Operand {
    Spansets(SpansetExpr),
    Scalar(ScalarExpr),
    Filter(ScalarFilter),
    Series(SeriesExpr),
    /// Series after a comparison, which takes no further arithmetic.
    Metrics(Metrics),
}

impl Operand {
    fn noun(&self) -> &'static str {
        match self {
            Operand::Spansets(_) => "spansets",
            Operand::Scalar(_) => "a number",
            Operand::Filter(_) => "a comparison of aggregates",
            Operand::Series(_) | Operand::Metrics(_) => "time series",
        }
    }
}

pub(super) fn query(pair: Pair<'_, Rule>) -> Result<Query> {
    let mut children = pair.into_inner();
    let body = match pipeline(only(&mut children)?)? {
        Outcome::Spansets(pipeline) => Body::Spansets(pipeline),
        Outcome::Metrics(metrics) => Body::Metrics(metrics),
        Outcome::Scalar(_, at) => return Err(lone_number(at)),
    };
    let mut hints = Vec::new();
    for pair in children.filter(|pair| pair.as_rule() == Rule::hints).flat_map(Pair::into_inner) {
        if pair.as_rule() == Rule::hint {
            hints.push(hint(pair)?);
        }
    }
    Ok(Query { body, hints })
}

fn hint(pair: Pair<'_, Rule>) -> Result<Hint> {
    let mut children = pair.into_inner().filter(|child| child.as_rule() != Rule::equals_sign);
    let name = only(&mut children)?.as_str().to_owned();
    let value = only(&mut children)?;
    let at = range_of(&value);
    let value = match value.as_rule() {
        Rule::string => fields::string(&value)?,
        Rule::signed_number => fields::signed_number(value)?,
        _ => names::literal_word(value.as_str())
            .ok_or_else(|| TraceQlError::parse(format!("unknown identifier: {}", value.as_str()), at))?,
    };
    Ok(Hint { name, value })
}

// ---- pipelines ------------------------------------------------------------------------------------------------------

fn pipeline(pair: Pair<'_, Rule>) -> Result<Outcome> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut metrics: Option<Metrics> = None;
    let mut scalar: Option<(ScalarExpr, TextRange)> = None;
    for pair in pair.into_inner().filter(|pair| pair.as_rule() != Rule::pipe_sign) {
        let at = range_of(&pair);
        if let Some((_, at)) = scalar {
            return Err(lone_number(at));
        }
        match (pair.as_rule(), &mut metrics) {
            (Rule::rank, Some(metrics)) => rank(pair, &mut metrics.tail)?,
            (Rule::rank, None) => {
                let problem = "topk and bottomk work on time series; a metrics function such as rate() goes before";
                return Err(TraceQlError::parse(problem, at));
            }
            (_, Some(_)) => {
                let problem = "only topk, bottomk and comparisons can follow a metrics function";
                return Err(TraceQlError::parse(problem, at));
            }
            (Rule::metrics, None) if stages.is_empty() => {
                let problem = "a metrics function needs spans in front of it, as in {} | rate()";
                return Err(TraceQlError::parse(problem, at));
            }
            (Rule::metrics, None) => {
                metrics = Some(spans_metrics(Pipeline { stages: std::mem::take(&mut stages) }, pair)?);
            }
            (Rule::coalesce, None) if stages.is_empty() => {
                return Err(TraceQlError::parse("coalesce() cannot be the first stage", at));
            }
            (Rule::expression, None) => match expression(pair)? {
                Operand::Spansets(SpansetExpr::Pipeline(inner)) => stages.extend(inner.stages),
                Operand::Spansets(spansets) => stages.push(Stage { kind: StageKind::Spansets(spansets), at }),
                Operand::Filter(filter) => stages.push(Stage { kind: StageKind::Filter(filter), at }),
                Operand::Scalar(value) => scalar = Some((value, at)),
                Operand::Series(_) | Operand::Metrics(_) if !stages.is_empty() => {
                    let problem = "time series in parentheses can only be the first stage";
                    return Err(TraceQlError::parse(problem, at));
                }
                Operand::Series(series) => metrics = Some(series_metrics(series)),
                Operand::Metrics(inner) => metrics = Some(inner),
            },
            (Rule::bare_field, None) => {
                let filter = SpansetExpr::Filter(fields::expression(pair)?);
                stages.push(Stage { kind: StageKind::Spansets(filter), at });
            }
            (_, None) => stages.push(Stage { kind: plain_stage(pair)?, at }),
        }
    }
    Ok(match (metrics, scalar) {
        (Some(metrics), _) => Outcome::Metrics(metrics),
        (None, Some((value, at))) => Outcome::Scalar(ScalarPipeline { pipeline: Pipeline { stages }, value }, at),
        (None, None) => Outcome::Spansets(Pipeline { stages }),
    })
}

fn plain_stage(pair: Pair<'_, Rule>) -> Result<StageKind> {
    let rule = pair.as_rule();
    let mut arguments = arguments(pair);
    Ok(match rule {
        Rule::group_by => StageKind::GroupBy(fields::expression(only(&mut arguments)?)?),
        Rule::select => StageKind::Select(arguments.map(|pair| fields::field(&pair)).collect::<Result<_>>()?),
        _ => StageKind::Coalesce,
    })
}

/// The children of a function call that are not punctuation.
fn arguments(pair: Pair<'_, Rule>) -> impl Iterator<Item = Pair<'_, Rule>> {
    pair.into_inner().filter(|child| !matches!(child.as_rule(), Rule::open_sign | Rule::close_sign | Rule::comma_sign))
}

fn lone_number(at: TextRange) -> TraceQlError {
    TraceQlError::parse("a number is no answer; compare it, as in count() > 2", at)
}

// ---- expressions of a stage -----------------------------------------------------------------------------------------

fn expression(pair: Pair<'_, Rule>) -> Result<Operand> {
    PRECEDENCE
        .map_primary(operand)
        .map_prefix(|op, operand| negate(range_of(&op), operand?))
        .map_infix(|lhs, op, rhs| combine(lhs?, &op, rhs?))
        .parse(pair.into_inner())
}

fn operand(pair: Pair<'_, Rule>) -> Result<Operand> {
    Ok(match pair.as_rule() {
        Rule::filter => Operand::Spansets(SpansetExpr::Filter(fields::filter(pair)?)),
        Rule::number => Operand::Scalar(ScalarExpr::Number(fields::number(&pair)?)),
        Rule::aggregate => Operand::Scalar(ScalarExpr::Aggregate(aggregate(pair)?)),
        _ => group(pair)?,
    })
}

fn group(pair: Pair<'_, Rule>) -> Result<Operand> {
    let inner = only(pair.into_inner().filter(|child| child.as_rule() == Rule::pipeline))?;
    Ok(match pipeline(inner)? {
        Outcome::Spansets(mut pipeline) => Operand::Spansets(match pipeline.stages.pop() {
            Some(Stage { kind: StageKind::Spansets(spansets), .. }) if pipeline.stages.is_empty() => spansets,
            last => {
                pipeline.stages.extend(last);
                SpansetExpr::Pipeline(pipeline)
            }
        }),
        Outcome::Scalar(scalar, _) if scalar.pipeline.stages.is_empty() => Operand::Scalar(scalar.value),
        Outcome::Scalar(scalar, _) => Operand::Scalar(ScalarExpr::Pipeline(Box::new(scalar))),
        Outcome::Metrics(Metrics { source: MetricsSource::Math(series), tail }) if tail.is_empty() => {
            Operand::Series(series)
        }
        Outcome::Metrics(metrics) => Operand::Series(SeriesExpr::Metrics(Box::new(metrics))),
    })
}

fn aggregate(pair: Pair<'_, Rule>) -> Result<Aggregate> {
    let at = range_of(&pair);
    let call = only_child(pair)?;
    if call.as_rule() == Rule::count {
        return Ok(Aggregate { function: AggregateFunction::Count, at });
    }
    let mut parts = arguments(call);
    let reducer = reducer(only(&mut parts)?.as_str());
    let argument = fields::expression(only(&mut parts)?)?;
    Ok(Aggregate { function: AggregateFunction::Reduce(reducer, argument), at })
}

/// The reducer of a name that the grammar allows, `min` to `sum`, also with `_over_time`.
fn reducer(name: &str) -> Reducer {
    Reducer::from_name(name.trim_end_matches("_over_time")).unwrap_or(Reducer::Sum)
}

fn negate(at: TextRange, operand: Operand) -> Result<Operand> {
    let Operand::Scalar(value) = operand else {
        return Err(TraceQlError::parse(format!("syntax error: - cannot stand before {}", operand.noun()), at));
    };
    Ok(Operand::Scalar(match &value {
        ScalarExpr::Number(number) => match number.negated() {
            Some(number) => ScalarExpr::Number(number),
            None => ScalarExpr::Negate(Box::new(value)),
        },
        _ => ScalarExpr::Negate(Box::new(value)),
    }))
}

fn combine(lhs: Operand, sign: &Pair<'_, Rule>, rhs: Operand) -> Result<Operand> {
    let at = range_of(sign);
    let text = sign.as_str();
    let comparison = ComparisonOp::from_sign(text);
    let arithmetic = ArithmeticOp::from_sign(text);
    let mismatch = |lhs: &Operand, rhs: &Operand| {
        let problem = format!("syntax error: {text} cannot combine {} with {}", lhs.noun(), rhs.noun());
        let fault = TraceQlError::parse(problem, at);
        let compares = matches!(lhs, Operand::Filter(_)) || matches!(rhs, Operand::Filter(_));
        Err(match text {
            "&&" if compares => fault.with_help("stages follow each other: | count() > 2 | avg(duration) > 1s"),
            "||" if compares => {
                fault.with_help("pipelines stand in parentheses: ({} | count() > 2) || ({} | avg(duration) > 1s)")
            }
            _ => fault,
        })
    };
    match (lhs, rhs) {
        (Operand::Spansets(lhs), Operand::Spansets(rhs)) => {
            let op = LogicalOp::from_sign(text).map(SpansetOp::Logical).or_else(|| SpansetOp::from_sign(text));
            match op {
                Some(op) => {
                    Ok(Operand::Spansets(SpansetExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs), at }))
                }
                None => mismatch(&Operand::Spansets(lhs), &Operand::Spansets(rhs)),
            }
        }
        (Operand::Scalar(lhs), Operand::Scalar(rhs)) => match (comparison, arithmetic) {
            (Some(op), _) if has_aggregate(&lhs) || has_aggregate(&rhs) => {
                Ok(Operand::Filter(ScalarFilter { lhs, op, rhs, at }))
            }
            (Some(_), _) => Err(TraceQlError::parse("a comparison outside braces needs an aggregate", at)),
            (None, Some(op)) => scalar_arithmetic(lhs, op, rhs, at).map(Operand::Scalar),
            (None, None) => mismatch(&Operand::Scalar(lhs), &Operand::Scalar(rhs)),
        },
        (Operand::Series(lhs), Operand::Scalar(ScalarExpr::Number(number))) => match (comparison, arithmetic) {
            (Some(op), _) => {
                let mut metrics = series_metrics(lhs);
                metrics.tail.push(SeriesStage::Threshold(op, number));
                Ok(Operand::Metrics(metrics))
            }
            (None, op) => series_arithmetic(lhs, op, SeriesExpr::Number(number), text, at),
        },
        (Operand::Metrics(mut metrics), Operand::Scalar(ScalarExpr::Number(number))) => match comparison {
            Some(op) => {
                metrics.tail.push(SeriesStage::Threshold(op, number));
                Ok(Operand::Metrics(metrics))
            }
            None => mismatch(&Operand::Metrics(metrics), &Operand::Scalar(ScalarExpr::Number(number))),
        },
        (Operand::Series(lhs), Operand::Series(rhs)) => series_arithmetic(lhs, arithmetic, rhs, text, at),
        (Operand::Scalar(ScalarExpr::Number(number)), Operand::Series(rhs)) => {
            series_arithmetic(SeriesExpr::Number(number), arithmetic, rhs, text, at)
        }
        (lhs, rhs) => mismatch(&lhs, &rhs),
    }
}

fn has_aggregate(expr: &ScalarExpr) -> bool {
    match expr {
        ScalarExpr::Number(_) => false,
        ScalarExpr::Aggregate(_) | ScalarExpr::Pipeline(_) => true,
        ScalarExpr::Binary { lhs, rhs, .. } => has_aggregate(lhs) || has_aggregate(rhs),
        ScalarExpr::Negate(inner) => has_aggregate(inner),
    }
}

fn scalar_arithmetic(lhs: ScalarExpr, op: ArithmeticOp, rhs: ScalarExpr, at: TextRange) -> Result<ScalarExpr> {
    if let (ScalarExpr::Number(lhs), ScalarExpr::Number(rhs)) = (&lhs, &rhs) {
        return fold(lhs, op, rhs, at).map(ScalarExpr::Number);
    }
    Ok(ScalarExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) })
}

fn fold(lhs: &Literal, op: ArithmeticOp, rhs: &Literal, at: TextRange) -> Result<Literal> {
    match literal::arithmetic(op, lhs, rhs) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(TraceQlError::parse("arithmetic needs numbers", at)),
        Err(problem) => Err(TraceQlError::parse(problem, at)),
    }
}

// ---- metrics --------------------------------------------------------------------------------------------------------

fn series_metrics(series: SeriesExpr) -> Metrics {
    match series {
        SeriesExpr::Metrics(metrics) => *metrics,
        series => Metrics { source: MetricsSource::Math(series), tail: Vec::new() },
    }
}

fn series_arithmetic(
    lhs: SeriesExpr,
    op: Option<ArithmeticOp>,
    rhs: SeriesExpr,
    text: &str,
    at: TextRange,
) -> Result<Operand> {
    use ArithmeticOp::{Add, Div, Mul, Sub};
    match op {
        Some(op @ (Add | Sub | Mul | Div)) => {
            Ok(Operand::Series(SeriesExpr::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs), at }))
        }
        _ => Err(TraceQlError::parse(format!("syntax error: {text} cannot combine time series"), at)
            .with_help("time series take + - * / and, after them, a comparison with a number")),
    }
}

fn spans_metrics(pipeline: Pipeline, pair: Pair<'_, Rule>) -> Result<Metrics> {
    let mut children = pair.into_inner();
    let call = metrics_call(only(&mut children)?)?;
    let tail = children.map(threshold).collect::<Result<_>>()?;
    Ok(Metrics { source: MetricsSource::Spans { pipeline, call }, tail })
}

fn metrics_call(pair: Pair<'_, Rule>) -> Result<MetricsCall> {
    let at = range_of(&pair);
    let mut children = pair.into_inner();
    let function = metrics_function(only(&mut children)?)?;
    let by = match children.next() {
        Some(labels) => arguments(labels).map(|pair| fields::field(&pair)).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    Ok(MetricsCall { function, by, at })
}

fn metrics_function(pair: Pair<'_, Rule>) -> Result<MetricsFunction> {
    let rule = pair.as_rule();
    let mut arguments = arguments(pair);
    Ok(match rule {
        Rule::rate => MetricsFunction::Rate,
        Rule::count_over_time => MetricsFunction::CountOverTime,
        Rule::over_time => {
            let name = only(&mut arguments)?;
            let field = fields::field(&only(&mut arguments)?)?;
            match name.as_str() {
                "histogram_over_time" => MetricsFunction::HistogramOverTime(field),
                name => MetricsFunction::ReduceOverTime(reducer(name), field),
            }
        }
        Rule::quantile => {
            let field = fields::field(&only(&mut arguments)?)?;
            MetricsFunction::QuantileOverTime(field, arguments.map(quantile).collect::<Result<_>>()?)
        }
        _ => {
            let selection = fields::filter(only(&mut arguments)?)?;
            let numbers = arguments.map(integer).collect::<Result<Vec<i64>>>()?;
            let range = numbers.get(1).copied().zip(numbers.get(2).copied());
            MetricsFunction::Compare { selection, top: numbers.first().copied(), range }
        }
    })
}

fn quantile(pair: Pair<'_, Rule>) -> Result<f64> {
    let at = range_of(&pair);
    match fields::signed_number(pair)? {
        Literal::Int(value) => Ok(value as f64),
        Literal::Float(value) => Ok(value),
        other => Err(TraceQlError::parse(format!("quantile must be a number, not {other}"), at)),
    }
}

fn integer(pair: Pair<'_, Rule>) -> Result<i64> {
    let at = range_of(&pair);
    match fields::signed_number(pair)? {
        Literal::Int(value) => Ok(value),
        other => Err(TraceQlError::parse(format!("expected an integer, not {other}"), at)),
    }
}

fn rank(pair: Pair<'_, Rule>, tail: &mut Vec<SeriesStage>) -> Result<()> {
    let at = range_of(&pair);
    let mut parts = arguments(pair);
    let top = only(&mut parts)?.as_str() == "topk";
    let limit = integer(only(&mut parts)?)?;
    tail.push(if top { SeriesStage::TopK(limit, at) } else { SeriesStage::BottomK(limit, at) });
    for pair in parts {
        tail.push(threshold(pair)?);
    }
    Ok(())
}

fn threshold(pair: Pair<'_, Rule>) -> Result<SeriesStage> {
    let mut children = pair.into_inner();
    let sign = only(&mut children)?;
    let op = ComparisonOp::from_sign(sign.as_str()).ok_or_else(|| {
        TraceQlError::parse(format!("syntax error: {} cannot compare time series", sign.as_str()), range_of(&sign))
    })?;
    Ok(SeriesStage::Threshold(op, numeric(only(&mut children)?)?))
}

/// Arithmetic on plain numbers.
fn numeric(pair: Pair<'_, Rule>) -> Result<Literal> {
    let children = pair.into_inner().filter(|child| !matches!(child.as_rule(), Rule::open_sign | Rule::close_sign));
    PRECEDENCE
        .map_primary(|pair| match pair.as_rule() {
            Rule::number => fields::number(&pair),
            _ => numeric(pair),
        })
        .map_prefix(|op, value: Result<Literal>| {
            let value = value?;
            value.negated().ok_or_else(|| TraceQlError::parse("the negative is out of range", range_of(&op)))
        })
        .map_infix(|lhs, sign, rhs| match ArithmeticOp::from_sign(sign.as_str()) {
            Some(op) => fold(&lhs?, op, &rhs?, range_of(&sign)),
            None => Err(TraceQlError::parse("arithmetic needs numbers", range_of(&sign))),
        })
        .parse(children)
}
