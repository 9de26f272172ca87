//! A bad network: long latencies, lost segments, broken connections, reads and writes in small pieces.
//!
//! Budget: bytes of one connection arrive in order or the connection breaks; both at any time. An operation in flight has an
//! unknown outcome then, and nothing else is harmed.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::world::dice::{Dice, Latency};
use crate::world::net::NetKnobs;

/// See the module.
pub struct Network {
    every: Duration,
    base_us: u64,
    spread_us: u64,
    loss_per_million: u64,
    reset_per_million: u64,
    partial_percent: u64,
}

impl Network {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            every: draw_mean_secs(dice, 2, 15),
            base_us: dice.magnitude(10, 20_000),
            spread_us: dice.magnitude(10, 50_000),
            loss_per_million: *dice.pick(&[0, 1000, 20_000]),
            reset_per_million: *dice.pick(&[0, 200, 2000]),
            partial_percent: *dice.pick(&[0, 5, 50]),
        }
    }
}

impl Fault for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let net = &stage.world.net;
            while stage.pause(interval(&mut dice, self.every)).await {
                stage.strike("network");
                net.tune(|knobs| {
                    knobs.latency = Latency {
                        base_ns: self.base_us * 1000,
                        spread_ns: self.spread_us * 1000,
                        tail_per_million: 10_000,
                        tail_ns: 300_000_000,
                    };
                    knobs.loss_per_million = self.loss_per_million;
                    knobs.reset_per_million = self.reset_per_million;
                    knobs.partial_percent = self.partial_percent;
                });
                if dice.percent(50) {
                    net.reset_one(dice.pick(&stage.cluster.members()).machine);
                }
                stage.pause(Duration::from_millis(dice.magnitude(100, 8000))).await;
                net.tune(|knobs| *knobs = NetKnobs::default());
            }
        })
    }
}
