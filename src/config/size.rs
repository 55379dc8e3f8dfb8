//! Sizes in bytes, as people write them.

use std::{fmt, str::FromStr};

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes, written `64MiB`, `512KiB`, `1GiB` or as a plain number.
///
/// Units are powers of 1024; the ambiguous `MB` is refused. Printing picks the largest unit that divides the number, so
/// that parsing gives the same number back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `count` bytes.
    pub const fn from_bytes(count: u64) -> Self {
        Self(count)
    }

    /// `count` times 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` times 1024 KiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` times 1024 MiB.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes for use with lengths in memory; on a 32-bit machine it saturates.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a size such as 64MiB, 512KiB or 1GiB")]
pub struct SizeError;

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let count: u64 = digits.parse().map_err(|_| SizeError)?;
        let unit = unit.trim_start();
        let factor = match unit {
            "" => 1,
            _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(SizeError)?.1,
        };
        count.checked_mul(factor).map(Self).ok_or(SizeError)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |factor: u64| self.0 != 0 && self.0.is_multiple_of(factor);
        let (unit, factor) = UNITS.into_iter().find(|(_, factor)| divides(*factor)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_printed_size_parses_to_the_same_size(bytes: u64, shift in 0..40u32) {
            for size in [ByteSize(bytes), ByteSize(bytes >> shift << shift)] {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in ".{0,12}") {
            let _ = text.parse::<ByteSize>();
        }
    }

    #[test]
    fn sizes_are_written_with_binary_units() {
        assert_eq!("20MiB".parse(), Ok(ByteSize::mib(20)));
        assert_eq!("20 mib".parse(), Ok(ByteSize::mib(20)));
        assert_eq!("1024".parse(), Ok(ByteSize::kib(1)));
        assert_eq!(ByteSize::from_bytes(1_536).to_string(), "1536B");
        assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
        for wrong in ["", "MiB", "1MB", "1.5MiB", "-1", "99999999999TiB", "1 MiB x"] {
            assert_eq!(wrong.parse::<ByteSize>(), Err(SizeError), "{wrong:?}");
        }
    }
}
