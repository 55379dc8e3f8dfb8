//! A bucket that fails as told, or as a seed has it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails and does nothing.
    Before,
    /// It does what was asked, and fails.
    After,
    /// It fails, and does what was asked some time later.
    Late,
    /// It takes long.
    Stall,
    /// Its answer breaks off.
    Partial,
}

/// A bucket in memory.
#[derive(Debug)]
pub(super) struct FaultyBucket {
    pub(super) inner: Arc<InMemory>,
    random: Mutex<ChaCha8Rng>,
    /// Of 100 requests this many fail in some way.
    faults_percent: AtomicU64,
    is_down: AtomicBool,
    /// Writes of commits are kept back while this is set, and fail.
    holds_commits: AtomicBool,
    held: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
    /// How long every read takes.
    read_milliseconds: AtomicU64,
    reads: AtomicU64,
}

impl FaultyBucket {
    /// A bucket that does not fail yet.
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(InMemory::new()),
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            faults_percent: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            holds_commits: AtomicBool::new(false),
            held: Mutex::default(),
            read_milliseconds: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }

    pub(super) fn fail(&self, percent: u64) {
        self.faults_percent.store(percent, Ordering::SeqCst);
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    pub(super) fn hold_commits(&self, holds: bool) {
        self.holds_commits.store(holds, Ordering::SeqCst);
    }

    /// Carries out the writes that were kept back, and says how each ended.
    pub(super) async fn deliver_held(&self) -> Vec<Result<PutResult>> {
        let mut outcomes = Vec::new();
        let held = std::mem::take(&mut *self.held.lock());
        for (path, payload, options) in held {
            outcomes.push(self.inner.put_opts(&path, payload, options).await);
        }
        outcomes
    }

    pub(super) fn slow_reads(&self, milliseconds: u64) {
        self.read_milliseconds.store(milliseconds, Ordering::SeqCst);
    }

    /// Reads of data files since the last call.
    pub(super) fn take_reads(&self) -> u64 {
        self.reads.swap(0, Ordering::SeqCst)
    }

    async fn fault(&self, faults: &[Fault]) -> Result<Option<Fault>> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(failure());
        }
        let fault = {
            let mut random = self.random.lock();
            let percent = self.faults_percent.load(Ordering::SeqCst);
            let fails = random.random_range(0..100) < percent;
            fails.then(|| faults[random.random_range(0..faults.len())])
        };
        match fault {
            Some(Fault::Before) => Err(failure()),
            Some(Fault::Stall) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

#[async_trait]
impl ObjectStore for FaultyBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.holds_commits.load(Ordering::SeqCst) && location.extension() == Some("json") {
            self.held.lock().push((location.clone(), payload, options));
            return Err(failure());
        }
        match self.fault(&[Fault::Before, Fault::After, Fault::Late, Fault::Stall]).await? {
            Some(Fault::After) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failure())
            }
            Some(Fault::Late) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                let milliseconds = self.random.lock().random_range(1..5_000);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    let _ = inner.put_opts(&location, payload, options).await;
                });
                Err(failure())
            }
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.fault(&[Fault::Before, Fault::Stall]).await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.extension() == Some("parquet") && !location.as_ref().contains("_delta_log") {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let milliseconds = self.read_milliseconds.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        let fault = self.fault(&[Fault::Before, Fault::Stall, Fault::Partial]).await?;
        let found = self.inner.get_opts(location, options).await?;
        if fault != Some(Fault::Partial) {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let bytes = found.bytes().await?;
        let begun = bytes.slice(..bytes.len() / 2);
        let payload = GetResultPayload::Stream(stream::iter([Ok(begun), Err(failure())]).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (is_down, percent) = (self.is_down.load(Ordering::SeqCst), self.faults_percent.load(Ordering::SeqCst));
        let breaks_off = is_down || self.random.lock().random_range(0..100) < percent;
        let listed = self.inner.list(prefix);
        if !breaks_off {
            return listed;
        }
        let taken = if is_down { 0 } else { 1 };
        listed.take(taken).chain(stream::iter([Err(failure())])).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.fault(&[Fault::Before, Fault::Stall]).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.fault(&[Fault::Before]).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for FaultyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty bucket")
    }
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_an_error_and_not_a_short_list() {
    let bucket = FaultyBucket::new(1);
    bucket.inner.put_opts(&Path::from("a/b"), "1".into(), PutOptions::default()).await.unwrap();
    bucket.fail(100);
    bucket.list(None).try_collect::<Vec<_>>().await.unwrap_err();
}
