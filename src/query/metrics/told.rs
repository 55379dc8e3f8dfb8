//! Exemplars of which the aggregation tells all that is shown.
//!
//! What the query mentions of a span is mostly what its group has as labels, the number that the function took, or a status,
//! kind or name that its filter asks for. Then nothing has to be read again but the id of its trace, which is noted itself or
//! in memory by its row ([`SpansTable::traces_of_rows`](crate::query::spans_table::SpansTable::traces_of_rows)).

use std::collections::{BTreeMap, HashMap};

use super::{
    cell::Seen,
    compile::{Function, Leaf},
    exemplars::{Fetched, Found, Moment},
    fields::Number,
    groups::Groups,
    label::{Label, LabelValue},
    part::PlaceKind,
};
use crate::{
    model::ids::TraceId,
    traceql::{ast::FieldName, literal::format_duration},
};

/// Where a mentioned field is shown from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// The label of that key.
    Label,
    /// The number that the function takes.
    Number,
    /// All spans have this one.
    Fixed(LabelValue),
}

/// The fields that a query mentions, and where they are shown from.
#[derive(Clone, Debug)]
pub(crate) struct Told<'a> {
    leaf: &'a Leaf,
    shown: Vec<(String, Source)>,
}

impl<'a> Told<'a> {
    /// `None` if something has to be read that the aggregation does not tell.
    pub(crate) fn of(leaf: &'a Leaf) -> Option<Self> {
        let source = |field: &FieldName| {
            let key = field.to_string();
            if leaf.labels.iter().any(|label| label.key == key) {
                return Some((key, Source::Label));
            }
            if leaf.number().is_some_and(|number| number.shows(field)) {
                return Some((key, Source::Number));
            }
            let (_, value) = leaf.fixed.iter().find(|(known, _)| known == field)?;
            Some((key, Source::Fixed(value.clone())))
        };
        let shown = leaf.mentioned.iter().map(source).collect::<Option<_>>()?;
        Some(Self { leaf, shown })
    }

    /// Takes the spans at these moments whose trace is known, by the row of a file where it is not noted itself; gives back the
    /// other moments.
    pub(crate) fn take(
        &self,
        fetched: &mut Fetched,
        groups: &Groups,
        chosen: &[Moment],
        by_row: &HashMap<u64, TraceId>,
    ) -> Vec<Moment> {
        let mut left = Vec::new();
        for moment in chosen {
            let seen = groups.seen_at(moment.group, moment.bucket, moment.start);
            let trace = |seen: &Seen| {
                let place = seen.place()?;
                match groups.places {
                    PlaceKind::None => None,
                    PlaceKind::Traces => Some(TraceId::from_bytes(place.to_be_bytes())),
                    PlaceKind::Rows => by_row.get(&u64::try_from(place).ok()?).copied(),
                }
            };
            match seen.and_then(|seen| Some((trace(seen)?, seen))) {
                Some((trace, seen)) => {
                    let found = self.found(groups.labels(moment.group), seen);
                    fetched.insert(*moment, BTreeMap::from([(trace.as_bytes().to_vec(), found)]));
                }
                None => left.push(*moment),
            }
        }
        left
    }

    fn found(&self, labels: &[Label], seen: &Seen) -> Found {
        let number = self.leaf.number().map(|number| match &self.leaf.function {
            Function::Reduce(..) => (number, f64::from_bits(seen.number)),
            _ => (number, seen.number.cast_signed() as f64),
        });
        // A group without labels has the first as what it is not.
        let is_nil = matches!(labels, [(_, value)] if *value == LabelValue::nil());
        let value = |key: &String, source: &Source| match source {
            Source::Label if is_nil => None,
            Source::Label => labels.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()),
            Source::Number => number.map(|(number, float)| shown_number(self.leaf, number, seen, float)),
            Source::Fixed(value) => Some(value.clone()),
        };
        let shown = self.shown.iter().filter_map(|(key, source)| Some((key.clone(), value(key, source)?)));
        Found { number: number.map(|(_, float)| float), labels: shown.collect() }
    }
}

/// A number as the label of its field.
fn shown_number(leaf: &Leaf, number: &Number, seen: &Seen, float: f64) -> LabelValue {
    let int = match &leaf.function {
        Function::Reduce(..) => float as i64,
        _ => seen.number.cast_signed(),
    };
    if number.is_duration { LabelValue::Text(format_duration(int)) } else { LabelValue::Int(int) }
}
