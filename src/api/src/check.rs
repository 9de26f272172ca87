//! What is wrong with a request before anything is asked of the store: etcd's checks, in etcd's order.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`, `server/etcdserver/txn/util.go`. The order matters where a request is
//! wrong in two ways.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use quorate_types::Error;
use tonic::Status;

use crate::errors;

/// How deep transactions may be nested. A decoder refuses more than 100 levels of messages; each transaction takes two, and
/// the log wraps it in one more. What can be proposed must be readable again, by every later version: so keep well below.
const TXN_DEPTH_MAX: usize = 32;

/// Checks a Range.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a RangeStream: only natural order, and no filters, can be answered in pieces.
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request).map_err(errors::status)?;
    let natural = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !natural {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// Checks a Put.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a DeleteRange.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a Txn: its operations one by one, then what they do to each other.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    txn_ops(request, ops_max, TXN_DEPTH_MAX)?;
    overlaps(&request.success)?;
    overlaps(&request.failure)
}

fn txn_ops(request: &TxnRequest, ops_max: usize, depth_left: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // A nested transaction may use what its parents left.
    let Some(left) = ops_max.checked_sub(ops) else { return Err(Error::TooManyOps) };
    let Some(depth_left) = depth_left.checked_sub(1) else { return Err(Error::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Op::RequestRange(request)) => range(request)?,
            Some(Op::RequestPut(request)) => put(request)?,
            Some(Op::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Op::RequestTxn(request)) => txn_ops(request, left, depth_left)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Refuses a list of operations in which a key is put twice, or put and deleted.
fn overlaps(ops: &[RequestOp]) -> Result<(), Error> {
    match ops {
        // The usual transaction: nothing to overlap with.
        [] => Ok(()),
        [op] if !matches!(op.request, Some(Op::RequestTxn(_))) => Ok(()),
        _ => changes(ops).map(drop),
    }
}

/// What a list of operations puts and deletes, nested transactions included.
///
/// Only one branch of a nested transaction will run, so its two branches may put the same key; but what either does must
/// agree with the list around it. A nested transaction's deletes count for what stands after it, and for the puts of this
/// list: so etcd has it.
fn changes(ops: &[RequestOp]) -> Result<(BTreeSet<Bytes>, KeyRanges), Error> {
    let mut deletes = KeyRanges::default();
    for op in ops {
        if let Some(Op::RequestDeleteRange(request)) = &op.request {
            deletes.insert_request(request);
        }
    }
    let mut puts = BTreeSet::new();
    for op in ops {
        let Some(Op::RequestTxn(request)) = &op.request else { continue };
        let (puts_then, deletes_then) = changes(&request.success)?;
        let (puts_else, deletes_else) = changes(&request.failure)?;
        if puts_then.iter().any(|key| puts.contains(key) || deletes.contains(key)) {
            return Err(Error::DuplicateKey);
        }
        if puts_else.iter().any(|key| puts.contains(key) || deletes.contains(key)) {
            return Err(Error::DuplicateKey);
        }
        puts.extend(puts_then);
        puts.extend(puts_else);
        deletes.extend(deletes_then);
        deletes.extend(deletes_else);
    }
    for op in ops {
        let Some(Op::RequestPut(request)) = &op.request else { continue };
        if deletes.contains(&request.key) || !puts.insert(request.key.clone()) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// A set of keys as disjoint ranges: start to end, the end not included.
#[derive(Default)]
struct KeyRanges {
    ends: BTreeMap<Bytes, Bytes>,
}

impl KeyRanges {
    /// Adds what a delete names. A delete of everything from a key on (its end is one zero byte) adds nothing: etcd takes
    /// that end literally here, and so lets a put of such a key pass.
    fn insert_request(&mut self, request: &DeleteRangeRequest) {
        let end = if request.range_end.is_empty() {
            let mut next = Vec::with_capacity(request.key.len() + 1);
            next.extend_from_slice(&request.key);
            next.push(0);
            next.into()
        } else {
            request.range_end.clone()
        };
        self.insert(request.key.clone(), end);
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        if start >= end {
            return;
        }
        if let Some((left, left_end)) = self.ends.range::<Bytes, _>(..=&start).next_back()
            && *left_end >= start
        {
            end = end.max(left_end.clone());
            start = left.clone();
        }
        while let Some((right, right_end)) = self.ends.range::<Bytes, _>(&start..=&end).next() {
            end = end.max(right_end.clone());
            let right = right.clone();
            self.ends.remove(&right);
        }
        self.ends.insert(start, end);
    }

    fn extend(&mut self, other: KeyRanges) {
        for (start, end) in other.ends {
            self.insert(start, end);
        }
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.ends.range::<Bytes, _>(..=key).next_back().is_some_and(|(_, end)| key < end)
    }
}

/// True if every operation is a range that asks for no agreement with the cluster.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

#[cfg(test)]
mod tests;
