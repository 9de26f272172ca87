//! Who appended what, who read what, and how each list grew.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::mvccpb::KeyValue;

use crate::history::{Answer, Operation, Outcome, Request};
use crate::lists::{decode, is_list};
use crate::model::contains;

/// A list as somebody wrote it; its last element is the one that was appended.
pub(super) struct Append {
    pub(super) operation: usize,
    pub(super) key: usize,
    list: Vec<Bytes>,
    /// The branch of the transaction: what it holds happened together or not at all.
    group: usize,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Happened,
    /// Nobody was told.
    Unknown,
    /// Refused, or in the branch not taken.
    Never,
}

/// What one operation saw of one list.
pub(super) struct Read {
    pub(super) operation: usize,
    pub(super) key: usize,
    pub(super) list: Vec<Bytes>,
}

/// A range of keys (by place in the order of keys) that an operation saw empty.
pub(super) struct Absent {
    pub(super) operation: usize,
    pub(super) keys: std::ops::Range<usize>,
}

/// How a list grew, from nothing: its elements, and for each the operation that appended it.
pub(super) struct History {
    pub(super) key: usize,
    pub(super) elements: Vec<Bytes>,
    pub(super) writers: Vec<usize>,
}

/// All that a history tells of lists.
#[derive(Default)]
pub(super) struct Lists<'a> {
    operations: &'a [Operation],
    /// The keys of lists, in order.
    pub(super) keys: Vec<Bytes>,
    appends: Vec<Append>,
    /// The append of each element.
    by_element: BTreeMap<Bytes, usize>,
    groups: Vec<Vec<usize>>,
    pub(super) reads: Vec<Read>,
    pub(super) absents: Vec<Absent>,
    deletions: Vec<(Bytes, Bytes)>,
}

impl<'a> Lists<'a> {
    /// Everything that was asked for and told.
    pub(super) fn collect(operations: &'a [Operation]) -> Result<Self, String> {
        let mut lists = Self { operations, keys: keys_of(operations), ..Self::default() };
        for (index, operation) in operations.iter().enumerate() {
            let fate = match operation.outcome {
                Outcome::Answered(_) => Fate::Happened,
                Outcome::Unknown => Fate::Unknown,
                Outcome::Refused { .. } => Fate::Never,
            };
            match (&operation.request, operation.answer()) {
                (Request::Put(put), _) => {
                    let group = lists.new_group();
                    lists.note_put(index, put, group, fate)?;
                }
                (Request::Delete(delete), _) => lists.note_delete(delete, fate),
                (Request::Txn(txn), answer) => {
                    let answer = answer.and_then(|answer| match answer {
                        Answer::Txn(answer) => Some(answer),
                        _ => None,
                    });
                    lists.note_txn(index, txn, answer, fate)?;
                    if let Some(answer) = answer {
                        lists.note_txn_reads(index, txn, answer, &mut BTreeMap::new())?;
                    }
                }
                (Request::Range(range), Some(Answer::Range(answer))) => {
                    lists.note_range(index, range, answer, &BTreeMap::new())?;
                }
                (Request::Range(_) | Request::Compact(_), _) => {}
            }
        }
        Ok(lists)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    fn key(&self, name: &[u8]) -> Option<usize> {
        self.keys.binary_search_by(|key| key[..].cmp(name)).ok()
    }

    fn new_group(&mut self) -> usize {
        self.groups.push(Vec::new());
        self.groups.len() - 1
    }

    fn note_put(&mut self, operation: usize, put: &pb::PutRequest, group: usize, fate: Fate) -> Result<(), String> {
        let (Some(key), Some(list)) = (self.key(&put.key), decode(&put.value)) else { return Ok(()) };
        let element = list.last().expect("a list has elements").clone();
        let append = Append { operation, key, list, group, fate };
        self.groups[group].push(self.appends.len());
        match self.by_element.insert(element, self.appends.len()) {
            Some(other) => Err(format!(
                "two operations append the same element, so that nothing can be judged: {} and {}",
                self.describe(self.appends[other].operation),
                self.describe(operation)
            )),
            None => {
                self.appends.push(append);
                Ok(())
            }
        }
    }

    fn note_delete(&mut self, delete: &pb::DeleteRangeRequest, fate: Fate) {
        if fate != Fate::Never {
            self.deletions.push((delete.key.clone(), delete.range_end.clone()));
        }
    }

    fn note_txn(
        &mut self,
        operation: usize,
        txn: &pb::TxnRequest,
        answer: Option<&pb::TxnResponse>,
        fate: Fate,
    ) -> Result<(), String> {
        for (branch, success) in [(&txn.success, true), (&txn.failure, false)] {
            let taken = answer.is_none_or(|answer| answer.succeeded == success);
            let fate = if taken { fate } else { Fate::Never };
            let group = self.new_group();
            for (at, op) in branch.iter().enumerate() {
                match &op.request {
                    Some(Op::RequestPut(put)) => self.note_put(operation, put, group, fate)?,
                    Some(Op::RequestDeleteRange(delete)) => self.note_delete(delete, fate),
                    Some(Op::RequestTxn(inner)) => {
                        let answer = answer.filter(|_| taken).and_then(|answer| {
                            match answer.responses.get(at)?.response.as_ref()? {
                                Response::ResponseTxn(answer) => Some(answer),
                                _ => None,
                            }
                        });
                        self.note_txn(operation, inner, answer, fate)?;
                    }
                    Some(Op::RequestRange(_)) | None => {}
                }
            }
        }
        Ok(())
    }

    /// What the taken branch read. `own`: what the transaction itself has put so far.
    fn note_txn_reads(
        &mut self,
        operation: usize,
        txn: &pb::TxnRequest,
        answer: &pb::TxnResponse,
        own: &mut BTreeMap<Bytes, Bytes>,
    ) -> Result<(), String> {
        let branch = if answer.succeeded { &txn.success } else { &txn.failure };
        for (op, response) in branch.iter().zip(&answer.responses) {
            match (&op.request, &response.response) {
                (Some(Op::RequestPut(put)), _) => {
                    own.insert(put.key.clone(), put.value.clone());
                }
                // What stood at another revision is no part of the transaction's own state.
                (Some(Op::RequestRange(range)), Some(Response::ResponseRange(answer))) if range.revision == 0 => {
                    self.note_range(operation, range, answer, own)?;
                }
                (Some(Op::RequestTxn(inner)), Some(Response::ResponseTxn(answer))) => {
                    self.note_txn_reads(operation, inner, answer, own)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note_range(
        &mut self,
        operation: usize,
        range: &pb::RangeRequest,
        answer: &pb::RangeResponse,
        own: &BTreeMap<Bytes, Bytes>,
    ) -> Result<(), String> {
        if range.keys_only || range.count_only || self.keys.is_empty() {
            return Ok(());
        }
        let mut shown = BTreeSet::new();
        for row in &answer.kvs {
            let row = KeyValue::decode(row.clone())
                .map_err(|error| format!("a row does not decode ({error}): {}", self.describe(operation)))?;
            let Some(key) = self.key(&row.key) else { continue };
            shown.insert(key);
            if let Some(own) = own.get(&row.key) {
                if *own != row.value {
                    let what = self.describe(operation);
                    return Err(format!("a transaction does not see its own append to {:?}: {what}", row.key));
                }
                continue;
            }
            let Some(list) = decode(&row.value) else {
                return Err(format!("{:?} holds no list: {}", row.key, self.describe(operation)));
            };
            if list.iter().collect::<BTreeSet<_>>().len() < list.len() {
                return Err(format!("an element is twice in {:?}: {}", row.key, self.describe(operation)));
            }
            self.reads.push(Read { operation, key, list });
        }
        if shows_all(range) {
            let covered = self.covered(range);
            let mut from = covered.start;
            for key in shown.into_iter().chain([covered.end]) {
                if from < key {
                    self.absents.push(Absent { operation, keys: from..key });
                }
                from = key + 1;
            }
        }
        Ok(())
    }

    /// The places of the keys that a range covers.
    fn covered(&self, range: &pb::RangeRequest) -> std::ops::Range<usize> {
        let start = self.keys.partition_point(|key| *key < range.key);
        let covered = self.keys[start..].partition_point(|key| contains(&range.key, &range.range_end, key));
        start..start + covered
    }

    /// Settles which appends of unknown outcome have happened: those whose element somebody saw.
    pub(super) fn decide_unknown(&mut self) -> Result<(), String> {
        for read in 0..self.reads.len() {
            let Read { operation, key, ref list } = self.reads[read];
            let list = list.clone();
            self.must_have_happened(&list, key, operation)?;
            let last = &self.appends[self.by_element[list.last().expect("a list has elements")]];
            if last.list != list {
                return Err(format!(
                    "nobody wrote this list: {} — the last element was appended by {}",
                    self.describe(operation),
                    self.describe(last.operation)
                ));
            }
        }
        for append in 0..self.appends.len() {
            if self.appends[append].fate == Fate::Happened {
                let Append { operation, key, ref list, .. } = self.appends[append];
                let list = list.clone();
                self.must_have_happened(&list, key, operation)?;
            }
        }
        Ok(())
    }

    /// `operation` shows `list`, so all of it was appended, and each of those appends had a list to append to.
    fn must_have_happened(&mut self, list: &[Bytes], key: usize, operation: usize) -> Result<(), String> {
        let mut shown: Vec<(Bytes, usize)> = list.iter().map(|element| (element.clone(), key)).collect();
        while let Some((element, key)) = shown.pop() {
            let name = &self.keys[key];
            let Some(&append) = self.by_element.get(&element).filter(|&&append| self.appends[append].key == key) else {
                let what = self.describe(operation);
                return Err(format!("nobody ever appended {element:?} to {name:?}: {what}"));
            };
            match self.appends[append].fate {
                Fate::Happened => {}
                Fate::Never => {
                    return Err(format!(
                        "G1a, an aborted read: {element:?} of {name:?}, which {} did not append, shows in {}",
                        self.describe(self.appends[append].operation),
                        self.describe(operation)
                    ));
                }
                Fate::Unknown => {
                    for member in self.groups[self.appends[append].group].clone() {
                        self.appends[member].fate = Fate::Happened;
                        let Append { key, ref list, .. } = self.appends[member];
                        shown.extend(list.iter().map(|element| (element.clone(), key)));
                    }
                }
            }
        }
        Ok(())
    }

    /// How each list grew. All that was seen of a key, and all that was appended, must fit into it.
    pub(super) fn histories(&self) -> Result<Vec<History>, String> {
        let happened = self.appends.iter().filter(|append| append.fate == Fate::Happened);
        let written = happened.map(|append| (append.key, &append.list, append.operation));
        let versions = written.chain(self.reads.iter().map(|read| (read.key, &read.list, read.operation)));
        // A list that begins anew after a deletion has another first element.
        let mut longest: BTreeMap<(usize, &Bytes), (&Vec<Bytes>, usize)> = BTreeMap::new();
        for (key, list, operation) in versions.clone() {
            let (known, of) = longest.entry((key, &list[0])).or_insert((list, operation));
            if known.len() < list.len() {
                (*known, *of) = (list, operation);
            }
        }
        for (key, list, operation) in versions {
            let (known, of) = longest[&(key, &list[0])];
            if !known.starts_with(list) {
                return Err(self.contradiction(key, of, operation));
            }
        }
        for (previous, next) in longest.iter().zip(longest.iter().skip(1)) {
            let ((key, _), (_, one)) = previous;
            let ((other_key, _), (_, other)) = next;
            if key == other_key && !self.may_be_deleted(*key) {
                return Err(self.contradiction(*key, *one, *other));
            }
        }
        let history = |((key, _), (list, _)): ((usize, &Bytes), (&Vec<Bytes>, usize))| {
            let writers = list.iter().map(|element| self.appends[self.by_element[element]].operation).collect();
            History { key, elements: list.clone(), writers }
        };
        Ok(longest.into_iter().map(history).collect())
    }

    fn contradiction(&self, key: usize, one: usize, other: usize) -> String {
        format!(
            "two lists of {:?} contradict each other, so an append was lost or the order changed: {} and {}",
            self.keys[key],
            self.describe(one),
            self.describe(other)
        )
    }

    /// True if somebody may have deleted the key.
    pub(super) fn may_be_deleted(&self, key: usize) -> bool {
        self.deletions.iter().any(|(from, end)| contains(from, end, &self.keys[key]))
    }

    fn describe(&self, operation: usize) -> String {
        self.operations[operation].describe()
    }
}

/// The keys to which lists, and nothing else, are put.
fn keys_of(operations: &[Operation]) -> Vec<Bytes> {
    fn note_put(put: &pb::PutRequest, keys: &mut BTreeMap<Bytes, bool>) {
        if is_list(&put.key) {
            *keys.entry(put.key.clone()).or_insert(true) &= decode(&put.value).is_some();
        }
    }
    fn note_txn(txn: &pb::TxnRequest, keys: &mut BTreeMap<Bytes, bool>) {
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Op::RequestPut(put)) => note_put(put, keys),
                Some(Op::RequestTxn(inner)) => note_txn(inner, keys),
                Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
            }
        }
    }
    let mut keys = BTreeMap::new();
    for operation in operations {
        match &operation.request {
            Request::Put(put) => note_put(put, &mut keys),
            Request::Txn(txn) => note_txn(txn, &mut keys),
            Request::Range(_) | Request::Delete(_) | Request::Compact(_) => {}
        }
    }
    keys.into_iter().filter_map(|(key, only_lists)| only_lists.then_some(key)).collect()
}

/// True if what the answer lacks was not there.
fn shows_all(range: &pb::RangeRequest) -> bool {
    range.limit == 0
        && [range.min_mod_revision, range.max_mod_revision] == [0; 2]
        && [range.min_create_revision, range.max_create_revision] == [0; 2]
}
