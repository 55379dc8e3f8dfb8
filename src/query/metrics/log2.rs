//! Histograms whose buckets are powers of two, and quantiles out of them.
//!
//! An integer value belongs to the bucket of the next power of two that is not below it; durations are taken in
//! nanoseconds. Values below 2 and floats belong to none. A quantile is interpolated between the edges of the bucket
//! that it falls into, on a scale of logarithms.

/// The least value that has a bucket.
pub(crate) const LEAST: i64 = 2;

/// The exponent of the last bucket.
pub(crate) const EXPONENT_MAX: u32 = 63;

/// The exponent of a value's bucket, for values of at least [`LEAST`].
pub(crate) fn exponent(value: i64) -> u32 {
    // The number of digits of what is one below is that of the power above, minus its one.
    u64::BITS - (value.max(LEAST) as u64 - 1).leading_zeros()
}

/// The upper edge of a bucket.
pub(crate) fn edge(exponent: u32) -> f64 {
    (f64::from(exponent)).exp2()
}

/// The value at quantile `q` of a histogram: pairs of exponent and count, by exponent; 0 of an empty one.
pub(crate) fn quantile(q: f64, buckets: &[(u32, u64)]) -> f64 {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let target = ((q * total as f64).ceil() as u64).max(1);
    let mut below = 0;
    let mut lower = None;
    for (exponent, count) in buckets {
        let upper = f64::from(*exponent);
        if below + count == target {
            return edge(*exponent);
        }
        if below + count > target {
            let lower = lower.unwrap_or(upper - 1.0);
            let share = (target - below) as f64 / *count as f64;
            return (lower + (upper - lower) * share).exp2();
        }
        below += count;
        lower = Some(upper);
    }
    // Beyond the last bucket only by rounding.
    buckets.last().map_or(0.0, |(exponent, _)| edge(*exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_the_next_power_of_two() {
        for (value, edge_of_bucket) in [(2, 2.0), (3, 4.0), (4, 4.0), (5, 8.0), (1_000_000_000, 1_073_741_824.0)] {
            assert_eq!(edge(exponent(value)), edge_of_bucket, "{value}");
        }
        assert_eq!(edge(exponent(i64::MAX)), 9_223_372_036_854_775_808.0);
    }

    #[test]
    fn quantiles_are_interpolated_on_a_scale_of_logarithms() {
        // Two values up to 2, and two up to 4: the median is the edge, the next one is halfway between the powers.
        let buckets = [(1, 2), (2, 2)];
        assert_eq!(quantile(0.5, &buckets), 2.0);
        assert_eq!(quantile(0.75, &buckets), 1.5_f64.exp2());
        assert_eq!(quantile(1.0, &buckets), 4.0);
        // The first of two is between half of the first edge and that edge.
        assert_eq!(quantile(0.25, &buckets), 0.5_f64.exp2());
        // Zero asks for the first value, and a gap between buckets is interpolated over.
        assert_eq!(quantile(0.0, &[(3, 2)]), 2.5_f64.exp2());
        assert_eq!(quantile(0.5, &[(3, 1), (6, 4)]), (3.0_f64 + 3.0 * 0.5).exp2());
        assert_eq!(quantile(0.9, &[]), 0.0);
    }

    #[test]
    fn a_quantile_of_a_recorded_histogram_is_the_recorded_one() {
        // Spans of a shop: 10,557 of them up to 2^22 ns, and the median is the 7,352nd of these.
        let below = 50_000;
        let total = 2 * (below + 7_352);
        let buckets = [(21, below), (22, 10_557), (23, total - below - 10_557)];
        let seconds = quantile(0.5, &buckets) / 1e9;
        assert!((seconds - 0.003_398_366_372_623_167_5).abs() < 1e-15, "{seconds}");
    }
}
