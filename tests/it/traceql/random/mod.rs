//! Random traces and random queries: the engine must answer what the reference does, wherever the spans lie.
//!
//! A world is some traces with everything that goes wrong in practice (copies, cycles, orphans, skewed clocks, mixed
//! types). Some worlds make a data set, which is divided at random over files, merged files and buffered batches, with many
//! searches and metrics queries about it; a case is one query about one world. `TRACEHOUSE_TRACEQL_CASES=100000` asks for
//! more cases than 2,000, `TRACEHOUSE_TRACEQL_SEED=7` starts elsewhere. A disagreement is shrunk and printed as the seed,
//! the query, the spans and both answers.

mod agree;
pub(super) mod engine;
mod queries;
pub(super) mod series;
mod spans;

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 on, less than `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Whether something that happens `percent` times in a hundred happens now.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}
