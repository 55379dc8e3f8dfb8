//! Segments: a header and frames, as drawn in the module's story; what the log knows of each, and how one is read.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    Damage, FORMAT_VERSION, LogId, RecordNumber, WalError,
    frame::{ChecksumSeed, FRAME_HEADER_BYTES, Frame, u32_at},
};
use crate::model::tenant::TenantId;

/// Length of a segment's header.
pub(super) const HEADER_BYTES: u64 = 40;

const MAGIC: &[u8; 8] = b"THWALSEG";
const EXTENSION: &str = "wal";
const NAME_DIGITS: usize = 20;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// What the log keeps in memory of a segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Sequence of its first frame.
    pub(super) first_sequence: u64,
    /// Its frames.
    pub(super) frames: u64,
    /// Its intact length.
    pub(super) bytes: u64,
    /// How much of it is on disk for certain; after a restart, as far as its last frame says.
    pub(super) synced_bytes: u64,
    /// The last record of every tenant that has one here.
    pub(super) last_numbers: HashMap<TenantId, RecordNumber>,
    /// When the oldest of its records was received.
    pub(super) oldest_received_unix_nano: Option<i64>,
}

impl Segment {
    pub(super) fn new(dir: &Path, first_sequence: u64) -> Self {
        Self {
            path: dir.join(file_name(first_sequence)),
            first_sequence,
            frames: 0,
            bytes: 0,
            synced_bytes: 0,
            last_numbers: HashMap::new(),
            oldest_received_unix_nano: None,
        }
    }

    /// Sequence of the frame after its last one.
    pub(super) fn end_sequence(&self) -> u64 {
        self.first_sequence + self.frames
    }

    /// Counts a frame that is in the segment.
    pub(super) fn note(&mut self, tenant: &TenantId, number: RecordNumber, received_unix_nano: i64) {
        self.frames += 1;
        let oldest = self.oldest_received_unix_nano.get_or_insert(received_unix_nano);
        *oldest = received_unix_nano.min(*oldest);
        match self.last_numbers.get_mut(tenant) {
            Some(last) => *last = number,
            None => {
                self.last_numbers.insert(tenant.clone(), number);
            }
        }
    }
}

/// The name of the segment that begins with this frame.
pub(super) fn file_name(first_sequence: u64) -> String {
    format!("{first_sequence:0NAME_DIGITS$}.{EXTENSION}")
}

/// The first sequence of the segment with this path, if it is named as one.
pub(super) fn parse_file_name(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION)
        && stem.len() == NAME_DIGITS
        && stem.bytes().all(|byte| byte.is_ascii_digit());
    is_segment.then(|| stem.parse().ok()).flatten()
}

/// The header of a segment.
pub(super) fn encode_header(id: LogId, first_sequence: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[12..28].copy_from_slice(id.as_bytes());
    header[28..36].copy_from_slice(&first_sequence.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..36]);
    header[36..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn check_header(header: &[u8], id: LogId, first_sequence: u64) -> Result<(), ReadError> {
    let damaged = Err(ReadError::Damaged { offset_bytes: 0, damage: Damage::Header });
    if header[..8] != MAGIC[..] {
        return damaged;
    }
    // Before the checksum, whose place a newer version may have changed.
    match u32_at(header, 8) {
        version if version > FORMAT_VERSION => Err(ReadError::Version { found: version }),
        _ if header != encode_header(id, first_sequence) => damaged,
        _ => Ok(()),
    }
}

/// Why a segment could not be read on.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Version { found: u32 },
    Damaged { offset_bytes: u64, damage: Damage },
}

impl ReadError {
    /// The error of the log that has the segment at `path`.
    pub(super) fn at(self, path: &Path) -> WalError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => WalError::Io { action: "read", path, source },
            Self::Version { found } => WalError::Version { path, found, supported: FORMAT_VERSION },
            Self::Damaged { offset_bytes, damage } => WalError::Damaged { path, offset_bytes, damage },
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the frames of a segment one by one, holding one in memory.
#[derive(Debug)]
pub(super) struct SegmentReader<R> {
    input: R,
    seed: ChecksumSeed,
    /// Sequence of the next frame.
    sequence: u64,
    /// Where the next frame begins.
    offset_bytes: u64,
    /// Where the segment ends. No frame is believed to be longer than what is left.
    end_bytes: u64,
    frame: Vec<u8>,
}

impl SegmentReader<BufReader<File>> {
    /// Opens the first `end_bytes` of a segment's file.
    pub(super) fn open(path: &Path, end_bytes: u64, id: LogId, first_sequence: u64) -> Result<Self, ReadError> {
        let input = BufReader::with_capacity(READ_BUFFER_BYTES, File::open(path)?);
        Self::new(input, end_bytes, id, first_sequence)
    }
}

impl<R: Read> SegmentReader<R> {
    /// Reads the header of the segment in the first `end_bytes` of `input`.
    pub(super) fn new(mut input: R, end_bytes: u64, id: LogId, first_sequence: u64) -> Result<Self, ReadError> {
        if end_bytes < HEADER_BYTES {
            let damage = Damage::Truncated { length: HEADER_BYTES, left: end_bytes };
            return Err(ReadError::Damaged { offset_bytes: 0, damage });
        }
        let mut header = [0; HEADER_BYTES as usize];
        input.read_exact(&mut header)?;
        check_header(&header, id, first_sequence)?;
        let (seed, frame) = (ChecksumSeed::of(id), Vec::new());
        Ok(Self { input, seed, sequence: first_sequence, offset_bytes: HEADER_BYTES, end_bytes, frame })
    }

    /// Where the frame begins that [`Self::next_frame`] reads next.
    pub(super) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// The next frame, or none at the end of the segment. After an error there is no way on.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        let offset_bytes = self.offset_bytes;
        let damaged = |damage| ReadError::Damaged { offset_bytes, damage };
        let left = self.end_bytes - offset_bytes;
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Err(damaged(Damage::Truncated { length: FRAME_HEADER_BYTES as u64, left }));
        }
        self.frame.resize(FRAME_HEADER_BYTES, 0);
        self.input.read_exact(&mut self.frame)?;
        let length = u64::from(u32_at(&self.frame, 4));
        if length < FRAME_HEADER_BYTES as u64 {
            return Err(damaged(Damage::Length { length }));
        }
        if length > left {
            return Err(damaged(Damage::Truncated { length, left }));
        }
        self.frame.resize(length as usize, 0);
        self.input.read_exact(&mut self.frame[FRAME_HEADER_BYTES..])?;
        let frame = Frame::decode(self.seed, &self.frame).map_err(damaged)?;
        if frame.sequence != self.sequence {
            return Err(damaged(Damage::Sequence { expected: self.sequence, found: frame.sequence }));
        }
        if frame.synced_bytes > offset_bytes {
            return Err(damaged(Damage::Content { what: "the synced length in a frame" }));
        }
        self.sequence += 1;
        self.offset_bytes += length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sequences_are_each_others_inverse() {
        for sequence in [1, 4711, u64::MAX] {
            assert_eq!(parse_file_name(Path::new(&format!("/x/{}", file_name(sequence)))), Some(sequence));
        }
        for name in [
            "head",
            "1.wal",
            "+0000000000000000001.wal",
            "0000000000000000000x.wal",
            "00000000000000000001.bak",
            "99999999999999999999.wal",
        ] {
            assert_eq!(parse_file_name(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_header_of_another_log_sequence_or_version_is_refused() {
        let id = LogId::from_bytes([1; 16]);
        let header = encode_header(id, 5);
        assert!(check_header(&header, id, 5).is_ok());
        assert!(check_header(&header, id, 6).is_err());
        assert!(check_header(&header, LogId::from_bytes([2; 16]), 5).is_err());
        let mut newer = header;
        newer[8] = 9;
        assert!(matches!(check_header(&newer, id, 5), Err(ReadError::Version { found: 9 })));
    }
}
