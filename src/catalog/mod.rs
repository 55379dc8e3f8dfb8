//! Which data files are live, and since which record of the write-ahead log: one Delta table per tenant.
//!
//! A flush or a compaction hands a [`Commit`] to a [`Table`]; readers take the table's [`Snapshot`]. Nothing is locked
//! and no server is asked: a commit is one object, created under the next number if nobody else has created it.
//!
//! ```text
//! tenants/<tenant>/spans/_delta_log/
//!   00000000000000000000.json        commit 0: protocol, metaData, what the first flush added
//!   00000000000000000001.json        commit 1: {"add":..} {"remove":..} {"txn":..} {"metaData":..} {"commitInfo":..}
//!   00000000000000000100.checkpoint.parquet     all live actions as of commit 100
//!   _last_checkpoint                 a hint: which checkpoint is the newest
//! ```
//!
//! - *Who writes*: any process commits; the one whose commit has a number divisible by
//!   [`CatalogSettings::checkpoint_interval_commits`] also writes the checkpoint, in the background.
//! - *Who deletes*: after a checkpoint, the same process deletes commits and checkpoints that are older than the
//!   retention and that an older checkpoint than the retention covers.
//! - *Torn writes*: none are visible; a commit is created whole or not at all, and is durable when the committer goes on.
//! - *Format*: public Delta protocol, reader 1 and writer 2, no table features, partition column `date`. The property
//!   `tracehouse.formatVersion` says how we use it; a greater one than [`FORMAT_VERSION`] is refused.
//!
//! A line of a commit that concerns us is one of:
//!
//! ```text
//! {"add":{"path":"date=2026-11-21/<uuid>.parquet","partitionValues":{"date":"2026-11-21"},"size":..,
//!         "modificationTime":<ms>,"dataChange":true,"stats":"<json>","tags":{..}}}
//!         tags: "tracehouse.traces": where the filter of trace ids is in the file
//! {"remove":{"path":..,"deletionTimestamp":<ms>,"dataChange":..,"extendedFileMetadata":true,"partitionValues":..,"size":..}}
//! {"txn":{"appId":"<log uuid>","version":<last record>,"lastUpdated":<ms>}}
//!         appId "tracehouse-duplicates": how many spans compaction has dropped because an equal one stays
//! {"commitInfo":{"timestamp":<ms>,"operation":"WRITE","engineInfo":"tracehouse/..","commitId":"<uuid>",..}}
//! ```
//!
//! Opening a table and writing checkpoints is `delta_kernel`'s work (`open`, `checkpoint`); the commit loop over the
//! snapshot in memory is ours ([`Table`], [`commit`]), because only so does a commit cost the same at any number of
//! files, and only so do two compactions of the same file never both succeed.
//!
//! Absent on purpose: deletion vectors, column mapping and every other table feature (tables that have them are
//! refused), and time travel.

pub mod action;
mod checkpoint;
pub mod commit;
mod error;
mod kernel;
mod log;
mod open;
mod removals;
pub mod schema;
mod settings;
mod snapshot;
pub mod statistics;
mod table;
mod tables;

pub use self::{
    commit::{Commit, CommitOutcome, NewFile, Operation, Transaction, columns_of},
    error::CatalogError,
    log::LogFile,
    settings::CatalogSettings,
    snapshot::{LiveFile, Snapshot},
    statistics::{ColumnStatistics, FileStatistics, StatisticsValue},
    table::Table,
    tables::Catalog,
};

/// The version of the on-disk form that this program writes, and the greatest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The property of a table that holds its on-disk form's version.
pub const FORMAT_VERSION_PROPERTY: &str = "tracehouse.formatVersion";
