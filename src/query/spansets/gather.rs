//! The parts of one trace, kept until it is complete, within bounds on spans and memory.
//!
//! A trace beyond the bounds is cut: its earliest spans stay, by start, span id and kind, whatever files they came from.
//! As long as a trace comes, at most twice as many are held; so a trace of any size takes bounded memory. A trace that
//! the bound on spans cuts is cut the same way every time, one that memory cuts is not; either is counted, and the answer
//! says so.

use datafusion::{
    arrow::{
        array::RecordBatch,
        compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
    },
    common::{DataFusionError, Result, internal_datafusion_err},
    execution::memory_pool::MemoryReservation,
};

use crate::{model::schema::column, query::request::PartialAnswers};

/// Bounds on traces, for operators: an extension of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceBounds {
    /// Most spans of a trace that are looked at as a whole.
    pub(crate) spans_max: usize,
    /// What becomes of an answer from a trace with more.
    pub(crate) partial: PartialAnswers,
}

/// Why an answer is not complete.
pub(crate) fn cut_text(spans_max: usize) -> String {
    format!(
        "a trace has more spans than query.trace_spans_max = {spans_max} or than fit into memory, so that only its earliest spans can be looked at"
    )
}

/// Memory that a trace may take without asking, in bytes: operators that spill take all there is otherwise.
const UNASKED_BYTES_MAX: usize = 16 << 20;
/// Most bytes of the parts of a trace: columns in one piece have 32-bit offsets.
const PARTS_BYTES_MAX: usize = 1 << 30;
/// Spans that are never cut for want of memory; a query without memory for these fails.
const SPANS_LEAST: usize = 1 << 10;
/// What a span of a trace costs besides its columns, in bytes: rows, edges, marks.
pub(super) const SPAN_BYTES: usize = 160;

/// Parts of one trace.
#[derive(Debug)]
pub(super) struct Gathered {
    bounds: TraceBounds,
    parts: Vec<RecordBatch>,
    spans: usize,
    /// Most spans of this trace: fewer than the bound once memory has failed.
    spans_max: usize,
    was_cut: bool,
    reservation: MemoryReservation,
}

/// A trace in one piece.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) spans: RecordBatch,
    /// Whether these are only its earliest spans.
    pub(super) was_cut: bool,
}

impl Gathered {
    /// Nothing yet.
    pub(super) fn new(bounds: TraceBounds, reservation: MemoryReservation) -> Self {
        Self { bounds, parts: Vec::new(), spans: 0, spans_max: bounds.spans_max, was_cut: false, reservation }
    }

    /// A part of the trace, if there is one.
    pub(super) fn some_part(&self) -> Option<&RecordBatch> {
        self.parts.first()
    }

    /// Adds a part.
    pub(super) fn add(&mut self, part: RecordBatch) -> Result<()> {
        self.spans += part.num_rows();
        self.parts.push(part);
        if self.spans > self.spans_max.saturating_mul(2) {
            self.cut()?;
        }
        if self.parts.len() == 1 {
            return Ok(());
        }
        while let Err(error) = self.reserve() {
            if self.spans <= SPANS_LEAST {
                return Err(DataFusionError::ResourcesExhausted(format!(
                    "{} spans of one trace are too much to evaluate at once: {error}",
                    self.spans
                )));
            }
            self.spans_max = self.spans / 2;
            self.cut()?;
        }
        Ok(())
    }

    /// The trace, of which there are no parts any more; its memory stays reserved until [`Self::release`]. Fails if it is
    /// cut and a partial answer is refused.
    pub(super) fn take(&mut self) -> Result<Option<Whole>> {
        if self.spans > self.spans_max {
            self.cut()?;
        }
        let parts = std::mem::take(&mut self.parts);
        let spans = match parts.as_slice() {
            [] => return Ok(None),
            [part] => part.clone(),
            [part, ..] => concat_batches(&part.schema(), &parts)?,
        };
        let was_cut = std::mem::take(&mut self.was_cut);
        if was_cut && self.bounds.partial == PartialAnswers::Refused {
            return Err(DataFusionError::ResourcesExhausted(cut_text(self.bounds.spans_max)));
        }
        (self.spans, self.spans_max) = (0, self.bounds.spans_max);
        Ok(Some(Whole { spans, was_cut }))
    }

    /// Gives the memory of the trace back.
    pub(super) fn release(&mut self) {
        self.reservation.free();
    }

    fn reserve(&mut self) -> Result<()> {
        let columns: usize = self.parts.iter().map(RecordBatch::get_array_memory_size).sum();
        if columns > PARTS_BYTES_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!("{columns} bytes of one trace")));
        }
        // The parts, and their columns in one piece.
        let bytes = 2 * columns + self.spans * SPAN_BYTES;
        match bytes <= UNASKED_BYTES_MAX {
            true => {
                self.reservation.resize(bytes);
                Ok(())
            }
            false => self.reservation.try_resize(bytes),
        }
    }

    /// Keeps the earliest spans only.
    fn cut(&mut self) -> Result<()> {
        let parts = std::mem::take(&mut self.parts);
        let Some(part) = parts.first() else { return Ok(()) };
        let whole = concat_batches(&part.schema(), &parts)?;
        drop(parts);
        let by = |name: &str| match whole.column_by_name(name) {
            Some(values) => Ok(SortColumn { values: std::sync::Arc::clone(values), options: None }),
            None => Err(internal_datafusion_err!("spans come without column {name}")),
        };
        let order = [by(column::START_TIME)?, by(column::SPAN_ID)?, by(column::KIND)?];
        let earliest = lexsort_to_indices(&order, Some(self.spans_max))?;
        self.parts = vec![take_record_batch(&whole, &earliest)?];
        self.spans = earliest.len();
        self.was_cut = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::{
        arrow::{
            array::{Array, AsArray, FixedSizeBinaryArray, Int64Array, StringArray},
            datatypes::Int64Type,
        },
        execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool},
    };

    use super::*;

    fn part(starts: &[i64]) -> RecordBatch {
        let ids = starts.iter().map(|start| start.to_be_bytes());
        RecordBatch::try_from_iter([
            (column::START_TIME, Arc::new(Int64Array::from(starts.to_vec())) as Arc<dyn Array>),
            (column::SPAN_ID, Arc::new(FixedSizeBinaryArray::try_from_iter(ids).unwrap())),
            (column::KIND, Arc::new(StringArray::from(vec!["server"; starts.len()]))),
        ])
        .unwrap()
    }

    fn gathered(spans_max: usize, memory_bytes: usize) -> Gathered {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(memory_bytes));
        Gathered::new(
            TraceBounds { spans_max, partial: PartialAnswers::Marked },
            MemoryConsumer::new("test").register(&pool),
        )
    }

    fn starts(whole: &Whole) -> Vec<i64> {
        let mut starts = whole.spans[column::START_TIME].as_primitive::<Int64Type>().values().to_vec();
        starts.sort_unstable();
        starts
    }

    #[test]
    fn of_a_trace_with_too_many_spans_the_earliest_stay_whatever_the_parts() {
        for parts in [vec![vec![9, 1, 8, 2, 7, 3, 6, 4]], vec![vec![9], vec![8, 1], vec![7, 2, 6], vec![3, 4]]] {
            let mut gathered = gathered(3, 1 << 20);
            parts.iter().for_each(|starts| gathered.add(part(starts)).unwrap());
            let whole = gathered.take().unwrap().unwrap();
            assert!(whole.was_cut);
            assert_eq!(starts(&whole), [1, 2, 3]);
            gathered.add(part(&[5, 6, 7])).unwrap();
            let next = gathered.take().unwrap().unwrap();
            assert!(!next.was_cut, "the next trace starts anew");
            assert_eq!(starts(&next), [5, 6, 7]);
        }
    }

    #[test]
    fn where_memory_ends_the_earliest_spans_stay_too() {
        let mut gathered = gathered(usize::MAX, UNASKED_BYTES_MAX + (1 << 20));
        let many: Vec<i64> = (0..50_000).collect();
        for chunk in many.rchunks(10_000) {
            gathered.add(part(chunk)).unwrap();
        }
        for chunk in many.chunks(10_000) {
            let later: Vec<i64> = chunk.iter().map(|start| start + 50_000).collect();
            gathered.add(part(&later)).unwrap();
        }
        let whole = gathered.take().unwrap().unwrap();
        assert!(whole.was_cut);
        let starts = starts(&whole);
        assert!(starts.len() >= SPANS_LEAST && starts.len() < 100_000, "{}", starts.len());
        assert_eq!(starts, many[..starts.len()]);
    }
}
