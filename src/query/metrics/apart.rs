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
    common::{HashMap, Result as DfResult, internal_datafusion_err},
    error::DataFusionError,
};

use super::{
    codes::Codes,
    values::{Empty, Values},
};
use crate::storage::{
    apart::{CodedChunk, CodedValue, ColumnsApart, FileApart},
    start_set::row_without_mark,
};

/// Pairs of a value and a moment that have a cell each in any case.
const CELLS_MIN: usize = 1 << 14;

/// The rows of a row group that count, with their moments.
#[derive(Debug)]
pub(super) struct GroupRows {
    pub(super) file: Arc<FileApart>,
    pub(super) group: usize,
    rows: Range<i64>,
    /// By row: where its moment is among the different ones, from 1 on; 0 for rows that do not count.
    places: Vec<u32>,
    /// The different moments; in order, when all rows are there.
    moments: Vec<u32>,
    known: HashMap<u32, u32>,
    last: (u32, u32),
    number: i32,
}

impl GroupRows {
    fn new(file: Arc<FileApart>, number: i32, row: i64) -> DfResult<Self> {
        let group = file.group_of(row);
        let (group, rows) = group.ok_or_else(|| internal_datafusion_err!("a file has no row {row}"))?;
        let places = vec![0; usize::try_from(rows.end - rows.start).unwrap_or(0)];
        let (moments, known) = (Vec::new(), HashMap::new());
        Ok(Self { file, group, rows, places, moments, known, last: (0, 0), number })
    }

    fn add(&mut self, row: i64, moment: u32) {
        if self.last.1 == 0 || self.last.0 != moment {
            let moments = &mut self.moments;
            let place = *self.known.entry(moment).or_insert_with(|| {
                moments.push(moment);
                moments.len() as u32
            });
            self.last = (moment, place);
        }
        self.places[(row - self.rows.start) as usize] = self.last.1;
    }

    /// All rows are there: places are put into the order of their moments.
    fn finished(mut self) -> Self {
        let mut order: Vec<usize> = (0..self.moments.len()).collect();
        order.sort_unstable_by_key(|place| self.moments[*place]);
        let mut place_of = vec![0; order.len() + 1];
        for (place, before) in (1..).zip(&order) {
            place_of[before + 1] = place;
        }
        self.places.iter_mut().for_each(|place| *place = place_of[*place as usize]);
        self.moments.sort_unstable();
        self
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }

    /// Which values of a column have how many spans at which moments.
    ///
    /// # Errors
    /// The column cannot be read.
    pub(super) fn count(&self, chunk: &mut CodedChunk) -> DfResult<Counted> {
        let (places, width) = (&self.places, self.moments.len() + 1);
        let is_wanted =
            |rows: Range<usize>| places.get(rows).is_none_or(|places| places.iter().any(|place| *place != 0));
        let values = chunk.values_len();
        if values.saturating_mul(width) <= CELLS_MIN.max(2 * places.len()) {
            let mut cells = vec![0_u32; values * width];
            chunk.for_each(is_wanted, |rows, codes| {
                for (code, place) in codes.iter().zip(&places[rows]) {
                    cells[*code as usize * width + *place as usize] += 1;
                }
            })?;
            return Ok(Counted::Cells { cells, width });
        }
        let mut pairs = Vec::new();
        chunk.for_each(is_wanted, |rows, codes| {
            let of_rows = codes.iter().zip(&places[rows]).filter(|(_, place)| **place != 0);
            pairs.extend(of_rows.map(|(code, place)| (*code, *place)));
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
        Ok(Counted::Sorted { places: sorted, ends })
    }

    /// Adds what was counted.
    ///
    /// # Errors
    /// A value cannot be read.
    pub(super) fn add_to(
        &self,
        values: &mut Values,
        (chunk, mut counted): (&CodedChunk, Counted),
        empty: Empty,
    ) -> DfResult<()> {
        let moment_of = |place: usize| self.moments[place - 1];
        let mut add = |code: usize, spans: &mut dyn Iterator<Item = (u32, u64)>| {
            let value = chunk.value(code)?;
            if empty != Empty::IsMissing || value != CodedValue::Text("") {
                values.add_counted(|codes| code_of(codes, value), spans);
            }
            Ok::<_, DataFusionError>(())
        };
        match &mut counted {
            Counted::Cells { cells, width } => {
                for (code, cells) in cells.chunks_exact(*width).enumerate() {
                    // The first cell is of rows that do not count.
                    let mut spans = cells.iter().enumerate().skip(1).filter(|(_, spans)| **spans > 0).peekable();
                    if spans.peek().is_some() {
                        add(code, &mut spans.map(|(place, spans)| (moment_of(place), u64::from(*spans))))?;
                    }
                }
            }
            Counted::Sorted { places, ends } => {
                let mut start = 0;
                for (code, end) in ends.iter().take(chunk.values_len()).enumerate() {
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

/// What was counted of a column.
#[derive(Debug)]
pub(super) enum Counted {
    /// Spans by code and place of the moment, of which there are so many.
    Cells { cells: Vec<u32>, width: usize },
    /// Places, code by code, and where each code's end.
    Sorted { places: Vec<u32>, ends: Vec<usize> },
}

fn code_of(codes: &mut Codes, value: CodedValue<'_>) -> u32 {
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
