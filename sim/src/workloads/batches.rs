//! Writes that must appear whole: transactions that put the same mark under several keys, and reads of all of them at once.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_runtime::BoxFuture;

use super::client::key_name;
use super::{Client, Workload};
use crate::history::Request;
use crate::world::dice::Dice;

/// See the module.
pub struct Batches {
    keys_max: u64,
    reads: u64,
}

impl Batches {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self { keys_max: dice.between(2, 12), reads: dice.between(20, 60) }
    }
}

impl Workload for Batches {
    fn name(&self) -> &'static str {
        "batches"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                if client.dice.percent(self.reads) {
                    client.read("k".into(), "l".into()).await;
                } else {
                    let mark = client.mark();
                    let keys = client.dice.between(2, self.keys_max.min(client.options.keys));
                    let first = client.dice.below(client.options.keys);
                    let mut success = Vec::new();
                    for part in 0..keys {
                        let key = key_name((first + part) % client.options.keys);
                        let value = client.value(&mark, part);
                        let put = Op::RequestPut(pb::PutRequest { key, value, ..Default::default() });
                        success.push(pb::RequestOp { request: Some(put) });
                    }
                    client.call(Request::Txn(pb::TxnRequest { success, ..Default::default() })).await;
                }
                client.think().await;
            }
        })
    }
}
