//! The histogram behind a sketch.
//!
//! As bytes, integers big-endian:
//!
//! ```text
//!  u8 = 1            the version of this form
//!  u64               how many values are zero
//!  u32 n, n entries  buckets of positive values, index ascending: i32 index, u64 count
//!  u32 n, n entries  buckets of negative values, likewise by their size
//! ```
//!
//! A value v is in the bucket with the index ceil(log(|v|) / log(GAMMA)); the bucket's number is the middle of its two ends.
//! A sketch has at most [`BUCKETS_MAX`] buckets a side; beyond it the smallest are added to the one above them.

use std::collections::BTreeMap;

/// Two bounds of a bucket are a factor of this apart: answers are within 1 % of the value.
const GAMMA: f64 = 1.01 / 0.99;

/// Buckets that one side keeps: enough for values from a nanosecond to ten thousand years at once.
const BUCKETS_MAX: usize = 4_096;

/// Values smaller than this are zero.
const SMALLEST: f64 = 1e-9;

const VERSION: u8 = 1;

/// Counts of values by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    zeros: u64,
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
}

impl Histogram {
    /// Counts a value; what is no finite number is not counted.
    pub(super) fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let size = value.abs();
        if size < SMALLEST {
            self.zeros = self.zeros.saturating_add(1);
            return;
        }
        let side = if value > 0.0 { &mut self.positive } else { &mut self.negative };
        let count = side.entry(index_of(size)).or_default();
        *count = count.saturating_add(1);
        collapse(side);
    }

    /// Adds what another one counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.zeros = self.zeros.saturating_add(other.zeros);
        for (side, others) in [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)] {
            for (index, count) in others {
                let sum = side.entry(*index).or_default();
                *sum = sum.saturating_add(*count);
            }
            collapse(side);
        }
    }

    /// How many values were counted.
    pub(super) fn count(&self) -> u64 {
        let sides = self.positive.values().chain(self.negative.values());
        sides.fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    /// The value at rank `q` of 0 to 1; `None` of nothing, or where `q` is no such number.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        let rank = (q * (count - 1) as f64).floor() as u64;
        let negative = self.negative.iter().rev().map(|(index, count)| (-value_of(*index), *count));
        let zeros = (self.zeros > 0).then_some((0.0, self.zeros));
        let positive = self.positive.iter().map(|(index, count)| (value_of(*index), *count));
        let mut seen: u64 = 0;
        for (value, count) in negative.chain(zeros).chain(positive) {
            seen = seen.saturating_add(count);
            if seen > rank {
                return Some(value);
            }
        }
        None
    }

    /// The bytes of the form above.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.zeros.to_be_bytes());
        for side in [&self.positive, &self.negative] {
            bytes.extend_from_slice(&u32::try_from(side.len()).unwrap_or(u32::MAX).to_be_bytes());
            for (index, count) in side {
                bytes.extend_from_slice(&index.to_be_bytes());
                bytes.extend_from_slice(&count.to_be_bytes());
            }
        }
        bytes
    }

    /// Reads such bytes; `None` if they are not a sketch.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let zeros = u64::from_be_bytes(take(&mut rest)?);
        let positive = side(&mut rest)?;
        let negative = side(&mut rest)?;
        rest.is_empty().then_some(Self { zeros, positive, negative })
    }

    /// Memory that it takes, about, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + 24 * (self.positive.len() + self.negative.len())
    }
}

fn side(rest: &mut &[u8]) -> Option<BTreeMap<i32, u64>> {
    let length = u32::from_be_bytes(take(rest)?) as usize;
    if length > BUCKETS_MAX {
        return None;
    }
    let mut buckets = BTreeMap::new();
    for _ in 0..length {
        let index = i32::from_be_bytes(take(rest)?);
        let count = u64::from_be_bytes(take(rest)?);
        buckets.insert(index, count);
    }
    (buckets.len() == length).then_some(buckets)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn index_of(size: f64) -> i32 {
    // The greatest double has an index of about 35,000.
    (size.ln() / GAMMA.ln()).ceil() as i32
}

fn value_of(index: i32) -> f64 {
    2.0 * GAMMA.powi(index) / (GAMMA + 1.0)
}

fn collapse(side: &mut BTreeMap<i32, u64>) {
    while side.len() > BUCKETS_MAX {
        let Some((_, count)) = side.pop_first() else { return };
        if let Some(mut lowest) = side.first_entry() {
            *lowest.get_mut() = lowest.get().saturating_add(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let values: Vec<f64> = (1..=10_000).map(|n| f64::from(n) * 1_000.0).collect();
        let histogram = of(&values);
        for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
            let exact = values[(q * 9_999.0) as usize];
            let found = histogram.quantile(q).unwrap();
            assert!((found - exact).abs() <= 0.0101 * exact, "{q}: {found} and not {exact}");
        }
        assert_eq!((histogram.count(), histogram.quantile(1.5), of(&[]).quantile(0.5)), (10_000, None, None));
        assert_eq!(of(&[f64::NAN, f64::INFINITY]).count(), 0);
        assert_eq!(of(&[-5.0, 0.0, 0.0]).quantile(0.5), Some(0.0));
    }

    #[test]
    fn a_sketch_of_every_size_stays_small() {
        let histogram =
            of(&(-300..300).map(|n| 10f64.powi(n)).chain([f64::MAX, f64::MIN_POSITIVE]).collect::<Vec<_>>());
        assert!(histogram.positive.len() <= BUCKETS_MAX);
        let many = of(&(0..100_000).map(|n| GAMMA.powi(n % 20_000)).collect::<Vec<_>>());
        assert!(many.positive.len() <= BUCKETS_MAX && many.count() == 100_000);
    }

    proptest! {
        #[test]
        fn merging_is_adding_in_any_order(
            parts in prop::collection::vec(prop::collection::vec(prop::num::f64::NORMAL, 0..30), 0..6)
        ) {
            let whole = of(&parts.concat());
            let mut forth = Histogram::default();
            parts.iter().for_each(|part| forth.merge(&of(part)));
            let mut back = Histogram::default();
            parts.iter().rev().for_each(|part| back.merge(&of(part)));
            prop_assert_eq!(&forth, &whole);
            prop_assert_eq!(&back, &whole);
            prop_assert_eq!(Histogram::from_bytes(&whole.to_bytes()), Some(whole));
        }

        #[test]
        fn bytes_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(read) = Histogram::from_bytes(&bytes) {
                read.quantile(0.5);
            }
        }
    }
}
