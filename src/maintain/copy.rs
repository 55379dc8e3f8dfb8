//! Copies of tables in another place: backups, and what is restored from them.
//!
//! ```text
//!  all tombstones
//!  for each table:  its state at commit V
//!                   -> the files that are live then, each against its length and checksum
//!                   -> checkpoints up to V -> commits up to V, in order
//! ```
//!
//! A copy is a table like any other: readers, the server and `verify` take it as it is. It is whole at every moment, because
//! the log goes last; it holds the spans that were in files at commit V, and no others. The source can be written to,
//! compacted and queried meanwhile. Files of V that are replaced stay for the grace; where a copy takes longer, it goes on with
//! a newer state.
//!
//! A copy into a place that has an earlier copy adds what has come since, and costs as much. Files that are no longer live
//! stay there until a server or `tracehouse compact` that has the place sweeps them.
//!
//! Plain copying tools are not safe on a table that is written to: of two commits they can bring the later one alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use serde::Serialize;
use tracing::info;

use super::tombstone;
use crate::{
    catalog::{Catalog, LiveFile, LogFile, Snapshot},
    error::{Error, ErrorKind, Result},
    model::tenant::TenantId,
    storage::{
        paths,
        store::{PutNew, Store},
    },
};

/// Files that are copied at once; each is in memory as a whole.
const FILES_AT_ONCE_MAX: usize = 4;

/// How often a copy begins anew because files of the state that it copies have been deleted.
const ATTEMPTS_MAX: u32 = 5;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Spans in the copied state.
    pub spans: u64,
    /// Data files that were copied.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Data files that were there already.
    pub files_there: usize,
    /// The commit that the copy ends with.
    pub version: u64,
}

/// Copies every table of `from`, and what was deleted from it; per tenant.
///
/// # Errors
/// The target holds something else under the name of a table, a file is not what the table says it is, or a store fails.
/// What was copied until then stays, and the next copy goes on from there.
pub async fn copy_tables(from: &Catalog, to: &Store) -> Result<Vec<(TenantId, CopyReport)>> {
    copy_tombstones(from.store(), to).await?;
    let mut reports = Vec::new();
    for tenant in from.tenants().await? {
        if let Some(report) = copy_table(from, to, &tenant).await? {
            info!(%tenant, version = report.version, files = report.files, bytes = report.bytes, "copied");
            reports.push((tenant, report));
        }
    }
    Ok(reports)
}

/// Whether there are tables in a store.
pub async fn has_tables(store: &Store) -> Result<bool> {
    Ok(!store.list_folders(&paths::tenants_folder()).await?.is_empty())
}

async fn copy_tombstones(from: &Store, to: &Store) -> Result<()> {
    let mut objects = from.list(&paths::all_tombstones_folder());
    while let Some(object) = objects.try_next().await? {
        if let Some(bytes) = from.get(&object.location).await? {
            // One that is there is this one: their names are never used again.
            let (PutNew::Created | PutNew::AlreadyExists) = to.put_new(&object.location, bytes).await?;
        }
    }
    for folder in from.list_folders(&paths::tenants_folder()).await? {
        let Some(tenant) = paths::tenant_of_folder(&folder) else { continue };
        for former in tombstone::former(from, &tenant).await? {
            let (PutNew::Created | PutNew::AlreadyExists) = to.put_new(&former.place, former.bytes).await?;
        }
    }
    Ok(())
}

/// `None` for a folder without a table.
async fn copy_table(from: &Catalog, to: &Store, tenant: &TenantId) -> Result<Option<CopyReport>> {
    let table = from.table(tenant).await?;
    let log = table.log_folder();
    let mut report = CopyReport::default();
    for attempt in 1.. {
        let snapshot = table.refresh().await?;
        let Some(version) = snapshot.version() else { return Ok(None) };
        check_target(from.store(), to, &log, version).await?;
        match copy_files(from.store(), to, &snapshot, &mut report).await? {
            None => {
                copy_log(from.store(), to, &log, version).await?;
                return Ok(Some(CopyReport { spans: snapshot.rows(), version, ..report }));
            }
            Some(gone) if attempt == ATTEMPTS_MAX => {
                let message = format!(
                    "{gone} was replaced and deleted while it was about to be copied, {attempt} times; raise compaction.grace"
                );
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Refuses a target that has another table under this name, or a later state of it.
async fn check_target(from: &Store, to: &Store, log: &Path, version: u64) -> Result<()> {
    let there = log_objects(to, log).await?;
    let Some(newest) = there.commits.keys().chain(there.checkpoints.keys()).max() else { return Ok(()) };
    let other = |detail: String| Err(Error::invalid(format!("{log} of the target cannot take this copy: {detail}")));
    if *newest > version {
        return other(format!("it ends with commit {newest}, later than the copied {version}"));
    }
    for (at, path) in there.commits.iter().rev() {
        let (Some(theirs), Some(ours)) = (to.get(path).await?, from.get(path).await?) else { continue };
        if theirs != ours {
            return other(format!("its commit {at} is another"));
        }
        break;
    }
    Ok(())
}

/// Copies the live files; gives one that is gone.
async fn copy_files(from: &Store, to: &Store, snapshot: &Snapshot, report: &mut CopyReport) -> Result<Option<Path>> {
    let objects: Vec<_> = to.list(snapshot.folder().path()).try_collect().await?;
    let there: HashMap<Path, u64> = objects.into_iter().map(|object| (object.location, object.size)).collect();
    report.files_there = 0;
    let mut missing = Vec::new();
    for file in snapshot.files() {
        match there.get(&file.location) {
            Some(bytes) if *bytes == file.size_bytes => report.files_there += 1,
            _ => missing.push(file),
        }
    }
    // Those of an attempt before this one count as copied.
    report.files_there -= report.files.min(report.files_there);
    let copies = missing.into_iter().map(|file| copy_file(from, to, file)).collect::<Vec<_>>();
    let mut copies = stream::iter(copies).buffer_unordered(FILES_AT_ONCE_MAX);
    let mut gone = None;
    while let Some(copied) = copies.try_next().await? {
        match copied {
            Ok(bytes) => {
                report.files += 1;
                report.bytes += bytes;
            }
            Err(location) => gone = Some(location),
        }
    }
    Ok(gone)
}

/// Copies one file and gives its length; its place if it is gone.
async fn copy_file(from: &Store, to: &Store, file: &LiveFile) -> Result<std::result::Result<u64, Path>> {
    let Some(bytes) = from.get(&file.location).await? else { return Ok(Err(file.location.clone())) };
    if let Some(difference) = file.differences(bytes.len() as u64, crc32c::crc32c(&bytes)).first() {
        let message =
            format!("{} is not what the table says it is: it {difference}; tracehouse verify says more", file.location);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let length = bytes.len() as u64;
    to.put_file(&file.location, bytes).await?;
    Ok(Ok(length))
}

/// The objects of a table's log that have a version.
struct LogObjects {
    commits: BTreeMap<u64, Path>,
    checkpoints: BTreeMap<u64, BTreeSet<Path>>,
}

async fn log_objects(store: &Store, log: &Path) -> Result<LogObjects> {
    let mut found = LogObjects { commits: BTreeMap::new(), checkpoints: BTreeMap::new() };
    let mut objects = store.list(log);
    while let Some(object) = objects.try_next().await? {
        match LogFile::of_path(&object.location) {
            LogFile::Commit(version) => {
                found.commits.insert(version, object.location);
            }
            LogFile::Checkpoint(version) => {
                found.checkpoints.entry(version).or_default().insert(object.location);
            }
            LogFile::Other => {}
        }
    }
    Ok(found)
}

/// Copies what is needed of the log to read it up to `version`: the newest checkpoint before it, and all commits.
async fn copy_log(from: &Store, to: &Store, log: &Path, version: u64) -> Result<()> {
    let here = log_objects(from, log).await?;
    let checkpoint = here.checkpoints.range(..=version).next_back();
    let commits = here.commits.range(..=version).map(|(_, path)| path);
    for path in checkpoint.into_iter().flat_map(|(_, paths)| paths).chain(commits) {
        // What the log's retention deletes meanwhile is covered by a checkpoint that was there before.
        if let Some(bytes) = from.get(path).await?
            && to.put_new(path, bytes.clone()).await? == PutNew::AlreadyExists
            && to.get(path).await?.is_some_and(|there| there != bytes)
        {
            return Err(Error::invalid(format!("the target has another {path}: somebody else writes there")));
        }
    }
    Ok(())
}
