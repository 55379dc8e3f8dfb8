//! Spans in a bucket that is slow, fails, or is away: none is lost, none is seen twice, nothing is left behind.

mod cache;
mod faulty;
mod outage;
mod queries;
mod random_faults;
mod two_servers;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use arrow::{array::Array, array::FixedSizeBinaryArray, record_batch::RecordBatch};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, memory::InMemory};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::{Clock, ManualClock},
    config::{ByteSize, HumanDuration, Settings, WalSync},
    error::Error,
    ingest::{Ingest, IngestParts, Recovered, WriteRequest},
    live::ReadView,
    metrics::Metrics,
    model::tenant::TenantId,
    storage::store::Store,
};

use crate::ingest::{NOW, batch};

/// Settings under which nothing is flushed unless a test asks for it, and nothing waits for the disk.
fn settings(folder: &Path) -> Settings {
    let mut settings = Settings { local_dir: Some(folder.to_owned()), ..Settings::default() };
    settings.flush.age_max = HumanDuration::hours(24);
    settings.wal.sync = WalSync::Relaxed;
    settings.cache.memory_bytes_max = ByteSize::from_bytes(0);
    settings.cache.disk_bytes_max = ByteSize::from_bytes(0);
    settings
}

/// A process whose tables lie in a bucket.
struct House {
    ingest: Arc<Ingest>,
    recovered: Recovered,
    store: Store,
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
    tenant: TenantId,
}

impl House {
    async fn open(settings: &Settings, bucket: Arc<dyn ObjectStore>) -> Result<Self, Error> {
        let clock = Arc::new(ManualClock::new(NOW));
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Store::remote(bucket, settings, &metrics).await?;
        let catalog = Arc::new(Catalog::open(store.clone(), Arc::clone(&shared), CatalogSettings::default()));
        let parts = IngestParts {
            settings: Arc::new(settings.clone()),
            store: store.clone(),
            catalog,
            clock: shared,
            metrics: Arc::clone(&metrics),
        };
        let (ingest, recovered) = Ingest::open(parts, &settings.local_folder().join("wal")).await?;
        Ok(Self { ingest, recovered, store, clock, metrics, tenant: TenantId::single() })
    }

    /// Stores spans with these numbers; the same numbers again are a retry.
    async fn write(&self, numbers: std::ops::Range<u64>) -> Result<bool, Error> {
        let received_unix_nano = self.clock.now_unix_nano();
        let digest = u128::from(numbers.start) << 64 | u128::from(numbers.end);
        let request = WriteRequest { batch: batch(numbers), digest, received_unix_nano };
        self.ingest.write(&self.tenant, request).await.map(|outcome| outcome.duplicate)
    }

    async fn view(&self) -> ReadView {
        self.ingest.live().view(&self.tenant).await.unwrap()
    }

    /// Spans that a query sees: in the table, in files that wait for their upload, and in memory.
    async fn visible(&self) -> (u64, u64, u64) {
        let view = self.view().await;
        let rows: u64 = view.files().map(|file| file.rows().unwrap()).sum();
        let table = view.snapshot().rows();
        (table, rows - table, view.buffered().map(|batch| batch.num_spans() as u64).sum())
    }

    /// Ends everything without flush or cut, as far as that goes in process.
    async fn crash(self) {
        let weak = Arc::downgrade(self.ingest.live());
        drop(self);
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// How often each span is in the files of a view, read through `store`, and in its batches.
async fn times_seen(view: &ReadView, store: &Store) -> Result<BTreeMap<u64, usize>, Error> {
    let mut seen = BTreeMap::new();
    for file in view.files() {
        let bytes = store.get(&file.location).await?.unwrap_or_else(|| panic!("{} is not there", file.location));
        for batch in span_ids(bytes) {
            count(&mut seen, &batch);
        }
    }
    for buffered in view.buffered() {
        count(&mut seen, buffered.spans());
    }
    Ok(seen)
}

fn span_ids(file: Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mask = ProjectionMask::columns(reader.parquet_schema(), ["span_id"]);
    reader.with_projection(mask).build().unwrap().map(Result::unwrap).collect()
}

fn count(seen: &mut BTreeMap<u64, usize>, batch: &RecordBatch) {
    let ids = batch.column_by_name("span_id").unwrap();
    let ids = ids.as_any().downcast_ref::<FixedSizeBinaryArray>().unwrap();
    for id in ids.iter().flatten() {
        *seen.entry(u64::from_be_bytes(id.try_into().unwrap())).or_default() += 1;
    }
}

/// Data files in the bucket that the view's table does not list.
async fn garbage(bucket: &InMemory, view: &ReadView) -> Vec<String> {
    let objects: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    let is_data = |path: &str| path.ends_with(".parquet") && !path.contains("_delta_log");
    let listed: Vec<_> = view.snapshot().files().map(|file| file.location.clone()).collect();
    let objects = objects.into_iter().map(|object| object.location);
    objects.filter(|path| is_data(path.as_ref()) && !listed.contains(path)).map(|path| path.to_string()).collect()
}
