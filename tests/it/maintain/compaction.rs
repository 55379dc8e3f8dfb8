//! Merged files hold what the files before them held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::SystemClock,
    config::PromotionSettings,
    maintain::compact::{Compactor, Lane},
    metrics::Metrics,
    model::tenant::TenantId,
};

use super::{
    compact_all, eager,
    house::{DUMP, House, NOW, Plain, SECOND, plain, random, seeded, trace_id},
};

#[tokio::test(flavor = "multi_thread")]
async fn merged_files_hold_the_same_spans() {
    let house = House::open().await;
    let mut seed = seeded(7);
    for part in 0..6 {
        let spans = if part == 3 { 3_000 } else { 200 };
        house.store(random(&mut seed, spans, 60, NOW + part * 20 * SECOND)).await;
    }
    let queries = [
        DUMP,
        "SELECT count(*) FROM spans WHERE attr_int(span_attributes, 'http.response.status_code') >= 500",
        "SELECT count(*) FROM spans WHERE span_attributes['free.text'] = 'v7'",
        "SELECT count(*) FROM spans WHERE resource_attributes['rack'] IS NULL",
    ];
    let mut before = Vec::new();
    for query in queries {
        before.push(house.sql(query).await);
    }
    assert_eq!(house.files().await, 6);
    let report = compact_all(&house.catalog, &house.shared_clock()).await;
    assert_eq!((report.files_before, report.files_after, report.duplicates), (6, 1, 0));
    assert_eq!(house.files().await, 1);
    for (query, before) in queries.into_iter().zip(before) {
        assert!(house.sql(query).await == before, "{query} answers otherwise after a merge");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_file_is_sorted_as_a_flushed_one() {
    let house = House::open().await;
    // A trace of two files, of which the second has the earlier span.
    let span = |trace, span, start| Plain { trace, span, start: NOW + start, user: "a" };
    house.store(plain(&[span(2, 1, 50), span(1, 1, 100), span(1, 2, 110)])).await;
    house.store(plain(&[span(1, 3, 10), span(3, 1, 20)])).await;
    compact_all(&house.catalog, &house.shared_clock()).await;
    let snapshot = house.table().await.snapshot();
    let file = snapshot.files().next().unwrap();
    assert_eq!(file.rows(), Some(5));
    assert_eq!(file.start_range_unix_nano(), Some((NOW + 10, NOW + 110)));
    let path = house.folder.path().join(file.location.as_ref());
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let traces = batch["trace_id"].as_fixed_size_binary();
    let starts = batch["start_time_unix_nano"].as_primitive::<Int64Type>();
    let rows: Vec<(Vec<u8>, i64)> = (0..5).map(|row| (traces.value(row).to_vec(), starts.value(row) - NOW)).collect();
    let id = |number| trace_id(number).as_bytes().to_vec();
    assert_eq!(rows, [(id(1), 10), (id(1), 100), (id(1), 110), (id(3), 20), (id(2), 50)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_spans_become_one_and_are_counted_and_others_with_the_same_ids_stay() {
    let house = House::open().await;
    let span = Plain { trace: 1, span: 1, start: NOW, user: "a" };
    house.store(plain(&[span, Plain { span: 2, ..span }])).await;
    house.store(plain(&[span, Plain { user: "b", ..span }, span])).await;
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 5);
    let report = compact_all(&house.catalog, &house.shared_clock()).await;
    assert_eq!(report.duplicates, 2);
    assert_eq!(house.table().await.snapshot().duplicates(), 2);
    // The count is in the table: it goes on from there, and a new process knows it.
    house.store(plain(&[span])).await;
    compact_all(&house.catalog, &house.shared_clock()).await;
    house.table().await.checkpoint().await.unwrap();
    let elsewhere = Catalog::open(house.store.clone(), house.shared_clock(), CatalogSettings::default());
    assert_eq!(elsewhere.table(&TenantId::single()).await.unwrap().snapshot().duplicates(), 3);
    let users = house.sql("SELECT span_id, span_attributes['enduser'] AS u FROM spans ORDER BY 1, 2").await;
    insta::assert_snapshot!(users, @r"
    +------------------+---+
    | span_id          | u |
    +------------------+---+
    | 0000000000000001 | a |
    | 0000000000000001 | b |
    | 0000000000000002 | a |
    +------------------+---+
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_merged_apart_and_in_one_commit() {
    let house = House::open().await;
    let days: Vec<Plain> = (0..20)
        .map(|day| Plain { trace: day, span: 1, start: NOW - day as i64 * 86_400 * SECOND, user: "a" })
        .collect();
    for round in 0..2 {
        let spans: Vec<Plain> = days.iter().map(|span| Plain { span: round + 1, ..*span }).collect();
        house.store(plain(&spans)).await;
    }
    assert_eq!(house.files().await, 40);
    let report = compact_all(&house.catalog, &house.shared_clock()).await;
    assert_eq!((report.merges, report.commits), (20, 1));
    assert_eq!(house.files().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_compactors_and_a_writer_lose_and_double_nothing() {
    let house = House::open().await;
    let mut seed = seeded(11);
    let is_written = Arc::new(AtomicBool::new(false));
    let mut compactors = tokio::task::JoinSet::new();
    for _ in 0..3 {
        // Each as a process of its own, which shares nothing but the store.
        let clock = house.shared_clock();
        let settings = CatalogSettings { backoff: Duration::from_millis(1), ..CatalogSettings::default() };
        let catalog = Arc::new(Catalog::open(house.store.clone(), Arc::clone(&clock), settings));
        let metrics = Arc::new(Metrics::new().unwrap());
        let compactor = Compactor::new(Arc::clone(&catalog), clock, metrics, &eager(), &PromotionSettings::default());
        let is_written = Arc::clone(&is_written);
        compactors.spawn(async move {
            let (mut merges, mut conflicts) = (0, 0);
            loop {
                // Once more after the end, when there is something to merge unless all of it was.
                let is_last = is_written.load(Ordering::SeqCst);
                catalog.table(&TenantId::single()).await.unwrap().refresh().await.unwrap();
                let report = compactor.compact_lane(&TenantId::single(), Lane::Small).await.unwrap();
                assert_eq!(report.failures, 0);
                merges += report.merges;
                conflicts += report.conflicts;
                if is_last {
                    return (merges, conflicts);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let mut written = 0;
    for part in 0..12 {
        house.store(random(&mut seed, 40, 10, NOW + part * SECOND)).await;
        written += 40;
        // The writer's own snapshot may lag behind; it is always whole.
        assert_eq!(house.count("SELECT count(*) FROM spans").await, written);
    }
    is_written.store(true, Ordering::SeqCst);
    let outcomes = compactors.join_all().await;
    house.table().await.refresh().await.unwrap();
    assert_eq!(house.count("SELECT count(*) FROM spans").await, written);
    assert_eq!(house.count("SELECT count(DISTINCT span_id) FROM spans").await, written);
    let merges: usize = outcomes.iter().map(|(merges, _)| merges).sum();
    assert!(merges > 0, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_holds_up_no_other() {
    let house = House::open().await;
    let span = Plain { trace: 1, span: 1, start: NOW, user: "a" };
    for round in 0..4 {
        let other_day = NOW - 3 * 86_400 * SECOND;
        house.store(plain(&[Plain { span: round, ..span }, Plain { span: round, start: other_day, ..span }])).await;
    }
    let snapshot = house.table().await.snapshot();
    let broken = snapshot.files().next().unwrap();
    std::fs::write(house.folder.path().join(broken.location.as_ref()), b"PAR1 not a file PAR1").unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let compactor = Compactor::new(
        Arc::clone(&house.catalog),
        Arc::new(SystemClock),
        metrics,
        &eager(),
        &PromotionSettings::default(),
    );
    let report = compactor.compact(&TenantId::single()).await.unwrap();
    assert_eq!((report.failures, report.merges), (1, 2));
    assert_eq!(house.files().await, 3);
}
