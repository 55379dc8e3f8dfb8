//! Expressions inside braces, and names.

use pest::iterators::Pair;

use super::{
    grammar::{PRECEDENCE, Rule},
    only, range_of,
};
use crate::traceql::{
    ast::{
        ArithmeticOp, Attribute, ComparisonOp, Field, FieldExpr, FieldKind, FieldName, FieldOp, Intrinsic, LogicalOp,
        RegexOp, Scope, TextRange, UnaryOp,
    },
    error::TraceQlError,
    literal::{self, Literal},
    names,
};

type Result<T> = std::result::Result<T, TraceQlError>;

/// `{ ... }`; nothing in it is `true`.
pub(super) fn filter(pair: Pair<'_, Rule>) -> Result<FieldExpr> {
    let at = range_of(&pair);
    match pair.into_inner().find(|child| child.as_rule() == Rule::field) {
        Some(field) => expression(field),
        None => Ok(FieldExpr { kind: FieldKind::Literal(Literal::Bool(true)), at }),
    }
}

/// Operands joined by operators.
pub(super) fn expression(pair: Pair<'_, Rule>) -> Result<FieldExpr> {
    PRECEDENCE
        .map_primary(operand)
        .map_prefix(|op, operand| Ok(prefixed(&op, operand?)))
        .map_infix(|lhs, op, rhs| {
            let (lhs, rhs) = (lhs?, rhs?);
            let at = lhs.at.to(rhs.at);
            let op = operator(&op)?;
            Ok(FieldExpr { kind: FieldKind::Binary { op, lhs: Box::new(lhs), rhs: Box::new(rhs) }, at })
        })
        .parse(pair.into_inner())
}

fn operand(pair: Pair<'_, Rule>) -> Result<FieldExpr> {
    let at = range_of(&pair);
    let kind = match pair.as_rule() {
        Rule::parenthesised | Rule::bare_parenthesised => {
            let is_inner = |rule| matches!(rule, Rule::field | Rule::bare_field);
            let inner = only(pair.into_inner().filter(|child| is_inner(child.as_rule())))?;
            return Ok(FieldExpr { at, ..expression(inner)? });
        }
        Rule::string => FieldKind::Literal(string(&pair)?),
        Rule::number => FieldKind::Literal(number(&pair)?),
        Rule::alias => FieldKind::Field(alias(pair.as_str())),
        _ => match names::literal_word(pair.as_str()) {
            Some(literal) => FieldKind::Literal(literal),
            None => FieldKind::Field(field(&pair)?.name),
        },
    };
    Ok(FieldExpr { kind, at })
}

fn prefixed(op: &Pair<'_, Rule>, operand: FieldExpr) -> FieldExpr {
    let at = range_of(op).to(operand.at);
    let op = if op.as_rule() == Rule::not { UnaryOp::Not } else { UnaryOp::Negate };
    let negative = match &operand.kind {
        FieldKind::Literal(literal) if op == UnaryOp::Negate => literal.negated(),
        _ => None,
    };
    let kind = match negative {
        Some(literal) => FieldKind::Literal(literal),
        None => FieldKind::Unary { op, operand: Box::new(operand) },
    };
    FieldExpr { kind, at }
}

fn operator(pair: &Pair<'_, Rule>) -> Result<FieldOp> {
    let sign = match (pair.as_rule(), pair.as_str()) {
        (Rule::logical_word, word) if word.eq_ignore_ascii_case("and") => LogicalOp::And.sign(),
        (Rule::logical_word, _) => LogicalOp::Or.sign(),
        (_, sign) => sign,
    };
    let found = LogicalOp::from_sign(sign)
        .map(FieldOp::Logical)
        .or_else(|| ComparisonOp::from_sign(sign).map(FieldOp::Comparison))
        .or_else(|| RegexOp::from_sign(sign).map(FieldOp::Regex))
        .or_else(|| ArithmeticOp::from_sign(sign).map(FieldOp::Arithmetic));
    found.ok_or_else(|| TraceQlError::parse(format!("syntax error: unexpected {sign}"), range_of(pair)))
}

// ---- constants ------------------------------------------------------------------------------------------------------

pub(super) fn string(pair: &Pair<'_, Rule>) -> Result<Literal> {
    literal::unquote(pair.as_str()).map(Literal::String).map_err(|(offset, problem)| {
        let start = range_of(pair).start + offset;
        let end = if offset == 0 { range_of(pair).end } else { start + 2 };
        TraceQlError::parse(problem, TextRange { start, end })
    })
}

pub(super) fn number(pair: &Pair<'_, Rule>) -> Result<Literal> {
    literal::parse_number(pair.as_str()).map_err(|problem| TraceQlError::parse(problem, range_of(pair)))
}

/// A number with or without a minus.
pub(super) fn signed_number(pair: Pair<'_, Rule>) -> Result<Literal> {
    let negative = pair.as_str().starts_with('-');
    let digits = pair.into_inner().find(|child| child.as_rule() == Rule::number);
    let value = digits.as_ref().map(number).transpose()?.unwrap_or(Literal::Int(0));
    // The negative of anything that a token can hold exists.
    Ok(if negative { value.negated().unwrap_or(value) } else { value })
}

// ---- names ----------------------------------------------------------------------------------------------------------

/// An attribute or intrinsic.
pub(super) fn field(pair: &Pair<'_, Rule>) -> Result<Field> {
    let at = range_of(pair);
    let text = pair.as_str();
    let name = if let Some(key) = text.strip_prefix('.') {
        attribute(false, Scope::Any, key, at)?
    } else {
        match text.find(['.', ':']) {
            Some(dot) if text[dot..].starts_with('.') => scoped(&text[..dot], &text[dot + 1..], at)?,
            _ => FieldName::Intrinsic(Intrinsic::from_name(text).ok_or_else(|| unknown(text, at))?),
        }
    };
    Ok(Field { name, at })
}

/// What people call a field where a filter stands without braces.
fn alias(word: &str) -> FieldName {
    if word == "operation" {
        return FieldName::Intrinsic(Intrinsic::Name);
    }
    FieldName::Attribute(Attribute { of_parent: false, scope: Scope::Resource, key: "service.name".to_owned() })
}

/// A name with a word in front of its first dot: a scope, `parent`, or part of an attribute's key.
fn scoped(word: &str, key: &str, at: TextRange) -> Result<FieldName> {
    if let Some(scope) = Scope::from_name(word) {
        return attribute(false, scope, key, at);
    }
    if word != "parent" {
        let Some(scope) = names::nearest_scope(word) else {
            // `service.name:shop` means a comparison in other languages, and would be an attribute that no span has.
            if let Some((name, value)) = key.split_once(':').filter(|_| !key.contains('"')) {
                let problem = format!("unknown identifier: {word}.{key}");
                let help =
                    format!("equality is written {word}.{name} = \"{value}\", and the attribute itself .{word}.{key}");
                return Err(TraceQlError::parse(problem, at).with_help(help));
            }
            return attribute(false, Scope::Any, &format!("{word}.{key}"), at);
        };
        // A slip in a scope would otherwise look for an attribute that no span has.
        let problem = format!("unknown identifier: {word}.{key}; did you mean {scope}.{key}?");
        return Err(TraceQlError::parse(problem, at).with_help(format!("the attribute itself is .{word}.{key}")));
    }
    match key.split_once('.').and_then(|(word, key)| Some((Scope::from_name(word)?, key))) {
        Some((scope, key)) => attribute(true, scope, key, at),
        None => attribute(true, Scope::Any, key, at),
    }
}

fn attribute(of_parent: bool, scope: Scope, key: &str, at: TextRange) -> Result<FieldName> {
    let key = unquote_key(key).ok_or_else(|| {
        TraceQlError::parse("invalid escape sequence", at).with_help("quoted names know only \\\" and \\\\")
    })?;
    if key.is_empty() {
        return Err(TraceQlError::parse("attribute name is empty", at));
    }
    Ok(FieldName::Attribute(Attribute { of_parent, scope, key }))
}

/// The key with the quotes of its quoted parts removed; none for an escape that does not exist.
fn unquote_key(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => key.push(chars.next().filter(|escaped| ['"', '\\'].contains(escaped))?),
            c => key.push(c),
        }
    }
    Some(key)
}

fn unknown(text: &str, at: TextRange) -> TraceQlError {
    let problem = format!("unknown identifier: {text}");
    if matches!(text, "service" | "service_name") {
        return TraceQlError::parse(format!("{problem}; did you mean resource.service.name?"), at);
    }
    if text == "operation" {
        return TraceQlError::parse(format!("{problem}; did you mean name?"), at);
    }
    if text.starts_with("parent:") {
        return TraceQlError::parse(problem, at)
            .with_help("of the parent span attributes are known, parent.http.route; else { kind = server } > { ... }");
    }
    match names::nearest_name(text) {
        Some(near) => TraceQlError::parse(format!("{problem}; did you mean {near}?"), at),
        None if text.contains(':') => TraceQlError::parse(problem, at),
        None => TraceQlError::parse(problem, at)
            .with_help(format!("a text value stands in quotes, \"{text}\", and an attribute has a dot, .{text}")),
    }
}
