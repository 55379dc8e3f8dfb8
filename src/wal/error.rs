//! What can go wrong with a log.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::error::{Error, ErrorKind};

/// The result of an operation on a log.
pub(super) type Result<T, E = WalError> = std::result::Result<T, E>;

/// Why an operation on a log failed.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The file system refused; the log is as usable as before.
    #[error("cannot {action} {} of the write-ahead log: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process, or another part of this one, has the log open.
    #[error("folder {} is in use by another process, a server or a command, which holds its lock", .dir.display())]
    Locked {
        /// The folder of the log.
        dir: PathBuf,
    },
    /// There is no log to read.
    #[error("folder {} holds no write-ahead log", .dir.display())]
    NotALog {
        /// The folder.
        dir: PathBuf,
    },
    /// A newer build has written this.
    #[error("{} has format version {found}, and this build reads versions up to {supported}", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this build reads.
        supported: u32,
    },
    /// Bytes that were synced are not what was written. Nothing was changed on disk.
    #[error(
        "{} of the write-ahead log is damaged at byte {offset_bytes}: {damage}; acknowledged records may be lost, so \
         nothing was changed: restore the file, or move the folder away to start without its records", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the intact part ends.
        offset_bytes: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// A file that must be there is not. Nothing was changed on disk.
    #[error(
        "the write-ahead log in {} misses {missing}; acknowledged records may be lost, so nothing was changed: restore \
         the file, or move the folder away to start without its records", .dir.display()
    )]
    Missing {
        /// The folder of the log.
        dir: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// The limits contradict each other.
    #[error(
        "record_bytes_max is {record_bytes_max}, which does not fit into bytes_max of {bytes_max}, or not into a frame \
         of {} bytes",
        u32::MAX
    )]
    Settings {
        /// The limit on a record.
        record_bytes_max: u64,
        /// The limit on the log.
        bytes_max: u64,
    },
    /// A record of the group is longer than the limit; nothing of the group was stored.
    #[error("a record of {bytes} bytes is more than the write-ahead log's record_bytes_max of {record_bytes_max}")]
    RecordTooLarge {
        /// Its length with header, tenant and digests.
        bytes: u64,
        /// The limit.
        record_bytes_max: u64,
    },
    /// The log is as long as it may be until a flush succeeds; nothing of the group was stored.
    #[error(
        "the write-ahead log holds {bytes} bytes, and {needed} more would exceed its bytes_max of {bytes_max}; it \
         shrinks when its records are flushed"
    )]
    Full {
        /// Bytes of all segments.
        bytes: u64,
        /// Bytes of the group.
        needed: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The disk is full; nothing of the group was stored, and a later one may succeed.
    #[error("no space left on the disk of the write-ahead log in {} for {needed} bytes", .dir.display())]
    NoSpace {
        /// The folder of the log.
        dir: PathBuf,
        /// Bytes of the group.
        needed: u64,
    },
    /// A write or sync failed, so what is on disk is not known; nothing is acknowledged until a restart has read it.
    #[error("the write-ahead log has stopped, and a restart is needed: {cause}")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
}

impl WalError {
    /// Adapter for `map_err` on calls to the file system.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Io { .. } | WalError::Full { .. } | WalError::NoSpace { .. } | WalError::Poisoned { .. } => {
                ErrorKind::Unavailable
            }
            WalError::Locked { .. } => ErrorKind::Unavailable,
            WalError::NotALog { .. } => ErrorKind::NotFound,
            WalError::Version { .. } => ErrorKind::Unsupported,
            WalError::Damaged { .. } | WalError::Missing { .. } => ErrorKind::Corrupt,
            WalError::Settings { .. } => ErrorKind::InvalidArgument,
            WalError::RecordTooLarge { .. } => ErrorKind::TooLarge,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

/// What is wrong with bytes of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The header of a file is not one, or not of this log.
    #[error("the header is not intact")]
    Header,
    /// The file ends within a frame.
    #[error("a frame of {length} bytes is cut off after {left}")]
    Truncated {
        /// The length of the frame, or of the header that should say so.
        length: u64,
        /// How much of it there is.
        left: u64,
    },
    /// A frame cannot be that short.
    #[error("a frame has the impossible length {length}")]
    Length {
        /// The length that it states.
        length: u64,
    },
    /// The checksum does not match.
    #[error("the checksum does not match")]
    Checksum,
    /// An intact frame is not the one that comes next.
    #[error("sequence {found} follows where {expected} is due")]
    Sequence {
        /// The sequence that comes next.
        expected: u64,
        /// The sequence that the frame states.
        found: u64,
    },
    /// A checksum matches, and the content makes no sense.
    #[error("{what} is not valid")]
    Content {
        /// Which part.
        what: &'static str,
    },
}
