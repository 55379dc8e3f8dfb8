//! The catalogue against other committers, a store that fails, and itself after a restart.
//!
//! Separate [`Catalog`]s over one store stand for separate processes: they share nothing but the store.

mod basics;
mod concurrency;
mod faults;
mod reopen;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::NaiveDate;
use object_store::memory::InMemory;
use tracehouse::{
    catalog::{Catalog, CatalogSettings, ColumnStatistics, Commit, FileStatistics, NewFile, Table, Transaction},
    clock::{Clock, ManualClock, SystemClock},
    model::tenant::TenantId,
    storage::store::Store,
};

pub(crate) fn settings() -> CatalogSettings {
    let backoff = Duration::from_millis(1);
    CatalogSettings { attempts_max: 10_000, backoff, checkpoint_interval_commits: 10, ..CatalogSettings::default() }
}

pub(crate) fn in_memory() -> Store {
    Store::new(Arc::new(InMemory::new()))
}

pub(crate) fn catalog(store: &Store) -> Catalog {
    Catalog::open(store.clone(), Arc::new(SystemClock), settings())
}

/// A table of a process that writes no checkpoints by itself.
pub(crate) async fn table(store: &Store) -> Arc<Table> {
    let settings = CatalogSettings { checkpoint_interval_commits: 1_000_000, ..settings() };
    let catalog = Catalog::open(store.clone(), Arc::new(SystemClock), settings);
    catalog.table(&TenantId::single()).await.unwrap()
}

/// A table of one more process among `processes`, which writes checkpoints in passing.
pub(crate) async fn table_of_new_process(store: &Store, processes: &mut Vec<Catalog>) -> Arc<Table> {
    let process = catalog(store);
    let table = process.table(&TenantId::single()).await.unwrap();
    processes.push(process);
    table
}

pub(crate) async fn end(processes: Vec<Catalog>) {
    for process in processes {
        process.finish_background().await;
    }
}

/// A clock that starts now, because stores stamp their objects with the machine's time.
pub(crate) fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(SystemClock.now_unix_nano()))
}

/// A file that exists in the log only.
pub(crate) fn new_file(rows: u64) -> NewFile {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let date = NaiveDate::from_ymd_opt(2026, 11, 1 + u32::try_from(number % 3).unwrap()).unwrap();
    let start = i64::try_from(number).unwrap();
    let columns = BTreeMap::from([
        ("start_time_unix_nano".to_owned(), ColumnStatistics::of_ints(Some((start, start + 10)), 0)),
        ("duration_nano".to_owned(), ColumnStatistics::of_ints(Some((-1, 1 << 60)), 0)),
    ]);
    NewFile {
        path: format!("date={date}/{number:08}.parquet"),
        size_bytes: 1000 + number,
        date,
        statistics: FileStatistics { rows, columns },
        tags: BTreeMap::from([("number".to_owned(), number.to_string())]),
    }
}

pub(crate) fn append(files: Vec<NewFile>) -> Commit {
    Commit::append(files, None, Vec::new())
}

pub(crate) fn flush(app_id: &str, version: i64) -> Commit {
    let transaction = Transaction { app_id: app_id.to_owned(), version };
    Commit::append(vec![new_file(1)], Some(transaction), Vec::new())
}

pub(crate) fn paths(table: &Table) -> Vec<Arc<str>> {
    table.snapshot().files().map(|file| Arc::clone(&file.path)).collect()
}
