//! The bucket is away, for long.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt;
use object_store::ObjectStore;
use tracehouse::{
    config::ByteSize,
    error::ErrorKind,
    storage::store::{PutNew, Store},
};

use super::{House, faulty::FaultyBucket, garbage, settings, times_seen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_costs_disk_up_to_the_logs_limit_and_hardly_any_memory() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let mut settings = settings(folder.path());
    settings.buffer.bytes_max = ByteSize::kib(768);
    settings.flush.bytes_max = ByteSize::kib(128);
    settings.wal.segment_bytes_max = ByteSize::kib(256);
    settings.wal.bytes_max = ByteSize::mib(3);
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    house.write(0..10).await.unwrap();
    house.ingest.flush().await.unwrap();
    assert_eq!(house.visible().await, (10, 0, 0));

    bucket.set_down(true);
    let (mut written, mut most_bytes) = (10u64, 0);
    let refused = loop {
        match house.write(written..written + 200).await {
            Ok(_) => written += 200,
            // Until files have taken the buffer's place.
            Err(error) if error.message().contains("buffer.bytes_max") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => break error,
        }
        most_bytes = most_bytes.max(house.ingest.live().buffered_bytes());
        assert!(written < 1_000_000, "never refused");
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("3145728"), "{refused}");
    assert!(refused.retry_after().is_some());
    assert!(most_bytes < 2 * 768 * 1024, "{most_bytes} bytes in memory");

    let (table, staged, buffered) = house.visible().await;
    assert_eq!((table, staged + buffered), (10, written - 10), "what was acknowledged is visible");
    assert!(staged > buffered, "{staged} staged, {buffered} buffered");
    let view = house.view().await;
    house.ingest.flush().await.unwrap_err();

    bucket.set_down(false);
    house.ingest.flush().await.unwrap();
    assert_eq!(house.visible().await, (written, 0, 0));
    assert_eq!(house.store.staged().unwrap().load(), (0, 0));
    // A view from before finds its files in the bucket.
    let seen = times_seen(&view, &house.store).await.unwrap();
    assert!(seen.keys().copied().eq(0..written) && seen.values().all(|times| *times == 1));
    house.write(written..written + 200).await.unwrap();
    house.ingest.shutdown().await.unwrap();
    assert!(garbage(&bucket.inner, &view_of(&settings, &bucket).await).await.is_empty());
}

async fn view_of(settings: &tracehouse::config::Settings, bucket: &Arc<FaultyBucket>) -> tracehouse::live::ReadView {
    let house = House::open(settings, Arc::<FaultyBucket>::clone(bucket) as _).await.unwrap();
    house.view().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_begin_again_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let mut settings = settings(folder.path());
    settings.flush.bytes_max = ByteSize::kib(1);
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    house.write(0..1).await.unwrap();
    house.ingest.flush().await.unwrap();
    bucket.set_down(true);
    house.write(1..101).await.unwrap();
    while house.visible().await != (1, 100, 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.ingest.live().buffered_bytes(), 0);
    bucket.set_down(false);
    while house.visible().await != (101, 0, 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = house.metrics.encode(0).unwrap();
    assert!(text.contains("tracehouse_staged_bytes"), "{text}");
}

#[tokio::test]
async fn staged_spans_are_replayed_after_a_crash_and_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let settings = settings(folder.path());
    let open = || House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _);
    let house = open().await.unwrap();
    house.write(0..10).await.unwrap();
    house.ingest.flush().await.unwrap();
    bucket.set_down(true);
    house.write(10..30).await.unwrap();
    house.ingest.flush().await.unwrap_err();
    house.write(30..35).await.unwrap();
    assert_eq!(house.visible().await, (10, 20, 5));
    house.crash().await;

    bucket.set_down(false);
    let house = open().await.unwrap();
    assert_eq!((house.recovered.spans, house.visible().await), (25, (10, 0, 25)));
    assert!(house.write(10..30).await.unwrap(), "a retry from before the crash is recognised");
    house.ingest.flush().await.unwrap();
    assert_eq!(house.visible().await, (35, 0, 0));
    assert!(garbage(&bucket.inner, &house.view().await).await.is_empty());
}

#[tokio::test]
async fn a_commit_of_a_dead_process_that_arrives_late_finds_its_place_taken() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let settings = settings(folder.path());
    let open = || House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _);
    let house = open().await.unwrap();
    house.write(0..10).await.unwrap();
    house.ingest.flush().await.unwrap();
    house.write(10..30).await.unwrap();
    bucket.hold_commits(true);
    house.ingest.flush().await.unwrap_err();
    house.crash().await;
    bucket.hold_commits(false);

    let house = open().await.unwrap();
    house.write(30..31).await.unwrap();
    let late = bucket.deliver_held().await;
    assert!(!late.is_empty() && late.iter().all(Result::is_err), "{late:?}");
    house.ingest.flush().await.unwrap();
    let seen = times_seen(&house.view().await, &house.store).await.unwrap();
    assert!(seen.keys().copied().eq(0..31) && seen.values().all(|times| *times == 1), "{seen:?}");
}

#[tokio::test]
async fn large_files_are_uploaded_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let mut settings = settings(folder.path());
    settings.store.part_bytes = ByteSize::kib(1);
    let house = House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    house.write(0..2_000).await.unwrap();
    house.ingest.flush().await.unwrap();
    assert!(house.metrics.store_requests("multipart", "ok") == 1);
    let seen = times_seen(&house.view().await, &house.store).await.unwrap();
    assert!(seen.keys().copied().eq(0..2_000));
}

#[tokio::test]
async fn writers_in_one_bucket_never_overwrite_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let metrics = Arc::new(tracehouse::metrics::Metrics::new().unwrap());
    let store =
        Store::remote(Arc::<FaultyBucket>::clone(&bucket) as _, &settings(folder.path()), &metrics).await.unwrap();
    store.verify_conditional_put().await.unwrap();
    let path = object_store::path::Path::from("a");
    let puts = (0..8).map(|writer: u8| store.put_new(&path, vec![writer].into()));
    let outcomes = futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == PutNew::Created).count(), 1);
    let objects: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    assert_eq!(objects.len(), 1, "the probe is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_while_the_bucket_is_away_takes_spans_and_shows_them_once_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(1);
    let settings = settings(folder.path());
    let open = || House::open(&settings, Arc::<FaultyBucket>::clone(&bucket) as _);
    let house = open().await.unwrap();
    house.write(0..10).await.unwrap();
    house.ingest.flush().await.unwrap();
    house.write(10..20).await.unwrap();
    house.crash().await;

    // Twice, so that what was taken in an outage is itself replayed in one.
    bucket.set_down(true);
    for part in 2..4 {
        let house = open().await.unwrap();
        assert!(!house.ingest.live().is_settled());
        assert!(!house.write(part * 10..part * 10 + 10).await.unwrap());
        assert!(house.write(part * 10..part * 10 + 10).await.unwrap(), "retries are recognised");
        assert!(house.write(10..20).await.unwrap(), "those from before the crash too");
        let refused = house.ingest.live().view(&house.tenant).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "an answer without the tables would not be whole");
        house.ingest.flush().await.unwrap_err();
        assert_eq!(house.ingest.live().buffered_bytes(), 0, "the log has them");
        if part == 3 {
            bucket.set_down(false);
            while !house.ingest.live().is_settled() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(house.visible().await, (10, 0, 30));
            house.write(40..45).await.unwrap();
            assert_eq!(house.visible().await, (10, 0, 35));
            house.ingest.flush().await.unwrap();
            let seen = times_seen(&house.view().await, &house.store).await.unwrap();
            assert!(seen.keys().copied().eq(0..45) && seen.values().all(|times| *times == 1), "{seen:?}");
            assert!(garbage(&bucket.inner, &house.view().await).await.is_empty());
            house.ingest.shutdown().await.unwrap();
        } else {
            house.ingest.shutdown().await.unwrap();
            house.crash().await;
        }
    }
    let house = open().await.unwrap();
    assert_eq!((house.recovered.records, house.visible().await), (0, (45, 0, 0)));
}

#[tokio::test]
async fn numbers_that_an_older_copy_of_the_log_has_forgotten_are_not_given_again_in_an_outage() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = FaultyBucket::new(1);
    let open =
        async |folder: &std::path::Path| House::open(&settings(folder), Arc::<FaultyBucket>::clone(&bucket) as _).await;
    let house = open(folder.path()).await.unwrap();
    house.write(0..1).await.unwrap();
    house.ingest.flush().await.unwrap();
    let wal = |folder: &std::path::Path| folder.join("wal");
    std::fs::create_dir(wal(copy.path())).unwrap();
    for entry in std::fs::read_dir(wal(folder.path())).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), wal(copy.path()).join(entry.file_name())).unwrap();
    }
    for number in 1..5 {
        house.write(number..number + 1).await.unwrap();
    }
    house.ingest.flush().await.unwrap();
    house.crash().await;

    bucket.set_down(true);
    let house = open(copy.path()).await.unwrap();
    house.write(100..101).await.unwrap();
    bucket.set_down(false);
    house.ingest.flush().await.unwrap();
    let seen = times_seen(&house.view().await, &house.store).await.unwrap();
    assert!(seen.keys().copied().eq((0..5).chain([100])) && seen.values().all(|times| *times == 1), "{seen:?}");
}
