//! Links between machines are cut, one way or both, for a while.
//!
//! Budget: any subset of links. What waited arrives later; a client on the wrong side times out.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// See the module.
pub struct Partition {
    every: Duration,
    lasts_ms_max: u64,
    /// Percent of cuts that are one way.
    one_way: u64,
}

impl Partition {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 4, 20),
            lasts_ms_max: *dice.pick(&[300, 3000, 10_000]),
            one_way: *dice.pick(&[0, 40, 100]),
        }
    }
}

impl Fault for Partition {
    fn name(&self) -> &'static str {
        "partition"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                stage.strike("partition");
                let members = stage.cluster.members();
                let member = dice.pick(&members).machine;
                let cut_share = *dice.pick(&[30, 100]);
                let others = members.iter().map(|other| other.machine).filter(|&other| other != member);
                for other in others.chain(stage.client_machines.iter().copied()) {
                    if !dice.percent(cut_share) {
                        continue;
                    }
                    let one_way = dice.percent(self.one_way);
                    let inwards = dice.percent(50);
                    if !one_way || inwards {
                        stage.act(&Action::Cut { from: other, to: member });
                    }
                    if !one_way || !inwards {
                        stage.act(&Action::Cut { from: member, to: other });
                    }
                }
                stage.pause(Duration::from_millis(dice.magnitude(20, self.lasts_ms_max))).await;
                stage.act(&Action::MendAll);
            }
        })
    }
}
