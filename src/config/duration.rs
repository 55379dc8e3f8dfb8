//! Durations, as people write them.

use std::{fmt, str::FromStr, time::Duration};

const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A duration, written `30s`, `5m` or `1h30m`: whole numbers with units from large to small.
///
/// The units are `d`, `h`, `m`, `s`, `ms`, `us` and `ns`; a number without a unit is refused, since nobody can tell what
/// it means. Printing and parsing give the same duration back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// `count` seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// `count` minutes.
    pub const fn minutes(count: u64) -> Self {
        Self(Duration::from_secs(60 * count))
    }

    /// `count` hours.
    pub const fn hours(count: u64) -> Self {
        Self(Duration::from_secs(3_600 * count))
    }

    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The duration in nanoseconds, as times of spans are counted; saturates after 292 years.
    pub fn as_nanos(self) -> i64 {
        i64::try_from(self.0.as_nanos()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// The text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s, 5m or 1h30m")]
pub struct DurationError;

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let mut rest = text.trim();
        let mut nanos: u128 = 0;
        let mut larger_units_left = 0;
        if rest.is_empty() {
            return Err(DurationError);
        }
        while !rest.is_empty() {
            let digits_end = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError)?;
            let (digits, tail) = rest.split_at(digits_end);
            let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let count: u64 = digits.parse().map_err(|_| DurationError)?;
            let at = UNITS.iter().position(|(name, _)| *name == unit).ok_or(DurationError)?;
            if at < larger_units_left {
                return Err(DurationError);
            }
            larger_units_left = at + 1;
            nanos += u128::from(count) * UNITS[at].1;
            rest = tail;
        }
        let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| DurationError)?;
        let subsecond = u32::try_from(nanos % 1_000_000_000).map_err(|_| DurationError)?;
        Ok(Self(Duration::new(seconds, subsecond)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS {
            if rest >= nanos {
                write!(f, "{}{unit}", rest / nanos)?;
                rest %= nanos;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_printed_duration_parses_to_the_same_duration(seconds: u64, nanos in 0..1_000_000_000u32, shift in 0..64u32) {
            let duration = HumanDuration(Duration::new(seconds >> shift, nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_is_a_duration_or_an_error(text in ".{0,12}") {
            let _ = text.parse::<HumanDuration>();
        }
    }

    #[test]
    fn durations_are_whole_numbers_with_units_from_large_to_small() {
        assert_eq!("1h30m".parse(), Ok(HumanDuration::minutes(90)));
        assert_eq!("90m".parse(), Ok(HumanDuration::minutes(90)));
        assert_eq!("250ms".parse(), Ok(HumanDuration(Duration::from_millis(250))));
        assert_eq!(HumanDuration::minutes(90).to_string(), "1h30m");
        assert_eq!(HumanDuration::hours(24).to_string(), "1d");
        for wrong in ["", "5", "m", "1.5h", "-1s", "30m1h", "1h1h", "5 m", "5min", "99999999999999999999s"] {
            assert_eq!(wrong.parse::<HumanDuration>(), Err(DurationError), "{wrong:?}");
        }
    }
}
