//! What keeps the tables small, fast and within their bounds, behind the back of ingest and queries.
//!
//! Nothing here blocks a writer or a reader: every change is a commit to a table like a flush, against the rules of the
//! [`catalog`](crate::catalog). A query goes on with the snapshot that it has; the files of it stay for a grace.
//!
//! - [`compact`]: small files become large ones, neighbours in time first ([`pick`]), by a streaming [`merge`].
//! - [`retain`]: spans leave by age and by size.
//! - [`delete`]: spans are deleted for good, with a [`tombstone`] that keeps them from coming back ([`tombstones`]).
//! - [`sweep`]: files that no table lists any more, or that a crashed writer left, are deleted after the grace.
//! - [`copy`]: tables are backed up and restored.
//! - What cannot be read, or is not what was written, stays as it is and is told of (`aside`); the work goes on with other files.
//! - [`verify`] checks all that can be checked, [`inspect`] shows what there is; neither changes anything.
//! - [`service`] does all of it again and again in a server.

pub mod compact;
mod merge;
mod pick;

pub mod delete;
pub mod retain;
pub mod tombstone;
pub mod tombstones;

pub mod sweep;

pub mod copy;
pub mod inspect;
pub mod verify;

mod aside;
mod looks;
pub mod service;

use tracing::error;

use crate::{
    catalog::LiveFile,
    error::{Error, ErrorKind},
    metrics::Metrics,
};

/// Tells operators that a file could not be rewritten; `by` is `compaction`, `deletion` or `retention`.
fn tell_unreadable(metrics: &Metrics, by: &'static str, file: &LiveFile, error: &Error) {
    let source = std::error::Error::source(error);
    error!(file = %file.location, by, %error, ?source, "cannot rewrite a file; its spans stay in it, and `verify` says more");
    metrics.count_unreadable_file(by);
}

/// A file of a table could not be read as what the table says it is.
fn failed_to_read(file: &LiveFile, cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot read file {}", file.location)).with_source(cause)
}
