//! Exemplars: single spans that stand for the values of series.
//!
//! The aggregation notes the first and the last span of each cell: its start, its number, and where it is. Out of those a few are
//! chosen, spread over time and series:
//!
//! ```text
//!  the query mentions labels and the number alone,   that is all that is shown of it ([`told`])
//!  and it is known which trace it is in
//!  else a second plan fetches the spans that start then
//!    found one by one        a row of a file: these rows are read, and of each column the pages that they are in
//!    found on whole traces   a trace: these traces are put together again
//! ```
//!
//! [`told`]: super::told
//!
//! What is chosen depends on the spans alone, not on the files that they lie in; but where several spans of a series start in
//! the same nanosecond, one of them is fetched. A series that arithmetic has made shows spans of the side that it has its labels
//! from.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch},
        datatypes::{DataType, Float64Type, Int64Type},
    },
    common::{Result as DfResult, internal_datafusion_err},
    logical_expr::{LogicalPlan, col},
};

use super::{
    compile::{Function, Leaf},
    fields,
    groups::Groups,
    interval::Intervals,
    label::{Label, LabelValue},
    leaf::{NUMBER, Scope},
    log2,
    part::PlaceKind,
    series::{Exemplar, Origin, Series},
};
use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::traceql::spans::SpanValue,
    storage::start_set::{starts_at, starts_at_rows},
};

/// Exemplars in each part of the range.
const PER_SLOT: usize = 2;
/// Traces that are kept for a moment of a group, so that another can take the place of the first.
const TRACES_PER_MOMENT: usize = 4;

/// What the values of series are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Those of a metrics function, so that a span stands at its own number if the function took one.
    Numbers,
    /// Results of arithmetic, at which the span stands.
    Results,
}

/// A moment at which a span of a group starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(super) start: i64,
    pub(super) group: usize,
    pub(super) bucket: u32,
}

/// Spans that start at chosen moments, by trace: of several of one, the least.
pub(crate) type Fetched = HashMap<Moment, BTreeMap<Vec<u8>, Found>>;

/// What an exemplar shows of its span.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(super) number: Option<f64>,
    pub(super) labels: Vec<Label>,
}

impl Found {
    /// An order in which spans that look alike are equal.
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = self.number.map(f64::to_bits).cmp(&other.number.map(f64::to_bits));
        numbers.then_with(|| self.labels.cmp(&other.labels))
    }
}

/// At most `most` moments for the values of `series`, spread over the range: in each part of it those of series that have
/// the fewest.
pub(crate) fn choose(
    leaf: &Leaf,
    series: &[Series],
    groups: &Groups,
    intervals: Intervals,
    most: usize,
) -> Vec<Moment> {
    let by_origin = by_origin(series);
    let slots = Slots::of(intervals.range(), (most / PER_SLOT).max(1));
    // Exemplars of each origin so far, and by slot the candidates, each with its place there.
    let mut taken: Vec<usize> = Vec::new();
    let mut places: HashMap<Origin, usize> = HashMap::new();
    let mut candidates: Vec<Vec<(usize, Moment)>> = vec![Vec::new(); slots.ends.len()];
    let all: HashSet<usize> = by_origin.keys().map(|origin| origin.group).collect();
    for group in all {
        let mut last: Option<(Origin, usize, &[usize])> = None;
        for cell in groups.cells(group) {
            let origin = origin(leaf, group, cell.bucket);
            let (place, shown) = match last {
                Some((known, place, shown)) if known == origin => (place, shown),
                _ => {
                    let Some(shown) = by_origin.get(&origin) else { continue };
                    let place = *places.entry(origin).or_insert_with(|| {
                        taken.push(0);
                        taken.len() - 1
                    });
                    last = Some((origin, place, shown));
                    (place, shown.as_slice())
                }
            };
            if !shown.iter().any(|index| !series[*index].values[cell.interval as usize].is_nan()) {
                continue;
            }
            for start in cell.ends.map(|seen| seen.start) {
                candidates[slots.slot_of(start)].push((place, Moment { start, group, bucket: cell.bucket }));
            }
        }
    }
    let mut chosen: Vec<Moment> = Vec::new();
    for moments in candidates {
        let before = chosen.len();
        for _ in 0..PER_SLOT.min(most - before) {
            let is_new = |moment: &Moment| !chosen[before..].contains(moment);
            let left = moments.iter().filter(|(_, moment)| is_new(moment));
            let Some((place, best)) = left.min_by_key(|(place, moment)| (taken[*place], *moment)) else { break };
            taken[*place] += 1;
            chosen.push(*best);
        }
    }
    chosen
}

/// Parts of a range of equal length.
struct Slots {
    /// Their ends in Unix nanoseconds, in order.
    ends: Vec<i64>,
}

impl Slots {
    fn of(range: TimeRange, count: usize) -> Self {
        let length = i128::from(range.end_unix_nano) - i128::from(range.start_unix_nano);
        let count = i128::try_from(count).unwrap_or(1).min(length).max(1);
        // The least moment that is not in the slot.
        let end = |slot: i128| i128::from(range.start_unix_nano) + (slot * length + count - 1) / count;
        Self { ends: (1..=count).map(|slot| i64::try_from(end(slot)).unwrap_or(i64::MAX)).collect() }
    }

    fn slot_of(&self, unix_nano: i64) -> usize {
        self.ends.partition_point(|end| *end <= unix_nano).min(self.ends.len() - 1)
    }
}

/// The traces of the chosen moments, where they were read.
pub(crate) fn traces(groups: &Groups, chosen: &[Moment]) -> Vec<TraceId> {
    let mut traces: Vec<u128> = places(groups, chosen).into_iter().map(|(_, trace)| trace).collect();
    traces.sort_unstable();
    traces.dedup();
    traces.into_iter().map(|trace| TraceId::from_bytes(trace.to_be_bytes())).collect()
}

/// The rows of the chosen moments, where they were read, each with its start.
pub(crate) fn rows(groups: &Groups, chosen: &[Moment]) -> Vec<(i64, u64)> {
    let rows = places(groups, chosen).into_iter();
    rows.filter_map(|(start, row)| Some((start, u64::try_from(row).ok()?))).collect()
}

fn places(groups: &Groups, chosen: &[Moment]) -> Vec<(i64, u128)> {
    let seen = chosen.iter().filter_map(|moment| groups.seen_at(moment.group, moment.bucket, moment.start));
    let mut places: Vec<_> = seen.filter_map(|seen| Some((seen.start, seen.place()?))).collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn origin(leaf: &Leaf, group: usize, bucket: u32) -> Origin {
    let bucket = if matches!(leaf.function, Function::Histogram(_)) { bucket } else { 0 };
    Origin { leaf: leaf.position, group, bucket }
}

fn by_origin(series: &[Series]) -> HashMap<Origin, Vec<usize>> {
    let mut by_origin: HashMap<Origin, Vec<usize>> = HashMap::new();
    for (index, one) in series.iter().enumerate() {
        by_origin.entry(one.origin).or_default().push(index);
    }
    by_origin
}

/// The plan that fetches the spans at these moments.
pub(crate) fn plan(leaf: &Leaf, scope: Scope<'_>, groups: &Groups, chosen: &[Moment]) -> DfResult<LogicalPlan> {
    let asked = leaf.mentioned.iter().enumerate();
    let asked = asked.map(|(index, field)| (shown_column(index), SpanValue::Field(field.clone()))).collect();
    let moments = chosen.iter().map(|moment| moment.start);
    let at_these = match leaf.on_traces(scope)? {
        None if groups.places == PlaceKind::Rows => starts_at_rows(moments, rows(groups, chosen)),
        _ => starts_at(moments),
    };
    let mut shown = leaf.keys();
    shown.extend([column::START_TIME, column::TRACE_ID].map(col));
    if let Some(number) = leaf.number() {
        shown.push(number.value.clone().alias(NUMBER));
    }
    shown.extend((0..leaf.mentioned.len()).map(|index| col(shown_column(index))));
    leaf.spans(scope, asked)?.filter(at_these)?.project(shown)?.build()
}

fn shown_column(index: usize) -> String {
    format!("shown_{index}")
}

/// Takes over rows of [`plan`].
pub(crate) fn add(
    fetched: &mut Fetched,
    leaf: &Leaf,
    groups: &Groups,
    chosen: &HashSet<Moment>,
    batch: &RecordBatch,
) -> DfResult<()> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| internal_datafusion_err!("exemplars got no column {name}"))
    };
    let starts = column(column::START_TIME)?.as_primitive::<Int64Type>();
    let traces = column(column::TRACE_ID)?.as_fixed_size_binary();
    let numbers = batch.column_by_name(NUMBER);
    let has_buckets = matches!(leaf.function, Function::Histogram(_) | Function::Quantiles(..));
    for row in 0..batch.num_rows() {
        let Some(group) = groups.position(leaf, batch.columns(), row) else { continue };
        let number = numbers.and_then(|numbers| number_at(numbers, row));
        let bucket = match number {
            Some(Counted { bucket: Some(bucket), .. }) if has_buckets => bucket,
            _ if has_buckets => continue,
            _ => 0,
        };
        let number = number.map(|number| number.float);
        // What is not a number is in no value.
        if matches!(leaf.function, Function::Reduce(..)) && number.is_none_or(f64::is_nan) {
            continue;
        }
        let moment = Moment { start: starts.value(row), group, bucket };
        if !chosen.contains(&moment) {
            continue;
        }
        let kept = fetched.entry(moment).or_default();
        let trace = traces.value(row);
        if kept.len() >= TRACES_PER_MOMENT && kept.last_key_value().is_some_and(|(last, _)| last.as_slice() < trace) {
            continue;
        }
        let mut labels = Vec::new();
        for (index, field) in leaf.mentioned.iter().enumerate() {
            let values = column(&shown_column(index))?.as_struct();
            if values.is_valid(row) {
                labels.extend(fields::value_of(values.columns(), row).map(|value| (field.to_string(), value)));
            }
        }
        let found = Found { number, labels };
        match kept.entry(trace.to_vec()) {
            Entry::Vacant(new) => {
                new.insert(found);
            }
            Entry::Occupied(mut known) if found.cmp(known.get()).is_lt() => {
                known.insert(found);
            }
            Entry::Occupied(_) => {}
        }
        if kept.len() > TRACES_PER_MOMENT {
            kept.pop_last();
        }
    }
    Ok(())
}

/// A number that a function took, and the power of two that it is counted at.
#[derive(Clone, Copy, Debug)]
struct Counted {
    float: f64,
    bucket: Option<u32>,
}

fn number_at(numbers: &ArrayRef, row: usize) -> Option<Counted> {
    if numbers.is_null(row) {
        return None;
    }
    match numbers.data_type() {
        DataType::Int64 => {
            let int = numbers.as_primitive::<Int64Type>().value(row);
            let bucket = (int >= log2::LEAST).then(|| log2::exponent(int));
            Some(Counted { float: int as f64, bucket })
        }
        DataType::Float64 => Some(Counted { float: numbers.as_primitive::<Float64Type>().value(row), bucket: None }),
        _ => None,
    }
}

/// Gives the series their exemplars, at most one per trace.
pub(crate) fn attach(
    leaf: &Leaf,
    series: &mut [Series],
    intervals: Intervals,
    chosen: &[Moment],
    mut fetched: Fetched,
    scale: Scale,
) {
    let by_origin = by_origin(series);
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut moments = chosen.to_vec();
    moments.sort_unstable();
    for moment in moments {
        let Some(spans) = fetched.remove(&moment) else { continue };
        let Some((trace, found)) = spans.into_iter().find(|(trace, _)| !seen.contains(trace)) else {
            continue;
        };
        let Some(indexes) = by_origin.get(&origin(leaf, moment.group, moment.bucket)) else { continue };
        let interval = intervals.index_of(moment.start);
        let is_duration = leaf.number().is_some_and(|number| number.is_duration);
        let number = found.number.filter(|_| scale == Scale::Numbers);
        let number = number.map(|number| if is_duration { number / 1e9 } else { number });
        let Some(index) = shown_in(series, indexes, interval, number) else { continue };
        let value = match &leaf.function {
            Function::Reduce(..) | Function::Quantiles(..) if scale == Scale::Numbers => number,
            _ => Some(series[index].values[interval]),
        };
        let (Some(value), Ok(id)) = (value, <[u8; TraceId::LEN]>::try_from(trace.as_slice())) else { continue };
        let hex = TraceId::from_bytes(id).to_string();
        let id = ("trace:id".to_owned(), LabelValue::Text(hex.trim_start_matches('0').to_owned()));
        let labels = std::iter::once(id).chain(found.labels).collect();
        series[index].exemplars.push(Exemplar { unix_nano: moment.start, value, labels });
        seen.insert(trace);
    }
}

/// Of several series for the same spans, as quantiles are, the least that is not below the span's number.
fn shown_in(series: &[Series], indexes: &[usize], interval: usize, number: Option<f64>) -> Option<usize> {
    let value = |index: &usize| series[*index].values[interval];
    let mut shown: Vec<usize> = indexes.iter().copied().filter(|index| !value(index).is_nan()).collect();
    shown.sort_by(|a, b| value(a).total_cmp(&value(b)));
    let above = number.and_then(|number| shown.iter().copied().find(|index| value(index) >= number));
    above.or(shown.last().copied())
}
