//! Flushes whose files are written and wait for their upload to a bucket.

use std::sync::Arc;

use crate::{
    catalog::{Commit, LiveFile},
    wal::RecordNumber,
};

/// A prefix of a tenant's records as files on this machine, and the commit that makes them part of the table.
#[derive(Clone, Debug)]
pub struct StagedFlush {
    /// Number of the last record in it: the version of the commit's transaction.
    pub through: RecordNumber,
    /// The files as views name them, under the names that they will have in the bucket.
    pub files: Vec<Arc<LiveFile>>,
    /// What is committed once the files are in the bucket.
    pub commit: Commit,
    /// When the oldest of its records was received, in Unix nanoseconds.
    pub received_unix_nano: i64,
}
