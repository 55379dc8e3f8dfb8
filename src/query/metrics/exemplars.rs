//! Exemplars: single spans that stand for the values of series.
//!
//! The aggregation notes the first and the last start of the spans of each cell. Out of those a few are chosen, spread over
//! time and series, and a second plan fetches the spans that start then: it reads few pages, because starts are sorted
//! nearly. What is chosen depends on the spans alone, not on the files that they lie in. A series that arithmetic has made
//! shows spans of the side that it has its labels from.

use std::collections::{BTreeMap, HashMap, HashSet};

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
    series::{Exemplar, Origin, Series},
};
use crate::{
    model::{ids::TraceId, schema::column},
    query::traceql::spans::SpanValue,
    storage::start_set::starts_at,
};

/// Exemplars in each part of the range.
const PER_SLOT: usize = 2;
/// Spans that are kept for a moment of a group, so that one of another trace can take the place of the first.
const SPANS_PER_MOMENT: usize = 4;

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
    start: i64,
    group: usize,
    bucket: u32,
}

/// Spans that start at chosen moments, by trace and span id.
pub(crate) type Fetched = HashMap<Moment, BTreeMap<(Vec<u8>, Vec<u8>), Found>>;

/// What an exemplar shows of its span.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    number: Option<f64>,
    labels: Vec<Label>,
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
    let slots = (most / PER_SLOT).max(1) as i128;
    let range = intervals.range();
    let length = i128::from(range.end_unix_nano - range.start_unix_nano).max(1);
    let mut candidates: BTreeMap<i128, Vec<Moment>> = BTreeMap::new();
    let all: HashSet<usize> = by_origin.keys().map(|origin| origin.group).collect();
    for group in all {
        for cell in groups.cells(group) {
            let shown = by_origin.get(&origin(leaf, group, cell.bucket));
            let has_value = |index: &usize| !series[*index].values[cell.interval as usize].is_nan();
            if !shown.is_some_and(|indexes| indexes.iter().any(has_value)) {
                continue;
            }
            for start in cell.starts {
                let slot = i128::from(start - range.start_unix_nano) * slots / length;
                candidates.entry(slot).or_default().push(Moment { start, group, bucket: cell.bucket });
            }
        }
    }
    let mut taken: HashMap<Origin, usize> = HashMap::new();
    let mut chosen = Vec::new();
    for mut moments in candidates.into_values() {
        moments.sort_unstable();
        moments.dedup();
        for _ in 0..PER_SLOT.min(most - chosen.len()) {
            let of = |moment: &Moment| origin(leaf, moment.group, moment.bucket);
            let count = |moment: &Moment| taken.get(&of(moment)).copied().unwrap_or_default();
            let Some(best) = (0..moments.len()).min_by_key(|index| (count(&moments[*index]), moments[*index])) else {
                break;
            };
            let best = moments.swap_remove(best);
            *taken.entry(of(&best)).or_default() += 1;
            chosen.push(best);
        }
    }
    chosen
}

/// The traces of the chosen moments, where they were read.
pub(crate) fn traces(groups: &Groups, chosen: &[Moment]) -> Vec<TraceId> {
    groups.traces_at(chosen.iter().map(|moment| (moment.group, moment.bucket, moment.start)))
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
pub(crate) fn plan(leaf: &Leaf, scope: Scope<'_>, chosen: &[Moment]) -> DfResult<LogicalPlan> {
    let asked = leaf.mentioned.iter().enumerate();
    let asked = asked.map(|(index, field)| (shown_column(index), SpanValue::Field(field.clone()))).collect();
    let at_these = starts_at(chosen.iter().map(|moment| moment.start));
    let mut shown = leaf.keys();
    shown.extend([column::START_TIME, column::TRACE_ID, column::SPAN_ID].map(col));
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
    let (traces, spans) = (column(column::TRACE_ID)?, column(column::SPAN_ID)?);
    let (traces, spans) = (traces.as_fixed_size_binary(), spans.as_fixed_size_binary());
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
        let key = (traces.value(row).to_vec(), spans.value(row).to_vec());
        if kept.len() >= SPANS_PER_MOMENT && kept.last_key_value().is_some_and(|(last, _)| *last <= key) {
            continue;
        }
        let mut labels = Vec::new();
        for (index, field) in leaf.mentioned.iter().enumerate() {
            let values = column(&shown_column(index))?.as_struct();
            if values.is_valid(row) {
                labels.extend(fields::value_of(values.columns(), row).map(|value| (field.to_string(), value)));
            }
        }
        kept.insert(key, Found { number, labels });
        if kept.len() > SPANS_PER_MOMENT {
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
        let Some(((trace, _), found)) = spans.into_iter().find(|((trace, _), _)| !seen.contains(trace)) else {
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
