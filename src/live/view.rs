//! A consistent view of one tenant's spans.

use std::sync::Arc;

use super::{BufferedBatch, StagedFlush};
use crate::{
    catalog::{LiveFile, Snapshot},
    model::{batch::SpanBatch, tenant::TenantId},
    storage::scan::demand::KeyDemand,
    wal::{LogId, RecordNumber},
};

/// What one query sees: a table snapshot, and the buffered records that it does not hold.
///
/// A view does not change; it keeps the batches it names alive, and its files are not deleted while their grace lasts.
#[derive(Clone, Debug)]
pub struct ReadView {
    tenant: TenantId,
    snapshot: Arc<Snapshot>,
    staged: Vec<Arc<StagedFlush>>,
    buffered: Vec<Arc<BufferedBatch>>,
    demand: Arc<KeyDemand>,
}

impl ReadView {
    pub(super) fn new(
        tenant: TenantId,
        log: LogId,
        snapshot: Arc<Snapshot>,
        mut staged: Vec<Arc<StagedFlush>>,
        mut buffered: Vec<Arc<BufferedBatch>>,
        demand: Arc<KeyDemand>,
    ) -> Self {
        let flushed = flushed_through(&snapshot, log);
        debug_assert!(
            buffered.iter().all(|batch| (batch.first <= flushed) == (batch.last <= flushed)),
            "a batch lies on both sides of a flush"
        );
        staged.retain(|flush| flush.through > flushed);
        buffered.retain(|batch| batch.last > flushed);
        Self { tenant, snapshot, staged, buffered, demand }
    }

    /// Whose spans.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// All files that hold spans of the view: the table's, and those that wait to become so.
    pub fn files(&self) -> impl Iterator<Item = &Arc<LiveFile>> {
        self.snapshot.files().chain(self.staged.iter().flat_map(|flush| &flush.files))
    }

    /// The table.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Where queries of the view leave which attributes they read.
    pub fn demand(&self) -> &Arc<KeyDemand> {
        &self.demand
    }

    /// The buffered batches, in the order of their records.
    pub fn buffered(&self) -> impl ExactSizeIterator<Item = &SpanBatch> {
        self.buffered.iter().map(|buffered| &buffered.batch)
    }
}

/// The last record of `log` that `snapshot` holds: records up to it are in the table, records above it are not.
pub fn flushed_through(snapshot: &Snapshot, log: LogId) -> RecordNumber {
    let version = snapshot.transaction(&log.to_string()).unwrap_or_default();
    // Versions are record numbers, which begin at 1; a negative one was not written by a flush.
    RecordNumber::new(version.max(0).cast_unsigned())
}
