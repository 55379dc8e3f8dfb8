//! Spans added up by labels, interval and power of two, and series out of the sums.
//!
//! ```text
//!  spans in batches, partition by partition
//!    -> Part: number of the key -> cells (interval, power of two: count, sum | min | max, first and last start)
//!    -> Groups: labels -> cells of all parts
//!    -> series
//! ```
//!
//! Spans come nearly in the order of their start, so a key mostly hits the cell that it hit before.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float64Array, Int64Array, RecordBatch},
        datatypes::Int64Type,
    },
    common::{Result as DfResult, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
};

use crate::{
    error::Error,
    model::schema::column,
    query::metrics::{
        compile::{Function, Leaf},
        fields::Number,
        interval::Intervals,
        keys::Keys,
        label::{Label, LabelValue, NAME, compare_labels},
        leaf::{NUMBER, ROW, check_samples},
        log2,
        series::{Origin, Series, SeriesSet},
        sum::Sum,
    },
    traceql::ast::Reducer,
};

/// What the spans of a group in one interval come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Position of the interval.
    pub(crate) interval: u32,
    /// The exponent of the power of two, or 0.
    pub(crate) bucket: u32,
    /// Spans.
    count: u64,
    /// What their numbers were reduced to; of an average, their sum.
    value: Sum,
    /// First and last start of its spans in Unix nanoseconds.
    pub(crate) starts: [i64; 2],
    /// What leads to the spans that start then, the least of several.
    places: [u128; 2],
}

impl Cell {
    /// Takes note of spans that start from one time to another.
    fn reach(&mut self, starts: [i64; 2], places: [u128; 2]) {
        if (starts[0], places[0]) < (self.starts[0], self.places[0]) {
            (self.starts[0], self.places[0]) = (starts[0], places[0]);
        }
        if (starts[1], Reverse(places[1])) > (self.starts[1], Reverse(self.places[1])) {
            (self.starts[1], self.places[1]) = (starts[1], places[1]);
        }
    }

    fn merge(&mut self, function: &Function, other: &Cell) {
        self.count += other.count;
        self.reach(other.starts, other.places);
        if let Function::Reduce(reducer, _) = function {
            match reducer {
                Reducer::Min => self.value = self.value.value().min(other.value.value()).into(),
                Reducer::Max => self.value = self.value.value().max(other.value.value()).into(),
                Reducer::Avg | Reducer::Sum => self.value.merge(other.value),
            }
        }
    }
}

/// Stands for the place of a span that is in no file, or where no places are read.
const NO_PLACE: u128 = u128::MAX;

/// What leads to spans: the trace that one is in, by the number that its id is, or the row of its file.
enum Places<'a> {
    None,
    Traces(&'a FixedSizeBinaryArray),
    Rows(&'a Int64Array),
}

impl<'a> Places<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let traces = batch.column_by_name(column::TRACE_ID).and_then(|traces| traces.as_fixed_size_binary_opt());
        let rows = batch.column_by_name(ROW).and_then(|rows| rows.as_primitive_opt());
        traces.map(Places::Traces).or(rows.map(Places::Rows)).unwrap_or(Places::None)
    }

    fn at(&self, row: usize) -> u128 {
        match self {
            Places::None => NO_PLACE,
            Places::Traces(traces) => traces.value(row).try_into().map_or(NO_PLACE, u128::from_be_bytes),
            Places::Rows(rows) if rows.is_valid(row) => rows.value(row) as u128,
            Places::Rows(_) => NO_PLACE,
        }
    }
}

/// Spans of one group that are added at once.
const BLOCK_SPANS: usize = 256;

/// Cells at hand for each key and power of two: spans of neighbouring intervals come mixed where one ends.
const SLOTS: usize = 2;

/// The cell that a key hit last, of every other interval.
#[derive(Clone, Copy, Debug)]
struct Slot {
    interval: u32,
    cell: u32,
}

const NO_SLOT: Slot = Slot { interval: u32::MAX, cell: u32::MAX };

/// The spans of one partition, added up.
#[derive(Debug, Default)]
pub(crate) struct Part {
    keys: Keys,
    /// By number of a key.
    labels: Vec<Option<Vec<Label>>>,
    /// By number of a key, power of two where there are any, and interval, every other of them.
    slots: Vec<Slot>,
    /// Where cells are, by number of a key, power of two and interval.
    places: datafusion::common::HashMap<(u32, u32, u32), u32>,
    /// Cells, each with the number of its key.
    cells: Vec<(u32, Cell)>,
    label_bytes: usize,
    knows_places: bool,
}

/// The numbers of a batch.
enum Numbers<'a> {
    None,
    Floats(&'a Float64Array),
    Ints(&'a Int64Array),
}

impl Part {
    /// Adds rows of [`Leaf::plan`].
    pub(crate) fn add(&mut self, leaf: &Leaf, intervals: Intervals, batch: &RecordBatch) -> DfResult<()> {
        let starts = batch.column_by_name(column::START_TIME).and_then(|starts| starts.as_primitive_opt::<Int64Type>());
        let starts = starts.ok_or_else(|| internal_datafusion_err!("a metrics plan has no starts"))?.values();
        let columns = batch.columns().get(1..=leaf.key_width());
        let columns = columns.ok_or_else(|| internal_datafusion_err!("a metrics plan has no keys"))?;
        let numbers = match (&leaf.function, batch.column_by_name(NUMBER)) {
            (Function::Reduce(..), Some(numbers)) => Numbers::Floats(numbers.as_primitive()),
            (Function::Histogram(_) | Function::Quantiles(..), Some(numbers)) => Numbers::Ints(numbers.as_primitive()),
            _ => Numbers::None,
        };
        let places = Places::of(batch);
        self.knows_places |= !matches!(places, Places::None);
        if columns.is_empty() && matches!(numbers, Numbers::None) && !starts.is_empty() {
            self.add_to_one_group(leaf, intervals, starts, &places);
            return Ok(());
        }
        let width = if matches!(numbers, Numbers::Ints(_)) { 1 + log2::EXPONENT_MAX as usize } else { 1 };
        let keys = self.keys.numbers(columns, batch.num_rows())?;
        self.labels.resize(self.keys.len(), None);
        self.slots.resize(self.keys.len() * width * SLOTS, NO_SLOT);
        // The interval of the row before, and where it begins and ends.
        let (mut interval, mut from, mut to) = (0, 1, 0);
        for (row, (key, start)) in keys.into_iter().zip(starts).enumerate() {
            let (bucket, value) = match numbers {
                Numbers::None => (0, 0.0),
                Numbers::Floats(floats) if floats.is_valid(row) && !floats.value(row).is_nan() => {
                    (0, floats.value(row))
                }
                Numbers::Ints(ints) if ints.is_valid(row) && ints.value(row) >= log2::LEAST => {
                    (log2::exponent(ints.value(row)), 0.0)
                }
                Numbers::Floats(_) | Numbers::Ints(_) => continue,
            };
            if !(from..=to).contains(start) {
                let index = intervals.index_of(*start);
                (from, to) = intervals.bounds(index);
                interval = index as u32;
            }
            if self.labels[key as usize].is_none() {
                let labels = leaf.labels_of(columns, row);
                let heap = |(key, value): &Label| key.len() + value.heap_bytes() + size_of::<Label>();
                self.label_bytes += labels.iter().map(heap).sum::<usize>();
                self.labels[key as usize] = Some(labels);
            }
            let at = (key as usize * width + bucket as usize) * SLOTS + interval as usize % SLOTS;
            if self.slots[at].interval != interval {
                self.slots[at] = Slot { interval, cell: self.cell(key, bucket, interval) };
            }
            let cell = &mut self.cells[self.slots[at].cell as usize].1;
            cell.count += 1;
            if *start <= cell.starts[0] || *start >= cell.starts[1] {
                cell.reach([*start; 2], [places.at(row); 2]);
            }
            if let Function::Reduce(reducer, _) = &leaf.function {
                match reducer {
                    Reducer::Min if cell.count > 1 => cell.value = cell.value.value().min(value).into(),
                    Reducer::Max if cell.count > 1 => cell.value = cell.value.value().max(value).into(),
                    Reducer::Min | Reducer::Max => cell.value = value.into(),
                    Reducer::Avg | Reducer::Sum => cell.value.add(value),
                }
            }
        }
        Ok(())
    }

    /// Adds spans that only their starts tell apart: as a rule, all of a block are in one interval.
    fn add_to_one_group(&mut self, leaf: &Leaf, intervals: Intervals, starts: &[i64], places: &Places<'_>) {
        const KEY: u32 = 0;
        if self.labels.is_empty() {
            self.labels.push(Some(leaf.labels_of(&[], 0)));
        }
        let mut row = 0;
        for block in starts.chunks(BLOCK_SPANS) {
            let (first, last) =
                block.iter().fold((i64::MAX, i64::MIN), |(first, last), start| (first.min(*start), last.max(*start)));
            let (_, end) = intervals.bounds(intervals.index_of(first));
            let spans = if last <= end { BLOCK_SPANS } else { 1 };
            for part in block.chunks(spans) {
                let [first, last] = if spans == 1 { [part[0]; 2] } else { [first, last] };
                let cell = self.cell(KEY, 0, intervals.index_of(first) as u32);
                let cell = &mut self.cells[cell as usize].1;
                cell.count += part.len() as u64;
                if first <= cell.starts[0] || last >= cell.starts[1] {
                    let of_start = |start: i64| {
                        let rows = part.iter().enumerate().filter(move |(_, known)| **known == start);
                        rows.map(|(at, _)| places.at(row + at)).min().unwrap_or(NO_PLACE)
                    };
                    cell.reach([first, last], [of_start(first), of_start(last)]);
                }
                row += part.len();
            }
        }
    }

    /// The position of a cell, which is made if it is new.
    fn cell(&mut self, key: u32, bucket: u32, interval: u32) -> u32 {
        *self.places.entry((key, bucket, interval)).or_insert_with(|| {
            let (starts, places) = ([i64::MAX, i64::MIN], [NO_PLACE; 2]);
            let cell = Cell { interval, bucket, count: 0, value: Sum::default(), starts, places };
            self.cells.push((key, cell));
            (self.cells.len() - 1) as u32
        })
    }

    /// Bytes of memory that this takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.label_bytes
            + self.labels.len() * size_of::<Option<Vec<Label>>>()
            + self.slots.len() * size_of::<Slot>()
            + self.cells.capacity() * size_of::<(u32, Cell)>()
            + 2 * self.places.len() * size_of::<((u32, u32, u32), u32)>()
    }
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
    by_labels: HashMap<String, usize>,
    groups: Vec<Group>,
    /// Whether it was noted where spans are.
    pub(crate) knows_places: bool,
    memory: MemoryReservation,
}

impl Groups {
    /// The groups of all parts; their memory is the reservation's. They are in the order of their labels, so that their
    /// positions do not depend on how the spans came.
    pub(crate) fn of(leaf: &Leaf, parts: Vec<Part>, memory: MemoryReservation) -> DfResult<Self> {
        let knows_places = parts.iter().any(|part| part.knows_places);
        let mut all = Self { by_labels: HashMap::new(), groups: Vec::new(), knows_places, memory };
        for mut part in parts {
            let mut positions: Vec<Option<usize>> = vec![None; part.labels.len()];
            all.memory.try_grow(part.cells.len() * size_of::<Cell>())?;
            for (key, cell) in &part.cells {
                let position = match positions[*key as usize] {
                    Some(position) => position,
                    None => {
                        let labels = part.labels[*key as usize].take().unwrap_or_default();
                        *positions[*key as usize].insert(all.position_of_new(labels)?)
                    }
                };
                all.groups[position].cells.push(*cell);
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

    /// The places of the spans at these moments, each a group, a power of two and a start, with their starts.
    pub(crate) fn places_at(&self, moments: impl Iterator<Item = (usize, u32, i64)>) -> Vec<(i64, u128)> {
        let mut places = Vec::new();
        for (group, bucket, start) in moments {
            for cell in self.cells(group).iter().filter(|cell| cell.bucket == bucket) {
                places.extend(cell.starts.into_iter().zip(cell.places).filter(|(known, _)| *known == start));
            }
        }
        places.retain(|(_, place)| *place != NO_PLACE);
        places.sort_unstable();
        places.dedup();
        places
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
