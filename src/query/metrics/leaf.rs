//! A metrics function over spans: one aggregation that DataFusion runs, and series out of its groups.
//!
//! ```text
//!  spans of the pipeline
//!    -> group by interval, label columns [, power of two]  count | min | max | exact sum [, first and last start]
//!    -> groups by labels, each with cells (interval, power of two, value)
//!    -> series
//! ```
//!
//! The grouping reads the start, the label columns and at most one value of a span, in one pass.

use std::{collections::HashMap, mem::size_of, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch},
        datatypes::{DataType, Float64Type, Int64Type},
        row::{RowConverter, SortField},
    },
    catalog::TableProvider,
    common::{Result as DfResult, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
    functions::math::expr_fn::isnan,
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit},
};

use crate::{
    error::{Error, ErrorKind},
    model::schema::column,
    query::{
        metrics::{
            compile::{Function, Leaf},
            fields::{Number, value_of},
            interval::Intervals,
            label::{Label, LabelValue, NAME, compare_labels},
            log2,
            series::{Origin, Series, SeriesSet},
            sum::exact_sum,
        },
        search::Candidates,
        spansets::Program,
        traceql::spans::{SpanRequest, SpanValue},
    },
    traceql::ast::Reducer,
};

const INTERVAL: &str = "interval";
const BUCKET: &str = "bucket";
const COUNT: &str = "spans";
const REDUCED: &str = "reduced";
const FIRST_START: &str = "first_start";
const LAST_START: &str = "last_start";

/// What spans are asked for, and where their intervals are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    /// The base table.
    pub(crate) base: &'a Arc<dyn TableProvider>,
    /// The intervals.
    pub(crate) intervals: Intervals,
    /// How far from the range other spans of a trace may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// The traces that are looked at, where they were found before.
    pub(crate) candidates: Option<&'a Candidates>,
}

impl Leaf {
    /// The plan of the aggregation; `with_starts` adds what exemplars are chosen by.
    pub(crate) fn plan(&self, scope: Scope<'_>, with_starts: bool) -> DfResult<LogicalPlan> {
        let mut groups = vec![scope.intervals.index_expr().alias(INTERVAL)];
        groups.extend(self.keys());
        groups.extend(self.bucket());
        let mut aggregates = vec![count(lit(1_i64)).alias(COUNT)];
        if let Function::Reduce(reducer, number) = &self.function {
            let value = number.value.clone();
            let reduced = match reducer {
                Reducer::Min => min(value),
                Reducer::Max => max(value),
                Reducer::Avg | Reducer::Sum => exact_sum(value),
            };
            aggregates.push(reduced.alias(REDUCED));
        }
        if with_starts {
            let start = || col(column::START_TIME);
            aggregates.extend([min(start()).alias(FIRST_START), max(start()).alias(LAST_START)]);
        }
        self.spans(scope, Vec::new())?.aggregate(groups, aggregates)?.build()
    }

    /// The spans that count, with the columns of labels and value, and `more`.
    pub(crate) fn spans(&self, scope: Scope<'_>, more: Vec<(String, SpanValue)>) -> DfResult<LogicalPlanBuilder> {
        let request = self.request(scope, more);
        let spans = LogicalPlanBuilder::from(self.source.plan(&request, scope.base)?);
        match &self.function {
            Function::Reduce(_, number) => {
                let value = number.value.clone();
                let there = value.clone().is_not_null();
                // What is not a number is no value that could be compared or added.
                spans.filter(if number.is_duration { there } else { there.and(!isnan(value)) })
            }
            Function::Histogram(number) | Function::Quantiles(number, _) => {
                spans.filter(number.value.clone().gt_eq(lit(log2::LEAST)))
            }
            Function::Count { .. } | Function::Compare { .. } => Ok(spans),
        }
    }

    fn request(&self, scope: Scope<'_>, more: Vec<(String, SpanValue)>) -> SpanRequest {
        let mut columns: Vec<_> = self.labels.iter().flat_map(|label| label.asked.iter().cloned()).collect();
        columns.extend(self.number().and_then(|number| number.asked.clone()));
        columns.extend(more);
        let (range, extent_nano) = (scope.intervals.range(), scope.extent_nano);
        SpanRequest { range, extent_nano, columns, candidates: scope.candidates.cloned() }
    }

    /// What decides which traces are looked at, if the spans are found on whole traces.
    pub(crate) fn on_traces(&self, scope: Scope<'_>) -> DfResult<Option<Program>> {
        self.source.on_traces(&self.request(scope, Vec::new()))
    }

    /// The columns that make a group of spans with equal labels, under names of their own.
    pub(crate) fn keys(&self) -> Vec<Expr> {
        let keys = self.labels.iter().flat_map(|label| label.keys.iter());
        keys.enumerate().map(|(index, key)| key.clone().alias(format!("key_{index}"))).collect()
    }

    /// The power of two, for functions that need it.
    pub(crate) fn bucket(&self) -> Option<Expr> {
        match &self.function {
            Function::Histogram(number) | Function::Quantiles(number, _) => {
                Some(log2::bucket_expr(number.value.clone()).alias(BUCKET))
            }
            _ => None,
        }
    }

    /// The numbers that the function takes, if it takes any.
    pub(crate) fn number(&self) -> Option<&Number> {
        match &self.function {
            Function::Reduce(_, number) | Function::Histogram(number) | Function::Quantiles(number, _) => Some(number),
            Function::Count { .. } | Function::Compare { .. } => None,
        }
    }

    /// How many columns the group key has.
    fn key_width(&self) -> usize {
        self.labels.iter().map(|label| label.width()).sum()
    }

    /// The labels whose fields have a value; where none has one, the first says so.
    fn labels_of(&self, columns: &[ArrayRef], row: usize) -> Vec<Label> {
        let mut columns = columns;
        let mut labels = Vec::with_capacity(self.labels.len() + 1);
        for label in &self.labels {
            let (own, rest) = columns.split_at(label.width());
            labels.extend(value_of(own, row).map(|value| (label.key.clone(), value)));
            columns = rest;
        }
        if let (true, Some(first)) = (labels.is_empty(), self.labels.first()) {
            labels.push((first.key.clone(), LabelValue::nil()));
        }
        labels
    }
}

/// A value of a group of spans in one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Position of the interval.
    pub(crate) interval: u32,
    /// The exponent of the power of two, or 0.
    pub(crate) bucket: u32,
    /// Spans.
    count: f64,
    /// What their numbers were reduced to; of an average, their sum.
    value: f64,
    /// First and last start of its spans in Unix nanoseconds, if they were asked for.
    pub(crate) starts: [i64; 2],
}

/// Spans with equal labels.
#[derive(Clone, Debug)]
struct Group {
    labels: Vec<Label>,
    cells: Vec<Cell>,
}

/// All groups of a leaf.
#[derive(Debug)]
pub(crate) struct Groups {
    rows: Option<RowConverter>,
    by_row: HashMap<Box<[u8]>, usize>,
    by_labels: HashMap<String, usize>,
    groups: Vec<Group>,
    memory: MemoryReservation,
}

impl Groups {
    /// No groups yet; their memory is the reservation's.
    pub(crate) fn new(memory: MemoryReservation) -> Self {
        Self { rows: None, by_row: HashMap::new(), by_labels: HashMap::new(), groups: Vec::new(), memory }
    }

    /// Takes over rows of [`Leaf::plan`].
    pub(crate) fn add(&mut self, leaf: &Leaf, batch: &RecordBatch) -> DfResult<()> {
        self.memory.try_grow(batch.num_rows() * size_of::<Cell>())?;
        let positions = self.positions(leaf, &batch.columns()[1..], true)?;
        let intervals = ints(batch, INTERVAL)?;
        let buckets = leaf.bucket().map(|_| ints(batch, BUCKET)).transpose()?;
        let counts = ints(batch, COUNT)?;
        let reduced = batch.column_by_name(REDUCED).and_then(|column| column.as_primitive_opt::<Float64Type>());
        let starts = batch.column_by_name(FIRST_START).zip(batch.column_by_name(LAST_START));
        let starts =
            starts.map(|starts| <[&ArrayRef; 2]>::from(starts).map(|column| column.as_primitive::<Int64Type>()));
        for (row, position) in positions.into_iter().enumerate() {
            let cell = Cell {
                interval: intervals.value(row) as u32,
                bucket: buckets.map_or(0, |buckets| buckets.value(row) as u32),
                count: counts.value(row) as f64,
                value: reduced.map_or(0.0, |reduced| reduced.value(row)),
                starts: starts.map_or([0; 2], |starts| starts.map(|starts| starts.value(row))),
            };
            if let Some(position) = position {
                self.groups[position].cells.push(cell);
            }
        }
        Ok(())
    }

    /// The group of each row by its key, which starts with the first of `columns`. Unknown ones are added or skipped.
    pub(crate) fn positions(
        &mut self,
        leaf: &Leaf,
        columns: &[ArrayRef],
        add_unknown: bool,
    ) -> DfResult<Vec<Option<usize>>> {
        let width = leaf.key_width();
        let rows = columns.first().map_or(0, |column| column.len());
        let columns = columns
            .get(..width)
            .ok_or_else(|| internal_datafusion_err!("a group key has {} of {width} columns", columns.len()))?;
        if width == 0 {
            if self.groups.is_empty() && add_unknown {
                self.groups.push(Group { labels: Vec::new(), cells: Vec::new() });
            }
            return Ok(vec![(!self.groups.is_empty()).then_some(0); rows]);
        }
        let converter = match self.rows.take() {
            Some(converter) => converter,
            None => {
                let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
                RowConverter::new(fields.collect())?
            }
        };
        let keys = converter.convert_columns(columns)?;
        self.rows = Some(converter);
        let mut positions = Vec::with_capacity(rows);
        for row in 0..rows {
            let key = keys.row(row);
            let known = self.by_row.get(key.as_ref()).copied();
            positions.push(match known {
                None if add_unknown => Some(self.add_group(key.as_ref(), leaf.labels_of(columns, row))?),
                known => known,
            });
        }
        Ok(positions)
    }

    /// Keys that differ can have the same labels: what is missing is shown as text.
    fn add_group(&mut self, key: &[u8], labels: Vec<Label>) -> DfResult<usize> {
        let text = format!("{labels:?}");
        let heap: usize = labels.iter().map(|(key, value)| key.len() + value.heap_bytes() + size_of::<Label>()).sum();
        self.memory
            .try_grow(size_of::<Group>() + heap + key.len() + text.len() + 2 * size_of::<(usize, usize, usize)>())?;
        let next = self.groups.len();
        let position = *self.by_labels.entry(text).or_insert(next);
        if position == next {
            self.groups.push(Group { labels, cells: Vec::new() });
        }
        self.by_row.insert(key.into(), position);
        Ok(position)
    }

    /// Puts the groups in the order of their labels, so that their positions do not depend on how the spans came.
    pub(crate) fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by(|a, b| compare_labels(&self.groups[*a].labels, &self.groups[*b].labels));
        let mut position = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| position[*old] = new);
        self.by_row.values_mut().chain(self.by_labels.values_mut()).for_each(|at| *at = position[*at]);
        self.groups.sort_by(|a, b| compare_labels(&a.labels, &b.labels));
    }

    /// The cells of a group.
    pub(crate) fn cells(&self, group: usize) -> &[Cell] {
        self.groups.get(group).map_or(&[], |group| &group.cells)
    }

    /// The series of the groups.
    ///
    /// # Errors
    /// There are more samples than `samples_max`, or more than memory for queries holds.
    pub(crate) fn series(&self, leaf: &Leaf, intervals: Intervals, samples_max: usize) -> Result<SeriesSet, Error> {
        let per_group = |group: &Group| match &leaf.function {
            Function::Histogram(_) => {
                let mut buckets: Vec<u32> = group.cells.iter().map(|cell| cell.bucket).collect();
                buckets.sort_unstable();
                buckets.dedup();
                buckets.len()
            }
            Function::Quantiles(_, quantiles) => quantiles.len(),
            _ => 1,
        };
        let series_count: usize = self.groups.iter().map(per_group).sum();
        check_samples(series_count, intervals, samples_max)?;
        let too_much = |error| crate::query::failure::from_datafusion(&error);
        self.memory.try_grow(series_count * intervals.count() * size_of::<f64>()).map_err(too_much)?;
        let mut series = Vec::with_capacity(series_count);
        for (position, group) in self.groups.iter().enumerate() {
            group.series(leaf, position, intervals, &mut series);
        }
        // A count of nothing is zero where it has no labels to be zero for.
        if let (Function::Count { .. }, true, true) = (&leaf.function, leaf.labels.is_empty(), series.is_empty()) {
            Group { labels: Vec::new(), cells: Vec::new() }.series(leaf, 0, intervals, &mut series);
        }
        for one in &mut series {
            if one.labels.is_empty() {
                one.labels.push((NAME.to_owned(), LabelValue::Text(leaf.name.clone())));
            }
        }
        Ok(SeriesSet { name: leaf.name.clone(), series })
    }
}

/// Refuses answers that are too large.
pub(crate) fn check_samples(series: usize, intervals: Intervals, samples_max: usize) -> Result<(), Error> {
    let (count, most) = (series.saturating_mul(intervals.count()), samples_max);
    if count <= most {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!(
            "{series} series of {} intervals are {count} samples, more than the limit query.metrics_samples_max = {most}; use a longer step or fewer labels",
            intervals.count()
        ),
    ))
}

fn ints<'a>(batch: &'a RecordBatch, name: &str) -> DfResult<&'a Int64Array> {
    let column = batch.column_by_name(name).filter(|column| column.data_type() == &DataType::Int64);
    column
        .map(|column| column.as_primitive::<Int64Type>())
        .ok_or_else(|| internal_datafusion_err!("a metrics plan has no column {name} of integers"))
}

impl Group {
    fn series(&self, leaf: &Leaf, group: usize, intervals: Intervals, all: &mut Vec<Series>) {
        let one = |labels: Vec<Label>, bucket: u32, empty: f64| Series {
            labels,
            values: vec![empty; intervals.count()],
            exemplars: Vec::new(),
            origin: Origin { leaf: leaf.position, group, bucket },
        };
        let labelled = |key: &str, value: f64| {
            let own = (key.to_owned(), LabelValue::Float(value));
            self.labels.iter().cloned().chain([own]).collect::<Vec<_>>()
        };
        match &leaf.function {
            Function::Count { per_second } => {
                let divisor = if *per_second { intervals.step_seconds() } else { 1.0 };
                let mut counts = one(self.labels.clone(), 0, 0.0);
                for cell in &self.cells {
                    counts.values[cell.interval as usize] += cell.count;
                }
                counts.values.iter_mut().for_each(|value| *value /= divisor);
                all.push(counts);
            }
            Function::Reduce(reducer, number) => {
                let mut reduced = one(self.labels.clone(), 0, f64::NAN);
                let mut counts = vec![0.0; intervals.count()];
                for cell in &self.cells {
                    let value = &mut reduced.values[cell.interval as usize];
                    *value = if value.is_nan() { cell.value } else { merged(*reducer, *value, cell.value) };
                    counts[cell.interval as usize] += cell.count;
                }
                let unit = if number.is_duration { 1e9 } else { 1.0 };
                for (value, count) in reduced.values.iter_mut().zip(counts) {
                    *value /= if *reducer == Reducer::Avg { count * unit } else { unit };
                }
                all.push(reduced);
            }
            Function::Histogram(number) => {
                let mut buckets: HashMap<u32, Series> = HashMap::new();
                for cell in &self.cells {
                    let edge = shown_edge(cell.bucket, number);
                    let bucket =
                        buckets.entry(cell.bucket).or_insert_with(|| one(labelled("__bucket", edge), cell.bucket, 0.0));
                    bucket.values[cell.interval as usize] += cell.count;
                }
                all.extend(buckets.into_values());
            }
            Function::Quantiles(number, quantiles) => {
                let divisor = if number.is_duration { 1e9 } else { 1.0 };
                let mut cells: Vec<(u32, u32, u64)> =
                    self.cells.iter().map(|cell| (cell.interval, cell.bucket, cell.count as u64)).collect();
                cells.sort_unstable();
                cells.dedup_by(|again, first| {
                    let same = (again.0, again.1) == (first.0, first.1);
                    first.2 += if same { again.2 } else { 0 };
                    same
                });
                for q in quantiles {
                    let mut values = one(labelled("p", *q), 0, 0.0);
                    for interval in cells.chunk_by(|a, b| a.0 == b.0) {
                        let buckets: Vec<(u32, u64)> =
                            interval.iter().map(|(_, bucket, count)| (*bucket, *count)).collect();
                        values.values[interval[0].0 as usize] = log2::quantile(*q, &buckets) / divisor;
                    }
                    all.push(values);
                }
            }
            Function::Compare { .. } => {}
        }
    }
}

/// Two values of one moment, whose labels are the same text.
fn merged(reducer: Reducer, a: f64, b: f64) -> f64 {
    match reducer {
        Reducer::Min => a.min(b),
        Reducer::Max => a.max(b),
        Reducer::Avg | Reducer::Sum => a + b,
    }
}

/// The upper edge of a bucket as its label has it.
fn shown_edge(bucket: u32, number: &Number) -> f64 {
    if number.is_duration { log2::edge(bucket) / 1e9 } else { log2::edge(bucket) }
}
