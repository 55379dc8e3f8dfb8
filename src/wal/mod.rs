//! The write-ahead log: what a sender was told is stored, is stored here first.
//!
//! A group of records comes in ([`Log::append_group`]), is written with one `write`, synced with one `fdatasync`, and
//! only then numbered for the caller, who may acknowledge it. After a restart [`Log::open`] checks every byte, repairs
//! what a crash can have torn, and [`Log::replay`] gives the records back in order, one at a time. When their rows are
//! stored elsewhere, [`Log::cut`] lets them go. The payload of a record is opaque bytes.
//!
//! One writer, no threads, no async: gathering concurrent requests into groups is the business of `ingest`. There is no
//! index, no reading by number and no compression (payloads come compressed); the log is read from its start, once.
//!
//! # The folder
//!
//! ```text
//! <dir>/LOCK                      empty; locked by the process that has the log open (shared by readers)
//! <dir>/head                      what the log is, and what outlives deleted segments
//! <dir>/head.new                  the next head, while it is written
//! <dir>/00000000000000000001.wal  a segment, named after the sequence of its first frame
//! <dir>/00000000000000004711.wal
//! ```
//!
//! Every frame has a **sequence**, contiguous over the whole log, from 1. Every record also has a [`RecordNumber`] that
//! counts per tenant, from 1; a number is never given twice for one [`LogId`], since a table's transaction action says
//! "this log is stored up to number n" and a second record n would be taken for stored. Integers are little-endian.
//!
//! ```text
//! segment                                       frame
//!  0  8  magic "THWALSEG"                        0  4  crc32c of the log id and bytes 4.. of the frame
//!  8  4  format version                          4  4  length of the frame, these 48 bytes included
//! 12 16  log id                                  8  8  sequence
//! 28  8  sequence of the first frame            16  8  synced: bytes of this segment that were on disk for certain
//! 36  4  crc32c of bytes 0..36                         when this frame was written
//! 40  .  frames, to the end of the file         24  8  record number
//!                                               32  8  received, Unix nanoseconds, signed
//! head                                          40  4  count of digests
//!  0  8  magic "THWALHED"                       44  1  kind: 1, a record
//!  8  4  format version                         45  1  length of the tenant's name, t
//! 12 16  log id                                 46  2  zero
//! 28  8  sequence of the first kept frame       48  t  tenant
//! 36  4  count of tenants                        . 16  each digest of a request in this record
//! 40  4  count of digests                        .  .  payload, to the end of the frame
//!  .  .  tenants: 1 length, name, 8 last number
//!  .  .  digests: 4 index of the tenant, 16 digest, 8 received
//!  .  4  crc32c of everything before
//! ```
//!
//! **Who writes.** The process that holds the lock. A segment is appended to by the process that created it and by no
//! other: a restart settles its end, and the first append begins a new one. The head is written when the log is created and before
//! segments are deleted, always as a whole: `head.new` is written and synced, renamed, and the folder synced.
//!
//! **Who deletes.** [`Log::cut`], from the oldest segment on, as long as every record in it is stored elsewhere; never
//! one from the middle, although it may hold nothing that is needed: with a contiguous log a missing file is a fault
//! that can be seen. The price is that one tenant whose flush fails keeps later segments of others, until `bytes_max`.
//! The head goes first, with the sequence where the log now begins, the last number of every tenant, and the digests
//! that a later duplicate must still be recognised by. A crash after it leaves segments below that sequence; the next
//! open deletes them.
//!
//! # Torn is not damaged
//!
//! A crash in the middle of a group may leave any part of it on disk, in any order. Nobody was told that it is stored,
//! so it is cut off, and [`Recovery::torn_tail`] says what was. The same bad checksum in a group that was acknowledged
//! is another matter: cutting there would lose records silently, and all later ones with it. The two look alike at the
//! bad frame, but not behind it. Each frame says how much of its segment was synced before it was written; so **an
//! intact frame behind the bad one that says that the bad one was synced proves damage**, and so does any later
//! segment, since a segment is begun only when the one before is synced. Then open fails with [`WalError::Damaged`],
//! names the file and the place, and changes nothing: to give up acknowledged records is for a person to decide, who
//! may have a copy of the disk. Frames are looked for byte by byte behind the damage, since a length may be what is
//! wrong.
//!
//! Not provable is damage to the very last group: nothing follows it. It is cut like a torn one, and reported.
//!
//! # When a write fails
//!
//! After a failed sync the kernel may drop the dirty pages and report success the next time, so neither the sync nor
//! the descriptor is ever tried again: the log is poisoned, appends fail with [`WalError::Poisoned`], and a restart
//! reads what is really there. A disk that is full is the exception, since that `write` fails before any sync: the file
//! is truncated to the end of the last group, the truncation synced, and the next append may succeed. Cutting works
//! even on a poisoned log; it only removes what is stored elsewhere.
//!
//! The restart does not trust the sync that may have failed either: it writes the last group again, the same bytes to
//! the same place, and syncs that, before its records are given to anyone. A group that was never acknowledged, and is
//! intact, stays; a sender's second try of it is a duplicate by its digest, and must not be acknowledged for bytes in a
//! cache.

mod active;
mod directory;
mod error;
mod frame;
mod head;
mod log;
mod recovery;
mod replay;
mod segment;

#[doc(hidden)]
pub mod fuzzing;

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use uuid::Uuid;

pub use self::{
    error::{Damage, WalError},
    log::{Cut, Log, LogStats},
    replay::{LogReader, Replay},
};
use crate::model::tenant::TenantId;

/// The version of the folder's format that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The points where [`crate::crashpoint`] can stop the log, in the order in which its life passes them.
pub const CRASHPOINTS: &[&str] = &[
    "wal.head.written",
    "wal.append.created",
    "wal.append.written",
    "wal.append.synced",
    "wal.append.taken_back",
    "wal.cut.before_carry",
    "wal.cut.after_carry",
    "wal.cut.deleted",
    "wal.open.settled",
];

/// The identity of a log folder: random, given when it is created, never changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(Uuid);

impl LogId {
    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({})", self.0)
    }
}

/// Which record of a tenant: counts from 1 per log and tenant, and is never given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(u64);

impl RecordNumber {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The number `n`; 0 is before the first record.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number that follows.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RecordNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When a group counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// When it is synced to disk: it survives the loss of power.
    #[default]
    Always,
    /// When it is written: it survives the process, not the machine, whose crash may take everything since the segment
    /// was begun. Synced when a segment is full and on close.
    Relaxed,
}

/// The limits of a log.
#[derive(Clone, Debug)]
pub struct WalSettings {
    /// A segment that a group would make longer than this is followed by a new one. A longer group gets its own.
    pub segment_bytes_max: u64,
    /// The longest that all segments together may be; appends that would exceed it fail with [`WalError::Full`].
    pub bytes_max: u64,
    /// The longest record, with its 48-byte header, tenant and digests; at most 4 GiB.
    pub record_bytes_max: u64,
    /// When a group counts as stored.
    pub sync: SyncMode,
}

impl Default for WalSettings {
    fn default() -> Self {
        Self { segment_bytes_max: 64 << 20, bytes_max: 8 << 30, record_bytes_max: 256 << 20, sync: SyncMode::Always }
    }
}

impl WalSettings {
    fn check(&self) -> Result<(), WalError> {
        let ceiling = u64::from(u32::MAX).min(self.bytes_max.saturating_sub(segment::HEADER_BYTES));
        if self.record_bytes_max > ceiling {
            let (record_bytes_max, bytes_max) = (self.record_bytes_max, self.bytes_max);
            return Err(WalError::Settings { record_bytes_max, bytes_max });
        }
        Ok(())
    }
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// When its first request was received.
    pub received_unix_nano: i64,
    /// Hashes of the request bodies that it was made of.
    pub digests: &'a [u128],
    /// What to store.
    pub payload: &'a [u8],
}

/// A record as [`Replay`] gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its number.
    pub number: RecordNumber,
    /// When its first request was received.
    pub received_unix_nano: i64,
    /// Hashes of the request bodies that it was made of.
    pub digests: Vec<u128>,
    /// What was stored.
    pub payload: Bytes,
}

/// What [`Log::append_group`] did.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// The number of each record, in the order given.
    pub numbers: Vec<RecordNumber>,
    /// Bytes written.
    pub bytes: u64,
    /// How long the sync took; zero if none was made.
    pub sync_duration: Duration,
}

/// A request that must still be recognised as a duplicate when the record that held it is gone from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedDigest {
    /// Whose request it was.
    pub tenant: TenantId,
    /// Hash of its body.
    pub digest: u128,
    /// When it was received.
    pub received_unix_nano: i64,
}

/// What opening a log found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Whether the log was created just now.
    pub created: bool,
    /// Records in the log.
    pub records: u64,
    /// Bytes of all segments, after repair.
    pub bytes: u64,
    /// What was cut off, if the last write was torn. A read-only open reports it and leaves it in place.
    pub torn_tail: Option<TornTail>,
    /// Digests carried over from records that are gone; those of records in the log come with [`Replay`].
    pub digests: Vec<CarriedDigest>,
}

/// The end of a log that was not written in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Where its intact part ends. Zero if none of it is intact, in which case the file is removed.
    pub offset_bytes: u64,
    /// How much follows.
    pub cut_bytes: u64,
    /// What is wrong there.
    pub reason: Damage,
}
