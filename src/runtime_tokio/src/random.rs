//! Random bytes: one ChaCha8 stream for the process, seeded by the kernel once. A draw is a short lock and no system call.

use std::io;
use std::sync::PoisonError;

use quorate_runtime::random::Random;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::TokioRuntime;

/// A generator that nobody can predict. Waits until the kernel has gathered entropy (only ever early at boot).
pub(crate) fn seeded() -> io::Result<ChaCha8Rng> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        match getrandom(&mut seed[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ChaCha8Rng::from_seed(seed))
}

impl Random for TokioRuntime {
    fn fill_random(&self, buffer: &mut [u8]) {
        // A generator is valid after any draw, so a panic elsewhere while it was locked means nothing.
        self.random.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buffer);
    }
}
