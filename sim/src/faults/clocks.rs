//! Clocks are wrong: they run too fast or too slow, the wall clock jumps by hours either way, the monotonic one leaps forward.
//!
//! Budget: rates up to ±20 %, any wall time, forward leaps up to a minute. No guarantee rests on time; only timeouts come early
//! or late.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// See the module.
pub struct Clocks {
    every: Duration,
    rate_ppm_max: u64,
}

impl Clocks {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { every: draw_mean_secs(dice, 5, 25), rate_ppm_max: *dice.pick(&[100, 20_000, 200_000]) }
    }
}

impl Fault for Clocks {
    fn name(&self) -> &'static str {
        "clocks"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                stage.strike("clocks");
                let sign = if dice.percent(50) { 1 } else { -1 };
                stage.act(&match dice.below(3) {
                    0 => Action::ClockRate(machine, sign * dice.between(0, self.rate_ppm_max) as i64),
                    1 => Action::ClockJump(machine, sign * dice.magnitude(1_000_000, 100_000_000_000_000) as i64),
                    _ => Action::ClockLeap(machine, Duration::from_millis(dice.magnitude(1, 60_000))),
                });
            }
            for machine in &stage.cluster.machines {
                stage.act(&Action::ClockRate(machine.machine, 0));
            }
        })
    }
}
