//! Backups of tables in use, and what is restored from them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use object_store::memory::InMemory;
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    config::{PromotionSettings, Settings},
    error::ErrorKind,
    maintain::{
        compact::{Compactor, Lane},
        copy::{copy_tables, has_tables},
        delete::Deleter,
        verify::Verifier,
    },
    metrics::Metrics,
    model::{tenant::TenantId, time::TimeRange},
    query::SpanFilter,
    storage::store::Store,
};

use super::{
    compact_all, eager,
    house::{DUMP, House, NOW, SECOND, random, seeded, trace_id},
};

fn catalog_of(house: &House, store: &Store) -> Catalog {
    Catalog::open(store.clone(), house.shared_clock(), CatalogSettings::default())
}

async fn assert_whole(house: &House) {
    let live = Arc::clone(house.ingest.live());
    let verifier = Verifier::new(Arc::clone(&house.catalog), Arc::clone(&house.engine), live);
    assert_eq!(verifier.verify(&TenantId::single()).await.unwrap().problems, vec![]);
}

fn deleter(house: &House) -> Deleter {
    let (engine, metrics) = (Arc::clone(&house.engine), Arc::clone(&house.metrics));
    Deleter::new(Arc::clone(&house.catalog), engine, house.shared_clock(), metrics, &Settings::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_written_and_compacted_is_backed_up_and_restored_whole() {
    let house = House::open().await;
    let backup = Store::new(Arc::new(InMemory::new()));
    let is_written = Arc::new(AtomicBool::new(false));
    let compacting = {
        let (catalog, clock, is_written) = (Arc::clone(&house.catalog), house.shared_clock(), Arc::clone(&is_written));
        let metrics = Arc::new(Metrics::new().unwrap());
        let compactor = Compactor::new(catalog, clock, metrics, &eager(), &PromotionSettings::default());
        tokio::spawn(async move {
            let mut merges = 0;
            loop {
                // Once more after the end, when there is something to merge unless all of it was.
                let is_last = is_written.load(Ordering::SeqCst);
                merges += compactor.compact_lane(&TenantId::single(), Lane::Small).await.unwrap().merges;
                if is_last {
                    return merges;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    let mut seed = seeded(41);
    let mut copied = Vec::new();
    for part in 0..10 {
        house.store(random(&mut seed, 60, 10, NOW + part * SECOND)).await;
        // As a process of its own, which shares nothing but the store.
        let reports = copy_tables(&catalog_of(&house, &house.store), &backup).await.unwrap();
        copied.push(reports[0].1);
    }
    is_written.store(true, Ordering::SeqCst);
    assert!(compacting.await.unwrap() > 0);
    for (part, report) in copied.iter().enumerate() {
        assert_eq!(report.spans, 60 * (part as u64 + 1), "a backup has what was in files when it began");
    }
    copy_tables(&catalog_of(&house, &house.store), &backup).await.unwrap();
    let again = copy_tables(&catalog_of(&house, &house.store), &backup).await.unwrap()[0].1;
    assert_eq!((again.files, again.files_there), (0, house.files().await), "what is there is not copied again");

    let filter = SpanFilter::TraceId(trace_id(3).to_string());
    deleter(&house).delete(&TenantId::single(), filter, TimeRange::ALL, async { Ok(()) }).await.unwrap();
    copy_tables(&house.catalog, &backup).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let target = Store::local(folder.path()).unwrap();
    assert!(!has_tables(&target).await.unwrap());
    copy_tables(&catalog_of(&house, &backup), &target).await.unwrap();
    assert!(has_tables(&target).await.unwrap());
    let restored = House::open_in(folder).await;
    assert!(restored.sql(DUMP).await == house.sql(DUMP).await);
    assert_whole(&restored).await;

    // The restored table is a table: it grows, merges, and keeps what was deleted deleted.
    restored.store(random(&mut seed, 50, 10, NOW)).await;
    deleter(&restored).enforce(&TenantId::single()).await.unwrap();
    compact_all(&restored.catalog, &restored.shared_clock()).await;
    assert_eq!(restored.count(&format!("SELECT count(*) FROM spans WHERE trace_id = '{}'", trace_id(3))).await, 0);
    assert_whole(&restored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_over_checkpoints_and_cleaned_logs_can_be_read() {
    let house = House::open().await;
    let backup = Store::new(Arc::new(InMemory::new()));
    let mut seed = seeded(43);
    house.store(random(&mut seed, 30, 5, NOW)).await;
    copy_tables(&house.catalog, &backup).await.unwrap();
    house.store(random(&mut seed, 30, 5, NOW)).await;
    house.table().await.checkpoint().await.unwrap();
    // The log before the checkpoint is gone, as after the retention.
    let log = house.table().await.log_folder();
    house.store.delete(&log.clone().join("00000000000000000000.json")).await.unwrap();
    house.store(random(&mut seed, 30, 5, NOW)).await;
    copy_tables(&house.catalog, &backup).await.unwrap();
    let empty = Store::new(Arc::new(InMemory::new()));
    copy_tables(&house.catalog, &empty).await.unwrap();
    for store in [backup, empty] {
        let snapshot = catalog_of(&house, &store).table(&TenantId::single()).await.unwrap().snapshot();
        assert_eq!((snapshot.rows(), snapshot.files().len(), snapshot.version()), (90, 3, Some(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_not_copied_and_what_is_another_table_is_not_overwritten() {
    let (house, other) = (House::open().await, House::open().await);
    let mut seed = seeded(42);
    house.store(random(&mut seed, 50, 5, NOW)).await;
    other.store(random(&mut seed, 50, 5, NOW)).await;
    let backup = Store::new(Arc::new(InMemory::new()));
    copy_tables(&house.catalog, &backup).await.unwrap();
    let error = copy_tables(&other.catalog, &backup).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("its commit 0 is another"), "{error}");

    let copied = house.table().await.snapshot();
    house.store(random(&mut seed, 50, 5, NOW)).await;
    let snapshot = house.table().await.snapshot();
    let new = snapshot.files().find(|file| copied.files().all(|copied| copied.path != file.path)).unwrap();
    let path = house.folder.path().join(new.location.as_ref());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = copy_tables(&house.catalog, &backup).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    // The copy from before is as it was.
    let before = catalog_of(&house, &backup).table(&TenantId::single()).await.unwrap().snapshot();
    assert_eq!((before.rows(), before.version()), (50, Some(0)));
}
