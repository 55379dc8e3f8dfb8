//! `compare({ ... })`: how often each value of each attribute occurs among the spans of a selection and among the others.
//!
//! The plan yields the spans with their attributes, and whether each is selected. Its partitions are counted side by side into
//! the same counts:
//!
//! ```text
//!  attribute -> value -> (interval, side) -> spans
//! ```
//!
//! Attributes that may have columns of their own are asked for one by one, so that no map is put together of what lies apart. Where
//! a file has such a column as codes, the codes are read by themselves ([`apart`](super::apart)).
//! All values are counted, so that those that stay are the most frequent ones. Where they do not fit into the memory of the query,
//! the values of the attribute that takes most are given up: of that attribute an answer has the spans that have it at all, and
//! `__meta_error="__too_many_values__"`, as Tempo says of one with more values than it counts.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, MapArray, RecordBatch, StringArray, StructArray},
        datatypes::{Float64Type, Int64Type},
    },
    common::{HashMap, Result as DfResult, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
    logical_expr::{Expr, LogicalPlan, ScalarUDF, col, lit},
};
use parking_lot::Mutex;

use super::{
    apart::{ByCode, GroupRows, RowsApart, code_of},
    codes::Codes,
    compile::{Function, Leaf},
    interval::Intervals,
    label::{Label, LabelValue},
    leaf::{ROW, Scope, check_samples},
    moments::Moments,
    series::{Origin, Series, SeriesSet},
    values::{Empty, Values},
};
use crate::{
    error::Error,
    functions::{AttrFunction, AttrRest, CodedText, scalar_function},
    model::{
        attributes::{AttributeScope, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_STR},
        promotion::PromotedAttribute,
        schema::column,
    },
    query::traceql::spans::SpanValue,
    storage::{
        apart::{Apart, CodedChunk, ColumnsApart, MapEntries},
        pages::Decompressor,
        start_set::row_in_file,
    },
    traceql::ast::{Attribute, Scope as NamedScope},
};

const SELECTED: &str = "selected";
/// Column of the number of the file, where columns of it are read apart.
const FILE: &str = "file_apart";
/// Most bytes of a row group that are read at once, if that is more than a column.
const READ_BYTES_MAX: usize = 8 << 20;
/// By how many columns a row group is behind the one before.
const COLUMNS_PER_GROUP: usize = 17;
/// Label that says which side a series counts.
const META_TYPE: &str = "__meta_type";
/// Label of a series that tells what is missing of an attribute.
const META_ERROR: &str = "__meta_error";
const TOO_MANY_VALUES: &str = "__too_many_values__";
/// What an attribute takes besides its values, in bytes.
const NAME_BYTES: usize = 2 * size_of::<(String, Values)>();
/// Giving up fewer bytes of values than these makes no room.
const GIVEN_UP_BYTES_MIN: usize = 8 << 10;
/// By how many bytes values may grow before they are fitted into memory again, which looks at all of them.
const GROWN_BYTES_MAX: usize = 64 << 10;
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
    fn asked(&self, apart: Option<&Arc<ColumnsApart>>) -> impl Iterator<Item = (String, SpanValue)> {
        self.columns.iter().enumerate().map(move |(index, column)| {
            let value = match column {
                CountedColumn::Values { value, is_text, .. } if let Some(apart) = apart => {
                    let value = if *is_text { CodedText::of(value.clone()) } else { value.clone() };
                    SpanValue::Expr(Apart::column(apart, index, value))
                }
                CountedColumn::Values { value, is_text: true, .. } => SpanValue::Text(value.clone()),
                CountedColumn::Values { value, .. } => SpanValue::Expr(value.clone()),
                CountedColumn::Rest { map, .. } => SpanValue::Expr(match apart {
                    Some(apart) => Apart::column(apart, index, map.clone()),
                    None => map.clone(),
                }),
            };
            (counted_name(index), value)
        })
    }
}

fn counted_name(index: usize) -> String {
    format!("counted_{index}")
}

/// The name of an attribute in answers: as a query would have it, in quotes where these are needed.
fn shown_name(scope: AttributeScope, key: &str) -> String {
    let scope = if scope == AttributeScope::Resource { NamedScope::Resource } else { NamedScope::Span };
    Attribute { of_parent: false, scope, key: key.to_owned() }.to_string()
}

/// The plan that yields what is counted, but for columns that are read apart.
pub(crate) fn plan(
    leaf: &Leaf,
    counted: &Counted,
    apart: Option<&Arc<ColumnsApart>>,
    scope: Scope<'_>,
) -> DfResult<LogicalPlan> {
    let Function::Compare { selection, range, .. } = &leaf.function else {
        return Err(internal_datafusion_err!("{} compares nothing", leaf.name));
    };
    let start = || col(column::START_TIME);
    let selected = match range {
        Some((from, to)) => col(SELECTED).and(start().gt_eq(lit(*from))).and(start().lt(lit(*to))),
        None => col(SELECTED),
    };
    let mut asked = vec![(SELECTED.to_owned(), SpanValue::Holds(selection.clone()))];
    asked.extend(counted.asked(apart));
    let mut shown: Vec<Expr> = vec![start(), selected.alias(SELECTED)];
    if let Some(apart) = apart {
        asked.push((FILE.to_owned(), SpanValue::Expr(Apart::file(apart, start()))));
        asked.push((ROW.to_owned(), SpanValue::Expr(row_in_file())));
        shown.extend([col(FILE), col(ROW)]);
    }
    shown.extend((0..counted.columns.len()).map(|index| col(counted_name(index))));
    leaf.spans(scope, asked)?.project(shown)?.build()
}

/// Counts of all attributes, which the partitions of a scan share.
#[derive(Debug)]
pub(crate) struct Tally {
    counted: Counted,
    intervals: Intervals,
    /// The values of each counted column; of a map, nothing.
    columns: Vec<Arc<Mutex<Values>>>,
    /// The same, and those of other attributes.
    attributes: Mutex<HashMap<String, Arc<Mutex<Values>>>>,
    memory: Mutex<MemoryReservation>,
    /// Bytes by which values have grown since they were last fitted into memory.
    grown: AtomicUsize,
}

impl Tally {
    /// Nothing counted yet; the counts' memory is the reservation's.
    pub(crate) fn new(counted: Counted, intervals: Intervals, memory: MemoryReservation) -> Self {
        let mut attributes: HashMap<String, Arc<Mutex<Values>>> = HashMap::new();
        let new = || Arc::new(Mutex::new(Values::new(2 * intervals.count())));
        let columns = counted.columns.iter().map(|column| match column {
            CountedColumn::Values { name, .. } => Arc::clone(attributes.entry_ref(name.as_str()).or_insert_with(new)),
            CountedColumn::Rest { .. } => new(),
        });
        let columns = columns.collect();
        let (attributes, memory) = (Mutex::new(attributes), Mutex::new(memory));
        Self { counted, intervals, columns, attributes, memory, grown: AtomicUsize::new(0) }
    }

    /// Counts rows of a partition of [`plan`], but for columns that are read apart: of these, gives row groups whose rows are
    /// all there.
    pub(crate) fn add(&self, batch: &RecordBatch, rows: Option<&mut RowsApart>) -> DfResult<Vec<GroupRows>> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| internal_datafusion_err!("compare() got no column {name}"))
        };
        let starts = column(column::START_TIME)?.as_primitive::<Int64Type>().values();
        let selected: &BooleanArray = column(SELECTED)?.as_boolean();
        let side = |row: usize| u32::from(selected.is_valid(row) && selected.value(row));
        let of_row = |(row, start): (usize, &i64)| self.intervals.index_of(*start) as u32 * 2 + side(row);
        let moments = Moments::of(starts.iter().enumerate().map(of_row).collect());
        let mut has_values = false;
        // Behind the others, in this order.
        let Some(first) = batch.num_columns().checked_sub(self.counted.columns.len()) else {
            return Err(internal_datafusion_err!("compare() got {} columns", batch.num_columns()));
        };
        for (index, (of_column, values)) in self.counted.columns.iter().zip(&batch.columns()[first..]).enumerate() {
            if values.null_count() == values.len() {
                continue;
            }
            has_values = true;
            match of_column {
                CountedColumn::Values { is_attribute, .. } => {
                    self.columns[index].lock().add_column(values, Empty::of(*is_attribute), &moments)?;
                }
                CountedColumn::Rest { scope, listed, .. } => {
                    let maps = values.as_map_opt();
                    let maps = maps.ok_or_else(|| internal_datafusion_err!("{scope} attributes are no map"))?;
                    self.add_maps(*scope, maps, listed, moments.by_row())?;
                }
            }
        }
        if has_values {
            self.fit_into_memory()?;
        }
        match rows {
            Some(rows) => rows.add(column(FILE)?.as_primitive(), column(ROW)?.as_primitive(), moments.by_row()),
            None => Ok(Vec::new()),
        }
    }

    /// Counts the columns of a row group that are read apart.
    pub(crate) async fn add_apart(&self, group: GroupRows) -> DfResult<()> {
        let mut columns = group.file.columns();
        // Partitions are at different columns, so that they do not wait for each other.
        let first = group.group * COLUMNS_PER_GROUP % columns.len().max(1);
        columns.rotate_left(first);
        let memory = self.memory.lock().new_empty();
        let mut decompressor = Decompressor::default();
        while !columns.is_empty() {
            let stored = |(_, leaf): &(usize, usize)| {
                usize::try_from(group.file.stored_bytes(group.group, *leaf)).unwrap_or(usize::MAX)
            };
            let mut bytes = 0_usize;
            let fit = columns.iter().take_while(|column| {
                bytes = bytes.saturating_add(stored(column));
                bytes <= READ_BYTES_MAX
            });
            let mut most = fit.count().max(1);
            let needed = |most: usize| columns[..most].iter().map(stored).fold(group.bytes(), usize::saturating_add);
            if memory.try_resize(needed(most)).is_err() {
                most = 1;
                self.make_room(|| memory.try_resize(needed(most)))?;
            }
            let rest = columns.split_off(most);
            let read = std::mem::replace(&mut columns, rest);
            let leaves: Vec<usize> = read.iter().map(|(_, leaf)| *leaf).collect();
            let parts = group.file.read(group.group, &leaves).await?;
            for ((index, leaf), bytes) in read.into_iter().zip(parts) {
                if let Some(mut chunk) = group.file.chunk(group.group, leaf, bytes, &mut decompressor)? {
                    let counted = group.count(&mut chunk, &mut decompressor)?;
                    self.add_chunk(index, &group, &chunk, counted)?;
                }
                tokio::task::yield_now().await;
            }
        }
        for (index, leaves) in group.file.maps() {
            let all = leaves.all();
            let stored: u64 = all.iter().map(|leaf| group.file.stored_bytes(group.group, *leaf)).sum();
            let stored = usize::try_from(stored).unwrap_or(usize::MAX);
            self.make_room(|| memory.try_resize(group.bytes().saturating_add(stored)))?;
            let parts = group.file.read(group.group, &all).await?;
            let entries = group.file.entries(group.group, &leaves, parts, &mut decompressor)?;
            let needed = group.bytes().saturating_add(stored).saturating_add(entries.memory_bytes());
            self.make_room(|| memory.try_resize(needed))?;
            self.add_entries_apart(index, &group, &entries)?;
        }
        self.fit_into_memory()
    }

    fn add_entries_apart(&self, index: usize, group: &GroupRows, entries: &MapEntries) -> DfResult<()> {
        let Some(CountedColumn::Rest { scope, listed, .. }) = self.counted.columns.get(index) else {
            return Err(internal_datafusion_err!("compare() counts no map {index}"));
        };
        let counted = entries.entries().iter().filter_map(|entry| Some((group.moment_of(entry.row)?, entry)));
        let counted = counted.map(|(moment, entry)| Ok((moment, (entries.key(entry.key)?, entry.value_type), entry)));
        self.add_entries((*scope, listed), counted, |codes, entry| {
            Ok(match entries.value(entry)? {
                Some(value) => code_of(codes, value),
                None => codes.of_bool(entry.value == 1),
            })
        })
    }

    fn add_chunk(&self, index: usize, group: &GroupRows, chunk: &CodedChunk, counted: ByCode) -> DfResult<()> {
        let (Some(CountedColumn::Values { is_attribute, .. }), Some(values)) =
            (self.counted.columns.get(index), self.columns.get(index))
        else {
            return Err(internal_datafusion_err!("compare() counts no column {index}"));
        };
        let grown = {
            let mut values = values.lock();
            let before = values.bytes();
            group.add_to(&mut values, (chunk, counted), Empty::of(*is_attribute))?;
            values.bytes().saturating_sub(before)
        };
        let grown = grown + self.grown.fetch_add(grown, Ordering::Relaxed);
        if grown > GROWN_BYTES_MAX { self.fit_into_memory() } else { Ok(()) }
    }

    fn fit_into_memory(&self) -> DfResult<()> {
        self.grown.store(0, Ordering::Relaxed);
        self.make_room(|| self.fit())
    }

    /// Holds as much memory as the values take.
    fn fit(&self) -> DfResult<()> {
        let attributes = self.attributes.lock();
        let sizes = attributes.iter().map(|(name, values)| name.len() + NAME_BYTES + values.lock().bytes());
        self.memory.lock().try_resize(sizes.sum())
    }

    /// Makes room for what is asked for, where it lacks, by giving up the values of the attributes that take most.
    fn make_room(&self, ask: impl Fn() -> DfResult<()>) -> DfResult<()> {
        while ask().is_err() {
            let has_given_up = self.give_up_most();
            // What was given up, here or for another partition, is there for what is asked for. Growing can fail, and is for others.
            let _ = self.fit();
            if !has_given_up {
                return ask();
            }
        }
        Ok(())
    }

    /// Gives up values of the attribute that takes most; not if that is next to nothing.
    fn give_up_most(&self) -> bool {
        let attributes: Vec<Arc<Mutex<Values>>> = self.attributes.lock().values().map(Arc::clone).collect();
        let can_be_smaller = |values: &&Arc<Mutex<Values>>| !values.lock().are_given_up();
        let sizes = attributes.iter().filter(can_be_smaller).map(|values| (values.lock().bytes(), values));
        match sizes.max_by_key(|(bytes, _)| *bytes) {
            Some((bytes, largest)) if bytes >= GIVEN_UP_BYTES_MIN => {
                largest.lock().make_smaller();
                true
            }
            _ => false,
        }
    }

    fn add_maps(
        &self,
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
        let entries_of = |(row, moment): (usize, &u32)| {
            let all = maps.value_offsets()[row] as usize..maps.value_offsets()[row + 1] as usize;
            let moment = *moment;
            all.filter_map(move |entry| {
                let value_type = match entry {
                    entry if texts.is_valid(entry) => AttributeType::Str,
                    entry if ints.is_valid(entry) => AttributeType::Int,
                    entry if floats.is_valid(entry) => AttributeType::Float,
                    entry if bools.is_valid(entry) => AttributeType::Bool,
                    _ => return None,
                };
                Some(Ok((moment, (keys.value(entry), value_type), (value_type, entry))))
            })
        };
        let rows = moments.iter().enumerate().filter(|(row, _)| maps.is_valid(*row));
        self.add_entries((scope, listed), rows.flat_map(entries_of), |codes, (value_type, entry)| {
            Ok(match value_type {
                AttributeType::Str => codes.of_text(texts.value(entry)),
                AttributeType::Int => codes.of_int(ints.value(entry)),
                AttributeType::Float => codes.of_float(floats.value(entry)),
                AttributeType::Bool => codes.of_bool(bools.value(entry)),
            })
        })
    }

    /// Counts entries of maps, each with its moment, key and type, but for those that are listed.
    fn add_entries<'a, E>(
        &self,
        (scope, listed): (AttributeScope, &HashSet<(String, AttributeType)>),
        entries: impl Iterator<Item = DfResult<(u32, (&'a str, AttributeType), E)>>,
        code_of: impl Fn(&mut Codes, E) -> DfResult<u32>,
    ) -> DfResult<()> {
        // Attributes by key and type, and the entries of those that are not listed.
        let mut places: HashMap<(&str, AttributeType), Option<usize>> = HashMap::new();
        let mut found: Vec<(&str, Vec<(u32, E)>)> = Vec::new();
        let mut last = None;
        for entry in entries {
            let (moment, key, entry) = entry?;
            let place = match last {
                Some((known, place)) if known == key => place,
                _ => *places.entry(key).or_insert_with(|| {
                    let is_listed = listed.contains(&(key.0.to_owned(), key.1));
                    (!is_listed).then(|| {
                        found.push((key.0, Vec::new()));
                        found.len() - 1
                    })
                }),
            };
            last = Some((key, place));
            if let Some(place) = place {
                found[place].1.push((moment, entry));
            }
        }
        for (key, entries) in found {
            let new = || Arc::new(Mutex::new(Values::new(2 * self.intervals.count())));
            let values = Arc::clone(self.attributes.lock().entry(shown_name(scope, key)).or_insert_with(new));
            let mut values = values.lock();
            for (moment, entry) in entries {
                values.add_one(moment, |codes| code_of(codes, entry))?;
            }
        }
        Ok(())
    }

    /// The series: per attribute and side the `top` values with most spans, and how many spans have it at all.
    ///
    /// # Errors
    /// There are more samples than `samples_max`.
    pub(crate) fn series(&self, top: usize, samples_max: usize) -> Result<SeriesSet, Error> {
        let (mut series, intervals) = (Vec::new(), self.intervals);
        for (name, values) in self.attributes.lock().iter() {
            let values = values.lock();
            let (all, ranked) = (values.all(), values.most_frequent(top));
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
                    let of_side = of_side.map(|(moment, spans)| (*moment as usize, *spans));
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
        values[moment / 2] += spans as f64;
    }
    Series { labels, values, exemplars: Vec::new(), origin: Origin::default() }
}
