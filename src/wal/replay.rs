//! Replay: the records of a log in the order in which they were appended, one in memory at a time.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    vec,
};

use super::{
    LogId, Record, Recovery, WalError,
    directory::Directory,
    error::Result,
    head::Head,
    recovery::recover,
    segment::{ReadError, Segment, SegmentReader},
};

/// The records that were in a log when the replay was asked for, oldest first. Ends after the first error.
///
/// It does not borrow the log: records may be appended meanwhile, which it does not see, and cut, which it may skip.
#[derive(Debug)]
pub struct Replay {
    id: LogId,
    /// Where the log begins now; cuts move it.
    first_sequence: Arc<AtomicU64>,
    segments: vec::IntoIter<Source>,
    current: Option<(Source, SegmentReader<BufReader<File>>)>,
}

/// A segment as it was when the replay was asked for.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    first_sequence: u64,
    bytes: u64,
}

impl Replay {
    pub(super) fn new<'a>(
        id: LogId,
        first_sequence: Arc<AtomicU64>,
        segments: impl Iterator<Item = &'a Segment>,
    ) -> Self {
        let sources: Vec<Source> = segments
            .map(|segment| {
                let Segment { path, first_sequence, bytes, .. } = segment;
                Source { path: path.clone(), first_sequence: *first_sequence, bytes: *bytes }
            })
            .collect();
        Self { id, first_sequence, segments: sources.into_iter(), current: None }
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some((source, reader)) = &mut self.current {
                match reader.next_frame() {
                    Ok(Some(frame)) => return Ok(Some(frame.to_record())),
                    Ok(None) => self.current = None,
                    Err(error) => return Err(error.at(&source.path)),
                }
            }
            let Some(source) = self.segments.next() else { return Ok(None) };
            match SegmentReader::open(&source.path, source.bytes, self.id, source.first_sequence) {
                Ok(reader) => self.current = Some((source, reader)),
                Err(ReadError::Io(error)) if self.is_deleted(&source, &error) => {}
                Err(error) => return Err(error.at(&source.path)),
            }
        }
    }

    /// Whether a segment is gone because it was cut, which says that its records are stored elsewhere.
    fn is_deleted(&self, source: &Source, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::NotFound && source.first_sequence < self.first_sequence.load(Ordering::Acquire)
    }
}

impl Iterator for Replay {
    type Item = Result<Record, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let outcome = self.advance();
        if outcome.is_err() {
            self.segments = Vec::new().into_iter();
            self.current = None;
        }
        outcome.transpose()
    }
}

/// A log opened for reading by a process that is not its writer. Changes nothing on disk.
#[derive(Debug)]
pub struct LogReader {
    id: LogId,
    segments: VecDeque<Segment>,
    /// Shared with other readers; keeps writers out while the reader lives.
    _directory: Directory,
}

impl LogReader {
    pub(super) fn open(dir: &Path) -> Result<(Self, Recovery)> {
        let directory = Directory::lock_shared(dir)?;
        let head = Head::read(&directory)?.ok_or_else(|| WalError::NotALog { dir: dir.to_owned() })?;
        let recovered = recover(&directory, &head)?;
        let recovery = Recovery {
            created: false,
            records: recovered.segments.iter().map(|segment| segment.frames).sum(),
            bytes: recovered.segments.iter().map(|segment| segment.bytes).sum(),
            torn_tail: recovered.torn_tail,
            digests: head.digests,
        };
        Ok((Self { id: head.id, segments: recovered.segments, _directory: directory }, recovery))
    }

    /// The identity of the log.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// All records, oldest first.
    pub fn replay(&self) -> Replay {
        Replay::new(self.id, Arc::default(), self.segments.iter())
    }
}
