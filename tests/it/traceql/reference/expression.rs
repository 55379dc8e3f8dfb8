//! Expressions on a span: sections 3 and 4.

use tracehouse::traceql::{
    ast::{
        ArithmeticOp, Attribute, ComparisonOp, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, LogicalOp, RegexOp,
        Scope, UnaryOp,
    },
    literal::{Kind, Literal, Status},
    types::Type,
};

use super::{
    Attributes,
    trace::{Parent, Trace},
    value::Val,
};

/// Which event and link of a span an expression speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// These, or none.
    At(Option<usize>, Option<usize>),
    /// For each field the first that has it.
    First,
}

/// A span and what is looked at of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) trace: &'a Trace,
    pub(super) index: usize,
    pub(super) look: Look,
}

/// The events or links of a span, of which there are so many, that are looked at one after the other; none is a choice, too.
pub(super) fn choices(count: usize) -> Vec<Option<usize>> {
    if count == 0 { vec![None] } else { (0..count).map(Some).collect() }
}

/// Whether a filter keeps a span: for some pair of an event and a link.
pub(super) fn keeps(filter: &FieldExpr, trace: &Trace, index: usize) -> bool {
    let span = &trace.spans[index];
    choices(span.events.len()).into_iter().any(|event| {
        choices(span.links.len())
            .into_iter()
            .any(|link| Subject { trace, index, look: Look::At(event, link) }.holds(filter))
    })
}

impl Subject<'_> {
    /// Whether an expression is true.
    pub(super) fn holds(&self, expr: &FieldExpr) -> bool {
        match &expr.kind {
            FieldKind::Literal(literal) => *literal == Literal::Bool(true),
            FieldKind::Field(name) => self.field(name) == Val::Bool(true),
            FieldKind::Unary { op: UnaryOp::Not, operand } => match &operand.kind {
                FieldKind::Field(name) => self.field(name) == Val::Bool(false),
                FieldKind::Unary { op: UnaryOp::Not, operand } => self.holds(operand),
                _ => !self.holds(operand),
            },
            FieldKind::Binary { op: FieldOp::Logical(LogicalOp::And), lhs, rhs } => self.holds(lhs) && self.holds(rhs),
            FieldKind::Binary { op: FieldOp::Logical(LogicalOp::Or), lhs, rhs } => self.holds(lhs) || self.holds(rhs),
            FieldKind::Binary { op: FieldOp::Comparison(op), lhs, rhs } => self.compares(*op, lhs, rhs),
            FieldKind::Binary { op: FieldOp::Regex(op), lhs, rhs } => {
                let FieldKind::Literal(Literal::String(pattern)) = &rhs.kind else { return false };
                let pattern = regex::Regex::new(&format!("^(?s:{pattern})$")).unwrap();
                self.value(lhs).matches(&pattern, *op == RegexOp::NotMatch)
            }
            FieldKind::Unary { op: UnaryOp::Negate, .. } | FieldKind::Binary { op: FieldOp::Arithmetic(_), .. } => {
                false
            }
        }
    }

    /// The value of an expression.
    pub(super) fn value(&self, expr: &FieldExpr) -> Val {
        match &expr.kind {
            FieldKind::Literal(literal) => Val::of_literal(literal),
            FieldKind::Field(name) => self.field(name),
            FieldKind::Unary { op: UnaryOp::Negate, operand } => self.value(operand).negated(),
            FieldKind::Binary { op: FieldOp::Arithmetic(op), lhs, rhs } => {
                let durations = lhs.type_of() == Type::Duration && rhs.type_of() == Type::Duration;
                let is_ratio = *op == ArithmeticOp::Div && durations;
                let value = self.value(lhs).arithmetic(*op, &self.value(rhs), is_ratio);
                // Constants are folded, and durations among them are whole nanoseconds.
                match value {
                    Val::Float(float) if is_constant(expr) && expr.type_of() == Type::Duration => {
                        Val::Int(float.round() as i64)
                    }
                    value => value,
                }
            }
            FieldKind::Unary { op: UnaryOp::Not, .. } | FieldKind::Binary { .. } => Val::Bool(self.holds(expr)),
        }
    }

    fn compares(&self, op: ComparisonOp, lhs: &FieldExpr, rhs: &FieldExpr) -> bool {
        let is_nil = |expr: &FieldExpr| matches!(expr.kind, FieldKind::Literal(Literal::Nil));
        match (is_nil(lhs), is_nil(rhs)) {
            (true, true) => false,
            (true, false) => self.compares_with_nil(op, rhs),
            (false, true) => self.compares_with_nil(op, lhs),
            (false, false) => {
                let (left, right) = (lowered(lhs, rhs, self.value(lhs)), lowered(rhs, lhs, self.value(rhs)));
                left.compare(op, &right)
            }
        }
    }

    fn compares_with_nil(&self, op: ComparisonOp, expr: &FieldExpr) -> bool {
        let missing = self.value(expr) == Val::Missing;
        if op == ComparisonOp::Ne {
            return !missing;
        }
        let scope = match &expr.kind {
            FieldKind::Field(FieldName::Attribute(attribute)) if !attribute.of_parent => Some(attribute.scope),
            _ => None,
        };
        let looked_at = match (scope, self.look) {
            (Some(Scope::Event), Look::At(event, _)) => event.is_some(),
            (Some(Scope::Link), Look::At(_, link)) => link.is_some(),
            (Some(Scope::Event), Look::First) => !self.trace.spans[self.index].events.is_empty(),
            (Some(Scope::Link), Look::First) => !self.trace.spans[self.index].links.is_empty(),
            _ => true,
        };
        missing && looked_at
    }

    // ---- fields -----------------------------------------------------------------------------------------------------

    pub(super) fn field(&self, name: &FieldName) -> Val {
        match name {
            FieldName::Intrinsic(intrinsic) => self.intrinsic(*intrinsic),
            FieldName::Attribute(attribute) if attribute.of_parent => match self.trace.parents[self.index] {
                Parent::Span(parent) => Subject { index: parent, ..*self }.attribute_without_items(attribute),
                Parent::Root | Parent::Orphan(_) => Val::Missing,
            },
            FieldName::Attribute(attribute) => self.attribute(attribute),
        }
    }

    fn attribute_without_items(&self, name: &Attribute) -> Val {
        let span = &self.trace.spans[self.index];
        let scopes: Vec<&Attributes> = match name.scope {
            Scope::Span => vec![&span.own],
            Scope::Resource => vec![&span.resource],
            Scope::Instrumentation => vec![&span.scope],
            _ => vec![&span.own, &span.resource, &span.scope],
        };
        scopes.into_iter().find_map(|attributes| attributes.get(&name.key)).map_or(Val::Missing, Val::of_attribute)
    }

    fn attribute(&self, name: &Attribute) -> Val {
        let span = &self.trace.spans[self.index];
        let key = &name.key;
        let of = |attributes: &Attributes| attributes.get(key).map(Val::of_attribute);
        let events: Vec<Option<Val>> = span.events.iter().map(|event| of(&event.attributes)).collect();
        let links: Vec<Option<Val>> = span.links.iter().map(|link| of(&link.attributes)).collect();
        let (in_event, in_link) = match self.look {
            Look::At(event, link) => {
                (event.and_then(|event| events[event].clone()), link.and_then(|link| links[link].clone()))
            }
            Look::First => (first_of(&events), first_of(&links)),
        };
        let elsewhere = || Val::Opaque("in another one".to_owned());
        match name.scope {
            Scope::Span => of(&span.own).unwrap_or(Val::Missing),
            Scope::Resource => of(&span.resource).unwrap_or(Val::Missing),
            Scope::Instrumentation => of(&span.scope).unwrap_or(Val::Missing),
            Scope::Event => in_event.unwrap_or(Val::Missing),
            Scope::Link => in_link.unwrap_or(Val::Missing),
            Scope::Any => {
                if let Some(value) = of(&span.own).or_else(|| of(&span.resource)) {
                    value
                } else if events.iter().any(Option::is_some) {
                    in_event.unwrap_or_else(elsewhere)
                } else if links.iter().any(Option::is_some) {
                    in_link.unwrap_or_else(elsewhere)
                } else {
                    of(&span.scope).unwrap_or(Val::Missing)
                }
            }
        }
    }

    fn intrinsic(&self, intrinsic: Intrinsic) -> Val {
        let span = &self.trace.spans[self.index];
        let text = |text: &str| Val::Str(text.to_owned());
        let (event, link) = match self.look {
            Look::At(event, link) => (event, link),
            Look::First => (span.events.first().map(|_| 0), span.links.first().map(|_| 0)),
        };
        let event = event.map(|event| &span.events[event]);
        let link = link.map(|link| &span.links[link]);
        let [left, right, parent] = self.trace.nested[self.index];
        match intrinsic {
            Intrinsic::Duration => Val::Int(span.duration),
            Intrinsic::Name => text(&span.name),
            Intrinsic::Status => Val::Status(Status::ALL[span.status]),
            Intrinsic::StatusMessage => text(&span.message),
            Intrinsic::Kind => Val::Kind(Kind::ALL[span.kind]),
            Intrinsic::SpanId => Val::Str(format!("{:016x}", span.id)),
            Intrinsic::SpanParentId => Val::Str(span.parent.map_or(String::new(), |id| format!("{id:016x}"))),
            Intrinsic::SpanChildCount => Val::Int(self.trace.children(self.index).len() as i64),
            Intrinsic::RootName => self.trace.root_name(),
            Intrinsic::RootServiceName => self.trace.root_service(),
            Intrinsic::TraceDuration => Val::Int(self.trace.duration()),
            Intrinsic::TraceId => Val::Str(format!("{:x}", self.trace.id)),
            Intrinsic::NestedSetLeft => Val::Int(left),
            Intrinsic::NestedSetRight => Val::Int(right),
            Intrinsic::NestedSetParent => Val::Int(parent),
            Intrinsic::EventName => event.map_or(Val::Missing, |event| text(&event.name)),
            Intrinsic::EventTimeSinceStart => event.map_or(Val::Missing, |event| Val::Int(event.at - span.start)),
            Intrinsic::LinkTraceId => link.map_or(Val::Missing, |link| Val::Str(format!("{:032x}", link.trace))),
            Intrinsic::LinkSpanId => link.map_or(Val::Missing, |link| Val::Str(format!("{:016x}", link.span))),
            Intrinsic::InstrumentationName => text(&span.scope_name),
            Intrinsic::InstrumentationVersion => text(&span.scope_version),
            Intrinsic::Parent => panic!("parent has no meaning"),
        }
    }
}

/// The first that has a value; an empty one only if none has another.
fn first_of(values: &[Option<Val>]) -> Option<Val> {
    let there = || values.iter().flatten();
    let is_empty = |value: &&Val| matches!(value, Val::Opaque(json) if json == "null");
    there().find(|value| !is_empty(value)).or_else(|| there().next()).cloned()
}

/// A text constant that is compared with an id, as ids are written.
fn lowered(expr: &FieldExpr, other: &FieldExpr, value: Val) -> Val {
    use Intrinsic::{LinkSpanId, LinkTraceId, SpanId, SpanParentId, TraceId};
    let (FieldKind::Literal(Literal::String(text)), FieldKind::Field(FieldName::Intrinsic(intrinsic))) =
        (&expr.kind, &other.kind)
    else {
        return value;
    };
    match intrinsic {
        TraceId => Val::Str(text.trim_start_matches('0').to_lowercase()),
        LinkTraceId if !text.is_empty() => Val::Str(format!("{:0>32}", text.to_lowercase())),
        SpanId | SpanParentId | LinkTraceId | LinkSpanId => Val::Str(text.to_lowercase()),
        _ => value,
    }
}

pub(super) fn is_constant(expr: &FieldExpr) -> bool {
    match &expr.kind {
        FieldKind::Literal(_) => true,
        FieldKind::Field(_) => false,
        FieldKind::Unary { operand, .. } => is_constant(operand),
        FieldKind::Binary { lhs, rhs, .. } => is_constant(lhs) && is_constant(rhs),
    }
}
