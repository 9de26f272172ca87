//! A member dies at any time, without warning, and is started again after a while.
//!
//! Budget: a process kill loses nothing that was written; a power failure loses any part of what was not synced. Every
//! acknowledged write must be there afterwards, and the member must start.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// See the module.
pub struct Kill {
    every: Duration,
    /// Percent of kills that take the power away.
    power: u64,
    down_ms_max: u64,
}

impl Kill {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 8, 40),
            power: *dice.pick(&[60, 80, 100]),
            down_ms_max: *dice.pick(&[5, 500, 3000, 20_000]),
        }
    }
}

impl Fault for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                let death = if dice.percent(self.power) { Action::Crash(machine) } else { Action::Kill(machine) };
                if stage.act(&death) {
                    stage.strike("kill");
                    stage.pause(Duration::from_millis(dice.between(1, self.down_ms_max))).await;
                    stage.act(&Action::Start(machine));
                }
            }
        })
    }
}
