//! The slow twin of the store: etcd's rules for the KV service over an ordered map of whole histories.
//!
//! It shares no code with `quorate-store`, keeps every version of every key forever, finds anything by walking, and answers
//! any request as of any revision. Requests that change something are executed in revision order; reads are answered at the
//! revision that their header names. What depends on other things than keys (when leases end, compaction) is the checkers' to
//! judge.

mod range;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::{request_op, response_op};
use quorate_proto::mvccpb::KeyValue;
use quorate_types::Error;

use crate::history::{Answer, Request, RevisionDiff};

/// The whole history of the key space.
#[derive(Clone, Default)]
pub struct Model {
    revision: i64,
    keys: BTreeMap<Bytes, Vec<Row>>,
    /// Leases that somebody was granted. When each begins and ends depends on time, which is the checkers' to judge.
    leases: BTreeSet<i64>,
}

/// One version of a key; without a value it is a tombstone.
#[derive(Clone, Debug)]
struct Row {
    revision: i64,
    alive: Option<KeyValue>,
}

/// What a request changes: the new state of each key, in order of the writes.
pub type Changes = Vec<(Bytes, Option<KeyValue>)>;

impl Model {
    /// A fresh store, at revision 1.
    pub fn new() -> Self {
        Self::with_leases(BTreeSet::new())
    }

    /// A fresh store in which keys may be attached to these leases at any time.
    pub fn with_leases(leases: BTreeSet<i64>) -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Executes a request as the next one in the order; the header of the answer holds the revision alone.
    pub fn execute(&mut self, request: &Request) -> Result<Answer, Error> {
        self.execute_and_tell(request).0
    }

    /// The same, and what it changed.
    pub fn execute_and_tell(&mut self, request: &Request) -> (Result<Answer, Error>, Changes) {
        let (answer, changes) = self.try_at(request, self.revision);
        if !changes.is_empty() {
            self.revision += 1;
            for (key, alive) in &changes {
                self.keys.entry(key.clone()).or_default().push(Row { revision: self.revision, alive: alive.clone() });
            }
        }
        (answer, changes)
    }

    /// What a request would answer and change right after `revision`.
    pub fn try_at(&self, request: &Request, revision: i64) -> (Result<Answer, Error>, Changes) {
        let mut execution = Execution { model: self, before: revision, changes: Vec::new() };
        let answer = execution.run(request);
        if answer.is_err() {
            execution.changes.clear();
        }
        (answer, execution.changes)
    }
}

impl Model {
    /// Makes the next revision from what it is known to have changed, whoever asked for it.
    pub fn apply_diff(&mut self, diff: &RevisionDiff) -> Result<(), prost::DecodeError> {
        self.revision += 1;
        for (key, row) in diff {
            let alive = row.as_ref().map(|row| KeyValue::decode(row.clone())).transpose()?;
            self.keys.entry(key.clone()).or_default().push(Row { revision: self.revision, alive });
        }
        Ok(())
    }

    /// What `changes`, made right after revision `before`, look like to whoever reads at both revisions. A key that was
    /// made and deleted at once does not show.
    pub fn effect(&self, before: i64, changes: &Changes) -> RevisionDiff {
        let mut diff: RevisionDiff =
            changes.iter().map(|(key, row)| (key.clone(), row.as_ref().map(encoded))).collect();
        let existed = |key: &Bytes| self.at(key, before).is_some();
        diff.retain(|key, row| row.is_some() || existed(key));
        diff
    }

    /// The key as it was at `revision`.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let rows = self.keys.get(key)?;
        rows.iter().rev().find(|row| row.revision <= revision)?.alive.clone()
    }

    /// The keys that are attached to a lease at `revision`.
    pub fn keys_of_lease(&self, lease: i64, revision: i64) -> BTreeSet<Bytes> {
        let attached = |key: &&Bytes| self.at(key, revision).is_some_and(|row| row.lease == lease);
        self.keys.keys().filter(attached).cloned().collect()
    }

    /// Every living key whose name is wanted, as it was at `revision`.
    pub fn rows_at(&self, revision: i64, wanted: impl Fn(&Bytes) -> bool) -> Vec<KeyValue> {
        self.keys.keys().filter(|key| wanted(key)).filter_map(|key| self.at(key, revision)).collect()
    }

    /// What `revision` changed.
    pub fn changes_of(&self, revision: i64) -> Changes {
        let row_of = |rows: &[Row]| rows.iter().rfind(|row| row.revision == revision).map(|row| row.alive.clone());
        self.keys.iter().filter_map(|(key, rows)| Some((key.clone(), row_of(rows)?))).collect()
    }
}

/// One request being executed on top of the state at `before`.
struct Execution<'a> {
    model: &'a Model,
    before: i64,
    changes: Changes,
}

impl Execution<'_> {
    fn run(&mut self, request: &Request) -> Result<Answer, Error> {
        check(request)?;
        match request {
            Request::Range(range) => {
                self.check_range(range)?;
                Ok(Answer::Range(self.range(range)))
            }
            Request::Put(put) => {
                self.check_put(put)?;
                Ok(Answer::Put(self.put(put)))
            }
            Request::Delete(delete) => Ok(Answer::Delete(self.delete(delete))),
            Request::Txn(txn) => {
                let path = self.decide(txn);
                self.check_txn(txn, &path)?;
                let mut answer = self.txn(txn, &path);
                answer.header = header(self.revision_now());
                Ok(Answer::Txn(answer))
            }
            Request::Compact(compact) if compact.revision > self.before => Err(Error::FutureRev),
            Request::Compact(_) => Ok(Answer::Compact(pb::CompactionResponse { header: header(self.before) })),
        }
    }

    /// The revision that a reader inside this execution is at.
    fn revision_now(&self) -> i64 {
        self.before + i64::from(!self.changes.is_empty())
    }

    /// The key as it is now, inside the execution.
    fn newest(&self, key: &[u8]) -> Option<KeyValue> {
        match self.changes.iter().rev().find(|(changed, _)| changed == key) {
            Some((_, alive)) => alive.clone(),
            None => self.model.at(key, self.before),
        }
    }

    /// Every living key of `[key, range_end)` at `revision` (`None`: now), in order.
    fn select(&self, key: &Bytes, range_end: &Bytes, revision: Option<i64>) -> Vec<KeyValue> {
        let mut names: Vec<&Bytes> = self.model.keys.keys().chain(self.changes.iter().map(|(key, _)| key)).collect();
        names.sort();
        names.dedup();
        names.retain(|name| contains(key, range_end, name));
        let state = |name: &&Bytes| match revision {
            Some(revision) => self.model.at(name, revision),
            None => self.newest(name),
        };
        names.iter().filter_map(state).collect()
    }

    fn check_range(&self, range: &pb::RangeRequest) -> Result<(), Error> {
        if range.revision > self.before { Err(Error::FutureRev) } else { Ok(()) }
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.model.leases.contains(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.model.at(&put.key, self.before).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let previous = self.newest(&put.key);
        let revision = self.before + 1;
        let kept = previous.clone().unwrap_or_default();
        let row = KeyValue {
            key: put.key.clone(),
            create_revision: if previous.is_some() { kept.create_revision } else { revision },
            mod_revision: revision,
            version: kept.version + 1,
            value: if put.ignore_value { kept.value } else { put.value.clone() },
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.changes.push((put.key.clone(), Some(row)));
        let prev_kv = previous.filter(|_| put.prev_kv).map(|row| encoded(&row)).unwrap_or_default();
        pb::PutResponse { header: header(revision), prev_kv }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let doomed = self.select(&delete.key, &delete.range_end, None);
        self.changes.extend(doomed.iter().map(|row| (row.key.clone(), None)));
        pb::DeleteRangeResponse {
            header: header(self.revision_now()),
            deleted: doomed.len() as i64,
            prev_kvs: if delete.prev_kv { doomed.iter().map(encoded).collect() } else { Vec::new() },
        }
    }

    /// Which branch each transaction of the tree takes, outer before inner, all judged on the state before.
    fn decide(&self, txn: &pb::TxnRequest) -> Vec<bool> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let mut path = vec![succeeded];
        for op in branch(txn, succeeded) {
            if let Some(request_op::Request::RequestTxn(inner)) = &op.request {
                path.extend(self.decide(inner));
            }
        }
        path
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let rows = self.select(&compare.key, &compare.range_end, Some(self.before));
        if rows.is_empty() {
            // A missing value compares with nothing; a missing number is 0.
            return compare.target() != CompareTarget::Value && compare_row(compare, &KeyValue::default());
        }
        rows.iter().all(|row| compare_row(compare, row))
    }

    fn check_txn(&self, txn: &pb::TxnRequest, path: &[bool]) -> Result<usize, Error> {
        let mut used = 1;
        for op in branch(txn, path[0]) {
            match &op.request {
                Some(request_op::Request::RequestRange(range)) => self.check_range(range)?,
                Some(request_op::Request::RequestPut(put)) => self.check_put(put)?,
                Some(request_op::Request::RequestTxn(inner)) => used += self.check_txn(inner, &path[used..])?,
                Some(request_op::Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(used)
    }

    fn txn(&mut self, txn: &pb::TxnRequest, path: &[bool]) -> pb::TxnResponse {
        self.txn_and_path_used(txn, path).0
    }

    fn txn_and_path_used(&mut self, txn: &pb::TxnRequest, path: &[bool]) -> (pb::TxnResponse, usize) {
        let mut used = 1;
        let mut responses = Vec::new();
        for op in branch(txn, path[0]) {
            let response = op.request.as_ref().map(|request| match request {
                request_op::Request::RequestRange(range) => response_op::Response::ResponseRange(self.range(range)),
                request_op::Request::RequestPut(put) => response_op::Response::ResponsePut(self.put(put)),
                request_op::Request::RequestDeleteRange(delete) => {
                    response_op::Response::ResponseDeleteRange(self.delete(delete))
                }
                request_op::Request::RequestTxn(inner) => {
                    let (answer, inner_used) = self.txn_and_path_used(inner, &path[used..]);
                    used += inner_used;
                    response_op::Response::ResponseTxn(answer)
                }
            });
            responses.push(pb::ResponseOp { response });
        }
        // Only the outermost header tells a revision.
        (pb::TxnResponse { header: header(0), succeeded: path[0], responses }, used)
    }
}

fn branch(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

fn encoded(row: &KeyValue) -> Bytes {
    row.encode_to_vec().into()
}

/// etcd's rule for ranges: no end is one key, an end of one zero byte is everything from the key on.
pub fn contains(key: &[u8], range_end: &[u8], name: &[u8]) -> bool {
    match range_end {
        [] => name == key,
        [0] => name >= key,
        end => name >= key && name < end,
    }
}

fn compare_row(compare: &pb::Compare, row: &KeyValue) -> bool {
    let number = |target: i64, pick: fn(&TargetUnion) -> Option<i64>| {
        target.cmp(&compare.target_union.as_ref().and_then(pick).unwrap_or(0))
    };
    let ordering = match compare.target() {
        CompareTarget::Value => match &compare.target_union {
            Some(TargetUnion::Value(value)) => row.value.cmp(value),
            _ => row.value.cmp(&Bytes::new()),
        },
        CompareTarget::Version => {
            number(row.version, |union| if let TargetUnion::Version(at) = union { Some(*at) } else { None })
        }
        CompareTarget::Create => {
            number(
                row.create_revision,
                |union| if let TargetUnion::CreateRevision(at) = union { Some(*at) } else { None },
            )
        }
        CompareTarget::Mod => {
            number(row.mod_revision, |union| if let TargetUnion::ModRevision(at) = union { Some(*at) } else { None })
        }
        CompareTarget::Lease => {
            number(row.lease, |union| if let TargetUnion::Lease(at) = union { Some(*at) } else { None })
        }
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}

/// What is wrong with a request whatever the state.
fn check(request: &Request) -> Result<(), Error> {
    match request {
        Request::Range(range) if range.key.is_empty() => Err(Error::EmptyKey),
        Request::Delete(delete) if delete.key.is_empty() => Err(Error::EmptyKey),
        Request::Put(put) => check_put_shape(put),
        Request::Txn(txn) => check_txn_shape(txn, MAX_TXN_OPS).and_then(|()| check_overlap(txn)),
        Request::Range(_) | Request::Delete(_) | Request::Compact(_) => Ok(()),
    }
}

/// etcd's default for `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;

fn check_put_shape(put: &pb::PutRequest) -> Result<(), Error> {
    if put.key.is_empty() {
        Err(Error::EmptyKey)
    } else if put.ignore_value && !put.value.is_empty() {
        Err(Error::ValueProvided)
    } else if put.ignore_lease && put.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

fn check_txn_shape(txn: &pb::TxnRequest, ops_max: usize) -> Result<(), Error> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > ops_max {
        return Err(Error::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(range)) if range.key.is_empty() => return Err(Error::EmptyKey),
            Some(request_op::Request::RequestDeleteRange(delete)) if delete.key.is_empty() => {
                return Err(Error::EmptyKey);
            }
            Some(request_op::Request::RequestPut(put)) => check_put_shape(put)?,
            Some(request_op::Request::RequestTxn(inner)) => check_txn_shape(inner, ops_max - ops)?,
            Some(_) => {}
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// No key may be put twice, or put and deleted, on one path through the transaction. (Deleting twice is fine.) etcd takes the
/// bounds of a delete literally here: an end of one zero byte, everywhere else "everything from the key on", covers nothing.
fn check_overlap(txn: &pb::TxnRequest) -> Result<(), Error> {
    written(&txn.success)?;
    written(&txn.failure)?;
    Ok(())
}

#[derive(Default)]
struct Written {
    puts: Vec<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

fn written(ops: &[pb::RequestOp]) -> Result<Written, Error> {
    let mut all = Written::default();
    for op in ops {
        if let Some(request_op::Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    // Inner transactions first: two branches of one exclude each other, but neither may overlap with what lies outside.
    for op in ops {
        let Some(request_op::Request::RequestTxn(inner)) = &op.request else { continue };
        let (then, otherwise) = (written(&inner.success)?, written(&inner.failure)?);
        let mut puts = then.puts;
        puts.extend(otherwise.puts.into_iter().filter(|key| !puts.contains(key)).collect::<Vec<_>>());
        for key in puts {
            all.add_put(key)?;
        }
        all.deletes.extend(then.deletes);
        all.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let Some(request_op::Request::RequestPut(put)) = &op.request {
            all.add_put(put.key.clone())?;
        }
    }
    Ok(all)
}

impl Written {
    fn add_put(&mut self, key: Bytes) -> Result<(), Error> {
        let covers = |from: &Bytes, end: &Bytes| if end.is_empty() { key == from } else { *from <= key && key < *end };
        let deleted = self.deletes.iter().any(|(from, end)| covers(from, end));
        if deleted || self.puts.contains(&key) {
            return Err(Error::DuplicateKey);
        }
        self.puts.push(key);
        Ok(())
    }
}
