//! Several servers on one table: each sees what the others commit, soon and without waiting for a store that is away.

use std::{sync::Arc, time::Duration};

use tracehouse::{
    config::{CompactionSettings, HumanDuration, PromotionSettings},
    maintain::compact::{CompactReport, Compactor, Lane},
};

use super::{House, faulty::FaultyBucket, settings, times_seen};

/// Time jumps where all wait, so that no look at the table comes too late for a query, however busy the machine.
#[tokio::test(start_paused = true)]
async fn a_server_sees_the_files_of_another_within_the_tables_age() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let bucket = FaultyBucket::new(1);
    let open = |index: usize| {
        let bucket = Arc::<FaultyBucket>::clone(&bucket);
        let settings = settings(folders[index].path());
        async move { House::open(&settings, bucket as _).await.unwrap() }
    };
    let (writer, reader) = (open(0).await, open(1).await);
    assert_eq!(reader.visible().await, (0, 0, 0));
    writer.write(0..10).await.unwrap();
    writer.ingest.flush().await.unwrap();
    assert_eq!(reader.visible().await, (0, 0, 0), "asked less than the age ago");
    reader.clock.advance(Duration::from_secs(5));
    assert_eq!(reader.visible().await, (10, 0, 0));

    // At half of the age a query goes on and has the table looked at behind its back.
    writer.write(10..15).await.unwrap();
    writer.ingest.flush().await.unwrap();
    reader.clock.advance(Duration::from_secs(3));
    while reader.visible().await != (15, 0, 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // While the store is away, queries see what is known.
    writer.write(15..16).await.unwrap();
    writer.ingest.flush().await.unwrap();
    bucket.set_down(true);
    reader.clock.advance(Duration::from_secs(60));
    assert_eq!(reader.visible().await, (15, 0, 0));
    bucket.set_down(false);
    reader.clock.advance(Duration::from_secs(60));
    assert_eq!(reader.visible().await, (16, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn servers_that_write_and_compact_one_table_lose_and_double_nothing() {
    const SERVERS: u64 = 3;
    const FLUSHES: u64 = 8;
    let bucket = FaultyBucket::new(5);
    let eager =
        CompactionSettings { fan_in: 2, settle_age: HumanDuration::seconds(0), ..CompactionSettings::default() };
    let mut servers = tokio::task::JoinSet::new();
    for server in 0..SERVERS {
        let (bucket, eager) = (Arc::<FaultyBucket>::clone(&bucket), eager.clone());
        servers.spawn(async move {
            let folder = tempfile::tempdir().unwrap();
            let house = House::open(&settings(folder.path()), bucket as _).await.unwrap();
            let clock = Arc::<tracehouse::clock::ManualClock>::clone(&house.clock);
            let catalog = Arc::clone(house.ingest.live().catalog());
            let metrics = Arc::clone(&house.metrics);
            let compactor =
                Compactor::new(Arc::clone(&catalog), clock as _, metrics, &eager, &PromotionSettings::default());
            let mut compacted = CompactReport::default();
            for flush in 0..FLUSHES {
                let first = (server * FLUSHES + flush) * 100;
                house.write(first..first + 100).await.unwrap();
                house.ingest.flush().await.unwrap();
                compacted.add(compactor.compact_lane(&house.tenant, Lane::Small).await.unwrap());
            }
            house.ingest.shutdown().await.unwrap();
            compacted
        });
    }
    let reports = servers.join_all().await;
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(&settings(folder.path()), Arc::<FaultyBucket>::clone(&bucket) as _).await.unwrap();
    let seen = times_seen(&house.view().await, &house.store).await.unwrap();
    assert!(seen.keys().copied().eq(0..SERVERS * FLUSHES * 100), "{} spans", seen.len());
    assert!(seen.values().all(|times| *times == 1), "some spans are there twice");
    let merges: usize = reports.iter().map(|report| report.merges).sum();
    assert!(merges > 0 && reports.iter().all(|report| report.failures == 0), "{reports:?}");
}
