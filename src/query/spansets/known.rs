//! Whole traces out of spans that come in any order, from several partitions at once, where the traces are known before.
//!
//! In a file the spans of a trace lie together, so most traces come in one piece: one run of rows of one batch. Where the
//! number of spans is known, such a trace is evaluated where it lies, and only pieces wait for the rest of their trace.
//! Where it is not, everything waits for the end; such queries are about few traces. There, too, a trace that came in one
//! piece is evaluated where it lies. A trace that is too large for this ends the run as a want of memory does: whoever
//! asked runs the plan that sorts and cuts instead.

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt32Array},
        compute::{cast, concat_batches, take_record_batch},
        error::ArrowError,
    },
    common::{DataFusionError, Result, internal_err},
    execution::memory_pool::MemoryReservation,
};
use parking_lot::Mutex;

use super::gather::SPAN_BYTES;
use crate::{
    model::schema::column,
    storage::trace_set::{ByTrace, TraceSet, runs},
};

/// Whole traces: rows of a batch, each range one trace.
pub(super) type WholeTraces = (RecordBatch, Vec<Range<usize>>);

/// What all partitions share.
#[derive(Debug)]
pub(super) struct Gathering {
    set: Arc<TraceSet>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Partitions that have not ended.
    open: usize,
    traces: ByTrace<Pieces>,
    /// What the pieces are rows of; gone where none of its pieces waits any more.
    batches: Vec<Option<Held>>,
    /// Bytes of all that waits.
    bytes: usize,
    reservation: Option<MemoryReservation>,
    /// Whether the run has ended for want of memory: nothing is kept any more, so that the next try has all of it.
    has_failed: bool,
}

/// A batch, and how many pieces of it wait.
#[derive(Debug)]
struct Held {
    batch: RecordBatch,
    pieces: usize,
}

/// The spans of a trace so far: rows of batches by position.
#[derive(Debug, Default)]
struct Pieces {
    spans: u32,
    parts: Vec<(usize, Range<usize>)>,
}

impl Gathering {
    /// Nothing gathered yet, of `partitions` partitions.
    pub(super) fn new(set: Arc<TraceSet>, partitions: usize) -> Self {
        let waiting = Waiting {
            open: partitions,
            traces: ByTrace::default(),
            batches: Vec::new(),
            bytes: 0,
            reservation: None,
            has_failed: false,
        };
        Self { set, waiting: Mutex::new(waiting) }
    }

    /// Takes in a batch. Out come the traces that are whole now.
    ///
    /// # Errors
    /// What has to wait is more than memory for the query holds, or a trace has more than `spans_max` spans.
    pub(super) fn add(
        &self,
        batch: &RecordBatch,
        spans_max: usize,
        memory: impl FnOnce() -> MemoryReservation,
    ) -> Result<Vec<WholeTraces>> {
        let ready = self.sort_out(batch, spans_max, memory);
        if ready.is_err() {
            self.clear();
            self.waiting.lock().has_failed = true;
        }
        ready
    }

    fn sort_out(
        &self,
        batch: &RecordBatch,
        spans_max: usize,
        memory: impl FnOnce() -> MemoryReservation,
    ) -> Result<Vec<WholeTraces>> {
        let ids = trace_ids(batch)?;
        let (mut whole, mut pieces, mut start) = (Vec::new(), Vec::new(), 0);
        for (number, end) in runs(ids) {
            let rows = start..end;
            start = end;
            match self.set.spans_of(number) {
                None => {}
                Some(spans) if spans as usize > spans_max => return Err(too_large(spans_max)),
                Some(spans) if self.set.is_counted() && spans as usize == rows.len() => whole.push(rows),
                Some(_) => pieces.push((number, rows)),
            }
        }
        let mut ready = Vec::new();
        if !whole.is_empty() {
            ready.push((batch.clone(), whole));
        }
        if !pieces.is_empty() {
            ready.extend(self.wait(batch, pieces, spans_max, memory)?);
        }
        Ok(ready)
    }

    /// A partition has ended. Out come the traces that are whole when all have.
    ///
    /// # Errors
    /// Spans that were counted have not come.
    pub(super) fn end(&self) -> Result<Vec<WholeTraces>> {
        let mut waiting = self.waiting.lock();
        waiting.open = waiting.open.saturating_sub(1);
        if waiting.open > 0 || waiting.traces.is_empty() {
            return Ok(Vec::new());
        }
        if self.set.is_counted() {
            return internal_err!("{} traces have fewer spans than were counted", waiting.traces.len());
        }
        let traces = std::mem::take(&mut waiting.traces);
        let mut in_place: Vec<Vec<Range<usize>>> = vec![Vec::new(); waiting.batches.len()];
        let mut apart = Vec::new();
        for trace in traces.into_values() {
            match trace.parts.as_slice() {
                [(batch, rows)] => in_place[*batch].push(rows.clone()),
                _ => apart.push(trace),
            }
        }
        let apart = waiting.take(&apart)?;
        let batches = std::mem::take(&mut waiting.batches);
        drop(waiting);
        let whole = batches.into_iter().zip(in_place).filter(|(_, traces)| !traces.is_empty());
        Ok(whole.filter_map(|(held, traces)| Some((held?.batch, traces))).chain(apart.joined()?).collect())
    }

    /// Forgets everything, and gives its memory back.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        waiting.traces = ByTrace::default();
        waiting.batches = Vec::new();
        waiting.bytes = 0;
        waiting.reservation = None;
    }

    fn wait(
        &self,
        batch: &RecordBatch,
        pieces: Vec<(u128, Range<usize>)>,
        spans_max: usize,
        memory: impl FnOnce() -> MemoryReservation,
    ) -> Result<Option<WholeTraces>> {
        let rows: usize = pieces.iter().map(|(_, rows)| rows.len()).sum();
        // A copy of the pieces alone, lest they keep the whole batch in memory.
        let compact = match rows == batch.num_rows() {
            true => batch.clone(),
            false => {
                let rows = pieces.iter().flat_map(|(_, rows)| rows.start as u32..rows.end as u32);
                take_record_batch(batch, &UInt32Array::from_iter_values(rows))?
            }
        };
        let compact = without_unused_texts(&compact)?;
        // The pieces, and their columns joined to one.
        let row_bytes = 2 * compact.get_array_memory_size() / rows.max(1) + SPAN_BYTES;
        let mut waiting = self.waiting.lock();
        if waiting.has_failed {
            return Err(DataFusionError::ResourcesExhausted("another part of the run had no memory left".to_owned()));
        }
        let place = waiting.batches.len();
        waiting.batches.push(Some(Held { batch: compact, pieces: pieces.len() }));
        let (mut start, mut complete, mut freed) = (0, Vec::new(), 0);
        for (number, rows) in pieces {
            let (spans, part) = (rows.len() as u32, start..start + rows.len());
            start += rows.len();
            let known = waiting.traces.entry(number).or_default();
            known.spans += spans;
            if known.spans as usize > spans_max {
                return Err(too_large(spans_max));
            }
            known.parts.push((place, part));
            if self.set.is_counted() && Some(known.spans) >= self.set.spans_of(number) {
                freed += known.spans as usize * row_bytes;
                complete.extend(waiting.traces.remove(&number));
            }
        }
        waiting.bytes = (waiting.bytes + rows * row_bytes).saturating_sub(freed);
        let bytes = waiting.bytes;
        let reservation = waiting.reservation.get_or_insert_with(memory);
        match bytes > reservation.size() {
            true => reservation.try_resize(bytes)?,
            false => reservation.resize(bytes),
        }
        let complete = waiting.take(&complete)?;
        drop(waiting);
        complete.joined()
    }
}

impl Waiting {
    /// The pieces of traces. Batches of which nothing waits then are given up.
    fn take(&mut self, traces: &[Pieces]) -> Result<Taken> {
        let mut taken = Taken::default();
        for trace in traces {
            let start = taken.traces.last().map_or(0, |last| last.end);
            taken.traces.push(start..start + trace.spans as usize);
            for (place, rows) in &trace.parts {
                let Some(held) = &mut self.batches[*place] else {
                    return internal_err!("a piece of a trace waits for a batch that is gone");
                };
                taken.parts.push(held.batch.slice(rows.start, rows.len()));
                held.pieces -= 1;
                if held.pieces == 0 {
                    self.batches[*place] = None;
                }
            }
        }
        Ok(taken)
    }
}

/// Pieces of traces, trace by trace, and the rows that each has of them all.
#[derive(Debug, Default)]
struct Taken {
    parts: Vec<RecordBatch>,
    traces: Vec<Range<usize>>,
}

impl Taken {
    /// Each trace in one piece, all of them in one batch.
    fn joined(self) -> Result<Option<WholeTraces>> {
        let Some(schema) = self.parts.first().map(RecordBatch::schema) else { return Ok(None) };
        Ok(Some((concat_batches(&schema, &self.parts)?, self.traces)))
    }
}

/// The rows with dictionaries of their own texts alone, where they have fewer than the dictionary that they came with.
fn without_unused_texts(batch: &RecordBatch) -> Result<RecordBatch> {
    let compact = |column: &ArrayRef| match column.as_any_dictionary_opt() {
        Some(coded) if coded.values().len() > coded.len() => {
            cast(&cast(column, coded.values().data_type())?, column.data_type())
        }
        _ => Ok(Arc::clone(column)),
    };
    let columns = batch.columns().iter().map(compact).collect::<Result<_, ArrowError>>()?;
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

fn too_large(spans_max: usize) -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!("a trace has more than {spans_max} spans"))
}

/// The trace ids of a batch of spans.
pub(super) fn trace_ids(batch: &RecordBatch) -> Result<&FixedSizeBinaryArray> {
    match batch.column_by_name(column::TRACE_ID).and_then(|ids| ids.as_fixed_size_binary_opt()) {
        Some(ids) => Ok(ids),
        None => internal_err!("spans come without trace id"),
    }
}
