//! Pipelines: sections 5 and 6.

use std::cmp::Ordering;

use tracehouse::traceql::{
    ast::{
        Aggregate, AggregateFunction, ArithmeticOp, LogicalOp, Pipeline, Reducer, Relation, ScalarExpr, ScalarFilter,
        SpansetExpr, SpansetOp, StageKind, Variant,
    },
    literal::Literal,
    types::Type,
};

use super::{
    expression::{Look, Subject, keeps},
    trace::{Parent, Trace},
    value::{self, Val},
};

/// Spans by index, ascending and so in order, and what was computed for them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spanset {
    pub(super) spans: Vec<usize>,
    pub(super) attributes: Vec<(String, Val)>,
}

impl Spanset {
    fn set(&mut self, name: String, value: Val) {
        match self.attributes.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((name, value)),
        }
    }
}

/// What a pipeline makes of a whole trace.
pub(super) fn of_trace(pipeline: &Pipeline, trace: &Trace) -> Vec<Spanset> {
    let whole = Spanset { spans: (0..trace.spans.len()).collect(), attributes: Vec::new() };
    run(pipeline, trace, vec![whole])
}

fn run(pipeline: &Pipeline, trace: &Trace, input: Vec<Spanset>) -> Vec<Spanset> {
    let mut spansets = input;
    for stage in &pipeline.stages {
        spansets = match &stage.kind {
            StageKind::Coalesce => {
                let spans = sorted(spansets.iter().flat_map(|spanset| spanset.spans.clone()).collect());
                vec![Spanset { spans, attributes: Vec::new() }]
            }
            kind => spansets.into_iter().flat_map(|spanset| stage_of_one(kind, trace, spanset)).collect(),
        };
        spansets.retain(|spanset| !spanset.spans.is_empty());
    }
    spansets
}

fn stage_of_one(stage: &StageKind, trace: &Trace, spanset: Spanset) -> Vec<Spanset> {
    match stage {
        StageKind::Spansets(expr) => {
            let spans = select(expr, trace, &spanset);
            vec![Spanset { spans, ..spanset }]
        }
        StageKind::Filter(filter) => filtered(filter, trace, spanset).into_iter().collect(),
        StageKind::GroupBy(expr) => {
            let mut groups: Vec<(Val, Vec<usize>)> = Vec::new();
            for index in &spanset.spans {
                let value = match (Subject { trace, index: *index, look: Look::First }).value(expr) {
                    Val::Float(float) => Val::Float(float + 0.0),
                    value => value,
                };
                match groups.iter_mut().find(|(other, _)| other.group_key() == value.group_key()) {
                    Some((_, spans)) => spans.push(*index),
                    None => groups.push((value, vec![*index])),
                }
            }
            let group = |(value, spans)| {
                let mut group = Spanset { spans, attributes: spanset.attributes.clone() };
                group.set(format!("by({expr})"), shown(value, expr.type_of()));
                group
            };
            groups.into_iter().map(group).collect()
        }
        StageKind::Select(_) => vec![spanset],
        StageKind::Coalesce => unreachable!("coalesce takes all spansets at once"),
    }
}

fn sorted(mut spans: Vec<usize>) -> Vec<usize> {
    spans.sort_unstable();
    spans.dedup();
    spans
}

/// The spans of a spanset that an expression selects.
fn select(expr: &SpansetExpr, trace: &Trace, spanset: &Spanset) -> Vec<usize> {
    match expr {
        SpansetExpr::Filter(filter) => {
            spanset.spans.iter().copied().filter(|index| keeps(filter, trace, *index)).collect()
        }
        SpansetExpr::Pipeline(pipeline) => {
            let out = run(pipeline, trace, vec![spanset.clone()]);
            assert!(out.len() <= 1, "operands are not grouped");
            out.into_iter().flat_map(|spanset| spanset.spans).collect()
        }
        SpansetExpr::Binary { op, lhs, rhs, .. } => {
            combined(*op, trace, &select(lhs, trace, spanset), &select(rhs, trace, spanset))
        }
    }
}

fn combined(op: SpansetOp, trace: &Trace, lhs: &[usize], rhs: &[usize]) -> Vec<usize> {
    let union = || sorted([lhs, rhs].concat());
    match op {
        SpansetOp::Logical(LogicalOp::And) if lhs.is_empty() || rhs.is_empty() => Vec::new(),
        SpansetOp::Logical(LogicalOp::And | LogicalOp::Or) => union(),
        SpansetOp::Structural { relation, variant } => {
            let related = |a: usize, b: usize| relates(relation, trace, a, b);
            let right = |negated: bool| {
                let has = |b: &usize| lhs.iter().any(|a| related(*a, *b));
                rhs.iter().copied().filter(move |b| has(b) != negated).collect::<Vec<_>>()
            };
            match variant {
                Variant::Plain => right(false),
                Variant::Negated => right(true),
                Variant::Union => {
                    let left = lhs.iter().copied().filter(|a| rhs.iter().any(|b| related(*a, *b)));
                    sorted(left.chain(right(false)).collect())
                }
            }
        }
    }
}

/// Whether span `b` is child (descendant, ...) of span `a`.
fn relates(relation: Relation, trace: &Trace, a: usize, b: usize) -> bool {
    match relation {
        Relation::Child => trace.parents[b] == Parent::Span(a),
        Relation::Descendant => trace.ancestors(b).contains(&a),
        Relation::Parent => trace.parents[a] == Parent::Span(b),
        Relation::Ancestor => trace.ancestors(a).contains(&b),
        Relation::Sibling => trace.are_siblings(a, b),
    }
}

// ---- scalars --------------------------------------------------------------------------------------------------------

fn filtered(filter: &ScalarFilter, trace: &Trace, spanset: Spanset) -> Option<Spanset> {
    let lhs = scalar(&filter.lhs, trace, &spanset)?;
    let rhs = scalar(&filter.rhs, trace, &spanset)?;
    if !lhs.compare(filter.op, &rhs) {
        return None;
    }
    let mut spanset = spanset;
    for (side, value) in [(&filter.lhs, lhs), (&filter.rhs, rhs)] {
        if !matches!(side, ScalarExpr::Number(_)) {
            spanset.set(side.to_string(), shown(value, scalar_type(side)));
        }
    }
    Some(spanset)
}

/// A value as an answer has it: status and kind as text, durations in Go's form.
fn shown(value: Val, of_type: Type) -> Val {
    match (value, of_type) {
        (Val::Status(status), _) => Val::Str(status.name().to_owned()),
        (Val::Kind(kind), _) => Val::Str(kind.name().to_owned()),
        (Val::Int(nanos), Type::Duration) => value::duration_text(nanos),
        (Val::Float(nanos), Type::Duration) if nanos.is_finite() => value::duration_text(nanos as i64),
        (value, _) => value,
    }
}

fn scalar_type(expr: &ScalarExpr) -> Type {
    match expr {
        ScalarExpr::Aggregate(Aggregate { function: AggregateFunction::Reduce(_, expr), .. }) => expr.type_of(),
        ScalarExpr::Pipeline(inner) => scalar_type(&inner.value),
        ScalarExpr::Negate(inner) => scalar_type(inner),
        ScalarExpr::Number(Literal::Duration(_)) => Type::Duration,
        ScalarExpr::Binary { op, lhs, rhs } => {
            let durations = [lhs, rhs].map(|side| scalar_type(side) == Type::Duration);
            let is_duration = match op {
                ArithmeticOp::Add | ArithmeticOp::Sub | ArithmeticOp::Mod => durations != [false, false],
                ArithmeticOp::Mul => durations == [true, false] || durations == [false, true],
                ArithmeticOp::Div => durations == [true, false],
                ArithmeticOp::Pow => false,
            };
            if is_duration { Type::Duration } else { Type::Float }
        }
        _ => Type::Float,
    }
}

fn scalar(expr: &ScalarExpr, trace: &Trace, spanset: &Spanset) -> Option<Val> {
    let as_float = |value: Val| value.as_f64();
    match expr {
        ScalarExpr::Number(literal) => Some(Val::of_literal(literal)),
        ScalarExpr::Aggregate(aggregate) => reduced(aggregate, trace, &spanset.spans),
        ScalarExpr::Pipeline(inner) => {
            let out = run(&inner.pipeline, trace, vec![spanset.clone()]);
            assert!(out.len() <= 1, "pipelines that are compared are not grouped");
            let nothing = Spanset { spans: Vec::new(), attributes: Vec::new() };
            scalar(&inner.value, trace, out.first().unwrap_or(&nothing))
        }
        ScalarExpr::Binary { op, lhs, rhs } => {
            let lhs = scalar(lhs, trace, spanset).and_then(as_float)?;
            let rhs = scalar(rhs, trace, spanset).and_then(as_float)?;
            Some(Val::Float(value::float(*op, lhs, rhs)))
        }
        ScalarExpr::Negate(inner) => Some(scalar(inner, trace, spanset)?.negated()),
    }
}

fn reduced(aggregate: &Aggregate, trace: &Trace, spans: &[usize]) -> Option<Val> {
    let (reducer, expr) = match &aggregate.function {
        AggregateFunction::Count => return Some(Val::Int(spans.len() as i64)),
        AggregateFunction::Reduce(reducer, expr) => (*reducer, expr),
    };
    let values = spans.iter().map(|index| Subject { trace, index: *index, look: Look::First }.value(expr));
    let numbers: Vec<Val> = values.filter(|value| value.as_f64().is_some()).collect();
    if numbers.is_empty() {
        return None;
    }
    let best = |wanted: Ordering| {
        let better = |a: Val, b: Val| if value::number_order(&b, &a) == Some(wanted) { b } else { a };
        numbers.iter().cloned().reduce(better)
    };
    let ints: Option<Vec<i128>> =
        numbers.iter().map(|value| if let Val::Int(int) = value { Some(i128::from(*int)) } else { None }).collect();
    let sum_of_floats = || {
        let ints = numbers.iter().map(|value| if let Val::Int(int) = value { i128::from(*int) } else { 0 });
        let floats = numbers.iter().map(|value| if let Val::Float(float) = value { *float } else { 0.0 });
        ints.sum::<i128>() as f64 + floats.sum::<f64>()
    };
    match (reducer, ints) {
        (Reducer::Min, _) => best(Ordering::Less),
        (Reducer::Max, _) => best(Ordering::Greater),
        (Reducer::Sum, Some(ints)) => {
            let sum: i128 = ints.iter().sum();
            Some(i64::try_from(sum).map_or(Val::Float(sum as f64), Val::Int))
        }
        (Reducer::Sum, None) => Some(Val::Float(sum_of_floats())),
        (Reducer::Avg, Some(ints)) => Some(Val::Float(ints.iter().sum::<i128>() as f64 / ints.len() as f64)),
        (Reducer::Avg, None) => Some(Val::Float(sum_of_floats() / numbers.len() as f64)),
    }
}
