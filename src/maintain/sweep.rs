//! Deleting files that no table lists: replaced ones, and what crashed writers left.
//!
//! ```text
//!  list date=*/*.parquet  ->  read the table's log to its end  ->  not live: garbage since when?
//!
//!    removed by a commit     since the time in the commit
//!    never listed            since its birth, which its name tells (UUID version 7); else since it was written
//!
//!  garbage for longer than the grace -> deleted
//! ```
//!
//! The list is made before the log is read, so a file that is committed in between is live. A writer that has not
//! committed its files within half of the grace gives them up, so none of them can become live after it was taken for
//! garbage. All times but those of foreign files are the [`Clock`]'s.
//!
//! Old entries of the table's log go with its checkpoints ([`catalog`](crate::catalog)).

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, path::Path};
use tracing::info;

use crate::{
    catalog::Catalog,
    clock::Clock,
    crashpoint,
    error::Result,
    metrics::Metrics,
    model::{schema::column, tenant::TenantId},
    storage::{
        paths::{self, TableFolder},
        store::Store,
    },
};

/// Files that are deleted at once.
const DELETES_MAX: usize = 16;

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Files that were deleted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files in no table that stay because of the grace.
    pub waiting_files: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
}

impl SweepReport {
    /// Adds the figures of another report.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.waiting_files += other.waiting_files;
        self.waiting_bytes += other.waiting_bytes;
    }
}

/// Deletes what no table lists.
#[derive(Debug)]
pub struct Sweeper {
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    grace: Duration,
}

impl Sweeper {
    /// A sweeper of the tables of `catalog`. `grace` must be longer than the longest query.
    pub fn new(catalog: Arc<Catalog>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, grace: Duration) -> Self {
        Self { catalog, clock, metrics, grace }
    }

    /// Deletes the garbage of one table.
    pub async fn sweep(&self, tenant: &TenantId) -> Result<SweepReport> {
        let table = self.catalog.table(tenant).await?;
        let store = self.catalog.store();
        let mut stored: Vec<ObjectMeta> = store.list(table.folder().path()).try_collect().await?;
        stored.retain(|object| is_data_file(table.folder(), &object.location));
        let snapshot = table.refresh().await?;
        let live: HashSet<&Path> = snapshot.files().map(|file| &file.location).collect();
        let now_unix_milli = self.clock.now_unix_nano() / 1_000_000;
        let grace_milli = i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX);
        let expired_unix_milli = now_unix_milli.saturating_sub(grace_milli);
        stored.retain(|object| !live.contains(&object.location));
        let mut report = SweepReport::default();
        if stored.is_empty() {
            return Ok(report);
        }
        // Twice the grace back, for committers whose clocks differ.
        let removed = table.removed_since(expired_unix_milli.saturating_sub(grace_milli)).await?;
        let mut expired = Vec::new();
        for object in &stored {
            let since = match removed.get(&object.location) {
                Some(removed_unix_milli) => *removed_unix_milli,
                None => since(object, store.local_folder().is_some()),
            };
            if since < expired_unix_milli {
                report.files += 1;
                report.bytes += object.size;
                expired.push(object.location.clone());
            } else {
                report.waiting_files += 1;
                report.waiting_bytes += object.size;
            }
        }
        delete(store, expired).await?;
        self.metrics.swept_files.inc_by(report.files as u64);
        self.metrics.swept_bytes.inc_by(report.bytes);
        if report.files > 0 {
            info!(%tenant, files = report.files, bytes = report.bytes, "deleted files that no table lists");
        }
        Ok(report)
    }
}

/// When a file came that no table has ever listed, in milliseconds since the epoch.
fn since(object: &ObjectMeta, is_local: bool) -> i64 {
    let modified = object.last_modified.timestamp_millis();
    match paths::born_unix_milli(&object.location) {
        Some(born) if is_local => born,
        // A file for a bucket can have waited long for its upload, and is not committed before that has ended.
        Some(born) => born.max(modified),
        None => modified,
    }
}

async fn delete(store: &Store, locations: Vec<Path>) -> Result<()> {
    let delete_one = |location: Path| {
        let store = store.clone();
        async move {
            store.delete(&location).await?;
            crashpoint::hit("sweep.after_delete");
            Ok(())
        }
    };
    stream::iter(locations).map(delete_one).buffer_unordered(DELETES_MAX).try_collect().await
}

/// Whether this is a data file of the table: everything else below its folder is left alone.
pub(super) fn is_data_file(folder: &TableFolder, location: &Path) -> bool {
    let Some(mut parts) = location.prefix_match(folder.path()) else { return false };
    let (Some(day), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_day = day.as_ref().strip_prefix(column::DATE).is_some_and(|rest| rest.starts_with('='));
    is_day && name.as_ref().ends_with(".parquet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_day_are_data_files() {
        let folder = TableFolder::of_tenant(&TenantId::single());
        for (relative, expected) in [
            ("date=2026-11-21/a.parquet", true),
            ("date=2026-11-21/a.json", false),
            ("a.parquet", false),
            ("_delta_log/00000000000000000100.checkpoint.parquet", false),
            ("date=2026-11-21/x/a.parquet", false),
        ] {
            assert_eq!(is_data_file(&folder, &folder.file(relative)), expected, "{relative}");
        }
        assert!(!is_data_file(&folder, &Path::from("tenants/other/spans/date=2026-11-21/a.parquet")));
    }
}
