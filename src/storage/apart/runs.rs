//! Numbers as runs and packed bits in turn: how Parquet writes the codes of a dictionary, and which rows have a value.
//!
//! ```text
//!  header, a varint   n << 1       one number in as many bytes as its bits need, n times
//!                     n << 1 | 1   8 n numbers of some bits each, the lowest bits first
//! ```

use std::ops::Range;

use parquet::errors::{ParquetError, Result};

/// Most bits of a number.
const WIDTH_MAX: usize = 32;
/// Bytes that eight numbers take at most, and those that are read beyond the last of them.
const EIGHT_BYTES_MAX: usize = WIDTH_MAX + 8;

enum Run<'a> {
    Same {
        number: u32,
        count: usize,
    },
    /// Eight numbers after the other.
    Packed {
        bytes: &'a [u8],
        count: usize,
    },
}

struct Runs<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Runs<'a> {
    fn next(&mut self) -> Result<Option<Run<'a>>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let header = self.varint()?;
        let count = usize::try_from(header >> 1)?;
        if header & 1 == 0 {
            let (number, rest) = self.split(self.width.div_ceil(8))?;
            let mut padded = [0; 4];
            padded[..number.len()].copy_from_slice(number);
            self.bytes = rest;
            return Ok(Some(Run::Same { number: u32::from_le_bytes(padded), count }));
        }
        // The last run can end with the page.
        let length = count.saturating_mul(self.width).min(self.bytes.len());
        let (packed, rest) = self.split(length)?;
        self.bytes = rest;
        Ok(Some(Run::Packed { bytes: packed, count: count.saturating_mul(8) }))
    }

    fn varint(&mut self) -> Result<u32> {
        let mut number = 0;
        for shift in (0..u32::BITS).step_by(7) {
            let Some((byte, rest)) = self.bytes.split_first() else { break };
            self.bytes = rest;
            number |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(torn())
    }

    fn split(&self, length: usize) -> Result<(&'a [u8], &'a [u8])> {
        self.bytes.split_at_checked(length).ok_or_else(torn)
    }
}

fn torn() -> ParquetError {
    ParquetError::EOF("a run ends before its numbers".to_owned())
}

/// Adds `count` numbers of `width` bits.
pub(super) fn numbers(bytes: &[u8], width: u8, count: usize, numbers: &mut Vec<u32>) -> Result<()> {
    let (end, width) = (numbers.len() + count, usize::from(width));
    if width > WIDTH_MAX {
        return Err(ParquetError::General(format!("numbers of {width} bits are no codes")));
    }
    let mut runs = Runs { bytes, width };
    while numbers.len() < end {
        let wanted = end - numbers.len();
        match runs.next()? {
            Some(Run::Same { number, count }) => numbers.resize(numbers.len() + count.min(wanted), number),
            Some(Run::Packed { count, .. }) if width == 0 => numbers.resize(numbers.len() + count.min(wanted), 0),
            Some(Run::Packed { bytes, .. }) => {
                unpack(&bytes[..bytes.len().min(wanted.div_ceil(8) * width)], width, numbers);
                numbers.truncate(end);
            }
            None => return Err(torn()),
        }
    }
    Ok(())
}

/// Adds packed numbers; eight of them take as many bytes as one has bits.
fn unpack(packed: &[u8], width: usize, numbers: &mut Vec<u32>) {
    match width {
        1 => unpack_of::<1>(packed, numbers),
        2 => unpack_of::<2>(packed, numbers),
        3 => unpack_of::<3>(packed, numbers),
        4 => unpack_of::<4>(packed, numbers),
        5 => unpack_of::<5>(packed, numbers),
        6 => unpack_of::<6>(packed, numbers),
        7 => unpack_of::<7>(packed, numbers),
        8 => unpack_of::<8>(packed, numbers),
        9 => unpack_of::<9>(packed, numbers),
        10 => unpack_of::<10>(packed, numbers),
        11 => unpack_of::<11>(packed, numbers),
        12 => unpack_of::<12>(packed, numbers),
        13 => unpack_of::<13>(packed, numbers),
        14 => unpack_of::<14>(packed, numbers),
        15 => unpack_of::<15>(packed, numbers),
        16 => unpack_of::<16>(packed, numbers),
        _ => packed.chunks(width).for_each(|eight| numbers.extend_from_slice(&eight_of(eight, width))),
    }
}

/// The same where the compiler knows how many bits there are.
fn unpack_of<const WIDTH: usize>(packed: &[u8], numbers: &mut Vec<u32>) {
    let (whole, rest) = packed.as_chunks::<WIDTH>();
    numbers.reserve(8 * (whole.len() + 1));
    whole.iter().for_each(|eight| numbers.extend_from_slice(&eight_of(eight, WIDTH)));
    if !rest.is_empty() {
        numbers.extend_from_slice(&eight_of(rest, WIDTH));
    }
}

#[inline(always)]
fn eight_of(packed: &[u8], width: usize) -> [u32; 8] {
    let mut padded = [0; EIGHT_BYTES_MAX];
    padded[..packed.len()].copy_from_slice(packed);
    std::array::from_fn(|place| {
        let bit = place * width;
        let mut word = [0; 8];
        word.copy_from_slice(&padded[bit / 8..bit / 8 + 8]);
        ((u64::from_le_bytes(word) >> (bit % 8)) & ((1 << width) - 1)) as u32
    })
}

/// Which of `count` rows are marked by a bit that is set, as ranges in order, and how many these are.
pub(super) fn marked(bytes: &[u8], count: usize, ranges: &mut Vec<Range<usize>>) -> Result<usize> {
    let mut runs = Runs { bytes, width: 1 };
    let (mut row, mut marked) = (0, 0);
    let mut mark = |range: Range<usize>| {
        marked += range.len();
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    };
    while row < count {
        match runs.next()? {
            Some(Run::Same { number, count: of_run }) => {
                let end = row + of_run.min(count - row);
                if number != 0 && end > row {
                    mark(row..end);
                }
                row = end;
            }
            Some(Run::Packed { bytes, count: of_run }) => {
                let end = row + of_run.min(count - row);
                for (bytes, first) in bytes.chunks(8).zip((row..end).step_by(64)) {
                    let mut word = [0; 8];
                    word[..bytes.len()].copy_from_slice(bytes);
                    let mut bits = u64::from_le_bytes(word);
                    let of_word = (end - first).min(64);
                    if of_word < 64 {
                        bits &= (1 << of_word) - 1;
                    }
                    let mut at = 0;
                    while bits != 0 {
                        let from = at + bits.trailing_zeros() as usize;
                        bits >>= bits.trailing_zeros();
                        let length = bits.trailing_ones();
                        at = from + length as usize;
                        mark(first + from..first + at);
                        bits = bits.checked_shr(length).unwrap_or(0);
                    }
                }
                row = end;
            }
            None => return Err(torn()),
        }
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Runs of both kinds, as a writer could have made them.
    fn written(parts: &[(bool, Vec<u32>)], width: u8) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut all) = (Vec::new(), Vec::new());
        let mask = u32::MAX.checked_shr(32 - u32::from(width)).unwrap_or(0);
        let varint = |bytes: &mut Vec<u8>, mut number: usize| {
            while number >= 0x80 {
                bytes.push(number as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
        };
        for (is_packed, numbers) in parts {
            let numbers: Vec<u32> = numbers.iter().map(|number| number & mask).collect();
            if *is_packed {
                let groups = numbers.len() / 8;
                varint(&mut bytes, groups << 1 | 1);
                let mut bits = Vec::new();
                for number in &numbers[..groups * 8] {
                    bits.extend((0..width).map(|bit| number >> bit & 1));
                }
                bytes
                    .extend(bits.chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, bit| byte << 1 | *bit as u8)));
                all.extend_from_slice(&numbers[..groups * 8]);
            } else {
                varint(&mut bytes, numbers.len() << 1);
                bytes.extend(&numbers[0].to_le_bytes()[..usize::from(width).div_ceil(8)]);
                all.extend(vec![numbers[0]; numbers.len()]);
            }
        }
        (bytes, all)
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(
            parts in vec((any::<bool>(), vec(any::<u32>(), 1..200)), 0..5), width in 0..=32_u8, cut in 0..8_usize,
        ) {
            let (bytes, all) = written(&parts, width);
            let mut found = vec![7];
            let count = all.len().saturating_sub(cut);
            numbers(&bytes, width, count, &mut found).unwrap();
            prop_assert_eq!(&found[1..], &all[..count]);
            if width > 0 {
                prop_assert!(numbers(&bytes, width, all.len() + 1, &mut Vec::new()).is_err());
            }
        }

        #[test]
        fn rows_are_marked_by_their_bits(
            parts in vec((any::<bool>(), vec(0..2_u32, 1..200)), 0..5), cut in 0..8_usize,
        ) {
            let (bytes, all) = written(&parts, 1);
            let count = all.len().saturating_sub(cut);
            let mut ranges = Vec::new();
            let marked = marked(&bytes, count, &mut ranges).unwrap();
            let rows: Vec<usize> = ranges.iter().cloned().flatten().collect();
            let expected: Vec<usize> = (0..count).filter(|row| all[*row] == 1).collect();
            prop_assert_eq!(marked, expected.len());
            prop_assert_eq!(rows, expected);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }

        #[test]
        fn what_is_no_run_is_an_error_or_some_numbers(bytes in vec(any::<u8>(), 0..40), width in any::<u8>()) {
            let mut found = Vec::new();
            if numbers(&bytes, width, 1_000, &mut found).is_ok() {
                prop_assert_eq!(found.len(), 1_000);
            }
            let _ = marked(&bytes, 1_000, &mut Vec::new());
        }
    }
}
