//! Entry points for `fuzz/`: arbitrary bytes into the readers of the log. Not part of the interface.

use super::{
    LogId,
    frame::{ChecksumSeed, FRAME_HEADER_BYTES, proves_damage, u32_at},
    head::Head,
    segment::{HEADER_BYTES, ReadError, SegmentReader, encode_header},
};

const ID: LogId = LogId(uuid::Uuid::from_bytes([7; 16]));

/// Reads `frames` as the frames of a segment, once as they are and once with every checksum made right, since a fuzzer
/// does not guess one. Returns how many frames were intact.
pub fn read_segment(frames: &[u8]) -> usize {
    let mut segment = encode_header(ID, 1).to_vec();
    segment.extend_from_slice(frames);
    let intact = read(&segment);
    let mut at = HEADER_BYTES as usize;
    while segment.len() - at >= FRAME_HEADER_BYTES {
        let length = u32_at(&segment[at..], 4) as usize;
        if length < FRAME_HEADER_BYTES || length > segment.len() - at {
            break;
        }
        ChecksumSeed::of(ID).sign(&mut segment[at..at + length]);
        at += length;
    }
    intact + read(&segment)
}

/// Decodes bytes as a head, as they are and with the checksum made right; what decodes must encode to the same head.
pub fn read_head(bytes: &[u8]) {
    let mut signed = bytes.to_vec();
    signed.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    for bytes in [bytes, &signed] {
        if let Ok(head) = Head::decode(bytes) {
            assert_eq!(Head::decode(&head.encode()).as_ref(), Ok(&head));
        }
    }
}

fn read(segment: &[u8]) -> usize {
    let Ok(mut reader) = SegmentReader::new(segment, segment.len() as u64, ID, 1) else { return 0 };
    let mut intact = 0;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                intact += 1;
                let record = frame.to_record();
                assert!(record.payload.len() + record.digests.len() * 16 <= segment.len());
            }
            Ok(None) => return intact,
            Err(ReadError::Damaged { offset_bytes, .. }) => {
                proves_damage(segment, ChecksumSeed::of(ID), offset_bytes as usize, 1 + intact as u64);
                return intact;
            }
            Err(ReadError::Io(_) | ReadError::Version { .. }) => return intact,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
            read_segment(&bytes);
            read_head(&bytes);
        }

        #[test]
        fn no_frame_with_a_right_checksum_makes_a_reader_panic(
            parts in vec((vec(any::<u8>(), 40), 0..8_u32, any::<u8>(), vec(any::<u8>(), 0..60)), 1..4),
        ) {
            let mut frames = Vec::new();
            for (sequence, (fixed, digests, tenant_bytes, rest)) in (1_u64..).zip(&parts) {
                frames.extend_from_slice(&fixed[..4]);
                frames.extend_from_slice(&((FRAME_HEADER_BYTES + rest.len()) as u32).to_le_bytes());
                frames.extend_from_slice(&sequence.to_le_bytes());
                frames.extend_from_slice(&40_u64.to_le_bytes());
                frames.extend_from_slice(&fixed[24..40]);
                frames.extend_from_slice(&digests.to_le_bytes());
                frames.extend_from_slice(&[1, tenant_bytes % 8, 0, 0]);
                frames.extend(rest.iter().map(|byte| b'a' + byte % 26));
            }
            read_segment(&frames);
        }
    }
}
