//! A sealed prefix of a tenant's buffer into its table, in one commit.

use std::sync::Arc;

use arrow::datatypes::Field;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::FlushReport;
use crate::{
    catalog::{Commit, CommitOutcome, NewFile, Transaction},
    clock::Clock,
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{Live, Sealed},
    metrics::Metrics,
    model::{batch::SpanBatch, promotion::PromotedAttribute, schema::promoted_field, tenant::TenantId},
    storage::{store::Store, writer},
    wal::RecordNumber,
};

/// Moves sealed prefixes to tables, one at a time. Knows nothing of the log, which the caller may cut afterwards.
#[derive(Debug)]
pub(super) struct TableWriter {
    live: Arc<Live>,
    store: Store,
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

impl TableWriter {
    pub(super) fn new(live: Arc<Live>, store: Store, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { live, store, clock, metrics, one_at_a_time: Mutex::new(()) }
    }

    /// The buffers that this empties.
    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Stores one tenant's buffer, and what a failed try left sealed before; `None` if there is nothing.
    pub(super) async fn store(&self, tenant: &TenantId) -> Result<Option<Stored>> {
        let _turn = self.one_at_a_time.lock().await;
        let Some(sealed) = self.live.seal(tenant) else { return Ok(None) };
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
        info!(%tenant, through = %sealed.through, spans = report.spans, files = report.files, bytes = report.bytes,
            took = ?started.elapsed(), "flushed");
        Ok(Some(Stored { through: sealed.through, report }))
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
            let add = NewFile::of_written(&file, self.clock.now_unix_nano());
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
