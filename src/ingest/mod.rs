//! From a decoded batch to a durable, visible, and at last stored one.
//!
//! ```text
//!  Ingest::write --queue--> committer thread ----------------------------> ack
//!                           gather what waits, merge per tenant,            ^
//!                           append + sync (one group), make visible --------/
//!                                 |                      ^
//!                                 v                      | cut(tenant, number)
//!                            live buffer --seal--> flusher task: Parquet, table commit with txn, release
//! ```
//!
//! One thread owns the log, so records get their numbers, their durability and their visibility in one order, and no
//! lock is held across a sync. While it syncs, further requests gather for the next group: the slower the disk, the
//! larger the groups.
//!
//! A request is acknowledged when its record is synced *and* visible. A byte-identical retry within the dedup window
//! waits for, or finds, the first one and is acknowledged without being stored again ([`dedup`]).
//!
//! Back-pressure is early: when the buffer or the queue is full, or the log has failed, [`Ingest::write`] fails at once
//! with [`ErrorKind::Unavailable`] and a retry hint, and nothing was stored. A flush
//! is asked for before it comes to that: by the bytes of the buffers, and by those of the log (`log_load`).
//!
//! Spans that were deleted before they arrived are left out ([`Screen`]). A bucket that is away at the start keeps queries
//! waiting, not senders (`settle`).
//!
//! Where the tables lie in a bucket, a flush ends in files on this machine, and `upload` brings them to the table when
//! the bucket is there.
//!
//! Decoding and limits on requests are the receivers' work; here is only what is the same for all protocols.

mod commit;
pub mod dedup;
mod flush;
mod log_load;
mod open;
pub mod record;
mod screen;
mod settle;
mod table_writer;
mod upload;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::{RwLock, mpsc, oneshot};

pub use flush::FlushReport;
pub use open::{IngestParts, ReadOnly, Recovered};
pub use screen::{Screen, Screened};

use self::{
    commit::{Command, Pending},
    dedup::Digest,
    flush::Flusher,
    settle::Settler,
};
use crate::{
    error::{Error, ErrorKind, Result},
    live::Live,
    model::{batch::SpanBatch, tenant::TenantId},
};

/// How long senders are told to wait when the server cannot take more.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Requests that may wait for the committer. Their bytes are bounded by the receivers.
const QUEUE_REQUESTS_MAX: usize = 4096;

/// A decoded request on its way to the log.
#[derive(Debug)]
pub struct WriteRequest {
    /// The accepted spans.
    pub batch: SpanBatch,
    /// Digest of the decompressed body, by [`dedup::digest`].
    pub digest: Digest,
    /// When the request arrived, in Unix nanoseconds.
    pub received_unix_nano: i64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The same bytes were stored before; nothing was added.
    pub duplicate: bool,
}

/// The way in for spans. Cheap to share by [`Arc`].
#[derive(Debug)]
pub struct Ingest {
    live: Arc<Live>,
    commands: mpsc::Sender<Command>,
    flusher: Arc<Flusher>,
    settler: Arc<Settler>,
    screen: Arc<OnceLock<Screen>>,
    /// Shared by writes between their screening and their place in the queue.
    gate: RwLock<()>,
    buffer_bytes_max: usize,
}

impl Ingest {
    /// Stores a batch durably and makes it visible; returns when both are done.
    ///
    /// An error of kind [`ErrorKind::Unavailable`] says that nothing is known to be stored and the sender should retry.
    pub async fn write(&self, tenant: &TenantId, request: WriteRequest) -> Result<WriteOutcome> {
        if request.batch.num_spans() == 0 {
            return Ok(WriteOutcome { duplicate: false });
        }
        let buffered = self.live.buffered_bytes();
        if buffered >= self.buffer_bytes_max {
            self.flusher.wake();
            let limit = self.buffer_bytes_max;
            return Err(unavailable(format!(
                "the buffer holds {buffered} bytes of spans, the limit buffer.bytes_max is {limit}; retry later"
            )));
        }
        let passing = self.gate.read().await;
        let request = self.screened(tenant, request).await;
        if request.batch.num_spans() == 0 {
            return Ok(WriteOutcome { duplicate: false });
        }
        let (ack, acknowledged) = oneshot::channel();
        let pending = Pending { tenant: tenant.clone(), request, ack };
        self.commands.try_send(Command::Write(pending)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                unavailable(format!("{QUEUE_REQUESTS_MAX} requests already wait for the log; retry later"))
            }
            mpsc::error::TrySendError::Closed(_) => unavailable("the server is shutting down"),
        })?;
        drop(passing);
        acknowledged.await.map_err(|_| unavailable("the server is shutting down"))?
    }

    /// Writes what is buffered for all tenants to their tables.
    pub async fn flush(&self) -> Result<FlushReport> {
        self.settler.settle().await?;
        self.flusher.flush_all().await
    }

    /// Writes to its table what is buffered for one tenant, and every request of it that has passed the screen so far.
    pub async fn flush_tenant(&self, tenant: &TenantId) -> Result<FlushReport> {
        self.settler.settle().await?;
        drop(self.gate.write().await);
        self.barrier().await?;
        self.flusher.flush_one(tenant).await
    }

    /// Screens what arrives from now on; whatever is set first stays.
    pub fn set_screen(&self, screen: Screen) {
        let _ = self.screen.set(screen);
    }

    async fn screened(&self, tenant: &TenantId, mut request: WriteRequest) -> WriteRequest {
        if let Some(screen) = self.screen.get() {
            request.batch = (screen.pass)(tenant, request.batch).batch().await;
        }
        request
    }

    /// The buffers and tables that this fills.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Stops: takes no more requests, finishes those that wait, flushes, syncs and closes the log.
    ///
    /// What cannot be flushed stays in the log and is replayed at the next start.
    pub async fn shutdown(&self) -> Result<()> {
        self.flusher.stop();
        self.settler.stop();
        let drained = self.barrier().await;
        // Without the tables nothing can be flushed; the log has everything.
        let flushed = if self.live.is_settled() { self.flusher.flush_all().await } else { Ok(FlushReport::default()) };
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            closed
                .await
                .map_err(|_| Error::new(ErrorKind::Internal, "the log thread ended before it was closed"))??;
        }
        drained.and(flushed.map(|_| ()))
    }

    /// Returns when every write that was queued before has been answered.
    async fn barrier(&self) -> Result<()> {
        let (done, reached) = oneshot::channel();
        let closed = || unavailable("the server is shutting down");
        self.commands.send(Command::Barrier(done)).await.map_err(|_| closed())?;
        reached.await.map_err(|_| closed())
    }
}

/// Without [`Ingest::shutdown`] nothing is flushed; what was acknowledged is in the log and is replayed at the next start.
impl Drop for Ingest {
    fn drop(&mut self) {
        // The flusher holds the last sender but ours; the log's thread ends with them.
        self.flusher.stop();
        self.settler.stop();
    }
}

fn unavailable(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER)
}
