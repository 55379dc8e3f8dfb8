//! Recovery: reads the whole log once, checks that it is contiguous and intact, and tells torn from damaged.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::PathBuf,
};

use super::{
    Damage, LogId, RecordNumber, TornTail, WalError,
    directory::Directory,
    error::Result,
    frame::{ChecksumSeed, FRAME_HEADER_BYTES, proves_damage},
    head::Head,
    segment::{ReadError, Segment, SegmentReader},
};
use crate::model::tenant::TenantId;

/// What is in the folder of a log; nothing has been changed.
#[derive(Debug)]
pub(super) struct Recovered {
    /// The intact segments, oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Segments below the head's first sequence, left behind by a cut that was interrupted.
    pub(super) obsolete: Vec<PathBuf>,
    /// The sequence of the next frame to be written.
    pub(super) next_sequence: u64,
    /// The last number given to each tenant.
    pub(super) last_numbers: BTreeMap<TenantId, RecordNumber>,
    /// What has to be cut off before anything is appended.
    pub(super) torn_tail: Option<TornTail>,
}

/// Checks every segment that the head counts in.
pub(super) fn recover(directory: &Directory, head: &Head) -> Result<Recovered> {
    let files = directory.segment_files()?;
    let (obsolete, kept) = files.split_at(files.partition_point(|(first, _)| *first < head.first_sequence));
    let mut recovered = Recovered {
        segments: VecDeque::new(),
        obsolete: obsolete.iter().map(|(_, path)| path.clone()).collect(),
        next_sequence: head.first_sequence,
        last_numbers: head.last_numbers.clone(),
        torn_tail: None,
    };
    for (index, (first_sequence, path)) in kept.iter().enumerate() {
        if *first_sequence != recovered.next_sequence {
            return Err(WalError::Missing {
                dir: directory.path().to_owned(),
                missing: format!("the frames {} to {}", recovered.next_sequence, first_sequence.saturating_sub(1)),
            });
        }
        let mut segment = Segment::new(directory.path(), *first_sequence);
        let file_bytes = fs::metadata(path).map_err(WalError::io("open", path))?.len();
        let is_last = index + 1 == kept.len();
        let torn = match check(&mut segment, file_bytes, head.id) {
            Ok(()) if segment.frames > 0 => None,
            // A header alone: its first group never arrived.
            Ok(()) => Some(Damage::Truncated { length: FRAME_HEADER_BYTES as u64, left: 0 }),
            Err(ReadError::Damaged { damage, .. })
                if is_last && damage.can_be_torn() && !is_proven(&segment, head.id)? =>
            {
                Some(damage)
            }
            Err(error) => return Err(error.at(path)),
        };
        if let Some(reason) = torn {
            let offset_bytes = if segment.frames == 0 { 0 } else { segment.bytes };
            let cut_bytes = file_bytes - offset_bytes;
            recovered.torn_tail = Some(TornTail { path: path.clone(), offset_bytes, cut_bytes, reason });
        }
        recovered.next_sequence = segment.end_sequence();
        for (tenant, number) in &segment.last_numbers {
            let last = recovered.last_numbers.entry(tenant.clone()).or_default();
            *last = (*last).max(*number);
        }
        if segment.frames > 0 {
            recovered.segments.push_back(segment);
        }
    }
    Ok(recovered)
}

/// Reads a segment to its end and notes its frames, so that after an error it describes the intact part.
fn check(segment: &mut Segment, file_bytes: u64, id: LogId) -> Result<(), ReadError> {
    let mut reader = SegmentReader::open(&segment.path, file_bytes, id, segment.first_sequence)?;
    segment.bytes = reader.offset_bytes();
    while let Some(frame) = reader.next_frame()? {
        segment.synced_bytes = frame.synced_bytes;
        segment.note(&frame.tenant, frame.number, frame.received_unix_nano);
        segment.bytes = reader.offset_bytes();
    }
    Ok(())
}

/// Whether the segment goes on behind its intact part with what was written after the damaged bytes were synced.
///
/// Reads the segment into memory, which happens at most once per start, and only after a crash.
fn is_proven(segment: &Segment, id: LogId) -> Result<bool> {
    let bytes = fs::read(&segment.path).map_err(WalError::io("read", &segment.path))?;
    Ok(proves_damage(&bytes, ChecksumSeed::of(id), segment.bytes as usize, segment.end_sequence()))
}

impl Damage {
    /// Whether a write that stopped half-way can look so. A matching checksum means that all of a frame was written.
    fn can_be_torn(&self) -> bool {
        match self {
            Self::Header | Self::Truncated { .. } | Self::Length { .. } | Self::Checksum => true,
            Self::Sequence { .. } | Self::Content { .. } => false,
        }
    }
}
