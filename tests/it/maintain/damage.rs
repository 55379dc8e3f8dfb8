//! A file whose bytes are no longer what was written is refused by whatever would make another file of it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parquet::file::reader::{FileReader, SerializedFileReader};
use tracehouse::{
    catalog::LiveFile,
    config::{CompactionSettings, HumanDuration, PromotionSettings, Settings},
    error::ErrorKind,
    maintain::{compact::Compactor, delete::Deleter, retain::Retainer},
    model::{tenant::TenantId, time::TimeRange},
    query::SpanFilter,
};

use super::{
    eager,
    house::{House, NOW, Plain, SECOND, plain, random, seeded, trace_id},
};

const MINUTE: Duration = Duration::from_secs(60);

fn compactor(house: &House) -> Compactor {
    let (metrics, promotion) = (Arc::clone(&house.metrics), PromotionSettings::default());
    let settings = CompactionSettings { grace: HumanDuration::hours(24), ..eager() };
    Compactor::new(Arc::clone(&house.catalog), house.shared_clock(), metrics, &settings, &promotion)
}

/// Flips a bit in the middle of the ids of the spans, which are random and not compressed, so that no decoder can tell.
fn flip(house: &House, file: &LiveFile) -> PathBuf {
    let path = house.folder.path().join(file.location.as_ref());
    let mut bytes = std::fs::read(&path).unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
    let group = reader.metadata().row_group(0);
    let ids = group.columns().iter().find(|column| column.column_path().string() == "span_id").unwrap();
    let (start, length) = ids.byte_range();
    bytes[(start + length * 3 / 4) as usize] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_not_merged_and_holds_up_no_other_file() {
    let house = House::open().await;
    let mut seed = seeded(11);
    for part in 0..6 {
        house.store(random(&mut seed, 200, 20, NOW + part * SECOND)).await;
    }
    let whole =
        format!("SELECT * FROM spans WHERE trace_id <> '{}' ORDER BY trace_id, span_id, start_time", trace_id(999));
    let before = house.sql(&whole).await;
    let victim = Arc::clone(house.table().await.snapshot().files().nth(2).unwrap());
    let path = flip(&house, &victim);
    let damaged = std::fs::read(&path).unwrap();
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 1_200, "a query does not notice");

    let compactor = compactor(&house);
    let report = compactor.compact(&TenantId::single()).await.unwrap();
    assert_eq!((report.files_before, report.files_after, report.refused.len()), (5, 1, 1), "{report:?}");
    let refused = &report.refused[0];
    assert!(
        refused.contains(victim.location.as_ref()) && refused.contains("is damaged: it has checksum "),
        "{refused}"
    );
    assert_eq!(house.metrics.unreadable_files("compaction"), 1);
    assert!(house.table().await.snapshot().file(&victim.path).is_some(), "it stays in the table");
    assert_eq!(std::fs::read(&path).unwrap(), damaged, "and as it is");
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 1_200);

    // It is looked at again, and seldom.
    house.clock.advance(9 * MINUTE);
    house.store(plain(&[Plain { trace: 999, span: 1, start: NOW, user: "a" }])).await;
    let report = compactor.compact(&TenantId::single()).await.unwrap();
    assert_eq!((report.merges, report.failures), (1, 0), "{report:?}");
    house.clock.advance(2 * MINUTE);
    let report = compactor.compact(&TenantId::single()).await.unwrap();
    assert_eq!((report.merges, report.refused.len()), (0, 1), "{report:?}");

    // Mended, as from a backup, it is merged like any other.
    flip(&house, &victim);
    house.clock.advance(11 * MINUTE);
    let report = compactor.compact(&TenantId::single()).await.unwrap();
    assert_eq!((report.merges, report.refused.len(), house.files().await), (1, 0, 1), "{report:?}");
    assert!(house.sql(&whole).await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_goes_on_with_other_files_and_says_that_one_is_damaged() {
    let house = House::open().await;
    let span = |trace, span| Plain { trace, span, start: NOW, user: "a" };
    for part in 0..3 {
        house.store(plain(&[span(1, part), span(2, part)])).await;
    }
    let victim = Arc::clone(house.table().await.snapshot().files().next().unwrap());
    let path = flip(&house, &victim);
    let damaged = std::fs::read(&path).unwrap();
    let (engine, metrics) = (Arc::clone(&house.engine), Arc::clone(&house.metrics));
    let deleter = Deleter::new(Arc::clone(&house.catalog), engine, house.shared_clock(), metrics, &Settings::default());
    let filter = SpanFilter::TraceId(trace_id(1).to_string());
    let deleted = deleter.delete(&TenantId::single(), filter, TimeRange::ALL, async { Ok(()) }).await;
    let error = deleted.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let message = error.to_string();
    assert!(message.starts_with("deleted spans: 2; ") && message.contains(victim.location.as_ref()), "{message}");
    let of_trace = format!("SELECT count(*) FROM spans WHERE trace_id = '{}'", trace_id(1));
    assert_eq!((house.count(&of_trace).await, house.count("SELECT count(*) FROM spans").await), (1, 4));
    assert_eq!(std::fs::read(&path).unwrap(), damaged);

    // The maintenance does not read it again and again, and finishes when it is mended.
    assert_eq!(deleter.enforce(&TenantId::single()).await.unwrap().refused.len(), 1);
    assert_eq!(house.metrics.unreadable_files("deletion"), 1);
    flip(&house, &victim);
    house.clock.advance(11 * MINUTE);
    let report = deleter.enforce(&TenantId::single()).await.unwrap();
    assert_eq!((report.spans, report.refused.len()), (1, 0), "{report:?}");
    assert_eq!(house.count(&of_trace).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_a_damaged_file_until_all_of_it_has_expired() {
    let house = House::open().await;
    let span = |span, hour: i64| Plain { trace: 1, span, start: NOW + hour * 3_600 * SECOND, user: "a" };
    for part in 0..2 {
        house.store(plain(&[span(part, -4), span(10 + part, 0)])).await;
    }
    let victim = Arc::clone(house.table().await.snapshot().files().next().unwrap());
    flip(&house, &victim);
    let mut settings = Settings::default();
    settings.retention.age_max = HumanDuration::hours(2);
    let (catalog, metrics) = (Arc::clone(&house.catalog), Arc::clone(&house.metrics));
    let retainer = Retainer::new(catalog, house.shared_clock(), metrics, &settings);
    let report = retainer.retain(&TenantId::single()).await.unwrap();
    assert_eq!((report.files_rewritten, report.files_removed), (1, 0));
    assert_eq!(retainer.retain(&TenantId::single()).await.unwrap(), Default::default());
    assert_eq!(house.metrics.unreadable_files("retention"), 1);
    assert_eq!(house.count("SELECT count(*) FROM spans").await, 3);
    house.clock.advance(180 * MINUTE);
    let report = retainer.retain(&TenantId::single()).await.unwrap();
    assert_eq!((report.files_rewritten, report.files_removed), (0, 2));
}
