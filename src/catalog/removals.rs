//! When files were removed from a table, as far back as its log is asked.

use std::collections::HashMap;

use object_store::path::Path;

use crate::catalog::{CatalogError, log, table::Table};

impl Table {
    /// The files that commits at or after `since_unix_milli` removed, by where they are in the store, with the time of
    /// their last removal in Unix milliseconds. Commits that the retention of the log deleted are not seen.
    ///
    /// # Errors
    /// The store failed.
    pub async fn removed_since(&self, since_unix_milli: i64) -> Result<HashMap<Path, i64>, CatalogError> {
        let mut removed = HashMap::new();
        let Some(newest) = self.snapshot().version() else { return Ok(removed) };
        for version in (0..=newest).rev() {
            let Some(actions) = log::read_commit(self.store(), self.folder(), version).await? else { break };
            let mut committed = None;
            for action in actions {
                if let Some(remove) = action.remove
                    && let Ok(relative) = Path::from_url_path(&remove.path)
                {
                    let location = Path::from_iter(self.folder().path().parts().chain(relative.parts()));
                    // Without a time, as other writers may leave it, the file counts as removed just now.
                    removed.entry(location).or_insert(remove.deletion_timestamp.unwrap_or(i64::MAX));
                }
                committed = committed.or(action.commit_info.and_then(|info| info.timestamp));
            }
            if committed.is_some_and(|committed| committed < since_unix_milli) {
                break;
            }
        }
        Ok(removed)
    }
}
