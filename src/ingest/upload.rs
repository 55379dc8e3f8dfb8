//! From staged files to the table in a bucket.
//!
//! ```text
//!  staged files, oldest flush of each tenant first
//!    -> put into the bucket under their names -> table commit: adds + txn{log, last number}
//!    -> the view takes them from the table -> delete the staged files -> cut the log
//! ```
//!
//! A flush keeps its files' names and its commit until it succeeds, so that whatever became of an earlier try, the next
//! one ends in the same state. Flushes of one tenant are committed in their order: a transaction says "all records up
//! to here".
//!
//! While the bucket is away nothing here holds memory: spans wait as files, and the log, which is not cut, grows to
//! `wal.bytes_max` before senders are told to retry.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    commit::Command,
    flush::{FlushReport, PAUSE_MAX, PAUSE_MIN},
    table_writer::{TableWriter, commit_flush},
};
use crate::{
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{Live, StagedFlush},
    metrics::Metrics,
    model::tenant::TenantId,
    storage::{remote::staged::Staged, store::Store},
};

/// Tenants whose flushes are uploaded at once.
const TENANTS_AT_ONCE_MAX: usize = 4;

/// Uploads staged flushes.
#[derive(Debug)]
pub(super) struct Uploads {
    live: Arc<Live>,
    store: Store,
    metrics: Arc<Metrics>,
    commands: mpsc::Sender<Command>,
    one_round_at_a_time: Mutex<()>,
    woken: Notify,
    stopped: CancellationToken,
}

impl Uploads {
    /// Uploads of what `writer` stages.
    pub(super) fn new(writer: &TableWriter, metrics: Arc<Metrics>, commands: mpsc::Sender<Command>) -> Self {
        Self {
            live: Arc::clone(writer.live()),
            store: writer.files().clone(),
            metrics,
            commands,
            one_round_at_a_time: Mutex::new(()),
            woken: Notify::new(),
            stopped: CancellationToken::new(),
        }
    }

    /// Says that something was staged.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Ends [`Uploads::run`] after the round that is under way.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Uploads what is staged, until stopped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            tokio::select! {
                () = self.stopped.cancelled() => return,
                () = self.woken.notified() => {}
            }
            while let Err(cause) = self.upload_all().await {
                warn!(error = %cause, ?pause, "upload failed");
                tokio::select! {
                    () = self.stopped.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = PAUSE_MAX.min(pause * 2);
            }
            pause = PAUSE_MIN;
        }
    }

    /// Uploads and commits everything that is staged now.
    ///
    /// # Errors
    /// The first failure; other tenants were tried as well.
    pub(super) async fn upload_all(&self) -> Result<FlushReport> {
        let _round = self.one_round_at_a_time.lock().await;
        let Some(staged) = self.store.staged() else { return Ok(FlushReport::default()) };
        let uploads = stream::iter(self.live.tenants_staged())
            .map(|tenant| async move { self.upload_tenant(&tenant, staged).await })
            .buffer_unordered(TENANTS_AT_ONCE_MAX);
        let outcomes: Vec<Result<FlushReport>> = uploads.collect().await;
        let (files, bytes) = staged.load();
        self.metrics.staged_files.set(files.cast_signed() as i64);
        self.metrics.staged_bytes.set(bytes.cast_signed());
        outcomes.into_iter().try_fold(FlushReport::default(), |mut sum, outcome| {
            sum.add(outcome?);
            Ok(sum)
        })
    }

    async fn upload_tenant(&self, tenant: &TenantId, staged: &Staged) -> Result<FlushReport> {
        let mut sum = FlushReport::default();
        while let Some(flush) = self.live.first_staged(tenant) {
            let outcome = self.upload(tenant, &flush, staged).await;
            if outcome.is_err() {
                self.metrics.upload_failures.inc();
            }
            sum.add(outcome?);
        }
        Ok(sum)
    }

    async fn upload(&self, tenant: &TenantId, flush: &StagedFlush, staged: &Staged) -> Result<FlushReport> {
        let started = tokio::time::Instant::now();
        let table = self.live.catalog().table(tenant).await?;
        for add in &flush.commit.adds {
            let path = table.folder().file(&add.path);
            let bytes = staged.get(&path).await.map_err(|cause| {
                let message = format!("cannot read {path}, which waits for its upload: {cause}");
                Error::new(ErrorKind::Internal, message).with_source(cause)
            })?;
            self.store.put_file(&path, bytes).await?;
        }
        crashpoint::hit("flush.after_parquet");
        commit_flush(&table, tenant, &flush.commit).await?;
        let report = FlushReport::of(&flush.commit);
        self.metrics.flush_spans.inc_by(report.spans as u64);
        self.metrics.flush_bytes.inc_by(report.bytes);
        self.live.unstage(tenant, flush.through);
        for file in &flush.files {
            // A file that stays behind is deleted at the next start.
            let _ = staged.remove(&file.location).await;
        }
        crashpoint::hit("flush.before_cut");
        // The committer may have closed the log already; then replay skips these records by their transaction.
        let _ = self.commands.send(Command::Cut { tenant: tenant.clone(), through: flush.through }).await;
        info!(%tenant, through = %flush.through, spans = report.spans, files = report.files, bytes = report.bytes,
            took = ?started.elapsed(), "uploaded");
        Ok(report)
    }
}
