//! Deleting spans for good.
//!
//! ```text
//!  delete(filter, range):
//!    tombstone, durable  ->  flush what is buffered  ->  enforce
//!
//!  enforce: for every live file that has not been looked at on behalf of a tombstone:
//!    which rows match?   none -> the file is clean
//!                        some -> rewrite it without them, commit: remove + add
//!                                a replaced file: its replacement is looked at next
//! ```
//!
//! From the tombstone on, what matches and arrives here is kept out ([`tombstones`](super::tombstones)), so the deletion
//! holds when it is acknowledged. Another server learns of it with its next round of maintenance; what it has accepted until
//! then it flushes and enforces. Enforcing again costs little where nothing is new: files that a flush or a compaction
//! made meanwhile, here or elsewhere, are looked at once. A damaged file stays as it is, and whoever deletes is told that
//! matching spans may be left in it; the deletion is enforced on it again now and then, for as long as it is there. The bytes of replaced files leave the disk with the sweep, after the grace, and those in the
//! log when it is cut.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::buffer::BooleanBuffer;
use parking_lot::Mutex;
use serde::Serialize;
use tracing::info;
use uuid::Uuid;

use super::{
    aside::SetAside,
    compact::{commit_settled, on_blocking_thread, put},
    merge::{Keep, MergeInput, MergeTarget, damage},
    tell_unreadable,
    tombstone::Tombstone,
    tombstones::Tombstones,
};
use crate::{
    catalog::{Catalog, CatalogError, Commit, LiveFile, Operation, Table},
    clock::Clock,
    config::{PromotionSettings, Settings},
    crashpoint,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
    model::{tenant::TenantId, time::TimeRange},
    query::{QueryEngine, SpanFilter},
    storage::promoter,
};

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeleteReport {
    /// Spans that are in no live file any more.
    pub spans: u64,
    /// Files that were rewritten or removed for it.
    pub files: usize,
    /// Files that were looked at.
    pub files_checked: usize,
    /// What is wrong with files that are damaged or cannot be read. What matches in them is still there.
    pub refused: Vec<String>,
}

impl DeleteReport {
    fn add(&mut self, other: Self) {
        self.spans += other.spans;
        self.files += other.files;
        self.files_checked += other.files_checked;
        self.refused.extend(other.refused);
    }
}

/// Deletes spans, and keeps them deleted.
#[derive(Debug)]
pub struct Deleter {
    catalog: Arc<Catalog>,
    engine: Arc<QueryEngine>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    rewriting: Rewriting,
    aside: SetAside,
    tombstones: Arc<Tombstones>,
    tombstone_age_max_nano: i64,
    /// Files that were looked at, by tombstone.
    checked: Mutex<HashMap<Uuid, HashSet<Arc<str>>>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Deleter {
    /// A deleter from the tables of `catalog`; `engine` decides which spans match.
    pub fn new(
        catalog: Arc<Catalog>,
        engine: Arc<QueryEngine>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        settings: &Settings,
    ) -> Self {
        let tombstones = Arc::new(Tombstones::new(catalog.store().clone(), Arc::clone(&engine)));
        Self {
            catalog,
            engine,
            clock,
            metrics,
            aside: SetAside::default(),
            tombstones,
            rewriting: Rewriting::new(settings),
            tombstone_age_max_nano: settings.deletion.tombstone_age_max.as_nanos(),
            checked: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }
    }

    /// Deletes the spans that match `filter` and start within `range`, now and when they arrive later. `flush` writes what
    /// is buffered to files.
    ///
    /// # Errors
    /// A filter that is none leaves nothing behind. After any other error the deletion may be half done, and the
    /// maintenance goes on with it. A file that is damaged is such an error; the others are free of what matches then.
    pub async fn delete(
        &self,
        tenant: &TenantId,
        filter: SpanFilter,
        range: TimeRange,
        flush: impl Future<Output = Result<()>>,
    ) -> Result<DeleteReport> {
        if range.start_unix_nano >= range.end_unix_nano {
            let TimeRange { start_unix_nano, end_unix_nano } = range;
            return Err(Error::invalid(format!("the range from {start_unix_nano} to {end_unix_nano} is empty")));
        }
        self.engine.check_filter(&filter).await?;
        self.tombstones.load().await?;
        let tombstone = Tombstone::new(filter, range, self.clock.now_unix_nano());
        let filter = format!("{:?}", tombstone.filter);
        self.tombstones.add(tenant, tombstone).await?;
        crashpoint::hit("delete.after_tombstone");
        flush.await?;
        let report = self.enforce(tenant).await?;
        info!(%tenant, filter, spans = report.spans, files = report.files, refused = report.refused.len(), "deleted");
        if let Some(first) = report.refused.first() {
            let (spans, files) = (report.spans, report.refused.len());
            let message = format!(
                "deleted spans: {spans}; matching ones can be left in files that cannot be rewritten ({files}), such as: {first}"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(report)
    }

    /// The deletions that are remembered.
    pub fn tombstones(&self) -> &Arc<Tombstones> {
        &self.tombstones
    }

    /// Removes what matches a tombstone from the files that have not been looked at, and tombstones that are too old.
    pub async fn enforce(&self, tenant: &TenantId) -> Result<DeleteReport> {
        let _turn = self.one_at_a_time.lock().await;
        self.tombstones.load().await?;
        let mut report = DeleteReport::default();
        let of_tenant = self.tombstones.of(tenant)?;
        if of_tenant.all().is_empty() {
            return Ok(report);
        }
        let table = self.catalog.table(tenant).await?;
        loop {
            let snapshot = table.refresh().await?;
            let mut conflicts = 0;
            report.refused.clear();
            for file in snapshot.files() {
                let due = of_tenant.all().iter().map(AsRef::as_ref);
                let due: Vec<&Tombstone> = due.filter(|tombstone| self.is_due(tombstone, file)).collect();
                if due.is_empty() {
                    continue;
                }
                let now_unix_nano = self.clock.now_unix_nano();
                if let Some(reason) = self.aside.reason(&file.path, now_unix_nano) {
                    report.refused.push(reason);
                    continue;
                }
                match self.enforce_on(&table, file, &due).await {
                    Ok(Some(done)) => report.add(done),
                    Ok(None) => conflicts += 1,
                    Err(error) => {
                        // A store that is away is asked again in the next round, for all files.
                        let Some(damage) = damage(self.catalog.store(), file).await else { return Err(error) };
                        tell_unreadable(&self.metrics, "deletion", file, &damage);
                        self.aside.add(&file.path, now_unix_nano, damage.to_string());
                        report.refused.push(damage.to_string());
                    }
                }
            }
            let mut checked = self.checked.lock();
            for tombstone in of_tenant.all() {
                if let Some(files) = checked.get_mut(&tombstone.id) {
                    files.retain(|path| table.snapshot().file(path).is_some());
                }
            }
            if conflicts == 0 {
                break;
            }
        }
        if !report.refused.is_empty() {
            // What waits for a damaged file to be mended is not over.
            return Ok(report);
        }
        let now = self.clock.now_unix_nano();
        let age = |tombstone: &Tombstone| now.saturating_sub(tombstone.created_unix_nano);
        for expired in of_tenant.all().iter().filter(|tombstone| age(tombstone) > self.tombstone_age_max_nano) {
            self.tombstones.remove(tenant, expired.id).await?;
            self.checked.lock().remove(&expired.id);
        }
        Ok(report)
    }

    fn is_due(&self, tombstone: &Tombstone, file: &LiveFile) -> bool {
        let is_checked = self.checked.lock().get(&tombstone.id).is_some_and(|files| files.contains(&file.path));
        !is_checked && file.can_hold(tombstone.range())
    }

    /// Rewrites a file without what matches; `None` if it has been replaced meanwhile.
    async fn enforce_on(
        &self,
        table: &Arc<Table>,
        file: &Arc<LiveFile>,
        tombstones: &[&Tombstone],
    ) -> Result<Option<DeleteReport>> {
        let mut hits: Option<BooleanBuffer> = None;
        for tombstone in tombstones {
            let found = self.engine.matching_rows(file, &tombstone.filter, tombstone.range()).await?;
            hits = match (hits, found) {
                (Some(hits), Some(found)) => Some(&hits | &found),
                (hits, found) => hits.or(found),
            };
        }
        let mut report = DeleteReport { files_checked: 1, ..DeleteReport::default() };
        let mut clean = vec![Arc::clone(&file.path)];
        if let Some(hits) = hits.filter(|hits| hits.count_set_bits() > 0) {
            let outcome = rewrite(&self.catalog, table, file, Keep::all_but(&hits), self.at_now()).await?;
            let Some(outcome) = outcome else { return Ok(None) };
            report.spans = outcome.dropped;
            report.files = 1;
            clean = outcome.paths;
        }
        let mut checked = self.checked.lock();
        for tombstone in tombstones {
            checked.entry(tombstone.id).or_default().extend(clean.iter().map(Arc::clone));
        }
        Ok(Some(report))
    }

    fn at_now(&self) -> (&Rewriting, i64) {
        (&self.rewriting, self.clock.now_unix_nano())
    }
}

/// How files are rewritten.
#[derive(Clone, Debug)]
pub(super) struct Rewriting {
    file_bytes_max: u64,
    promotion: PromotionSettings,
}

impl Rewriting {
    pub(super) fn new(settings: &Settings) -> Self {
        let file_bytes_max = settings.compaction.file_bytes_max.bytes();
        Self { file_bytes_max, promotion: settings.promotion.clone() }
    }
}

/// What a file was rewritten to.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// Rows that are gone.
    pub(super) dropped: u64,
    /// The new files.
    pub(super) paths: Vec<Arc<str>>,
}

/// Replaces a file by one with the rows that are kept; `None` if it has been replaced meanwhile.
pub(super) async fn rewrite(
    catalog: &Catalog,
    table: &Arc<Table>,
    file: &Arc<LiveFile>,
    keep: Keep,
    (how, now_unix_nano): (&Rewriting, i64),
) -> Result<Option<Rewritten>> {
    let inputs = vec![MergeInput { file: Arc::clone(file), keep }];
    let promotion = promoter::current(&how.promotion, &table.snapshot().declared());
    let target = MergeTarget { file_bytes: how.file_bytes_max, promotion };
    let merged = on_blocking_thread(catalog.store(), inputs, target).await?;
    let (adds, columns) = put(catalog.store(), table, &merged, now_unix_nano).await?;
    crashpoint::hit("delete.after_put");
    let paths = adds.iter().map(|add| Arc::from(add.path.as_str())).collect();
    let removes = vec![Arc::clone(&file.path)];
    let commit = Commit {
        operation: Operation::Delete,
        adds,
        removes,
        transaction: None,
        duplicates: merged.duplicates,
        columns,
    };
    match commit_settled(table, &commit).await {
        Ok(()) => {
            crashpoint::hit("delete.after_commit");
            Ok(Some(Rewritten { dropped: merged.dropped, paths }))
        }
        Err(CatalogError::NotLive { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
