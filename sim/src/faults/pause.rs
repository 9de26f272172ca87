//! A member stands still (SIGSTOP, a long stall of the host) and goes on.
//!
//! Budget: any pause. Clients time out; nothing else may happen. The clocks go on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// See the module.
pub struct Pause {
    every: Duration,
    pause_ms_max: u64,
}

impl Pause {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { every: draw_mean_secs(dice, 8, 30), pause_ms_max: *dice.pick(&[50, 1000, 5000]) }
    }
}

impl Fault for Pause {
    fn name(&self) -> &'static str {
        "pause"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                stage.act(&Action::Pause(machine));
                stage.strike("pause");
                stage.pause(Duration::from_millis(dice.magnitude(1, self.pause_ms_max))).await;
                // Whether it is the same process or a new one, it runs from here on.
                stage.act(&Action::Resume(machine));
            }
        })
    }
}
