//! Registers: puts, gets of both kinds, deletes, and compare-and-put against the revision seen before.

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::BoxFuture;

use super::{Client, Workload};
use crate::history::{Answer, Outcome, Request};
use crate::world::dice::Dice;

/// See the module. Percentages of the calls; the rest are linearizable gets.
pub struct Register {
    puts: u64,
    deletes: u64,
    compare_and_puts: u64,
    serializable_gets: u64,
}

impl Register {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            puts: dice.between(10, 50),
            deletes: dice.between(0, 10),
            compare_and_puts: dice.between(0, 30),
            serializable_gets: dice.between(0, 10),
        }
    }
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                self.step(client).await;
                client.think().await;
            }
        })
    }
}

impl Register {
    async fn step(&self, client: &mut Client) {
        let key = client.key();
        let mut drawn = client.dice.below(100);
        let mut chosen = |percent: u64| {
            let chosen = drawn < percent;
            drawn = drawn.wrapping_sub(percent);
            chosen
        };
        if chosen(self.puts) {
            let mark = client.mark();
            let value = client.value(&mark, 0);
            let prev_kv = client.dice.percent(30);
            client.call(Request::Put(pb::PutRequest { key, value, prev_kv, ..Default::default() })).await;
        } else if chosen(self.deletes) {
            let prev_kv = client.dice.percent(50);
            client.call(Request::Delete(pb::DeleteRangeRequest { key, prev_kv, ..Default::default() })).await;
        } else if chosen(self.compare_and_puts) {
            compare_and_put(client, key).await;
        } else {
            let serializable = chosen(self.serializable_gets);
            client.call(Request::Range(pb::RangeRequest { key, serializable, ..Default::default() })).await;
        }
    }
}

/// Reads the key, thinks, and puts only if nobody else did meanwhile; else reads again in the same transaction.
async fn compare_and_put(client: &mut Client, key: Bytes) {
    let Outcome::Answered(Answer::Range(read)) = client.read(key.clone(), Bytes::new()).await else { return };
    let seen = match read.kvs.first().map(|row| KeyValue::decode(row.clone())) {
        Some(Ok(row)) => row.mod_revision,
        // The replay finds what does not decode.
        Some(Err(_)) | None => 0,
    };
    client.think().await;
    let mark = client.mark();
    let value = client.value(&mark, 0);
    let compare = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(seen)),
        ..Default::default()
    };
    let put = Op::RequestPut(pb::PutRequest { key: key.clone(), value, ..Default::default() });
    let get = Op::RequestRange(pb::RangeRequest { key, ..Default::default() });
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request: Some(put) }],
        failure: vec![pb::RequestOp { request: Some(get) }],
    };
    client.call(Request::Txn(txn)).await;
}
