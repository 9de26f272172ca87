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
    /// Percent of strikes that take the leader, and all of its links to other members and none to clients: so there may be two
    /// that believe to lead, and clients that ask both.
    leader: u64,
}

impl Partition {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 4, 20),
            lasts_ms_max: *dice.pick(&[300, 3000, 10_000]),
            one_way: *dice.pick(&[0, 40, 100]),
            leader: *dice.pick(&[0, 30, 80]),
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
                let drawn = dice.pick(&members).machine;
                let leader = stage.cluster.leader().filter(|_| dice.percent(self.leader));
                let (member, clients_too) = leader.map_or((drawn, true), |leader| (leader, false));
                let cut_share = if clients_too { *dice.pick(&[30, 100]) } else { 100 };
                let others = members.iter().map(|other| other.machine).filter(|&other| other != member);
                for other in others.chain(stage.client_machines.iter().copied().filter(|_| clients_too)) {
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
