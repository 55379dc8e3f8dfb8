//! Counting columns that are read apart from the scan: the rows of a row group with their moments, then the codes of each column.
//!
//! ```text
//!  rows of a row group   0  1  2  3  4  5        codes of a column    7  7  -  3  7  3
//!  places of moments     1  1  2  -  2  1                             cells (7, 1): 2, (7, 2): 1, (3, 1): 1
//! ```
//!
//! Where values times moments are few, each pair has a cell. Where they are many, as values that few spans have, pairs are
//! sorted by their codes. Each value is then looked for once per row group.

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::array::{Array, Int32Array, Int64Array},
    common::{Result as DfResult, internal_datafusion_err},
    error::DataFusionError,
};

use super::{
    codes::Codes,
    moments::DistinctMoments,
    values::{Empty, Values},
};
use crate::storage::{
    apart::{CodedChunk, CodedRows, ColumnsApart, FileApart},
    dictionary_page::CodedValue,
    pages::Decompressor,
    start_set::row_without_mark,
};

/// Pairs of a value and a moment that have a cell each in any case.
const CELLS_MIN: usize = 1 << 14;
/// Pairs that have a cell for each turn, so that all of these stay in the fastest memory.
const CELLS_IN_TURNS: usize = 1 << 11;
const TURNS: usize = 4;

/// The rows of a row group that count, with their moments.
#[derive(Debug)]
pub(super) struct GroupRows {
    pub(super) file: Arc<FileApart>,
    pub(super) group: usize,
    rows: Range<i64>,
    /// By row: where its moment is among the different ones, from 1 on; 0 for rows that do not count.
    places: Vec<u32>,
    known: DistinctMoments,
    /// The different moments in order, when all rows are there.
    moments: Vec<u32>,
    number: i32,
}

impl GroupRows {
    fn new(file: Arc<FileApart>, number: i32, row: i64) -> DfResult<Self> {
        let group = file.group_of(row);
        let (group, rows) = group.ok_or_else(|| internal_datafusion_err!("a file has no row {row}"))?;
        let places = vec![0; usize::try_from(rows.end - rows.start).unwrap_or(0)];
        Ok(Self { file, group, rows, places, moments: Vec::new(), known: DistinctMoments::default(), number })
    }

    fn add(&mut self, row: i64, moment: u32) {
        self.places[(row - self.rows.start) as usize] = self.known.place_of(moment) + 1;
    }

    /// Whether all rows of a batch are of this row group.
    fn has_all(&self, files: &Int32Array, rows: &Int64Array) -> bool {
        files.null_count() + rows.null_count() == 0
            && files.values().iter().all(|number| *number == self.number)
            && rows.values().iter().all(|row| self.rows.contains(&row_without_mark(*row)))
    }

    /// All rows are there: places are put into the order of their moments.
    fn finished(mut self) -> Self {
        let known = self.known.all();
        let mut order: Vec<usize> = (0..known.len()).collect();
        order.sort_unstable_by_key(|place| known[*place]);
        let mut place_of = vec![0; order.len() + 1];
        for (place, before) in (1..).zip(&order) {
            place_of[before + 1] = place;
        }
        self.moments = order.iter().map(|place| known[*place]).collect();
        self.places.iter_mut().for_each(|place| *place = place_of[*place as usize]);
        self
    }

    /// The moment of a row that counts.
    pub(super) fn moment_of(&self, row: usize) -> Option<u32> {
        let place = self.places.get(row)?.checked_sub(1)?;
        self.moments.get(place as usize).copied()
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }

    /// Which values of a column have how many spans at which moments.
    ///
    /// # Errors
    /// The column cannot be read.
    pub(super) fn count(&self, chunk: &mut CodedChunk, decompressor: &mut Decompressor) -> DfResult<ByCode> {
        let (places, width) = (&self.places, self.moments.len() + 1);
        let is_wanted =
            |rows: Range<usize>| places.get(rows).is_none_or(|places| places.iter().any(|place| *place != 0));
        let values = chunk.values().len();
        if values.saturating_mul(width) <= CELLS_MIN.max(2 * places.len()) {
            let mut cells = Cells::new(values, width);
            chunk.for_each(decompressor, is_wanted, |rows, codes| cells.add(places, &rows, codes))?;
            return Ok(ByCode::Cells { cells: cells.finish(), width });
        }
        let mut pairs = Vec::with_capacity(chunk.values_max().min(places.len()));
        chunk.for_each(decompressor, is_wanted, |rows, codes| {
            for_each_pair(places, &rows, codes, |code, place| {
                if place != 0 {
                    pairs.push((code, place));
                }
            });
        })?;
        // Sorted by code, by counting: `ends[code]` is where its places begin, and after the second pass where they end.
        let mut ends = vec![0_usize; values + 1];
        pairs.iter().for_each(|(code, _)| ends[*code as usize + 1] += 1);
        for code in 0..values {
            ends[code + 1] += ends[code];
        }
        let mut sorted = vec![0; pairs.len()];
        for (code, place) in pairs {
            let at = &mut ends[code as usize];
            sorted[*at] = place;
            *at += 1;
        }
        Ok(ByCode::Sorted { places: sorted, ends })
    }

    /// Adds what was counted.
    ///
    /// # Errors
    /// A value cannot be read.
    pub(super) fn add_to(
        &self,
        values: &mut Values,
        (chunk, mut counted): (&CodedChunk, ByCode),
        empty: Empty,
    ) -> DfResult<()> {
        let moment_of = |place: usize| self.moments[place - 1];
        let mut add = |code: usize, spans: &mut dyn Iterator<Item = (u32, u64)>| {
            let value = chunk.values().value(code)?;
            if empty != Empty::IsMissing || value != CodedValue::Text("") {
                values.add_counted(|codes| code_of(codes, value), spans);
            }
            Ok::<_, DataFusionError>(())
        };
        match &mut counted {
            ByCode::Cells { cells, width } => {
                for (code, cells) in cells.chunks_exact(*width).enumerate() {
                    // The first cell is of rows that do not count.
                    let mut spans = cells.iter().enumerate().skip(1).filter(|(_, spans)| **spans > 0).peekable();
                    if spans.peek().is_some() {
                        add(code, &mut spans.map(|(place, spans)| (moment_of(place), u64::from(*spans))))?;
                    }
                }
            }
            ByCode::Sorted { places, ends } => {
                let mut start = 0;
                for (code, end) in ends.iter().take(chunk.values().len()).enumerate() {
                    let of_code = &mut places[start..*end];
                    start = *end;
                    if !of_code.is_empty() {
                        of_code.sort_unstable();
                        let equal = of_code.chunk_by(|one, other| one == other);
                        add(code, &mut equal.map(|equal| (moment_of(equal[0] as usize), equal.len() as u64)))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Calls `each` with the codes of rows and the places of these.
fn for_each_pair(places: &[u32], rows: &CodedRows<'_>, codes: &[u32], mut each: impl FnMut(u32, u32)) {
    match rows {
        CodedRows::All(rows) => codes.iter().zip(&places[rows.clone()]).for_each(|(code, place)| each(*code, *place)),
        CodedRows::Some { first, marked } => {
            let places = &places[*first..];
            codes.iter().zip(*marked).for_each(|(code, row)| each(*code, places[*row as usize]));
        }
    }
}

/// Spans by code and place, a cell for each pair.
///
/// Neighbours often are of the same pair, and a cell cannot be added to before the addition before is through; so where cells are
/// few, there are several of each pair, which take turns.
struct Cells {
    cells: Vec<u32>,
    /// Pairs, and how many places there are.
    pairs: usize,
    width: usize,
    /// Where the cells of the next pair are.
    turn: usize,
}

impl Cells {
    fn new(values: usize, width: usize) -> Self {
        let pairs = values * width;
        let turns = if pairs <= CELLS_IN_TURNS { TURNS } else { 1 };
        Self { cells: vec![0; turns * pairs], pairs, width, turn: 0 }
    }

    fn add(&mut self, places: &[u32], rows: &CodedRows<'_>, codes: &[u32]) {
        let (mut turn, all, pairs, width) = (self.turn, self.cells.len(), self.pairs, self.width);
        let cells = self.cells.as_mut_slice();
        for_each_pair(places, rows, codes, |code, place| {
            cells[turn + code as usize * width + place as usize] += 1;
            turn += pairs;
            if turn == all {
                turn = 0;
            }
        });
        self.turn = turn;
    }

    /// One cell for each pair.
    fn finish(mut self) -> Vec<u32> {
        let (sums, others) = self.cells.split_at_mut(self.pairs);
        for other in others.chunks_exact(self.pairs.max(1)) {
            sums.iter_mut().zip(other).for_each(|(sum, spans)| *sum += spans);
        }
        self.cells.truncate(self.pairs);
        self.cells
    }
}

/// What was counted of a column.
#[derive(Debug)]
pub(super) enum ByCode {
    /// Spans by code and place of the moment, of which there are so many.
    Cells { cells: Vec<u32>, width: usize },
    /// Places, code by code, and where each code's end.
    Sorted { places: Vec<u32>, ends: Vec<usize> },
}

/// The code of a stored value.
pub(super) fn code_of(codes: &mut Codes, value: CodedValue<'_>) -> u32 {
    match value {
        CodedValue::Text(text) => codes.of_text(text),
        CodedValue::Int(int) => codes.of_int(int),
        CodedValue::Float(float) => codes.of_float(float),
    }
}

/// The rows of one partition of a scan, row group by row group.
#[derive(Debug)]
pub(super) struct RowsApart {
    columns: Arc<ColumnsApart>,
    open: Option<GroupRows>,
}

impl RowsApart {
    pub(super) fn new(columns: Arc<ColumnsApart>) -> Self {
        Self { columns, open: None }
    }

    /// Takes the rows of files whose columns are read apart, and gives row groups that are complete.
    pub(super) fn add(&mut self, files: &Int32Array, rows: &Int64Array, moments: &[u32]) -> DfResult<Vec<GroupRows>> {
        let mut complete = Vec::new();
        if files.null_count() == files.len() {
            return Ok(complete);
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.has_all(files, rows)) {
            rows.values().iter().zip(moments).for_each(|(row, moment)| open.add(row_without_mark(*row), *moment));
            return Ok(complete);
        }
        for (at, moment) in moments.iter().enumerate().filter(|(at, _)| files.is_valid(*at) && rows.is_valid(*at)) {
            let (number, row) = (files.value(at), row_without_mark(rows.value(at)));
            let is_of = |open: &GroupRows| open.number == number && open.rows.contains(&row);
            if !self.open.as_ref().is_some_and(is_of) {
                complete.extend(self.open.take().map(GroupRows::finished));
                let file = self.columns.file(number);
                let file = file.ok_or_else(|| internal_datafusion_err!("no file has the number {number}"))?;
                self.open = Some(GroupRows::new(file, number, row)?);
            }
            if let Some(open) = &mut self.open {
                open.add(row, *moment);
            }
        }
        Ok(complete)
    }

    /// The last row group.
    pub(super) fn finish(self) -> Option<GroupRows> {
        self.open.map(GroupRows::finished)
    }
}
