//! The write path from a decoded batch to the table, in process: what is acknowledged is visible once, at any moment.

use std::{path::Path, sync::Arc, time::Duration};

use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::{Clock, ManualClock},
    config::{ByteSize, HumanDuration, Settings},
    error::{Error, ErrorKind},
    ingest::{Ingest, IngestParts, ReadOnly, Recovered, WriteOutcome, WriteRequest, record},
    live::ReadView,
    metrics::Metrics,
    model::{
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
        ids::TraceId,
        promotion,
        tenant::TenantId,
    },
    query::QueryEngine,
    storage::store::Store,
};

use crate::support::spans::plain_span;

pub(crate) const NOW: i64 = 1_795_239_000_000_000_000;

/// Root spans with these numbers as ids, of one service.
pub(crate) fn batch(numbers: std::ops::Range<u64>) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let service = [Attribute { key: "service.name", value: Value::Str("order-service") }];
    let resource = builder.push_resource(&ResourceFields::default(), &service).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for number in numbers {
        let mut trace_id = [0; 16];
        trace_id[8..].copy_from_slice(&number.to_be_bytes());
        let span =
            SpanFields { name: "GET /orders", ..plain_span(TraceId::from_bytes(trace_id), number, NOW, 1_000_000) };
        let attributes = [Attribute { key: "order", value: Value::Int(number.cast_signed()) }];
        let (events, links) = (std::iter::empty(), std::iter::empty());
        builder.push_span((resource, scope), &span, &attributes, events, links).unwrap();
    }
    builder.finish().unwrap()
}

/// Settings under which nothing is flushed unless a test asks for it.
pub(crate) fn quiet() -> Settings {
    let mut settings = Settings::default();
    settings.flush.age_max = HumanDuration::hours(24);
    settings
}

pub(crate) struct House {
    pub(crate) ingest: Arc<Ingest>,
    recovered: Recovered,
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
    tenant: TenantId,
}

impl House {
    /// Queries on what is stored and buffered.
    pub(crate) fn engine(&self, folder: &Path) -> QueryEngine {
        let store = Store::local(folder).unwrap();
        let clock = Arc::clone(&self.clock);
        QueryEngine::try_new(crate::engines::options(self.ingest.live(), &store, clock, folder)).unwrap()
    }

    pub(crate) async fn open(folder: &Path, settings: Settings) -> Self {
        Self::try_open(folder, settings, Store::local(folder).unwrap()).await.unwrap()
    }

    pub(crate) async fn try_open(folder: &Path, settings: Settings, store: Store) -> Result<Self, Error> {
        let clock = Arc::new(ManualClock::new(NOW));
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let catalog = Arc::new(Catalog::open(store.clone(), Arc::clone(&shared), CatalogSettings::default()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = Arc::new(settings);
        let parts = IngestParts { settings, store, catalog, clock: shared, metrics: Arc::clone(&metrics) };
        let (ingest, recovered) = Ingest::open(parts, &folder.join("wal")).await?;
        Ok(Self { ingest, recovered, clock, metrics, tenant: TenantId::single() })
    }

    pub(crate) async fn write(&self, numbers: std::ops::Range<u64>, digest: u128) -> Result<WriteOutcome, Error> {
        let received_unix_nano = self.clock.now_unix_nano();
        self.ingest.write(&self.tenant, WriteRequest { batch: batch(numbers), digest, received_unix_nano }).await
    }

    pub(crate) async fn view(&self) -> ReadView {
        self.ingest.live().view(&self.tenant).await.unwrap()
    }

    /// Spans that a query sees: in files, and in the buffer.
    async fn visible(&self) -> (u64, u64) {
        let view = self.view().await;
        (view.snapshot().rows(), view.buffered().map(|batch| batch.num_spans() as u64).sum())
    }
}

#[tokio::test]
async fn an_acknowledged_span_is_visible_at_once_and_stays_so_through_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    assert_eq!(house.write(1..101, 1).await.unwrap(), WriteOutcome { duplicate: false });
    assert_eq!(house.visible().await, (0, 100));
    let before = house.view().await;
    let report = house.ingest.flush().await.unwrap();
    assert_eq!((report.spans, report.files), (100, 1));
    assert_eq!(house.visible().await, (100, 0));
    assert_eq!(before.buffered().map(SpanBatch::num_spans).sum::<usize>(), 100, "a view does not change");
    house.write(101..111, 2).await.unwrap();
    assert_eq!(house.visible().await, (100, 10));
    house.ingest.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_replays_what_no_table_holds() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    house.write(1..11, 1).await.unwrap();
    house.ingest.flush().await.unwrap();
    house.write(11..31, 2).await.unwrap();
    crash(house).await;
    let house = House::open(folder.path(), quiet()).await;
    assert_eq!(house.recovered.spans, 20);
    assert_eq!(house.visible().await, (10, 20));
    house.ingest.shutdown().await.unwrap();
    let house = House::open(folder.path(), quiet()).await;
    assert_eq!((house.recovered.records, house.visible().await), (0, (30, 0)), "a stop flushes");
}

/// Ends everything without flush or cut, as far as that goes in process.
pub(crate) async fn crash(house: House) {
    let weak = Arc::downgrade(house.ingest.live());
    drop(house);
    while weak.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_byte_identical_retry_is_stored_once_also_after_a_restart_and_after_the_log_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    assert!(!house.write(1..11, 7).await.unwrap().duplicate);
    assert!(house.write(1..11, 7).await.unwrap().duplicate);
    assert_eq!(house.visible().await, (0, 10));
    let metrics = house.metrics.encode(0).unwrap();
    assert!(metrics.contains("tracehouse_wal_sync_seconds_count 1\n"), "a duplicate is no sync: {metrics}");
    house.ingest.shutdown().await.unwrap();
    let house = House::open(folder.path(), quiet()).await;
    assert!(house.write(1..11, 7).await.unwrap().duplicate);
    assert_eq!(house.visible().await, (10, 0));
    house.clock.advance(Duration::from_secs(24 * 3600));
    assert!(!house.write(1..11, 7).await.unwrap().duplicate, "the window has passed");
    house.ingest.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_retries_at_the_same_time_one_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let house = Arc::new(House::open(folder.path(), quiet()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let house = Arc::clone(&house);
        tasks.spawn(async move { house.write(1..11, 7).await.unwrap().duplicate });
    }
    let stored = tasks.join_all().await.into_iter().filter(|duplicate| !duplicate).count();
    assert_eq!((stored, house.visible().await), (1, (0, 10)));
}

#[tokio::test]
async fn a_full_buffer_refuses_early_and_accepts_again_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = quiet();
    settings.buffer.bytes_max = ByteSize::kib(1);
    let house = House::open(folder.path(), settings).await;
    house.write(1..101, 1).await.unwrap();
    let mut digest = 1;
    let refused = loop {
        digest += 1;
        match house.write(digest as u64 * 100..digest as u64 * 100 + 100, digest).await {
            Ok(_) => assert!(digest < 100, "never refused"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("buffer.bytes_max is 1024"), "{refused}");
    assert!(refused.retry_after().is_some());
    house.ingest.flush().await.unwrap();
    house.write(1_000_000..1_000_001, 0).await.unwrap();
}

/// A log that a few megabytes fill, and buffers that are far from full by then.
fn small_log() -> Settings {
    let mut settings = quiet();
    settings.wal.bytes_max = ByteSize::kib(256);
    settings.wal.segment_bytes_max = ByteSize::kib(64);
    settings
}

#[tokio::test]
async fn a_full_log_refuses_and_has_room_again_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), small_log()).await;
    // Where the tables should be is a file, so nothing can be flushed.
    let tables = folder.path().join("tenants");
    std::fs::write(&tables, "").unwrap();
    let mut digest = 0;
    let refused = loop {
        digest += 1;
        match house.write(digest as u64 * 100..digest as u64 * 100 + 100, digest).await {
            Ok(_) => assert!(digest < 1000, "never refused"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.message().contains("262144"), "{refused}");
    assert!(refused.retry_after().is_some());
    std::fs::remove_file(&tables).unwrap();
    house.ingest.flush().await.unwrap();
    house.write(1_000_000..1_000_001, 0).await.unwrap();
}

#[tokio::test]
async fn a_log_that_fills_up_is_flushed_long_before_its_records_are_old() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), small_log()).await;
    let (mut bytes, mut refused, requests) = (0, 0, 500_u64);
    for number in 0..requests {
        // The clock of the house stands still: no record is ever old enough by itself.
        while let Err(error) = house.write(number * 100..number * 100 + 100, u128::from(number)).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            refused += 1;
            assert!(refused < 10_000, "the log is never flushed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bytes += 100 * 100;
    }
    let (stored, buffered) = house.visible().await;
    assert_eq!(stored + buffered, requests * 100, "each span once");
    assert!(stored > 0);
    assert!(bytes > 10 * 256 * 1024, "far more than the log holds at once");
}

#[tokio::test]
async fn a_quiet_tenant_does_not_keep_the_log_of_the_others_full() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), small_log()).await;
    let quiet = TenantId::parse("quiet").unwrap();
    let request = WriteRequest { batch: batch(1..2), digest: 0, received_unix_nano: NOW - 1 };
    house.ingest.write(&quiet, request).await.unwrap();
    let mut number = 0;
    while house.ingest.live().view(&quiet).await.unwrap().snapshot().rows() == 0 {
        number += 1;
        assert!(number < 1_000, "the quiet tenant is never flushed");
        let _ = house.write(number * 100..number * 100 + 100, u128::from(number)).await;
    }
    assert_eq!(house.ingest.live().view(&quiet).await.unwrap().buffered().len(), 0);
}

#[tokio::test]
async fn a_replay_of_more_than_the_buffer_holds_flushes_while_it_replays() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    let tenants: Vec<TenantId> = (0..40).map(|n| TenantId::parse(&format!("tenant-{n}")).unwrap()).collect();
    for (number, tenant) in (0..400).zip(tenants.iter().cycle()) {
        let request = WriteRequest { batch: batch(number..number + 1), digest: number.into(), received_unix_nano: NOW };
        house.ingest.write(tenant, request).await.unwrap();
    }
    crash(house).await;
    let mut settings = quiet();
    settings.buffer.bytes_max = ByteSize::kib(64);
    let house = House::open(folder.path(), settings).await;
    assert_eq!((house.recovered.records, house.recovered.spans), (400, 400));
    let mut stored = 0;
    for tenant in &tenants {
        let view = house.ingest.live().view(tenant).await.unwrap();
        stored += view.snapshot().rows();
        let buffered: usize = view.buffered().map(SpanBatch::num_spans).sum();
        assert_eq!(view.snapshot().rows() + buffered as u64, 10, "{tenant}");
    }
    assert!(stored > 200, "{stored} of 400 spans were flushed meanwhile");
    assert!(house.ingest.live().buffered_bytes() < 64 << 10);
}

#[tokio::test]
async fn many_small_records_take_bounded_memory_and_few_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = quiet();
    settings.wal.sync = tracehouse::config::WalSync::Relaxed;
    let house = House::open(folder.path(), settings).await;
    let records = 3_000;
    for number in 0..records {
        house.write(number..number + 1, u128::from(number)).await.unwrap();
    }
    let view = house.view().await;
    assert_eq!(view.buffered().map(SpanBatch::num_spans).sum::<usize>() as u64, records);
    assert!(view.buffered().len() <= 64, "{} batches", view.buffered().len());
    let bytes = house.ingest.live().buffered_bytes() as u64;
    assert!(bytes < records * 2_000, "{bytes} bytes for {records} spans");
    let sum: usize = view.buffered().map(SpanBatch::memory_bytes).sum();
    assert_eq!(sum as u64, bytes, "the sum that limits rely on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_never_miss_or_double_a_span_while_flushes_run() {
    let folder = tempfile::tempdir().unwrap();
    let house = Arc::new(House::open(folder.path(), quiet()).await);
    let written = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writer = tokio::spawn({
        let (house, written) = (Arc::clone(&house), Arc::clone(&written));
        async move {
            for number in 0..300u64 {
                house.write(number * 10..number * 10 + 10, u128::from(number)).await.unwrap();
                written.fetch_add(10, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    let flusher = tokio::spawn({
        let (house, written) = (Arc::clone(&house), Arc::clone(&written));
        async move {
            while written.load(std::sync::atomic::Ordering::SeqCst) < 3_000 {
                house.ingest.flush().await.unwrap();
            }
        }
    });
    while written.load(std::sync::atomic::Ordering::SeqCst) < 3_000 {
        let before = written.load(std::sync::atomic::Ordering::SeqCst);
        let (files, buffered) = house.visible().await;
        let after = written.load(std::sync::atomic::Ordering::SeqCst) + 10;
        let seen = files + buffered;
        assert!((before..=after).contains(&seen), "{seen} visible, {before} to {after} written");
    }
    writer.await.unwrap();
    flusher.await.unwrap();
    let (files, buffered) = house.visible().await;
    assert_eq!(files + buffered, 3_000);
}

#[tokio::test]
async fn a_folder_without_server_is_read_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    house.write(1..11, 1).await.unwrap();
    let catalog = || {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
        Arc::new(Catalog::open(Store::local(folder.path()).unwrap(), clock, CatalogSettings::default()))
    };
    let locked = ReadOnly::open(&folder.path().join("wal"), catalog()).await.unwrap_err();
    assert_eq!(locked.kind(), ErrorKind::Unavailable, "{locked}");
    crash(house).await;
    let read = ReadOnly::open(&folder.path().join("wal"), catalog()).await.unwrap();
    let view = read.live.view(&TenantId::single()).await.unwrap();
    assert_eq!(view.buffered().map(SpanBatch::num_spans).sum::<usize>(), 10);
    drop(read);
    assert_eq!(House::open(folder.path(), quiet()).await.visible().await, (0, 10));
}

#[test]
fn a_record_is_the_batch_it_was_made_of() {
    let original = SpanBatch::concat(&[batch(0..10), batch(5..7)]).unwrap();
    let mut payload = b"before".to_vec();
    let mut encoder = record::Encoder::default();
    let place = encoder.encode(&original, &mut payload).unwrap();
    assert_eq!((place.start, place.end), (6, payload.len()));
    payload.drain(..place.start);
    let read = record::decode(&payload).unwrap();
    assert_eq!(read.flatten(&read.flat_schema()).unwrap(), original.flatten(&original.flat_schema()).unwrap());
    for length in 0..payload.len() {
        assert!(record::decode(&payload[..length]).is_err(), "{length} bytes of {}", payload.len());
    }
}
