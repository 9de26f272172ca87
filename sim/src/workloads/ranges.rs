//! Ranges of every shape: bounds, revisions (kept, compacted, future), limits, orders, filters, keys or counts only, streamed.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_runtime::BoxFuture;

use super::client::key_name;
use super::{Client, Workload};
use crate::history::Request;
use crate::world::dice::Dice;
use crate::world::lock;

/// See the module.
pub struct Ranges {
    /// Percent of the calls that go through RangeStream, where it can.
    streamed: u64,
}

impl Ranges {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { streamed: *dice.pick(&[0, 20, 60]) }
    }
}

impl Workload for Ranges {
    fn name(&self) -> &'static str {
        "ranges"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                let range = draw_range(client);
                let plain = range.sort_order == 0
                    && range.sort_target == 0
                    && [range.min_mod_revision, range.max_mod_revision] == [0; 2]
                    && [range.min_create_revision, range.max_create_revision] == [0; 2];
                if plain && client.dice.percent(self.streamed) {
                    client.stream(range).await;
                } else {
                    client.call(Request::Range(range)).await;
                }
                client.think().await;
            }
        })
    }
}

/// The start and end of some range of the key space.
pub(super) fn draw_bounds(client: &mut Client) -> (Bytes, Bytes) {
    let from = client.key();
    let to_number = client.dice.below(client.options.keys + 1);
    match client.dice.below(6) {
        0 => (from, Bytes::new()),
        1 => (from, Bytes::from_static(b"\0")),
        2 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        3 => ("k0".into(), "k1".into()),
        // May be empty or upside down.
        _ => (from, key_name(to_number)),
    }
}

fn draw_range(client: &mut Client) -> pb::RangeRequest {
    let (key, range_end) = draw_bounds(client);
    let (newest, compacted) = {
        let knowledge = lock(&client.knowledge);
        (knowledge.revision.max(1), knowledge.compacted.max(1))
    };
    let dice = &mut client.dice;
    let revision = match dice.below(10) {
        0..5 => 0,
        5 => newest,
        // Near the border of what is compacted, on either side.
        6 => (compacted - 2 + dice.below(5) as i64).max(1),
        7 => newest + dice.below(5) as i64,
        _ => dice.between(1, newest as u64) as i64,
    };
    let mut filter = || if dice.percent(5) { dice.between(1, newest as u64) as i64 } else { 0 };
    let filters = [filter(), filter(), filter(), filter()];
    pb::RangeRequest {
        key,
        range_end,
        revision,
        limit: if dice.percent(40) { dice.below(6) as i64 } else { 0 },
        sort_order: if dice.percent(30) { dice.below(3) as i32 } else { 0 },
        sort_target: if dice.percent(30) { dice.below(5) as i32 } else { 0 },
        serializable: dice.percent(20),
        keys_only: dice.percent(10),
        count_only: dice.percent(10),
        min_mod_revision: filters[0],
        max_mod_revision: filters[1],
        min_create_revision: filters[2],
        max_create_revision: filters[3],
    }
}
