//! Finished series, and what a query does to them after its metrics function.
//!
//! A series has a value for each interval; one that is missing is not a number. `topk`, `bottomk` and comparisons make
//! values missing, arithmetic joins series by their labels, and a series without any value vanishes.

use std::{cmp::Ordering, collections::HashMap};

use super::label::{Label, LabelValue, NAME, compare_as_text, float_text};
use crate::traceql::{
    ast::{ArithmeticOp, ComparisonOp},
    literal::Literal,
};

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// What tells it from others.
    pub(crate) labels: Vec<Label>,
    /// One value per interval; what is not a number is missing.
    pub(crate) values: Vec<f64>,
    /// Spans that stand for its values.
    pub(crate) exemplars: Vec<Exemplar>,
    /// Which spans it came from.
    pub(crate) origin: Origin,
}

/// The spans that a series came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The position of the metrics function that they are of. Of a series that arithmetic has made, it is the one whose
    /// labels it has.
    pub(crate) leaf: usize,
    /// The group of spans with equal labels.
    pub(crate) group: usize,
    /// The bucket of their values, where these were put into buckets and each bucket is a series.
    pub(crate) bucket: u32,
}

/// A span that stands for a value of a series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exemplar {
    /// Start of the span in Unix nanoseconds.
    pub(crate) unix_nano: i64,
    /// Where it stands on the axis of values.
    pub(crate) value: f64,
    /// Its trace, its span id and what the query mentions.
    pub(crate) labels: Vec<Label>,
}

impl Series {
    /// Whether no value is left.
    fn is_empty(&self) -> bool {
        self.values.iter().all(|value| value.is_nan())
    }

    /// The labels by which series of two sides find each other.
    fn join_key(&self) -> &[Label] {
        match self.labels.as_slice() {
            [(key, _)] if key == NAME => &[],
            labels => labels,
        }
    }
}

/// The series of a query or of a side of its arithmetic.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SeriesSet {
    /// The function, or the arithmetic, that they come from.
    pub(crate) name: String,
    /// The series, in no order.
    pub(crate) series: Vec<Series>,
}

/// A side of an arithmetic operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Side {
    /// Series.
    Series(SeriesSet),
    /// A number for every moment.
    Number(f64),
}

impl SeriesSet {
    /// Keeps at each moment the `most` series with the greatest values, or with the least.
    pub(crate) fn keep_ranked(&mut self, most: usize, greatest: bool) {
        if self.series.len() <= most {
            return;
        }
        self.series.sort_by(|a, b| compare_as_text(&a.labels, &b.labels));
        let intervals = self.series.first().map_or(0, |series| series.values.len());
        let mut order: Vec<usize> = Vec::with_capacity(self.series.len());
        for interval in 0..intervals {
            let value = |index: &usize| self.series[*index].values[interval];
            order.clear();
            order.extend((0..self.series.len()).filter(|index| !value(index).is_nan()));
            if order.len() <= most {
                continue;
            }
            let by_rank = |a: &usize, b: &usize| {
                let ascending = value(a).partial_cmp(&value(b)).unwrap_or(Ordering::Equal);
                let ranked = if greatest { ascending.reverse() } else { ascending };
                ranked.then(a.cmp(b))
            };
            order.select_nth_unstable_by(most, by_rank);
            let dropped: Vec<usize> = order[most..].to_vec();
            for index in dropped {
                self.series[index].values[interval] = f64::NAN;
            }
        }
        self.drop_empty();
    }

    /// Keeps the values that compare so with a number; durations are seconds.
    pub(crate) fn keep_compared(&mut self, op: ComparisonOp, number: &Literal) {
        let bound = match number {
            Literal::Duration(nanos) => *nanos as f64 / 1e9,
            other => other.as_f64().unwrap_or(f64::NAN),
        };
        let holds = |value: f64| value.partial_cmp(&bound).is_some_and(|order| op.accepts(order));
        for series in &mut self.series {
            series.values.iter_mut().filter(|value| !holds(**value)).for_each(|value| *value = f64::NAN);
        }
        self.drop_empty();
    }

    /// Removes series without any value.
    pub(crate) fn drop_empty(&mut self) {
        self.series.retain(|series| !series.is_empty());
    }
}

impl Side {
    /// `self op other`, moment by moment.
    pub(crate) fn combine(self, op: ArithmeticOp, other: Side) -> Side {
        let apply = |a: f64, b: f64| match op {
            ArithmeticOp::Add => a + b,
            ArithmeticOp::Sub => a - b,
            ArithmeticOp::Mul => a * b,
            ArithmeticOp::Div if b == 0.0 => f64::NAN,
            ArithmeticOp::Div => a / b,
            ArithmeticOp::Mod => a % b,
            ArithmeticOp::Pow => a.powf(b),
        };
        let name = format!("({} {} {})", self.name(), op.sign(), other.name());
        let mut set = match (self, other) {
            (Side::Number(a), Side::Number(b)) => return Side::Number(apply(a, b)),
            (Side::Series(a), Side::Number(b)) => a.map(|value| apply(value, b)),
            (Side::Number(a), Side::Series(b)) => b.map(|value| apply(a, value)),
            (Side::Series(a), Side::Series(b)) => join(&a, &b, apply),
        };
        for series in &mut set.series {
            if series.join_key().is_empty() {
                series.labels = vec![(NAME.to_owned(), LabelValue::Text(name.clone()))];
            }
        }
        set.name = name;
        set.drop_empty();
        Side::Series(set)
    }

    fn name(&self) -> String {
        match self {
            Side::Series(set) => set.name.clone(),
            Side::Number(number) => float_text(*number),
        }
    }
}

impl SeriesSet {
    fn map(mut self, apply: impl Fn(f64) -> f64) -> Self {
        for series in &mut self.series {
            series.values.iter_mut().for_each(|value| *value = apply(*value));
            series.exemplars.clear();
        }
        self
    }

    /// The only series, if it has no label of its own.
    fn unlabelled(&self) -> Option<&Series> {
        match self.series.as_slice() {
            [only] if only.join_key().is_empty() => Some(only),
            _ => None,
        }
    }
}

fn join(lhs: &SeriesSet, rhs: &SeriesSet, apply: impl Fn(f64, f64) -> f64) -> SeriesSet {
    let values =
        |a: &Series, b: &Series| a.values.iter().zip(&b.values).map(|(a, b)| apply(*a, *b)).collect::<Vec<_>>();
    let joined = |labels: &Series, values| Series { exemplars: Vec::new(), values, ..labels.clone() };
    let series = match (lhs.unlabelled(), rhs.unlabelled()) {
        (_, Some(b)) => lhs.series.iter().map(|a| joined(a, values(a, b))).collect(),
        (Some(a), None) => rhs.series.iter().map(|b| joined(b, values(a, b))).collect(),
        (None, None) => {
            let by_key: HashMap<String, &Series> = rhs.series.iter().map(|b| (key_text(b), b)).collect();
            let pairs = lhs.series.iter().filter_map(|a| Some((a, *by_key.get(&key_text(a))?)));
            pairs.map(|(a, b)| joined(a, values(a, b))).collect()
        }
    };
    SeriesSet { name: String::new(), series }
}

/// The labels in a form that is equal if they are; their order does not matter.
fn key_text(series: &Series) -> String {
    let mut labels: Vec<&Label> = series.join_key().iter().collect();
    labels.sort();
    format!("{labels:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f64 = f64::NAN;

    fn labelled(labels: &[(&str, &str)], values: &[f64]) -> Series {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), LabelValue::Text((*value).to_owned())));
        Series { labels: labels.collect(), values: values.to_vec(), exemplars: Vec::new(), origin: Origin::default() }
    }

    fn set(name: &str, series: Vec<Series>) -> SeriesSet {
        SeriesSet { name: name.to_owned(), series }
    }

    fn shown(set: &SeriesSet) -> Vec<String> {
        let mut lines: Vec<String> = set
            .series
            .iter()
            .map(|series| {
                let labels: Vec<String> = series.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("{} {:?}", labels.join(","), series.values)
            })
            .collect();
        lines.sort();
        lines
    }

    fn combined(lhs: Side, op: ArithmeticOp, rhs: Side) -> Vec<String> {
        match lhs.combine(op, rhs) {
            Side::Series(set) => shown(&set),
            Side::Number(number) => vec![number.to_string()],
        }
    }

    #[test]
    fn ranking_is_by_moment_and_ties_go_by_text() {
        let three = || {
            set(
                "rate",
                vec![
                    labelled(&[("k", "c")], &[1.0, 5.0, 0.0]),
                    labelled(&[("k", "a")], &[1.0, 1.0, NONE]),
                    labelled(&[("k", "b")], &[1.0, 7.0, 0.0]),
                ],
            )
        };
        let mut top = three();
        top.keep_ranked(1, true);
        assert_eq!(shown(&top), ["k=a [1.0, NaN, NaN]", "k=b [NaN, 7.0, 0.0]"]);
        let mut bottom = three();
        bottom.keep_ranked(2, false);
        assert_eq!(shown(&bottom), ["k=a [1.0, 1.0, NaN]", "k=b [1.0, NaN, 0.0]", "k=c [NaN, 5.0, 0.0]"]);
        let mut all = three();
        all.keep_ranked(3, true);
        assert_eq!(all.series.len(), 3);
    }

    #[test]
    fn a_comparison_keeps_points_and_drops_what_has_none() {
        let mut kept =
            set("rate", vec![labelled(&[("k", "a")], &[1.0, 3.0, NONE]), labelled(&[("k", "b")], &[0.0; 3])]);
        kept.keep_compared(ComparisonOp::Ge, &Literal::Duration(1_500_000_000));
        assert_eq!(shown(&kept), ["k=a [NaN, 3.0, NaN]"]);
        let mut different = set("rate", vec![labelled(&[("k", "a")], &[1.0, NONE])]);
        different.keep_compared(ComparisonOp::Ne, &Literal::Int(2));
        assert_eq!(shown(&different), ["k=a [1.0, NaN]"]);
    }

    #[test]
    fn series_join_on_equal_labels() {
        let lhs = set("rate", vec![labelled(&[("k", "a")], &[6.0, 1.0]), labelled(&[("k", "b")], &[1.0, 1.0])]);
        let rhs = set("sum", vec![labelled(&[("k", "a")], &[3.0, 0.0]), labelled(&[("k", "c")], &[1.0, 1.0])]);
        let ratio = combined(Side::Series(lhs), ArithmeticOp::Div, Side::Series(rhs));
        assert_eq!(ratio, ["k=a [2.0, NaN]"]);
    }

    #[test]
    fn a_side_without_labels_meets_every_series() {
        let all = || Side::Series(set("rate", vec![labelled(&[(NAME, "rate")], &[4.0])]));
        let by = || Side::Series(set("count", vec![labelled(&[("k", "a")], &[1.0]), labelled(&[("k", "b")], &[2.0])]));
        assert_eq!(combined(by(), ArithmeticOp::Div, all()), ["k=a [0.25]", "k=b [0.5]"]);
        assert_eq!(combined(all(), ArithmeticOp::Sub, by()), ["k=a [3.0]", "k=b [2.0]"]);
        assert_eq!(combined(all(), ArithmeticOp::Div, all()), ["__name__=(rate / rate) [1.0]"]);
        assert_eq!(combined(Side::Number(2.0), ArithmeticOp::Mul, all()), ["__name__=(2 * rate) [8.0]"]);
        assert_eq!(combined(all(), ArithmeticOp::Div, Side::Number(0.0)), Vec::<String>::new());
    }
}
