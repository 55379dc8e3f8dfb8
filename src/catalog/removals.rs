//! When files were removed from a table, as far back as its log is asked.
//!
//! Commits never change, so each is read for this once; what is remembered of them reaches as far back as was last asked.

use std::collections::{BTreeMap, HashMap};

use object_store::path::Path;

use crate::catalog::{CatalogError, log, table::Table};

/// What a commit removed.
#[derive(Clone, Debug)]
struct Removed {
    /// When it was made, in Unix milliseconds; unknown of other writers' commits that do not say.
    committed_unix_milli: Option<i64>,
    /// Where the files are in the store, with the time of their removal in Unix milliseconds.
    files: Vec<(Path, i64)>,
}

/// What commits removed, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Removals(BTreeMap<u64, Removed>);

impl Table {
    /// The files that commits at or after `since_unix_milli` removed, by where they are in the store, with the time of
    /// their last removal in Unix milliseconds. Commits that the retention of the log deleted are not seen.
    ///
    /// # Errors
    /// The store failed.
    pub async fn removed_since(&self, since_unix_milli: i64) -> Result<HashMap<Path, i64>, CatalogError> {
        let mut removed = HashMap::new();
        let Some(newest) = self.snapshot().version() else { return Ok(removed) };
        let mut oldest = newest;
        for version in (0..=newest).rev() {
            let known = self.removals().lock().0.get(&version).cloned();
            let of_commit = match known {
                Some(known) => known,
                None => {
                    let Some(read) = self.read_removals(version).await? else { break };
                    self.removals().lock().0.insert(version, read.clone());
                    read
                }
            };
            for (location, removed_unix_milli) in of_commit.files {
                removed.entry(location).or_insert(removed_unix_milli);
            }
            oldest = version;
            if of_commit.committed_unix_milli.is_some_and(|committed| committed < since_unix_milli) {
                break;
            }
        }
        let mut removals = self.removals().lock();
        removals.0 = removals.0.split_off(&oldest);
        Ok(removed)
    }

    async fn read_removals(&self, version: u64) -> Result<Option<Removed>, CatalogError> {
        let Some(actions) = log::read_commit(self.store(), self.folder(), version).await? else { return Ok(None) };
        let mut of_commit = Removed { committed_unix_milli: None, files: Vec::new() };
        for action in actions {
            if let Some(remove) = action.remove
                && let Ok(relative) = Path::from_url_path(&remove.path)
            {
                let location = Path::from_iter(self.folder().path().parts().chain(relative.parts()));
                // Without a time, as other writers may leave it, the file counts as removed just now.
                of_commit.files.push((location, remove.deletion_timestamp.unwrap_or(i64::MAX)));
            }
            let committed = action.commit_info.and_then(|info| info.timestamp);
            of_commit.committed_unix_milli = of_commit.committed_unix_milli.or(committed);
        }
        Ok(Some(of_commit))
    }
}
