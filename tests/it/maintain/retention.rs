//! Spans leave by age and by size.

use std::{sync::Arc, time::Duration};

use tracehouse::{
    config::{ByteSize, HumanDuration, Settings},
    maintain::retain::{Retainer, RetentionReport},
    model::tenant::TenantId,
};

use super::house::{House, NOW, Plain, SECOND, plain, random, seeded};

const HOUR: i64 = 3600 * SECOND;

async fn retain(house: &House, settings: &Settings) -> RetentionReport {
    let (catalog, metrics) = (Arc::clone(&house.catalog), Arc::clone(&house.metrics));
    let retainer = Retainer::new(catalog, house.shared_clock(), metrics, settings);
    let mut report = retainer.retain(&TenantId::single()).await.unwrap();
    report.add(retainer.retain_total().await.unwrap());
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_go_whole_and_those_that_are_half_old_are_rewritten() {
    let house = House::open().await;
    let span = |hour: i64| Plain { trace: (hour + 100) as u64, span: 1, start: NOW + hour * HOUR, user: "a" };
    // 05:20 is NOW, so all three are of one day.
    house.store(plain(&[span(-5), span(-4)])).await;
    house.store(plain(&[span(-3), span(-2), span(-1), span(0)])).await;
    house.store(plain(&[span(1), span(2)])).await;
    let mut settings = Settings::default();
    settings.retention.age_max = HumanDuration::minutes(4 * 60 + 45);
    assert_eq!(retain(&house, &settings).await, RetentionReport::default(), "only a quarter of the first file is old");

    house.clock.advance(Duration::from_secs(30 * 60));
    let report = retain(&house, &settings).await;
    assert_eq!((report.files_removed, report.files_rewritten), (0, 1));
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 7);

    house.clock.advance(Duration::from_secs(165 * 60));
    let report = retain(&house, &settings).await;
    assert_eq!((report.files_removed, report.files_rewritten), (1, 1));
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 4);
    let oldest = house.sql("SELECT min(start_time) FROM spans").await;
    assert!(oldest.contains("2026-11-21T04:20:00"), "{oldest}");

    settings.retention.age_max_by_tenant = vec![format!("{}=0s", TenantId::single())];
    house.clock.advance(Duration::from_secs(100 * 3600));
    assert_eq!(retain(&house, &settings).await, RetentionReport::default(), "this tenant keeps everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_files_go_when_there_are_too_many_bytes() {
    let house = House::open().await;
    let mut seed = seeded(8);
    for day in (0..4).rev() {
        house.store(random(&mut seed, 100, 5, NOW - day * 24 * HOUR)).await;
    }
    let snapshot = house.table().await.snapshot();
    let sizes: Vec<u64> = snapshot.files().map(|file| file.size_bytes).collect();
    let mut settings = Settings::default();
    settings.retention.bytes_max = ByteSize::from_bytes(sizes[1..].iter().sum());
    let report = retain(&house, &settings).await;
    assert_eq!((report.files_removed, report.bytes_removed, report.spans_removed), (1, sizes[0], 100));
    let (first, last) = report.starts_removed.unwrap();
    assert!(NOW - 3 * 24 * HOUR <= first && first < last && last < NOW - 2 * 24 * HOUR, "{first} to {last}");
    assert_eq!(retain(&house, &settings).await, RetentionReport::default());
    settings.retention.total_bytes_max = ByteSize::from_bytes(sizes[3]);
    assert_eq!(retain(&house, &settings).await.files_removed, 2);
    let left = house.table().await.snapshot();
    assert_eq!(left.files().map(|file| file.size_bytes).collect::<Vec<_>>(), [sizes[3]]);
}
