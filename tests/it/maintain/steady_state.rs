//! Days and hours on a clock that is moved by hand: files, commits and rewriting stay bounded.
//!
//! By default a small share of the spans is written. `TRACEHOUSE_SIMULATION=full` writes all of them: run that with a
//! release build. Both print their figures with `--nocapture`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tracehouse::{
    catalog::{Catalog, CatalogSettings, Commit, NewFile},
    clock::{Clock, ManualClock},
    config::{ByteSize, CompactionSettings, HumanDuration, PromotionSettings},
    maintain::{
        compact::{CompactReport, Compactor},
        sweep::{SweepReport, Sweeper},
    },
    metrics::Metrics,
    model::{batch::SpanBatch, schema::promoted_field, tenant::TenantId},
    storage::{
        store::Store,
        writer::{Origin, write_files},
    },
};

use super::house::{NOW, SECOND, random, seeded};

/// The end of a flush, without the log before it.
async fn flush(catalog: &Catalog, clock: &dyn Clock, tenant: &TenantId, batch: &SpanBatch) -> (u64, usize) {
    let table = catalog.table(tenant).await.unwrap();
    let (mut adds, mut columns, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
    for file in write_files(std::slice::from_ref(batch), Origin::Flushed).unwrap() {
        let add = NewFile::of_written(&file, clock.now_unix_nano());
        catalog.store().put(&table.folder().file(&add.path), file.bytes).await.unwrap();
        bytes += add.size_bytes;
        columns.extend(file.promoted.iter().map(|attribute| (attribute.column.to_string(), promoted_field(attribute))));
        adds.push(add);
    }
    let files = adds.len();
    table.commit(&Commit::append(adds, None, columns.into_values().map(Arc::new).collect())).await.unwrap();
    (bytes, files)
}

struct World {
    clock: Arc<ManualClock>,
    catalog: Arc<Catalog>,
    compactor: Compactor,
    sweeper: Sweeper,
}

fn world(settings: &CompactionSettings) -> World {
    let clock = Arc::new(ManualClock::new(NOW - NOW % (86_400 * SECOND)));
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let store = Store::new(Arc::new(object_store::memory::InMemory::new()));
    let catalog = Arc::new(Catalog::open(store, Arc::clone(&shared), CatalogSettings::default()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let compactor = Compactor::new(
        Arc::clone(&catalog),
        Arc::clone(&shared),
        Arc::clone(&metrics),
        settings,
        &PromotionSettings::default(),
    );
    let sweeper = Sweeper::new(Arc::clone(&catalog), shared, metrics, settings.grace.get());
    World { clock, catalog, compactor, sweeper }
}

fn is_full() -> bool {
    std::env::var("TRACEHOUSE_SIMULATION").is_ok_and(|text| text == "full")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_steady_ingest_leaves_few_files_and_rewrites_each_byte_a_few_times() {
    // A flush holds some 200,000 spans; the sizes of files shrink with the number of spans.
    let (flush_seconds, flush_spans, shrink) = if is_full() { (100, 200_000, 1) } else { (600, 150, 1_000) };
    let full = CompactionSettings::default();
    let shrunk = |size: ByteSize| ByteSize::from_bytes(size.bytes() / shrink);
    let settings = CompactionSettings {
        file_bytes_max: shrunk(full.file_bytes_max).max(ByteSize::mib(1)),
        small_bytes_max: shrunk(full.small_bytes_max).max(ByteSize::kib(512)),
        ..full
    };
    let World { clock, catalog, compactor, sweeper } = world(&settings);
    let tenant = TenantId::single();
    let mut seed = seeded(1);
    let (mut flushed, mut flushes) = (0, 0);
    let (mut compacted, mut swept) = (CompactReport::default(), SweepReport::default());
    let (mut live_max, mut stored_max) = (0, 0);
    for step in 0..86_400 / flush_seconds {
        clock.advance(Duration::from_secs(flush_seconds));
        let start = clock.now_unix_nano() - flush_seconds as i64 * SECOND;
        let (bytes, _) = flush(&catalog, clock.as_ref(), &tenant, &random(&mut seed, flush_spans, 100, start)).await;
        flushed += bytes;
        flushes += 1;
        compacted.add(compactor.compact(&tenant).await.unwrap());
        if step % 6 == 5 {
            let round = sweeper.sweep(&tenant).await.unwrap();
            stored_max = stored_max.max(round.waiting_files);
            swept.add(round);
        }
        live_max = live_max.max(catalog.table(&tenant).await.unwrap().snapshot().files().len());
    }
    clock.advance(Duration::from_secs(7200));
    compacted.add(compactor.compact(&tenant).await.unwrap());
    swept.add(sweeper.sweep(&tenant).await.unwrap());
    let snapshot = catalog.table(&tenant).await.unwrap().snapshot();
    let amplification = (flushed + compacted.bytes_after) as f64 / flushed as f64;
    println!(
        "{flushes} flushes of {flushed} bytes; {} merges in {} commits; write amplification {amplification:.2}; live files at \
         most {live_max}, in the end {}; replaced files that wait at most {stored_max}; deleted {}",
        compacted.merges,
        compacted.commits,
        snapshot.files().len(),
        swept.files,
    );
    assert_eq!(snapshot.rows() + compacted.duplicates, flushes * flush_spans as u64);
    assert!(amplification < 5.0, "each byte was written {amplification} times");
    assert!(live_max < 80, "{live_max} live files");
    assert!(compacted.commits < flushes as usize, "{} commits", compacted.commits);
    assert_eq!((compacted.failures, compacted.conflicts), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_tenants_cost_a_bounded_number_of_commits_and_files() {
    let tenants = if is_full() { 1_000 } else { 12 };
    let settings = CompactionSettings { settle_age: HumanDuration::hours(1), ..CompactionSettings::default() };
    let World { clock, catalog, compactor, .. } = world(&settings);
    let tenants: Vec<TenantId> =
        (0..tenants).map(|number| TenantId::parse(&format!("tenant-{number}")).unwrap()).collect();
    let mut seed = seeded(2);
    let (mut flushes, mut flushed, mut compacted) = (0_u64, 0, CompactReport::default());
    let spans = if is_full() { 300 } else { 30 };
    for _ in 0..12 {
        clock.advance(Duration::from_secs(300));
        for tenant in &tenants {
            let batch = random(&mut seed, spans, 20, clock.now_unix_nano() - 300 * SECOND);
            flushed += flush(&catalog, clock.as_ref(), tenant, &batch).await.0;
            flushes += 1;
            compacted.add(compactor.compact(tenant).await.unwrap());
        }
    }
    let mut files = Vec::new();
    for tenant in &tenants {
        files.push(catalog.table(tenant).await.unwrap().snapshot().files().len());
    }
    let commits = flushes as usize + compacted.commits;
    let amplification = (flushed + compacted.bytes_after) as f64 / flushed as f64;
    println!(
        "{} tenants: {:.2} commits per second; write amplification {amplification:.2}; at most {} live files each",
        tenants.len(),
        commits as f64 / 3_600.0,
        files.iter().max().unwrap(),
    );
    assert!(commits <= tenants.len() * 14, "{commits} commits");
    assert!(files.iter().all(|files| *files <= 8), "{files:?}");
    assert!(amplification < 2.5, "each byte was written {amplification} times");
}
