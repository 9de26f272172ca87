//! A bad network: long latencies, lost segments, broken connections, reads and writes in small pieces.
//!
//! Budget: bytes of one connection arrive in order or the connection breaks; both at any time. An operation in flight has an
//! unknown outcome then, and nothing else is harmed.

use std::sync::Arc;
use std::time::Duration;

use quorate_runtime::BoxFuture;

use super::{Fault, Stage, draw_mean_secs, interval};
use crate::actions::Action;
use crate::world::dice::{Dice, Latency};
use crate::world::net::NetKnobs;

/// See the module.
pub struct Network {
    every: Duration,
    knobs: NetKnobs,
}

impl Network {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let every = draw_mean_secs(dice, 2, 15);
        let latency = Latency {
            base_ns: dice.magnitude(10, 20_000) * 1000,
            spread_ns: dice.magnitude(10, 50_000) * 1000,
            tail_per_million: 10_000,
            tail_ns: 300_000_000,
        };
        let knobs = NetKnobs {
            latency,
            loss_per_million: *dice.pick(&[0, 1000, 20_000]),
            reset_per_million: *dice.pick(&[0, 200, 2000]),
            partial_percent: *dice.pick(&[0, 5, 50]),
            ..NetKnobs::default()
        };
        Self { every, knobs }
    }
}

impl Fault for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn run<'a>(&'a self, stage: &'a Arc<Stage>, mut dice: Dice) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stage.pause(interval(&mut dice, self.every)).await {
                stage.strike("network");
                stage.act(&Action::Network(self.knobs));
                if dice.percent(50) {
                    stage.act(&Action::ResetConnection(dice.pick(&stage.cluster.members()).machine));
                }
                stage.pause(Duration::from_millis(dice.magnitude(100, 8000))).await;
                stage.act(&Action::Network(NetKnobs::default()));
            }
        })
    }
}
