//! What is done to the world, in the words of a scenario.
//!
//! Whatever goes wrong in a run is an [`Action`] at some time: faults decide, [`Action::perform`] does it, and the story tells it
//! in words that a scenario file has too (see [`crate::scenario`]). So a story is complete: who has read it can do the same again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::scenario::words::{Named, Share, Signed, Span};
use crate::world::World;
use crate::world::cluster::Cluster;
use crate::world::dice::Latency;
use crate::world::disk::{Death, SimDisk};
use crate::world::net::{MachineId, NetKnobs};

/// Something that happens to the world at one moment. Machines go by their numbers in a run, members' begin at 1; in a scenario
/// they go by words that may mean another one each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<M = MachineId> {
    /// The member is started, unless it runs or is spare.
    Start(M),
    /// The member's process ends without warning, if there is one. What it wrote survives.
    Kill(M),
    /// Its machine loses power: of what it wrote and did not sync any part survives.
    Crash(M),
    /// Its power will fail inside a disk call, after so many more that change something (see `faults::crash_in_call`).
    CrashAfter(M, u64),
    /// The process stands still (SIGSTOP).
    Pause(M),
    /// It goes on (SIGCONT).
    Resume(M),
    /// Nothing of what one machine sends reaches the other.
    Cut {
        /// Who sends.
        from: M,
        /// Who does not hear it.
        to: M,
    },
    /// Every cut link is mended.
    MendAll,
    /// All links behave like this.
    Network(NetKnobs),
    /// Some connection of the machine breaks.
    ResetConnection(M),
    /// Calls to the disk take so many percent of the usual time.
    DiskSpeed(M, u64),
    /// So many of a million calls to the disk fail.
    DiskErrors(M, DiskErrorRates),
    /// So many bytes more fit on the disk; `None` is endless room.
    DiskRoom(M, Option<u64>),
    /// Both clocks run too fast by so many parts of a million (negative: too slow).
    ClockRate(M, i64),
    /// The wall clock jumps by so many nanoseconds.
    ClockJump(M, i64),
    /// Both clocks leap forward, as after a suspend.
    ClockLeap(M, Duration),
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

impl<M> Action<M> {
    /// The same, done to whom `aim` makes of a machine.
    pub fn aimed<N>(&self, mut aim: impl FnMut(&M) -> N) -> Action<N> {
        match self {
            Self::Start(machine) => Action::Start(aim(machine)),
            Self::Kill(machine) => Action::Kill(aim(machine)),
            Self::Crash(machine) => Action::Crash(aim(machine)),
            Self::CrashAfter(machine, calls) => Action::CrashAfter(aim(machine), *calls),
            Self::Pause(machine) => Action::Pause(aim(machine)),
            Self::Resume(machine) => Action::Resume(aim(machine)),
            Self::Cut { from, to } => Action::Cut { from: aim(from), to: aim(to) },
            Self::MendAll => Action::MendAll,
            Self::Network(knobs) => Action::Network(*knobs),
            Self::ResetConnection(machine) => Action::ResetConnection(aim(machine)),
            Self::DiskSpeed(machine, percent) => Action::DiskSpeed(aim(machine), *percent),
            Self::DiskErrors(machine, rates) => Action::DiskErrors(aim(machine), *rates),
            Self::DiskRoom(machine, bytes) => Action::DiskRoom(aim(machine), *bytes),
            Self::ClockRate(machine, ppm) => Action::ClockRate(aim(machine), *ppm),
            Self::ClockJump(machine, by_ns) => Action::ClockJump(aim(machine), *by_ns),
            Self::ClockLeap(machine, by) => Action::ClockLeap(aim(machine), *by),
        }
    }
}

impl<M: fmt::Display> fmt::Display for Action<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(machine) => write!(f, "start {machine}"),
            Self::Kill(machine) => write!(f, "kill {machine}"),
            Self::Crash(machine) => write!(f, "crash {machine}"),
            Self::CrashAfter(machine, calls) => write!(f, "crash {machine} after {calls} disk calls"),
            Self::Pause(machine) => write!(f, "pause {machine}"),
            Self::Resume(machine) => write!(f, "resume {machine}"),
            Self::Cut { from, to } => write!(f, "cut {from} -> {to}"),
            Self::MendAll => write!(f, "mend all links"),
            Self::Network(knobs) if *knobs == NetKnobs::default() => write!(f, "mend network"),
            Self::Network(knobs) => {
                let NetKnobs { latency, loss_per_million, reset_per_million, partial_percent, window_bytes } = knobs;
                let Latency { base_ns, spread_ns, tail_per_million, tail_ns } = *latency;
                write!(
                    f,
                    "network latency {} spread {} tail {} {} loss {} resets {} partial {partial_percent}% window {window_bytes}",
                    Span(base_ns),
                    Span(spread_ns),
                    Share(tail_per_million),
                    Span(tail_ns),
                    Share(*loss_per_million),
                    Share(*reset_per_million),
                )
            }
            Self::ResetConnection(machine) => write!(f, "reset a connection of {machine}"),
            Self::DiskSpeed(machine, percent) => write!(f, "slow disk of {machine} to {percent}%"),
            Self::DiskErrors(machine, rates) if *rates == DiskErrorRates::default() => {
                write!(f, "mend disk of {machine}")
            }
            Self::DiskErrors(machine, DiskErrorRates { reads, writes, syncs }) => {
                let (reads, writes, syncs) = (Share(*reads), Share(*writes), Share(*syncs));
                write!(f, "fail disk of {machine} reads {reads} writes {writes} syncs {syncs}")
            }
            Self::DiskRoom(machine, Some(bytes)) => write!(f, "leave {bytes} bytes on disk of {machine}"),
            Self::DiskRoom(machine, None) => write!(f, "free disk of {machine}"),
            Self::ClockRate(machine, ppm) => write!(f, "run clocks of {machine} wrong by {ppm:+}ppm"),
            Self::ClockJump(machine, ns) => write!(f, "move clock of {machine} by {}", Signed(*ns)),
            Self::ClockLeap(machine, by) => write!(f, "leap clocks of {machine} by {}", Span(by.as_nanos() as u64)),
        }
    }
}

impl Action {
    /// Does it now, and tells it. False if there was nothing to do it to (no process, no connection): then nothing happened.
    pub fn perform(&self, world: &World, cluster: &Arc<Cluster>) -> bool {
        let disk = |machine: MachineId| -> &SimDisk { &cluster.machine(machine).disk };
        match *self {
            // The cluster tells these by itself: it has reasons of its own for them, too.
            Self::Start(machine) => return cluster.start(cluster.machine(machine)),
            Self::Kill(machine) => return cluster.kill(cluster.machine(machine), Death::Kill),
            Self::Crash(machine) => return cluster.kill(cluster.machine(machine), Death::PowerFailure),
            Self::Pause(machine) => return cluster.pause(cluster.machine(machine)),
            Self::Resume(machine) => return cluster.resume(cluster.machine(machine)),
            Self::CrashAfter(machine, calls) => {
                if !cluster.machine(machine).is_running() {
                    return false;
                }
                disk(machine).light_fuse(calls);
            }
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
        world.tell(self.aimed(|&machine| Named(machine)).to_string());
        true
    }
}
