//! The filter of a search as a condition on one span.
//!
//! Rules that hold for whoever evaluates it:
//!
//! - A comparison is true or false, never unknown: false if a side is missing or the types do not meet, for `!=` and
//!   `!~` as well. `!` then turns it: `!(.a > 5)` holds where `.a` is missing.
//! - `!.a` on an attribute means `.a = false`; where `.a` is missing or no boolean Tempo stops the query with an error.
//! - Numbers compare by value, durations as nanoseconds. Integer division by zero gives nothing, where Tempo stops the
//!   query. `2 ^ 3` is 8.
//! - Array values: `!=` and `!~` hold if they hold for all elements, others if for any; nothing holds for an empty one.
//! - `.a` means the first of span, resource, events, links and instrumentation scope that has the key.
//! - Fields of events all speak of the same event: the condition holds for a span if it does with some event of it, or
//!   without any if it has none. The same goes for links. (Tempo mixes events as soon as there is an `||`.)

use std::sync::Arc;

use super::value::Dynamic;
use crate::traceql::{
    ast::{
        ArithmeticOp, ComparisonOp, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, LogicalOp, RegexOp, Scope,
        UnaryOp,
    },
    error::TraceQlError,
    literal::{self, Literal},
    types::{Type, compile_regex},
};

/// A condition on one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The same for every span.
    Constant(bool),
    /// All hold; at least two.
    And(Vec<Condition>),
    /// Some hold; at least two.
    Or(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The field is the boolean true.
    IsTrue(FieldName),
    /// There is a value.
    Exists(Value),
    /// The span has no parent: `nestedSetParent < 0`.
    IsRoot,
    /// A comparison; a constant stands on the right.
    Compare {
        /// The operator.
        op: ComparisonOp,
        /// Left side.
        lhs: Value,
        /// Right side.
        rhs: Value,
    },
    /// A match of a regular expression against text.
    Matches {
        /// The text.
        value: Value,
        /// The expression.
        pattern: Pattern,
        /// `!~`
        negated: bool,
    },
}

/// A value of one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The same for every span.
    Literal(Literal),
    /// A field of the span.
    Field(FieldName),
    /// The negative of a number.
    Negate(Box<Value>),
    /// Arithmetic on numbers.
    Arithmetic {
        /// The operation.
        op: ArithmeticOp,
        /// Left side.
        lhs: Box<Value>,
        /// Right side.
        rhs: Box<Value>,
    },
    /// Whether a condition holds, as a boolean.
    Condition(Box<Condition>),
}

/// A compiled regular expression, anchored at both ends.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Arc<regex::Regex>,
}

impl Pattern {
    /// The expression as the user wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expression with its anchors, in the syntax of the `regex` crate.
    pub fn anchored(&self) -> &str {
        self.regex.as_str()
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Condition {
    /// The condition that the filter `{ expr }` expresses. The error has no excerpt yet.
    pub fn build(expr: &FieldExpr) -> Result<Self, TraceQlError> {
        match &expr.kind {
            FieldKind::Literal(literal) => Ok(Condition::Constant(*literal == Literal::Bool(true))),
            FieldKind::Field(name) => Ok(Condition::IsTrue(name.clone())),
            FieldKind::Unary { op: UnaryOp::Not, operand } => Self::build_not(operand),
            FieldKind::Binary { op: FieldOp::Logical(op), lhs, rhs } => {
                Ok(Self::join(*op, Self::build(lhs)?, Self::build(rhs)?))
            }
            FieldKind::Binary { op: FieldOp::Comparison(op), lhs, rhs } => match root_test(*op, lhs, rhs) {
                Some(root) => Ok(root),
                None => Ok(Self::compare(*op, Value::build(lhs)?, Value::build(rhs)?)),
            },
            FieldKind::Binary { op: FieldOp::Regex(op), lhs, rhs } => Self::build_match(*op, lhs, rhs),
            // Numbers are no conditions; the check has refused them.
            FieldKind::Unary { op: UnaryOp::Negate, .. } | FieldKind::Binary { op: FieldOp::Arithmetic(_), .. } => {
                Ok(Condition::Constant(false))
            }
        }
    }

    fn build_not(operand: &FieldExpr) -> Result<Self, TraceQlError> {
        match &operand.kind {
            FieldKind::Unary { op: UnaryOp::Not, operand } => Self::build(operand),
            // Of a field alone, and not of what is left of one: `!(.a && true)` holds where `.a` is missing.
            FieldKind::Field(name) => {
                let (lhs, rhs) = (Value::Field(name.clone()), Value::Literal(Literal::Bool(false)));
                Ok(Condition::Compare { op: ComparisonOp::Eq, lhs, rhs })
            }
            _ => Ok(match Self::build(operand)? {
                Condition::Constant(value) => Condition::Constant(!value),
                other => Condition::Not(Box::new(other)),
            }),
        }
    }

    fn build_match(op: RegexOp, lhs: &FieldExpr, rhs: &FieldExpr) -> Result<Self, TraceQlError> {
        let FieldKind::Literal(Literal::String(text)) = &rhs.kind else {
            return Ok(Condition::Constant(false));
        };
        let regex = compile_regex(text)
            .map_err(|problem| TraceQlError::invalid(format!("invalid regex: {text}: {problem}"), rhs.at))?;
        let pattern = Pattern { text: text.clone(), regex: Arc::new(regex) };
        let negated = op == RegexOp::NotMatch;
        Ok(match Value::build(lhs)? {
            Value::Literal(literal) => Condition::Constant(Dynamic::from_literal(&literal).matches(&pattern, negated)),
            value => Condition::Matches { value, pattern, negated },
        })
    }

    fn join(op: LogicalOp, lhs: Self, rhs: Self) -> Self {
        // The constant that decides the outcome alone; the other one does nothing.
        let deciding = op == LogicalOp::Or;
        let mut parts = Vec::new();
        for side in [lhs, rhs] {
            match side {
                Condition::Constant(value) if value == deciding => return Condition::Constant(deciding),
                Condition::Constant(_) => {}
                Condition::And(inner) if op == LogicalOp::And => parts.extend(inner),
                Condition::Or(inner) if op == LogicalOp::Or => parts.extend(inner),
                other => parts.push(other),
            }
        }
        match (parts.len(), op) {
            (0, _) => Condition::Constant(!deciding),
            (1, _) => parts.swap_remove(0),
            (_, LogicalOp::And) => Condition::And(parts),
            (_, LogicalOp::Or) => Condition::Or(parts),
        }
    }

    fn compare(op: ComparisonOp, lhs: Value, rhs: Value) -> Self {
        match (lhs, rhs) {
            (Value::Literal(Literal::Nil), Value::Literal(Literal::Nil)) => Condition::Constant(false),
            (Value::Literal(Literal::Nil), value) | (value, Value::Literal(Literal::Nil)) => match op {
                ComparisonOp::Ne => Condition::Exists(value),
                _ => Self::absent(value),
            },
            (Value::Literal(lhs), Value::Literal(rhs)) => {
                Condition::Constant(Dynamic::from_literal(&lhs).compare(op, &Dynamic::from_literal(&rhs)))
            }
            (Value::Literal(literal), value) => Self::compare(op.flipped(), value, Value::Literal(literal)),
            (Value::Field(name), Value::Literal(Literal::String(text))) => {
                let rhs = Value::Literal(Literal::String(normal_id(&name, text)));
                Condition::Compare { op, lhs: Value::Field(name), rhs }
            }
            (lhs, rhs) => Condition::Compare { op, lhs, rhs },
        }
    }

    /// There is no value, though there is an event or a link that could have it.
    fn absent(value: Value) -> Self {
        let item = match &value {
            Value::Field(name) if name.is_of_event() => Some(Intrinsic::EventName),
            Value::Field(name) if name.is_of_link() => Some(Intrinsic::LinkSpanId),
            _ => None,
        };
        let absent = Condition::Not(Box::new(Condition::Exists(value)));
        match item {
            Some(item) => Condition::And(vec![Condition::Exists(Value::Field(FieldName::Intrinsic(item))), absent]),
            None => absent,
        }
    }

    /// Whether it holds; `field` gives the values of the span, and of the event and link that are looked at.
    pub fn holds<'a>(&'a self, field: &dyn Fn(&FieldName) -> Dynamic<'a>, is_root: bool) -> bool {
        match self {
            Condition::Constant(value) => *value,
            Condition::And(parts) => parts.iter().all(|part| part.holds(field, is_root)),
            Condition::Or(parts) => parts.iter().any(|part| part.holds(field, is_root)),
            Condition::Not(inner) => !inner.holds(field, is_root),
            Condition::IsTrue(name) => field(name) == Dynamic::Bool(true),
            Condition::Exists(value) => value.of(field, is_root) != Dynamic::Missing,
            Condition::IsRoot => is_root,
            Condition::Compare { op, lhs, rhs } => lhs.of(field, is_root).compare(*op, &rhs.of(field, is_root)),
            Condition::Matches { value, pattern, negated } => value.of(field, is_root).matches(pattern, *negated),
        }
    }

    /// Whether only the whole trace can tell it.
    pub fn reads_trace(&self) -> bool {
        let mut reads = false;
        self.for_each_field(&mut |name| reads |= name.is_of_trace());
        reads
    }

    /// Calls `visit` with every field of which it matters what its value is, and not only whether there is one.
    pub fn for_each_value(&self, visit: &mut dyn FnMut(&FieldName)) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| part.for_each_value(visit)),
            Condition::Not(inner) => inner.for_each_value(visit),
            Condition::Exists(Value::Field(_)) => {}
            other => other.for_each_field(visit),
        }
    }

    /// Calls `visit` with every field that the condition reads.
    pub fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        match self {
            Condition::Constant(_) | Condition::IsRoot => {}
            Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|part| part.for_each_field(visit)),
            Condition::Not(inner) => inner.for_each_field(visit),
            Condition::IsTrue(name) => visit(name),
            Condition::Exists(value) | Condition::Matches { value, .. } => value.for_each_field(visit),
            Condition::Compare { lhs, rhs, .. } => {
                lhs.for_each_field(visit);
                rhs.for_each_field(visit);
            }
        }
    }
}

impl Value {
    /// The value of an expression.
    pub(super) fn build(expr: &FieldExpr) -> Result<Self, TraceQlError> {
        Ok(match &expr.kind {
            FieldKind::Literal(literal) => Value::Literal(literal.clone()),
            FieldKind::Field(name) => Value::Field(name.clone()),
            FieldKind::Unary { op: UnaryOp::Negate, operand } => match Value::build(operand)? {
                Value::Literal(literal) => {
                    Value::Literal(literal.negated().unwrap_or(Literal::Float(-(i64::MIN as f64))))
                }
                value => Value::Negate(Box::new(value)),
            },
            FieldKind::Binary { op: FieldOp::Arithmetic(op), lhs, rhs } => {
                match (Value::build(lhs)?, Value::build(rhs)?) {
                    (Value::Literal(lhs), Value::Literal(rhs)) => match literal::arithmetic(*op, &lhs, &rhs) {
                        Ok(value) => Value::Literal(value.unwrap_or(Literal::Nil)),
                        Err(problem) => return Err(TraceQlError::invalid(format!("{problem}: {expr}"), expr.at)),
                    },
                    (left, right) => {
                        let ratio = *op == ArithmeticOp::Div
                            && lhs.type_of() == Type::Duration
                            && rhs.type_of() == Type::Duration;
                        let right = if ratio { right.in_floats() } else { right };
                        Value::Arithmetic { op: *op, lhs: Box::new(left), rhs: Box::new(right) }
                    }
                }
            }
            FieldKind::Unary { op: UnaryOp::Not, .. } | FieldKind::Binary { .. } => match Condition::build(expr)? {
                Condition::Constant(value) => Value::Literal(Literal::Bool(value)),
                condition => Value::Condition(Box::new(condition)),
            },
        })
    }

    /// The same number as a float, so that dividing by it does not truncate.
    fn in_floats(self) -> Self {
        match self {
            Value::Literal(literal) => Value::Literal(literal.as_f64().map_or(literal, Literal::Float)),
            value => {
                let one = Value::Literal(Literal::Float(1.0));
                Value::Arithmetic { op: ArithmeticOp::Mul, lhs: Box::new(value), rhs: Box::new(one) }
            }
        }
    }

    /// The value; `field` gives those of the span's fields.
    pub fn of<'a>(&'a self, field: &dyn Fn(&FieldName) -> Dynamic<'a>, is_root: bool) -> Dynamic<'a> {
        match self {
            Value::Literal(literal) => Dynamic::from_literal(literal),
            Value::Field(name) => field(name),
            Value::Negate(inner) => inner.of(field, is_root).negated(),
            Value::Arithmetic { op, lhs, rhs } => lhs.of(field, is_root).arithmetic(*op, &rhs.of(field, is_root)),
            Value::Condition(inner) => Dynamic::Bool(inner.holds(field, is_root)),
        }
    }

    /// Whether only the whole trace can tell it.
    pub fn reads_trace(&self) -> bool {
        let mut reads = false;
        self.for_each_field(&mut |name| reads |= name.is_of_trace());
        reads
    }

    /// Calls `visit` with every field that the value is computed from.
    pub fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        match self {
            Value::Literal(_) => {}
            Value::Field(name) => visit(name),
            Value::Negate(inner) => inner.for_each_field(visit),
            Value::Arithmetic { lhs, rhs, .. } => {
                lhs.for_each_field(visit);
                rhs.for_each_field(visit);
            }
            Value::Condition(inner) => inner.for_each_field(visit),
        }
    }
}

impl FieldExpr {
    /// Whether it names what only the whole trace tells. A test for having no parent does not.
    pub fn reads_trace(&self) -> bool {
        match &self.kind {
            FieldKind::Literal(_) => false,
            FieldKind::Field(name) => name.is_of_trace(),
            FieldKind::Unary { operand, .. } => operand.reads_trace(),
            FieldKind::Binary { op: FieldOp::Comparison(op), lhs, rhs } if root_test(*op, lhs, rhs).is_some() => false,
            FieldKind::Binary { lhs, rhs, .. } => lhs.reads_trace() || rhs.reads_trace(),
        }
    }

    /// Calls `visit` with every field of the expression, from left to right.
    pub fn for_each_field<'a>(&'a self, visit: &mut dyn FnMut(&'a FieldName)) {
        match &self.kind {
            FieldKind::Literal(_) => {}
            FieldKind::Field(name) => visit(name),
            FieldKind::Unary { operand, .. } => operand.for_each_field(visit),
            FieldKind::Binary { lhs, rhs, .. } => {
                lhs.for_each_field(visit);
                rhs.for_each_field(visit);
            }
        }
    }
}

impl FieldName {
    /// Whether its value depends on which event of the span is looked at.
    pub fn is_of_event(&self) -> bool {
        match self {
            FieldName::Intrinsic(intrinsic) => {
                matches!(intrinsic, Intrinsic::EventName | Intrinsic::EventTimeSinceStart)
            }
            FieldName::Attribute(attribute) => attribute.scope == Scope::Event,
        }
    }

    /// Whether its value depends on which link of the span is looked at.
    pub fn is_of_link(&self) -> bool {
        match self {
            FieldName::Intrinsic(intrinsic) => matches!(intrinsic, Intrinsic::LinkTraceId | Intrinsic::LinkSpanId),
            FieldName::Attribute(attribute) => attribute.scope == Scope::Link,
        }
    }

    /// Whether only the whole trace can tell it.
    pub fn is_of_trace(&self) -> bool {
        use Intrinsic::*;
        match self {
            FieldName::Intrinsic(intrinsic) => matches!(
                intrinsic,
                SpanChildCount
                    | RootName
                    | RootServiceName
                    | TraceDuration
                    | NestedSetLeft
                    | NestedSetRight
                    | NestedSetParent
            ),
            FieldName::Attribute(attribute) => attribute.of_parent,
        }
    }

    /// Whether its values are durations.
    pub fn is_duration(&self) -> bool {
        matches!(self, FieldName::Intrinsic(intrinsic) if intrinsic.type_of() == Type::Duration)
    }

    /// Whether it is an attribute of the span itself without a scope, which is looked up in one after the other.
    pub fn is_unscoped(&self) -> bool {
        matches!(self, FieldName::Attribute(attribute) if attribute.scope == Scope::Any && !attribute.of_parent)
    }
}

/// An id as values of the field have it: lower-case hex, trace ids without leading zeros, those of links with all of them.
fn normal_id(name: &FieldName, text: String) -> String {
    use Intrinsic::{LinkSpanId, LinkTraceId, SpanId, SpanParentId, TraceId};
    match name {
        FieldName::Intrinsic(TraceId) => text.trim_start_matches('0').to_lowercase(),
        FieldName::Intrinsic(LinkTraceId) if !text.is_empty() => format!("{:0>32}", text.to_lowercase()),
        FieldName::Intrinsic(SpanId | SpanParentId | LinkTraceId | LinkSpanId) => text.to_lowercase(),
        _ => text,
    }
}

/// `nestedSetParent` compared with a number, as a test for having no parent: it is -1 for a root and not negative for
/// other spans. None for anything else.
fn root_test(op: ComparisonOp, lhs: &FieldExpr, rhs: &FieldExpr) -> Option<Condition> {
    use ComparisonOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let is_parent =
        |expr: &FieldExpr| matches!(&expr.kind, FieldKind::Field(FieldName::Intrinsic(Intrinsic::NestedSetParent)));
    let (op, other) = match (is_parent(lhs), is_parent(rhs)) {
        (true, false) => (op, rhs),
        (false, true) => (op.flipped(), lhs),
        _ => return None,
    };
    let FieldKind::Literal(Literal::Int(number)) = &other.kind else { return None };
    match (op, *number) {
        (Lt, 0) | (Le | Eq, -1) => Some(Condition::IsRoot),
        (Ge, 0) | (Gt | Ne, -1) => Some(Condition::Not(Box::new(Condition::IsRoot))),
        _ => None,
    }
}

impl ComparisonOp {
    /// The operator with which the sides can be exchanged.
    pub fn flipped(self) -> Self {
        match self {
            ComparisonOp::Lt => ComparisonOp::Gt,
            ComparisonOp::Le => ComparisonOp::Ge,
            ComparisonOp::Gt => ComparisonOp::Lt,
            ComparisonOp::Ge => ComparisonOp::Le,
            ComparisonOp::Eq | ComparisonOp::Ne => self,
        }
    }

    /// Whether it holds for sides in this order.
    pub fn accepts(self, order: std::cmp::Ordering) -> bool {
        match self {
            ComparisonOp::Eq => order.is_eq(),
            ComparisonOp::Ne => order.is_ne(),
            ComparisonOp::Lt => order.is_lt(),
            ComparisonOp::Le => order.is_le(),
            ComparisonOp::Gt => order.is_gt(),
            ComparisonOp::Ge => order.is_ge(),
        }
    }
}

impl std::fmt::Display for Condition {
    /// For plans: fully parenthesised.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, parts: &[Condition], sign: &str| {
            for (index, part) in parts.iter().enumerate() {
                let separator = if index > 0 { sign } else { "" };
                write!(f, "{separator}{part}")?;
            }
            Ok(())
        };
        match self {
            Condition::Constant(value) => write!(f, "{value}"),
            Condition::And(parts) => {
                f.write_str("(")?;
                list(f, parts, " && ")?;
                f.write_str(")")
            }
            Condition::Or(parts) => {
                f.write_str("(")?;
                list(f, parts, " || ")?;
                f.write_str(")")
            }
            Condition::Not(inner) => write!(f, "!({inner})"),
            Condition::IsTrue(name) => write!(f, "{name}"),
            Condition::Exists(value) => write!(f, "{value} != nil"),
            Condition::IsRoot => f.write_str("nestedSetParent < 0"),
            Condition::Compare { op, lhs, rhs } => write!(f, "{lhs} {} {rhs}", op.sign()),
            Condition::Matches { value, pattern, negated } => {
                let op = if *negated { RegexOp::NotMatch } else { RegexOp::Match };
                write!(f, "{value} {} {}", op.sign(), Literal::String(pattern.text.clone()))
            }
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Literal(literal) => write!(f, "{literal}"),
            Value::Field(name) => write!(f, "{name}"),
            Value::Negate(inner) => write!(f, "-({inner})"),
            Value::Arithmetic { op, lhs, rhs } => write!(f, "({lhs} {} {rhs})", op.sign()),
            Value::Condition(inner) => write!(f, "({inner})"),
        }
    }
}
