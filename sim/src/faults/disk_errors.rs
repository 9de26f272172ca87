//! The disk fails for a while: reads, writes or syncs return EIO.
//!
//! Budget: any call may fail; a failed sync may have lost what it was to make durable, for good. The member may stop (its
//! supervisor starts it again, after a reboot if a sync had failed); it must not go on as if nothing had happened. Acknowledged
//! writes stay.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::{Action, DiskErrorRates};
use crate::world::dice::Dice;

/// See the module.
pub struct DiskErrors {
    every: Duration,
    rates: DiskErrorRates,
}

impl DiskErrors {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let every = draw_mean_secs(dice, 10, 40);
        let per_million = *dice.pick(&[5_000, 100_000, 1_000_000]);
        let mut rate = |percent| if dice.percent(percent) { per_million } else { 0 };
        Self { every, rates: DiskErrorRates { reads: rate(40), writes: rate(40), syncs: rate(70) } }
    }
}

impl Fault for DiskErrors {
    fn name(&self) -> &'static str {
        "disk_errors"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                stage.strike("disk_errors");
                stage.act(&Action::DiskErrors(machine, self.rates));
                stage.pause(Duration::from_millis(dice.magnitude(1, 4000))).await;
                stage.act(&Action::DiskErrors(machine, DiskErrorRates::default()));
            }
        })
    }
}
