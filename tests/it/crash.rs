//! What a crash may cost: nothing that was acknowledged, and nothing twice.
//!
//! A cycle starts the server on the folder of the last one, sends, queries and flushes at the same time, and kills the
//! process with SIGKILL: at a random moment, or by itself at a named point of the write path. After the next start
//! every acknowledged span is there once. `TRACEHOUSE_CRASH_CYCLES` sets the number of cycles, `TRACEHOUSE_CRASH_SEED`
//! the seed, which a failure prints.

use std::{
    collections::HashSet,
    env,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::{process::Server, spans, sql};

const CYCLES: u64 = 50;
const SENDERS: u64 = 3;
const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;

/// Named points of the write path, and how often a cycle comes by before the crash at most.
const POINTS: &[(&str, u64)] = &[
    ("wal.append.created", 3),
    ("wal.append.written", 30),
    ("wal.append.synced", 30),
    ("flush.after_parquet", 3),
    ("catalog.commit.before_put", 3),
    ("catalog.commit.after_put", 3),
    ("flush.after_commit", 3),
    ("flush.before_cut", 3),
    ("compact.after_put", 3),
    ("compact.after_commit", 3),
    ("wal.cut.before_carry", 2),
    ("wal.cut.after_carry", 2),
    ("wal.cut.deleted", 2),
    ("replay.after_record", 2),
];

/// Small thresholds, so that a second of writes flushes, cuts and rotates many times.
const SETTINGS: &[&str] = &[
    "flush.age_max=100ms",
    "flush.bytes_max=512KiB",
    "wal.segment_bytes_max=128KiB",
    "ingest.request_bytes_max=64KiB",
    "ingest.attribute_bytes_max=8KiB",
    "ingest.group_commit_bytes_max=64KiB",
    "compaction.interval=50ms",
    "compaction.fan_in=2",
    "log.level=warn",
];

#[derive(Debug, Default)]
struct Ledger {
    next: AtomicU64,
    acknowledged: Mutex<HashSet<u64>>,
    sent: Mutex<HashSet<u64>>,
}

impl Ledger {
    fn acknowledged(&self) -> HashSet<u64> {
        self.acknowledged.lock().unwrap().clone()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_spans_survive_crashes_once() {
    let cycles = setting("TRACEHOUSE_CRASH_CYCLES", CYCLES);
    let seed = setting("TRACEHOUSE_CRASH_SEED", 20_261_121);
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut reached = 0;
    for cycle in 0..cycles {
        let context = format!("cycle {cycle} of seed {seed}");
        let point = (cycle % 3 != 0).then(|| {
            let (name, passes) = POINTS[random.random_range(0..POINTS.len())];
            format!("{name}:{}", random.random_range(1..=passes))
        });
        let moment = Duration::from_millis(random.random_range(50..700));
        reached += u64::from(crash(folder.path(), &ledger, point.as_deref(), moment, &context).await);
        if cycle % 10 == 9 || cycle + 1 == cycles {
            check(folder.path(), &ledger, &context).await;
        }
    }
    assert!(reached * 3 >= cycles, "only {reached} of {cycles} cycles crashed at their named point");
}

/// One life of the server; whether it ended at the named point.
async fn crash(folder: &Path, ledger: &Arc<Ledger>, point: Option<&str>, moment: Duration, context: &str) -> bool {
    // A point of the replay ends the process before it is ready; that is a crash like any other.
    let Ok(mut server) = Server::start_with(folder, SETTINGS, point).await else {
        assert!(point.is_some(), "{context}: the server did not start");
        return true;
    };
    let name: Arc<str> = format!("life {}", ledger.next.load(Ordering::SeqCst)).into();
    let stopped = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        tasks.spawn(send(server.otlp_grpc.clone(), Arc::clone(ledger), Arc::clone(&name), Arc::clone(&stopped)));
    }
    let queries = query(server.flight.clone(), Arc::clone(ledger), Arc::clone(&name), Arc::clone(&stopped));
    tasks.spawn(queries);
    let by_itself = match point {
        Some(_) => server.wait_for_exit(moment + Duration::from_secs(3)).await.is_some(),
        None => {
            tokio::time::sleep(moment).await;
            false
        }
    };
    server.kill();
    stopped.store(true, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        let outcome = task.unwrap();
        assert_eq!(outcome, Ok(()), "{context} at {point:?}");
    }
    by_itself
}

/// Sends until the server is gone, and notes what was acknowledged.
async fn send(address: String, ledger: Arc<Ledger>, name: Arc<str>, stopped: Arc<AtomicBool>) -> Result<(), String> {
    let Ok(mut sender) = spans::sender(&address).await else { return Ok(()) };
    while !stopped.load(Ordering::SeqCst) {
        let count = 1 + ledger.next.load(Ordering::SeqCst) % 40;
        let first = 1 + ledger.next.fetch_add(count, Ordering::SeqCst);
        let numbers: Vec<u64> = (first..first + count).collect();
        ledger.sent.lock().unwrap().extend(&numbers);
        let request = spans::request(&name, numbers.iter().copied(), START_UNIX_NANO + first);
        match spans::send(&mut sender, request).await {
            Ok(()) => ledger.acknowledged.lock().unwrap().extend(numbers),
            Err(status) if status.code() == tonic::Code::Internal => return Err(status.to_string()),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Queries until the server is gone: what was acknowledged before a query is in its answer, once.
async fn query(address: String, ledger: Arc<Ledger>, name: Arc<str>, stopped: Arc<AtomicBool>) -> Result<(), String> {
    let text = format!("SELECT span_id FROM spans WHERE name = '{name}'");
    let first = ledger.next.load(Ordering::SeqCst);
    while !stopped.load(Ordering::SeqCst) {
        let expected: HashSet<u64> = ledger.acknowledged().into_iter().filter(|number| *number > first).collect();
        // The server may be gone in the middle; then there is no answer to judge.
        let Ok(batches) = sql::query(&address, &text).await else { continue };
        judge(&sql::text_column(&batches, "span_id"), &expected, &ledger.sent.lock().unwrap())?;
    }
    Ok(())
}

fn judge(found: &[String], expected: &HashSet<u64>, sent: &HashSet<u64>) -> Result<(), String> {
    let total = found.len();
    let found: HashSet<u64> = found.iter().map(|id| u64::from_str_radix(id, 16).unwrap()).collect();
    if found.len() != total {
        return Err(format!("{} of {total} spans are there twice", total - found.len()));
    }
    if let Some(invented) = found.difference(sent).next() {
        return Err(format!("span {invented} was never sent"));
    }
    let missing = expected.difference(&found).count();
    if missing > 0 { Err(format!("{missing} of {} acknowledged spans are missing", expected.len())) } else { Ok(()) }
}

/// After a start without crash points: every acknowledged span is there once, and every file can be read.
async fn check(folder: &Path, ledger: &Ledger, context: &str) {
    let mut server = Server::start_with(folder, SETTINGS, None).await.unwrap();
    let batches = sql::query(&server.flight, "SELECT span_id FROM spans").await.unwrap();
    let verdict = judge(&sql::text_column(&batches, "span_id"), &ledger.acknowledged(), &ledger.sent.lock().unwrap());
    assert_eq!(verdict, Ok(()), "after {context}");
    let counted = sql::query(&server.flight, "SELECT count(*) AS n FROM spans").await.unwrap();
    let counted = counted[0]["n"].as_primitive::<arrow::datatypes::Int64Type>().value(0);
    assert_eq!(usize::try_from(counted).unwrap(), batches.iter().map(|batch| batch.num_rows()).sum::<usize>());
    for file in parquet_files(folder) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            batch.unwrap_or_else(|cause| panic!("{}: {cause}", file.display()));
        }
    }
    server.stop().await;
}

fn parquet_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    here.chain(folders.iter().flat_map(|folder| parquet_files(folder))).collect()
}
