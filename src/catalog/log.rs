//! The objects of a table's log: their names, and reading one.

use futures::TryStreamExt as _;
use object_store::path::Path;

use crate::{
    catalog::{
        CatalogError,
        action::{self, Action},
    },
    storage::{paths::TableFolder, store::Store},
};

/// What an object in the log's folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFile {
    /// A commit.
    Commit(u64),
    /// A checkpoint, or a part of one.
    Checkpoint(u64),
    /// Anything else.
    Other,
}

impl LogFile {
    /// What an object of this name is.
    pub fn of_path(path: &Path) -> Self {
        let name = path.filename().unwrap_or_default();
        let Some((digits, rest)) = name.split_once('.') else { return LogFile::Other };
        let version = if digits.len() == 20 { digits.parse().ok() } else { None };
        match (version, rest) {
            (Some(version), "json") => LogFile::Commit(version),
            (Some(version), rest) if rest.starts_with("checkpoint.") => LogFile::Checkpoint(version),
            _ => LogFile::Other,
        }
    }
}

/// The folder of the log.
pub(super) fn folder(table: &TableFolder) -> Path {
    table.file("_delta_log")
}

/// The object of commit `version`.
pub(super) fn commit_path(table: &TableFolder, version: u64) -> Path {
    table.file(&format!("_delta_log/{version:020}.json"))
}

/// Whether there is a table at all.
pub(super) async fn exists(store: &Store, table: &TableFolder) -> Result<bool, CatalogError> {
    let mut objects = store.list(&folder(table));
    while let Some(object) = objects.try_next().await? {
        if LogFile::of_path(&object.location) != LogFile::Other {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The actions of commit `version`, `None` if there is no such commit (yet, or any more).
pub(super) async fn read_commit(
    store: &Store,
    table: &TableFolder,
    version: u64,
) -> Result<Option<Vec<Action>>, CatalogError> {
    let path = commit_path(table, version);
    let Some(bytes) = store.get(&path).await? else { return Ok(None) };
    let actions = action::decode(&bytes)
        .map_err(|error| CatalogError::Corrupt { table: table.path().clone(), detail: format!("{path}: {error}") })?;
    Ok(Some(actions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tenant::TenantId;

    #[test]
    fn files_of_the_log_are_known_by_their_names() {
        let table = TableFolder::of_tenant(&TenantId::single());
        assert_eq!(LogFile::of_path(&commit_path(&table, 17)), LogFile::Commit(17));
        for (name, expected) in [
            ("00000000000000000100.checkpoint.parquet", LogFile::Checkpoint(100)),
            ("00000000000000000100.checkpoint.0000000001.0000000002.parquet", LogFile::Checkpoint(100)),
            ("_last_checkpoint", LogFile::Other),
            ("00000000000000000100.crc", LogFile::Other),
            ("1.json", LogFile::Other),
        ] {
            assert_eq!(LogFile::of_path(&Path::from(name)), expected, "{name}");
        }
    }
}
