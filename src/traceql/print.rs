//! Canonical text of a tree: one space around operators, strings in back quotes, no parentheses that parsing would
//! not need, intrinsics in their short spelling.

use std::fmt::{self, Display, Formatter};

use super::{
    ast::{
        Aggregate, AggregateFunction, ArithmeticOp, Attribute, Body, Field, FieldExpr, FieldKind, FieldName, Hint,
        Metrics, MetricsCall, MetricsFunction, MetricsSource, Pipeline, Query, ScalarExpr, ScalarFilter, Scope,
        SeriesExpr, SeriesStage, SpansetExpr, Stage, StageKind,
    },
    literal::Literal,
    operators::Binding,
};

/// `lhs sign rhs`, with parentheses where the sides bind looser than the operator.
fn write_binary(
    f: &mut Formatter<'_>,
    binding: Binding,
    sign: &str,
    (lhs, lhs_binding): (&dyn Display, Binding),
    (rhs, rhs_binding): (&dyn Display, Binding),
) -> fmt::Result {
    let right_associative = binding == Binding::Power;
    let left_loose = lhs_binding < binding || (right_associative && lhs_binding == binding);
    let right_loose = rhs_binding < binding || (!right_associative && rhs_binding == binding);
    write_operand(f, lhs, left_loose)?;
    write!(f, " {sign} ")?;
    write_operand(f, rhs, right_loose)
}

fn write_operand(f: &mut Formatter<'_>, operand: &dyn Display, parentheses: bool) -> fmt::Result {
    if parentheses { write!(f, "({operand})") } else { write!(f, "{operand}") }
}

fn write_list<T: Display>(f: &mut Formatter<'_>, items: impl IntoIterator<Item = T>, separator: &str) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

fn literal_binding(literal: &Literal) -> Binding {
    if literal.is_negative() { Binding::Negate } else { Binding::Atom }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Spansets(pipeline) => write!(f, "{pipeline}")?,
            Body::Metrics(metrics) => write!(f, "{metrics}")?,
        }
        if self.hints.is_empty() {
            return Ok(());
        }
        f.write_str(" with(")?;
        write_list(f, &self.hints, ", ")?;
        f.write_str(")")
    }
}

impl Display for Hint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_list(f, &self.stages, " | ")
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StageKind::Spansets(spansets) => write!(f, "{spansets}"),
            StageKind::Filter(filter) => write!(f, "{filter}"),
            StageKind::GroupBy(field) => write!(f, "by({field})"),
            StageKind::Coalesce => f.write_str("coalesce()"),
            StageKind::Select(fields) => {
                f.write_str("select(")?;
                write_list(f, fields, ", ")?;
                f.write_str(")")
            }
        }
    }
}

// ---- spansets and scalars -------------------------------------------------------------------------------------------

impl SpansetExpr {
    fn binding(&self) -> Binding {
        match self {
            SpansetExpr::Binary { op, .. } => op.binding(),
            SpansetExpr::Filter(_) | SpansetExpr::Pipeline(_) => Binding::Atom,
        }
    }
}

impl Display for SpansetExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SpansetExpr::Filter(field) => write!(f, "{{ {field} }}"),
            SpansetExpr::Pipeline(pipeline) => write!(f, "({pipeline})"),
            SpansetExpr::Binary { op, lhs, rhs, .. } => {
                write_binary(f, op.binding(), &op.sign(), (lhs, lhs.binding()), (rhs, rhs.binding()))
            }
        }
    }
}

impl Display for ScalarFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.lhs, self.op.sign(), self.rhs)
    }
}

impl ScalarExpr {
    fn binding(&self) -> Binding {
        match self {
            ScalarExpr::Number(number) => literal_binding(number),
            ScalarExpr::Aggregate(_) | ScalarExpr::Pipeline(_) => Binding::Atom,
            ScalarExpr::Binary { op, .. } => op.binding(),
            ScalarExpr::Negate(_) => Binding::Negate,
        }
    }
}

impl Display for ScalarExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ScalarExpr::Number(number) => write!(f, "{number}"),
            ScalarExpr::Aggregate(aggregate) => write!(f, "{aggregate}"),
            ScalarExpr::Pipeline(inner) => write!(f, "({} | {})", inner.pipeline, inner.value),
            ScalarExpr::Binary { op, lhs, rhs } => {
                write_binary(f, op.binding(), op.sign(), (lhs, lhs.binding()), (rhs, rhs.binding()))
            }
            ScalarExpr::Negate(inner) => {
                f.write_str("-")?;
                write_operand(f, inner, inner.binding() < Binding::Negate)
            }
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.function {
            AggregateFunction::Count => f.write_str("count()"),
            AggregateFunction::Reduce(reducer, field) => write!(f, "{}({field})", reducer.name()),
        }
    }
}

// ---- metrics --------------------------------------------------------------------------------------------------------

impl Display for Metrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            MetricsSource::Spans { pipeline, call } => write!(f, "{pipeline} | {call}")?,
            MetricsSource::Math(series) => write!(f, "{series}")?,
        }
        write_list(f, &self.tail, "")
    }
}

impl Display for MetricsCall {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.function)?;
        if self.by.is_empty() {
            return Ok(());
        }
        f.write_str(" by(")?;
        write_list(f, &self.by, ", ")?;
        f.write_str(")")
    }
}

impl Display for MetricsFunction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            MetricsFunction::Rate => f.write_str("rate()"),
            MetricsFunction::CountOverTime => f.write_str("count_over_time()"),
            MetricsFunction::ReduceOverTime(reducer, field) => write!(f, "{}_over_time({field})", reducer.name()),
            MetricsFunction::HistogramOverTime(field) => write!(f, "histogram_over_time({field})"),
            MetricsFunction::QuantileOverTime(field, quantiles) => {
                write!(f, "quantile_over_time({field}, ")?;
                write_list(f, quantiles.iter().map(|quantile| Literal::Float(*quantile)), ", ")?;
                f.write_str(")")
            }
            MetricsFunction::Compare { selection, top, range } => {
                write!(f, "compare({{ {selection} }}")?;
                if let Some(top) = top {
                    write!(f, ", {}", Literal::Int(*top))?;
                }
                if let Some((start, end)) = range {
                    write!(f, ", {}, {}", Literal::Int(*start), Literal::Int(*end))?;
                }
                f.write_str(")")
            }
        }
    }
}

impl SeriesExpr {
    fn binding(&self) -> Binding {
        match self {
            SeriesExpr::Metrics(_) => Binding::Atom,
            SeriesExpr::Number(number) => literal_binding(number),
            SeriesExpr::Binary { op, .. } => ArithmeticOp::binding(*op),
        }
    }
}

impl Display for SeriesExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SeriesExpr::Metrics(metrics) => write!(f, "({metrics})"),
            SeriesExpr::Number(number) => write!(f, "{number}"),
            SeriesExpr::Binary { op, lhs, rhs, .. } => {
                write_binary(f, op.binding(), op.sign(), (lhs, lhs.binding()), (rhs, rhs.binding()))
            }
        }
    }
}

impl Display for SeriesStage {
    /// With what joins it to the text before: a bar or a space.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SeriesStage::TopK(limit, _) => write!(f, " | topk({})", Literal::Int(*limit)),
            SeriesStage::BottomK(limit, _) => write!(f, " | bottomk({})", Literal::Int(*limit)),
            SeriesStage::Threshold(op, number) => write!(f, " {} {number}", op.sign()),
        }
    }
}

// ---- fields ---------------------------------------------------------------------------------------------------------

impl FieldExpr {
    fn binding(&self) -> Binding {
        match &self.kind {
            FieldKind::Literal(literal) => literal_binding(literal),
            FieldKind::Field(_) => Binding::Atom,
            FieldKind::Unary { op, .. } => op.binding(),
            FieldKind::Binary { op, .. } => op.binding(),
        }
    }
}

impl Display for FieldExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FieldKind::Literal(literal) => write!(f, "{literal}"),
            FieldKind::Field(name) => write!(f, "{name}"),
            FieldKind::Unary { op, operand } => {
                f.write_str(op.sign())?;
                write_operand(f, operand, operand.binding() < op.binding())
            }
            FieldKind::Binary { op, lhs, rhs } => {
                write_binary(f, op.binding(), op.sign(), (lhs, lhs.binding()), (rhs, rhs.binding()))
            }
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl Display for FieldName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FieldName::Intrinsic(intrinsic) => f.write_str(intrinsic.name()),
            FieldName::Attribute(attribute) => write!(f, "{attribute}"),
        }
    }
}

impl Display for Attribute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.of_parent {
            f.write_str("parent")?;
            if self.scope != Scope::Any {
                f.write_str(".")?;
            }
        }
        f.write_str(self.scope.name())?;
        f.write_str(".")?;
        if !self.needs_quotes() {
            return f.write_str(&self.key);
        }
        f.write_str("\"")?;
        for c in self.key.chars() {
            if ['"', '\\'].contains(&c) {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

impl Attribute {
    /// Whether the bare key would end early, or be read as something else.
    fn needs_quotes(&self) -> bool {
        let ends_name = |c: char| c.is_whitespace() || "\"{}()=~!<>&|^,".contains(c);
        let starts_scope = self.key.split_once('.').is_some_and(|(word, _)| Scope::from_name(word).is_some());
        let bare_scope = self.scope == Scope::Any;
        self.key.contains(ends_name)
            || (bare_scope && !self.of_parent && self.key.starts_with(|c: char| c.is_ascii_digit()))
            || (bare_scope && self.of_parent && starts_scope)
    }
}
