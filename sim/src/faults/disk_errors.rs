//! The disk fails for a while: reads, writes or syncs return EIO.
//!
//! Budget: any call may fail; a failed sync may have lost what it was to make durable, for good. The member may stop (its
//! supervisor starts it again, after a reboot if a sync had failed); it must not go on as if nothing had happened. Acknowledged
//! writes stay.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::world::dice::Dice;

/// See the module.
pub struct DiskErrors {
    every: Duration,
    per_million: u64,
    reads: bool,
    writes: bool,
    syncs: bool,
}

impl DiskErrors {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 10, 40),
            per_million: *dice.pick(&[5_000, 100_000, 1_000_000]),
            reads: dice.percent(40),
            writes: dice.percent(40),
            syncs: dice.percent(70),
        }
    }
}

impl Fault for DiskErrors {
    fn name(&self) -> &'static str {
        "disk_errors"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = &dice.pick(&stage.cluster.members()).clone();
                stage.strike("disk_errors");
                stage.world.tell(format!("{}'s disk fails", machine.name));
                let chance = |wanted: bool| if wanted { self.per_million } else { 0 };
                machine.disk.tune(|knobs| {
                    knobs.read_errors_per_million = chance(self.reads);
                    knobs.write_errors_per_million = chance(self.writes);
                    knobs.sync_errors_per_million = chance(self.syncs);
                });
                stage.pause(Duration::from_millis(dice.magnitude(1, 4000))).await;
                machine.disk.tune(|knobs| {
                    knobs.read_errors_per_million = 0;
                    knobs.write_errors_per_million = 0;
                    knobs.sync_errors_per_million = 0;
                });
            }
        })
    }
}
