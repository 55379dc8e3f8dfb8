//! The segment that is being written: the one descriptor of the log, and how its failures are told apart.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    time::{Duration, Instant},
};

use super::{directory::Directory, segment::Segment};
use crate::crashpoint;

/// A segment that this process has created and not finished.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Segment,
    file: File,
}

/// Why a group was not stored.
#[derive(Debug)]
pub(super) enum WriteFailure {
    /// The disk is full, and what was written has been taken back. A segment that was new is gone.
    NoSpace,
    /// What is on disk is not known. The descriptor must not be used again.
    Broken { action: &'static str, error: io::Error },
}

impl WriteFailure {
    fn broken(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Broken { action, error }
    }
}

impl Active {
    /// Creates the file of a segment. It must not exist; nothing is written yet.
    pub(super) fn create(segment: Segment) -> io::Result<Self> {
        crashpoint::io("wal.append.create")?;
        let file = OpenOptions::new().append(true).create_new(true).open(&segment.path)?;
        crashpoint::hit("wal.append.created");
        Ok(Self { segment, file })
    }

    /// Whether nothing has been written, so that the header is still to come.
    pub(super) fn is_new(&self) -> bool {
        self.segment.bytes == 0
    }

    /// Appends `bytes` with one call, or takes back what a full disk let through of them.
    pub(super) fn write(&mut self, bytes: &[u8], directory: &Directory) -> Result<(), WriteFailure> {
        match self.file.write_all(bytes).and_then(|()| crashpoint::io("wal.append.written")) {
            Ok(()) => {
                self.segment.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) if is_no_space(&error) => {
                self.take_back(directory).map_err(WriteFailure::broken("take back a write to"))?;
                Err(WriteFailure::NoSpace)
            }
            Err(error) => Err(WriteFailure::Broken { action: "write", error }),
        }
    }

    /// Makes what was written durable, with the file's entry in the folder. Returns how long that took, zero if nothing
    /// was left to sync.
    pub(super) fn sync(&mut self, directory: &Directory) -> Result<Duration, WriteFailure> {
        if self.segment.synced_bytes == self.segment.bytes {
            return Ok(Duration::ZERO);
        }
        let started = Instant::now();
        crashpoint::io("wal.append.sync")
            .and_then(|()| self.file.sync_data())
            .inspect(|()| crashpoint::synced(&self.segment.path))
            .and_then(|()| if self.segment.synced_bytes == 0 { directory.sync() } else { Ok(()) })
            .map_err(WriteFailure::broken("sync"))?;
        self.segment.synced_bytes = self.segment.bytes;
        crashpoint::hit("wal.append.synced");
        Ok(started.elapsed())
    }

    /// Restores the state before the last write and makes it durable, so that neither a shorter write in its place nor
    /// a next segment can be followed by a remainder of it.
    fn take_back(&mut self, directory: &Directory) -> io::Result<()> {
        crashpoint::io("wal.append.take_back")?;
        if self.is_new() {
            fs::remove_file(&self.segment.path)?;
            directory.sync()?;
        } else {
            self.file.set_len(self.segment.bytes)?;
            self.file.sync_all()?;
            crashpoint::synced(&self.segment.path);
            self.segment.synced_bytes = self.segment.bytes;
        }
        crashpoint::hit("wal.append.taken_back");
        Ok(())
    }
}

/// Whether the file system says that it has no room.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
