//! Commits over a store that fails before, after, or long after it did what was asked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{future::join_all, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tracehouse::{
    catalog::{CatalogError, CommitOutcome},
    storage::store::{Store, StoreError},
};

use super::{
    append,
    concurrency::{Contents, append_rows, check_log, compact},
    end, flush, new_file, table, table_of_new_process,
};

/// What happens to the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It fails and does nothing.
    Before,
    /// It does what was asked, and fails.
    After,
    /// It fails, and does what was asked some time later.
    Late,
}

/// A store that fails as told: in a fixed order first, then at random.
#[derive(Debug)]
struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    put_faults: Mutex<Vec<Fault>>,
    random: Mutex<Option<ChaCha8Rng>>,
    reads_fail: AtomicBool,
}

impl FaultyStore {
    fn new(inner: &Arc<InMemory>) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::<InMemory>::clone(inner),
            put_faults: Mutex::new(Vec::new()),
            random: Mutex::new(None),
            reads_fail: AtomicBool::new(false),
        })
    }

    fn next_fault(&self, faults: &[Fault]) -> Fault {
        let mut random = self.random.lock();
        let Some(random) = random.as_mut() else { return Fault::None };
        if random.random_bool(0.3) { faults[random.random_range(0..faults.len())] } else { Fault::None }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let planned = self.put_faults.lock().pop();
        let fault = planned.unwrap_or_else(|| self.next_fault(&[Fault::Before, Fault::After, Fault::Late]));
        match fault {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::Before => Err(failure()),
            Fault::After => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failure())
            }
            Fault::Late => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let _ = inner.put_opts(&location, payload, options).await;
                });
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.reads_fail.load(Ordering::SeqCst) || self.next_fault(&[Fault::Before]) == Fault::Before {
            return Err(failure());
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

#[tokio::test]
async fn an_unclear_write_lands_once() {
    for faults in [
        vec![Fault::Before],
        vec![Fault::After],
        vec![Fault::Late],
        vec![Fault::Before, Fault::Late, Fault::After],
        vec![Fault::Late, Fault::Late, Fault::Late, Fault::Late],
    ] {
        let objects = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(&objects);
        let ours = table(&Store::new(Arc::<FaultyStore>::clone(&faulty))).await;
        *faulty.put_faults.lock() = faults.clone();
        let outcome = ours.commit(&flush("log", 1)).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Committed(_)), "{faults:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let theirs = table(&Store::new(objects)).await;
        assert_eq!(theirs.snapshot().version(), Some(0), "{faults:?}");
        assert_eq!(*theirs.snapshot(), *ours.snapshot(), "{faults:?}");
    }
}

#[tokio::test]
async fn an_unclear_write_that_lost_to_another_is_written_after_it() {
    let objects = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(&objects);
    let ours = table(&Store::new(Arc::<FaultyStore>::clone(&faulty))).await;
    let theirs = table(&Store::new(objects)).await;
    theirs.commit(&flush("their log", 1)).await.unwrap();
    *faulty.put_faults.lock() = vec![Fault::Before, Fault::After];
    ours.commit(&flush("our log", 1)).await.unwrap();
    let snapshot = theirs.refresh().await.unwrap();
    assert_eq!((snapshot.version(), snapshot.files().len()), (Some(1), 2));
    assert_eq!(*snapshot, *ours.snapshot());
}

/// The store takes the commit, and then does not answer any more. The caller gives the same commit again, or another
/// process goes on.
#[tokio::test]
async fn a_commit_whose_fate_stays_unknown_is_settled_by_giving_it_again() {
    for (with_transaction, other_goes_on) in [(true, false), (true, true), (false, false), (false, true)] {
        let objects = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(&objects);
        let ours = table(&Store::new(Arc::<FaultyStore>::clone(&faulty))).await;
        let theirs = table(&Store::new(objects)).await;
        let commit = if with_transaction { flush("log", 1) } else { append(vec![new_file(1)]) };
        *faulty.put_faults.lock() = vec![Fault::After];
        faulty.reads_fail.store(true, Ordering::SeqCst);
        let error = ours.commit(&commit).await.unwrap_err();
        assert!(matches!(error, CatalogError::Unclear { version: 0, .. }), "{error}");
        assert_eq!(ours.snapshot().version(), None);

        if other_goes_on {
            theirs.commit(&flush("their log", 1)).await.unwrap();
        }
        faulty.reads_fail.store(false, Ordering::SeqCst);
        let outcome = ours.commit(&commit).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::AlreadyCommitted(_)), "{outcome:?}");
        assert!(outcome.snapshot().file(&commit.adds[0].path).is_some());
        assert_eq!(*theirs.refresh().await.unwrap(), **outcome.snapshot());
        assert_eq!(theirs.snapshot().files().len(), 1 + usize::from(other_goes_on));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_over_a_store_that_fails_at_random() {
    const ROWS: u64 = 25;
    for seed in 0..3 {
        let objects = Arc::new(InMemory::new());
        let contents = Contents::default();
        let mut processes = Vec::new();
        let mut appenders = Vec::new();
        let mut compactors = Vec::new();
        for process in 0..3 {
            let faulty = FaultyStore::new(&objects);
            let store = Store::new(Arc::<FaultyStore>::clone(&faulty));
            let table = table_of_new_process(&store, &mut processes).await;
            *faulty.random.lock() = Some(ChaCha8Rng::seed_from_u64(seed * 10 + process));
            let rows = (process * ROWS..(process + 1) * ROWS).collect();
            let appender = append_rows(Arc::clone(&table), contents.clone(), format!("log-{process}"), rows);
            appenders.push(tokio::spawn(appender));
            compactors.push(tokio::spawn(compact(table, contents.clone(), seed, 20)));
        }
        join_all(appenders).await.into_iter().for_each(|ended| ended.unwrap());
        for ended in join_all(compactors).await {
            ended.unwrap();
        }
        end(processes).await;
        tokio::time::sleep(Duration::from_millis(20)).await;

        let store = Store::new(objects);
        let table = table(&store).await;
        assert_eq!(contents.live(&table), (0..3 * ROWS).collect::<Vec<_>>(), "seed {seed}");
        check_log(&store, &table).await;
    }
}

/// A store that ignores the condition of a conditional write.
#[derive(Debug)]
struct OverwritingStore(Arc<InMemory>);

#[async_trait]
impl ObjectStore for OverwritingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        options.mode = PutMode::Overwrite;
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

impl fmt::Display for OverwritingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("overwriting store")
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let objects = Arc::new(InMemory::new());
    let store = Store::new(Arc::new(OverwritingStore(Arc::clone(&objects))));
    let error = store.verify_conditional_put().await.unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalPut { .. }), "{error}");
    assert!(error.to_string().contains("overwriting store does not honour conditional writes"), "{error}");
    let objects: Vec<_> = futures::TryStreamExt::try_collect(objects.list(None)).await.unwrap();
    assert!(objects.is_empty(), "the probe is cleaned up: {objects:?}");
    drop(objects);
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_not_called_unfit() {
    let objects = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(&objects);
    *faulty.put_faults.lock() = vec![Fault::Before];
    let error = Store::new(faulty).verify_conditional_put().await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(objects.get(&Path::from(".probe")).await.is_err());
}
