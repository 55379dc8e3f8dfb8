//! One table: the latest known snapshot, reading on in the log, and the commit loop.
//!
//! ```text
//!        .-> plan on the snapshot -> put commit v+1 --created--> apply, publish
//!        |                              |        \
//!        |                           existed     error: is commit v+1 there, and ours? --ours--> apply, publish
//!        |                              |           |                        \
//!        `-- read the log's tail <-- back off <-- not ours               not there: put again, same bytes
//! ```
//!
//! Commits of this process to one table come one after the other; those of other processes are met in the store. A
//! commit whose future is dropped half way lands or does not land; the next commit finds out like everyone else.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, Shared},
    stream,
};
use object_store::path::Path;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    catalog::{
        CatalogError, CatalogSettings, action, checkpoint,
        commit::{Commit, CommitOutcome, Plan, PlanContext},
        log, open,
        removals::Removals,
        snapshot::Snapshot,
    },
    clock::Clock,
    crashpoint,
    metrics::Metrics,
    storage::{
        paths::TableFolder,
        store::{PutNew, Store, StoreError},
    },
};

/// How often an unclear write is looked for, and repeated, before the caller is told that it is unclear.
const SETTLE_ATTEMPTS_MAX: u32 = 5;

/// How many commits are read at once when there are several to catch up with.
const TAIL_READS_MAX: usize = 16;

/// How long a query waits for a look at the log.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(1);

/// A look at the log that several wait for.
type Look = Shared<BoxFuture<'static, ()>>;

/// One tenant's table.
#[derive(Debug)]
pub struct Table {
    store: Store,
    folder: TableFolder,
    clock: Arc<dyn Clock>,
    settings: Arc<CatalogSettings>,
    metrics: Option<Arc<Metrics>>,
    current: ArcSwap<Snapshot>,
    committer: tokio::sync::Mutex<()>,
    /// When the end of the log was last seen.
    log_seen_unix_nano: AtomicI64,
    /// A look at the log for queries, while it is on its way.
    looking: Mutex<Option<Look>>,
    /// Until when no query waits for such a look, because the last one did not come back in time.
    patience_lost_until_unix_nano: AtomicI64,
    is_checkpointing: AtomicBool,
    removals: Mutex<Removals>,
    background: TaskTracker,
}

/// What tables share.
#[derive(Debug)]
pub(super) struct TableParts {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<CatalogSettings>,
    /// Where commits are counted.
    pub(super) metrics: Option<Arc<Metrics>>,
    pub(super) background: TaskTracker,
}

/// What became of the write of a commit.
enum Landing {
    Ours,
    Lost,
}

impl Table {
    pub(super) async fn open(parts: TableParts, folder: TableFolder) -> Result<Self, CatalogError> {
        let TableParts { store, clock, settings, metrics, background } = parts;
        let log_seen_unix_nano = AtomicI64::new(clock.now_unix_nano());
        let snapshot = open::open(&store, &folder).await?;
        Ok(Self {
            store,
            folder,
            clock,
            settings,
            metrics,
            current: ArcSwap::from_pointee(snapshot),
            committer: tokio::sync::Mutex::new(()),
            log_seen_unix_nano,
            looking: Mutex::default(),
            patience_lost_until_unix_nano: AtomicI64::new(i64::MIN),
            is_checkpointing: AtomicBool::new(false),
            removals: Mutex::default(),
            background,
        })
    }

    /// The store that the table is in.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The folder of its log in the store.
    pub fn log_folder(&self) -> Path {
        log::folder(&self.folder)
    }

    /// What commits removed, as far as it was asked for.
    pub(super) fn removals(&self) -> &Mutex<Removals> {
        &self.removals
    }

    /// The folder in the store.
    pub fn folder(&self) -> &TableFolder {
        &self.folder
    }

    /// The latest state that this process knows of, without asking the store.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The latest state, with the commits of other processes.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, CatalogError> {
        if self.is_stale() {
            return self.reopen().await;
        }
        self.read_tail().await
    }

    /// The latest state for a query: with every commit of other processes that is older than
    /// [`CatalogSettings::snapshot_age_max`], as far as the store can be asked.
    ///
    /// A table that is queried all the time is looked at in the background, at half of that age, so that no query waits.
    /// If the store does not answer in time, the latest known state is what there is, and for as long again no query waits.
    pub async fn recent(self: &Arc<Self>) -> Arc<Snapshot> {
        let age_max_nano = i64::try_from(self.settings.snapshot_age_max.as_nanos()).unwrap_or(i64::MAX);
        let now_unix_nano = self.clock.now_unix_nano();
        let age_nano = now_unix_nano.saturating_sub(self.log_seen_unix_nano.load(Ordering::SeqCst));
        if age_nano < age_max_nano / 2 {
            return self.snapshot();
        }
        let look = self.look();
        let is_patient = now_unix_nano >= self.patience_lost_until_unix_nano.load(Ordering::SeqCst);
        if age_nano >= age_max_nano && is_patient && tokio::time::timeout(LOOK_WAIT_MAX, look).await.is_err() {
            self.lose_patience();
        }
        self.snapshot()
    }

    /// The look that is on its way, or a new one.
    fn look(self: &Arc<Self>) -> Look {
        let mut looking = self.looking.lock();
        if let Some(look) = looking.as_ref().filter(|look| look.peek().is_none()) {
            return look.clone();
        }
        let table = Arc::clone(self);
        // A task of its own: whoever asked first can go away while others wait.
        let task = tokio::spawn(async move {
            if let Err(error) = table.refresh().await {
                debug!(table = %table.folder.path(), %error, "cannot look for commits of others");
                table.lose_patience();
            }
        });
        let look = task.map(|_| ()).boxed().shared();
        *looking = Some(look.clone());
        look
    }

    fn lose_patience(&self) {
        let pause_nano = i64::try_from(self.settings.snapshot_age_max.as_nanos()).unwrap_or(i64::MAX);
        let until = self.clock.now_unix_nano().saturating_add(pause_nano);
        self.patience_lost_until_unix_nano.store(until, Ordering::SeqCst);
    }

    /// Makes a change durable and visible to every process, or fails without having changed anything.
    ///
    /// # Errors
    /// [`CatalogError::NotLive`] if another commit replaced a file that this one removes. After
    /// [`CatalogError::Unclear`] the change may have happened: the added files must stay, and the same commit given
    /// again settles it.
    pub async fn commit(self: &Arc<Self>, commit: &Commit) -> Result<CommitOutcome, CatalogError> {
        let _committer = self.committer.lock().await;
        if self.is_stale() {
            self.reopen().await?;
        }
        let commit_id = Uuid::new_v4().to_string();
        let mut has_read_tail = false;
        for attempt in 0..self.settings.attempts_max {
            let base = self.snapshot();
            let now_unix_nano = self.clock.now_unix_nano();
            let now_unix_milli = now_unix_nano / 1_000_000;
            let context = PlanContext { settings: &self.settings, now_unix_milli, commit_id: &commit_id };
            let actions = match commit.plan(&base, context) {
                Ok(Plan::Write(actions)) => actions,
                Ok(Plan::AlreadyCommitted) => return Ok(CommitOutcome::AlreadyCommitted(base)),
                // The file can have come with a commit that is not known here yet.
                Err(CatalogError::NotLive { .. }) if !has_read_tail => {
                    self.read_tail().await?;
                    has_read_tail = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let version = base.next_version();
            match self.put_commit(version, &commit_id, &self.encode(&actions)?).await? {
                Landing::Ours => {
                    crashpoint::hit("catalog.commit.after_put");
                    self.count(|metrics| &metrics.catalog_commits);
                    // Nothing was there when it was created: that was the end of the log.
                    self.log_seen_unix_nano.fetch_max(now_unix_nano, Ordering::SeqCst);
                    let snapshot = self.publish(&Arc::new(base.apply(version, &actions)?));
                    self.checkpoint_if_due(version);
                    return Ok(CommitOutcome::Committed(snapshot));
                }
                Landing::Lost => {
                    self.count(|metrics| &metrics.catalog_conflicts);
                    debug!(table = %self.folder.path(), version, attempt, "another commit was faster");
                    self.back_off(attempt).await;
                    let after = self.read_tail().await?;
                    has_read_tail = true;
                    if after.next_version() == version {
                        // The commit that was there cannot be read: the log was cleaned behind our back.
                        self.reopen().await?;
                    }
                }
            }
        }
        Err(CatalogError::Contended { table: self.path(), attempts: self.settings.attempts_max })
    }

    fn count(&self, counter: fn(&Metrics) -> &IntCounter) {
        if let Some(metrics) = &self.metrics {
            counter(metrics).inc();
        }
    }

    /// Writes a checkpoint of the latest known state, and deletes what the retention no longer needs.
    pub async fn checkpoint(&self) -> Result<(), CatalogError> {
        match self.snapshot().version() {
            Some(version) => self.checkpoint_at(version).await,
            None => Ok(()),
        }
    }

    async fn checkpoint_at(&self, version: u64) -> Result<(), CatalogError> {
        checkpoint::write(&self.store, &self.folder, version).await?;
        let now_unix_nano = self.clock.now_unix_nano();
        let retention = self.settings.log_retention;
        let deleted = checkpoint::clean(&self.store, &self.folder, now_unix_nano, retention).await?;
        debug!(table = %self.folder.path(), version, deleted, "checkpoint written");
        Ok(())
    }

    /// Whether so much time has passed since the end of the log was seen that commits after ours may be cleaned away.
    /// Reading on would then find an end where there is none, and a commit would fork the log.
    fn is_stale(&self) -> bool {
        let elapsed_nano = self.clock.now_unix_nano().saturating_sub(self.log_seen_unix_nano.load(Ordering::SeqCst));
        u128::try_from(elapsed_nano).is_ok_and(|elapsed| elapsed > self.settings.log_retention.as_nanos() / 2)
    }

    async fn reopen(&self) -> Result<Arc<Snapshot>, CatalogError> {
        let seen_unix_nano = self.clock.now_unix_nano();
        let snapshot = open::open(&self.store, &self.folder).await?;
        self.log_seen_unix_nano.fetch_max(seen_unix_nano, Ordering::SeqCst);
        Ok(self.publish(&Arc::new(snapshot)))
    }

    /// Applies the commits after the latest known one, up to the end of the log.
    async fn read_tail(&self) -> Result<Arc<Snapshot>, CatalogError> {
        let seen_unix_nano = self.clock.now_unix_nano();
        let mut latest = self.snapshot();
        let mut ahead = 1;
        'log: loop {
            let first = latest.next_version();
            let versions = stream::iter(first..first + ahead as u64);
            let reads = versions.map(|version| log::read_commit(&self.store, &self.folder, version));
            let mut commits = pin!(reads.buffered(ahead));
            while let Some(actions) = commits.try_next().await? {
                let Some(actions) = actions else { break 'log };
                // Published one by one, so that a store that fails now and then holds nobody up for good.
                let next = Arc::new(latest.apply(latest.next_version(), &actions)?);
                self.publish(&next);
                latest = next;
            }
            ahead = (ahead * 2).min(TAIL_READS_MAX);
        }
        self.log_seen_unix_nano.fetch_max(seen_unix_nano, Ordering::SeqCst);
        Ok(self.snapshot())
    }

    /// Makes a snapshot the current one, unless a later one is; returns the current one.
    fn publish(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        self.current.rcu(|current| {
            let newer = if snapshot.version() > current.version() { snapshot } else { current };
            Arc::clone(newer)
        });
        self.snapshot()
    }

    fn encode(&self, actions: &[action::Action]) -> Result<Bytes, CatalogError> {
        let encoded = action::encode(actions)
            .map_err(|error| CatalogError::InvalidCommit { table: self.path(), detail: error.to_string() })?;
        Ok(Bytes::from(encoded))
    }

    /// Creates the object of commit `version`, and finds out whether it is ours when the store leaves that open.
    ///
    /// Repeating an unclear write is safe: the name and the bytes are the same, and the store takes the first.
    async fn put_commit(&self, version: u64, commit_id: &str, bytes: &Bytes) -> Result<Landing, CatalogError> {
        let path = log::commit_path(&self.folder, version);
        let mut attempt = 0;
        loop {
            crashpoint::hit("catalog.commit.before_put");
            let put_error = match self.store.put_new(&path, bytes.clone()).await {
                Ok(PutNew::Created) => return Ok(Landing::Ours),
                Ok(PutNew::AlreadyExists) => None,
                Err(error) => Some(error),
            };
            // What exists can be ours too: from an earlier try, here or in a client below that repeats requests.
            let unclear = match (self.settle(version, commit_id).await, put_error) {
                (Ok(Some(landing)), _) => return Ok(landing),
                (Ok(None), None) => return Ok(Landing::Lost),
                (_, Some(put_error)) => put_error,
                (Err(get_error), None) => get_error,
            };
            attempt += 1;
            warn!(table = %self.folder.path(), version, attempt, error = %unclear, "unclear commit");
            if attempt == SETTLE_ATTEMPTS_MAX {
                let source = Box::new(unclear);
                return Err(CatalogError::Unclear { table: self.path(), version, source });
            }
            self.back_off(attempt).await;
        }
    }

    /// Whose commit `version` is; `None` if there is none.
    async fn settle(&self, version: u64, commit_id: &str) -> Result<Option<Landing>, StoreError> {
        let path = log::commit_path(&self.folder, version);
        let Some(bytes) = self.store.get(&path).await? else { return Ok(None) };
        // What cannot be decoded is not ours; reading on will say what is wrong with it.
        let actions = action::decode(&bytes).unwrap_or_default();
        let is_ours = |action: &action::Action| {
            action.commit_info.as_ref().is_some_and(|info| info.commit_id.as_deref() == Some(commit_id))
        };
        if !actions.iter().any(is_ours) {
            return Ok(Some(Landing::Lost));
        }
        self.store.ensure_durable(&path).await?;
        Ok(Some(Landing::Ours))
    }

    async fn back_off(&self, attempt: u32) {
        let longest = self.settings.backoff * 2_u32.pow(attempt.min(6));
        let nanos = rand::random_range(0..=u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
        tokio::time::sleep(Duration::from_nanos(nanos)).await;
    }

    fn checkpoint_if_due(self: &Arc<Self>, version: u64) {
        let is_due = version > 0 && version.is_multiple_of(self.settings.checkpoint_interval_commits.max(1));
        // A closed tracker means that the process is about to end.
        if !is_due || self.background.is_closed() || self.is_checkpointing.swap(true, Ordering::SeqCst) {
            return;
        }
        let table = Arc::clone(self);
        self.background.spawn(async move {
            if let Err(error) = table.checkpoint_at(version).await {
                warn!(table = %table.folder.path(), version, %error, "checkpoint failed");
            }
            table.is_checkpointing.store(false, Ordering::SeqCst);
        });
    }

    fn path(&self) -> Path {
        self.folder.path().clone()
    }
}
