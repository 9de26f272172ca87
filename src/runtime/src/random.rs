//! Random numbers, from the runtime's one source: the operating system in production, the seed in simulation.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A source of random bytes.
pub trait Random {
    /// Fills `buffer`.
    fn fill_random(&self, buffer: &mut [u8]);

    /// 64 random bits.
    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A generator of one's own, seeded from `source`: for a component that draws often. The same seed gives the same stream in
/// every version (ChaCha8).
pub fn generator(source: &(impl Random + ?Sized)) -> ChaCha8Rng {
    let mut seed = [0; 32];
    source.fill_random(&mut seed);
    ChaCha8Rng::from_seed(seed)
}
