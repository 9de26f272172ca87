//! What a seed makes: machines with a clock, a disk and a network card, and the processes that run on them.
//!
//! madsim is the executor, the clock and the dice of the scheduler. Everything that a member can feel of the outside (bytes
//! that arrive late, a disk that forgets, a clock that drifts) is modelled here, in our own terms, and implements the
//! traits of `quorate_runtime`.
//!
//! Times in this crate are [`SimTime`]: nanoseconds of simulated time since the run began, the same for all machines. What a
//! member sees of it goes through its own [`clock::MachineClock`].

pub mod clock;
pub mod cluster;
pub mod dice;
pub mod disk;
pub mod net;
pub mod runtime;
pub mod trace;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::world::clock::SimTime;
use crate::world::dice::Dice;
use crate::world::net::SimNet;
use crate::world::trace::Trace;

/// What all machines of a run share.
pub struct World {
    seed: u64,
    /// The running hash of everything that happened.
    pub trace: Trace,
    /// The network.
    pub net: Arc<SimNet>,
    story: Mutex<Vec<(SimTime, String)>>,
}

impl World {
    /// A world from a seed, with a network and no machines.
    pub fn new(seed: u64) -> Arc<Self> {
        let trace = Trace::default();
        let net = SimNet::new(Dice::new(seed, "net"), trace.clone());
        Arc::new(Self { seed, trace, net, story: Mutex::default() })
    }

    /// A stream of random numbers of one's own; the same name gives the same stream.
    pub fn dice(&self, stream: &str) -> Dice {
        Dice::new(self.seed, stream)
    }

    /// Notes a sentence for the story that a failing run prints.
    pub fn tell(&self, sentence: impl Into<String>) {
        lock(&self.story).push((clock::now(), sentence.into()));
    }

    /// The story so far, in order.
    pub fn story(&self) -> Vec<(SimTime, String)> {
        lock(&self.story).clone()
    }
}

/// Locks, also after a panic elsewhere: a run ends at its first panic, and what ends it must not be hidden by a second one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
