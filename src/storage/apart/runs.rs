//! Numbers as runs and packed bits in turn: how Parquet writes the codes of a dictionary, and which rows have a value.
//!
//! ```text
//!  header, a varint   n << 1       one number in as many bytes as its bits need, n times
//!                     n << 1 | 1   8 n numbers of some bits each, the lowest bits first
//! ```

use parquet::errors::{ParquetError, Result};

/// Most bits of a number.
const WIDTH_MAX: usize = 32;
/// Bytes that eight numbers take at most, and those that are read beyond the last of them.
const EIGHT_BYTES_MAX: usize = WIDTH_MAX + 8;

/// Most numbers that room is made for before they are there: those of a page, if it says how many it has.
const RESERVED_MAX: usize = 1 << 16;

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
    numbers.reserve(count.min(RESERVED_MAX));
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

/// Adds `count` bits, which are nothing but packed.
pub(super) fn packed_bits(bytes: &[u8], count: usize, numbers: &mut Vec<u32>) -> Result<()> {
    let bytes = bytes.get(..count.div_ceil(8)).ok_or_else(torn)?;
    let end = numbers.len() + count;
    unpack(bytes, 1, numbers);
    numbers.truncate(end);
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

/// The same where the compiler knows how many bits there are. Up to eight bits, eight numbers are in one word; up to sixteen,
/// four are, the second of which begins in the middle of a byte if there are four of an odd number of bits before it.
fn unpack_of<const WIDTH: usize>(packed: &[u8], numbers: &mut Vec<u32>) {
    let (half, rest) = (WIDTH / 2, WIDTH % 2 * 4);
    let mut left = packed;
    numbers.reserve(8 * (packed.len() / WIDTH + 1));
    while let Some((first, _)) = left.split_first_chunk::<8>() {
        let first = u64::from_le_bytes(*first);
        let eight: [u32; 8] = if WIDTH <= 8 {
            std::array::from_fn(|place| number_at::<WIDTH>(first, place * WIDTH))
        } else {
            let Some((second, _)) = left[half..].split_first_chunk::<8>() else { break };
            let second = u64::from_le_bytes(*second);
            std::array::from_fn(|place| match place {
                0..4 => number_at::<WIDTH>(first, place * WIDTH),
                _ => number_at::<WIDTH>(second, rest + (place - 4) * WIDTH),
            })
        };
        numbers.extend_from_slice(&eight);
        left = &left[WIDTH.min(left.len())..];
    }
    left.chunks(WIDTH).for_each(|eight| numbers.extend_from_slice(&eight_of(eight, WIDTH)));
}

#[inline(always)]
fn number_at<const WIDTH: usize>(word: u64, bit: usize) -> u32 {
    ((word >> bit) & ((1 << WIDTH) - 1)) as u32
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

/// Adds the numbers of those of `count` rows that are marked by a bit that is set, in order.
pub(super) fn marked(bytes: &[u8], count: usize, rows: &mut Vec<u32>) -> Result<()> {
    let mut runs = Runs { bytes, width: 1 };
    let mut row = 0;
    rows.reserve(count.min(RESERVED_MAX));
    while row < count {
        match runs.next()? {
            Some(Run::Same { number, count: of_run }) => {
                let end = row + of_run.min(count - row);
                if number != 0 {
                    rows.extend(row as u32..end as u32);
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
                    while bits != 0 {
                        rows.push(first as u32 + bits.trailing_zeros());
                        bits &= bits - 1;
                    }
                }
                row = end;
            }
            None => return Err(torn()),
        }
    }
    Ok(())
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
            let mut rows = Vec::new();
            marked(&bytes, count, &mut rows).unwrap();
            let expected: Vec<u32> = (0..count).filter(|row| all[*row] == 1).map(|row| row as u32).collect();
            prop_assert_eq!(rows, expected);
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
