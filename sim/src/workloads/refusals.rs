//! Requests that must be refused, with etcd's code and words, and change nothing.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_runtime::BoxFuture;

use super::{Client, Workload};
use crate::history::Request;
use crate::model::MAX_TXN_OPS;

/// See the module.
pub struct Refusals;

impl Workload for Refusals {
    fn name(&self) -> &'static str {
        "refusals"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while client.goes_on() {
                let request = draw_bad(client);
                client.call(request).await;
                client.think().await;
            }
        })
    }
}

fn draw_bad(client: &mut Client) -> Request {
    let key = client.key();
    let mark = client.mark();
    let value = client.value(&mark, 0);
    let put =
        |key: &Bytes, value: &Bytes| pb::PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
    let op = |put: pb::PutRequest| pb::RequestOp { request: Some(Op::RequestPut(put)) };
    let txn = |success: Vec<pb::RequestOp>| Request::Txn(pb::TxnRequest { success, ..Default::default() });
    match client.dice.below(9) {
        0 => Request::Put(put(&Bytes::new(), &value)),
        1 => Request::Range(pb::RangeRequest::default()),
        2 => Request::Delete(pb::DeleteRangeRequest::default()),
        3 => Request::Put(pb::PutRequest { lease: 4711, ..put(&key, &value) }),
        4 => Request::Put(pb::PutRequest { ignore_value: true, ..put(&key, &value) }),
        // On a key that exists this is a good put, with the old value; those are never made, to keep values unique.
        5 => Request::Put(pb::PutRequest { ignore_value: true, ..put(&"no such key".into(), &Bytes::new()) }),
        6 => txn(vec![op(put(&key, &value)), op(put(&key, &value))]),
        // The first op is good: it must leave no trace.
        7 => txn(vec![op(put(&key, &value)), op(pb::PutRequest { lease: 4711, ..put(&"other".into(), &value) })]),
        _ => txn(vec![op(put(&key, &value)); MAX_TXN_OPS + 1]),
    }
}
