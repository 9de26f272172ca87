//! What goes wrong while clients work. One file a fault; [`ALL`] is the list.
//!
//! Each fault draws its own strength, strikes at its own times until the stage is over, and then puts the world right again: after
//! the chaos everything heals, and the healed cluster must serve. A fault's file opens with its budget: what it may break, and
//! what must hold all the same.

mod clocks;
pub mod crash_in_call;
mod disk_errors;
pub mod full_disk;
mod kill;
pub mod membership;
mod network;
mod partition;
mod pause;
pub mod quorum_lost;
mod slow_disk;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_runtime::BoxFuture;

use crate::actions::Action;
use crate::history::Recorder;
use crate::scenario::{Deed, Who};
use crate::world::clock::{self, SimTime};
use crate::world::cluster::Cluster;
use crate::world::dice::Dice;
use crate::world::net::MachineId;
use crate::world::trace::Event;
use crate::world::{World, lock};

/// Where faults and workloads play: the world, the cluster, and when it ends.
pub struct Stage {
    /// The world.
    pub world: Arc<World>,
    /// The members.
    pub cluster: Arc<Cluster>,
    /// The machines of the clients.
    pub client_machines: Vec<MachineId>,
    /// The record of what clients do.
    pub recorder: Recorder,
    ends: Mutex<SimTime>,
    strikes: Mutex<Vec<(SimTime, &'static str)>>,
}

impl Stage {
    /// A stage that does not end yet.
    pub fn new(
        world: Arc<World>,
        cluster: Arc<Cluster>,
        client_machines: Vec<MachineId>,
        recorder: Recorder,
    ) -> Arc<Self> {
        let ends = Mutex::new(SimTime::NEVER);
        Arc::new(Self { world, cluster, client_machines, recorder, ends, strikes: Mutex::default() })
    }

    /// Ends it now. Pauses under way end within `PAUSE_SLICE`.
    pub fn end(&self) {
        *lock(&self.ends) = clock::now();
    }

    /// True once it has ended.
    pub fn is_over(&self) -> bool {
        *lock(&self.ends) <= clock::now()
    }

    /// Waits, but not beyond the end. True if the stage goes on.
    pub async fn pause(&self, pause: Duration) -> bool {
        let until = clock::now().plus_nanos(pause.as_nanos() as u64);
        while clock::now() < until && !self.is_over() {
            let slice = clock::now().plus_nanos(PAUSE_SLICE.as_nanos() as u64);
            clock::sleep_until(until.min(slice)).await;
        }
        !self.is_over()
    }

    /// Does it now: see [`Action::perform`].
    pub fn act(&self, action: &Action) -> bool {
        let done = action.perform(&self.world, &self.cluster);
        if done {
            self.world.note(Deed::Act(action.aimed(|&machine| Who::Machine(machine))));
        }
        done
    }

    /// Counts a strike of `fault`, for the report.
    pub fn strike(&self, fault: &'static str) {
        lock(&self.strikes).push((clock::now(), fault));
        self.world.trace.note(Event::Fault, &[], fault.as_bytes());
    }

    /// How often each fault struck.
    pub fn strike_counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (_, fault) in lock(&self.strikes).iter() {
            *counts.entry(*fault).or_default() += 1;
        }
        counts
    }

    /// True if `fault` has struck.
    pub fn has_struck(&self, fault: &str) -> bool {
        lock(&self.strikes).iter().any(|(_, struck)| *struck == fault)
    }

    /// Which faults struck when, in order.
    pub fn strikes(&self) -> Vec<(SimTime, &'static str)> {
        lock(&self.strikes).clone()
    }
}

/// How soon a pause notices the end of the stage.
const PAUSE_SLICE: Duration = Duration::from_millis(500);

/// Something that goes wrong.
pub trait Fault: Send + Sync {
    /// Its name, as in a report.
    fn name(&self) -> &'static str;

    /// Strikes until the stage is over, then puts right what it did.
    fn run<'a>(&'a self, stage: &'a Arc<Stage>, dice: Dice) -> BoxFuture<'a, ()>;
}

/// Makes a fault with drawn strength.
pub type Make = fn(&mut Dice) -> Box<dyn Fault>;

/// Every fault, by name.
pub const ALL: &[(&str, Make)] = &[
    ("kill", |dice| Box::new(kill::Kill::draw(dice))),
    ("crash_in_call", |dice| Box::new(crash_in_call::CrashInCall::draw(dice))),
    ("pause", |dice| Box::new(pause::Pause::draw(dice))),
    ("slow_disk", |dice| Box::new(slow_disk::SlowDisk::draw(dice))),
    ("disk_errors", |dice| Box::new(disk_errors::DiskErrors::draw(dice))),
    (full_disk::NAME, |dice| Box::new(full_disk::FullDisk::draw(dice))),
    ("clocks", |dice| Box::new(clocks::Clocks::draw(dice))),
    ("network", |dice| Box::new(network::Network::draw(dice))),
    ("partition", |dice| Box::new(partition::Partition::draw(dice))),
    (quorum_lost::NAME, |dice| Box::new(quorum_lost::QuorumLost::draw(dice))),
    (membership::NAME, |dice| Box::new(membership::Membership::draw(dice))),
];

/// The name in the list, if there is such a fault.
pub fn named(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(known, _)| *known)
}

/// What the faults of the list count as strikes, each by name.
pub fn strikes() -> impl Iterator<Item = &'static str> {
    let of = |(name, _): &'static (&'static str, Make)| match *name {
        membership::NAME => membership::STRIKES.to_vec(),
        name => vec![name],
    };
    ALL.iter().flat_map(of)
}

/// How long after one strike the next one comes: around `mean`, from a quarter of it to nearly twice.
fn interval(dice: &mut Dice, mean: Duration) -> Duration {
    let mean_ns = mean.as_nanos() as u64;
    Duration::from_nanos(dice.between(mean_ns / 4, mean_ns * 7 / 4))
}

fn draw_mean_secs(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low * 1000, high * 1000))
}
