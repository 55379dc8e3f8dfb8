//! Random work on a bucket that fails at random: by seed, so that a failure can be run again.
//!
//! `TRACEHOUSE_FAULT_RUNS` sets the number of runs, `TRACEHOUSE_FAULT_SEED` the first seed.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tracehouse::{
    config::{ByteSize, Settings},
    maintain::sweep::Sweeper,
};

use super::{House, faulty::FaultyBucket, garbage, settings, times_seen};

const RUNS: u64 = 500;
const THREADS: usize = 4;
const STEPS: u64 = 10;

/// Files in memory bear the machine's time, which is far from the clock's; after this it is past in both.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

fn from_environment(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn no_acknowledged_span_is_lost_or_doubled_and_nothing_is_left_behind() {
    let first = from_environment("TRACEHOUSE_FAULT_SEED", 0);
    let runs = from_environment("TRACEHOUSE_FAULT_RUNS", RUNS);
    let next = AtomicU64::new(first);
    let failed: Mutex<Vec<u64>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + runs {
                        return;
                    }
                    // Time does not pass while something runs, and jumps where all wait: stalls and pauses cost nothing.
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
                    let outcome =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(run(seed))));
                    if outcome.is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed with TRACEHOUSE_FAULT_SEED = {failed:?}");
}

async fn run(seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let bucket = FaultyBucket::new(seed);
    let mut settings = settings(folder.path());
    if random.random_bool(0.5) {
        settings.cache.memory_bytes_max = ByteSize::mib(1);
    }
    let mut house = open(&settings, &bucket).await;
    let mut written = 0;
    let mut crashes = 0;
    bucket.fail(random.random_range(5..40));
    for _ in 0..STEPS {
        match random.random_range(0..10) {
            0..5 => {
                let count = random.random_range(1..20);
                // The log is on a disk that does not fail.
                house.write(written..written + count).await.unwrap();
                written += count;
            }
            5..8 => drop(house.ingest.flush().await),
            8 => {
                house.crash().await;
                crashes += 1;
                house = open(&settings, &bucket).await;
            }
            _ => check(&house, written).await,
        }
    }
    bucket.fail(0);
    house.ingest.flush().await.unwrap();
    let view = house.view().await;
    assert_eq!((view.snapshot().rows(), view.buffered().len()), (written, 0));
    // Only a process that died leaves what it uploaded and did not commit, and the sweep deletes that.
    let left = garbage(&bucket.inner, &view).await;
    assert!(crashes > 0 || left.is_empty(), "{left:?}");
    house.clock.advance(CENTURY);
    let (catalog, clock) = (Arc::clone(house.ingest.live().catalog()), Arc::clone(&house.clock));
    let sweeper = Sweeper::new(catalog, clock as _, Arc::clone(&house.metrics), Duration::from_secs(3_600));
    let swept = sweeper.sweep(&house.tenant).await.unwrap();
    assert_eq!(swept.files, left.len());
    assert_eq!(garbage(&bucket.inner, &view).await, Vec::<String>::new());
    let seen = times_seen(&view, &house.store).await.unwrap();
    let ids: BTreeSet<u64> = seen.keys().copied().collect();
    assert!(ids.into_iter().eq(0..written) && seen.values().all(|times| *times == 1), "{seen:?}");
    house.ingest.shutdown().await.unwrap();
}

/// Opens as often as it takes.
async fn open(settings: &Settings, bucket: &Arc<FaultyBucket>) -> House {
    for _ in 0..500 {
        if let Ok(house) = House::open(settings, Arc::<FaultyBucket>::clone(bucket) as _).await {
            return house;
        }
    }
    panic!("never opened")
}

/// What is visible is what was acknowledged, as far as the bucket lets itself be read.
async fn check(house: &House, written: u64) {
    let Ok(view) = house.ingest.live().view(&house.tenant).await else { return };
    let Ok(seen) = times_seen(&view, &house.store).await else { return };
    assert!(seen.keys().copied().eq(0..written) && seen.values().all(|times| *times == 1), "{seen:?} of {written}");
}
