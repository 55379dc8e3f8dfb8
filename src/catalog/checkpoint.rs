//! Checkpoints and what they make superfluous.
//!
//! Neither changes the state of a table, so neither is part of a commit: both run in the background, and a failure is
//! logged and made good by the next one.

use std::time::Duration;

use delta_kernel::Snapshot as KernelSnapshot;
use futures::TryStreamExt as _;
use object_store::ObjectMeta;

use crate::{
    catalog::{
        CatalogError, kernel,
        log::{self, LogFile},
    },
    storage::{paths::TableFolder, store::Store},
};

/// Writes the state of a table after commit `version` as one file.
pub(super) async fn write(store: &Store, folder: &TableFolder, version: u64) -> Result<(), CatalogError> {
    kernel::run(store, folder, move |engine, address| {
        let snapshot = KernelSnapshot::builder_for(address).at_version(version).build(engine)?;
        snapshot.checkpoint(engine, None).map(|_| ())
    })
    .await
}

/// Deletes commits and checkpoints that a checkpoint older than `retention` covers; returns how many.
pub(super) async fn clean(
    store: &Store,
    folder: &TableFolder,
    now_unix_nano: i64,
    retention: Duration,
) -> Result<usize, CatalogError> {
    let objects: Vec<ObjectMeta> = store.list(&log::folder(folder)).try_collect().await?;
    let is_expired = |object: &ObjectMeta| {
        let written_unix_nano = i128::from(object.last_modified.timestamp_millis()) * 1_000_000;
        i128::from(now_unix_nano).saturating_sub_unsigned(retention.as_nanos()) > written_unix_nano
    };
    let expired_checkpoints = objects.iter().filter(|object| is_expired(object)).filter_map(|object| {
        match LogFile::of_path(&object.location) {
            LogFile::Checkpoint(version) => Some(version),
            LogFile::Commit(_) | LogFile::Other => None,
        }
    });
    let Some(covered) = expired_checkpoints.max() else { return Ok(0) };
    let mut deleted = 0;
    for object in objects {
        let is_covered = match LogFile::of_path(&object.location) {
            LogFile::Commit(version) | LogFile::Checkpoint(version) => version < covered,
            LogFile::Other => false,
        };
        if is_covered && is_expired(&object) {
            store.delete(&object.location).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}
