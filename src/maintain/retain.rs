//! Retention: spans leave by age, and the oldest ones when there are too many bytes.
//!
//! - *By age*: a file goes when its last span has expired. One that covers a longer time is rewritten without the expired
//!   spans when half of that time is over, so that a byte is rewritten about once more in its life, and a span stays after
//!   its time for at most half of what its file covers, which is a day at most. A damaged file is not rewritten; it goes when
//!   all of it has expired.
//! - *By size*: while the live files of a tenant, or of all together, have more bytes than allowed, the file goes whose
//!   last span is the oldest.
//!
//! What goes is removed from the table at once and from the disk with the sweep, after the grace; until then it counts
//! neither here nor in any answer, only on the disk.
//!
//! Whoever finds spans gone can find out why: each round that removes something logs for each tenant how much went, from
//! which time and for which [`Reason`], and counts it in `tracehouse_retention_*_total`.

use std::sync::Arc;

use serde::Serialize;
use tracing::info;

use super::{
    aside::SetAside,
    compact::commit_settled,
    delete::{Rewriting, rewrite},
    inspect::moment,
    merge::{Keep, damage},
    tell_unreadable,
};
use crate::{
    catalog::{Catalog, CatalogError, Commit, LiveFile, Operation, Table},
    clock::Clock,
    config::{RetentionSettings, Settings},
    crashpoint,
    error::Result,
    metrics::Metrics,
    model::tenant::TenantId,
};

/// Most files that one commit removes.
const REMOVES_MAX: usize = 1_000;

/// A file and the table that lists it.
type TableFile = (Arc<Table>, Arc<LiveFile>);

/// Which limit spans leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `retention.age_max` or what a tenant has instead.
    Age,
    /// `retention.bytes_max` or what a tenant has instead.
    Bytes,
    /// `retention.total_bytes_max`.
    TotalBytes,
}

impl Reason {
    /// The setting's name, which is also the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Age => "age_max",
            Self::Bytes => "bytes_max",
            Self::TotalBytes => "total_bytes_max",
        }
    }
}

/// What left the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetentionReport {
    /// Files that were removed whole.
    pub files_removed: usize,
    /// Files that were rewritten.
    pub files_rewritten: usize,
    /// Bytes of the files that were removed whole.
    pub bytes_removed: u64,
    /// Spans in the files that were removed whole, as far as the table knows their number.
    pub spans_removed: u64,
    /// First and last start of the spans in the files that were removed whole, in Unix nanoseconds.
    pub starts_removed: Option<(i64, i64)>,
}

impl RetentionReport {
    /// Adds the figures of another report.
    pub fn add(&mut self, other: Self) {
        self.files_removed += other.files_removed;
        self.files_rewritten += other.files_rewritten;
        self.bytes_removed += other.bytes_removed;
        self.spans_removed += other.spans_removed;
        self.see(other.starts_removed);
    }

    fn see(&mut self, starts: Option<(i64, i64)>) {
        self.starts_removed = match (self.starts_removed, starts) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (one, other) => one.or(other),
        };
    }
}

/// Removes what is too old or too much.
#[derive(Debug)]
pub struct Retainer {
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    retention: RetentionSettings,
    rewriting: Rewriting,
    aside: SetAside,
}

impl Retainer {
    /// A retainer of the tables of `catalog`.
    pub fn new(catalog: Arc<Catalog>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, settings: &Settings) -> Self {
        Self {
            catalog,
            clock,
            metrics,
            retention: settings.retention.clone(),
            rewriting: Rewriting::new(settings),
            aside: SetAside::default(),
        }
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
            let by_age = self.by_age(&table, expired).await?;
            self.tell(tenant, Reason::Age, &by_age);
            report.add(by_age);
        }
        if let Some(bytes_max) = bytes_max {
            let snapshot = table.snapshot();
            let files = oldest_first(snapshot.files().map(|file| (Arc::clone(&table), Arc::clone(file))).collect());
            let surplus = surplus(&files, bytes_max);
            let by_bytes = remove(&table, &files[..surplus]).await?;
            self.tell(tenant, Reason::Bytes, &by_bytes);
            report.add(by_bytes);
        }
        Ok(report)
    }

    /// Removes the oldest files of all tenants together while they are too many bytes.
    pub async fn retain_total(&self) -> Result<RetentionReport> {
        let bytes_max = self.retention.total_bytes_max.bytes();
        if bytes_max == 0 {
            return Ok(RetentionReport::default());
        }
        let (mut files, mut tables) = (Vec::new(), Vec::new());
        for tenant in self.catalog.tenants().await? {
            let table = self.catalog.table(&tenant).await?;
            files.extend(table.snapshot().files().map(|file| (Arc::clone(&table), Arc::clone(file))));
            tables.push((tenant, table));
        }
        let files = oldest_first(files);
        let surplus = surplus(&files, bytes_max);
        let mut report = RetentionReport::default();
        let going = &files[..surplus];
        for (tenant, table) in tables {
            let of_table = going.iter().filter(|(other, _)| Arc::ptr_eq(other, &table));
            let of_table: Vec<TableFile> =
                of_table.map(|(table, file)| (Arc::clone(table), Arc::clone(file))).collect();
            let removed = remove(&table, &of_table).await?;
            self.tell(&tenant, Reason::TotalBytes, &removed);
            report.add(removed);
        }
        Ok(report)
    }

    /// Logs and counts what left a table.
    fn tell(&self, tenant: &TenantId, reason: Reason, report: &RetentionReport) {
        if *report == RetentionReport::default() {
            return;
        }
        self.metrics.count_retention(reason.name(), report.files_removed, report.bytes_removed, report.files_rewritten);
        let starts = report.starts_removed;
        let (oldest, newest) = (starts.map(|starts| moment(starts.0)), starts.map(|starts| moment(starts.1)));
        info!(%tenant, limit = reason.name(), files = report.files_removed, bytes = report.bytes_removed,
            spans = report.spans_removed, oldest, newest, rewritten = report.files_rewritten, "retention");
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
            if self.aside.reason(&file.path, how.1).is_some() {
                continue;
            }
            // One that was replaced meanwhile has its turn in the next round.
            match rewrite(&self.catalog, table, &file, Keep::StartingFrom(expired_unix_nano), how).await {
                Ok(rewritten) => report.files_rewritten += usize::from(rewritten.is_some()),
                Err(error) => {
                    let Some(damage) = damage(self.catalog.store(), &file).await else { return Err(error) };
                    tell_unreadable(&self.metrics, "retention", &file, &damage);
                    self.aside.add(&file.path, how.1, damage.to_string());
                }
            }
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
                    for file in &files {
                        report.bytes_removed += file.size_bytes;
                        report.spans_removed += file.rows().unwrap_or_default();
                        report.see(file.start_range_unix_nano());
                    }
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
