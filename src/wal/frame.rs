//! Frames: one record each, as drawn in the module's story.

use super::{Damage, LogId, NewRecord, Record, RecordNumber};
use crate::model::tenant::TenantId;

/// Length of a frame before its tenant, digests and payload.
pub(super) const FRAME_HEADER_BYTES: usize = 48;

const KIND_RECORD: u8 = 1;
const DIGEST_BYTES: usize = 16;

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its sequence in the log.
    pub(super) sequence: u64,
    /// Bytes of its segment that are synced before it is written.
    pub(super) synced_bytes: u64,
    /// The number of its record.
    pub(super) number: RecordNumber,
}

/// Starts every checksum of a log, so that no frame of another log matches, be it in an old block or in a sender's
/// payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChecksumSeed(u32);

impl ChecksumSeed {
    pub(super) fn of(id: LogId) -> Self {
        Self(crc32c::crc32c(id.as_bytes()))
    }

    fn checksum(self, frame: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, &frame[4..])
    }

    /// Makes the checksum of a frame match its content.
    pub(super) fn sign(self, frame: &mut [u8]) {
        let checksum = self.checksum(frame);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The length of the frame for a record.
pub(super) fn frame_bytes(record: &NewRecord<'_>) -> u64 {
    let bytes = FRAME_HEADER_BYTES
        + record.tenant.as_str().len()
        + record.digests.len().saturating_mul(DIGEST_BYTES)
        + record.payload.len();
    bytes as u64
}

/// Appends the frame of a record to `out`. The caller has checked that [`frame_bytes`] fits into the settings' limit.
pub(super) fn encode(out: &mut Vec<u8>, seed: ChecksumSeed, place: Place, record: &NewRecord<'_>) {
    let start = out.len();
    let tenant = record.tenant.as_str().as_bytes();
    let length = frame_bytes(record) as u32;
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&place.sequence.to_le_bytes());
    out.extend_from_slice(&place.synced_bytes.to_le_bytes());
    out.extend_from_slice(&place.number.get().to_le_bytes());
    out.extend_from_slice(&record.received_unix_nano.to_le_bytes());
    out.extend_from_slice(&(record.digests.len() as u32).to_le_bytes());
    out.extend_from_slice(&[KIND_RECORD, tenant.len() as u8, 0, 0]);
    out.extend_from_slice(tenant);
    for digest in record.digests {
        out.extend_from_slice(&digest.to_le_bytes());
    }
    out.extend_from_slice(record.payload);
    seed.sign(&mut out[start..]);
}

/// A frame that lies in a buffer.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) sequence: u64,
    pub(super) synced_bytes: u64,
    pub(super) number: RecordNumber,
    pub(super) received_unix_nano: i64,
    pub(super) tenant: TenantId,
    digests: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that is all of `bytes`, if they are one and intact.
    pub(super) fn decode(seed: ChecksumSeed, bytes: &'a [u8]) -> Result<Self, Damage> {
        if bytes.len() < FRAME_HEADER_BYTES || u32_at(bytes, 4) as usize != bytes.len() {
            return Err(Damage::Length { length: bytes.len() as u64 });
        }
        if u32_at(bytes, 0) != seed.checksum(bytes) {
            return Err(Damage::Checksum);
        }
        if bytes[44] != KIND_RECORD || bytes[46..48] != [0, 0] {
            return Err(Damage::Content { what: "the kind of a frame" });
        }
        let (tenant, rest) = bytes[FRAME_HEADER_BYTES..]
            .split_at_checked(bytes[45] as usize)
            .ok_or(Damage::Content { what: "the length of a tenant's name" })?;
        let tenant = std::str::from_utf8(tenant).ok().and_then(|name| TenantId::parse(name).ok());
        let (digests, payload) = (u32_at(bytes, 40) as usize)
            .checked_mul(DIGEST_BYTES)
            .and_then(|length| rest.split_at_checked(length))
            .ok_or(Damage::Content { what: "the count of digests" })?;
        Ok(Self {
            sequence: u64_at(bytes, 8),
            synced_bytes: u64_at(bytes, 16),
            number: RecordNumber::new(u64_at(bytes, 24)),
            received_unix_nano: u64_at(bytes, 32) as i64,
            tenant: tenant.ok_or(Damage::Content { what: "the name of a tenant" })?,
            digests,
            payload,
        })
    }

    /// The record, copied out.
    pub(super) fn to_record(&self) -> Record {
        let digests = self.digests.chunks_exact(DIGEST_BYTES).map(|digest| u128_at(digest, 0)).collect();
        Record {
            tenant: self.tenant.clone(),
            number: self.number,
            received_unix_nano: self.received_unix_nano,
            digests,
            payload: bytes::Bytes::copy_from_slice(self.payload),
        }
    }
}

/// Whether an intact frame behind `damage_offset` in `segment` says that the bytes at that offset had been synced.
///
/// `sequence` is the one that is due at the damage. It and the `synced` field rule out nearly every byte before a
/// checksum is computed.
pub(super) fn proves_damage(segment: &[u8], seed: ChecksumSeed, damage_offset: usize, sequence: u64) -> bool {
    let last_start = segment.len().saturating_sub(FRAME_HEADER_BYTES);
    (damage_offset + 1..=last_start).any(|start| {
        let candidate = &segment[start..];
        let length = u32_at(candidate, 4) as usize;
        let skipped_frames_max = (start - damage_offset) / FRAME_HEADER_BYTES + 1;
        let synced_bytes = u64_at(candidate, 16);
        u64_at(candidate, 8).checked_sub(sequence).is_some_and(|skipped| skipped <= skipped_frames_max as u64)
            && synced_bytes > damage_offset as u64
            && synced_bytes <= start as u64
            && candidate.get(..length).is_some_and(|frame| Frame::decode(seed, frame).is_ok())
    })
}

/// The integer at `offset`, which the caller knows to be inside.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

/// The integer at `offset`, which the caller knows to be inside.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// The integer at `offset`, which the caller knows to be inside.
pub(super) fn u128_at(bytes: &[u8], offset: usize) -> u128 {
    u128::from_le_bytes(array_at(bytes, offset))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seed: ChecksumSeed, place: Place) -> Vec<u8> {
        let mut out = Vec::new();
        let tenant = TenantId::parse("a").unwrap();
        let record = NewRecord { tenant: &tenant, received_unix_nano: -5, digests: &[7, u128::MAX], payload: b"rows" };
        encode(&mut out, seed, place, &record);
        assert_eq!(out.len() as u64, frame_bytes(&record));
        out
    }

    const PLACE: Place = Place { sequence: 9, synced_bytes: 40, number: RecordNumber::new(3) };

    #[test]
    fn a_frame_comes_back_as_it_was_encoded() {
        let seed = ChecksumSeed::of(LogId::from_bytes([1; 16]));
        let bytes = frame(seed, PLACE);
        let decoded = Frame::decode(seed, &bytes).unwrap();
        assert_eq!((decoded.sequence, decoded.synced_bytes), (9, 40));
        let record = decoded.to_record();
        assert_eq!((record.number, record.received_unix_nano), (RecordNumber::new(3), -5));
        assert_eq!(record.digests, [7, u128::MAX]);
        assert_eq!(&record.payload[..], b"rows");
    }

    #[test]
    fn every_flipped_bit_and_every_other_log_is_noticed() {
        let seed = ChecksumSeed::of(LogId::from_bytes([1; 16]));
        let bytes = frame(seed, PLACE);
        assert_eq!(Frame::decode(ChecksumSeed::of(LogId::from_bytes([2; 16])), &bytes).unwrap_err(), Damage::Checksum);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(seed, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_the_same_group_proves_nothing_and_one_of_a_later_group_does() {
        let seed = ChecksumSeed::of(LogId::from_bytes([1; 16]));
        let mut segment = vec![0; 100];
        let place = Place { sequence: 9, synced_bytes: 60, number: RecordNumber::new(3) };
        segment.extend(frame(seed, place));
        assert!(!proves_damage(&segment, seed, 60, 8), "written together with the damaged bytes");
        assert!(proves_damage(&segment, seed, 59, 8), "written after they were synced");
        assert!(!proves_damage(&segment, seed, 59, 10), "a sequence from before the damage");
    }
}
