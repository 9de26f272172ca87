//! Compaction, logical and physical, while others read at old revisions. What is about to vanish is explained first (see
//! [`super::tap`]).

use quorate_runtime::BoxFuture;

use super::{Client, Workload, tap};
use crate::world::dice::Dice;
use crate::world::lock;

/// See the module.
pub struct Compaction {
    /// Keeps about so many revisions.
    kept: u64,
    /// Rests for so many thinking times between two.
    rests: u64,
}

impl Compaction {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { kept: dice.magnitude(1, 200), rests: dice.between(5, 40) }
    }
}

impl Workload for Compaction {
    fn name(&self) -> &'static str {
        "compaction"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                for _ in 0..self.rests {
                    client.think().await;
                }
                let newest = client.newest_revision();
                // Sometimes what is compacted already, or lies in the future.
                let revision = match client.dice.below(10) {
                    0 => lock(&client.knowledge).compacted,
                    1 => newest + 100_000,
                    _ => newest - client.dice.below(self.kept) as i64,
                };
                let explained = revision > newest || tap::explain(client, revision).await;
                if revision < 1 || !explained {
                    continue;
                }
                let physical = client.dice.percent(30);
                client.compact(revision, physical).await;
            }
        })
    }
}
