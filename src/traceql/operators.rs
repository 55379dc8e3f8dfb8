//! The signs of the operators, and how tight they bind.

use super::ast::{ArithmeticOp, ComparisonOp, FieldOp, LogicalOp, RegexOp, Relation, SpansetOp, UnaryOp, Variant};

/// Operators of each kind with their signs.
macro_rules! signs {
    ($op:ident: $($variant:ident $sign:literal),+) => {
        impl $op {
            /// All of them.
            pub const ALL: &[$op] = &[$($op::$variant),+];

            /// How it is written.
            pub fn sign(self) -> &'static str {
                match self {
                    $($op::$variant => $sign),+
                }
            }

            /// The operator of a sign.
            pub fn from_sign(sign: &str) -> Option<Self> {
                match sign {
                    $($sign => Some($op::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

signs!(LogicalOp: And "&&", Or "||");
signs!(ComparisonOp: Eq "=", Ne "!=", Lt "<", Le "<=", Gt ">", Ge ">=");
signs!(RegexOp: Match "=~", NotMatch "!~");
signs!(ArithmeticOp: Add "+", Sub "-", Mul "*", Div "/", Mod "%", Pow "^");
signs!(UnaryOp: Not "!", Negate "-");

const RELATIONS: &[(Relation, &str)] = &[
    (Relation::Child, ">"),
    (Relation::Descendant, ">>"),
    (Relation::Parent, "<"),
    (Relation::Ancestor, "<<"),
    (Relation::Sibling, "~"),
];

const VARIANTS: &[(Variant, &str)] = &[(Variant::Plain, ""), (Variant::Negated, "!"), (Variant::Union, "&")];

impl SpansetOp {
    /// All of them.
    pub fn all() -> impl Iterator<Item = SpansetOp> {
        let structural = VARIANTS.iter().flat_map(|(variant, _)| {
            RELATIONS.iter().map(|(relation, _)| SpansetOp::Structural { relation: *relation, variant: *variant })
        });
        LogicalOp::ALL.iter().copied().map(SpansetOp::Logical).chain(structural)
    }

    /// How it is written.
    pub fn sign(self) -> String {
        match self {
            SpansetOp::Logical(op) => op.sign().to_owned(),
            SpansetOp::Structural { relation, variant } => {
                let prefix = VARIANTS.iter().find(|(other, _)| *other == variant).map_or("", |(_, sign)| sign);
                let sign = RELATIONS.iter().find(|(other, _)| *other == relation).map_or("", |(_, sign)| sign);
                format!("{prefix}{sign}")
            }
        }
    }

    /// The operator of a sign.
    pub fn from_sign(sign: &str) -> Option<Self> {
        Self::all().find(|op| op.sign() == sign)
    }
}

impl FieldOp {
    /// How it is written.
    pub fn sign(self) -> &'static str {
        match self {
            FieldOp::Logical(op) => op.sign(),
            FieldOp::Comparison(op) => op.sign(),
            FieldOp::Regex(op) => op.sign(),
            FieldOp::Arithmetic(op) => op.sign(),
        }
    }

    pub(super) fn binding(self) -> Binding {
        match self {
            FieldOp::Logical(_) => Binding::Logical,
            FieldOp::Comparison(_) | FieldOp::Regex(_) => Binding::Comparison,
            FieldOp::Arithmetic(op) => op.binding(),
        }
    }
}

impl ArithmeticOp {
    pub(super) fn binding(self) -> Binding {
        match self {
            ArithmeticOp::Add | ArithmeticOp::Sub => Binding::Additive,
            ArithmeticOp::Mul | ArithmeticOp::Div | ArithmeticOp::Mod => Binding::Multiplicative,
            ArithmeticOp::Pow => Binding::Power,
        }
    }
}

impl SpansetOp {
    pub(super) fn binding(self) -> Binding {
        match self {
            SpansetOp::Logical(_) => Binding::Logical,
            SpansetOp::Structural { .. } => Binding::Comparison,
        }
    }
}

impl UnaryOp {
    pub(super) fn binding(self) -> Binding {
        match self {
            UnaryOp::Negate => Binding::Negate,
            UnaryOp::Not => Binding::Not,
        }
    }
}

/// How tight an expression holds together, from loose to tight. The grammar's precedence table has the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Binding {
    /// `&&` and `||`, which bind equally.
    Logical,
    Comparison,
    Additive,
    Negate,
    Not,
    Multiplicative,
    /// Right associative; all others are left associative.
    Power,
    /// Needs no parentheses anywhere.
    Atom,
}
