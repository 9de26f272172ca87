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
pub mod wakes;
pub mod whose;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId;

use crate::scenario::Deed;
use crate::world::clock::SimTime;
use crate::world::dice::Dice;
use crate::world::net::SimNet;
use crate::world::trace::Trace;
use crate::world::wakes::WakeOrder;

/// What all machines of a run share.
pub struct World {
    seed: u64,
    /// The running hash of everything that happened.
    pub trace: Trace,
    /// The network.
    pub net: Arc<SimNet>,
    story: Mutex<Vec<(SimTime, String)>>,
    deeds: Mutex<Vec<(SimTime, Deed)>>,
    /// The order of wakes.
    pub wakes: Arc<WakeOrder>,
    nodes: Mutex<Vec<NodeId>>,
}

impl World {
    /// A world from a seed, with a network and no machines. Only inside a simulation.
    pub fn new(seed: u64) -> Arc<Self> {
        let trace = Trace::default();
        let net = SimNet::new(Dice::new(seed, "net"), trace.clone());
        let wakes = Arc::new(WakeOrder::default());
        let world = Arc::new(Self {
            seed,
            trace,
            net,
            story: Mutex::default(),
            deeds: Mutex::default(),
            wakes,
            nodes: Mutex::default(),
        });
        world.new_node("wakes").spawn(Arc::clone(&world.wakes).dispatch());
        world
    }

    /// A stream of random numbers of one's own; the same name gives the same stream.
    pub fn dice(&self, stream: &str) -> Dice {
        Dice::new(self.seed, stream)
    }

    /// A madsim node for the tasks of one process, or of a part of the harness.
    pub fn new_node(&self, name: &str) -> NodeHandle {
        let node = Handle::current().create_node().name(name).build();
        lock(&self.nodes).push(node.id());
        node
    }

    /// Drops every task of every node. What tasks hold of each other goes with them; a run leaves no memory behind.
    pub async fn shut_down(&self) {
        for node in lock(&self.nodes).drain(..) {
            Handle::current().kill(node);
        }
        clock::sleep(Duration::from_millis(1)).await;
    }

    /// Notes a sentence for the story that a failing run prints.
    pub fn tell(&self, sentence: impl Into<String>) {
        lock(&self.story).push((clock::now(), sentence.into()));
    }

    /// Notes what somebody does, so that a scenario can do it again.
    pub fn note(&self, deed: Deed) {
        lock(&self.deeds).push((clock::now(), deed));
    }

    /// What was done so far, in order.
    pub fn deeds(&self) -> Vec<(SimTime, Deed)> {
        lock(&self.deeds).clone()
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
