//! Compaction of a table: pick, merge, commit.
//!
//! ```text
//!  snapshot -> pick -> merge each set -> put the outputs -> one commit: removes + adds
//!                                                              |
//!                          a removed file is not live any more: another compactor, a deletion or the retention won;
//!                          that set is given up, the others are committed
//! ```
//!
//! A file that is damaged fails its merge before anything is written. It stays as it is, and its neighbours are merged without it.
//! A crash before the commit leaves outputs in no table, which a sweep deletes; after it, inputs in no table, likewise.
//! Outputs that took so long that a sweep could take them for garbage are not committed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use arrow::datatypes::FieldRef;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use super::pick::Lane;
use super::{
    aside::SetAside,
    merge::{Keep, MergeInput, MergeTarget, Merged, check_input, merge},
    pick::{MergeSet, PickContext, PickPolicy, pick},
    tell_unreadable,
};
use crate::{
    catalog::{Catalog, CatalogError, Commit, LiveFile, NewFile, Operation, Table, columns_of},
    clock::Clock,
    config::{CompactionSettings, PromotionSettings},
    crashpoint,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    model::tenant::TenantId,
    storage::{promoter, store::Store},
};

/// How often an unclear commit is given to the table again.
const UNCLEAR_ATTEMPTS_MAX: u32 = 5;

/// What one or several merges did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Merges that were committed.
    pub merges: usize,
    /// Files that they replaced.
    pub files_before: usize,
    /// Files that they made.
    pub files_after: usize,
    /// Bytes of the replaced files.
    pub bytes_before: u64,
    /// Bytes of the new files.
    pub bytes_after: u64,
    /// Spans that were dropped because an equal one stays.
    pub duplicates: u64,
    /// Commits.
    pub commits: usize,
    /// Merges that were given up because another writer replaced their files first.
    pub conflicts: usize,
    /// Merges that failed.
    pub failures: usize,
    /// What is wrong with files that are damaged or cannot be merged. They stay as they are, and the others are merged.
    pub refused: Vec<String>,
}

impl CompactReport {
    /// Whether another look can find merges: files are new, or some no longer stand in the way of their neighbours.
    pub(super) fn may_have_more(&self) -> bool {
        self.commits > 0 || !self.refused.is_empty()
    }

    /// Adds the figures of another report.
    pub fn add(&mut self, other: Self) {
        self.merges += other.merges;
        self.files_before += other.files_before;
        self.files_after += other.files_after;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.duplicates += other.duplicates;
        self.commits += other.commits;
        self.conflicts += other.conflicts;
        self.failures += other.failures;
        self.refused.extend(other.refused);
    }
}

/// Compacts tables. One per process is enough; several processes may compact one table.
#[derive(Debug)]
pub struct Compactor {
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    settings: CompactionSettings,
    promotion: PromotionSettings,
    salt: u64,
    aside: SetAside,
    /// Files that are being merged, so that the lanes do not take each other's.
    busy: Mutex<HashSet<Arc<str>>>,
}

/// Files that are being merged, until it is dropped.
struct Busy<'a> {
    compactor: &'a Compactor,
    files: Vec<Arc<str>>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = self.compactor.busy.lock();
        for file in &self.files {
            busy.remove(file);
        }
    }
}

/// A merge whose outputs are in the store.
struct Stored {
    set: MergeSet,
    adds: Vec<NewFile>,
    columns: Vec<FieldRef>,
    duplicates: u64,
}

impl Compactor {
    /// A compactor of the tables of `catalog`.
    pub fn new(
        catalog: Arc<Catalog>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        settings: &CompactionSettings,
        promotion: &PromotionSettings,
    ) -> Self {
        let (settings, promotion) = (settings.clone(), promotion.clone());
        let (aside, busy) = (SetAside::default(), Mutex::default());
        Self { catalog, clock, metrics, settings, promotion, salt: rand::random(), aside, busy }
    }

    /// Merges whatever is due in a table, in both lanes, until nothing is.
    pub async fn compact(&self, tenant: &TenantId) -> Result<CompactReport> {
        let mut report = CompactReport::default();
        loop {
            let mut round = CompactReport::default();
            for lane in [Lane::Small, Lane::Large] {
                round.add(self.compact_lane(tenant, lane).await?);
            }
            let may_have_more = round.may_have_more();
            report.add(round);
            if !may_have_more {
                return Ok(report);
            }
        }
    }

    /// The next merges of one lane of a table, in one commit; all zero if there is nothing to do.
    pub async fn compact_lane(&self, tenant: &TenantId, lane: Lane) -> Result<CompactReport> {
        let table = self.catalog.table(tenant).await?;
        let now_unix_milli = self.clock.now_unix_nano() / 1_000_000;
        let policy = PickPolicy {
            file_bytes_max: self.settings.file_bytes_max.bytes(),
            fan_in: self.settings.fan_in,
            settle_age_milli: self.settings.settle_age.as_nanos() / 1_000_000,
            small_bytes_max: self.settings.small_bytes_max.bytes(),
        };
        let (sets, _busy) = self.pick(&table, PickContext { policy, lane, now_unix_milli, salt: self.salt });
        if sets.is_empty() {
            return Ok(CompactReport::default());
        }
        let started = Instant::now();
        let begun_unix_nano = self.clock.now_unix_nano();
        let mut report = CompactReport::default();
        let mut stored = Vec::with_capacity(sets.len());
        for set in sets {
            match self.merge_and_put(&table, &set).await {
                Ok((adds, columns, duplicates)) => stored.push(Stored { set, adds, columns, duplicates }),
                Err(error) => {
                    warn!(%tenant, %error, source = ?std::error::Error::source(&error), "merge failed");
                    self.metrics.compaction_failures.inc();
                    report.failures += 1;
                    report.refused.extend(self.set_aside(&set, &error).await);
                }
            }
        }
        crashpoint::hit("compact.after_put");
        self.check_not_late(begun_unix_nano)?;
        report.add(self.commit(&table, stored).await?);
        crashpoint::hit("compact.after_commit");
        if report.merges > 0 {
            info!(%tenant, ?lane, merges = report.merges, files = report.files_before, into = report.files_after,
                bytes = report.bytes_before, duplicates = report.duplicates, took = ?started.elapsed(), "compacted");
        }
        Ok(report)
    }

    /// The next merges, whose files the other lane leaves alone while the second value lives.
    fn pick(&self, table: &Table, context: PickContext) -> (Vec<MergeSet>, Busy<'_>) {
        let now_unix_nano = context.now_unix_milli.saturating_mul(1_000_000);
        let mut busy = self.busy.lock();
        let skip =
            |file: &LiveFile| self.aside.reason(&file.path, now_unix_nano).is_some() || busy.contains(&file.path);
        let sets = pick(&table.snapshot(), context, skip);
        let files: Vec<Arc<str>> = sets.iter().flat_map(|set| &set.files).map(|file| Arc::clone(&file.path)).collect();
        busy.extend(files.iter().map(Arc::clone));
        (sets, Busy { compactor: self, files })
    }

    async fn merge_and_put(&self, table: &Table, set: &MergeSet) -> Result<(Vec<NewFile>, Vec<FieldRef>, u64)> {
        let inputs =
            set.files.iter().map(|file| MergeInput { file: Arc::clone(file), keep: Keep::All }).collect::<Vec<_>>();
        let merged = on_blocking_thread(self.catalog.store(), inputs, self.target(table)).await?;
        let (adds, columns) = put(self.catalog.store(), table, &merged, self.clock.now_unix_nano()).await?;
        Ok((adds, columns, merged.duplicates))
    }

    fn target(&self, table: &Table) -> MergeTarget {
        let promotion = promoter::current(&self.promotion, &table.snapshot().declared());
        MergeTarget { file_bytes: self.settings.file_bytes_max.bytes(), promotion }
    }

    /// Leaves the files of a failed merge alone that cannot be merged even by themselves, or all of them if every one can.
    /// Returns what is wrong with those that can never be merged as they are.
    async fn set_aside(&self, set: &MergeSet, cause: &Error) -> Vec<String> {
        let now_unix_nano = self.clock.now_unix_nano();
        let (mut culprits, mut refused) = (0, Vec::new());
        for file in &set.files {
            let Err(error) = check_input(self.catalog.store(), file).await else { continue };
            self.aside.add(&file.path, now_unix_nano, error.to_string());
            culprits += 1;
            if error.kind() == ErrorKind::Corrupt {
                tell_unreadable(&self.metrics, "compaction", file, &error);
                refused.push(error.to_string());
            }
        }
        if culprits == 0 {
            set.files.iter().for_each(|file| self.aside.add(&file.path, now_unix_nano, cause.to_string()));
        }
        refused
    }

    /// Fails if outputs are so old that a sweep may be about to delete them.
    fn check_not_late(&self, begun_unix_nano: i64) -> Result<()> {
        let elapsed = self.clock.now_unix_nano().saturating_sub(begun_unix_nano);
        if elapsed < self.settings.grace.as_nanos() / 2 {
            return Ok(());
        }
        let grace = self.settings.grace;
        let message = format!("merges took more than half of compaction.grace = {grace} and were given up");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Commits what can be committed, all sets at once, without those whose files are gone.
    async fn commit(&self, table: &Arc<Table>, mut stored: Vec<Stored>) -> Result<CompactReport> {
        let mut report = CompactReport::default();
        while !stored.is_empty() {
            let commit = replacement(&stored);
            match commit_settled(table, &commit).await {
                Ok(()) => {
                    report.commits = 1;
                    for Stored { set, adds, duplicates, .. } in &stored {
                        report.merges += 1;
                        report.files_before += set.files.len();
                        report.files_after += adds.len();
                        report.bytes_before += set.bytes();
                        report.bytes_after += adds.iter().map(|add| add.size_bytes).sum::<u64>();
                        report.duplicates += duplicates;
                    }
                    break;
                }
                // The outputs of such a set are in no table and never will be; a sweep deletes them.
                Err(CatalogError::NotLive { path, .. }) => {
                    stored.retain(|stored| stored.set.files.iter().all(|file| *file.path != *path));
                    report.conflicts += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.metrics.compaction_merges.inc_by(report.merges as u64);
        self.metrics.compaction_conflicts.inc_by(report.conflicts as u64);
        self.metrics.compaction_bytes_read.inc_by(report.bytes_before);
        self.metrics.compaction_bytes_written.inc_by(report.bytes_after);
        self.metrics.compaction_duplicates.inc_by(report.duplicates);
        Ok(report)
    }
}

fn replacement(stored: &[Stored]) -> Commit {
    let removes = stored.iter().flat_map(|stored| &stored.set.files).map(|file| Arc::clone(&file.path)).collect();
    let adds = stored.iter().flat_map(|stored| stored.adds.iter().cloned()).collect();
    let mut columns: Vec<FieldRef> = stored.iter().flat_map(|stored| stored.columns.iter().map(Arc::clone)).collect();
    columns.sort_by(|a, b| a.name().cmp(b.name()));
    columns.dedup();
    let duplicates = stored.iter().map(|stored| stored.duplicates).sum();
    Commit { operation: Operation::Optimize, adds, removes, transaction: None, duplicates, columns }
}

/// Merges on a thread that may block.
pub(super) async fn on_blocking_thread(store: &Store, inputs: Vec<MergeInput>, target: MergeTarget) -> Result<Merged> {
    let (store, handle) = (store.clone(), Handle::current());
    let stopped = CancellationToken::new();
    // Whoever waits for the merge may be dropped; then the thread stops.
    let _guard = stopped.clone().drop_guard();
    let merging = tokio::task::spawn_blocking(move || handle.block_on(merge(&store, &inputs, &target, &stopped)));
    merging.await.map_err(|panic| Error::new(ErrorKind::Internal, "a merge ended early").with_source(panic))?
}

/// Stores the outputs of a merge; returns their description for a commit, and the columns that it must declare.
pub(super) async fn put(
    store: &Store,
    table: &Table,
    merged: &Merged,
    now_unix_nano: i64,
) -> Result<(Vec<NewFile>, Vec<FieldRef>)> {
    let mut adds = Vec::with_capacity(merged.files.len());
    for file in &merged.files {
        let add = NewFile::of_written(file, now_unix_nano);
        store.put_file(&table.folder().file(&add.path), file.bytes.clone()).await?;
        adds.push(add);
    }
    Ok((adds, columns_of(&merged.files)))
}

/// Commits, and commits again where the store does not say whether it did.
pub(super) async fn commit_settled(table: &Arc<Table>, commit: &Commit) -> Result<(), CatalogError> {
    let mut attempt = 0;
    loop {
        match table.commit(commit).await {
            Ok(_) => return Ok(()),
            Err(CatalogError::Unclear { .. }) if attempt < UNCLEAR_ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                table.refresh().await?;
            }
            Err(error) => return Err(error),
        }
    }
}
