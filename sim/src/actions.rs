//! What is done to the world, in the words of a story.
//!
//! Whatever goes wrong in a run is an [`Action`] at some time: faults decide, [`Action::perform`] does it and tells it. So a
//! story is complete: who has read it can do the same again.

use std::sync::Arc;
use std::time::Duration;

use crate::world::World;
use crate::world::cluster::{Cluster, machine_name};
use crate::world::disk::{Death, SimDisk};
use crate::world::net::{MachineId, NetKnobs};

/// Something that happens to the world at one moment. Machines go by their numbers; members' begin at 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The member is started, unless it runs or is spare.
    Start(MachineId),
    /// The member's process ends without warning, if there is one.
    Kill(MachineId, Death),
    /// The process stands still (SIGSTOP).
    Pause(MachineId),
    /// It goes on (SIGCONT).
    Resume(MachineId),
    /// Nothing of what one machine sends reaches the other.
    Cut {
        /// Who sends.
        from: MachineId,
        /// Who does not hear it.
        to: MachineId,
    },
    /// Every cut link is mended.
    MendAll,
    /// All links behave like this.
    Network(NetKnobs),
    /// Some connection of the machine breaks.
    ResetConnection(MachineId),
    /// Calls to the disk take so many percent of the usual time.
    DiskSpeed(MachineId, u64),
    /// So many of a million calls to the disk fail.
    DiskErrors(MachineId, DiskErrorRates),
    /// So many bytes more fit on the disk; `None` is endless room.
    DiskRoom(MachineId, Option<u64>),
    /// Both clocks run too fast by so many parts of a million (negative: too slow).
    ClockRate(MachineId, i64),
    /// The wall clock jumps by so many nanoseconds.
    ClockJump(MachineId, i64),
    /// Both clocks leap forward, as after a suspend.
    ClockLeap(MachineId, Duration),
}

/// How often calls to a disk fail, of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskErrorRates {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs; the data may be lost for good.
    pub syncs: u64,
}

impl Action {
    /// How the story tells it; nothing for what the cluster tells by itself.
    fn told(&self) -> Option<String> {
        Some(match self {
            Self::Start(_) | Self::Kill(..) | Self::Pause(_) | Self::Resume(_) => return None,
            Self::Cut { from, to } => format!("{} does not hear {}", machine_name(*to), machine_name(*from)),
            Self::MendAll => "all links are mended".to_owned(),
            Self::Network(knobs) if *knobs == NetKnobs::default() => "the network is well".to_owned(),
            Self::Network(NetKnobs { latency, loss_per_million, reset_per_million, partial_percent, .. }) => format!(
                "the network: latency {:?} and up to {:?} more; of a million segments {loss_per_million} are lost and \
                 {reset_per_million} break their connection; {partial_percent} % of reads and writes are partial",
                Duration::from_nanos(latency.base_ns),
                Duration::from_nanos(latency.spread_ns),
            ),
            Self::ResetConnection(machine) => format!("a connection of {} breaks", machine_name(*machine)),
            Self::DiskSpeed(machine, percent) => {
                format!("{}'s disk takes {percent} % of the usual time", machine_name(*machine))
            }
            Self::DiskErrors(machine, rates) if *rates == DiskErrorRates::default() => {
                format!("{}'s disk does not fail any more", machine_name(*machine))
            }
            Self::DiskErrors(machine, DiskErrorRates { reads, writes, syncs }) => format!(
                "{}'s disk fails: of a million calls {reads} reads, {writes} writes, {syncs} syncs",
                machine_name(*machine)
            ),
            Self::DiskRoom(machine, Some(bytes)) => {
                format!("{}'s disk is full but for {bytes} bytes", machine_name(*machine))
            }
            Self::DiskRoom(machine, None) => format!("there is room on {}'s disk", machine_name(*machine)),
            Self::ClockRate(machine, ppm) => format!("{}'s clocks are wrong by {ppm:+} ppm", machine_name(*machine)),
            Self::ClockJump(machine, ns) => {
                format!("{}'s wall clock jumps by {:+.3} s", machine_name(*machine), *ns as f64 / 1e9)
            }
            Self::ClockLeap(machine, by) => format!("{}'s clocks leap forward by {by:?}", machine_name(*machine)),
        })
    }

    /// Does it now, and tells it. False if there was nothing to do it to (no process, no connection): then nothing happened.
    pub fn perform(&self, world: &World, cluster: &Arc<Cluster>) -> bool {
        let disk = |machine: MachineId| -> &SimDisk { &cluster.machine(machine).disk };
        match *self {
            Self::Start(machine) => return cluster.start(cluster.machine(machine)),
            Self::Kill(machine, death) => return cluster.kill(cluster.machine(machine), death),
            Self::Pause(machine) => return cluster.pause(cluster.machine(machine)),
            Self::Resume(machine) => return cluster.resume(cluster.machine(machine)),
            Self::Cut { from, to } => world.net.cut(from, to),
            Self::MendAll => world.net.mend_all(),
            Self::Network(new) => world.net.tune(|knobs| *knobs = new),
            Self::ResetConnection(machine) => {
                if !world.net.reset_one(machine) {
                    return false;
                }
            }
            Self::DiskSpeed(machine, percent) => disk(machine).tune(|knobs| knobs.slowness_percent = percent),
            Self::DiskErrors(machine, DiskErrorRates { reads, writes, syncs }) => disk(machine).tune(|knobs| {
                knobs.read_errors_per_million = reads;
                knobs.write_errors_per_million = writes;
                knobs.sync_errors_per_million = syncs;
            }),
            Self::DiskRoom(machine, room_bytes) => {
                let disk = disk(machine);
                let capacity_bytes = room_bytes.map(|room_bytes| disk.used_bytes() + room_bytes);
                disk.tune(|knobs| knobs.capacity_bytes = capacity_bytes);
            }
            Self::ClockRate(machine, ppm) => cluster.machine(machine).clock.set_rate(ppm),
            Self::ClockJump(machine, by_ns) => cluster.machine(machine).clock.jump_wall(by_ns),
            Self::ClockLeap(machine, by) => cluster.machine(machine).clock.leap(by),
        }
        if let Some(sentence) = self.told() {
            world.tell(sentence);
        }
        true
    }
}
