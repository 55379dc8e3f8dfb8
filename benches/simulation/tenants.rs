//! Many small tenants.

use std::time::{Duration, Instant};

use tracehouse::model::tenant::TenantId;

use crate::{
    source::Pool,
    world::{START, World, disk, memory_mib, process_cpu},
};

/// A tenant sends a request of ten spans every ten seconds.
const STEP: Duration = Duration::from_secs(10);
const REQUEST_SPANS: usize = 10;

/// How long the pool lasts, which all tenants draw from.
const POOL: Duration = Duration::from_secs(20_000);

/// Runs `tenants` at one span per second for `minutes`, and prints a row for every ten.
pub(crate) async fn run(tenants: u64, minutes: u64) {
    println!("\n{tenants} tenants, one span per second each, for {minutes} minutes");
    let pool = Pool::of(START, POOL, 1, REQUEST_SPANS);
    let mut world = World::open().await;
    let names: Vec<TenantId> =
        (0..tenants).map(|number| TenantId::parse(&format!("tenant-{number}")).unwrap()).collect();
    println!("memory {} MiB", memory_mib().0);
    println!(
        "{:>4} {:>8} {:>9} {:>9} {:>7} {:>6} {:>9} {:>8} {:>8} {:>9} | {:>7} {:>7} {:>7} {:>7} {:>7}",
        "min",
        "M spans",
        "flush/s",
        "commit/s",
        "most",
        "ampl",
        "disk MB",
        "files",
        "RSS MiB",
        "CPU %",
        "trace",
        "latest",
        "search",
        "group",
        "absent"
    );
    let (cpu, started) = (process_cpu(), Instant::now());
    let mut asked = Duration::ZERO;
    let per_minute = 60 / STEP.as_secs();
    let round = world.settings.compaction.interval.get().as_secs().div_ceil(STEP.as_secs());
    // Each begins at its own place in the pool, and at its own moment.
    let place = |tenant: u64, step: u64| tenant * 7 + step;
    let request = |tenant: u64, step: u64| {
        let earlier = STEP.as_nanos() as i64 * tenant as i64 * 7;
        pool.request_later(place(tenant, step), -earlier)
    };
    for step in 0..minutes * per_minute {
        let due = names.iter().zip(0..).filter(|(_, tenant)| tenant % 30 <= step);
        world.write(due.map(|(name, tenant)| (name.clone(), request(tenant, step)))).await;
        world.pass(STEP).await;
        if step % round == 0 {
            for name in &names {
                world.compact(name).await;
            }
        }
        if (step + 1) % (10 * per_minute) == 0 {
            let worked = process_cpu() - cpu - asked;
            let before = process_cpu();
            row(&world, &names, (step + 1) / per_minute, worked, pool.trace(place(0, step / 2))).await;
            asked += process_cpu() - before;
        }
    }
    println!("took {:.0?} and {:.0?} of CPU", started.elapsed(), process_cpu() - cpu);
    world.close().await;
}

async fn row(world: &World, names: &[TenantId], minutes: u64, worked: Duration, id: tracehouse::model::ids::TraceId) {
    let mut most = 0;
    for name in names {
        most = most.max(world.live_files(name).await.0);
    }
    let seconds = (minutes * 60) as f64;
    let (files, bytes) = disk(&world.folder);
    let costs = world.costs(&names[0], id).await;
    println!(
        "{minutes:>4} {:>8.2} {:>9.2} {:>9.2} {most:>7} {:>6.2} {:>9.0} {files:>8} {:>8} {:>9.2} | {:>7.1} {:>7.1} {:>7.1} \
         {:>7.1} {:>7.1}",
        world.metrics.flush_spans.get() as f64 / 1e6,
        world.metrics.flush_seconds.get_sample_count() as f64 / seconds,
        world.metrics.catalog_commits.get() as f64 / seconds,
        world.amplification().1,
        bytes as f64 / 1e6,
        memory_mib().0,
        worked.as_secs_f64() / seconds * 100.0,
        costs.trace,
        costs.latest,
        costs.search,
        costs.group,
        costs.absent,
    );
}
