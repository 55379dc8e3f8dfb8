//! Values and operators: section 4.

use std::cmp::Ordering;

use tracehouse::traceql::{
    ast::{ArithmeticOp, ComparisonOp},
    literal::{Kind, Literal, Status, format_duration},
};

use super::world::Attr;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    Missing,
    /// Empty, bytes, a map: there, and no operator holds for it. With its JSON.
    Opaque(String),
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Status(Status),
    Kind(Kind),
    /// The elements, and the JSON.
    Array(Vec<Val>, String),
}

impl Val {
    pub(crate) fn of_attribute(attribute: &Attr) -> Val {
        match attribute {
            Attr::Empty => Val::Opaque("null".to_owned()),
            Attr::Str(text) => Val::Str(text.clone()),
            Attr::Int(value) => Val::Int(*value),
            Attr::Float(value) => Val::Float(*value),
            Attr::Bool(value) => Val::Bool(*value),
            Attr::Json(text) => of_json(&serde_json::from_str(text).unwrap(), text),
        }
    }

    pub(crate) fn of_literal(literal: &Literal) -> Val {
        match literal {
            Literal::Nil => Val::Missing,
            Literal::Bool(value) => Val::Bool(*value),
            Literal::Int(value) | Literal::Duration(value) => Val::Int(*value),
            Literal::Float(value) => Val::Float(*value),
            Literal::String(text) => Val::Str(text.clone()),
            Literal::Status(status) => Val::Status(*status),
            Literal::Kind(kind) => Val::Kind(*kind),
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Val::Int(value) => Some(*value as f64),
            Val::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn compare(&self, op: ComparisonOp, other: &Val) -> bool {
        match (self, other) {
            (Val::Array(..), Val::Array(..)) => false,
            (Val::Array(elements, _), other) => holds_in(elements, op == ComparisonOp::Ne, |e| e.compare(op, other)),
            (one, Val::Array(elements, _)) => holds_in(elements, op == ComparisonOp::Ne, |e| one.compare(op, e)),
            (Val::Int(_) | Val::Float(_), Val::Int(_) | Val::Float(_)) => match number_order(self, other) {
                Some(order) => holds(op, order),
                None => op == ComparisonOp::Ne,
            },
            (Val::Str(a), Val::Str(b)) => holds(op, a.as_bytes().cmp(b.as_bytes())),
            (Val::Bool(a), Val::Bool(b)) => equality(op, a == b),
            (Val::Status(a), Val::Status(b)) => equality(op, a == b),
            (Val::Kind(a), Val::Kind(b)) => equality(op, a == b),
            _ => false,
        }
    }

    /// `=~`, or `!~` if negated.
    pub(crate) fn matches(&self, pattern: &regex::Regex, negated: bool) -> bool {
        match self {
            Val::Str(text) => pattern.is_match(text) != negated,
            Val::Array(elements, _) => holds_in(elements, negated, |element| element.matches(pattern, negated)),
            _ => false,
        }
    }

    /// Arithmetic; `in_floats` where both sides are durations and are divided.
    pub(crate) fn arithmetic(&self, op: ArithmeticOp, other: &Val, in_floats: bool) -> Val {
        if let (Val::Int(a), Val::Int(b), false) = (self, other, in_floats) {
            if *b == 0 && matches!(op, ArithmeticOp::Div | ArithmeticOp::Mod) {
                return Val::Missing;
            }
            if let Some(value) = integer(op, *a, *b) {
                return Val::Int(value);
            }
        }
        match (self.as_f64(), other.as_f64()) {
            (Some(a), Some(b)) => Val::Float(float(op, a, b)),
            _ => Val::Missing,
        }
    }

    pub(crate) fn negated(&self) -> Val {
        match self {
            Val::Int(value) => value.checked_neg().map_or(Val::Float(-(*value as f64)), Val::Int),
            Val::Float(value) => Val::Float(-value),
            _ => Val::Missing,
        }
    }

    /// Type and value, as `by` tells them apart.
    pub(crate) fn group_key(&self) -> String {
        match self {
            Val::Opaque(json) if json == "null" => Val::Missing.group_key(),
            Val::Opaque(json) | Val::Array(_, json) => format!("json {json}"),
            other => format!("{other:?}"),
        }
    }
}

/// For answers, as a reader would write the value.
impl std::fmt::Display for Val {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Val::Missing => f.write_str("nil"),
            Val::Opaque(json) | Val::Array(_, json) => f.write_str(json),
            Val::Bool(value) => write!(f, "{value}"),
            Val::Int(value) => write!(f, "{value}"),
            Val::Float(value) => write!(f, "{value:?}"),
            Val::Str(text) => write!(f, "{text:?}"),
            Val::Status(status) => f.write_str(status.name()),
            Val::Kind(kind) => f.write_str(kind.name()),
        }
    }
}

/// Go's form of a duration, as a text value.
pub(crate) fn duration_text(nanos: i64) -> Val {
    Val::Str(format_duration(nanos))
}

fn of_json(json: &serde_json::Value, text: &str) -> Val {
    use serde_json::Value;
    match json {
        Value::Array(elements) => {
            Val::Array(elements.iter().map(|element| of_json(element, &element.to_string())).collect(), text.to_owned())
        }
        Value::String(text) => Val::Str(text.clone()),
        Value::Bool(value) => Val::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(value) => Val::Int(value),
            None => Val::Float(number.as_f64().unwrap()),
        },
        Value::Null | Value::Object(_) => Val::Opaque(text.to_owned()),
    }
}

fn holds_in(elements: &[Val], for_all: bool, holds: impl Fn(&Val) -> bool) -> bool {
    if for_all { !elements.is_empty() && elements.iter().all(holds) } else { elements.iter().any(holds) }
}

fn holds(op: ComparisonOp, order: Ordering) -> bool {
    match op {
        ComparisonOp::Eq => order == Ordering::Equal,
        ComparisonOp::Ne => order != Ordering::Equal,
        ComparisonOp::Lt => order == Ordering::Less,
        ComparisonOp::Le => order != Ordering::Greater,
        ComparisonOp::Gt => order == Ordering::Greater,
        ComparisonOp::Ge => order != Ordering::Less,
    }
}

fn equality(op: ComparisonOp, equal: bool) -> bool {
    (op == ComparisonOp::Eq && equal) || (op == ComparisonOp::Ne && !equal)
}

/// By exact value; nothing for what is not a number.
pub(crate) fn number_order(a: &Val, b: &Val) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Float(a), Val::Float(b)) => a.partial_cmp(b),
        (Val::Int(a), Val::Float(b)) => int_and_float(*a, *b),
        (Val::Float(a), Val::Int(b)) => int_and_float(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

fn int_and_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // A 128-bit integer holds every 64-bit one and saturates far beyond them.
    let order = i128::from(int).cmp(&(float.trunc() as i128));
    Some(if order == Ordering::Equal { 0.0.partial_cmp(&float.fract())? } else { order })
}

fn integer(op: ArithmeticOp, a: i64, b: i64) -> Option<i64> {
    match op {
        ArithmeticOp::Add => a.checked_add(b),
        ArithmeticOp::Sub => a.checked_sub(b),
        ArithmeticOp::Mul => a.checked_mul(b),
        ArithmeticOp::Div => a.checked_div(b),
        ArithmeticOp::Mod => a.checked_rem(b),
        ArithmeticOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    }
}

pub(crate) fn float(op: ArithmeticOp, a: f64, b: f64) -> f64 {
    match op {
        ArithmeticOp::Add => a + b,
        ArithmeticOp::Sub => a - b,
        ArithmeticOp::Mul => a * b,
        ArithmeticOp::Div => a / b,
        ArithmeticOp::Mod => a % b,
        ArithmeticOp::Pow => a.powf(b),
    }
}
