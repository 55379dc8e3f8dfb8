//! Retention: spans leave by age, and the oldest ones when there are too many bytes.
//!
//! - *By age*: a file goes when its last span has expired. One that covers a longer time is rewritten without the expired
//!   spans when half of that time is over, so that a byte is rewritten about once more in its life, and a span stays after
//!   its time for at most half of what its file covers, which is a day at most.
//! - *By size*: while the live files of a tenant, or of all together, have more bytes than allowed, the file goes whose
//!   last span is the oldest.
//!
//! What goes is removed from the table at once and from the disk with the sweep, after the grace; until then it counts
//! neither here nor in any answer, only on the disk.

use std::sync::Arc;

use serde::Serialize;
use tracing::info;

use super::{
    compact::commit_settled,
    delete::{Rewriting, rewrite},
    merge::Keep,
};
use crate::{
    catalog::{Catalog, CatalogError, Commit, LiveFile, Operation, Table},
    clock::Clock,
    config::{RetentionSettings, Settings},
    crashpoint,
    error::Result,
    model::tenant::TenantId,
};

/// Most files that one commit removes.
const REMOVES_MAX: usize = 1_000;

/// A file and the table that lists it.
type TableFile = (Arc<Table>, Arc<LiveFile>);

/// What left the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetentionReport {
    /// Files that were removed whole.
    pub files_removed: usize,
    /// Files that were rewritten.
    pub files_rewritten: usize,
    /// Bytes of the files that were removed whole.
    pub bytes_removed: u64,
}

impl RetentionReport {
    /// Adds the figures of another report.
    pub fn add(&mut self, other: Self) {
        self.files_removed += other.files_removed;
        self.files_rewritten += other.files_rewritten;
        self.bytes_removed += other.bytes_removed;
    }
}

/// Removes what is too old or too much.
#[derive(Debug)]
pub struct Retainer {
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    retention: RetentionSettings,
    rewriting: Rewriting,
}

impl Retainer {
    /// A retainer of the tables of `catalog`.
    pub fn new(catalog: Arc<Catalog>, clock: Arc<dyn Clock>, settings: &Settings) -> Self {
        Self { catalog, clock, retention: settings.retention.clone(), rewriting: Rewriting::new(settings) }
    }

    /// Removes what is too old or too much in the table of one tenant.
    pub async fn retain(&self, tenant: &TenantId) -> Result<RetentionReport> {
        let retention = &self.retention;
        let mut report = RetentionReport::default();
        let (age_max_nano, bytes_max) =
            (retention.age_max_of(tenant.as_str()), retention.bytes_max_of(tenant.as_str()));
        if age_max_nano.is_none() && bytes_max.is_none() {
            return Ok(report);
        }
        let table = self.catalog.table(tenant).await?;
        if let Some(age_max_nano) = age_max_nano {
            let expired = self.clock.now_unix_nano().saturating_sub(age_max_nano);
            report.add(self.by_age(&table, expired).await?);
        }
        if let Some(bytes_max) = bytes_max {
            let snapshot = table.snapshot();
            let files = oldest_first(snapshot.files().map(|file| (Arc::clone(&table), Arc::clone(file))).collect());
            let surplus = surplus(&files, bytes_max);
            report.add(remove(&table, &files[..surplus]).await?);
        }
        if report != RetentionReport::default() {
            info!(%tenant, removed = report.files_removed, rewritten = report.files_rewritten,
                bytes = report.bytes_removed, "retention");
        }
        Ok(report)
    }

    /// Removes the oldest files of all tenants together while they are too many bytes.
    pub async fn retain_total(&self) -> Result<RetentionReport> {
        let bytes_max = self.retention.total_bytes_max.bytes();
        if bytes_max == 0 {
            return Ok(RetentionReport::default());
        }
        let mut files = Vec::new();
        for tenant in self.catalog.tenants().await? {
            let table = self.catalog.table(&tenant).await?;
            files.extend(table.snapshot().files().map(|file| (Arc::clone(&table), Arc::clone(file))));
        }
        let files = oldest_first(files);
        let surplus = surplus(&files, bytes_max);
        let mut report = RetentionReport::default();
        let mut rest: Vec<TableFile> = files.into_iter().take(surplus).collect();
        while let Some((table, _)) = rest.first() {
            let table = Arc::clone(table);
            let (of_table, others): (Vec<TableFile>, Vec<TableFile>) =
                rest.into_iter().partition(|(other, _)| Arc::ptr_eq(other, &table));
            report.add(remove(&table, &of_table).await?);
            rest = others;
        }
        Ok(report)
    }

    async fn by_age(&self, table: &Arc<Table>, expired_unix_nano: i64) -> Result<RetentionReport> {
        let snapshot = table.snapshot();
        let mut whole = Vec::new();
        let mut halves = Vec::new();
        for file in snapshot.files() {
            // Without statistics nothing is known of the age.
            let Some((first, last)) = file.start_range_unix_nano() else { continue };
            if last < expired_unix_nano {
                whole.push((Arc::clone(table), Arc::clone(file)));
            } else if first < expired_unix_nano && expired_unix_nano - first >= last - expired_unix_nano {
                halves.push(Arc::clone(file));
            }
        }
        let mut report = remove(table, &whole).await?;
        for file in halves {
            let how = (&self.rewriting, self.clock.now_unix_nano());
            // One that was replaced meanwhile has its turn in the next round.
            let rewritten = rewrite(&self.catalog, table, &file, Keep::StartingFrom(expired_unix_nano), how).await?;
            report.files_rewritten += usize::from(rewritten.is_some());
        }
        Ok(report)
    }
}

/// Files in the order in which they go.
fn oldest_first(mut files: Vec<TableFile>) -> Vec<TableFile> {
    files.sort_by_key(|(_, file)| {
        let (first, last) = file.start_range_unix_nano().unwrap_or_default();
        (last, first, Arc::clone(&file.path))
    });
    files
}

/// How many of the first files have to go so that the others are no more than `bytes_max`.
fn surplus(files: &[TableFile], bytes_max: u64) -> usize {
    let mut bytes: u64 = files.iter().map(|(_, file)| file.size_bytes).sum();
    let mut gone = 0;
    for (_, file) in files {
        if bytes <= bytes_max {
            break;
        }
        bytes -= file.size_bytes;
        gone += 1;
    }
    gone
}

/// Removes files from a table, without those that are gone already.
async fn remove(table: &Arc<Table>, files: &[TableFile]) -> Result<RetentionReport> {
    let mut report = RetentionReport::default();
    for files in files.chunks(REMOVES_MAX) {
        let mut files: Vec<&Arc<LiveFile>> = files.iter().map(|(_, file)| file).collect();
        while !files.is_empty() {
            let removes = files.iter().map(|file| Arc::clone(&file.path)).collect();
            let commit = Commit {
                operation: Operation::Delete,
                adds: Vec::new(),
                removes,
                transaction: None,
                duplicates: 0,
                columns: Vec::new(),
            };
            match commit_settled(table, &commit).await {
                Ok(()) => {
                    crashpoint::hit("retention.after_commit");
                    report.files_removed += files.len();
                    report.bytes_removed += files.iter().map(|file| file.size_bytes).sum::<u64>();
                    break;
                }
                // Its replacement has its turn in the next round.
                Err(CatalogError::NotLive { path, .. }) => files.retain(|file| *file.path != *path),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(report)
}
