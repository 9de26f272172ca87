//! Transactions of drawn shape: compares of every target on keys and ranges, puts, deletes and ranges in both branches, nested
//! a few levels deep.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::TargetUnion;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_runtime::BoxFuture;

use super::ranges::draw_bounds;
use super::{Client, Workload};
use crate::history::Request;
use crate::world::dice::Dice;
use crate::world::lock;

/// See the module.
pub struct Txns {
    depth_max: u64,
    ops_max: u64,
    /// Percent of ops that delete; a delete may overlap with a put, which is refused.
    deletes: u64,
}

impl Txns {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { depth_max: dice.between(0, 3), ops_max: dice.between(1, 5), deletes: *dice.pick(&[0, 5, 15]) }
    }
}

impl Workload for Txns {
    fn name(&self) -> &'static str {
        "txns"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                let mark = client.mark();
                let mut parts = 0;
                let txn = self.draw_txn(client, &mark, &mut parts, self.depth_max);
                client.call(Request::Txn(txn)).await;
                client.think().await;
            }
        })
    }
}

impl Txns {
    fn draw_txn(&self, client: &mut Client, mark: &str, parts: &mut u64, depth: u64) -> pb::TxnRequest {
        let compare = (0..client.dice.below(3)).map(|_| draw_compare(client)).collect();
        let mut branch = |client: &mut Client| -> Vec<pb::RequestOp> {
            (0..client.dice.between(0, self.ops_max)).map(|_| self.draw_op(client, mark, parts, depth)).collect()
        };
        pb::TxnRequest { compare, success: branch(client), failure: branch(client) }
    }

    fn draw_op(&self, client: &mut Client, mark: &str, parts: &mut u64, depth: u64) -> pb::RequestOp {
        let drawn = client.dice.below(100);
        let request = if depth > 0 && drawn < 20 {
            Op::RequestTxn(self.draw_txn(client, mark, parts, depth - 1))
        } else if drawn < 20 + self.deletes {
            let (key, range_end) = draw_bounds(client);
            // Mostly one key, or little would be left.
            let range_end = if client.dice.percent(80) { Bytes::new() } else { range_end };
            Op::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: client.dice.percent(50) })
        } else if drawn < 60 {
            *parts += 1;
            let value = client.value(mark, *parts);
            let key = client.key();
            Op::RequestPut(pb::PutRequest { key, value, prev_kv: client.dice.percent(30), ..Default::default() })
        } else {
            let (key, range_end) = draw_bounds(client);
            let limit = client.dice.below(4) as i64;
            Op::RequestRange(pb::RangeRequest { key, range_end, limit, ..Default::default() })
        };
        pb::RequestOp { request: Some(request) }
    }
}

fn draw_compare(client: &mut Client) -> pb::Compare {
    let newest = lock(&client.knowledge).revision.max(1) as u64;
    let (key, range_end) = if client.dice.percent(20) { draw_bounds(client) } else { (client.key(), Bytes::new()) };
    let dice = &mut client.dice;
    let (target, union) = match dice.below(5) {
        0 => (0, TargetUnion::Version(dice.below(4) as i64)),
        1 => (1, TargetUnion::CreateRevision(dice.below(newest + 1) as i64)),
        2 => (2, TargetUnion::ModRevision(dice.below(newest + 1) as i64)),
        3 => (3, TargetUnion::Value(format!("c{}", dice.below(6)).into())),
        _ => (4, TargetUnion::Lease(0)),
    };
    pb::Compare { result: dice.below(4) as i32, target, key, range_end, target_union: Some(union) }
}
