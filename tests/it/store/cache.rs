//! How often a query asks the bucket: once for what it has not read before.

use std::{path::Path, sync::Arc};

use arrow::array::AsArray as _;
use futures::future::join_all;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as ObjectPath};
use tracehouse::{
    clock::{Clock, ManualClock},
    config::{ByteSize, Settings},
    ingest::WriteRequest,
    metrics::Metrics,
    model::{batch::SpanBatch, ids::TraceId, tenant::TenantId},
    query::{QueryEngine, QueryKind, QueryRequest, QueryStats, SqlQuery, TraceByIdQuery, TraceQlQuery},
    storage::store::Store,
};

use super::{House, faulty::FaultyBucket, settings};
use crate::maintain::house::demo;

fn with_cache(folder: &Path, disk: ByteSize) -> Settings {
    let mut settings = settings(folder);
    settings.cache.memory_bytes_max = ByteSize::mib(16);
    settings.cache.disk_bytes_max = disk;
    settings
}

fn engine(house: &House, spill: &Path) -> QueryEngine {
    let clock = Arc::clone(&house.clock);
    QueryEngine::try_new(crate::engines::options(house.ingest.live(), &house.store, clock, spill)).unwrap()
}

async fn ask(engine: &QueryEngine, text: &str) -> (usize, QueryStats) {
    let stream = engine.execute(QueryRequest::sql(TenantId::single(), text)).await.unwrap();
    let (batches, stats) = stream.collect().await.unwrap();
    (batches.iter().map(|batch| batch.num_rows()).sum(), stats)
}

const BY_ID: &str = "SELECT name FROM spans WHERE trace_id = '000000000000000000000000000004d2'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_asks_the_bucket_once_and_again_only_for_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let settings = with_cache(folder.path(), ByteSize::mib(64));
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    for part in 0..3 {
        house.write(part * 1_000..part * 1_000 + 1_000).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    bucket.take_reads();
    let queries = engine(&house, folder.path());
    let (rows, cold) = ask(&queries, BY_ID).await;
    let sent = bucket.take_reads();
    assert_eq!((rows, cold.store_requests), (1, sent));
    // Small files lie in one block; the answer and the bloom filters of the others come with their footers.
    assert_eq!(sent, 3, "{cold:?}");
    assert!(cold.store_bytes > 0 && cold.cache_missed_blocks == 3, "{cold:?}");

    let (rows, warm) = ask(&queries, BY_ID).await;
    assert_eq!((rows, bucket.take_reads(), warm.store_requests), (1, 0, 0));
    assert!(warm.cache_memory_blocks > 0 && warm.cache_missed_blocks == 0, "{warm:?}");
    let (rows, other) = ask(&queries, "SELECT name FROM spans").await;
    assert_eq!((rows, bucket.take_reads(), other.store_requests), (3_000, 0, 0));

    // The next process finds the blocks on its disk.
    drop(queries);
    house.ingest.shutdown().await.unwrap();
    house.store.close().await;
    house.crash().await;
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    bucket.take_reads();
    let queries = engine(&house, folder.path());
    let (rows, again) = ask(&queries, BY_ID).await;
    assert_eq!((rows, bucket.take_reads()), (1, again.store_requests), "{again:?}");
    assert!(again.cache_disk_blocks > 0 && again.cache_missed_blocks == again.store_requests, "{again:?}");
    assert_eq!(again.cache_disk_blocks + again.cache_missed_blocks, 3, "{again:?}");
}

/// The questions of users of traces, and most requests of each when nothing has been read before: three per file.
fn questions(trace: TraceId) -> [(QueryKind, u64); 5] {
    let by_id = TraceByIdQuery { trace_id: trace, hint: None, filter: None };
    let search = |text: &str| QueryKind::TraceQl(TraceQlQuery::new(text));
    [
        (QueryKind::TraceById(by_id), 9),
        (search(r#"{ resource.service.name = "order-service" && status = error }"#), 9),
        (search(r#"{ span.http.response.status_code >= 500 }"#), 9),
        (search("{ kind = server } >> { status = error }"), 9),
        (
            QueryKind::Sql(SqlQuery {
                text: "SELECT service_name, count(*) FROM spans GROUP BY 1".to_owned(),
                params: vec![],
            }),
            9,
        ),
    ]
}

/// Rows of an answer, and how many requests for parts of files it sent.
async fn cost(engine: &QueryEngine, bucket: &FaultyBucket, kind: &QueryKind) -> (usize, u64) {
    bucket.take_reads();
    let stream = engine.execute(QueryRequest::new(TenantId::single(), kind.clone())).await.unwrap();
    let (batches, stats) = stream.collect().await.unwrap();
    let sent = bucket.take_reads();
    assert_eq!(stats.store_requests, sent, "the statistics say what was sent");
    (batches.iter().map(|batch| batch.num_rows()).sum(), sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_trace_or_search_sends_nothing_to_the_bucket_and_a_cold_one_few_requests() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let caches = with_cache(folder.path(), ByteSize::from_bytes(0));
    let house = House::open(&caches, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    // Files of several blocks: what a question needs is not all in the block of the footer.
    let batches = demo(18_000);
    let ids = batches[0].spans().column_by_name("trace_id").unwrap().as_fixed_size_binary();
    let trace = TraceId::from_bytes(ids.value(0).try_into().unwrap());
    for part in batches.chunks(batches.len().div_ceil(3)) {
        let received_unix_nano = house.clock.now_unix_nano();
        let batch = SpanBatch::concat(part).unwrap();
        let request = WriteRequest { batch, digest: rand::random(), received_unix_nano };
        house.ingest.write(&house.tenant, request).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    let files: Vec<u64> = house.view().await.files().map(|file| file.size_bytes).collect();
    assert!(files.len() == 3 && files.iter().all(|bytes| *bytes > 160 * 1024), "{files:?}");
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = || Arc::<ManualClock>::clone(&house.clock) as Arc<dyn Clock>;
    let options = |store: &Store| crate::engines::options(house.ingest.live(), store, clock(), folder.path());
    for (kind, cold_max) in questions(trace) {
        // Nothing is known: neither blocks nor footers.
        let objects = || Arc::<FaultyBucket>::clone(&bucket) as Arc<dyn ObjectStore>;
        let store = Store::remote(objects(), &caches, &metrics).await.unwrap();
        let engine = QueryEngine::try_new(options(&store)).unwrap();
        let (rows, cold) = cost(&engine, &bucket, &kind).await;
        assert!(rows > 0 && (1..=cold_max).contains(&cold), "{kind:?}: {rows} rows, {cold} requests");
        assert_eq!(cost(&engine, &bucket, &kind).await, (rows, 0), "{kind:?}, warm");
        // What the caches are for: the same without them, footers known.
        let store = Store::remote(objects(), &settings(folder.path()), &metrics).await.unwrap();
        let engine = QueryEngine::try_new(options(&store)).unwrap();
        cost(&engine, &bucket, &kind).await;
        let (same, again) = cost(&engine, &bucket, &kind).await;
        assert!(same == rows && again > 0, "{kind:?}: {again} requests without caches");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_block_share_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let metrics = Arc::new(Metrics::new().unwrap());
    let settings = with_cache(folder.path(), ByteSize::from_bytes(0));
    let store = Store::remote(Arc::<FaultyBucket>::clone(&bucket) as _, &settings, &metrics).await.unwrap();
    let path = ObjectPath::from("date=2026-11-21/x.parquet");
    let bytes: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    store.put(&path, bytes.clone().into()).await.unwrap();
    bucket.slow_reads(50);
    let objects = store.objects();
    let read = objects.get_range(&path, 200_000..200_100);
    let first = join_all((0..32).map(|_| store.get_range(&path, 200_000..200_100))).await;
    assert!(first.into_iter().all(|part| part.unwrap() == bytes[200_000..200_100]));
    assert_eq!(bucket.take_reads(), 1);
    assert_eq!(read.await.unwrap(), bytes[200_000..200_100]);
    // Ranges far apart are asked for side by side, near ones together, known ones not at all.
    let ranges = [100..200, 140_000..140_010, 200_000..200_100, 900_000..1_000_000];
    let parts = objects.get_ranges(&path, &ranges).await.unwrap();
    for (range, part) in ranges.iter().zip(parts) {
        assert_eq!(part, bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    assert_eq!(bucket.take_reads(), 2);
    let text = metrics.encode(0).unwrap();
    assert!(text.contains("tracehouse_cache_blocks_total{from=\"memory\"}"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_request_fails_all_that_wait_for_it_and_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let metrics = Arc::new(Metrics::new().unwrap());
    let settings = with_cache(folder.path(), ByteSize::from_bytes(0));
    let store = Store::remote(Arc::<FaultyBucket>::clone(&bucket) as _, &settings, &metrics).await.unwrap();
    let path = ObjectPath::from("date=2026-11-21/x.parquet");
    store.put(&path, vec![7u8; 1_000].into()).await.unwrap();
    bucket.slow_reads(30);
    bucket.set_down(true);
    let reads = join_all((0..4).map(|_| store.get_range(&path, 0..10))).await;
    assert!(reads.iter().all(Result::is_err));
    bucket.set_down(false);
    assert_eq!(store.get_range(&path, 0..10).await.unwrap(), vec![7u8; 10]);
}

/// Time jumps where all wait, so that the request is late and the second one is not, however busy the machine.
#[tokio::test(start_paused = true)]
async fn a_slow_read_is_sent_twice_and_seldom() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let metrics = Arc::new(Metrics::new().unwrap());
    let mut settings = with_cache(folder.path(), ByteSize::from_bytes(0));
    settings.store.hedge_after = "10ms".parse().unwrap();
    let store = Store::remote(Arc::<FaultyBucket>::clone(&bucket) as _, &settings, &metrics).await.unwrap();
    bucket.slow_reads(60);
    for file in 0..4 {
        let path = ObjectPath::from(format!("date=2026-11-21/{file}.parquet"));
        store.put(&path, vec![7u8; 1_000].into()).await.unwrap();
        assert_eq!(store.get_range(&path, 0..10).await.unwrap().len(), 10);
    }
    assert_eq!(bucket.take_reads(), 5, "one of the first twenty may be");
    assert_eq!(metrics.store_hedged_reads.get(), 1);
}
