//! One trace among thousands of files.

use std::collections::HashSet;

use arrow::array::AsArray;
use tracehouse::{
    model::{batch::SpanBatch, tenant::TenantId},
    query::{QueryKind, QueryRequest, TraceByIdQuery},
};

use crate::{
    source::Pool,
    world::{START, World, memory_mib, process_cpu},
};

/// What a small tenant flushes in five minutes.
const FILE_SPANS: usize = 300;

const LOOKUPS: u64 = 500;

/// Looks for traces in a table of `files` flushed files, and in the same table after it was compacted.
pub(crate) async fn run(files: u64) {
    let pool = Pool::of(START, std::time::Duration::from_secs(600), 1_000, FILE_SPANS);
    let mut world = World::open().await;
    let tenant = TenantId::single();
    println!("\n{files} files of {FILE_SPANS} spans, {LOOKUPS} traces by id");
    let started = process_cpu();
    let mut traces = 0;
    for number in 0..files {
        let batch = pool.request(number);
        traces += distinct(&batch);
        world.write([(tenant.clone(), batch)]).await;
        world.ingest.flush().await.unwrap();
    }
    println!("a flush took {:.2} ms of CPU", (process_cpu() - started).as_secs_f64() * 1e3 / files as f64);
    println!(
        "{:<12} {:>8} {:>14} {:>16} {:>12} {:>12} {:>16} {:>12}",
        "files", "number", "filter bytes", "bytes/M traces", "opened", "most opened", "CPU ms/look-up", "more MiB"
    );
    look_up(&world, &tenant, "flushed", traces, (&pool, files)).await;
    let started = process_cpu();
    let report = world.compact(&tenant).await;
    println!("{} merges took {:.1} s of CPU", report.merges, (process_cpu() - started).as_secs_f64());
    look_up(&world, &tenant, "compacted", traces, (&pool, files)).await;
    world.close().await;
}

fn distinct(batch: &SpanBatch) -> u64 {
    let ids: HashSet<&[u8]> = batch.spans()["trace_id"].as_fixed_size_binary().iter().flatten().collect();
    ids.len() as u64
}

async fn look_up(world: &World, tenant: &TenantId, name: &str, traces: u64, (pool, files): (&Pool, u64)) {
    let snapshot = world.catalog.table(tenant).await.unwrap().snapshot();
    let filters = snapshot.files().filter_map(|file| file.trace_filter());
    let filter_bytes: u64 = filters.map(|place| place.bytes.end - place.bytes.start).sum();
    let before = memory_mib().0;
    let (mut opened, mut most, mut started) = (0, 0, None);
    for number in 0..=LOOKUPS {
        let trace_id = pool.trace(number * 7_919 % files);
        let kind = QueryKind::TraceById(TraceByIdQuery { trace_id, hint: None, filter: None });
        let answer = world.engine.execute(QueryRequest::new(tenant.clone(), kind)).await.unwrap();
        let (batches, stats) = answer.collect().await.unwrap();
        assert!(batches.iter().any(|batch| batch.num_rows() > 0), "{trace_id} is not found");
        // The first one reads all filters.
        if started.is_none() {
            started = Some(process_cpu());
            continue;
        }
        opened += stats.files_scanned;
        most = most.max(stats.files_scanned);
    }
    let cpu = process_cpu() - started.unwrap();
    println!(
        "{name:<12} {:>8} {filter_bytes:>14} {:>16.0} {:>12.2} {most:>12} {:>16.2} {:>12}",
        snapshot.files().len(),
        filter_bytes as f64 * 1e6 / traces as f64,
        opened as f64 / LOOKUPS as f64,
        cpu.as_secs_f64() * 1e3 / LOOKUPS as f64,
        memory_mib().0.saturating_sub(before)
    );
}
