//! Flushes of spans that start on many days, as senders with broken clocks make them.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use tracehouse::model::{batch::SpanBatch, tenant::TenantId};

use crate::{
    source::Pool,
    world::{START, World, memory_mib, process_cpu},
};

const DAY: i64 = 86_400_000_000_000;

const FLUSHES: u64 = 8;

/// Flushes the same spans again and again, each time spread over so many days, and compacts.
pub(crate) async fn run(spans: u64, days: &[i64]) {
    println!("\n{FLUSHES} flushes of {spans} spans that start on many days");
    println!(
        "{:>6} {:>8} {:>12} {:>14} {:>10} {:>10} {:>12} {:>12} {:>14} {:>10}",
        "days",
        "files",
        "bytes/span",
        "CPU s/flush",
        "RSS MiB",
        "most MiB",
        "kB of log",
        "compacted",
        "compaction s",
        "B/span"
    );
    let pool = Pool::of(START, Duration::from_secs(100), spans * FLUSHES / 100, 1_000);
    for days in days {
        let mut world = World::open().await;
        let tenant = TenantId::parse(&format!("days-{days}")).unwrap();
        let cpu = process_cpu();
        let per_flush = pool.requests() / FLUSHES;
        for flush in 0..FLUSHES {
            let numbers = flush * per_flush..(flush + 1) * per_flush;
            world.write(numbers.map(|number| (tenant.clone(), spread(&pool.request(number), *days)))).await;
            world.ingest.flush().await.unwrap();
        }
        let flushed = (process_cpu() - cpu) / FLUSHES as u32;
        let (files, bytes) = world.live_files(&tenant).await;
        let stored = world.metrics.flush_spans.get() as f64;
        let (now, most) = memory_mib();
        let table = world.catalog.table(&tenant).await.unwrap();
        let log = crate::world::disk(&world.folder.join(table.log_folder().as_ref())).1;
        let cpu = process_cpu();
        // Nothing came for an hour.
        world.pass(Duration::from_secs(3_700)).await;
        world.compact(&tenant).await;
        let (compacted, compacted_bytes) = world.live_files(&tenant).await;
        println!(
            "{days:>6} {files:>8} {:>12.1} {:>14.2} {now:>10} {most:>10} {:>12} {compacted:>12} {:>14.1} {:>10.1}",
            bytes as f64 / stored,
            flushed.as_secs_f64(),
            log / 1_000,
            (process_cpu() - cpu).as_secs_f64(),
            compacted_bytes as f64 / stored,
        );
        world.close().await;
    }
}

/// The same spans, one after the other on another day.
fn spread(batch: &SpanBatch, days: i64) -> SpanBatch {
    let spans = batch.spans();
    let columns = spans.schema_ref().fields().iter().zip(spans.columns()).map(|(field, column)| -> ArrayRef {
        if field.name() != "start_time_unix_nano" {
            return Arc::clone(column);
        }
        let starts = column.as_primitive::<Int64Type>().values().iter().zip(0..);
        Arc::new(Int64Array::from_iter_values(starts.map(|(start, row)| start - row * 7_919 % days * DAY)))
    });
    let spans = RecordBatch::try_new(spans.schema(), columns.collect()).unwrap();
    SpanBatch::try_new(batch.resources().clone(), batch.scopes().clone(), spans).unwrap()
}
