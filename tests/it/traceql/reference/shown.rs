//! What is shown of a span that a search finds: section 7.

use tracehouse::traceql::{
    ast::{
        AggregateFunction, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, LogicalOp, Pipeline, ScalarExpr, Scope,
        SpansetExpr, StageKind, UnaryOp,
    },
    literal::Literal,
};

use super::{
    expression::{Look, Subject, choices, is_constant},
    metrics::is_root_test,
    trace::Trace,
    value::{Val, duration_text},
};

/// What a query mentions.
#[derive(Debug, Default)]
pub(super) struct Mentioned {
    /// Fields, left to right, then those of `select`.
    fields: Vec<FieldName>,
    selected: Vec<FieldName>,
    /// Filters, left to right.
    filters: Vec<FieldExpr>,
}

impl Mentioned {
    pub(super) fn by(pipeline: &Pipeline) -> Self {
        let mut mentioned = Self::default();
        mentioned.add_pipeline(pipeline);
        let selected = std::mem::take(&mut mentioned.selected);
        mentioned.fields.extend(selected);
        mentioned
    }

    fn add_pipeline(&mut self, pipeline: &Pipeline) {
        for stage in &pipeline.stages {
            match &stage.kind {
                StageKind::Spansets(spansets) => self.add_spansets(spansets),
                StageKind::Filter(filter) => {
                    self.add_scalar(&filter.lhs);
                    self.add_scalar(&filter.rhs);
                }
                StageKind::GroupBy(expr) => self.add_fields(expr),
                StageKind::Select(fields) => self.selected.extend(fields.iter().map(|field| field.name.clone())),
                StageKind::Coalesce => {}
            }
        }
    }

    fn add_spansets(&mut self, spansets: &SpansetExpr) {
        match spansets {
            SpansetExpr::Filter(filter) => {
                self.add_fields(filter);
                self.filters.push(filter.clone());
            }
            SpansetExpr::Pipeline(pipeline) => self.add_pipeline(pipeline),
            SpansetExpr::Binary { lhs, rhs, .. } => {
                self.add_spansets(lhs);
                self.add_spansets(rhs);
            }
        }
    }

    fn add_scalar(&mut self, scalar: &ScalarExpr) {
        match scalar {
            ScalarExpr::Number(_) => {}
            ScalarExpr::Aggregate(aggregate) => match &aggregate.function {
                AggregateFunction::Count => {}
                AggregateFunction::Reduce(_, expr) => self.add_fields(expr),
            },
            ScalarExpr::Pipeline(inner) => {
                self.add_pipeline(&inner.pipeline);
                self.add_scalar(&inner.value);
            }
            ScalarExpr::Binary { lhs, rhs, .. } => {
                self.add_scalar(lhs);
                self.add_scalar(rhs);
            }
            ScalarExpr::Negate(inner) => self.add_scalar(inner),
        }
    }

    fn add_fields(&mut self, expr: &FieldExpr) {
        self.fields.extend(fields(expr).into_iter().cloned());
    }

    /// Keys and values of a span, in order.
    pub(super) fn of_span(&self, trace: &Trace, index: usize) -> Vec<(String, Val)> {
        use Intrinsic::{Duration, Name, RootName, RootServiceName, SpanId, TraceDuration, TraceId};
        // In the order in which the keys come first; the value is that of the first field of the key that has one.
        let mut shown: Vec<(String, Option<Val>)> = Vec::new();
        for field in &self.fields {
            let is_there_anyway = matches!(
                field,
                FieldName::Intrinsic(Name | Duration | TraceDuration | RootName | RootServiceName | TraceId | SpanId)
            );
            if is_there_anyway {
                continue;
            }
            let value = self.value(field, trace, index).map(|value| as_shown(field, value));
            match shown.iter_mut().find(|(key, _)| *key == key_of(field)) {
                Some((_, known)) => *known = known.take().or(value),
                None => shown.push((key_of(field), value)),
            }
        }
        shown.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    fn value(&self, field: &FieldName, trace: &Trace, index: usize) -> Option<Val> {
        let looks = looks(trace, index);
        let at = |look: Look| {
            let value = Subject { trace, index, look }.field(field);
            let is_hidden = matches!(&value, Val::Missing)
                || matches!(&value, Val::Opaque(json) if json == "null" || json == "in another one");
            (!is_hidden).then_some(value)
        };
        // Of those that a filter looks for, the first that has the field.
        for filter in &self.filters {
            let parts = parts_on_items(filter, field, Subject { trace, index, look: Look::First });
            let holds = |look: Look| parts.iter().all(|part| Subject { trace, index, look }.holds(part));
            let found = looks.iter().find_map(|look| at(*look).filter(|_| holds(*look)));
            if !parts.is_empty() && found.is_some() {
                return found;
            }
        }
        looks.iter().find_map(|look| at(*look))
    }
}

/// All pairs of an event and a link.
fn looks(trace: &Trace, index: usize) -> Vec<Look> {
    let span = &trace.spans[index];
    let links = choices(span.links.len());
    let pairs = |event: Option<usize>| links.iter().map(move |link| Look::At(event, *link));
    choices(span.events.len()).into_iter().flat_map(pairs).collect()
}

/// The parts of a filter, joined by `&&`, that mention nothing but fields of events and links, the key of a field without
/// a scope, or the test for a root. None if constants alone decide what it is.
fn parts_on_items<'a>(filter: &'a FieldExpr, shown: &FieldName, subject: Subject<'_>) -> Vec<&'a FieldExpr> {
    let is_here = |name: &FieldName| match name {
        FieldName::Intrinsic(intrinsic) => matches!(
            intrinsic,
            Intrinsic::EventName | Intrinsic::EventTimeSinceStart | Intrinsic::LinkTraceId | Intrinsic::LinkSpanId
        ),
        FieldName::Attribute(name) => {
            let is_of_item = matches!(name.scope, Scope::Event | Scope::Link);
            is_of_item || (name.scope == Scope::Any && !name.of_parent && name.key == key_of(shown))
        }
    };
    if decided(filter, subject).is_some() {
        return Vec::new();
    }
    let mut parts = Vec::new();
    add_parts(filter, subject, &mut parts);
    parts.retain(|part| {
        let fields = fields_that_decide(part, subject);
        decided(part, subject).is_none() && !fields.is_empty() && fields.into_iter().all(is_here)
    });
    parts
}

fn add_parts<'a>(expr: &'a FieldExpr, subject: Subject<'_>, parts: &mut Vec<&'a FieldExpr>) {
    match &expr.kind {
        FieldKind::Binary { op: FieldOp::Logical(LogicalOp::And), lhs, rhs } => {
            add_parts(lhs, subject, parts);
            add_parts(rhs, subject, parts);
        }
        FieldKind::Binary { op: FieldOp::Logical(LogicalOp::Or), lhs, rhs } => {
            // A side that constants make false says nothing.
            match (decided(lhs, subject), decided(rhs, subject)) {
                (Some(false), None) => add_parts(rhs, subject, parts),
                (None, Some(false)) => add_parts(lhs, subject, parts),
                _ => parts.push(expr),
            }
        }
        FieldKind::Unary { op: UnaryOp::Not, operand } => match &operand.kind {
            FieldKind::Unary { op: UnaryOp::Not, operand } => add_parts(operand, subject, parts),
            _ => parts.push(expr),
        },
        _ => parts.push(expr),
    }
}

/// What an expression is whatever the span is, where constants decide it.
fn decided(expr: &FieldExpr, subject: Subject<'_>) -> Option<bool> {
    match &expr.kind {
        FieldKind::Literal(literal) => Some(*literal == Literal::Bool(true)),
        FieldKind::Unary { op: UnaryOp::Not, operand } => decided(operand, subject).map(|is| !is),
        FieldKind::Binary { op: FieldOp::Logical(op), lhs, rhs } => {
            let deciding = *op == LogicalOp::Or;
            match (decided(lhs, subject), decided(rhs, subject)) {
                (Some(is), _) | (_, Some(is)) if is == deciding => Some(deciding),
                (Some(_), Some(_)) => Some(!deciding),
                _ => None,
            }
        }
        FieldKind::Binary { op: FieldOp::Comparison(_) | FieldOp::Regex(_), lhs, rhs } => {
            (is_constant(lhs) && is_constant(rhs)).then(|| subject.holds(expr))
        }
        _ => None,
    }
}

fn fields(expr: &FieldExpr) -> Vec<&FieldName> {
    match &expr.kind {
        FieldKind::Literal(_) => Vec::new(),
        FieldKind::Field(name) => vec![name],
        FieldKind::Unary { operand, .. } => fields(operand),
        FieldKind::Binary { lhs, rhs, .. } => fields(lhs).into_iter().chain(fields(rhs)).collect(),
    }
}

/// The fields that are not there for the test whether the span is a root, nor beside constants that decide.
fn fields_that_decide<'a>(expr: &'a FieldExpr, subject: Subject<'_>) -> Vec<&'a FieldName> {
    match &expr.kind {
        _ if is_root_test(expr) || decided(expr, subject).is_some() => Vec::new(),
        FieldKind::Unary { operand, .. } => fields_that_decide(operand, subject),
        FieldKind::Binary { lhs, rhs, .. } => {
            fields_that_decide(lhs, subject).into_iter().chain(fields_that_decide(rhs, subject)).collect()
        }
        FieldKind::Literal(_) | FieldKind::Field(_) => fields(expr),
    }
}

fn key_of(name: &FieldName) -> String {
    match name {
        FieldName::Intrinsic(intrinsic) => intrinsic.name().to_owned(),
        FieldName::Attribute(attribute) => attribute.key.clone(),
    }
}

fn as_shown(field: &FieldName, value: Val) -> Val {
    match (field, value) {
        (FieldName::Intrinsic(Intrinsic::EventTimeSinceStart), Val::Int(nanos)) => duration_text(nanos),
        (_, Val::Status(status)) => Val::Str(status.name().to_owned()),
        (_, Val::Kind(kind)) => Val::Str(kind.name().to_owned()),
        (_, value) => value,
    }
}
