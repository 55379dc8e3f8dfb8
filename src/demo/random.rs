//! The one source of randomness of a workload: a seeded ChaCha stream and the few distributions it needs.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws numbers; two with the same seed draw the same ones.
#[derive(Debug)]
pub(super) struct Dice {
    rng: ChaCha8Rng,
    /// The second half of the last pair of normal draws.
    spare_normal: Option<f64>,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), spare_normal: None }
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        self.rng.random()
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.rng.random()
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.rng.random()
    }

    /// True in `probability` of the draws.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub(super) fn percent(&mut self, percent: u8) -> bool {
        percent >= 100 || self.below(100) < u32::from(percent)
    }

    /// Uniform in `0..bound`; zero for a bound of zero.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        // The multiply-shift draw; its bias is below 2^-32 of the bound.
        let wide = u64::from(self.rng.random::<u32>()) * u64::from(bound);
        (wide >> 32) as u32
    }

    /// One of `items`, which is not empty.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        let bound = u32::try_from(items.len()).unwrap_or(u32::MAX);
        items[self.below(bound) as usize]
    }

    /// In `0..bound`, low values more often: `power` of 1 is uniform, 2 gives the lowest quarter half of the draws.
    pub(super) fn skewed(&mut self, bound: u32, power: f64) -> u32 {
        (f64::from(bound) * self.unit().powf(power)) as u32
    }

    /// From a log-normal distribution.
    pub(super) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// From the standard normal distribution, by Box and Muller's polar method.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare_normal = Some(y * factor);
                return x * factor;
            }
        }
    }
}
