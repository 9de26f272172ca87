//! A disk becomes slow: every call takes many times as long.
//!
//! Budget: delays only. It widens the windows in which a crash finds unsynced bytes, and fills queues.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// See the module.
pub struct SlowDisk {
    every: Duration,
    slowness_percent: u64,
}

impl SlowDisk {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { every: draw_mean_secs(dice, 4, 20), slowness_percent: *dice.pick(&[300, 1000, 5000]) }
    }
}

impl Fault for SlowDisk {
    fn name(&self) -> &'static str {
        "slow_disk"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                stage.act(&Action::DiskSpeed(machine, self.slowness_percent));
                stage.strike("slow_disk");
                stage.pause(Duration::from_millis(dice.magnitude(50, 4000))).await;
                stage.act(&Action::DiskSpeed(machine, 100));
            }
        })
    }
}
