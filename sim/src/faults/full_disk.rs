//! A disk fills up, and later there is room again.
//!
//! Budget: nothing more than a little fits on it, for as long as it takes an operator to notice. The member may raise its alarm,
//! so that the cluster refuses what grows, and it may stop, and fail to start, while there is no room; reads that it answers are
//! right. Acknowledged writes stay. When there is room again, everything goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::Dice;

/// Its name in the list.
pub const NAME: &str = "full_disk";

/// See the module.
pub struct FullDisk {
    every: Duration,
    /// So much still fits, at most.
    room_bytes_max: u64,
    lasts_ms_max: u64,
}

impl FullDisk {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 10, 40),
            room_bytes_max: *dice.pick(&[1, 64 << 10, 1 << 20]),
            lasts_ms_max: *dice.pick(&[2_000, 20_000]),
        }
    }
}

impl Fault for FullDisk {
    fn name(&self) -> &'static str {
        NAME
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                let machine = dice.pick(&stage.cluster.members()).machine;
                let room_bytes = dice.magnitude(1, self.room_bytes_max);
                stage.strike(NAME);
                stage.act(&Action::DiskRoom(machine, Some(room_bytes)));
                stage.pause(Duration::from_millis(dice.magnitude(1, self.lasts_ms_max))).await;
                stage.act(&Action::DiskRoom(machine, None));
            }
        })
    }
}
