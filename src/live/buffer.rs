//! One tenant's recent records: flushes that wait for a bucket, a sealed prefix that a flush is writing, and an open tail
//! that grows.
//!
//! A record of one span costs some 15 kB as a batch of its own, mostly empty column buffers. So small batches merge:
//! once [`MERGE_FAN_IN`] neighbours of a similar size have gathered at the end, they become one. Every span is copied
//! at most once per size class, and at most `MERGE_FAN_IN` batches per class exist. Merging also takes the spans out of
//! buffers with room to grow, and out of the one buffer behind all columns of a replayed record, which would count once for
//! every column.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use super::{BufferLoad, StagedFlush};
use crate::{model::batch::SpanBatch, wal::RecordNumber};

/// How many neighbours of one size class become one batch.
const MERGE_FAN_IN: usize = 16;

/// Batches of at least this many spans are not merged further.
const MERGE_SPANS_MAX: usize = 16 * 1024;

/// One or more neighbouring records of a tenant as one batch.
#[derive(Debug)]
pub struct BufferedBatch {
    /// Number of the first record in it.
    pub first: RecordNumber,
    /// Number of the last record in it.
    pub last: RecordNumber,
    /// Their spans.
    pub batch: SpanBatch,
    /// When the first of them was received, in Unix nanoseconds.
    pub received_unix_nano: i64,
    bytes: usize,
}

impl BufferedBatch {
    fn new(first: RecordNumber, last: RecordNumber, batch: SpanBatch, received_unix_nano: i64) -> Self {
        let bytes = batch.memory_bytes();
        Self { first, last, batch, received_unix_nano, bytes }
    }

    /// Class 0 below 16 spans, class 1 below 256, and so on; batches merge within a class.
    fn size_class(&self) -> u32 {
        self.batch.num_spans().max(1).ilog2() / MERGE_FAN_IN.ilog2()
    }
}

/// A contiguous prefix of a tenant's records, to be written to the table in one commit.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The records' batches, in order.
    pub batches: Vec<Arc<BufferedBatch>>,
    /// Number of the last record: the version of the commit's transaction.
    pub through: RecordNumber,
}

#[derive(Debug, Default)]
pub(super) struct Buffer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their records, all before those of `sealed`.
    staged: VecDeque<Arc<StagedFlush>>,
    sealed: Option<Sealed>,
    open: VecDeque<Arc<BufferedBatch>>,
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Arc<BufferedBatch>> {
        self.sealed.iter().flat_map(|sealed| &sealed.batches).chain(&self.open)
    }

    /// Merges the tail where enough neighbours of one class have gathered.
    fn merge_tail(&mut self) {
        while let Some(last) = self.open.back() {
            let class = last.size_class();
            let run = self.open.iter().rev().take_while(|batch| batch.size_class() == class).count();
            if run < MERGE_FAN_IN || last.batch.num_spans() >= MERGE_SPANS_MAX {
                return;
            }
            let from = self.open.len() - MERGE_FAN_IN;
            let parts: Vec<SpanBatch> = self.open.range(from..).map(|part| part.batch.clone()).collect();
            // A batch that cannot be merged stays as it is: it costs memory, nothing is lost.
            let Ok(batch) = SpanBatch::concat(&parts) else { return };
            let (first, received) = (self.open[from].first, self.open[from].received_unix_nano);
            let merged = BufferedBatch::new(first, last.last, batch, received);
            self.open.truncate(from);
            self.open.push_back(Arc::new(merged));
        }
    }
}

fn bytes<'a>(batches: impl Iterator<Item = &'a Arc<BufferedBatch>>) -> usize {
    batches.map(|batch| batch.bytes).sum()
}

impl Buffer {
    /// Adds a record and returns by how many bytes the buffer grew; merging can make it shrink.
    pub(super) fn push(&self, number: RecordNumber, batch: SpanBatch, received_unix_nano: i64) -> isize {
        let mut state = self.state.lock();
        debug_assert!(state.all().last().is_none_or(|last| last.last < number), "records arrive in order");
        let before = bytes(state.open.iter());
        state.open.push_back(Arc::new(BufferedBatch::new(number, number, batch, received_unix_nano)));
        state.merge_tail();
        let after = bytes(state.open.iter());
        after.cast_signed() - before.cast_signed()
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.state.lock().sealed.is_some()
    }

    pub(super) fn seal(&self) -> Option<Sealed> {
        let mut state = self.state.lock();
        if state.sealed.is_none() {
            let through = state.open.back()?.last;
            let batches = state.open.drain(..).collect();
            state.sealed = Some(Sealed { batches, through });
        }
        state.sealed.clone()
    }

    /// Puts files in the place of the sealed prefix that they hold, and returns how many bytes went.
    pub(super) fn stage(&self, flush: StagedFlush) -> usize {
        let mut state = self.state.lock();
        let sealed = state.sealed.take_if(|sealed| sealed.through == flush.through);
        debug_assert!(sealed.is_some(), "only what is sealed is staged");
        let Some(sealed) = sealed else { return 0 };
        state.staged.push_back(Arc::new(flush));
        bytes(sealed.batches.iter())
    }

    pub(super) fn first_staged(&self) -> Option<Arc<StagedFlush>> {
        self.state.lock().staged.front().map(Arc::clone)
    }

    /// Forgets staged flushes up to a record.
    pub(super) fn unstage(&self, through: RecordNumber) {
        self.state.lock().staged.retain(|flush| flush.through > through);
    }

    /// Returns how many bytes went.
    pub(super) fn release(&self, through: RecordNumber) -> usize {
        let mut state = self.state.lock();
        match state.sealed.take_if(|sealed| sealed.through <= through) {
            Some(sealed) => bytes(sealed.batches.iter()),
            None => 0,
        }
    }

    /// Everything, as of one moment.
    pub(super) fn contents(&self) -> (Vec<Arc<StagedFlush>>, Vec<Arc<BufferedBatch>>) {
        let state = self.state.lock();
        (state.staged.iter().map(Arc::clone).collect(), state.all().map(Arc::clone).collect())
    }

    pub(super) fn load(&self) -> BufferLoad {
        let state = self.state.lock();
        BufferLoad {
            bytes: bytes(state.all()),
            spans: state.all().map(|batch| batch.batch.num_spans()).sum(),
            oldest_received_unix_nano: state.all().map(|batch| batch.received_unix_nano).min(),
        }
    }
}
