//! Labels of series: section 8.

use tracehouse::traceql::ast::Field;

use super::{
    expression::Subject,
    metrics::is_duration,
    value::{self, Val},
};

pub(super) type Labels = Vec<(String, Val)>;

/// The labels of `by(...)` for a span.
pub(super) fn of_span(by: &[Field], span: Subject<'_>) -> Labels {
    let value = |field: &Field| match span.field(&field.name) {
        Val::Status(status) => Val::Str(status.name().to_owned()),
        Val::Kind(kind) => Val::Str(kind.name().to_owned()),
        Val::Int(nanos) if is_duration(field) => value::duration_text(nanos),
        Val::Opaque(json) if json == "null" => Val::Missing,
        Val::Opaque(json) | Val::Array(_, json) => Val::Str(json),
        other => other,
    };
    let again = |at: usize| by[..at].iter().any(|field| field.name == by[at].name);
    let each = by.iter().enumerate().filter(|(at, _)| !again(*at));
    let all: Vec<(String, Val)> = each.map(|(_, field)| (field.name.to_string(), value(field))).collect();
    let there: Vec<(String, Val)> = all.iter().filter(|(_, value)| *value != Val::Missing).cloned().collect();
    match (there.is_empty(), all.first()) {
        (true, Some((name, _))) => vec![(name.clone(), Val::Str("nil".to_owned()))],
        _ => there,
    }
}

/// The text of labels, as answers are compared by.
pub(crate) fn label_text(labels: &[(String, Val)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{{{}}}", labels.join(", "))
}

/// The labels without the name of the function.
pub(super) fn own_labels(labels: &[(String, Val)]) -> Labels {
    labels.iter().filter(|(name, _)| name != "__name__").cloned().collect()
}

/// The name of the function.
pub(super) fn name(labels: &[(String, Val)]) -> String {
    let value = labels.iter().find(|(name, _)| name == "__name__").map(|(_, value)| value.clone());
    if let Some(Val::Str(name)) = value { name } else { String::new() }
}

/// What the order of series in an answer goes by.
pub(super) fn order(labels: &[(String, Val)]) -> (usize, Vec<(String, u8, String)>) {
    let label = |(name, value): &(String, Val)| {
        let type_rank = match value {
            Val::Bool(_) => 0,
            Val::Float(_) => 1,
            Val::Int(_) => 2,
            _ => 3,
        };
        let text = if type_rank == 3 { format!("{}\"", plain(value)) } else { plain(value) };
        (name.clone(), type_rank, text)
    };
    (labels.len(), labels.iter().map(label).collect())
}

/// What the choice among series of equal rank goes by.
pub(super) fn plain_order(labels: &[(String, Val)]) -> impl Ord + use<> {
    let texts: Vec<(String, String)> = labels.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    (texts, order(labels))
}

/// The text of a value without quotes, numbers as Go writes them.
pub(super) fn plain(value: &Val) -> String {
    match value {
        Val::Str(text) => text.clone(),
        Val::Float(float) => go_float(*float),
        other => other.to_string(),
    }
}

/// With an exponent of two digits at least below 10^-4 and from 10^21 on.
fn go_float(value: f64) -> String {
    if value == 0.0 || (1e-4..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
