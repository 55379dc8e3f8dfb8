//! Start: open the log, replay what the tables do not hold, start the committer and the flusher.

use std::{collections::BTreeSet, path::Path, sync::Arc, thread};

use tokio::sync::mpsc;
use tracing::info;

use super::{
    Ingest, QUEUE_REQUESTS_MAX,
    commit::{Committer, carried},
    dedup::DedupWindow,
    flush::{FlushPolicy, Flusher, FlusherParts},
    log_load::LogLoad,
    record,
    table_writer::{TableWriter, TableWriterParts},
};
use crate::{
    catalog::{Catalog, Commit, Transaction},
    clock::Clock,
    config::{Settings, WalSync},
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{Live, flushed_through},
    metrics::Metrics,
    model::tenant::TenantId,
    storage::store::Store,
    wal::{Log, LogId, LogReader, Record, Recovery, SyncMode, WalSettings},
};

/// What ingest is built from.
#[derive(Clone, Debug)]
pub struct IngestParts {
    /// The limits.
    pub settings: Arc<Settings>,
    /// Where the tables lie.
    pub store: Store,
    /// The tables.
    pub catalog: Arc<Catalog>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
}

/// What a start found in the log.
#[derive(Debug)]
pub struct Recovered {
    /// Records that were in no table, and are in the buffer or a table now.
    pub records: usize,
    /// Their spans.
    pub spans: usize,
    /// Records that a table held already.
    pub skipped: usize,
    /// What was wrong with the log, if anything was.
    pub log: Recovery,
}

impl Recovered {
    fn new(log: Recovery) -> Self {
        Self { records: 0, spans: 0, skipped: 0, log }
    }
}

impl Ingest {
    /// Opens the log in `folder`, replays it, and starts to accept writes.
    ///
    /// If the records do not fit into the buffer they are flushed while they are replayed.
    pub async fn open(parts: IngestParts, folder: &Path) -> Result<(Arc<Self>, Recovered)> {
        let IngestParts { settings, store, catalog, clock, metrics } = parts;
        let (mut log, recovery) = Log::open(folder, wal_settings(&settings))?;
        let live = Arc::new(Live::new(log.id(), catalog));
        let policy = FlushPolicy::from(&*settings);
        let is_remote = store.local_folder().is_none();
        if let Some(staged) = store.staged() {
            // The spans are in the log, and are replayed from there.
            staged.clear().await.map_err(|cause| {
                let message = "cannot clear the folder of files that wait for their upload";
                Error::new(ErrorKind::Unavailable, message).with_source(cause)
            })?;
        }
        let writer = TableWriter::new(TableWriterParts {
            live: Arc::clone(&live),
            store,
            promotion: settings.promotion.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        });

        let mut dedup = DedupWindow::new(settings.ingest.dedup_window.as_nanos());
        for carried in &recovery.digests {
            dedup.insert(&carried.tenant, carried.digest, carried.received_unix_nano);
        }
        let mut recovered = Recovered::new(recovery);
        let mut tenants: BTreeSet<TenantId> = live.catalog().tenants().await?.into_iter().collect();
        let mut fenced = BTreeSet::new();
        for record in log.replay() {
            let record = record?;
            for digest in &record.digests {
                dedup.insert(&record.tenant, *digest, record.received_unix_nano);
            }
            if is_remote && !fenced.contains(&record.tenant) && fence(&live, &record).await? {
                fenced.insert(record.tenant.clone());
            }
            replay_record(&live, &record, &mut recovered).await?;
            tenants.insert(record.tenant);
            crashpoint::hit("replay.after_record");
            if live.buffered_bytes() >= policy.pressure_bytes {
                for (tenant, _) in live.loads() {
                    writer.store(&tenant).await?;
                }
            }
        }
        if recovered.records + recovered.skipped > 0 {
            info!(
                records = recovered.records,
                spans = recovered.spans,
                skipped = recovered.skipped,
                "replayed the log"
            );
        }

        // What was stored meanwhile is cut with the rest: nobody serves the queue before the log is handed over.
        for tenant in tenants {
            let flushed = flushed_through(&live.catalog().table(&tenant).await?.snapshot(), live.log());
            log.cut(&tenant, flushed, || carried(&dedup))?;
        }

        let (commands, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let log_load = Arc::new(LogLoad::new(settings.wal.bytes_max.bytes()));
        let committer = Committer {
            log,
            log_load: Arc::clone(&log_load),
            live: Arc::clone(&live),
            dedup,
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            group_bytes_max: settings.ingest.group_commit_bytes_max.as_usize(),
            encoder: record::Encoder::default(),
            payloads: Vec::new(),
        };
        thread::Builder::new()
            .name("log-committer".to_owned())
            .spawn(move || committer.run(queue))
            .map_err(|cause| Error::new(ErrorKind::Internal, "cannot start the log thread").with_source(cause))?;
        let parts = FlusherParts { writer, policy, log_load, clock, metrics, commands: commands.clone() };
        let flusher = Arc::new(Flusher::new(parts));
        tokio::spawn(Arc::clone(&flusher).run());
        let buffer_bytes_max = settings.buffer.bytes_max.as_usize();
        Ok((Arc::new(Self { live, commands, flusher, buffer_bytes_max }), recovered))
    }
}

/// The spans of a data folder that no server has open, for queries. While it lives, no server can open the folder.
#[derive(Debug)]
pub struct ReadOnly {
    /// The buffered records, and the tables.
    pub live: Arc<Live>,
    /// What the log held.
    pub recovered: Recovered,
    /// Keeps writers out.
    _log: Option<LogReader>,
}

impl ReadOnly {
    /// Only what is in the tables.
    pub fn without_log(catalog: Arc<Catalog>) -> Self {
        // No log has this id, so no transaction is ours.
        let live = Arc::new(Live::new(LogId::from_bytes([0; 16]), catalog));
        Self { live, recovered: Recovered::new(Recovery::default()), _log: None }
    }

    /// Reads the log in `folder` and changes nothing there. All its records that are in no table are held in memory.
    pub async fn open(folder: &Path, catalog: Arc<Catalog>) -> Result<Self> {
        let (log, recovery) = Log::read(folder)?;
        let live = Arc::new(Live::new(log.id(), catalog));
        let mut recovered = Recovered::new(recovery);
        for record in log.replay() {
            replay_record(&live, &record?, &mut recovered).await?;
        }
        Ok(Self { live, recovered, _log: Some(log) })
    }
}

fn wal_settings(settings: &Settings) -> WalSettings {
    let defaults = WalSettings::default();
    WalSettings {
        // A small log takes records of at most half of it.
        record_bytes_max: defaults.record_bytes_max.min(settings.wal.bytes_max.bytes() / 2),
        segment_bytes_max: settings.wal.segment_bytes_max.bytes(),
        bytes_max: settings.wal.bytes_max.bytes(),
        sync: match settings.wal.sync {
            WalSync::Always => SyncMode::Always,
            WalSync::Relaxed => SyncMode::Relaxed,
        },
    }
}

/// Makes sure that no request of a process that is gone can still commit records of the log.
///
/// Such a request names the number of its commit. It may be on its way to the bucket when its process dies, and arrive
/// after the next process has read the table's log; the same records would then be committed twice. A commit of our own
/// takes that number, or shows that the request has arrived. `false` if the table holds the record, so that nothing is
/// needed for it.
async fn fence(live: &Live, record: &Record) -> Result<bool> {
    let table = live.catalog().table(&record.tenant).await?;
    let snapshot = table.snapshot();
    if record.number <= flushed_through(&snapshot, live.log()) {
        return Ok(false);
    }
    let app_id = format!("{}-start", live.log());
    let version = snapshot.transaction(&app_id).unwrap_or_default() + 1;
    table.commit(&Commit::append(Vec::new(), Some(Transaction { app_id, version }), Vec::new())).await?;
    Ok(true)
}

async fn replay_record(live: &Live, record: &Record, recovered: &mut Recovered) -> Result<()> {
    let table = live.catalog().table(&record.tenant).await?;
    if record.number <= flushed_through(&table.snapshot(), live.log()) {
        recovered.skipped += 1;
        return Ok(());
    }
    let batch = record::decode(&record.payload).map_err(|cause| corrupt(&record.tenant, record, cause))?;
    recovered.records += 1;
    recovered.spans += batch.num_spans();
    live.push(&record.tenant, record.number, batch, record.received_unix_nano);
    Ok(())
}

fn corrupt(tenant: &TenantId, record: &Record, cause: record::RecordError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("record {} of tenant {tenant} in the log cannot be read", record.number))
        .with_source(cause)
}
