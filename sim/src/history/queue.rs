//! What the lock and election services write for their callers, as requests of the KV service: so the checkers find who has
//! made a revision.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::request_op::Request as Op;

use super::Request;

/// All keys of a queue begin with this.
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key by which the holder of `lease` stands in a queue.
pub fn key(name: &[u8], lease: i64) -> Bytes {
    [name, format!("/{lease:x}").as_bytes()].concat().into()
}

/// A key that is not there is put.
pub fn enter(key: &Bytes, value: &Bytes, lease: i64) -> Request {
    put_if(key, CompareResult::Equal, 0, value, lease)
}

/// A key that was created at `revision`, or whenever, is put again.
pub fn replace(key: &Bytes, created: Option<i64>, value: &Bytes, lease: i64) -> Request {
    match created {
        Some(revision) => put_if(key, CompareResult::Equal, revision, value, lease),
        None => put_if(key, CompareResult::Greater, 0, value, lease),
    }
}

/// A key is deleted.
pub fn leave(key: &Bytes) -> Request {
    Request::Delete(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() })
}

/// A comparison of the revision at which a key was created; 0 says that it is not there.
pub fn created(key: &Bytes, result: CompareResult, revision: i64) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn put_if(key: &Bytes, result: CompareResult, revision: i64, value: &Bytes, lease: i64) -> Request {
    let put = pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() };
    Request::Txn(pb::TxnRequest {
        compare: vec![created(key, result, revision)],
        success: vec![pb::RequestOp { request: Some(Op::RequestPut(put)) }],
        failure: Vec::new(),
    })
}
