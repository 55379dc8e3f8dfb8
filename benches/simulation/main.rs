//! Days and hours of a server on a clock that is moved by hand: what stays bounded, and where.
//!
//! The parts of a server (log, buffers, tables, compaction, sweep, queries) run on a folder as they do in it; only the clock
//! is not the machine's, and merges and sweeps are started by it instead of by timers. Time jumps by a step whenever the
//! spans of the step are acknowledged and everything that is due has been flushed, merged and swept.
//!
//! - [`day`]: one tenant at 2,000 spans per second for 24 hours. Every hour a row: live files, commits per second, write
//!   amplification, memory, and the CPU of queries over the last quarter of an hour, over one trace, and over everything.
//! - [`tenants`]: 1,000 tenants at one span per second for an hour.
//! - [`files`]: traces by id among thousands of small files: how many are opened, and what the filters of them weigh.
//! - [`spread`]: flushes of spans that start on 1 to 9,000 days, each of which gets a file.
//!
//! `cargo bench --bench simulation`, with `BENCH_ONLY` (`day`, `tenants`, `files` or `spread`), `BENCH_HOURS` (default 24),
//! `BENCH_RATE` (spans per second, default 2,000), `BENCH_TENANTS` (default 1,000), `BENCH_MINUTES` (of the tenants,
//! default 60), `BENCH_FILES` (default 4,000), `BENCH_FOLDER` (where the tables go), and settings by the environment as a server takes them.
//! A day at 2,000 spans per second takes 7 GB of disk and most of an hour of one core.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

mod day;
mod files;
mod questions;
mod source;
mod spread;
mod tenants;
mod world;

use std::{env, str::FromStr};

/// The allocator of the program, so that work costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| text.parse().ok().unwrap())
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    // `cargo test --benches` runs benchmarks too, to see that they build.
    if env::args().any(|arg| arg == "--test") {
        return;
    }
    let only = setting("BENCH_ONLY", String::new());
    if "day".contains(&only) {
        day::run(setting("BENCH_HOURS", 24), setting("BENCH_RATE", 2_000)).await;
    }
    if "tenants".contains(&only) {
        tenants::run(setting("BENCH_TENANTS", 1_000), setting("BENCH_MINUTES", 60)).await;
    }
    if "files".contains(&only) {
        files::run(setting("BENCH_FILES", 4_000)).await;
    }
    if "spread".contains(&only) {
        spread::run(100_000, &[1, 30, 365, 3_000, 9_000]).await;
    }
}
