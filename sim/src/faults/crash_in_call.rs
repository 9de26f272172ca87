//! The power fails inside a disk call: in the middle of a log write, between the steps of a database commit, while a segment is
//! made, while a crashed member recovers.
//!
//! Budget: as for a power failure at any other time. The call is chosen by counting, so that calls that take no time are hit too,
//! and a second crash often comes during the recovery from the first.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::clock;
use crate::world::cluster::MemberMachine;
use crate::world::dice::Dice;

/// So long a fuse may burn.
const FUSE_WAIT: Duration = Duration::from_secs(5);

/// See the module.
pub struct CrashInCall {
    every: Duration,
    /// At most so many changing calls pass first.
    calls_max: u64,
    /// Percent of crashes that are followed by one during recovery.
    again: u64,
    down_ms_max: u64,
}

impl CrashInCall {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 4, 12),
            calls_max: *dice.pick(&[3, 20, 200]),
            again: *dice.pick(&[0, 30, 60]),
            down_ms_max: *dice.pick(&[5, 200, 2000]),
        }
    }

    /// Lights a fuse and waits for it. False if nothing was written for a while.
    async fn crash(&self, stage: &Arc<Stage>, machine: &Arc<MemberMachine>, calls: u64) -> bool {
        stage.act(&Action::CrashAfter(machine.machine, calls));
        match burn_down(stage, machine).await {
            Burnt::Down => {
                stage.strike("crash_in_call");
                true
            }
            Burnt::AtTheEnd => {
                stage.act(&Action::Start(machine.machine));
                false
            }
            Burnt::Never => false,
        }
    }
}

/// What became of a fuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Burnt {
    /// The power failed.
    Down,
    /// The power failed when nobody waited any more.
    AtTheEnd,
    /// Nothing was written for a while; it is taken away.
    Never,
}

/// Waits until the fuse of `machine`, which was lit, has burnt down, and takes the power away at that moment.
pub async fn burn_down(stage: &Arc<Stage>, machine: &Arc<MemberMachine>) -> Burnt {
    let crash = || Action::Crash(machine.machine).perform(&stage.world, &stage.cluster);
    let blown = quorate_runtime::select! {
        biased;
        at = machine.disk.fuse_blown() => Some(at),
        _ = stage.pause(FUSE_WAIT) => None,
    };
    if let Some(at) = blown {
        clock::sleep_until(at).await;
        crash();
        return Burnt::Down;
    }
    machine.disk.remove_fuse();
    // It may have blown at this very moment.
    if machine.disk.is_fuse_blown() {
        crash();
        return Burnt::AtTheEnd;
    }
    Burnt::Never
}

impl Fault for CrashInCall {
    fn name(&self) -> &'static str {
        "crash_in_call"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = &dice.pick(&stage.cluster.members()).clone();
                let calls = dice.below(self.calls_max);
                if !machine.is_running() || !self.crash(stage, machine, calls).await {
                    continue;
                }
                loop {
                    stage.pause(Duration::from_millis(dice.between(1, self.down_ms_max))).await;
                    stage.act(&Action::Start(machine.machine));
                    let again = dice.percent(self.again) && !stage.is_over();
                    let calls = dice.magnitude(1, 64) - 1;
                    if !again || !self.crash(stage, machine, calls).await {
                        break;
                    }
                }
            }
        })
    }
}
