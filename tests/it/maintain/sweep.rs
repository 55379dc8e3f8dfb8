//! Files that no table lists vanish after the grace, and not before.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tracehouse::{
    maintain::sweep::{SweepReport, Sweeper},
    model::tenant::TenantId,
    storage::paths::{TableFolder, data_file, file_id},
};

use super::{
    compact_all,
    house::{DUMP, House, NOW, random, seeded},
};

const GRACE: Duration = Duration::from_secs(3600);

async fn sweep(house: &House) -> SweepReport {
    let metrics = Arc::clone(&house.metrics);
    let sweeper = Sweeper::new(Arc::clone(&house.catalog), house.shared_clock(), metrics, GRACE);
    sweeper.sweep(&TenantId::single()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_stay_for_running_queries_until_the_grace_is_over() {
    let house = House::open().await;
    let mut seed = seeded(1);
    for _ in 0..3 {
        house.store(random(&mut seed, 50, 5, NOW)).await;
    }
    house.clock.advance(GRACE * 2);
    let before = house.sql(DUMP).await;
    // What a query that runs meanwhile sees: the snapshot of its start.
    let view = house.ingest.live().view(&TenantId::single()).await.unwrap();
    compact_all(&house.catalog, &house.shared_clock()).await;
    let report = sweep(&house).await;
    assert_eq!((report.files, report.waiting_files), (0, 3), "the files are old, but were removed just now");
    for file in view.snapshot().files() {
        assert!(house.folder.path().join(file.location.as_ref()).exists());
    }
    house.clock.advance(GRACE - Duration::from_secs(1));
    assert_eq!(sweep(&house).await.files, 0);
    house.clock.advance(Duration::from_secs(2));
    let report = sweep(&house).await;
    assert_eq!((report.files, report.waiting_files), (3, 0));
    assert_eq!(house.files_on_disk(), 1);
    assert_eq!(sweep(&house).await, SweepReport::default());
    assert!(house.sql(DUMP).await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_writer_left_goes_after_the_grace() {
    let house = House::open().await;
    house.store(random(&mut seeded(2), 50, 5, NOW)).await;
    let folder = TableFolder::of_tenant(&TenantId::single());
    let day = chrono::NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
    let orphan = folder.file(&data_file(day, file_id(NOW)));
    let others = [folder.file("date=2026-11-21/notes.txt"), folder.file("README.md")];
    for path in others.iter().chain([&orphan]) {
        house.store.put(path, Bytes::from_static(b"half a file")).await.unwrap();
    }
    assert_eq!((sweep(&house).await.files, house.files_on_disk()), (0, 2));
    house.clock.advance(GRACE + Duration::from_secs(1));
    assert_eq!((sweep(&house).await.files, house.files_on_disk()), (1, 1));
    for path in others {
        assert!(house.store.get(&path).await.unwrap().is_some(), "{path} is not a data file");
    }
}
