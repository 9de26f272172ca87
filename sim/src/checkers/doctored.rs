//! True histories for the checkers' tests, made with the model, to be falsified by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;

use super::Evidence;
use crate::history::{Answer, Operation, Outcome, Request, RevisionDiff};
use crate::model::Model;
use crate::world::clock::SimTime;

/// The only client of a story.
pub const CLIENT: u64 = 7;

/// A history of one client that calls one operation after the other, a millisecond each, a millisecond apart.
pub struct Story {
    model: Model,
    now_ms: u64,
    operations: Vec<Operation>,
    taps: BTreeMap<i64, RevisionDiff>,
    crashes: Vec<SimTime>,
}

impl Default for Story {
    fn default() -> Self {
        Self { model: Model::new(), now_ms: 0, operations: Vec::new(), taps: BTreeMap::new(), crashes: Vec::new() }
    }
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::from_nanos(ms * 1_000_000)
}

pub fn put_op(key: &str, value: &str) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

pub fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

impl Story {
    /// Calls `request`, answered truly.
    pub fn call(&mut self, request: Request) -> &mut Self {
        let outcome = match self.model.execute(&request) {
            Ok(mut answer) => {
                let header = answer.header_mut().get_or_insert_default();
                (header.cluster_id, header.member_id, header.raft_term) = (1, 2, 3);
                Outcome::Answered(answer)
            }
            Err(error) => Outcome::Refused { code: error.code() as i32, message: error.message().to_owned() },
        };
        let (start, end) = (at_ms(self.now_ms), at_ms(self.now_ms + 1));
        self.operations.push(Operation { client: CLIENT, start, end, request, outcome });
        self.now_ms += 2;
        self
    }

    pub fn put(&mut self, key: &str, value: &str) -> &mut Self {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        self.call(Request::Put(pb::PutRequest { key, value, ..Default::default() }))
    }

    pub fn delete(&mut self, key: &str) -> &mut Self {
        self.call(Request::Delete(pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }))
    }

    pub fn put_both(&mut self, left: &str, right: &str, mark: &str) -> &mut Self {
        let success = vec![put_op(left, &format!("{mark}/0")), put_op(right, &format!("{mark}/1"))];
        self.call(Request::Txn(pb::TxnRequest { success, ..Default::default() }))
    }

    pub fn compact(&mut self, revision: i64) -> &mut Self {
        self.call(Request::Compact(pb::CompactionRequest { revision, physical: false }))
    }

    pub fn read_all(&mut self) -> &mut Self {
        self.call(Request::Range(everything()))
    }

    pub fn crash(&mut self) {
        self.crashes.push(at_ms(self.now_ms));
        self.now_ms += 2;
    }

    pub fn last(&mut self) -> &mut Operation {
        self.operations.last_mut().expect("something was called")
    }

    pub fn last_answer(&mut self) -> Answer {
        self.last().answer().expect("it was answered").clone()
    }

    /// Falsifies the last answer.
    pub fn doctor_last(&mut self, falsify: impl FnOnce(&mut Answer)) {
        let Outcome::Answered(answer) = &mut self.last().outcome else { panic!("the last call was not answered") };
        falsify(answer);
    }

    /// The last answer never arrived; what it did is tapped.
    pub fn forget_last(&mut self) -> &mut Self {
        let request = self.last().request.clone();
        self.last().outcome = Outcome::Unknown;
        let mut before = Model::new();
        for operation in &self.operations[..self.operations.len() - 1] {
            // Unknown ones have happened too in these stories.
            let _ = before.execute(&operation.request);
        }
        let (_, changes) = before.try_at(&request, before.revision());
        if !changes.is_empty() {
            let diff = changes.into_iter().map(|(key, row)| (key, row.map(|row| row.encode_to_vec().into())));
            self.taps.insert(before.revision() + 1, diff.collect());
        }
        self
    }

    pub fn evidence(&self) -> Evidence {
        Evidence {
            operations: self.operations.clone(),
            taps: self.taps.clone(),
            crashes: self.crashes.clone(),
            recovery_limit_ns: u64::MAX,
            ..Evidence::default()
        }
    }
}
