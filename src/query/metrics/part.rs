//! The spans of one partition, added up by labels, interval and power of two.
//!
//! Spans come nearly in the order of their start, so a key mostly hits the cell that it hit before. Which spans of a cell start
//! first and last is found by their numbers in the batch; what else is noted of them is looked up once the batch is over:
//!
//! ```text
//!  row -> number of the key -> slot (interval -> cell) -> tally: count, first and last start, their rows
//!  end of the batch            cells that were hit     -> places and numbers of those rows
//! ```

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float64Array, Int64Array, RecordBatch},
        datatypes::Int64Type,
    },
    common::{HashMap, Result as DfResult, internal_datafusion_err},
};

use super::{
    cell::{Cell, Seen},
    compile::{Function, Leaf},
    interval::Intervals,
    keys::Keys,
    label::Label,
    leaf::{NUMBER, ROW},
    log2,
    sum::Sum,
};
use crate::{model::schema::column, traceql::ast::Reducer};

/// What leads to the spans that were noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PlaceKind {
    /// Nothing.
    #[default]
    None,
    /// Traces, by the numbers that their ids are.
    Traces,
    /// Rows of files ([`row_in_file`](crate::storage::start_set::row_in_file)).
    Rows,
}

/// What leads to the spans of a batch.
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

    fn kind(&self) -> PlaceKind {
        match self {
            Places::None => PlaceKind::None,
            Places::Traces(_) => PlaceKind::Traces,
            Places::Rows(_) => PlaceKind::Rows,
        }
    }

    fn at(&self, row: usize) -> Option<u128> {
        match self {
            Places::None => None,
            Places::Traces(traces) => traces.value(row).try_into().ok().map(u128::from_be_bytes),
            Places::Rows(rows) => rows.is_valid(row).then(|| rows.value(row) as u128),
        }
    }
}

/// The numbers of a batch.
enum Numbers<'a> {
    None,
    Floats(&'a Float64Array),
    Ints(&'a Int64Array),
}

impl Numbers<'_> {
    /// The bits of the number of a row that has one.
    fn bits(&self, row: usize) -> u64 {
        match self {
            Numbers::None => 0,
            Numbers::Floats(floats) => floats.value(row).to_bits(),
            Numbers::Ints(ints) => ints.value(row).cast_unsigned(),
        }
    }

    fn has_nulls(&self) -> bool {
        match self {
            Numbers::None => false,
            Numbers::Floats(floats) => floats.null_count() > 0,
            Numbers::Ints(ints) => ints.null_count() > 0,
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

/// Stands for a row of another batch.
const NO_ROW: u32 = u32::MAX;

/// What changes in a cell with nearly every span.
#[derive(Clone, Copy, Debug)]
struct Tally {
    /// First and last start.
    starts: [i64; 2],
    /// The rows that these are of, where they are of this batch.
    rows: [u32; 2],
    /// Spans of this batch.
    count: u32,
}

const NO_SPANS: Tally = Tally { starts: [i64::MAX, i64::MIN], rows: [NO_ROW; 2], count: 0 };

/// Rows that are looked for in one go, and then added to their cells in another, so that a cell which is not at hand holds up no
/// other row.
const CHUNK_ROWS: usize = 256;

/// The spans of one partition, added up.
#[derive(Debug, Default)]
pub(crate) struct Part {
    keys: Keys,
    /// By number of a key.
    labels: Vec<Option<Vec<Label>>>,
    /// By number of a key, power of two where there are any, and interval, every other of them.
    slots: Vec<Slot>,
    /// Where cells are, by number of a key, power of two and interval.
    positions: HashMap<(u32, u32, u32), u32>,
    tallies: Vec<Tally>,
    /// The cells, but for what is in tallies until a batch is over.
    cells: Vec<Cell>,
    /// By cell: the number of its key.
    keys_of_cells: Vec<u32>,
    /// The cells that the batch has hit.
    hit: Vec<u32>,
    label_bytes: usize,
    places: PlaceKind,
    /// Rows, each with its cell, that are to be added next.
    chunk: Vec<(u32, u32)>,
}

/// What spans of a batch are told apart by.
struct Batch<'a> {
    leaf: &'a Leaf,
    intervals: Intervals,
    starts: &'a [i64],
    columns: &'a [ArrayRef],
    places: Places<'a>,
    numbers: Numbers<'a>,
    /// Powers of two that numbers are told apart by.
    width: usize,
}

impl Batch<'_> {
    fn seen(&self, row: usize) -> Seen {
        Seen::at(self.starts[row], self.places.at(row), self.numbers.bits(row))
    }
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
        let width = if matches!(numbers, Numbers::Ints(_)) { 1 + log2::EXPONENT_MAX as usize } else { 1 };
        let places = Places::of(batch);
        if places.kind() != PlaceKind::None {
            self.places = places.kind();
        }
        let batch = Batch { leaf, intervals, starts, columns, places, numbers, width };
        if columns.is_empty() && matches!(batch.numbers, Numbers::None) && !starts.is_empty() {
            self.add_to_one_group(&batch);
            return Ok(());
        }
        let keys = self.keys.numbers(columns, starts.len())?;
        self.labels.resize(self.keys.len(), None);
        self.slots.resize(self.keys.len() * width * SLOTS, NO_SLOT);
        let none = |_: &mut Cell, _: u32, _: usize| {};
        let has_nulls = batch.numbers.has_nulls();
        match (&batch.numbers, &leaf.function) {
            (Numbers::Ints(ints), _) => {
                let values = ints.values();
                let exponent = |row: usize| (values[row] >= log2::LEAST).then(|| log2::exponent(values[row]));
                match has_nulls {
                    true => self.add_rows(&batch, &keys, |row| exponent(row).filter(|_| ints.is_valid(row)), none),
                    false => self.add_rows(&batch, &keys, exponent, none),
                }
            }
            (Numbers::Floats(floats), Function::Reduce(reducer, _)) => {
                let values = floats.values();
                let counts = |row: usize| (!(values[row].is_nan() || has_nulls && floats.is_null(row))).then_some(0);
                match reducer {
                    Reducer::Min | Reducer::Max => {
                        let best: fn(f64, f64) -> f64 = if *reducer == Reducer::Min { f64::min } else { f64::max };
                        self.add_rows(&batch, &keys, counts, |cell, before, row| {
                            let is_first = cell.count == 0 && before == 0;
                            let value = if is_first { values[row] } else { best(cell.value.value(), values[row]) };
                            cell.value = value.into();
                        });
                    }
                    Reducer::Avg | Reducer::Sum => {
                        self.add_rows(&batch, &keys, counts, |cell, _, row| cell.value.add(values[row]));
                    }
                }
            }
            _ => self.add_rows(&batch, &keys, |_| Some(0), none),
        }
        self.keys.take_back(keys);
        Ok(())
    }

    /// Adds rows that have a power of two, or 0 for all; `reduce` takes the number of a row into its cell, in which so many of this
    /// batch are before it.
    fn add_rows(
        &mut self,
        batch: &Batch<'_>,
        keys: &[u32],
        bucket_of: impl Fn(usize) -> Option<u32>,
        reduce: impl Fn(&mut Cell, u32, usize),
    ) {
        // The interval of the row before, and where it begins and ends.
        let (mut interval, mut from, mut to) = (0, 1, 0);
        for (row, (key, start)) in keys.iter().zip(batch.starts).enumerate() {
            let Some(bucket) = bucket_of(row) else { continue };
            if !(from..=to).contains(start) {
                let index = batch.intervals.index_of(*start);
                (from, to) = batch.intervals.bounds(index);
                interval = index as u32;
            }
            let at = (*key as usize * batch.width + bucket as usize) * SLOTS + interval as usize % SLOTS;
            let mut slot = self.slots[at];
            if slot.interval != interval {
                self.name(batch, *key, row);
                slot = Slot { interval, cell: self.cell(*key, bucket, interval) };
                self.slots[at] = slot;
            }
            self.chunk.push((row as u32, slot.cell));
            if self.chunk.len() == CHUNK_ROWS {
                self.add_chunk(batch, &reduce);
            }
        }
        self.add_chunk(batch, &reduce);
        for cell in self.hit.drain(..) {
            let (tally, cell) = (&mut self.tallies[cell as usize], &mut self.cells[cell as usize]);
            cell.count += u64::from(std::mem::take(&mut tally.count));
            for (end, row) in cell.ends.iter_mut().zip(&mut tally.rows).filter(|(_, row)| **row != NO_ROW) {
                *end = batch.seen(*row as usize);
                *row = NO_ROW;
            }
        }
    }

    fn add_chunk(&mut self, batch: &Batch<'_>, reduce: &impl Fn(&mut Cell, u32, usize)) {
        for (row, cell) in self.chunk.drain(..) {
            let (tally, start) = (&mut self.tallies[cell as usize], batch.starts[row as usize]);
            if tally.count == 0 {
                self.hit.push(cell);
            }
            if start == tally.starts[0] || start == tally.starts[1] {
                tally.choose(batch, &self.cells[cell as usize], row as usize);
            }
            reduce(&mut self.cells[cell as usize], tally.count, row as usize);
            tally.count += 1;
            // Within a trace, spans start in any order: which of them are the first and last so far cannot be foreseen, so that
            // branches would cost more.
            let mask = |is_new: bool| u32::from(is_new).wrapping_neg();
            let masks = [mask(start < tally.starts[0]), mask(start > tally.starts[1])];
            tally.rows = [0, 1].map(|end| (row & masks[end]) | (tally.rows[end] & !masks[end]));
            tally.starts = [tally.starts[0].min(start), tally.starts[1].max(start)];
        }
    }

    /// Adds spans that only their starts tell apart: as a rule, all of a block are in one interval.
    fn add_to_one_group(&mut self, batch: &Batch<'_>) {
        const KEY: u32 = 0;
        if self.labels.is_empty() {
            self.labels.push(Some(batch.leaf.labels_of(&[], 0)));
        }
        let (intervals, mut row) = (batch.intervals, 0);
        for block in batch.starts.chunks(BLOCK_SPANS) {
            let (first, last) =
                block.iter().fold((i64::MAX, i64::MIN), |(first, last), start| (first.min(*start), last.max(*start)));
            let (_, end) = intervals.bounds(intervals.index_of(first));
            let spans = if last <= end { BLOCK_SPANS } else { 1 };
            for part in block.chunks(spans) {
                let [first, last] = if spans == 1 { [part[0]; 2] } else { [first, last] };
                let cell = self.cell(KEY, 0, intervals.index_of(first) as u32) as usize;
                let Cell { count, ends, .. } = &mut self.cells[cell];
                *count += part.len() as u64;
                if first <= ends[0].start || last >= ends[1].start {
                    let of_start = |start: i64| {
                        let rows = part.iter().enumerate().filter(move |(_, known)| **known == start);
                        rows.map(|(at, _)| batch.seen(row + at)).min()
                    };
                    ends[0] = of_start(first).map_or(ends[0], |seen| seen.min(ends[0]));
                    if let Some(seen) = of_start(last).filter(|seen| seen.is_later_than(&ends[1])) {
                        ends[1] = seen;
                    }
                }
                row += part.len();
            }
        }
    }

    /// Notes the labels of a key that a row has.
    fn name(&mut self, batch: &Batch<'_>, key: u32, row: usize) {
        if self.labels[key as usize].is_none() {
            let labels = batch.leaf.labels_of(batch.columns, row);
            let heap = |(key, value): &Label| key.len() + value.heap_bytes() + size_of::<Label>();
            self.label_bytes += labels.iter().map(heap).sum::<usize>();
            self.labels[key as usize] = Some(labels);
        }
    }

    /// The position of a cell, which is made if it is new.
    fn cell(&mut self, key: u32, bucket: u32, interval: u32) -> u32 {
        *self.positions.entry((key, bucket, interval)).or_insert_with(|| {
            let ends = [Seen::NO_FIRST, Seen::NO_LAST];
            self.cells.push(Cell { interval, bucket, count: 0, value: Sum::default(), ends });
            self.keys_of_cells.push(key);
            self.tallies.push(NO_SPANS);
            (self.tallies.len() - 1) as u32
        })
    }

    /// What leads to the spans that were noted.
    pub(crate) fn places(&self) -> PlaceKind {
        self.places
    }

    /// The labels by number of a key, and the cells, each with the number of its key.
    pub(crate) fn finish(self) -> (Vec<Option<Vec<Label>>>, impl ExactSizeIterator<Item = (u32, Cell)>) {
        (self.labels, self.keys_of_cells.into_iter().zip(self.cells))
    }

    /// Bytes of memory that this takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.label_bytes
            + self.labels.len() * size_of::<Option<Vec<Label>>>()
            + self.slots.len() * size_of::<Slot>()
            + self.tallies.capacity() * (size_of::<Tally>() + size_of::<Cell>() + 2 * size_of::<u32>())
            + 2 * self.positions.len() * size_of::<((u32, u32, u32), u32)>()
    }
}

impl Tally {
    /// Takes a row that starts with the first or last one, if it is the lesser of the two.
    #[cold]
    fn choose(&mut self, batch: &Batch<'_>, cell: &Cell, row: usize) {
        let seen = batch.seen(row);
        for end in 0..2 {
            let known = match self.rows[end] {
                NO_ROW => cell.ends[end],
                known => batch.seen(known as usize),
            };
            if self.starts[end] == seen.start && seen < known {
                self.rows[end] = row as u32;
            }
        }
    }
}
