//! Does the query make sense: types, constants, and the places where only some things may stand.
//!
//! The first line of each message has Tempo's wording, which is part of its interface. What TraceQL gives no meaning
//! (`parent` alone, events of the parent) is refused here; what only this engine lacks is refused by the planner.

use super::{
    ast::{
        AggregateFunction, ArithmeticOp, Attribute, Body, ComparisonOp, Field, FieldExpr, FieldKind, FieldName,
        FieldOp, Intrinsic, Metrics, MetricsCall, MetricsFunction, MetricsSource, Pipeline, Query, RegexOp, ScalarExpr,
        Scope, SeriesExpr, SeriesStage, SpansetExpr, StageKind, TextRange, UnaryOp,
    },
    error::TraceQlError,
    literal::{self, Literal},
    names,
    size::check_size,
    types::Type,
};

type Result = std::result::Result<(), TraceQlError>;

/// How many values per attribute `compare(...)` returns at most.
const COMPARE_TOP_MAX: i64 = 1000;

/// Checks a query. The error has no excerpt yet; see [`TraceQlError::in_text`].
pub fn check(query: &Query) -> Result {
    check_size(query)?;
    match &query.body {
        Body::Spansets(pipeline) => check_pipeline(pipeline),
        Body::Metrics(metrics) => check_metrics(metrics),
    }
}

fn check_pipeline(pipeline: &Pipeline) -> Result {
    for stage in &pipeline.stages {
        match &stage.kind {
            StageKind::Spansets(spansets) => check_spansets(spansets)?,
            StageKind::Filter(filter) => {
                check_scalar(&filter.lhs)?;
                check_scalar(&filter.rhs)?;
            }
            StageKind::GroupBy(field) => {
                check_field(field)?;
                if !field.references_span() {
                    let problem = format!("grouping field expressions must reference the span: {field}");
                    return Err(TraceQlError::invalid(problem, field.at));
                }
            }
            StageKind::Coalesce => {}
            StageKind::Select(fields) => fields.iter().try_for_each(check_name)?,
        }
    }
    Ok(())
}

fn check_spansets(spansets: &SpansetExpr) -> Result {
    match spansets {
        SpansetExpr::Filter(field) => check_filter(field),
        SpansetExpr::Pipeline(pipeline) => check_pipeline(pipeline),
        SpansetExpr::Binary { lhs, rhs, .. } => {
            for side in [lhs, rhs] {
                check_spansets(side)?;
                if let SpansetExpr::Pipeline(pipeline) = &**side {
                    check_ungrouped(pipeline)?;
                }
            }
            Ok(())
        }
    }
}

/// Refuses an operand that ends in several spansets, of which no operator knows what to make.
fn check_ungrouped(pipeline: &Pipeline) -> Result {
    let mut group = None;
    for stage in &pipeline.stages {
        match &stage.kind {
            StageKind::GroupBy(_) => group = Some(stage.at),
            StageKind::Coalesce => group = None,
            _ => {}
        }
    }
    match group {
        Some(at) => {
            let problem =
                "spanset operators are not supported for multiple spansets per trace. consider using coalesce()";
            Err(TraceQlError::invalid(problem, at))
        }
        None => Ok(()),
    }
}

fn check_filter(field: &FieldExpr) -> Result {
    check_field(field)?;
    if !matches!(field.type_of(), Type::Bool | Type::Attribute) {
        let problem = format!("span filter field expressions must resolve to a boolean: {field}");
        return Err(TraceQlError::invalid(problem, field.at));
    }
    Ok(())
}

fn check_scalar(scalar: &ScalarExpr) -> Result {
    match scalar {
        ScalarExpr::Number(_) => Ok(()),
        ScalarExpr::Aggregate(aggregate) => match &aggregate.function {
            AggregateFunction::Count => Ok(()),
            AggregateFunction::Reduce(_, field) => check_aggregated(field),
        },
        ScalarExpr::Pipeline(inner) => {
            check_pipeline(&inner.pipeline)?;
            check_ungrouped(&inner.pipeline)?;
            check_scalar(&inner.value)
        }
        ScalarExpr::Binary { lhs, rhs, .. } => {
            check_scalar(lhs)?;
            check_scalar(rhs)
        }
        ScalarExpr::Negate(inner) => check_scalar(inner),
    }
}

fn check_aggregated(field: &FieldExpr) -> Result {
    check_field(field)?;
    let kind = field.type_of();
    if kind != Type::Attribute && !kind.is_numeric() {
        let problem = format!("aggregate field expressions must resolve to a number type: {field}");
        return Err(TraceQlError::invalid(problem, field.at));
    }
    if !field.references_span() {
        let problem = format!("aggregate field expressions must reference the span: {field}");
        return Err(TraceQlError::invalid(problem, field.at));
    }
    Ok(())
}

// ---- inside braces --------------------------------------------------------------------------------------------------

fn check_field(field: &FieldExpr) -> Result {
    match &field.kind {
        FieldKind::Literal(_) => Ok(()),
        FieldKind::Field(name) => check_supported(name, field.at),
        FieldKind::Unary { op, operand } => {
            check_field(operand)?;
            check_unary(*op, operand, field)
        }
        FieldKind::Binary { op, lhs, rhs } => {
            check_field(lhs)?;
            check_field(rhs)?;
            check_binary(*op, lhs, rhs, field)
        }
    }
}

fn check_unary(op: UnaryOp, operand: &FieldExpr, whole: &FieldExpr) -> Result {
    if operand.type_of().takes_prefix(op) {
        return Ok(());
    }
    let problem = format!("illegal operation for the given type: {whole}");
    let help = format!("{operand} is of type {}", operand.type_of().name());
    Err(TraceQlError::invalid(problem, whole.at).with_help(help))
}

fn check_binary(op: FieldOp, lhs: &FieldExpr, rhs: &FieldExpr, whole: &FieldExpr) -> Result {
    let (left, right) = (lhs.type_of(), rhs.type_of());
    let types = || format!("{lhs} is of type {}, {rhs} of type {}", left.name(), right.name());
    if let FieldOp::Regex(op) = op {
        check_regex(op, rhs, whole)?;
    }
    let of_parent = matches!(&lhs.kind, FieldKind::Field(FieldName::Attribute(attribute)) if attribute.of_parent);
    if of_parent && matches!(right, Type::Status | Type::Kind) {
        let problem = format!("binary operations must operate on the same type: {whole}");
        let help = format!(
            "{lhs} is an attribute, and no attribute is of type {}; children of such spans are found by {{ ... }} > {{ ... }}",
            right.name()
        );
        return Err(TraceQlError::invalid(problem, whole.at).with_help(help));
    }
    if !left.meets(right) {
        let problem = format!("binary operations must operate on the same type: {whole}");
        let help = without_quotes(op, lhs, rhs).unwrap_or_else(types);
        return Err(TraceQlError::invalid(problem, whole.at).with_help(help));
    }
    if !left.takes(op) || !right.takes(op) {
        let problem = format!("illegal operation for the given types: {whole}");
        return Err(TraceQlError::invalid(problem, whole.at).with_help(types()));
    }
    if op == FieldOp::Comparison(ComparisonOp::Eq) {
        check_nil(lhs, rhs, whole.at)?;
        check_nil(rhs, lhs, whole.at)?;
    }
    let zero = matches!(&rhs.kind, FieldKind::Literal(Literal::Int(0)));
    if matches!(op, FieldOp::Arithmetic(ArithmeticOp::Div | ArithmeticOp::Mod)) && zero && left == Type::Int {
        return Err(TraceQlError::invalid(format!("division by zero: {whole}"), whole.at));
    }
    Ok(())
}

/// What was probably meant where a constant stands in quotes that is none with them.
fn without_quotes(op: FieldOp, lhs: &FieldExpr, rhs: &FieldExpr) -> Option<String> {
    let kind = lhs.type_of();
    if let (FieldOp::Regex(op), Type::Status | Type::Kind) = (op, kind) {
        return Some(format!("{} is for text; {lhs} takes = and !=, and several are joined by ||", op.sign()));
    }
    if let (FieldKind::Literal(Literal::Status(_)), Type::Bool) = (&lhs.kind, rhs.type_of()) {
        return Some(format!("{lhs} is a status: status = {lhs}"));
    }
    let FieldKind::Literal(Literal::String(text)) = &rhs.kind else { return None };
    let meant = names::literal_word(text).or_else(|| literal::parse_number(text).ok())?;
    meant.type_of().meets(kind).then(|| format!("{lhs} is of type {}; without quotes: {meant}", kind.name()))
}

fn check_regex(op: RegexOp, pattern: &FieldExpr, whole: &FieldExpr) -> Result {
    let FieldKind::Literal(Literal::String(text)) = &pattern.kind else {
        let problem = format!("invalid type for =~ or !~: {whole}");
        return Err(TraceQlError::invalid(problem, pattern.at)
            .with_help(format!("{} takes a string that is written out", op.sign())));
    };
    match super::types::compile_regex(text) {
        Ok(_) => Ok(()),
        Err(problem) => Err(TraceQlError::invalid(format!("invalid regex: {text}: {problem}"), pattern.at)),
    }
}

/// Refuses to ask whether something is absent that never is.
fn check_nil(field: &FieldExpr, other: &FieldExpr, at: TextRange) -> Result {
    if !matches!(other.kind, FieldKind::Literal(Literal::Nil)) {
        return Ok(());
    }
    match &field.kind {
        FieldKind::Field(FieldName::Intrinsic(intrinsic)) => {
            let name = intrinsic.name();
            let problem = format!("{name}=nil is not valid because intrinsics cannot be nil");
            Err(TraceQlError::invalid(problem, at))
        }
        FieldKind::Field(FieldName::Attribute(Attribute { scope: Scope::Resource, key, of_parent: false }))
            if key == "service.name" =>
        {
            let problem = "resource.service.name=nil is not valid because resource.service.name cannot be nil";
            Err(TraceQlError::invalid(problem, at))
        }
        _ => Ok(()),
    }
}

fn check_name(field: &Field) -> Result {
    check_supported(&field.name, field.at)
}

fn check_supported(name: &FieldName, at: TextRange) -> Result {
    match name {
        FieldName::Intrinsic(Intrinsic::Parent) => Err(TraceQlError::unsupported("intrinsic parent", at)),
        FieldName::Attribute(attribute)
            if attribute.of_parent && matches!(attribute.scope, Scope::Event | Scope::Link) =>
        {
            Err(TraceQlError::unsupported(format!("events and links of the parent span: {attribute}"), at))
        }
        _ => Ok(()),
    }
}

// ---- metrics --------------------------------------------------------------------------------------------------------

fn check_metrics(metrics: &Metrics) -> Result {
    match &metrics.source {
        MetricsSource::Math(series) => check_series(series)?,
        MetricsSource::Spans { pipeline, call } => {
            check_pipeline(pipeline)?;
            check_call(call)?;
            if matches!(call.function, MetricsFunction::Compare { .. }) && !metrics.tail.is_empty() {
                return Err(TraceQlError::invalid("`compare()` cannot be used with second stage functions", call.at));
            }
        }
    }
    for stage in &metrics.tail {
        if let SeriesStage::TopK(limit, at) | SeriesStage::BottomK(limit, at) = stage
            && *limit <= 0
        {
            return Err(TraceQlError::invalid("limit must be greater than 0", *at));
        }
    }
    Ok(())
}

fn check_series(series: &SeriesExpr) -> Result {
    match series {
        SeriesExpr::Metrics(metrics) => check_metrics(metrics),
        SeriesExpr::Number(_) => Ok(()),
        SeriesExpr::Binary { lhs, rhs, at, .. } => {
            check_series(lhs)?;
            check_series(rhs)?;
            // Its series are of several kinds, and no other function has such.
            if let Some(at) = [lhs, rhs].into_iter().find_map(|side| compared_at(side)) {
                return Err(TraceQlError::invalid("`compare()` cannot be used in metric arithmetic", at));
            }
            if [lhs, rhs].iter().any(|side| matches!(***side, SeriesExpr::Number(Literal::Duration(_)))) {
                let problem = "duration cannot be used as a scalar operand in metric arithmetic";
                return Err(TraceQlError::invalid(problem, *at));
            }
            Ok(())
        }
    }
}

/// Where `compare()` is, if that is what the series are of.
fn compared_at(series: &SeriesExpr) -> Option<TextRange> {
    let SeriesExpr::Metrics(metrics) = series else { return None };
    match &metrics.source {
        MetricsSource::Spans { call, .. } => {
            matches!(call.function, MetricsFunction::Compare { .. }).then_some(call.at)
        }
        MetricsSource::Math(_) => None,
    }
}

/// What a function takes of a span has to be a number, as far as its name tells.
fn check_measure(function: &str, field: &Field) -> Result {
    check_name(field)?;
    match field.name {
        FieldName::Intrinsic(intrinsic) if !matches!(intrinsic.type_of(), Type::Int | Type::Duration) => {
            let problem =
                format!("{function}({field}) needs numbers: {field} is of type {}", intrinsic.type_of().name());
            let help = "duration, trace:duration, span:childCount and attributes can be numbers";
            Err(TraceQlError::invalid(problem, field.at).with_help(help))
        }
        _ => Ok(()),
    }
}

fn check_call(call: &MetricsCall) -> Result {
    call.by.iter().try_for_each(check_name)?;
    match &call.function {
        MetricsFunction::Rate | MetricsFunction::CountOverTime => {}
        MetricsFunction::ReduceOverTime(reducer, field) => {
            check_measure(&format!("{}_over_time", reducer.name()), field)?
        }
        MetricsFunction::HistogramOverTime(field) => check_measure("histogram_over_time", field)?,
        MetricsFunction::QuantileOverTime(field, quantiles) => {
            check_measure("quantile_over_time", field)?;
            if let Some(quantile) = quantiles.iter().find(|quantile| !(0.0..=1.0).contains(*quantile)) {
                return Err(TraceQlError::invalid(format!("quantile must be between 0 and 1: {quantile}"), call.at));
            }
        }
        MetricsFunction::Compare { selection, top, range } => {
            check_filter(selection)?;
            if let Some(top) = top.filter(|top| !(1..=COMPARE_TOP_MAX).contains(top)) {
                let problem =
                    format!("compare() top number of values must be an integer between 1 and 1000, not {top}");
                return Err(TraceQlError::invalid(problem, call.at));
            }
            if let Some((start, end)) = range.filter(|(start, end)| *start <= 0 || end <= start) {
                let problem = format!("compare() start must be positive and before end, not {start} and {end}");
                return Err(TraceQlError::invalid(problem, call.at));
            }
        }
    }
    Ok(())
}
