//! A sum of floats that does not depend on the order of the values.
//!
//! Spans come in another order whenever files are merged or threads are scheduled differently, and a plain sum of floats
//! then differs in its last digits. Here a sum is kept as two floats, the second being what the first cannot hold. That
//! is exact for integers, durations among them, and for others right to far more digits than the answer shows.

/// A number as the sum of two floats, of which the second is small.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    high: f64,
    low: f64,
}

impl From<f64> for Sum {
    fn from(value: f64) -> Self {
        Self { high: value, low: 0.0 }
    }
}

impl Sum {
    /// Adds a number.
    pub(super) fn add(&mut self, value: f64) {
        self.merge(value.into());
    }

    /// Adds another sum.
    pub(super) fn merge(&mut self, other: Sum) {
        let sum = self.high + other.high;
        if !sum.is_finite() {
            (self.high, self.low) = (sum, 0.0);
            return;
        }
        let part = sum - self.high;
        let lost = (self.high - (sum - part)) + (other.high - part);
        let low = self.low + other.low + lost;
        self.high = sum + low;
        self.low = low - (self.high - sum);
    }

    /// The nearest float.
    pub(super) fn value(self) -> f64 {
        self.high + self.low
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum.value()
    }

    #[test]
    fn what_one_float_loses_is_kept() {
        assert_eq!(sum([1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum([0.1; 10]), 1.0);
        assert_eq!(sum([f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum([f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(sum([]), 0.0);
    }

    proptest! {
        #[test]
        fn the_order_and_the_parts_of_a_sum_do_not_matter(values in prop::collection::vec(-1e12..1e12_f64, 0..200), cut in 0usize..200) {
            let cut = cut.min(values.len());
            let mut parts = [Sum::default(), Sum::default()];
            values[..cut].iter().for_each(|value| parts[0].add(*value));
            values[cut..].iter().rev().for_each(|value| parts[1].add(*value));
            let [mut whole, rest] = parts;
            whole.merge(rest);
            prop_assert_eq!(whole.value(), sum(values));
        }
    }
}
