//! Labels: what tells the series of an answer apart.

use std::{cmp::Ordering, fmt};

/// A series' label: the text of the field that it comes from, and its value.
pub(crate) type Label = (String, LabelValue);

/// The label of a series that has no other: the name of its function.
pub(crate) const NAME: &str = "__name__";
/// What stands for a missing value.
pub(crate) const NIL: &str = "nil";

/// The value of a label. It keeps its type: 200 and "200" are different things.
#[derive(Clone, Debug)]
pub(crate) enum LabelValue {
    /// A boolean.
    Bool(bool),
    /// A float.
    Float(f64),
    /// An integer.
    Int(i64),
    /// Text, the word of a status or kind, a duration as Go writes it, or nested values as JSON.
    Text(String),
}

impl LabelValue {
    /// What stands for a missing value.
    pub(crate) fn nil() -> Self {
        Self::Text(NIL.to_owned())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Float(_) => 1,
            Self::Int(_) => 2,
            Self::Text(_) => 3,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            _ => 0,
        }
    }
}

impl PartialEq for LabelValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LabelValue {}

impl PartialOrd for LabelValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LabelValue {
    /// The order of series in answers: by the value as text with its type in front, text in quotes. Thus 1000 comes
    /// before 500, and `GET /` before `GET`.
    fn cmp(&self, other: &Self) -> Ordering {
        let quoted = |text: &'_ str| -> Vec<u8> { text.bytes().chain([b'"']).collect() };
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => float_text(*a).cmp(&float_text(*b)).then_with(|| a.total_cmp(b)),
            (Self::Int(a), Self::Int(b)) => a.to_string().cmp(&b.to_string()),
            (Self::Text(a), Self::Text(b)) => quoted(a).cmp(&quoted(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::Int(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A float in the shortest form, with an exponent where it is below -4 or above 20, as Go has it.
pub(crate) fn float_text(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..21).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => value.to_string(),
    }
}

/// The order of series in an answer: few labels first, then label by label, key before value.
pub(crate) fn compare_labels(a: &[Label], b: &[Label]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The order in which ties of a ranking are resolved: by the labels as plain text.
pub(crate) fn compare_as_text(a: &[Label], b: &[Label]) -> Ordering {
    let text =
        |labels: &[Label]| labels.iter().map(|(key, value)| (key.clone(), value.to_string())).collect::<Vec<_>>();
    text(a).cmp(&text(b)).then_with(|| compare_labels(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> LabelValue {
        LabelValue::Text(text.to_owned())
    }

    #[test]
    fn values_sort_by_type_and_then_as_text() {
        let sorted = [
            LabelValue::Bool(false),
            LabelValue::Bool(true),
            LabelValue::Float(0.000131072),
            LabelValue::Float(0.536870912),
            LabelValue::Float(0.000001024),
            LabelValue::Float(1.073741824),
            LabelValue::Float(0.000016384),
            LabelValue::Float(17.179869184),
            LabelValue::Float(0.000002048),
            LabelValue::Int(1000),
            LabelValue::Int(500),
            text("GET /"),
            text("GET"),
            text("nil"),
        ];
        for pair in sorted.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
    }

    #[test]
    fn floats_are_written_as_in_go() {
        let texts = [0.0, 0.5, 100.0, 0.000131072, 0.000001024, 1e21, 1e20].map(float_text);
        assert_eq!(texts, ["0", "0.5", "100", "0.000131072", "1.024e-06", "1e+21", "100000000000000000000"]);
    }

    #[test]
    fn few_labels_come_first_and_ties_go_by_plain_text() {
        let labels = |values: &[&str]| values.iter().map(|value| ("k".to_owned(), text(value))).collect::<Vec<Label>>();
        assert_eq!(compare_labels(&labels(&["z"]), &labels(&["a", "a"])), Ordering::Less);
        assert_eq!(compare_labels(&labels(&["GET /"]), &labels(&["GET"])), Ordering::Less);
        assert_eq!(compare_as_text(&labels(&["GET /"]), &labels(&["GET"])), Ordering::Greater);
    }
}
