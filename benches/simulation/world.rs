//! The parts of a server on a folder, under a clock that is moved by hand.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::{Clock, ManualClock},
    config::{DataLocation, Effective, Settings, Sources},
    ingest::{Ingest, IngestParts, WriteRequest},
    maintain::{
        compact::{CompactReport, Compactor},
        sweep::Sweeper,
    },
    metrics::Metrics,
    model::{batch::SpanBatch, tenant::TenantId},
    query::{EngineOptions, QueryEngine, SpansTable},
    storage::store::Store,
};

/// 2026-11-21T06:00:00Z: a day from here on sees midnight.
pub(crate) const START: i64 = 1_795_240_800_000_000_000;

/// How much later than by its settings a buffer may be flushed before time stands still for it.
const FLUSH_DELAY: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) engine: QueryEngine,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) folder: PathBuf,
    compactor: Compactor,
    sweeper: Sweeper,
    number: u64,
    /// Deleted with the world, unless the folder was given.
    _temporary: tempfile::TempDir,
}

impl World {
    pub(crate) async fn open() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = env::var("BENCH_FOLDER").map_or_else(|_| temporary.path().to_owned(), PathBuf::from);
        let settings = Arc::new(settings(&folder));
        let clock = Arc::new(ManualClock::new(START));
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Store::open(&settings, &metrics).await.unwrap();
        let catalog = Catalog::open(store.clone(), Arc::clone(&shared), CatalogSettings::default()).counting(&metrics);
        let catalog = Arc::new(catalog);
        let parts = IngestParts {
            settings: Arc::clone(&settings),
            store: store.clone(),
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&shared),
            metrics: Arc::clone(&metrics),
        };
        let (ingest, _) = Ingest::open(parts, &folder.join("wal")).await.unwrap();
        let (live, files, spill_folder) = (Arc::clone(ingest.live()), store.clone(), folder.join("spill"));
        fs::create_dir_all(&spill_folder).unwrap();
        let engine = QueryEngine::try_new(EngineOptions {
            tables: Arc::new(move |tenant| {
                let (live, tenant, files) = (Arc::clone(&live), tenant.clone(), files.clone());
                async move { Ok(Arc::new(SpansTable::new(live.view(&tenant).await?).reading(&files)) as _) }.boxed()
            }),
            store: Some(store),
            limits: (&settings.query).into(),
            threads: 2,
            spill_folder,
            clock: Arc::clone(&shared),
            metrics: Arc::clone(&metrics),
            settings: Arc::clone(&settings),
        });
        let compactor = Compactor::new(
            Arc::clone(&catalog),
            Arc::clone(&shared),
            Arc::clone(&metrics),
            &settings.compaction,
            &settings.promotion,
        );
        let grace = settings.compaction.grace.get();
        let sweeper = Sweeper::new(Arc::clone(&catalog), shared, Arc::clone(&metrics), grace);
        let engine = engine.unwrap();
        let number = 0;
        Self {
            clock,
            catalog,
            ingest,
            engine,
            metrics,
            settings,
            folder,
            compactor,
            sweeper,
            number,
            _temporary: temporary,
        }
    }

    /// Sends requests side by side, and returns when all are acknowledged.
    pub(crate) async fn write(&mut self, requests: impl IntoIterator<Item = (TenantId, SpanBatch)>) {
        let received_unix_nano = self.clock.now_unix_nano();
        let requests: Vec<_> = requests.into_iter().collect();
        let sent = requests.into_iter().map(|(tenant, batch)| {
            self.number += 1;
            let request = WriteRequest { batch, digest: u128::from(self.number), received_unix_nano };
            let ingest = Arc::clone(&self.ingest);
            async move { ingest.write(&tenant, request).await.unwrap() }
        });
        futures::future::join_all(sent).await;
    }

    /// Lets time pass, and waits for the flushes that are due then.
    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        let bytes_max = self.settings.buffer.bytes_max.as_usize() / 8 * 7;
        let delay = self.settings.flush.age_max.as_nanos() + FLUSH_DELAY.as_nanos() as i64;
        let overdue = self.clock.now_unix_nano() - delay;
        loop {
            let loads = self.ingest.live().loads();
            let oldest = loads.iter().filter_map(|(_, load)| load.oldest_received_unix_nano).min();
            if self.ingest.live().buffered_bytes() < bytes_max && oldest.is_none_or(|oldest| oldest > overdue) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn compact(&self, tenant: &TenantId) -> CompactReport {
        let report = self.compactor.compact(tenant).await.unwrap();
        assert_eq!((report.conflicts, report.failures, report.duplicates), (0, 0, 0));
        report
    }

    pub(crate) async fn sweep(&self, tenant: &TenantId) {
        self.sweeper.sweep(tenant).await.unwrap();
    }

    /// Files of a tenant's table, and their bytes.
    pub(crate) async fn live_files(&self, tenant: &TenantId) -> (usize, u64) {
        let snapshot = self.catalog.table(tenant).await.unwrap().snapshot();
        (snapshot.files().len(), snapshot.size_bytes())
    }

    /// Bytes that flushes wrote, and times that each of them was written until now.
    pub(crate) fn amplification(&self) -> (u64, f64) {
        let flushed = self.metrics.flush_bytes.get();
        (flushed, (flushed + self.metrics.compaction_bytes_written.get()) as f64 / flushed.max(1) as f64)
    }

    pub(crate) async fn close(self) {
        self.ingest.shutdown().await.unwrap();
        self.catalog.finish_background().await;
    }
}

fn settings(folder: &Path) -> Settings {
    let given = Sources { environment: env::vars().collect(), ..Sources::default() };
    let settings = Effective::load(&given).unwrap().settings().clone();
    let data = DataLocation::Folder(folder.to_owned());
    Settings { data, local_dir: Some(folder.to_owned()), ..settings }
}

/// Entries of a folder and below, and their bytes.
pub(crate) fn disk(folder: &Path) -> (u64, u64) {
    let Ok(entries) = fs::read_dir(folder) else { return (0, 0) };
    let mut sum = (0, 0);
    for entry in entries.flatten() {
        // What was just deleted is not there any more.
        let Ok(metadata) = entry.metadata() else { continue };
        let (files, bytes) = if metadata.is_dir() { disk(&entry.path()) } else { (1, metadata.len()) };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

/// Time that all threads of this process have run so far, to 10 ms.
pub(crate) fn process_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Memory of this process, in MiB: now, and at most so far.
pub(crate) fn memory_mib() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}
