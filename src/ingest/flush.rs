//! From the buffer to the table.
//!
//! ```text
//!  seal prefix -> Parquet files, one per day -> synced in the store -> table commit: adds + txn{log, last number}
//!              -> release the prefix (the snapshot holds it now) -> cut the log
//! ```
//!
//! A crash or an error between any two steps loses and doubles nothing: before the commit the records are in the log
//! and the files are not in the table; after it the transaction tells replay and views that the records are stored.
//! A failed flush is retried with the same prefix and the same transaction, so that an unclear commit cannot win twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::datatypes::Field;
use chrono::{Days, NaiveDate};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::commit::Command;
use crate::{
    catalog::{
        Commit, CommitOutcome, NewFile, Transaction,
        statistics::{ColumnStatistics, FileStatistics},
    },
    clock::Clock,
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{BufferLoad, Live, Sealed},
    metrics::Metrics,
    model::{batch::SpanBatch, promotion::PromotedAttribute, schema::promoted_field, tenant::TenantId},
    storage::{
        paths,
        store::Store,
        writer::{self, WrittenFile},
    },
};

/// How often the buffers' sizes and ages are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Pause after a failed flush; doubled with every further failure up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// When buffers are flushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushPolicy {
    /// A tenant's buffer of this many bytes is flushed.
    pub(super) bytes_max: usize,
    /// A tenant's buffer whose oldest record is this old is flushed, in nanoseconds.
    pub(super) age_max_nano: i64,
    /// If all buffers together reach this many bytes, the largest is flushed.
    pub(super) pressure_bytes: usize,
}

/// What a flush wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Spans that are in the table now.
    pub spans: usize,
    /// Files that were added to tables.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl FlushReport {
    fn add(&mut self, other: Self) {
        self.spans += other.spans;
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Moves sealed prefixes to tables, one at a time.
#[derive(Debug)]
pub(super) struct Flusher {
    live: Arc<Live>,
    store: Store,
    policy: FlushPolicy,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    commands: mpsc::Sender<Command>,
    one_at_a_time: Mutex<()>,
    woken: Notify,
    stopped: CancellationToken,
}

impl Flusher {
    pub(super) fn new(
        live: Arc<Live>,
        store: Store,
        policy: FlushPolicy,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            live,
            store,
            policy,
            clock,
            metrics,
            commands,
            one_at_a_time: Mutex::new(()),
            woken: Notify::new(),
            stopped: CancellationToken::new(),
        }
    }

    /// Looks at the buffers now.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Ends [`Flusher::run`] after the flush that is under way.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Flushes what is due, until stopped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        while !self.stopped.is_cancelled() {
            let wait = match self.flush_due().await {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    TICK
                }
                Err(cause) => {
                    warn!(error = %cause, source = ?std::error::Error::source(&cause), ?pause, "flush failed");
                    let wait = pause;
                    pause = PAUSE_MAX.min(pause * 2);
                    wait
                }
            };
            tokio::select! {
                () = self.stopped.cancelled() => {}
                () = self.woken.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn flush_due(&self) -> Result<()> {
        let loads = self.live.loads();
        self.observe(&loads);
        let now = self.clock.now_unix_nano();
        let total: usize = loads.iter().map(|(_, load)| load.bytes).sum();
        let largest = loads.iter().max_by_key(|(_, load)| load.bytes).map(|(tenant, _)| tenant.clone());
        for (tenant, load) in loads {
            let old = load
                .oldest_received_unix_nano
                .is_some_and(|oldest| now.saturating_sub(oldest) >= self.policy.age_max_nano);
            let pressed = total >= self.policy.pressure_bytes && largest.as_ref() == Some(&tenant);
            if old || pressed || load.bytes >= self.policy.bytes_max {
                self.flush(&tenant).await?;
            }
        }
        Ok(())
    }

    fn observe(&self, loads: &[(TenantId, BufferLoad)]) {
        let bytes: usize = loads.iter().map(|(_, load)| load.bytes).sum();
        let spans: usize = loads.iter().map(|(_, load)| load.spans).sum();
        let oldest = loads.iter().filter_map(|(_, load)| load.oldest_received_unix_nano).min();
        self.metrics.buffer_bytes.set(bytes.cast_signed() as i64);
        self.metrics.buffer_spans.set(spans.cast_signed() as i64);
        self.metrics.set_oldest_unflushed(oldest);
    }

    /// Flushes all tenants' buffers.
    pub(super) async fn flush_all(&self) -> Result<FlushReport> {
        let mut report = FlushReport::default();
        for (tenant, _) in self.live.loads() {
            report.add(self.flush(&tenant).await?);
        }
        self.observe(&self.live.loads());
        Ok(report)
    }

    /// Flushes one tenant's buffer, and what a failed flush left sealed before.
    async fn flush(&self, tenant: &TenantId) -> Result<FlushReport> {
        let _turn = self.one_at_a_time.lock().await;
        let Some(sealed) = self.live.seal(tenant) else { return Ok(FlushReport::default()) };
        let started = tokio::time::Instant::now();
        let written = self.write(tenant, &sealed).await;
        self.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
        if written.is_err() {
            self.metrics.flush_failures.inc();
        }
        let report = written?;
        self.metrics.flush_spans.inc_by(report.spans as u64);
        self.metrics.flush_bytes.inc_by(report.bytes);
        self.live.release(tenant, sealed.through);
        crashpoint::hit("flush.before_cut");
        // The committer may have closed the log already; then replay skips these records by their transaction.
        let _ = self.commands.send(Command::Cut { tenant: tenant.clone(), through: sealed.through }).await;
        info!(%tenant, through = %sealed.through, spans = report.spans, files = report.files, bytes = report.bytes,
            took = ?started.elapsed(), "flushed");
        Ok(report)
    }

    async fn write(&self, tenant: &TenantId, sealed: &Sealed) -> Result<FlushReport> {
        let table = self.live.catalog().table(tenant).await?;
        let batches: Vec<SpanBatch> = sealed.batches.iter().map(|buffered| buffered.batch.clone()).collect();
        let files = tokio::task::spawn_blocking(move || {
            let spans = SpanBatch::concat(&batches).map_err(|cause| failed(cause.into()))?;
            drop(batches);
            Ok::<_, Error>(writer::write_files(&spans)?)
        })
        .await
        .map_err(|panic| failed(panic.into()))??;

        let mut report = FlushReport::default();
        let mut adds = Vec::with_capacity(files.len());
        let mut promoted: Vec<PromotedAttribute> = Vec::new();
        for file in files {
            let add = new_file(&file);
            report.add(FlushReport { spans: file.rows, files: 1, bytes: add.size_bytes });
            self.store.put(&table.folder().file(&add.path), file.bytes).await.map_err(Error::from)?;
            adds.push(add);
            promoted.extend(file.promoted);
        }
        crashpoint::hit("flush.after_parquet");
        let app_id = self.live.log().to_string();
        let transaction = Transaction { app_id, version: sealed.through.get().cast_signed() };
        let mut columns: Vec<Arc<Field>> =
            promoted.iter().map(|attribute| Arc::new(promoted_field(attribute))).collect();
        columns.sort_by(|a, b| a.name().cmp(b.name()));
        columns.dedup();
        match table.commit(&Commit::append(adds, Some(transaction), columns)).await? {
            CommitOutcome::Committed(_) => {}
            // An earlier try of this prefix won after all, with other files; those of this one are in no table.
            CommitOutcome::AlreadyCommitted(_) => {
                warn!(%tenant, "an earlier flush of these records had been committed")
            }
        }
        crashpoint::hit("flush.after_commit");
        Ok(report)
    }
}

fn failed(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Internal, "cannot write buffered spans as parquet").with_source(cause)
}

fn new_file(file: &WrittenFile) -> NewFile {
    let epoch = NaiveDate::default();
    let days = Days::new(u64::from(file.date.unsigned_abs()));
    let date = if file.date < 0 { epoch.checked_sub_days(days) } else { epoch.checked_add_days(days) };
    let date = date.unwrap_or(epoch);
    let ranges = file.ranges.iter();
    let columns = ranges
        .map(|range| (range.column.to_owned(), ColumnStatistics::of_ints(Some((range.min, range.max)), 0)))
        .collect();
    NewFile {
        path: paths::data_file(date, Uuid::new_v4()),
        size_bytes: file.bytes.len() as u64,
        date,
        statistics: FileStatistics { rows: file.rows as u64, columns },
        tags: BTreeMap::new(),
    }
}
