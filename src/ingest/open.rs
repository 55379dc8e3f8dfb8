//! Start: open the log, have it replayed ([`settle`](super::settle)), start the committer and the flusher.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    thread,
};

use tokio::sync::{RwLock, mpsc};
use tracing::{info, warn};

use super::{
    Ingest, QUEUE_REQUESTS_MAX,
    commit::{Committer, carried},
    dedup::DedupWindow,
    flush::{FlushPolicy, Flusher, FlusherParts},
    log_load::LogLoad,
    record,
    settle::{Cuts, Replayer, Settler, is_away, number_floor, replay_record},
    table_writer::{TableWriter, TableWriterParts},
};
use crate::{
    catalog::Catalog,
    clock::Clock,
    config::{Settings, WalSync},
    error::{Error, ErrorKind, Result},
    live::Live,
    metrics::Metrics,
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
    pub(super) fn new(log: Recovery) -> Self {
        Self { records: 0, spans: 0, skipped: 0, log }
    }
}

impl Ingest {
    /// Opens the log in `folder`, replays it, and starts to accept writes.
    ///
    /// If the records do not fit into the buffer they are flushed while they are replayed. If the tables lie in a bucket
    /// that is away, writes are accepted all the same, and queries when it is there ([`settle`](super::settle)).
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
        let writer = Arc::new(TableWriter::new(TableWriterParts {
            live: Arc::clone(&live),
            store,
            promotion: settings.promotion.clone(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        }));

        let mut dedup = DedupWindow::new(settings.ingest.dedup_window.as_nanos());
        for carried in &recovery.digests {
            dedup.insert(&carried.tenant, carried.digest, carried.received_unix_nano);
        }
        let mut recovered = Recovered::new(recovery);
        let screen = Arc::new(OnceLock::new());
        let mut replayer = Replayer::new(&writer, policy.pressure_bytes, &screen);
        let replayed = replay_all(&mut replayer, &log, &mut dedup, &mut recovered).await;
        let unsettled = match replayed {
            Ok(cuts) => {
                // Nobody serves the queue before the log is handed over, so what was stored meanwhile is cut with the rest.
                for (tenant, through) in cuts {
                    log.cut(&tenant, through, || carried(&dedup))?;
                }
                live.set_settled();
                None
            }
            Err(error) if is_remote && is_away(&error) => {
                warn!(%error, "the tables cannot be asked; spans are taken in, queries are refused");
                for record in log.replay() {
                    let record = record?;
                    for digest in &record.digests {
                        dedup.insert(&record.tenant, *digest, record.received_unix_nano);
                    }
                }
                log.continue_above(number_floor(clock.now_unix_nano()));
                Some(replayer)
            }
            Err(error) => return Err(error),
        };
        if recovered.records + recovered.skipped > 0 {
            info!(
                records = recovered.records,
                spans = recovered.spans,
                skipped = recovered.skipped,
                "replayed the log"
            );
        }

        metrics.wal_sync_relaxed.set(i64::from(log.stats().sync == SyncMode::Relaxed));
        let (commands, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let log_load = Arc::new(LogLoad::new(settings.wal.bytes_max.bytes()));
        let committer = Committer {
            log,
            log_load: Arc::clone(&log_load),
            live: Arc::clone(&live),
            is_settled: live.is_settled(),
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
        let settler = Arc::new(Settler::new(&live, &commands, unsettled));
        if !live.is_settled() {
            tokio::spawn(Arc::clone(&settler).run());
        }
        let buffer_bytes_max = settings.buffer.bytes_max.as_usize();
        let gate = RwLock::default();
        Ok((Arc::new(Self { live, commands, flusher, settler, screen, gate, buffer_bytes_max }), recovered))
    }
}

/// Brings the records of the log to where they belong, and says what can be cut.
async fn replay_all(
    replayer: &mut Replayer,
    log: &Log,
    dedup: &mut DedupWindow,
    recovered: &mut Recovered,
) -> Result<Cuts> {
    replayer.prepare().await?;
    replayer.run(log.replay(), Some(dedup), recovered).await?;
    replayer.cuts().await
}

/// The spans of a data folder that no server has open, for queries. While it lives, no server can open the folder.
#[derive(Debug)]
pub struct ReadOnly {
    /// The buffered records, and the tables.
    pub live: Arc<Live>,
    /// What the log held.
    pub recovered: Recovered,
    /// Keeps writers out.
    log: Option<LogReader>,
}

impl ReadOnly {
    /// All records of the log, oldest first, those that are in a table included; nothing without a log.
    pub fn records(&self) -> impl Iterator<Item = Result<Record>> {
        self.log.iter().flat_map(LogReader::replay).map(|record| Ok(record?))
    }

    /// Only what is in the tables.
    pub fn without_log(catalog: Arc<Catalog>) -> Self {
        // No log has this id, so no transaction is ours.
        let live = Arc::new(Live::new(LogId::from_bytes([0; 16]), catalog));
        live.set_settled();
        Self { live, recovered: Recovered::new(Recovery::default()), log: None }
    }

    /// Reads the log in `folder` and changes nothing there. All its records that are in no table are held in memory.
    pub async fn open(folder: &Path, catalog: Arc<Catalog>) -> Result<Self> {
        let (log, recovery) = Log::read(folder)?;
        let live = Arc::new(Live::new(log.id(), catalog));
        let mut recovered = Recovered::new(recovery);
        for record in log.replay() {
            replay_record(&live, &record?, None, &mut recovered).await?;
        }
        live.set_settled();
        Ok(Self { live, recovered, log: Some(log) })
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
