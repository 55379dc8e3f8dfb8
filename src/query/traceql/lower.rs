//! Conditions that DataFusion's own operators express, in a form that statistics and indexes work on.

use datafusion::{
    common::ScalarValue,
    logical_expr::{Case, Expr, Operator, binary_expr, col, lit},
};

use super::{arrays, matches, nested};
use crate::{
    functions::{AttrFunction, TextMeets, scalar_function},
    model::{
        attributes::AttributeScope,
        ids::{SpanId, TraceId},
        schema::column,
    },
    traceql::{
        ast::{Attribute, ComparisonOp, FieldName, Intrinsic, Scope},
        literal::Literal,
        plan::{Condition, Dynamic, Pattern, Value},
    },
};

/// Scopes whose attributes have a column, in the order in which an attribute without a scope is looked up.
pub(super) const LOOKUP: [AttributeScope; 3] = [AttributeScope::Span, AttributeScope::Resource, AttributeScope::Scope];

/// Fields that a condition mentions, each time that it does, up to which operators express it. Planning takes time by the
/// square of their number.
const FIELDS_DIRECT_MAX: usize = 48;

/// The filter for a condition; NULL counts as false.
pub(in crate::query) fn filter(condition: &Condition) -> Expr {
    if is_large(&[condition]) {
        return matches::call(condition);
    }
    let parts = match condition {
        Condition::And(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    // Fields of events speak of one event in all of the condition, so what reads them stays together.
    let (tied, free): (Vec<&Condition>, Vec<&Condition>) = parts.iter().partition(|part| reads_lists(part));
    let free = free.into_iter().map(|part| direct(part).unwrap_or_else(|| matches::call(part)));
    let tied = (!tied.is_empty()).then(|| {
        let tied = tied.into_iter().cloned().collect::<Vec<_>>();
        list_filter(&if tied.len() == 1 { tied[0].clone() } else { Condition::And(tied) })
    });
    free.chain(tied).reduce(Expr::and).unwrap_or_else(|| lit(true))
}

/// The filter for several conditions, each for an event and a link of its own; NULL counts as false.
pub(super) fn filters(conditions: &[&Condition]) -> Option<Expr> {
    match is_large(conditions) {
        true => Some(matches::all(conditions)),
        false => conditions.iter().map(|condition| filter(condition)).reduce(Expr::and),
    }
}

fn is_large(conditions: &[&Condition]) -> bool {
    let mut fields = 0;
    conditions.iter().for_each(|condition| condition.for_each_field(&mut |_| fields += 1));
    fields > FIELDS_DIRECT_MAX
}

/// Whether it may depend on which event or link is looked at.
pub(in crate::query) fn reads_lists(condition: &Condition) -> bool {
    let mut reads = false;
    condition.for_each_field(&mut |name| reads |= name.is_of_event() || name.is_of_link() || name.is_unscoped());
    reads
}

/// The filter for a condition that may read events and links.
fn list_filter(condition: &Condition) -> Expr {
    let mut keys: Vec<&str> = Vec::new();
    let mut names = Vec::new();
    condition.for_each_field(&mut |name| names.push(name.clone()));
    for name in &names {
        match name {
            FieldName::Attribute(Attribute { scope: Scope::Any, key, .. }) if !keys.contains(&key.as_str()) => {
                keys.push(key);
            }
            _ => {}
        }
    }
    let explicit = names.iter().any(|name| name.is_of_event() || name.is_of_link());
    // Where no event and no link has one of the keys, columns alone decide.
    match direct(condition).filter(|_| !explicit) {
        Some(direct) => {
            let in_lists = keys
                .iter()
                .flat_map(|key| [nested::exists(column::EVENTS, key), nested::exists(column::LINKS, key)])
                .reduce(Expr::or)
                .unwrap_or_else(|| lit(false));
            let without = direct.and(Expr::Not(Box::new(in_lists.clone())));
            without.or(in_lists.and(matches::call(condition)))
        }
        None => existence(condition).unwrap_or_else(|| {
            needed_items(condition).into_iter().fold(matches::call(condition), |all, needed| needed.and(all))
        }),
    }
}

/// A condition that asks of events and links nothing but whether one has a key, and of each for itself.
fn existence(condition: &Condition) -> Option<Expr> {
    match condition {
        Condition::Exists(Value::Field(FieldName::Attribute(Attribute { of_parent: false, scope, key }))) => {
            match scope {
                Scope::Event => Some(nested::exists(column::EVENTS, key)),
                Scope::Link => Some(nested::exists(column::LINKS, key)),
                _ => None,
            }
        }
        Condition::Or(parts) => parts.iter().map(existence).collect::<Option<Vec<_>>>()?.into_iter().reduce(Expr::or),
        _ => None,
    }
}

/// What has to hold for a condition on events and links besides itself: that they have the keys without which it is
/// false. Files without such a key are not read.
fn needed_items(condition: &Condition) -> Vec<Expr> {
    let parts = match condition {
        Condition::And(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    parts.iter().filter_map(needed_item).collect()
}

fn needed_item(condition: &Condition) -> Option<Expr> {
    let mut lists = Vec::new();
    condition.for_each_field(&mut |name| {
        lists.push(match name {
            FieldName::Attribute(Attribute { scope: Scope::Event, key, .. }) => Some((column::EVENTS, key.clone())),
            FieldName::Attribute(Attribute { scope: Scope::Link, key, .. }) => Some((column::LINKS, key.clone())),
            _ => None,
        });
    });
    let lists: Vec<(&str, String)> = lists.into_iter().collect::<Option<_>>()?;
    let without = |is_root| condition.holds(&|_| Dynamic::Missing, is_root);
    if without(true) || without(false) {
        return None;
    }
    lists.iter().map(|(list, key)| nested::exists(list, key)).reduce(Expr::or)
}

/// The condition without regard to events and links, if DataFusion's operators can express it.
fn direct(condition: &Condition) -> Option<Expr> {
    Some(match condition {
        Condition::Constant(value) => lit(*value),
        Condition::And(parts) => parts.iter().map(direct).collect::<Option<Vec<_>>>()?.into_iter().reduce(Expr::and)?,
        Condition::Or(parts) => parts.iter().map(direct).collect::<Option<Vec<_>>>()?.into_iter().reduce(Expr::or)?,
        Condition::Not(inner) => Expr::IsNotTrue(Box::new(direct(inner)?)),
        Condition::IsRoot => col(column::PARENT_SPAN_ID).is_null(),
        Condition::IsTrue(FieldName::Intrinsic(_)) => lit(false),
        Condition::IsTrue(FieldName::Attribute(attribute)) => {
            look_up(attribute, |scope, key| Some(attr(AttrFunction::Bool, scope, key)))?
        }
        Condition::Exists(Value::Field(FieldName::Attribute(attribute))) => {
            look_up(attribute, |scope, key| Some(attr(AttrFunction::Exists, scope, key)))?
        }
        Condition::Exists(Value::Field(FieldName::Intrinsic(intrinsic))) => {
            intrinsic_text(*intrinsic).or_else(|| intrinsic_int(*intrinsic)).map(|_| lit(true))?
        }
        Condition::Compare { op, lhs: Value::Field(name), rhs: Value::Literal(literal) } => match name {
            FieldName::Attribute(attribute) => {
                look_up(attribute, |scope, key| compare_attribute(scope, key, *op, literal, condition))?
            }
            FieldName::Intrinsic(intrinsic) => compare_intrinsic(*intrinsic, *op, literal)?,
        },
        Condition::Matches { value: Value::Field(name), pattern, negated } => match name {
            FieldName::Attribute(attribute) => look_up(attribute, |scope, key| {
                let text = matches_text(attr(AttrFunction::Str, scope, key), pattern, *negated);
                Some(text.or(arrays::holds(nested_value(scope, key), condition)))
            })?,
            FieldName::Intrinsic(intrinsic) => matches_text(intrinsic_text(*intrinsic)?, pattern, *negated),
        },
        Condition::Exists(_) | Condition::Compare { .. } | Condition::Matches { .. } => return None,
    })
}

// ---- attributes -----------------------------------------------------------------------------------------------------

/// `attr_*(map of the scope, key)`.
pub(super) fn attr(function: AttrFunction, scope: AttributeScope, key: &str) -> Expr {
    match (scalar_function(function.name()), scope.map_column()) {
        (Some(udf), Some(map)) => udf.call(vec![col(map), lit(key)]),
        // Attributes of events and links have no column; the callers know.
        _ => lit(ScalarValue::try_from(&function.return_type()).unwrap_or(ScalarValue::Null)),
    }
}

/// The JSON of an attribute that holds an array.
pub(super) fn nested_value(scope: AttributeScope, key: &str) -> Expr {
    attr(AttrFunction::Nested, scope, key)
}

/// Applies `leaf` to the scope of the attribute; without one to each in turn, as long as those before lack the key.
fn look_up(attribute: &Attribute, leaf: impl Fn(AttributeScope, &str) -> Option<Expr>) -> Option<Expr> {
    let key = attribute.key.as_str();
    let scope = match attribute.scope {
        Scope::Span => AttributeScope::Span,
        Scope::Resource => AttributeScope::Resource,
        Scope::Instrumentation => AttributeScope::Scope,
        Scope::Event | Scope::Link => return None,
        Scope::Any => {
            let mut found: Option<Expr> = None;
            for scope in LOOKUP.into_iter().rev() {
                let here = leaf(scope, key)?;
                found = Some(match found {
                    None => here,
                    Some(later) => {
                        let absent = Expr::Not(Box::new(attr(AttrFunction::Exists, scope, key)));
                        here.or(absent.and(later))
                    }
                });
            }
            return found;
        }
    };
    leaf(scope, key)
}

/// `condition` is the whole comparison, for arrays.
fn compare_attribute(
    scope: AttributeScope,
    key: &str,
    op: ComparisonOp,
    literal: &Literal,
    condition: &Condition,
) -> Option<Expr> {
    let ints = || attr(AttrFunction::Int, scope, key);
    let floats = || attr(AttrFunction::Float, scope, key);
    let scalar = match literal {
        Literal::String(text) => binary_expr(attr(AttrFunction::Str, scope, key), operator(op), lit(text.as_str())),
        Literal::Bool(value) => match op {
            ComparisonOp::Eq | ComparisonOp::Ne => {
                binary_expr(attr(AttrFunction::Bool, scope, key), operator(op), lit(*value))
            }
            _ => return None,
        },
        Literal::Int(value) | Literal::Duration(value) => {
            let float = *value as f64;
            // A rounded constant would compare differently.
            if float as i128 != i128::from(*value) {
                return None;
            }
            binary_expr(ints(), operator(op), lit(*value)).or(compare_floats(&floats(), op, float))
        }
        Literal::Float(value) => compare_ints(ints(), op, *value).or(compare_floats(&floats(), op, *value)),
        // No attribute is a status or a kind.
        Literal::Status(_) | Literal::Kind(_) => return Some(lit(false)),
        Literal::Nil => return None,
    };
    Some(scalar.or(arrays::holds(nested_value(scope, key), condition)))
}

fn operator(op: ComparisonOp) -> Operator {
    match op {
        ComparisonOp::Eq => Operator::Eq,
        ComparisonOp::Ne => Operator::NotEq,
        ComparisonOp::Lt => Operator::Lt,
        ComparisonOp::Le => Operator::LtEq,
        ComparisonOp::Gt => Operator::Gt,
        ComparisonOp::Ge => Operator::GtEq,
    }
}

/// Integers compared with a number that may have a fraction, by a bound that is an integer.
fn compare_ints(ints: Expr, op: ComparisonOp, value: f64) -> Expr {
    use ComparisonOp::{Eq, Ge, Gt, Le, Lt, Ne};
    /// Two to the power of 63, the first float above all integers.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    let always = |holds: bool| if holds { ints.clone().is_not_null() } else { lit(false) };
    if value >= BEYOND {
        return always(matches!(op, Lt | Le | Ne));
    }
    if value < -BEYOND {
        return always(matches!(op, Gt | Ge | Ne));
    }
    let below = value.floor() as i64;
    if value.fract() == 0.0 {
        return binary_expr(ints, operator(op), lit(below));
    }
    match op {
        Eq => lit(false),
        Ne => always(true),
        Lt | Le => ints.lt_eq(lit(below)),
        Gt | Ge => ints.gt(lit(below)),
    }
}

/// Floats compared as IEEE 754 has it. Arrow orders them in total: what is not a number lies beyond the infinities, and
/// the zeros differ.
fn compare_floats(floats: &Expr, op: ComparisonOp, value: f64) -> Expr {
    use ComparisonOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let zero = value == 0.0;
    let (least, greatest) = if zero { (-0.0, 0.0) } else { (value, value) };
    let compare = |op: ComparisonOp, bound: f64| binary_expr(floats.clone(), operator(op), lit(bound));
    match op {
        Eq if zero => compare(Eq, least).or(compare(Eq, greatest)),
        Ne if zero => compare(Ne, least).and(compare(Ne, greatest)),
        Eq | Ne => compare(op, value),
        Lt => compare(Lt, least).and(compare(Ge, f64::NEG_INFINITY)),
        Le => compare(Le, greatest).and(compare(Ge, f64::NEG_INFINITY)),
        Gt => compare(Gt, greatest).and(compare(Le, f64::INFINITY)),
        Ge => compare(Ge, least).and(compare(Le, f64::INFINITY)),
    }
}

fn matches_text(text: Expr, pattern: &Pattern, negated: bool) -> Expr {
    if let Some(words) = plain_words(pattern.text()) {
        let list = words.into_iter().map(lit).collect();
        return text.in_list(list, negated);
    }
    let meets = match like_pattern(pattern.text()) {
        Some(like) => TextMeets::like(text, like),
        None => TextMeets::regex(text, pattern.anchored().to_owned()),
    };
    if negated { Expr::Not(Box::new(meets)) } else { meets }
}

/// What means something in a pattern besides itself; bars apart.
fn is_special(c: char) -> bool {
    "\\.+*?()[]{}^$".contains(c)
}

/// The words of a pattern that is nothing but words joined by bars.
fn plain_words(pattern: &str) -> Option<Vec<&str>> {
    (!pattern.contains(is_special)).then(|| pattern.split('|').collect())
}

/// The pattern of LIKE for text that begins with a word, ends with it or has it somewhere, which is found without a regular
/// expression.
fn like_pattern(pattern: &str) -> Option<String> {
    const ANYTHING: &str = ".*";
    let behind = pattern.strip_prefix(ANYTHING);
    let rest = behind.unwrap_or(pattern);
    let before = rest.strip_suffix(ANYTHING);
    let word = before.unwrap_or(rest);
    if word.is_empty() || word.contains(is_special) || word.contains('|') {
        return None;
    }
    let mut like = String::with_capacity(word.len() + 2);
    like.extend(behind.map(|_| '%'));
    for c in word.chars() {
        if matches!(c, '%' | '_') {
            like.push('\\');
        }
        like.push(c);
    }
    like.extend(before.map(|_| '%'));
    Some(like)
}

// ---- intrinsics -----------------------------------------------------------------------------------------------------

/// The text of an intrinsic of the span; an intrinsic is never missing, so what is stored as NULL is empty.
pub(super) fn intrinsic_text(intrinsic: Intrinsic) -> Option<Expr> {
    use Intrinsic::*;
    let or_empty = |expr: Expr| {
        let empty = (Box::new(expr.clone().is_null()), Box::new(lit("")));
        Expr::Case(Case::new(None, vec![empty], Some(Box::new(expr))))
    };
    Some(match intrinsic {
        Name => col(column::NAME),
        StatusMessage => or_empty(col(column::STATUS_MESSAGE)),
        InstrumentationName => or_empty(col(column::SCOPE_NAME)),
        InstrumentationVersion => or_empty(col(column::SCOPE_VERSION)),
        Status => col(column::STATUS_CODE),
        Kind => col(column::KIND),
        SpanId => id_hex(column::SPAN_ID)?,
        SpanParentId => or_empty(id_hex(column::PARENT_SPAN_ID)?),
        TraceId => datafusion::functions::string::expr_fn::ltrim(vec![id_hex(column::TRACE_ID)?, lit("0")]),
        _ => return None,
    })
}

/// The number of an intrinsic of the span.
pub(super) fn intrinsic_int(intrinsic: Intrinsic) -> Option<Expr> {
    match intrinsic {
        Intrinsic::Duration => Some(col(column::DURATION)),
        _ => None,
    }
}

fn id_hex(id: &str) -> Option<Expr> {
    Some(scalar_function("id_hex")?.call(vec![col(id)]))
}

fn compare_intrinsic(intrinsic: Intrinsic, op: ComparisonOp, literal: &Literal) -> Option<Expr> {
    let text = match literal {
        Literal::Int(value) | Literal::Duration(value) => {
            return Some(binary_expr(intrinsic_int(intrinsic)?, operator(op), lit(*value)));
        }
        Literal::Float(value) => return Some(compare_ints(intrinsic_int(intrinsic)?, op, *value)),
        Literal::String(text) => text.as_str(),
        Literal::Status(status) => status.name(),
        Literal::Kind(kind) => kind.name(),
        Literal::Bool(_) | Literal::Nil => return None,
    };
    if let Some(id) = compare_id(intrinsic, op, text) {
        return Some(id);
    }
    let stored = match intrinsic {
        Intrinsic::StatusMessage => Some(column::STATUS_MESSAGE),
        Intrinsic::InstrumentationName => Some(column::SCOPE_NAME),
        Intrinsic::InstrumentationVersion => Some(column::SCOPE_VERSION),
        _ => None,
    };
    match stored {
        // Statistics work on the column alone; a NULL is not this text.
        Some(column) if op == ComparisonOp::Eq && !text.is_empty() => Some(col(column).eq(lit(text))),
        _ => Some(binary_expr(intrinsic_text(intrinsic)?, operator(op), lit(text))),
    }
}

/// Equality of ids as equality of bytes. A text that is no id of a span equals none.
fn compare_id(intrinsic: Intrinsic, op: ComparisonOp, text: &str) -> Option<Expr> {
    let negated = match op {
        ComparisonOp::Eq => false,
        ComparisonOp::Ne => true,
        _ => return None,
    };
    let span_id = || (text.len() == 2 * SpanId::LEN).then(|| text.parse::<SpanId>().ok()).flatten();
    let (id, bytes) = match intrinsic {
        Intrinsic::TraceId => (column::TRACE_ID, text.parse::<TraceId>().ok().map(|id| id.as_bytes().to_vec())),
        Intrinsic::SpanId => (column::SPAN_ID, span_id().map(|id| id.as_bytes().to_vec())),
        // No parent is no text.
        Intrinsic::SpanParentId if text.is_empty() => {
            let parent = col(column::PARENT_SPAN_ID);
            return Some(if negated { parent.is_not_null() } else { parent.is_null() });
        }
        Intrinsic::SpanParentId => (column::PARENT_SPAN_ID, span_id().map(|id| id.as_bytes().to_vec())),
        _ => return None,
    };
    let Some(bytes) = bytes else { return Some(lit(negated)) };
    let equal = col(id).eq(lit(ScalarValue::FixedSizeBinary(bytes.len() as i32, Some(bytes))));
    Some(if negated { Expr::IsNotTrue(Box::new(equal)) } else { equal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_one_word_needs_no_regular_expression() {
        for (pattern, like) in [
            (".*shipments.*", Some("%shipments%")),
            ("GET /.*", Some("GET /%")),
            (".*_total", Some("%\\_total")),
            ("100%", Some("100\\%")),
            (".*", None),
            (".*.*", None),
            (".*a|b.*", None),
            (".*a+.*", None),
            (".*a\\.b.*", None),
            ("(?i).*a.*", None),
        ] {
            assert_eq!(like_pattern(pattern).as_deref(), like, "{pattern}");
        }
    }
}
