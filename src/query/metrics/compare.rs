//! `compare({ ... })`: how often each value of each attribute occurs among the spans of a selection and among the others.
//!
//! The plan yields the spans with their attributes, and whether each is selected. Its partitions are counted side by
//! side, and the counts are added up:
//!
//! ```text
//!  attribute -> value -> (interval, side) -> spans
//! ```
//!
//! Attributes that may have columns of their own are asked for one by one, so that no map is put together of what lies apart.
//! All values are counted, within the memory of the query, so that those that stay are the most frequent ones.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, MapArray, RecordBatch, StringArray, StructArray},
        datatypes::{Float64Type, Int64Type},
    },
    common::{HashMap, Result as DfResult, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
    logical_expr::{Expr, LogicalPlan, ScalarUDF, col, lit},
};

use super::{
    codes::Codes,
    compile::{Function, Leaf},
    interval::Intervals,
    label::{Label, LabelValue},
    leaf::{Scope, check_samples},
    series::{Origin, Series, SeriesSet},
};
use crate::{
    error::Error,
    functions::{AttrFunction, AttrRest, scalar_function},
    model::{
        attributes::{AttributeScope, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_STR},
        promotion::PromotedAttribute,
        schema::column,
    },
    query::traceql::spans::SpanValue,
};

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
/// Scopes whose attributes are counted.
const SCOPES: [AttributeScope; 2] = [AttributeScope::Span, AttributeScope::Resource];

/// What is counted of each span, column by column.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    columns: Vec<CountedColumn>,
}

#[derive(Clone, Debug)]
enum CountedColumn {
    /// The values of one attribute, under this name; empty text counts only where it is an attribute's.
    Values { name: String, value: Expr, is_attribute: bool, is_text: bool },
    /// All attributes of a scope, but for those with values of their own: keys and types of these.
    Rest { scope: AttributeScope, map: Expr, listed: HashSet<(String, AttributeType)> },
}

impl Counted {
    /// Everything that `compare()` counts, where these attributes may have columns of their own.
    pub(crate) fn of(promoted: &[PromotedAttribute]) -> Self {
        let texts = TEXTS.iter().map(|(column, name)| CountedColumn::Values {
            name: (*name).to_owned(),
            value: col(*column),
            is_attribute: false,
            is_text: true,
        });
        let mut columns: Vec<CountedColumn> = texts.collect();
        for scope in SCOPES {
            let Some(map) = scope.map_column() else { continue };
            let (mut listed, mut rest) = (HashSet::new(), vec![col(map)]);
            for attribute in promoted.iter().filter(|attribute| attribute.scope == scope) {
                let get = AttrFunction::ALL.into_iter().find(|get| get.exact_type() == Some(attribute.value_type));
                let Some(get) = get.and_then(|get| scalar_function(get.name())) else { continue };
                let key: &str = &attribute.key;
                if !listed.insert((key.to_owned(), attribute.value_type)) {
                    continue;
                }
                let value = get.call(vec![col(map), lit(key)]);
                rest.extend([lit(key), lit(AttrRest::type_name(attribute.value_type))]);
                let is_text = attribute.value_type == AttributeType::Str;
                columns.push(CountedColumn::Values {
                    name: shown_name(scope, key),
                    value,
                    is_attribute: true,
                    is_text,
                });
            }
            let map = ScalarUDF::from(AttrRest::default()).call(rest);
            columns.push(CountedColumn::Rest { scope, map, listed });
        }
        Self { columns }
    }

    /// Expressions on the base table by column names of their own.
    fn asked(&self) -> impl Iterator<Item = (String, SpanValue)> {
        self.columns.iter().enumerate().map(|(index, column)| {
            let value = match column {
                CountedColumn::Values { value, is_text: true, .. } => SpanValue::Text(value.clone()),
                CountedColumn::Values { value, .. } => SpanValue::Expr(value.clone()),
                CountedColumn::Rest { map, .. } => SpanValue::Expr(map.clone()),
            };
            (counted_name(index), value)
        })
    }
}

fn counted_name(index: usize) -> String {
    format!("counted_{index}")
}

/// The name of an attribute in answers.
fn shown_name(scope: AttributeScope, key: &str) -> String {
    format!("{}.{key}", scope.prefix())
}

/// The plan that yields what is counted.
pub(crate) fn plan(leaf: &Leaf, counted: &Counted, scope: Scope<'_>) -> DfResult<LogicalPlan> {
    let Function::Compare { selection, range, .. } = &leaf.function else {
        return Err(internal_datafusion_err!("{} compares nothing", leaf.name));
    };
    let start = || col(column::START_TIME);
    let selected = match range {
        Some((from, to)) => col(SELECTED).and(start().gt_eq(lit(*from))).and(start().lt(lit(*to))),
        None => col(SELECTED),
    };
    let mut asked = vec![(SELECTED.to_owned(), SpanValue::Holds(selection.clone()))];
    asked.extend(counted.asked());
    let mut shown: Vec<Expr> = vec![start(), selected.alias(SELECTED)];
    shown.extend((0..counted.columns.len()).map(|index| col(counted_name(index))));
    leaf.spans(scope, asked)?.project(shown)?.build()
}

/// Spans per moment: interval times two, plus one for the selection. Most values come in order of time.
#[derive(Clone, Debug, Default)]
struct Counts(Vec<(u32, u64)>);

impl Counts {
    /// Bytes that this takes more.
    fn add(&mut self, moment: u32, spans: u64) -> usize {
        // Of one interval there are two, and most spans are of the last.
        if let Some(known) = self.0.iter_mut().rev().take(2).find(|known| known.0 == moment) {
            known.1 += spans;
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
#[derive(Debug, Default)]
struct Values {
    codes: Codes,
    /// By code.
    counts: Vec<Counts>,
}

/// Counts of all attributes in some of the spans.
#[derive(Debug)]
pub(crate) struct Tally {
    counted: Arc<Counted>,
    intervals: Intervals,
    attributes: HashMap<String, Values>,
    bytes: usize,
    memory: MemoryReservation,
}

/// The moments of the rows of a batch, of which most batches have a few.
#[derive(Debug)]
struct Moments {
    by_row: Vec<u32>,
    /// The different ones.
    distinct: Vec<u32>,
    /// By row: which of these it is.
    places: Vec<u32>,
}

impl Moments {
    fn of(by_row: Vec<u32>) -> Self {
        let (mut distinct, mut places) = (Vec::new(), Vec::with_capacity(by_row.len()));
        let mut known: HashMap<u32, u32> = HashMap::new();
        let mut last = None;
        for moment in &by_row {
            let place = match last {
                Some((same, place)) if same == *moment => place,
                _ => *known.entry(*moment).or_insert_with(|| {
                    distinct.push(*moment);
                    distinct.len() as u32 - 1
                }),
            };
            last = Some((*moment, place));
            places.push(place);
        }
        Self { by_row, distinct, places }
    }
}

impl Values {
    /// Counts the rows of a batch by the codes of their values, but for those that are NULL or `empty`. Gives the bytes that
    /// this takes more.
    fn add_batch(&mut self, codes: &[u32], empty: u32, moments: &Moments) -> usize {
        let is_counted = |code: u32| code != 0 && code != empty;
        let width = moments.distinct.len();
        if self.codes.len() * width > codes.len() {
            let counted = codes.iter().copied().zip(moments.by_row.iter().copied());
            return self.add(counted.filter(|(code, _)| is_counted(*code)));
        }
        // Few values and moments: each of them has a cell, so that rows are counted without looking for theirs.
        let mut cells = vec![0_u32; self.codes.len() * width];
        for (code, place) in codes.iter().zip(&moments.places) {
            cells[*code as usize * width + *place as usize] += 1;
        }
        self.counts.resize_with(self.codes.len(), Counts::default);
        let mut bytes = 0;
        for (code, cells) in cells.chunks_exact(width.max(1)).enumerate().filter(|(code, _)| is_counted(*code as u32)) {
            for (spans, moment) in cells.iter().zip(&moments.distinct).filter(|(spans, _)| **spans > 0) {
                bytes += self.counts[code].add(*moment, u64::from(*spans));
            }
        }
        bytes
    }

    /// Counts rows by the codes of their values. Gives the bytes that this takes more.
    fn add(&mut self, codes: impl IntoIterator<Item = (u32, u32)>) -> usize {
        self.counts.resize_with(self.codes.len(), Counts::default);
        codes.into_iter().map(|(code, moment)| self.counts[code as usize].add(moment, 1)).sum()
    }

    fn merge(&mut self, other: &Values) {
        let here = self.codes.take_over(&other.codes);
        self.counts.resize_with(self.codes.len(), Counts::default);
        for (code, counts) in here.into_iter().zip(&other.counts) {
            self.counts[code as usize].merge(counts);
        }
    }

    /// Spans that have any value.
    fn all(&self) -> Counts {
        let mut all = Counts::default();
        self.counts.iter().for_each(|counts| all.merge(counts));
        all
    }

    /// The values with most spans on a side, most first; of equals those that come first as text.
    fn most_frequent(&self, side: u32, top: usize) -> Vec<(u64, LabelValue, &Counts)> {
        let of_side = |code: u32| self.counts.get(code as usize).map_or(0, |counts| counts.of_side(side));
        let mut spans: Vec<u64> =
            self.counts.iter().map(|counts| counts.of_side(side)).filter(|spans| *spans > 0).collect();
        // Most values are out by their number, and need not be compared as text.
        let least = match spans.len() > top && top > 0 {
            true => *spans.select_nth_unstable_by(top - 1, |a, b| b.cmp(a)).1,
            false => 1,
        };
        drop(spans);
        let ranked = self.codes.values(|code| of_side(code) >= least);
        let mut ranked: Vec<(u64, LabelValue, &Counts)> =
            ranked.map(|(value, code)| (of_side(code), value, &self.counts[code as usize])).collect();
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
}

impl Tally {
    /// Nothing counted yet; the counts' memory is the reservation's.
    pub(crate) fn new(counted: Arc<Counted>, intervals: Intervals, memory: MemoryReservation) -> Self {
        Self { counted, intervals, attributes: HashMap::new(), bytes: 0, memory }
    }

    /// Counts rows of [`plan`].
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> DfResult<()> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| internal_datafusion_err!("compare() got no column {name}"))
        };
        let starts = column(column::START_TIME)?.as_primitive::<Int64Type>().values();
        let selected: &BooleanArray = column(SELECTED)?.as_boolean();
        let side = |row: usize| u32::from(selected.is_valid(row) && selected.value(row));
        let of_row = |(row, start): (usize, &i64)| self.intervals.index_of(*start) as u32 * 2 + side(row);
        let moments = Moments::of(starts.iter().enumerate().map(of_row).collect());
        for (index, of_column) in Arc::clone(&self.counted).columns.iter().enumerate() {
            let values = column(&counted_name(index))?;
            match of_column {
                CountedColumn::Values { name, is_attribute, .. } => {
                    self.add_values(name, values, *is_attribute, &moments)?;
                }
                CountedColumn::Rest { scope, listed, .. } => {
                    let maps = values.as_map_opt();
                    let maps = maps.ok_or_else(|| internal_datafusion_err!("{scope} attributes are no map"))?;
                    self.add_maps(*scope, maps, listed, &moments.by_row)?;
                }
            }
        }
        let codes: usize = self.attributes.values().map(|values| values.codes.bytes()).sum();
        self.memory.try_resize(self.bytes + codes)
    }

    fn add_values(&mut self, name: &str, column: &ArrayRef, is_attribute: bool, moments: &Moments) -> DfResult<()> {
        if column.null_count() == column.len() {
            return Ok(());
        }
        let values = self.attributes.entry(name.to_owned()).or_default();
        let codes = values.codes.of(column)?;
        // Columns of text that are no attributes are empty where a span says nothing.
        let empty = if is_attribute { 0 } else { values.codes.of_text("") };
        self.bytes += values.add_batch(&codes, empty, moments);
        Ok(())
    }

    fn add_maps(
        &mut self,
        scope: AttributeScope,
        maps: &MapArray,
        listed: &HashSet<(String, AttributeType)>,
        moments: &[u32],
    ) -> DfResult<()> {
        let keys: &StringArray = maps.keys().as_string();
        let entries: &StructArray = maps.values().as_struct();
        let texts: &StringArray = entries.column(VALUE_STR).as_string();
        let ints = entries.column(VALUE_INT).as_primitive::<Int64Type>();
        let floats = entries.column(VALUE_FLOAT).as_primitive::<Float64Type>();
        let bools = entries.column(VALUE_BOOL).as_boolean();
        // By key and type, put together once per batch and not once per span; nothing for what is listed.
        let mut names: HashMap<(&str, AttributeType), Option<String>> = HashMap::new();
        for (row, moment) in moments.iter().enumerate().filter(|(row, _)| maps.is_valid(*row)) {
            for entry in maps.value_offsets()[row] as usize..maps.value_offsets()[row + 1] as usize {
                let value_type = match entry {
                    entry if texts.is_valid(entry) => AttributeType::Str,
                    entry if ints.is_valid(entry) => AttributeType::Int,
                    entry if floats.is_valid(entry) => AttributeType::Float,
                    entry if bools.is_valid(entry) => AttributeType::Bool,
                    _ => continue,
                };
                let key = keys.value(entry);
                let name = names.entry((key, value_type)).or_insert_with(|| {
                    (!listed.contains(&(key.to_owned(), value_type))).then(|| shown_name(scope, key))
                });
                let Some(name) = name else { continue };
                let values = match self.attributes.get_mut(name.as_str()) {
                    Some(values) => values,
                    None => {
                        self.bytes += name.len() + 2 * size_of::<(String, Values)>();
                        self.attributes.entry(name.clone()).or_default()
                    }
                };
                let code = match value_type {
                    AttributeType::Str => values.codes.of_text(texts.value(entry)),
                    AttributeType::Int => values.codes.of_int(ints.value(entry)),
                    AttributeType::Float => values.codes.of_float(floats.value(entry)),
                    AttributeType::Bool => values.codes.of_bool(bools.value(entry)),
                };
                self.bytes += values.add([(code, *moment)]);
            }
        }
        Ok(())
    }

    /// The counts of both.
    pub(crate) fn merge(&mut self, other: Tally) {
        for (name, values) in other.attributes {
            self.attributes.entry(name).or_default().merge(&values);
        }
        // What the other holds is held here now, at most.
        self.memory.grow(other.memory.size());
    }

    /// The series: per attribute and side the `top` values with most spans, and how many spans have it at all.
    ///
    /// # Errors
    /// There are more samples than `samples_max`.
    pub(crate) fn series(&self, top: usize, samples_max: usize) -> Result<SeriesSet, Error> {
        let (mut series, intervals) = (Vec::new(), self.intervals);
        for (name, values) in &self.attributes {
            let all = values.all();
            for side in [0_u32, 1] {
                let of_type = |names: [&str; 2], value: LabelValue| {
                    let side = names[side as usize].to_owned();
                    vec![(META_TYPE.to_owned(), LabelValue::Text(side)), (name.clone(), value)]
                };
                if all.of_side(side) == 0 {
                    continue;
                }
                series.push(all.series(side, of_type(TOTALS, LabelValue::nil()), intervals));
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
