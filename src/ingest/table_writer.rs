//! A sealed prefix of a tenant's buffer into its table, in one commit.
//!
//! Where the tables lie in a bucket the prefix becomes files on this machine, which take its place in the views and free
//! its memory; [`upload`](super::upload) brings them to the table.

use std::sync::Arc;

use arrow::error::ArrowError;
use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::FlushReport;
use crate::{
    catalog::{Commit, CommitOutcome, LiveFile, NewFile, Table, Transaction, columns_of},
    clock::Clock,
    config::PromotionSettings,
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{Live, Sealed, StagedFlush},
    metrics::Metrics,
    model::{batch::SpanBatch, keys, tenant::TenantId},
    storage::{
        order,
        paths::TableFolder,
        promoter::{Evidence, Promoter},
        remote::staged::Staged,
        store::Store,
        writer::{self, Origin},
    },
    wal::RecordNumber,
};

/// Moves sealed prefixes to tables, one at a time. Knows nothing of the log, which the caller may cut afterwards.
#[derive(Debug)]
pub(super) struct TableWriter {
    live: Arc<Live>,
    store: Store,
    promoter: Arc<Promoter>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    one_at_a_time: Mutex<()>,
}

/// What became of a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    /// The last record that the table holds now.
    pub(super) through: RecordNumber,
    /// What was written.
    pub(super) report: FlushReport,
}

/// What a table writer works with.
#[derive(Debug)]
pub(super) struct TableWriterParts {
    pub(super) live: Arc<Live>,
    pub(super) store: Store,
    /// Bounds on what gets columns.
    pub(super) promotion: PromotionSettings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

impl TableWriter {
    pub(super) fn new(parts: TableWriterParts) -> Self {
        let TableWriterParts { live, store, promotion, clock, metrics } = parts;
        let promoter = Arc::new(Promoter::new(promotion));
        Self { live, store, promoter, clock, metrics, one_at_a_time: Mutex::new(()) }
    }

    /// The buffers that this empties.
    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The store of the tables.
    pub(super) fn files(&self) -> &Store {
        &self.store
    }

    /// Stores one tenant's buffer, and what a failed try left sealed before. `None` if the table holds nothing new,
    /// because there is nothing or because it waits for its upload.
    pub(super) async fn store(&self, tenant: &TenantId) -> Result<Option<Stored>> {
        let _turn = self.one_at_a_time.lock().await;
        let Some(sealed) = self.live.seal(tenant) else { return Ok(None) };
        let started = tokio::time::Instant::now();
        let written = match self.store.staged() {
            Some(staged) => self.stage(tenant, &sealed, staged).await.map(|()| None),
            None => self.write(tenant, &sealed).await.map(Some),
        };
        self.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
        if written.is_err() {
            self.metrics.flush_failures.inc();
        }
        // What is staged is counted when it is in the table.
        let Some(report) = written? else { return Ok(None) };
        self.metrics.flush_spans.inc_by(report.spans as u64);
        self.metrics.flush_bytes.inc_by(report.bytes);
        self.live.release(tenant, sealed.through);
        info!(%tenant, through = %sealed.through, spans = report.spans, files = report.files, bytes = report.bytes,
            took = ?started.elapsed(), "flushed");
        Ok(Some(Stored { through: sealed.through, report }))
    }

    /// Writes a prefix to files on this machine, which take its place in the views.
    async fn stage(&self, tenant: &TenantId, sealed: &Sealed, staged: &Staged) -> Result<()> {
        let commit = self.encode(tenant, sealed, Place::Here(staged)).await?;
        let folder = TableFolder::of_tenant(tenant);
        let received = sealed.batches.iter().map(|batch| batch.received_unix_nano).min();
        let flush = StagedFlush {
            through: sealed.through,
            files: commit.adds.iter().map(|add| Arc::new(LiveFile::of_new(&folder, add))).collect(),
            commit,
            received_unix_nano: received.unwrap_or(i64::MAX),
        };
        self.live.stage(tenant, flush);
        crashpoint::hit("flush.after_stage");
        let (files, bytes) = staged.load();
        self.metrics.staged_files.set(files.cast_signed() as i64);
        self.metrics.staged_bytes.set(bytes.cast_signed());
        Ok(())
    }

    async fn write(&self, tenant: &TenantId, sealed: &Sealed) -> Result<FlushReport> {
        let table = self.live.catalog().table(tenant).await?;
        let commit = self.encode(tenant, sealed, Place::Table(&self.store)).await?;
        crashpoint::hit("flush.after_parquet");
        commit_flush(&table, tenant, &commit).await?;
        Ok(FlushReport::of(&commit))
    }

    /// Puts the files of a prefix where they belong, and returns the commit that adds them. Spans of many days make many
    /// files, of which one at a time is in memory.
    async fn encode(&self, tenant: &TenantId, sealed: &Sealed, place: Place<'_>) -> Result<Commit> {
        let folder = TableFolder::of_tenant(tenant);
        let batches: Vec<SpanBatch> = sealed.batches.iter().map(|buffered| buffered.batch.clone()).collect();
        // Without a look at the table nothing new may be chosen: it could contradict what is declared there.
        let declared = self.live.catalog().table(tenant).await.ok().map(|table| table.snapshot().declared());
        let asked = self.live.demand(tenant).take_half();
        let (promoter, of) = (Arc::clone(&self.promoter), tenant.clone());
        let is_declared = declared.is_some();
        let shaped = tokio::task::spawn_blocking(move || {
            let spans = batches.iter().map(SpanBatch::num_spans).sum();
            let counts = if declared.is_some() { keys::residual_counts(&batches) } else { Vec::new() };
            let evidence = Evidence { spans, counts: &counts, asked: &asked };
            let promotion = promoter.choose(&of, &declared.unwrap_or_default(), &evidence);
            let shaped =
                batches.into_iter().map(|batch| batch.promoted_as(&promotion)).collect::<Result<Vec<_>, _>>()?;
            let shaped = SpanBatch::with_one_type_per_column(&shaped)?.into_owned();
            let days = order::days(&shaped);
            Ok::<_, ArrowError>((Arc::new(shaped), days, promotion))
        });
        let (shaped, days, promotion) =
            shaped.await.map_err(|panic| failed(panic.into()))?.map_err(|cause| failed(cause.into()))?;
        if is_declared {
            self.live.set_promotion(tenant, Arc::new(promotion));
        }

        let mut adds = Vec::with_capacity(days.len());
        let mut columns = Vec::new();
        for day in days {
            let shaped = Arc::clone(&shaped);
            let written = tokio::task::spawn_blocking(move || writer::write_file(&shaped, &day, Origin::Flushed));
            let file = written.await.map_err(|panic| failed(panic.into()))??;
            let add = NewFile::of_written(&file, self.clock.now_unix_nano());
            columns.extend(columns_of([&file]));
            place.put(&folder, &add.path, file.bytes).await?;
            adds.push(add);
        }
        columns.sort_by(|a, b| a.name().cmp(b.name()));
        columns.dedup();
        let app_id = self.live.log().to_string();
        let transaction = Transaction { app_id, version: sealed.through.get().cast_signed() };
        Ok(Commit::append(adds, Some(transaction), columns))
    }
}

/// Where the files of a flush go.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    /// Where the table is.
    Table(&'a Store),
    /// This machine, until they are uploaded.
    Here(&'a Staged),
}

impl Place<'_> {
    async fn put(self, folder: &TableFolder, path: &str, bytes: Bytes) -> Result<()> {
        match self {
            Place::Table(store) => Ok(store.put_file(&folder.file(path), bytes).await?),
            Place::Here(staged) => staged.put(&folder.file(path), bytes).await.map_err(|cause| {
                Error::new(ErrorKind::Unavailable, format!("cannot write {path} for its upload: {cause}"))
                    .with_source(cause)
            }),
        }
    }
}

/// Commits a flush whose files are in the store.
pub(super) async fn commit_flush(table: &Arc<Table>, tenant: &TenantId, commit: &Commit) -> Result<()> {
    match table.commit(commit).await? {
        CommitOutcome::Committed(_) => {}
        // An earlier try of this prefix won after all; without staging it had other files, and these are in no table.
        CommitOutcome::AlreadyCommitted(_) => {
            warn!(%tenant, "an earlier flush of these records had been committed")
        }
    }
    crashpoint::hit("flush.after_commit");
    Ok(())
}

fn failed(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Internal, "cannot write buffered spans as parquet").with_source(cause)
}
