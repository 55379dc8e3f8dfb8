//! The types of expressions on spans, and which operators they take.

use super::{
    ast::{ArithmeticOp, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, UnaryOp},
    literal::Literal,
};

/// What an expression yields. An attribute's type is known only span by span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything, or nothing.
    Attribute,
    /// `nil`
    Nil,
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Nanoseconds.
    Duration,
    /// Text.
    String,
    /// A status.
    Status,
    /// A span kind.
    Kind,
}

impl Type {
    /// Whether it counts as a number; all numbers compare with each other.
    pub fn is_numeric(self) -> bool {
        matches!(self, Type::Int | Type::Float | Type::Duration)
    }

    /// Whether values of the two types can meet in an operator.
    pub(super) fn meets(self, other: Type) -> bool {
        self == other
            || self == Type::Attribute
            || other == Type::Attribute
            || (self.is_numeric() && other.is_numeric())
            // A test for presence; whether the field can be absent is a different question.
            || self == Type::Nil
            || other == Type::Nil
    }

    /// Whether an operator takes operands of this type.
    pub(super) fn takes(self, op: FieldOp) -> bool {
        use super::ast::ComparisonOp::{Eq, Ne};
        match op {
            FieldOp::Comparison(Eq | Ne) => true,
            FieldOp::Logical(_) => matches!(self, Type::Attribute | Type::Bool),
            FieldOp::Regex(_) => matches!(self, Type::Attribute | Type::String),
            FieldOp::Comparison(_) => matches!(self, Type::Attribute | Type::String) || self.is_numeric(),
            FieldOp::Arithmetic(_) => self == Type::Attribute || self.is_numeric(),
        }
    }

    /// Whether a prefix operator takes an operand of this type.
    pub(super) fn takes_prefix(self, op: UnaryOp) -> bool {
        match op {
            UnaryOp::Not => matches!(self, Type::Attribute | Type::Bool),
            UnaryOp::Negate => self == Type::Attribute || self.is_numeric(),
        }
    }

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Type::Attribute => "attribute",
            Type::Nil => "nil",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float",
            Type::Duration => "duration",
            Type::String => "string",
            Type::Status => "status",
            Type::Kind => "kind",
        }
    }
}

impl Literal {
    /// Its type.
    pub fn type_of(&self) -> Type {
        match self {
            Literal::Nil => Type::Nil,
            Literal::Bool(_) => Type::Bool,
            Literal::Int(_) => Type::Int,
            Literal::Float(_) => Type::Float,
            Literal::Duration(_) => Type::Duration,
            Literal::String(_) => Type::String,
            Literal::Status(_) => Type::Status,
            Literal::Kind(_) => Type::Kind,
        }
    }
}

impl Intrinsic {
    /// The type of its values.
    pub fn type_of(self) -> Type {
        use Intrinsic::*;
        match self {
            Duration | TraceDuration | EventTimeSinceStart => Type::Duration,
            Status => Type::Status,
            Kind => Type::Kind,
            SpanChildCount | NestedSetLeft | NestedSetRight | NestedSetParent => Type::Int,
            Name
            | StatusMessage
            | SpanId
            | SpanParentId
            | RootName
            | RootServiceName
            | TraceId
            | EventName
            | LinkTraceId
            | LinkSpanId
            | InstrumentationName
            | InstrumentationVersion => Type::String,
            Parent => Type::Nil,
        }
    }
}

impl FieldExpr {
    /// The type of its values, as far as the text tells.
    pub fn type_of(&self) -> Type {
        match &self.kind {
            FieldKind::Literal(literal) => literal.type_of(),
            FieldKind::Field(FieldName::Intrinsic(intrinsic)) => intrinsic.type_of(),
            FieldKind::Field(FieldName::Attribute(_)) => Type::Attribute,
            FieldKind::Unary { op: UnaryOp::Not, .. } => Type::Bool,
            FieldKind::Unary { op: UnaryOp::Negate, operand } => match operand.type_of() {
                // Whatever the attribute holds, its negative is a number or nothing.
                Type::Attribute => Type::Float,
                other => other,
            },
            FieldKind::Binary { op: FieldOp::Arithmetic(op), lhs, rhs } => match (lhs.type_of(), rhs.type_of()) {
                (Type::Duration, Type::Duration) if *op == ArithmeticOp::Div => Type::Float,
                (Type::Duration, _) | (_, Type::Duration) if *op == ArithmeticOp::Pow => Type::Float,
                (Type::Duration, _) | (_, Type::Duration) => Type::Duration,
                (Type::Int, Type::Int) => Type::Int,
                _ => Type::Float,
            },
            FieldKind::Binary { .. } => Type::Bool,
        }
    }

    /// Whether it depends on the span at all.
    pub(super) fn references_span(&self) -> bool {
        match &self.kind {
            FieldKind::Literal(_) => false,
            FieldKind::Field(_) => true,
            FieldKind::Unary { operand, .. } => operand.references_span(),
            FieldKind::Binary { lhs, rhs, .. } => lhs.references_span() || rhs.references_span(),
        }
    }
}

/// Compiles the pattern of `=~`: anchored at both ends, the dot matches line breaks, time linear in the text.
pub fn compile_regex(pattern: &str) -> Result<regex::Regex, String> {
    /// Compiled size of a pattern, at most.
    const REGEX_BYTES_MAX: usize = 1024 * 1024;
    let anchored = format!("^(?s:{pattern})$");
    // The pattern alone as well: one with a stray parenthesis must not close the group around it.
    for text in [pattern, &anchored] {
        let built = regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
        match built {
            Ok(regex) if text.len() == anchored.len() => return Ok(regex),
            Ok(_) => {}
            Err(regex::Error::CompiledTooBig(bytes)) => {
                return Err(format!("it needs more than the limit of {bytes} bytes"));
            }
            Err(error) => return Err(error.to_string().lines().last().unwrap_or_default().to_owned()),
        }
    }
    Err("it does not compile".to_owned())
}
