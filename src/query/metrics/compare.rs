//! `compare({ ... })`: how often each value of each attribute occurs among the spans of a selection and among the others.
//!
//! The plan yields the spans with their attributes, and whether each is selected. Its partitions are counted side by
//! side, and the counts are added up:
//!
//! ```text
//!  attribute -> value -> (interval, side) -> spans
//! ```
//!
//! All values are counted, within the memory of the query, so that those that stay are the most frequent ones.

use std::{hash::Hash, mem::size_of};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, MapArray, RecordBatch, StringArray, StructArray},
        datatypes::{Float64Type, Int64Type},
    },
    common::{HashMap, Result as DfResult, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
    logical_expr::{Expr, LogicalPlan, col, lit},
};

use super::{
    compile::{Function, Leaf},
    interval::Intervals,
    label::{Label, LabelValue},
    leaf::{Scope, check_samples},
    series::{Origin, Series, SeriesSet},
};
use crate::{
    error::Error,
    model::{
        attributes::{VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_STR},
        schema::column,
    },
    query::traceql::spans::SpanValue,
};

const INTERVAL: &str = "interval";
const SELECTED: &str = "selected";
/// Label that says which side a series counts.
const META_TYPE: &str = "__meta_type";
/// Names of the sides and of their totals, by whether they are selected.
const SIDES: [&str; 2] = ["baseline", "selection"];
const TOTALS: [&str; 2] = ["baseline_total", "selection_total"];

/// Columns of text that count like attributes, and the names they have there.
const TEXTS: [(&str, &str); 6] = [
    (column::NAME, "name"),
    (column::KIND, "kind"),
    (column::STATUS_CODE, "status"),
    (column::STATUS_MESSAGE, "statusMessage"),
    (column::SCOPE_NAME, "instrumentation:name"),
    (column::SCOPE_VERSION, "instrumentation:version"),
];
/// Columns of attributes, and what stands before their keys.
const MAPS: [(&str, &str); 2] = [(column::SPAN_ATTRIBUTES, "span."), (column::RESOURCE_ATTRIBUTES, "resource.")];

/// The plan that yields what is counted.
pub(crate) fn plan(leaf: &Leaf, scope: Scope<'_>) -> DfResult<LogicalPlan> {
    let Function::Compare { selection, range, .. } = &leaf.function else {
        return Err(internal_datafusion_err!("{} compares nothing", leaf.name));
    };
    let start = || col(column::START_TIME);
    let selected = match range {
        Some((from, to)) => col(SELECTED).and(start().gt_eq(lit(*from))).and(start().lt(lit(*to))),
        None => col(SELECTED),
    };
    let mut asked = vec![(SELECTED.to_owned(), SpanValue::Holds(selection.clone()))];
    let columns: Vec<&str> = TEXTS.iter().chain(&MAPS).map(|(column, _)| *column).collect();
    // Names of their own, because the spans have some of these columns anyway.
    asked.extend(columns.iter().map(|column| (asked_name(column), SpanValue::Expr(col(*column)))));
    let mut shown: Vec<Expr> = vec![scope.intervals.index_expr().alias(INTERVAL), selected.alias(SELECTED)];
    shown.extend(columns.iter().map(|column| col(asked_name(column))));
    leaf.spans(scope, asked)?.project(shown)?.build()
}

fn asked_name(column: &str) -> String {
    format!("of_{column}")
}

/// Spans per moment: interval times two, plus one for the selection. Most values come in order of time.
#[derive(Clone, Debug, Default)]
struct Counts(Vec<(u32, u64)>);

impl Counts {
    /// Bytes that this takes more.
    fn add(&mut self, moment: u32, spans: u64) -> usize {
        if let Some(last) = self.0.last_mut().filter(|last| last.0 == moment) {
            last.1 += spans;
            return 0;
        }
        match self.0.binary_search_by_key(&moment, |(moment, _)| *moment) {
            Ok(index) => {
                self.0[index].1 += spans;
                0
            }
            Err(index) => {
                self.0.insert(index, (moment, spans));
                2 * size_of::<(u32, u64)>()
            }
        }
    }

    fn merge(&mut self, other: &Counts) {
        for (moment, spans) in &other.0 {
            self.add(*moment, *spans);
        }
    }

    fn of_side(&self, side: u32) -> u64 {
        self.0.iter().filter(|(moment, _)| moment % 2 == side).map(|(_, spans)| spans).sum()
    }

    fn series(&self, side: u32, labels: Vec<Label>, intervals: Intervals) -> Series {
        let mut values = vec![0.0; intervals.count()];
        for (moment, spans) in self.0.iter().filter(|(moment, _)| moment % 2 == side) {
            values[(moment / 2) as usize] = *spans as f64;
        }
        Series { labels, values, exemplars: Vec::new(), origin: Origin::default() }
    }
}

/// Values of one attribute.
#[derive(Clone, Debug, Default)]
struct Values {
    texts: HashMap<Box<str>, Counts>,
    ints: HashMap<i64, Counts>,
    floats: HashMap<u64, Counts>,
    bools: HashMap<bool, Counts>,
    all: Counts,
}

/// Counts of all attributes in some of the spans.
#[derive(Debug)]
pub(crate) struct Tally {
    attributes: HashMap<String, Values>,
    memory: MemoryReservation,
}

fn bump<K: Hash + Eq>(values: &mut HashMap<K, Counts>, key: K, moment: u32) -> usize {
    let mut grown = 0;
    let counts = values.entry(key).or_insert_with(|| {
        grown = 2 * (size_of::<K>() + size_of::<Counts>());
        Counts::default()
    });
    grown + counts.add(moment, 1)
}

impl Values {
    /// Bytes that this takes more.
    fn text(&mut self, text: &str, moment: u32) -> usize {
        let grown = match self.texts.get_mut(text) {
            Some(counts) => counts.add(moment, 1),
            None => text.len() + bump(&mut self.texts, Box::from(text), moment),
        };
        grown + self.all.add(moment, 1)
    }

    fn merge(&mut self, other: Values) {
        fn all<K: Hash + Eq>(into: &mut HashMap<K, Counts>, from: HashMap<K, Counts>) {
            for (key, counts) in from {
                into.entry(key).or_default().merge(&counts);
            }
        }
        all(&mut self.texts, other.texts);
        all(&mut self.ints, other.ints);
        all(&mut self.floats, other.floats);
        all(&mut self.bools, other.bools);
        self.all.merge(&other.all);
    }

    /// The values with most spans on a side, most first; of equals those that come first as text.
    fn most_frequent(&self, side: u32, top: usize) -> Vec<(u64, LabelValue, &Counts)> {
        let mut spans: Vec<u64> = self.counts().map(|counts| counts.of_side(side)).filter(|spans| *spans > 0).collect();
        // Most values are out by their number, and need not be compared as text.
        let least = match spans.len() > top && top > 0 {
            true => *spans.select_nth_unstable_by(top - 1, |a, b| b.cmp(a)).1,
            false => 1,
        };
        drop(spans);
        let ranked = self.values(|counts| counts.of_side(side) >= least);
        let mut ranked: Vec<(u64, LabelValue, &Counts)> =
            ranked.map(|(value, counts)| (counts.of_side(side), value, counts)).collect();
        let order = |a: &(u64, LabelValue, &Counts), b: &(u64, LabelValue, &Counts)| {
            b.0.cmp(&a.0)
                .then_with(|| match (&a.1, &b.1) {
                    (LabelValue::Text(a), LabelValue::Text(b)) => a.cmp(b),
                    (a, b) => a.to_string().cmp(&b.to_string()),
                })
                .then_with(|| a.1.cmp(&b.1))
        };
        if ranked.len() > top && top > 0 {
            ranked.select_nth_unstable_by(top - 1, order);
            ranked.truncate(top);
        }
        ranked.sort_by(order);
        ranked.truncate(top);
        ranked
    }

    fn counts(&self) -> impl Iterator<Item = &Counts> {
        self.texts.values().chain(self.ints.values()).chain(self.floats.values()).chain(self.bools.values())
    }

    fn values(&self, is_wanted: impl Fn(&Counts) -> bool + Copy) -> impl Iterator<Item = (LabelValue, &Counts)> {
        let texts = self.texts.iter().filter(move |(_, counts)| is_wanted(counts));
        let texts = texts.map(|(text, counts)| (LabelValue::Text(text.to_string()), counts));
        let ints = self.ints.iter().map(|(value, counts)| (LabelValue::Int(*value), counts));
        let floats = self.floats.iter().map(|(bits, counts)| (LabelValue::Float(f64::from_bits(*bits)), counts));
        let bools = self.bools.iter().map(|(value, counts)| (LabelValue::Bool(*value), counts));
        texts.chain(ints.chain(floats).chain(bools).filter(move |(_, counts)| is_wanted(counts)))
    }
}

impl Tally {
    /// Nothing counted yet; the counts' memory is the reservation's.
    pub(crate) fn new(memory: MemoryReservation) -> Self {
        Self { attributes: HashMap::new(), memory }
    }

    /// Counts rows of [`plan`].
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> DfResult<()> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| internal_datafusion_err!("compare() got no column {name}"))
        };
        let intervals: &Int64Array = column(INTERVAL)?.as_primitive::<Int64Type>();
        let selected: &BooleanArray = column(SELECTED)?.as_boolean();
        let moments: Vec<u32> = (0..batch.num_rows())
            .map(|row| intervals.value(row) as u32 * 2 + u32::from(selected.is_valid(row) && selected.value(row)))
            .collect();
        let mut grown = 0;
        for (name, shown) in TEXTS {
            grown += self.add_texts(shown, column(&asked_name(name))?, &moments);
        }
        for (name, prefix) in MAPS {
            let maps = column(&asked_name(name))?;
            let maps = maps.as_map_opt().ok_or_else(|| internal_datafusion_err!("{name} are no attributes"))?;
            grown += self.add_maps(prefix, maps, &moments)?;
        }
        self.memory.try_grow(grown)
    }

    fn add_texts(&mut self, name: &str, texts: &ArrayRef, moments: &[u32]) -> usize {
        let texts: &StringArray = texts.as_string();
        let values = self.attributes.entry(name.to_owned()).or_default();
        let mut grown = 0;
        for (row, moment) in moments.iter().enumerate() {
            if texts.is_valid(row) && !texts.value(row).is_empty() {
                grown += values.text(texts.value(row), *moment);
            }
        }
        grown
    }

    fn add_maps(&mut self, prefix: &str, maps: &MapArray, moments: &[u32]) -> DfResult<usize> {
        let keys: &StringArray = maps.keys().as_string();
        let values: &StructArray = maps.values().as_struct();
        let texts: &StringArray = values.column(VALUE_STR).as_string();
        let ints = values.column(VALUE_INT).as_primitive::<Int64Type>();
        let floats = values.column(VALUE_FLOAT).as_primitive::<Float64Type>();
        let bools = values.column(VALUE_BOOL).as_boolean();
        let mut grown = 0;
        // Owned by this batch, so that a name is put together once per batch and not once per span.
        let mut names: HashMap<&str, String> = HashMap::new();
        for (row, moment) in moments.iter().enumerate() {
            if maps.is_null(row) {
                continue;
            }
            let (from, to) = (maps.value_offsets()[row] as usize, maps.value_offsets()[row + 1] as usize);
            for entry in from..to {
                let key = keys.value(entry);
                let name = names.entry(key).or_insert_with(|| format!("{prefix}{key}"));
                let counted = match self.attributes.get_mut(name.as_str()) {
                    Some(counted) => counted,
                    None => {
                        grown += name.len() + 2 * size_of::<(String, Values)>();
                        self.attributes.entry(name.clone()).or_default()
                    }
                };
                grown += if texts.is_valid(entry) {
                    counted.text(texts.value(entry), *moment)
                } else if ints.is_valid(entry) {
                    bump(&mut counted.ints, ints.value(entry), *moment) + counted.all.add(*moment, 1)
                } else if floats.is_valid(entry) {
                    bump(&mut counted.floats, floats.value(entry).to_bits(), *moment) + counted.all.add(*moment, 1)
                } else if bools.is_valid(entry) {
                    bump(&mut counted.bools, bools.value(entry), *moment) + counted.all.add(*moment, 1)
                } else {
                    0
                };
            }
        }
        Ok(grown)
    }

    /// The counts of both.
    pub(crate) fn merge(&mut self, other: Tally) {
        for (name, values) in other.attributes {
            self.attributes.entry(name).or_default().merge(values);
        }
        // What the other holds is held here now, at most.
        self.memory.grow(other.memory.size());
    }

    /// The series: per attribute and side the `top` values with most spans, and how many spans have it at all.
    ///
    /// # Errors
    /// There are more samples than `samples_max`.
    pub(crate) fn series(&self, top: usize, intervals: Intervals, samples_max: usize) -> Result<SeriesSet, Error> {
        let mut series = Vec::new();
        for (name, values) in &self.attributes {
            for side in [0_u32, 1] {
                let of_type = |names: [&str; 2], value: LabelValue| {
                    let side = names[side as usize].to_owned();
                    vec![(META_TYPE.to_owned(), LabelValue::Text(side)), (name.clone(), value)]
                };
                if values.all.of_side(side) == 0 {
                    continue;
                }
                series.push(values.all.series(side, of_type(TOTALS, LabelValue::nil()), intervals));
                let ranked = values.most_frequent(side, top);
                series.extend(
                    ranked.into_iter().map(|(_, value, counts)| counts.series(side, of_type(SIDES, value), intervals)),
                );
                check_samples(series.len(), intervals, samples_max)?;
            }
        }
        Ok(SeriesSet { name: "compare".to_owned(), series })
    }
}
