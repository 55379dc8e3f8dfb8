//! Values whose type only the span tells, and what TraceQL's operators make of them.

use std::{borrow::Cow, cmp::Ordering};

use super::condition::Pattern;
use crate::traceql::{
    ast::{ArithmeticOp, ComparisonOp},
    literal::{Kind, Literal, Status, integer_arithmetic},
};

/// A value of a field of one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Dynamic<'a> {
    /// There is none.
    Missing,
    /// There is one that no operator takes: empty, bytes, a map.
    Opaque,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    String(Cow<'a, str>),
    /// A status.
    Status(Status),
    /// A span kind.
    Kind(Kind),
    /// An array.
    Array(Vec<Dynamic<'a>>),
}

impl<'a> Dynamic<'a> {
    /// The value of a constant.
    pub fn from_literal(literal: &'a Literal) -> Self {
        match literal {
            Literal::Nil => Dynamic::Missing,
            Literal::Bool(value) => Dynamic::Bool(*value),
            Literal::Int(value) | Literal::Duration(value) => Dynamic::Int(*value),
            Literal::Float(value) => Dynamic::Float(*value),
            Literal::String(text) => Dynamic::text(text),
            Literal::Status(status) => Dynamic::Status(*status),
            Literal::Kind(kind) => Dynamic::Kind(*kind),
        }
    }

    /// Text.
    pub fn text(text: &'a str) -> Self {
        Dynamic::String(Cow::Borrowed(text))
    }

    /// Whether a comparison holds.
    pub fn compare(&self, op: ComparisonOp, other: &Dynamic<'_>) -> bool {
        match (self, other) {
            (Dynamic::Array(_), Dynamic::Array(_)) => false,
            (Dynamic::Array(elements), other) => {
                holds_in(elements, op == ComparisonOp::Ne, |element| element.compare(op, other))
            }
            (_, Dynamic::Array(_)) => other.compare(op.flipped(), self),
            (Dynamic::Float(a), Dynamic::Float(b)) => accepts(op, a.partial_cmp(b)),
            (Dynamic::Float(a), Dynamic::Int(b)) => accepts(op.flipped(), order_of_int_and_float(*b, *a)),
            (Dynamic::Int(a), Dynamic::Float(b)) => accepts(op, order_of_int_and_float(*a, *b)),
            (Dynamic::Int(a), Dynamic::Int(b)) => op.accepts(a.cmp(b)),
            (Dynamic::String(a), Dynamic::String(b)) => op.accepts(a.as_bytes().cmp(b.as_bytes())),
            (Dynamic::Bool(a), Dynamic::Bool(b)) => accepts_equality(op, a == b),
            (Dynamic::Status(a), Dynamic::Status(b)) => accepts_equality(op, a == b),
            (Dynamic::Kind(a), Dynamic::Kind(b)) => accepts_equality(op, a == b),
            _ => false,
        }
    }

    /// Whether `=~`, or `!~` if `negated`, holds.
    pub fn matches(&self, pattern: &Pattern, negated: bool) -> bool {
        match self {
            Dynamic::String(text) => pattern.is_match(text) != negated,
            Dynamic::Array(elements) => holds_in(elements, negated, |element| element.matches(pattern, negated)),
            _ => false,
        }
    }

    /// The value of `self op other`; missing if a side is no number, or for an integer divided by zero.
    pub(super) fn arithmetic(&self, op: ArithmeticOp, other: &Dynamic<'_>) -> Self {
        if let (Dynamic::Int(a), Dynamic::Int(b)) = (self, other) {
            match integer_arithmetic(op, *a, *b) {
                Ok(Some(value)) => return Dynamic::Int(value),
                Ok(None) => {}
                Err(_) => return Dynamic::Missing,
            }
        }
        let (Some(a), Some(b)) = (self.as_f64(), other.as_f64()) else { return Dynamic::Missing };
        Dynamic::Float(match op {
            ArithmeticOp::Add => a + b,
            ArithmeticOp::Sub => a - b,
            ArithmeticOp::Mul => a * b,
            ArithmeticOp::Div => a / b,
            ArithmeticOp::Mod => a % b,
            ArithmeticOp::Pow => a.powf(b),
        })
    }

    pub(super) fn negated(&self) -> Self {
        match self {
            Dynamic::Int(value) => value.checked_neg().map_or(Dynamic::Float(-(*value as f64)), Dynamic::Int),
            Dynamic::Float(value) => Dynamic::Float(-value),
            _ => Dynamic::Missing,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Dynamic::Int(value) => Some(*value as f64),
            Dynamic::Float(value) => Some(*value),
            _ => None,
        }
    }
}

fn holds_in(elements: &[Dynamic<'_>], for_all: bool, holds: impl Fn(&Dynamic<'_>) -> bool) -> bool {
    if for_all { !elements.is_empty() && elements.iter().all(holds) } else { elements.iter().any(holds) }
}

fn accepts_equality(op: ComparisonOp, equal: bool) -> bool {
    match op {
        ComparisonOp::Eq => equal,
        ComparisonOp::Ne => !equal,
        _ => false,
    }
}

/// As IEEE 754 has it: what is not a number differs from everything and has no order.
fn accepts(op: ComparisonOp, order: Option<Ordering>) -> bool {
    match order {
        Some(order) => op.accepts(order),
        None => op == ComparisonOp::Ne,
    }
}

/// The order by exact value; a conversion of large integers to floats would round.
fn order_of_int_and_float(int: i64, float: f64) -> Option<Ordering> {
    /// Two to the power of 63, the first float above all integers.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= BEYOND {
        return Some(Ordering::Less);
    }
    if float < -BEYOND {
        return Some(Ordering::Greater);
    }
    let whole = float.floor();
    let order = int.cmp(&(whole as i64));
    Some(if order.is_eq() && float > whole { Ordering::Less } else { order })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ComparisonOp::*;

    #[test]
    fn values_of_types_that_do_not_meet_compare_as_false_with_every_operator() {
        let values = [
            Dynamic::Missing,
            Dynamic::Opaque,
            Dynamic::Bool(true),
            Dynamic::Int(1),
            Dynamic::text("1"),
            Dynamic::Status(Status::Ok),
            Dynamic::Kind(Kind::Server),
            Dynamic::Array(vec![]),
        ];
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate().filter(|(j, _)| *j != i) {
                assert!(ComparisonOp::ALL.iter().all(|op| !a.compare(*op, b)), "{i} {j}");
            }
        }
        assert!(!Dynamic::Missing.compare(Eq, &Dynamic::Missing));
        assert!(!Dynamic::Missing.compare(Ne, &Dynamic::Missing));
    }

    #[test]
    fn arrays_hold_for_any_element_and_negations_for_all() {
        let array = Dynamic::Array(vec![Dynamic::text("a"), Dynamic::text("b")]);
        assert!(array.compare(Eq, &Dynamic::text("a")));
        assert!(!array.compare(Ne, &Dynamic::text("a")));
        assert!(array.compare(Ne, &Dynamic::text("c")));
        assert!(array.compare(Gt, &Dynamic::text("a")));
        assert!(Dynamic::text("a").compare(Lt, &array));
        let mixed = Dynamic::Array(vec![Dynamic::Int(1), Dynamic::text("b")]);
        assert!(!mixed.compare(Ne, &Dynamic::text("c")));
    }

    #[test]
    fn what_is_not_a_number_only_differs() {
        let nan = Dynamic::Float(f64::NAN);
        let holding: Vec<_> = ComparisonOp::ALL.iter().filter(|op| nan.compare(**op, &Dynamic::Int(1))).collect();
        assert_eq!(holding, [&Ne]);
        assert!(Dynamic::Float(-0.0).compare(Eq, &Dynamic::Int(0)));
    }

    #[test]
    fn whole_numbers_and_floats_compare_by_exact_value() {
        let large = (1_i64 << 53) + 1;
        assert!(Dynamic::Int(large).compare(Gt, &Dynamic::Float((1_i64 << 53) as f64)));
        assert!(Dynamic::Int(-2).compare(Lt, &Dynamic::Float(-1.5)));
        assert!(Dynamic::Int(-1).compare(Gt, &Dynamic::Float(-1.5)));
        assert!(Dynamic::Float(1e300).compare(Gt, &Dynamic::Int(i64::MAX)));
        assert!(Dynamic::Float(-1e300).compare(Lt, &Dynamic::Int(i64::MIN)));
        assert!(Dynamic::Float(i64::MIN as f64).compare(Eq, &Dynamic::Int(i64::MIN)));
    }
}
