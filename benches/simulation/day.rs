//! One tenant, at one rate, for many hours.

use std::time::{Duration, Instant};

use tracehouse::model::tenant::TenantId;

use crate::{
    source::Pool,
    world::{START, World, disk, memory_mib, process_cpu},
};

const STEP: Duration = Duration::from_secs(10);

/// How long the pool lasts.
const POOL: Duration = Duration::from_secs(200);

const STEPS_PER_HOUR: u64 = 3_600 / STEP.as_secs();

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    merges: usize,
    merge_commits: usize,
    merge_cpu: Duration,
    live_max: usize,
    disk_max: u64,
}

/// Runs `hours` at `rate` spans per second, and prints a row for each hour.
pub(crate) async fn run(hours: u64, rate: u64) {
    println!("one tenant, {rate} spans per second for {hours} hours");
    let pool = Pool::of(START, POOL, rate, 1_000);
    let mut world = World::open().await;
    let tenant = TenantId::single();
    println!("pool of {} requests; memory {} MiB", pool.requests(), memory_mib().0);
    println!(
        "{:>4} {:>8} {:>6} {:>6} {:>9} {:>7} {:>6} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8} | {:>7} {:>7} {:>7} {:>7} {:>7}",
        "hour",
        "M spans",
        "live",
        "most",
        "commit/s",
        "merges",
        "ampl",
        "B/span",
        "log",
        "disk MB",
        "RSS MiB",
        "CPU s/M",
        "merge/M",
        "trace",
        "latest",
        "search",
        "group",
        "absent"
    );
    let (mut sums, mut sent, mut version) = (Sums::default(), 0, None);
    let (cpu, started) = (process_cpu(), Instant::now());
    let mut asked = Duration::ZERO;
    let per_step = pool.requests() as f64 * STEP.as_secs_f64() / POOL.as_secs_f64();
    for step in 1..=hours * STEPS_PER_HOUR {
        let until = (step as f64 * per_step) as u64;
        world.write((sent..until).map(|number| (tenant.clone(), pool.request(number)))).await;
        sent = until;
        world.pass(STEP).await;
        let seen = world.catalog.known_version(&tenant);
        if seen != version {
            sums.live_max = sums.live_max.max(world.live_files(&tenant).await.0);
            let cpu = process_cpu();
            let report = world.compact(&tenant).await;
            sums.merge_cpu += process_cpu() - cpu;
            sums.merges += report.merges;
            sums.merge_commits += report.commits;
            version = world.catalog.known_version(&tenant);
        }
        if step % (STEPS_PER_HOUR / 4) == 0 {
            sums.disk_max = sums.disk_max.max(disk(&world.folder).1);
            world.sweep(&tenant).await;
        }
        if step % STEPS_PER_HOUR == 0 {
            let worked = process_cpu() - cpu - asked;
            let before = process_cpu();
            row(&world, &tenant, &pool, Hour { sums, sent, worked, hours: step / STEPS_PER_HOUR }).await;
            asked += process_cpu() - before;
            sums.live_max = 0;
        }
    }
    let stored = world.live_files(&tenant).await.1;
    println!(
        "took {:.0?} and {:.0?} of CPU; {:.1} GB stored; most on disk {:.1} GB",
        started.elapsed(),
        process_cpu() - cpu,
        stored as f64 / 1e9,
        sums.disk_max as f64 / 1e9
    );
    world.close().await;
}

/// A point in time.
#[derive(Clone, Copy, Debug)]
struct Hour {
    sums: Sums,
    sent: u64,
    worked: Duration,
    hours: u64,
}

async fn row(world: &World, tenant: &TenantId, pool: &Pool, hour: Hour) {
    let Hour { sums, sent, worked, hours } = hour;
    let (live, bytes) = world.live_files(tenant).await;
    let flushed = world.metrics.flush_spans.get();
    let (_, amplification) = world.amplification();
    let log = disk(&world.folder.join("tenants").join(tenant.as_str()).join("spans").join("_delta_log"));
    let (rss, _) = memory_mib();
    // A trace of the middle of the time so far.
    let costs = world.costs(tenant, pool.trace(sent / 2)).await;
    let millions = flushed as f64 / 1e6;
    println!(
        "{hours:>4} {millions:>8.1} {live:>6} {:>6} {:>9.4} {:>7} {amplification:>6.2} {:>7.1} {:>7} {:>9.0} {rss:>8} {:>8.2} \
         {:>8.2} | {:>7.1} {:>7.1} {:>7.1} {:>7.1} {:>7.1}",
        sums.live_max,
        world.metrics.catalog_commits.get() as f64 / (hours * 3_600) as f64,
        sums.merges,
        bytes as f64 / flushed as f64,
        log.0,
        disk(&world.folder).1 as f64 / 1e6,
        worked.as_secs_f64() / millions,
        sums.merge_cpu.as_secs_f64() / millions,
        costs.trace,
        costs.latest,
        costs.search,
        costs.group,
        costs.absent,
    );
}
