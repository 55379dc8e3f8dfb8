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
//! All values are counted, so that those that stay are the most frequent ones. Where they do not fit into the memory of the query,
//! the values of the attribute that takes most are given up: of that attribute an answer has the spans that have it at all, and
//! `__meta_error="__too_many_values__"`, as Tempo says of one with more values than it counts.

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
    compile::{Function, Leaf},
    interval::Intervals,
    label::{Label, LabelValue},
    leaf::{Scope, check_samples},
    series::{Origin, Series, SeriesSet},
    values::{Empty, Moments, Values},
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
/// Label of a series that tells what is missing of an attribute.
const META_ERROR: &str = "__meta_error";
const TOO_MANY_VALUES: &str = "__too_many_values__";
/// What an attribute takes besides its values, in bytes.
const NAME_BYTES: usize = 2 * size_of::<(String, Values)>();
/// Giving up fewer bytes of values than these makes no room.
const GIVEN_UP_BYTES_MIN: usize = 64 << 10;
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

/// Counts of all attributes in some of the spans.
#[derive(Debug)]
pub(crate) struct Tally {
    counted: Arc<Counted>,
    intervals: Intervals,
    attributes: HashMap<String, Values>,
    memory: MemoryReservation,
}

impl Tally {
    /// Nothing counted yet; the counts' memory is the reservation's.
    pub(crate) fn new(counted: Arc<Counted>, intervals: Intervals, memory: MemoryReservation) -> Self {
        Self { counted, intervals, attributes: HashMap::new(), memory }
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
        self.fit_into_memory()
    }

    /// Makes room, where it lacks, by giving up the values of the attributes that take most.
    fn fit_into_memory(&mut self) -> DfResult<()> {
        loop {
            let sizes = self.attributes.iter().map(|(name, values)| name.len() + NAME_BYTES + values.bytes());
            let Err(error) = self.memory.try_resize(sizes.sum()) else { return Ok(()) };
            match self.attributes.values_mut().max_by_key(|values| values.bytes()) {
                Some(largest) if largest.bytes() >= GIVEN_UP_BYTES_MIN => largest.give_up(),
                _ => return Err(error),
            }
        }
    }

    fn add_values(&mut self, name: &str, column: &ArrayRef, is_attribute: bool, moments: &Moments) -> DfResult<()> {
        if column.null_count() == column.len() {
            return Ok(());
        }
        let values = self.attributes.entry_ref(name).or_default();
        // Columns of text that are no attributes are empty where a span says nothing.
        values.add_column(column, if is_attribute { Empty::Counts } else { Empty::IsMissing }, moments)
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
                    None => self.attributes.entry(name.clone()).or_default(),
                };
                values.add_one(*moment, |codes| match value_type {
                    AttributeType::Str => codes.of_text(texts.value(entry)),
                    AttributeType::Int => codes.of_int(ints.value(entry)),
                    AttributeType::Float => codes.of_float(floats.value(entry)),
                    AttributeType::Bool => codes.of_bool(bools.value(entry)),
                });
            }
        }
        Ok(())
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
    pub(crate) fn series(&self, top: usize, samples_max: usize) -> Result<SeriesSet, Error> {
        let (mut series, intervals) = (Vec::new(), self.intervals);
        for (name, values) in &self.attributes {
            let (all, ranked) = (values.all(2 * intervals.count()), values.most_frequent(top));
            for (side, ranked) in [0, 1].into_iter().zip(ranked) {
                let of_type = |names: [&str; 2], value: LabelValue| {
                    let side = names[side].to_owned();
                    vec![(META_TYPE.to_owned(), LabelValue::Text(side)), (name.clone(), value)]
                };
                let all = all.iter().enumerate().filter(|(moment, spans)| moment % 2 == side && **spans > 0);
                let mut all = all.map(|(moment, spans)| (moment, *spans)).peekable();
                if all.peek().is_none() {
                    continue;
                }
                series.push(series_of(all, of_type(TOTALS, LabelValue::nil()), intervals));
                for (value, counts) in ranked {
                    let of_side = counts.iter().filter(|(moment, _)| *moment as usize % 2 == side);
                    let of_side = of_side.map(|(moment, spans)| (moment as usize, spans));
                    series.push(series_of(of_side, of_type(SIDES, value), intervals));
                }
                check_samples(series.len(), intervals, samples_max)?;
            }
            if values.are_given_up() {
                let error = (META_ERROR.to_owned(), LabelValue::Text(TOO_MANY_VALUES.to_owned()));
                let labels = vec![error, (name.clone(), LabelValue::nil())];
                series.push(series_of(std::iter::empty(), labels, intervals));
            }
        }
        Ok(SeriesSet { name: "compare".to_owned(), series })
    }
}

fn series_of(spans: impl Iterator<Item = (usize, u64)>, labels: Vec<Label>, intervals: Intervals) -> Series {
    let mut values = vec![0.0; intervals.count()];
    for (moment, spans) in spans {
        values[moment / 2] = spans as f64;
    }
    Series { labels, values, exemplars: Vec::new(), origin: Origin::default() }
}
