//! Several appenders and compactors from separate catalogues against each other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{TryStreamExt as _, future::join_all};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tracehouse::{
    catalog::{CatalogError, Commit, CommitOutcome, Table, Transaction, action},
    storage::store::Store,
};

use super::{end, in_memory, new_file, table, table_of_new_process};

/// Which rows each file holds, as the files themselves would say.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents(Arc<Mutex<HashMap<String, Vec<u64>>>>);

impl Contents {
    pub(super) fn set(&self, path: &str, rows: Vec<u64>) {
        self.0.lock().insert(path.to_owned(), rows);
    }

    fn of<'a>(&self, paths: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<u64> {
        let contents = self.0.lock();
        paths.into_iter().flat_map(|path| contents[&**path].iter().copied()).collect()
    }

    /// The rows of all live files, sorted.
    pub(super) fn live(&self, table: &Table) -> Vec<u64> {
        let mut rows = self.of(super::paths(table).iter());
        rows.sort_unstable();
        rows
    }
}

/// Appends rows, each in a commit of its own; every other commit is a flush with a transaction.
pub(super) async fn append_rows(table: Arc<Table>, contents: Contents, app_id: String, rows: Vec<u64>) {
    for (version, row) in rows.into_iter().enumerate() {
        let file = new_file(1);
        contents.set(&file.path, vec![row]);
        let transaction = Transaction { app_id: app_id.clone(), version: i64::try_from(version).unwrap() };
        let commit = Commit::append(vec![file], (row % 2 == 0).then_some(transaction), Vec::new());
        commit_until_clear(&table, &commit).await.unwrap();
        tokio::time::sleep(Duration::from_micros(row % 7 * 300)).await;
    }
}

/// Replaces a few files by one, over and over; returns how often another commit was faster.
pub(super) async fn compact(table: Arc<Table>, contents: Contents, seed: u64, rounds: usize) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut refused = 0;
    for _ in 0..rounds {
        let _ = table.refresh().await;
        // The first files in order, so that compactors meet.
        let count = random.random_range(1..6);
        let removes: Vec<Arc<str>> = super::paths(&table).into_iter().take(count).collect();
        tokio::time::sleep(Duration::from_micros(random.random_range(0..3000))).await;
        if removes.is_empty() {
            continue;
        }
        let rows = contents.of(&removes);
        let file = new_file(rows.len() as u64);
        contents.set(&file.path, rows);
        match commit_until_clear(&table, &Commit::replace(removes, vec![file], Vec::new())).await {
            Ok(_) => {}
            Err(CatalogError::NotLive { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

/// Commits, and does what a caller must after an unclear outcome: the same again. Other failures of the store change
/// nothing and are tried again too.
pub(super) async fn commit_until_clear(table: &Arc<Table>, commit: &Commit) -> Result<CommitOutcome, CatalogError> {
    loop {
        match table.commit(commit).await {
            Err(CatalogError::Unclear { .. } | CatalogError::Store(_)) => {}
            outcome => return outcome,
        }
    }
}

/// Every commit of the log, in order.
pub(super) async fn read_log(store: &Store, table: &Table) -> Vec<Vec<action::Action>> {
    let mut commits = BTreeMap::new();
    let objects: Vec<_> = store.list(&table.folder().file("_delta_log")).try_collect().await.unwrap();
    for object in objects {
        if object.location.extension() == Some("json") {
            let bytes = store.get(&object.location).await.unwrap().unwrap();
            commits.insert(object.location, action::decode(&bytes).unwrap());
        }
    }
    commits.into_values().collect()
}

/// No file was ever added twice or removed twice, and nothing was removed that was not there.
pub(super) async fn check_log(store: &Store, table: &Table) {
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for action in read_log(store, table).await.into_iter().flatten() {
        if let Some(remove) = action.remove {
            assert!(added.contains(&remove.path), "{} was removed before it was added", remove.path);
            assert!(removed.insert(remove.path.clone()), "{} was removed twice", remove.path);
        }
        if let Some(add) = action.add {
            assert!(added.insert(add.path.clone()), "{} was added twice", add.path);
        }
    }
}

async fn run(store: Store) {
    const ROWS: u64 = 40;
    let contents = Contents::default();
    let mut processes = Vec::new();
    let mut appenders = Vec::new();
    for appender in 0..3 {
        let rows = (0..ROWS).map(|row| appender * ROWS + row).collect();
        let app_id = format!("log-{appender}");
        let table = table_of_new_process(&store, &mut processes).await;
        appenders.push(tokio::spawn(append_rows(table, contents.clone(), app_id, rows)));
    }
    let mut compactors = Vec::new();
    for seed in 0..3 {
        let table = table_of_new_process(&store, &mut processes).await;
        compactors.push(tokio::spawn(compact(table, contents.clone(), seed, 40)));
    }
    join_all(appenders).await.into_iter().for_each(|ended| ended.unwrap());
    let refused: usize = join_all(compactors).await.into_iter().map(Result::unwrap).sum();
    end(processes).await;

    let table = table(&store).await;
    assert_eq!(contents.live(&table), (0..3 * ROWS).collect::<Vec<_>>());
    assert_eq!(table.snapshot().rows(), 3 * ROWS);
    for appender in 0..3 {
        assert!(table.snapshot().transaction(&format!("log-{appender}")).is_some());
    }
    check_log(&store, &table).await;
    assert!(refused > 0, "compactors never met; the test has lost its point");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_among_many_committers_in_memory() {
    run(in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_among_many_committers_on_a_local_disk() {
    let folder = tempfile::tempdir().unwrap();
    run(Store::local(folder.path()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_of_one_process_take_turns() {
    let store = in_memory();
    let (table, contents) = (table(&store).await, Contents::default());
    let appenders = (0..8).map(|appender| {
        let rows = (appender * 10..(appender + 1) * 10).collect();
        tokio::spawn(append_rows(Arc::clone(&table), contents.clone(), format!("log-{appender}"), rows))
    });
    join_all(appenders).await.into_iter().for_each(|ended| ended.unwrap());
    assert_eq!(contents.live(&table), (0..80).collect::<Vec<_>>());
    assert_eq!(table.snapshot().version(), Some(79));
}
