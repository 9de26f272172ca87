//! Random numbers from the seed, one independent stream for each purpose.
//!
//! Streams are apart so that one more draw in one place does not move every other decision of the run.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Dice {
    generator: ChaCha8Rng,
}

impl Dice {
    /// The stream `stream` of seed `seed`.
    pub fn new(seed: u64, stream: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        // FNV-1a, three times with other starts: names are few and short, so this only has to tell them apart.
        for (lane, chunk) in key[8..].chunks_mut(8).enumerate() {
            let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for byte in stream.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            chunk.copy_from_slice(&hash.to_le_bytes());
        }
        Self { generator: ChaCha8Rng::from_seed(key) }
    }

    /// A stream that depends on this one.
    pub fn fork(&mut self, stream: &str) -> Dice {
        Dice::new(self.bits(), stream)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        self.generator.fill_bytes(buffer);
    }

    /// A number below `limit` (0 if `limit` is 0). The bias is below 2⁻³² for the small limits used here.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        low + self.below((high - low).saturating_add(1))
    }

    /// A number in `low..=high` whose order of magnitude is uniform: small ones as often as large ones.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "bad range {low}..={high}");
        let top = self.between(u64::from(low.ilog2()), u64::from(high.ilog2()));
        let bucket_low = (1 << top).max(low);
        let bucket_high = ((1_u64 << top) - 1 + (1_u64 << top)).min(high);
        self.between(bucket_low, bucket_high)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True in `parts` of a million cases.
    pub fn per_million(&mut self, parts: u64) -> bool {
        parts > 0 && self.below(1_000_000) < parts
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "nothing to pick from");
        &items[self.below(items.len() as u64) as usize]
    }
}

/// How long something takes, in nanoseconds: a base, a uniform spread, and rarely a tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// At least this.
    pub base_ns: u64,
    /// Plus up to this.
    pub spread_ns: u64,
    /// In so many of a million cases ...
    pub tail_per_million: u64,
    /// ... plus up to this.
    pub tail_ns: u64,
}

impl Latency {
    /// Draws one duration.
    pub fn draw(&self, dice: &mut Dice) -> u64 {
        let mut total_ns = self.base_ns + dice.below(self.spread_ns + 1);
        if dice.per_million(self.tail_per_million) {
            total_ns += dice.below(self.tail_ns + 1);
        }
        total_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_stable_and_apart() {
        let draw = |seed, name| Dice::new(seed, name).bits();
        assert_eq!(draw(1, "net"), draw(1, "net"));
        assert_ne!(draw(1, "net"), draw(2, "net"));
        assert_ne!(draw(1, "net"), draw(1, "disk"));
    }

    #[test]
    fn ranges_hold() {
        let mut dice = Dice::new(7, "ranges");
        let mut seen_small = false;
        for _ in 0..1000 {
            assert!((3..=9).contains(&dice.between(3, 9)));
            let drawn = dice.magnitude(5, 100_000);
            assert!((5..=100_000).contains(&drawn));
            seen_small |= drawn < 50;
        }
        assert!(seen_small, "magnitudes are drawn, not values");
        assert!(!dice.percent(0) && dice.percent(100));
    }
}
