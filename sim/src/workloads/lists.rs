//! Lists that only grow (Elle's list-append): a client reads some lists, then appends an element to some of them and reads
//! others, all in one transaction, which does it only if nobody has appended to those meanwhile.
//!
//! A list that is long enough is left alone, and the next one takes its place, so that values stay short.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::BoxFuture;

use super::{Client, Workload};
use crate::history::{Answer, Outcome, Request};
use crate::lists::{self, decode, encode};
use crate::world::dice::Dice;

/// See the module.
pub struct Lists {
    /// So many lists grow at a time.
    open: u64,
    elements_max: usize,
    keys_max: u64,
    /// Percent of the rounds that only read.
    reads: u64,
    serializable_reads: u64,
}

/// A list as last seen: its elements, and the revision that nobody may have overtaken.
#[derive(Clone, Debug, Default)]
struct Seen {
    elements: Vec<Bytes>,
    mod_revision: i64,
}

impl Lists {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            open: dice.between(1, 6),
            elements_max: dice.between(4, 60) as usize,
            keys_max: dice.between(1, 4),
            reads: dice.between(0, 30),
            serializable_reads: dice.between(0, 20),
        }
    }
}

impl Workload for Lists {
    fn name(&self) -> &'static str {
        "lists"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // The list that now grows in each place.
            let mut growing: Vec<u64> = (0..self.open).collect();
            while client.goes_on() {
                if client.dice.percent(10) {
                    self.read_all(client).await;
                } else {
                    self.round(client, &mut growing).await;
                }
                client.think().await;
            }
        })
    }
}

impl Lists {
    async fn read_all(&self, client: &mut Client) {
        let serializable = client.dice.percent(self.serializable_reads);
        let (key, range_end) = (Bytes::from_static(lists::FIRST_KEY), Bytes::from_static(lists::END_KEY));
        client.call(Request::Range(pb::RangeRequest { key, range_end, serializable, ..Default::default() })).await;
    }

    /// Reads some lists, and appends to some of them what belongs behind what was read.
    async fn round(&self, client: &mut Client, growing: &mut [u64]) {
        let mut places: Vec<usize> = (0..growing.len()).collect();
        let wanted = client.dice.between(1, self.keys_max) as usize;
        while places.len() > wanted {
            places.swap_remove(client.dice.below(places.len() as u64) as usize);
        }
        let keys: Vec<Bytes> = places.iter().map(|&place| lists::key_name(growing[place])).collect();
        let serializable = client.dice.percent(self.serializable_reads);
        let success = keys.iter().map(|key| read(key, serializable)).collect();
        let reading = pb::TxnRequest { success, ..Default::default() };
        let Outcome::Answered(Answer::Txn(answer)) = client.call(Request::Txn(reading)).await else { return };
        let mut seen = rows(&answer);
        for (&place, key) in places.iter().zip(&keys) {
            if self.is_full(seen.get(key)) {
                growing[place] += self.open;
            }
        }
        if client.dice.percent(self.reads) {
            return;
        }
        if client.dice.percent(50) {
            client.think().await;
        }
        // Who comes too late reads in the same transaction how it is now, and tries once more with that.
        for _ in 0..2 {
            let Some(txn) = self.draw_append(client, &keys, &seen) else { return };
            match client.call(Request::Txn(txn)).await {
                Outcome::Answered(Answer::Txn(answer)) if !answer.succeeded => seen = rows(&answer),
                _ => return,
            }
        }
    }

    fn is_full(&self, seen: Option<&Seen>) -> bool {
        seen.is_some_and(|seen| seen.elements.len() >= self.elements_max)
    }

    /// Appends to at least one of the lists that are not full, and reads others. `None` if all are full.
    fn draw_append(&self, client: &mut Client, keys: &[Bytes], seen: &BTreeMap<Bytes, Seen>) -> Option<pb::TxnRequest> {
        let mark = client.mark();
        let mut txn = pb::TxnRequest::default();
        for (key, part) in keys.iter().zip(0..) {
            let appends = !self.is_full(seen.get(key)) && (txn.compare.is_empty() || client.dice.percent(60));
            if appends {
                let Seen { mut elements, mod_revision } = seen.get(key).cloned().unwrap_or_default();
                elements.push(client.element(&mark, part));
                txn.compare.push(pb::Compare {
                    result: CompareResult::Equal as i32,
                    target: CompareTarget::Mod as i32,
                    key: key.clone(),
                    target_union: Some(TargetUnion::ModRevision(mod_revision)),
                    ..Default::default()
                });
                let put = pb::PutRequest { key: key.clone(), value: encode(&elements), ..Default::default() };
                txn.success.push(pb::RequestOp { request: Some(Op::RequestPut(put)) });
            }
            // A read behind the own append shows it.
            if !appends || client.dice.percent(20) {
                txn.success.push(read(key, false));
            }
            txn.failure.push(read(key, false));
        }
        (!txn.compare.is_empty()).then_some(txn)
    }
}

fn read(key: &Bytes, serializable: bool) -> pb::RequestOp {
    let range = pb::RangeRequest { key: key.clone(), serializable, ..Default::default() };
    pb::RequestOp { request: Some(Op::RequestRange(range)) }
}

/// The lists that an answer shows. The checkers find what does not decode.
fn rows(answer: &pb::TxnResponse) -> BTreeMap<Bytes, Seen> {
    let ranges = answer.responses.iter().filter_map(|op| match &op.response {
        Some(Response::ResponseRange(range)) => Some(&range.kvs),
        _ => None,
    });
    let rows = ranges.flatten().filter_map(|row| KeyValue::decode(row.clone()).ok());
    rows.filter_map(|row| {
        let elements = decode(&row.value)?;
        Some((row.key, Seen { elements, mod_revision: row.mod_revision }))
    })
    .collect()
}
