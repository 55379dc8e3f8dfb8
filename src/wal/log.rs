//! The log, open for writing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Appended, CarriedDigest, LogId, LogReader, NewRecord, RecordNumber, Recovery, Replay, SyncMode, WalError,
    WalSettings,
    active::{Active, WriteFailure, is_no_space},
    directory::{Directory, remove_if_there},
    error::Result,
    frame::{self, ChecksumSeed, Place},
    head::Head,
    recovery::{Recovered, recover},
    segment::{HEADER_BYTES, Segment, encode_header},
};
use crate::{crashpoint, model::tenant::TenantId};

/// A group larger than this does not leave its memory behind.
const BUFFER_KEPT_BYTES_MAX: usize = 16 << 20;

/// The write-ahead log of a folder, with its one writer. See the module's story.
///
/// Dropping it is what a crash is; [`Log::close`] is the orderly way.
#[derive(Debug)]
pub struct Log {
    id: LogId,
    directory: Directory,
    settings: WalSettings,
    /// The finished segments, oldest first; they are never written again.
    segments: VecDeque<Segment>,
    /// The segment after them that takes appends; none until the first.
    active: Option<Active>,
    next_sequence: u64,
    tenants: BTreeMap<TenantId, TenantState>,
    /// No number up to this one is given any more.
    number_floor: RecordNumber,
    /// What the head on disk says; shared with replays.
    first_sequence: Arc<AtomicU64>,
    poison: Option<String>,
    last_sync_duration: Duration,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TenantState {
    /// The last number given.
    last: RecordNumber,
    /// Records up to this one are stored elsewhere.
    cut: RecordNumber,
}

/// What [`Log::cut`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Segments deleted.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// How a log is doing.
#[derive(Clone, Debug)]
pub struct LogStats {
    /// Bytes of all segments.
    pub bytes: u64,
    /// The limit on them.
    pub bytes_max: u64,
    /// Segments on disk.
    pub segments: usize,
    /// When the oldest record on disk was received.
    pub oldest_received_unix_nano: Option<i64>,
    /// When a group counts as stored.
    pub sync: SyncMode,
    /// How long the last sync took.
    pub last_sync_duration: Duration,
    /// Why the log takes no more records, if it has stopped.
    pub poison: Option<String>,
}

impl Log {
    /// Opens the log in `dir` for writing, creating it if there is none, and repairs what a crash has torn.
    ///
    /// First [`Log::replay`], which also gives the digests of records that are stored elsewhere by now. Then, and before
    /// the first append for a tenant whose table has a transaction version for this log, pass that version to
    /// [`Log::cut`], or see to it with [`Log::continue_above`]: if the log is an older copy of itself, or lost a tail that was not synced, its numbers continue
    /// behind what is stored, instead of being given twice.
    pub fn open(dir: &Path, settings: WalSettings) -> Result<(Self, Recovery), WalError> {
        settings.check()?;
        let directory = Directory::create_and_lock(dir)?;
        let found = Head::read(&directory)?;
        let created = found.is_none();
        let head = match found {
            Some(head) => head,
            None => create_head(&directory)?,
        };
        let recovered = recover(&directory, &head)?;
        if let Some(tail) = &recovered.torn_tail {
            tracing::warn!(
                path = %tail.path.display(),
                offset_bytes = tail.offset_bytes,
                cut_bytes = tail.cut_bytes,
                reason = %tail.reason,
                "cut the torn end of the write-ahead log"
            );
        }
        settle(&directory, &recovered)?;
        for path in &recovered.obsolete {
            remove_if_there(path).map_err(WalError::io("remove", path))?;
        }
        let with_last = |(tenant, last)| (tenant, TenantState { last, cut: RecordNumber::ZERO });
        let log = Self {
            id: head.id,
            directory,
            settings,
            segments: recovered.segments,
            active: None,
            next_sequence: recovered.next_sequence,
            tenants: recovered.last_numbers.into_iter().map(with_last).collect(),
            number_floor: RecordNumber::ZERO,
            first_sequence: Arc::new(AtomicU64::new(head.first_sequence)),
            poison: None,
            last_sync_duration: Duration::ZERO,
            buffer: Vec::new(),
        };
        let recovery = Recovery {
            created,
            records: log.segments.iter().map(|segment| segment.frames).sum(),
            bytes: log.bytes(),
            torn_tail: recovered.torn_tail,
            digests: head.digests,
        };
        Ok((log, recovery))
    }

    /// Opens the log in `dir` for reading only. Needs the lock, which it shares with other readers; changes nothing.
    pub fn read(dir: &Path) -> Result<(LogReader, Recovery), WalError> {
        LogReader::open(dir)
    }

    /// The identity of the log.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The last number given to a tenant; [`RecordNumber::ZERO`] if it never had a record.
    pub fn last_number(&self, tenant: &TenantId) -> RecordNumber {
        self.tenants.get(tenant).copied().unwrap_or_default().last
    }

    /// Gives only numbers above `floor` from now on, to every tenant.
    ///
    /// This is for appends before it is known which numbers the tables hold: a floor that grows with time, and faster than
    /// numbers are given, keeps what an older copy of the log, or one that lost its tail, has forgotten from being given
    /// twice.
    pub fn continue_above(&mut self, floor: RecordNumber) {
        self.number_floor = self.number_floor.max(floor);
    }

    /// The sequence number that the next record gets, for [`Log::replay_from`].
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.all_segments().map(|segment| segment.bytes).sum()
    }

    /// How the log is doing.
    pub fn stats(&self) -> LogStats {
        LogStats {
            bytes: self.bytes(),
            bytes_max: self.settings.bytes_max,
            segments: self.all_segments().count(),
            oldest_received_unix_nano: self.all_segments().filter_map(|s| s.oldest_received_unix_nano).min(),
            sync: self.settings.sync,
            last_sync_duration: self.last_sync_duration,
            poison: self.poison.clone(),
        }
    }

    /// All records that are in the log now, oldest first, those of cut records included while their segment is there.
    pub fn replay(&self) -> Replay {
        Replay::new(self.id, Arc::clone(&self.first_sequence), self.all_segments())
    }

    /// Those of [`Log::replay`] without segments that end before `sequence`.
    pub fn replay_from(&self, sequence: u64) -> Replay {
        let segments = self.all_segments().filter(|segment| segment.end_sequence() > sequence);
        Replay::new(self.id, Arc::clone(&self.first_sequence), segments)
    }

    /// Stores all records of a group, or none that counts: after an error, nothing of the group may be acknowledged.
    ///
    /// With [`SyncMode::Always`] the group is on disk when this returns. [`WalError::RecordTooLarge`],
    /// [`WalError::Full`], [`WalError::NoSpace`] and [`WalError::Io`] leave the log usable; after
    /// [`WalError::Poisoned`] every append fails.
    pub fn append_group(&mut self, records: &[NewRecord<'_>]) -> Result<Appended, WalError> {
        self.check_poison()?;
        if records.is_empty() {
            return Ok(Appended::default());
        }
        let group_bytes = self.check_sizes(records)?;
        let mut active = self.active_with_room(group_bytes)?;
        let numbers = self.numbers_for(records);
        self.encode(&active, records, &numbers);
        let bytes = self.buffer.len() as u64;
        let sync_duration = match self.store(&mut active) {
            Ok(sync_duration) => sync_duration,
            Err(failure) => return Err(self.fail(active, failure, bytes)),
        };
        for (record, number) in records.iter().zip(&numbers) {
            self.tenants.entry(record.tenant.clone()).or_default().last = *number;
            active.segment.note(record.tenant, *number, record.received_unix_nano);
        }
        self.next_sequence = active.segment.end_sequence();
        self.active = Some(active);
        Ok(Appended { numbers, bytes, sync_duration })
    }

    /// Lets go of a tenant's records up to `through`, which are stored elsewhere, and deletes the segments at the start
    /// of the log that hold nothing else.
    ///
    /// `digests` is asked only if segments will be deleted. It gives every digest that is still needed, of whatever
    /// tenant, and takes the place of what was carried before; [`Recovery::digests`] has it after the next open.
    ///
    /// A `through` above the last number given means that this log forgot records that were stored: numbers continue
    /// after it. After an error the records count as cut, and the next cut deletes what is left.
    pub fn cut(
        &mut self,
        tenant: &TenantId,
        through: RecordNumber,
        digests: impl FnOnce() -> Vec<CarriedDigest>,
    ) -> Result<Cut, WalError> {
        let state = self.tenants.entry(tenant.clone()).or_default();
        state.cut = state.cut.max(through);
        state.last = state.last.max(through);
        if self.all_segments().all(|segment| self.is_dead(segment)) {
            self.finish_active()?;
        }
        let dead = self.segments.iter().take_while(|segment| self.is_dead(segment)).count();
        if dead == 0 {
            return Ok(Cut::default());
        }
        crashpoint::hit("wal.cut.before_carry");
        let first_sequence = self.all_segments().nth(dead).map_or(self.next_sequence, |kept| kept.first_sequence);
        let last_numbers = self.tenants.iter().map(|(tenant, state)| (tenant.clone(), state.last)).collect();
        Head { id: self.id, first_sequence, last_numbers, digests: digests() }.write(&self.directory)?;
        self.first_sequence.store(first_sequence, Ordering::Release);
        crashpoint::hit("wal.cut.after_carry");

        let mut cut = Cut::default();
        while let Some(segment) = self.segments.front().filter(|segment| segment.first_sequence < first_sequence) {
            crashpoint::io("wal.cut.delete")
                .and_then(|()| remove_if_there(&segment.path))
                .map_err(WalError::io("remove", &segment.path))?;
            crashpoint::hit("wal.cut.deleted");
            cut.segments += 1;
            cut.bytes += segment.bytes;
            self.segments.pop_front();
        }
        Ok(cut)
    }

    /// Syncs what was written. Does nothing after [`SyncMode::Always`] appends.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.check_poison()?;
        self.sync_active()
    }

    /// Syncs what was written and unlocks the folder.
    pub fn close(mut self) -> Result<(), WalError> {
        self.sync()
    }

    fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain(self.active.as_ref().map(|active| &active.segment))
    }

    fn is_dead(&self, segment: &Segment) -> bool {
        segment.last_numbers.iter().all(|(tenant, last)| self.tenants.get(tenant).is_some_and(|t| t.cut >= *last))
    }

    fn check_poison(&self) -> Result<()> {
        match &self.poison {
            Some(cause) => Err(WalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// The length of the group's frames.
    fn check_sizes(&self, records: &[NewRecord<'_>]) -> Result<u64> {
        let record_bytes_max = self.settings.record_bytes_max;
        let mut group_bytes = 0;
        for record in records {
            let bytes = frame::frame_bytes(record);
            if bytes > record_bytes_max {
                return Err(WalError::RecordTooLarge { bytes, record_bytes_max });
            }
            group_bytes += bytes;
        }
        Ok(group_bytes)
    }

    /// Takes out the segment that the group goes to: the active one, or a new one if the group does not fit.
    fn active_with_room(&mut self, group_bytes: u64) -> Result<Active> {
        let fits = |active: &Active| active.segment.bytes + group_bytes <= self.settings.segment_bytes_max;
        let is_room = self.active.as_ref().is_some_and(fits);
        let needed = group_bytes + if is_room { 0 } else { HEADER_BYTES };
        let (bytes, bytes_max) = (self.bytes(), self.settings.bytes_max);
        if bytes + needed > bytes_max {
            return Err(WalError::Full { bytes, needed, bytes_max });
        }
        if let Some(active) = self.active.take_if(|_| is_room) {
            return Ok(active);
        }
        self.finish_active()?;
        let segment = Segment::new(self.directory.path(), self.next_sequence);
        let path = segment.path.clone();
        Active::create(segment).map_err(|error| match is_no_space(&error) {
            true => WalError::NoSpace { dir: self.directory.path().to_owned(), needed },
            false => WalError::io("create", &path)(error),
        })
    }

    fn numbers_for(&self, records: &[NewRecord<'_>]) -> Vec<RecordNumber> {
        let mut last: HashMap<&TenantId, RecordNumber> = HashMap::new();
        let mut numbers = Vec::with_capacity(records.len());
        for record in records {
            let last =
                last.entry(record.tenant).or_insert_with(|| self.last_number(record.tenant).max(self.number_floor));
            *last = last.next();
            numbers.push(*last);
        }
        numbers
    }

    /// Fills the buffer with what is to be written.
    fn encode(&mut self, active: &Active, records: &[NewRecord<'_>], numbers: &[RecordNumber]) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES_MAX);
        if active.is_new() {
            self.buffer.extend_from_slice(&encode_header(self.id, self.next_sequence));
        }
        let seed = ChecksumSeed::of(self.id);
        for ((record, number), sequence) in records.iter().zip(numbers).zip(self.next_sequence..) {
            let place = Place { sequence, synced_bytes: active.segment.synced_bytes, number: *number };
            frame::encode(&mut self.buffer, seed, place, record);
        }
    }

    /// Writes the buffer and makes it as durable as the settings ask. Returns how long the sync took.
    fn store(&mut self, active: &mut Active) -> Result<Duration, WriteFailure> {
        active.write(&self.buffer, &self.directory)?;
        if self.settings.sync == SyncMode::Relaxed {
            return Ok(Duration::ZERO);
        }
        self.last_sync_duration = active.sync(&self.directory)?;
        Ok(self.last_sync_duration)
    }

    /// Ends the active segment. A later segment says that the ones before it are whole, so it is synced first.
    fn finish_active(&mut self) -> Result<()> {
        self.sync_active()?;
        self.segments.extend(self.active.take().map(|active| active.segment));
        Ok(())
    }

    fn sync_active(&mut self) -> Result<()> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        match active.sync(&self.directory) {
            Ok(sync_duration) => {
                if !sync_duration.is_zero() {
                    self.last_sync_duration = sync_duration;
                }
                self.active = Some(active);
                Ok(())
            }
            Err(failure) => Err(self.fail(active, failure, 0)),
        }
    }

    /// Says what a failure means for the log. A broken descriptor is closed here, so nothing can use it again.
    fn fail(&mut self, active: Active, failure: WriteFailure, needed: u64) -> WalError {
        match failure {
            WriteFailure::NoSpace => {
                self.active = Some(active).filter(|active| !active.is_new());
                WalError::NoSpace { dir: self.directory.path().to_owned(), needed }
            }
            WriteFailure::Broken { action, error } => {
                let cause = format!("cannot {action} {}: {error}", active.segment.path.display());
                tracing::error!(cause, "the write-ahead log has stopped; a restart is needed");
                self.segments.extend(Some(active.segment).filter(|segment| segment.frames > 0));
                self.poison = Some(cause.clone());
                WalError::Poisoned { cause }
            }
        }
    }
}

/// Makes durable what recovery has found and the log will count on: a process that was killed may not have synced it.
fn settle(directory: &Directory, recovered: &Recovered) -> Result<()> {
    if let Some(tail) = recovered.torn_tail.as_ref().filter(|tail| tail.offset_bytes == 0) {
        remove_if_there(&tail.path).map_err(WalError::io("remove", &tail.path))?;
    }
    if let Some(segment) = recovered.segments.back() {
        directory.rewrite_end(&segment.path, segment.synced_bytes, segment.bytes)?;
    }
    directory.sync().map_err(WalError::io("sync", directory.path()))?;
    crashpoint::hit("wal.open.settled");
    Ok(())
}

/// Gives a new log its identity, unless there are segments, whose head must then have been lost.
fn create_head(directory: &Directory) -> Result<Head> {
    if !directory.segment_files()?.is_empty() {
        return Err(WalError::Missing { dir: directory.path().to_owned(), missing: "its head".to_owned() });
    }
    let head = Head::new(LogId::random());
    head.write(directory)?;
    Ok(head)
}
