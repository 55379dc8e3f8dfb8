//! Groups of spans with equal labels, out of the cells of all partitions, and series out of them.
//!
//! ```text
//!  spans in batches, partition by partition
//!    -> Part: number of the key -> cells (interval, power of two: count, sum | min | max, first and last span)
//!    -> Groups: labels -> cells of all parts
//!    -> series
//! ```

use std::collections::{HashMap, hash_map::Entry};

use datafusion::{arrow::array::ArrayRef, common::Result as DfResult, execution::memory_pool::MemoryReservation};

use crate::{
    error::Error,
    query::metrics::{
        cell::{Cell, Seen},
        compile::{Function, Leaf},
        fields::Number,
        interval::Intervals,
        label::{Label, LabelValue, NAME, compare_labels},
        leaf::check_samples,
        log2,
        part::{Part, PlaceKind},
        series::{Origin, Series, SeriesSet},
    },
    traceql::ast::Reducer,
};

/// Spans with equal labels.
#[derive(Clone, Debug)]
struct Group {
    labels: Vec<Label>,
    cells: Vec<Cell>,
}

/// All groups of a leaf.
#[derive(Debug)]
pub(crate) struct Groups {
    by_labels: HashMap<String, usize>,
    groups: Vec<Group>,
    /// What leads to the spans that were noted.
    pub(crate) places: PlaceKind,
    memory: MemoryReservation,
}

impl Groups {
    /// The groups of all parts; their memory is the reservation's. They are in the order of their labels, so that their
    /// positions do not depend on how the spans came.
    pub(crate) fn of(leaf: &Leaf, parts: Vec<Part>, memory: MemoryReservation) -> DfResult<Self> {
        let places = parts.iter().map(Part::places).find(|kind| *kind != PlaceKind::None).unwrap_or_default();
        let mut all = Self { by_labels: HashMap::new(), groups: Vec::new(), places, memory };
        for part in parts {
            let (mut labels, cells) = part.finish();
            let mut positions: Vec<Option<usize>> = vec![None; labels.len()];
            all.memory.try_grow(cells.len() * size_of::<Cell>())?;
            for (key, cell) in cells {
                let position = match positions[key as usize] {
                    Some(position) => position,
                    None => {
                        let labels = labels[key as usize].take().unwrap_or_default();
                        *positions[key as usize].insert(all.position_of_new(labels)?)
                    }
                };
                all.groups[position].cells.push(cell);
            }
        }
        all.sort(&leaf.function);
        Ok(all)
    }

    /// Keys that differ can have the same labels: what is missing is shown as text.
    fn position_of_new(&mut self, labels: Vec<Label>) -> DfResult<usize> {
        let text = text_of(&labels);
        let next = self.groups.len();
        match self.by_labels.entry(text) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => {
                let heap: usize = labels.iter().map(|(key, value)| key.len() + value.heap_bytes()).sum();
                let entry = new.key().len() + 2 * size_of::<(String, usize)>();
                self.memory.try_grow(size_of::<Group>() + heap + labels.len() * size_of::<Label>() + entry)?;
                new.insert(next);
                self.groups.push(Group { labels, cells: Vec::new() });
                Ok(next)
            }
        }
    }

    fn sort(&mut self, function: &Function) {
        self.groups.sort_by(|a, b| compare_labels(&a.labels, &b.labels));
        for (position, group) in self.groups.iter_mut().enumerate() {
            self.by_labels.insert(text_of(&group.labels), position);
            group.cells.sort_by_key(|cell| (cell.interval, cell.bucket));
            group.cells.dedup_by(|again, first| {
                let same = (again.interval, again.bucket) == (first.interval, first.bucket);
                if same {
                    first.merge(function, again);
                }
                same
            });
        }
    }

    /// The group of a row whose key the columns start with.
    pub(crate) fn position(&self, leaf: &Leaf, columns: &[ArrayRef], row: usize) -> Option<usize> {
        let columns = columns.get(..leaf.key_width())?;
        self.by_labels.get(&text_of(&leaf.labels_of(columns, row))).copied()
    }

    /// The span that was noted of a group and a power of two at this start, if it is known where it is.
    pub(crate) fn seen_at(&self, group: usize, bucket: u32, start: i64) -> Option<&Seen> {
        let cells = self.cells(group).iter().filter(|cell| cell.bucket == bucket);
        cells.flat_map(|cell| &cell.ends).find(|seen| seen.start == start && seen.place().is_some())
    }

    /// The labels of a group.
    pub(crate) fn labels(&self, group: usize) -> &[Label] {
        self.groups.get(group).map_or(&[], |group| &group.labels)
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

/// Labels in a form that is equal if they are.
fn text_of(labels: &[Label]) -> String {
    format!("{labels:?}")
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
                    counts.values[cell.interval as usize] += cell.count as f64;
                }
                counts.values.iter_mut().for_each(|value| *value /= divisor);
                all.push(counts);
            }
            Function::Reduce(reducer, number) => {
                let mut reduced = one(self.labels.clone(), 0, f64::NAN);
                let unit = if number.is_duration { 1e9 } else { 1.0 };
                for cell in &self.cells {
                    let divisor = if *reducer == Reducer::Avg { cell.count as f64 * unit } else { unit };
                    reduced.values[cell.interval as usize] = cell.value.value() / divisor;
                }
                all.push(reduced);
            }
            Function::Histogram(number) => {
                let mut buckets: HashMap<u32, Series> = HashMap::new();
                for cell in &self.cells {
                    let edge = shown_edge(cell.bucket, number);
                    let bucket =
                        buckets.entry(cell.bucket).or_insert_with(|| one(labelled("__bucket", edge), cell.bucket, 0.0));
                    bucket.values[cell.interval as usize] += cell.count as f64;
                }
                all.extend(buckets.into_values());
            }
            Function::Quantiles(number, quantiles) => {
                let divisor = if number.is_duration { 1e9 } else { 1.0 };
                for q in quantiles {
                    let mut values = one(labelled("p", *q), 0, 0.0);
                    for cells in self.cells.chunk_by(|a, b| a.interval == b.interval) {
                        let buckets: Vec<(u32, u64)> = cells.iter().map(|cell| (cell.bucket, cell.count)).collect();
                        values.values[cells[0].interval as usize] = log2::quantile(*q, &buckets) / divisor;
                    }
                    all.push(values);
                }
            }
            Function::Compare { .. } => {}
        }
    }
}

/// The upper edge of a bucket as its label has it.
fn shown_edge(bucket: u32, number: &Number) -> f64 {
    if number.is_duration { log2::edge(bucket) / 1e9 } else { log2::edge(bucket) }
}
