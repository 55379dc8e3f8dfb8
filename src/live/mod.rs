//! What is visible now: the buffer of recent spans, and the one rule that joins it with the table.
//!
//! Acknowledged records enter [`Live::push`] with the number that the write-ahead log gave them. A flush takes a
//! contiguous prefix ([`Live::seal`]), writes it to the table in a commit that carries the transaction
//! `txn { appId: log id, version: last number of the prefix }`, and then lets go of it ([`Live::release`]).
//!
//! # The rule
//!
//! A [`ReadView`] is a table snapshot plus the buffered records whose number is *above that snapshot's transaction
//! version for this log*. Nothing else decides what is visible, whatever happens in between:
//!
//! ```text
//!   records        1 2 3 4 5 6 | 7 8 9 | 10 ...
//!                  sealed        open            sealed: being flushed, open: still growing
//!
//!   snapshot txn = 0   view = table + 1..10      before the commit
//!   snapshot txn = 6   view = table + 7..10      from the commit on, although 1..6 are still in memory
//! ```
//!
//! [`Live::view`] reads the buffer first and the snapshot second. A record that left the buffer before that left it
//! after its commit was in the snapshot, so it is in the table; a record whose commit came in between is in both, and
//! the rule hides the buffered one. Batches never straddle the end of a sealed prefix, so the rule is exact.
//!
//! Where the tables lie in a bucket, a sealed prefix first becomes files on this machine ([`StagedFlush`]): they take
//! its place in the views and free its memory, and wait for their upload and commit, for as long as the bucket is away.
//! Of a staged flush, too, a view takes what is above its snapshot's transaction version.
//!
//! Replay after a crash, and the retry of an unclear commit, use the same comparison.
//!
//! Memory is bounded from both sides: many small records merge into few batches, and the sum of buffered bytes is
//! known at any time ([`Live::buffered_bytes`]), so that ingest can refuse more. Batches that were flushed stay alive
//! only as long as a view holds them.

mod buffer;
mod staged;
mod view;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;

pub use buffer::{BufferedBatch, Sealed};
pub use staged::StagedFlush;
pub use view::{ReadView, flushed_through};

use self::buffer::Buffer;
use crate::{
    catalog::Catalog,
    error::{Error, ErrorKind, Result},
    model::{
        batch::SpanBatch,
        promotion::{self, Promotion},
        tenant::TenantId,
    },
    storage::scan::demand::KeyDemand,
    wal::{LogId, RecordNumber},
};

/// When a client that found the store away at the start may ask again.
const SETTLE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The buffers of all tenants, and the tables they belong to. Shared by ingest, which fills it, and queries.
#[derive(Debug)]
pub struct Live {
    log: LogId,
    catalog: Arc<Catalog>,
    buffers: RwLock<HashMap<TenantId, Arc<Buffer>>>,
    demands: RwLock<HashMap<TenantId, Arc<KeyDemand>>>,
    promotions: RwLock<HashMap<TenantId, Arc<Promotion>>>,
    bytes: AtomicUsize,
    is_settled: AtomicBool,
}

impl Live {
    /// Empty buffers for the records of one log. Nothing can be viewed before [`Live::set_settled`].
    pub fn new(log: LogId, catalog: Arc<Catalog>) -> Self {
        Self {
            log,
            catalog,
            buffers: RwLock::default(),
            demands: RwLock::default(),
            promotions: RwLock::default(),
            bytes: AtomicUsize::new(0),
            is_settled: AtomicBool::new(false),
        }
    }

    /// Says that every record of the log is in a buffer or in a table, so that views are whole.
    pub fn set_settled(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// Whether views are whole.
    pub fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// The log whose records are buffered.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The tables.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Makes a durable record visible. Records of a tenant arrive in the order of their numbers.
    ///
    /// `received_unix_nano` is when the record was received, for the age of what is not flushed.
    pub fn push(&self, tenant: &TenantId, number: RecordNumber, batch: SpanBatch, received_unix_nano: i64) {
        let buffer = self.buffer(tenant);
        let grown = buffer.push(number, batch, received_unix_nano);
        if grown >= 0 {
            self.bytes.fetch_add(grown.unsigned_abs(), Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(grown.unsigned_abs(), Ordering::Relaxed);
        }
    }

    /// Takes everything that is buffered for a tenant as the prefix to flush next; new records go behind it.
    ///
    /// While a sealed prefix has not been released, the same one is returned again, so that a failed flush is retried
    /// with the same records. `None` if there is nothing.
    pub fn seal(&self, tenant: &TenantId) -> Option<Sealed> {
        self.existing(tenant)?.seal()
    }

    /// Whether a prefix is sealed that has not been released.
    pub fn is_sealed(&self, tenant: &TenantId) -> bool {
        self.existing(tenant).is_some_and(|buffer| buffer.is_sealed())
    }

    /// Lets go of a sealed prefix, after the tenant's snapshot in memory carries its transaction.
    pub fn release(&self, tenant: &TenantId, through: RecordNumber) {
        if let Some(buffer) = self.existing(tenant) {
            self.bytes.fetch_sub(buffer.release(through), Ordering::Relaxed);
        }
    }

    /// Puts files on this machine in the place of a sealed prefix.
    pub fn stage(&self, tenant: &TenantId, flush: StagedFlush) {
        if let Some(buffer) = self.existing(tenant) {
            self.bytes.fetch_sub(buffer.stage(flush), Ordering::Relaxed);
        }
    }

    /// The staged flush of a tenant that has to be committed next.
    pub fn first_staged(&self, tenant: &TenantId) -> Option<Arc<StagedFlush>> {
        self.existing(tenant)?.first_staged()
    }

    /// The tenants that have staged flushes.
    pub fn tenants_staged(&self) -> Vec<TenantId> {
        let buffers = self.buffers.read();
        let staged = buffers.iter().filter(|(_, buffer)| buffer.first_staged().is_some());
        let mut tenants: Vec<TenantId> = staged.map(|(tenant, _)| tenant.clone()).collect();
        tenants.sort_unstable();
        tenants
    }

    /// When the oldest record was received that is staged, in Unix nanoseconds.
    pub fn oldest_staged_unix_nano(&self) -> Option<i64> {
        let buffers = self.buffers.read();
        buffers.values().filter_map(|buffer| Some(buffer.first_staged()?.received_unix_nano)).min()
    }

    /// Forgets staged flushes up to a record, after the tenant's snapshot in memory carries its transaction.
    pub fn unstage(&self, tenant: &TenantId, through: RecordNumber) {
        if let Some(buffer) = self.existing(tenant) {
            buffer.unstage(through);
        }
    }

    /// What a query of `tenant` sees now.
    ///
    /// # Errors
    /// The table cannot be opened, or the buffers are not settled yet.
    pub async fn view(&self, tenant: &TenantId) -> Result<ReadView> {
        if !self.is_settled() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the store of the tables has not answered since the start, so nothing can be shown yet; spans are taken in",
            )
            .with_retry_after(SETTLE_RETRY_AFTER));
        }
        let table = self.catalog.table(tenant).await?;
        table.recent().await;
        // The buffer first, the snapshot second; see the module's documentation.
        let (staged, batches) = self.existing(tenant).map(|buffer| buffer.contents()).unwrap_or_default();
        let snapshot = table.snapshot();
        Ok(ReadView::new(tenant.clone(), self.log, snapshot, staged, batches, self.demand(tenant)))
    }

    /// Which attributes of a tenant's spans queries read.
    pub fn demand(&self, tenant: &TenantId) -> Arc<KeyDemand> {
        if let Some(demand) = self.demands.read().get(tenant) {
            return Arc::clone(demand);
        }
        Arc::clone(self.demands.write().entry(tenant.clone()).or_default())
    }

    /// Which attributes of a tenant's new spans get columns: those that the last flush had. Until there was one these are
    /// the standard ones. It is a matter of work and not of truth: a flush brings every batch under what it chose itself.
    pub fn promotion(&self, tenant: &TenantId) -> Arc<Promotion> {
        self.promotions.read().get(tenant).map_or_else(promotion::standard, Arc::clone)
    }

    /// Says which attributes got columns in a flush.
    pub fn set_promotion(&self, tenant: &TenantId, promotion: Arc<Promotion>) {
        self.promotions.write().insert(tenant.clone(), promotion);
    }

    /// Bytes that all buffers hold, sealed prefixes included.
    pub fn buffered_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Spans that all buffers hold, sealed prefixes included.
    pub fn buffered_spans(&self) -> usize {
        self.buffers.read().values().map(|buffer| buffer.load().spans).sum()
    }

    /// The tenants that have something in a buffer, with how much and how old.
    pub fn loads(&self) -> Vec<(TenantId, BufferLoad)> {
        let buffers = self.buffers.read();
        let mut loads: Vec<_> = buffers.iter().map(|(tenant, buffer)| (tenant.clone(), buffer.load())).collect();
        loads.retain(|(_, load)| load.spans > 0);
        loads.sort_by(|(a, _), (b, _)| a.cmp(b));
        loads
    }

    fn existing(&self, tenant: &TenantId) -> Option<Arc<Buffer>> {
        self.buffers.read().get(tenant).map(Arc::clone)
    }

    fn buffer(&self, tenant: &TenantId) -> Arc<Buffer> {
        match self.existing(tenant) {
            Some(buffer) => buffer,
            None => Arc::clone(self.buffers.write().entry(tenant.clone()).or_default()),
        }
    }
}

/// How much a tenant's buffer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferLoad {
    /// Bytes in memory.
    pub bytes: usize,
    /// Spans.
    pub spans: usize,
    /// When the oldest record was received, in Unix nanoseconds.
    pub oldest_received_unix_nano: Option<i64>,
}
