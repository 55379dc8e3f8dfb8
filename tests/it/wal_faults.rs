//! The log on a disk that fails at random: writes, syncs, new files and deletions, in any order, over restarts.
//!
//! `TRACEHOUSE_WAL_FAULT_RUNS` sets the number of runs, `TRACEHOUSE_WAL_FAULT_SEED` the first seed, which a failure prints.

use std::{collections::BTreeSet, env, io::ErrorKind as Io, path::Path};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tracehouse::wal::{Log, RecordNumber};

use crate::{
    wal::{contents, open, settings, tenant},
    wal_crash::{failing, try_append},
};

const RUNS: u64 = 20;
const STEPS: u64 = 60;
const TENANTS: [&str; 2] = ["a", "b"];

const POINTS: [&str; 6] = [
    "wal.append.create",
    "wal.append.written",
    "wal.append.sync",
    "wal.append.take_back",
    "wal.cut.delete",
    "wal.head.write",
];

const KINDS: [Io; 3] = [Io::Other, Io::StorageFull, Io::QuotaExceeded];

/// What the caller of a log knows of a tenant.
#[derive(Debug, Default)]
struct Known {
    acknowledged: BTreeSet<u64>,
    /// The last number up to which a cut was tried.
    cut: u64,
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn whatever_a_disk_refuses_acknowledged_records_are_there_once_after_a_restart() {
    let first = from_environment("TRACEHOUSE_WAL_FAULT_SEED", 0);
    let mut refused = 0;
    for seed in first..first + from_environment("TRACEHOUSE_WAL_FAULT_RUNS", RUNS) {
        refused += run(seed);
    }
    assert!(refused > 0, "nothing failed");
}

/// One life of a log; how many appends were refused.
fn run(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut known = [Known::default(), Known::default()];
    let mut log = open(dir.path());
    let mut refused = 0;
    for _ in 0..STEPS {
        let fails = random.random_bool(0.3);
        let (point, kind) = (POINTS[random.random_range(0..6)], KINDS[random.random_range(0..3)]);
        let guard = fails.then(|| failing(point, kind));
        let which = random.random_range(0..TENANTS.len());
        let (name, of) = (TENANTS[which], &mut known[which]);
        match random.random_range(0..10) {
            0..7 => match try_append(&mut log, name) {
                Ok(number) => assert!(of.acknowledged.insert(number), "seed {seed}: {number} was given twice"),
                Err(_) => refused += 1,
            },
            7 => {
                if let Some(through) = of.acknowledged.iter().nth(random.random_range(0..of.acknowledged.len().max(1)))
                {
                    of.cut = of.cut.max(*through);
                    // What fails is finished by a later one.
                    let _ = log.cut(&tenant(name), RecordNumber::new(*through), Vec::new);
                }
            }
            _ => {
                drop(log);
                // An opening that fails changes nothing that the next one needs.
                let opened = Log::open(dir.path(), settings());
                drop(guard);
                log = opened.map_or_else(|_| open(dir.path()), |(log, _)| log);
                check(&log, &known, seed);
            }
        }
    }
    drop(log);
    check_reopened(dir.path(), &known, seed);
    refused
}

fn check_reopened(dir: &Path, known: &[Known; 2], seed: u64) {
    let log = open(dir);
    check(&log, known, seed);
    drop(log);
    check(&open(dir), known, seed);
}

fn check(log: &Log, known: &[Known; 2], seed: u64) {
    let contents = contents(log);
    for (name, known) in TENANTS.iter().zip(known) {
        let numbers: Vec<u64> = contents.iter().filter(|(of, _)| of == name).map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}: {name} has {numbers:?}");
        let found: BTreeSet<u64> = numbers.into_iter().collect();
        let expected: BTreeSet<u64> = known.acknowledged.range(known.cut + 1..).copied().collect();
        let missing: Vec<&u64> = expected.difference(&found).collect();
        assert!(missing.is_empty(), "seed {seed}: {name} lacks {missing:?} of {found:?}, cut at {}", known.cut);
    }
}
