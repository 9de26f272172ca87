//! The space quota: what a request may cost, and whether that fits.
//!
//! Costs are etcd's estimates. The verdict is a member's own: before proposing it refuses, when an entry is applied it only
//! reports (the write happens anyway, so that members stay equal), and what then refuses is the alarm in the log.

use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestOp, TxnRequest};

/// What `dbSize` starts from: a database file that holds nothing, as etcd's does.
pub(crate) const EMPTY_FILE_BYTES: u64 = 16 * 1024;

const PUT_OVERHEAD_BYTES: u64 = 256;
const LEASE_BYTES: u64 = 64;

/// The bytes that a request may add; 0 if it cannot grow the store.
pub(crate) fn cost_bytes(request: &InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        put_cost_bytes(put)
    } else if let Some(txn) = &request.txn {
        txn_cost_bytes(txn)
    } else if request.lease_grant.is_some() {
        LEASE_BYTES
    } else {
        0
    }
}

fn put_cost_bytes(put: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

/// The dearer of the two branches.
pub(crate) fn txn_cost_bytes(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost_bytes(put),
                Some(Request::RequestTxn(txn)) => txn_cost_bytes(txn),
                Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// Whether `cost_bytes` more fit beside `size_bytes`; no quota lets everything in.
pub(crate) fn fits(quota_bytes: Option<u64>, size_bytes: u64, cost_bytes: u64) -> bool {
    cost_bytes == 0 || quota_bytes.is_none_or(|quota_bytes| size_bytes.saturating_add(cost_bytes) < quota_bytes)
}
