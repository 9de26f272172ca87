//! A slow twin of the key space: a list of all events, replayed for every question.
//!
//! It shares the wire types with the store and no code.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcdserverpb::*;
use quorate_proto::mvccpb::KeyValue;
use quorate_types::Error;

use crate::Response;

type Keys = BTreeMap<Vec<u8>, KeyValue>;

/// One write: a key, and its new state (`None` is gone).
#[derive(Clone, Debug)]
struct Event {
    main: i64,
    key: Vec<u8>,
    state: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    events: Vec<Event>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, i64>,
}

/// The state inside an entry.
struct Draft<'a> {
    model: &'a Model,
    keys: Keys,
    events: Vec<Event>,
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    if end.is_empty() {
        key == start
    } else if end == [0] {
        key >= start
    } else {
        key >= start && key < end
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn encoded(kv: &KeyValue) -> Bytes {
    kv.encode_to_vec().into()
}

impl Model {
    pub(super) fn new() -> Self {
        Self { events: Vec::new(), revision: 1, compacted: -1, leases: BTreeMap::new() }
    }

    fn at(&self, revision: i64) -> Keys {
        let mut keys = Keys::new();
        for event in self.events.iter().filter(|event| event.main <= revision) {
            match &event.state {
                Some(kv) => keys.insert(event.key.clone(), kv.clone()),
                None => keys.remove(&event.key),
            };
        }
        keys
    }

    /// What the rows weigh that a complete compaction leaves.
    pub(super) fn row_bytes(&self) -> u64 {
        let survives = |place: usize, event: &Event| {
            let later_below =
                self.events[place + 1..].iter().any(|later| later.key == event.key && later.main <= self.compacted);
            event.main > self.compacted || (!later_below && (event.state.is_some() || event.main == self.compacted))
        };
        let tombstone = |key: &[u8]| KeyValue { key: key.to_vec().into(), ..Default::default() };
        self.events
            .iter()
            .enumerate()
            .filter(|(place, event)| survives(*place, event))
            .map(|(_, event)| event.state.clone().unwrap_or_else(|| tombstone(&event.key)).encoded_len() as u64 + 33)
            .sum()
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.range_in(request, self.revision, None)
    }

    /// `draft` are the keys at `current`, if that is not a finished revision.
    fn range_in(&self, request: &RangeRequest, current: i64, draft: Option<&Keys>) -> Result<RangeResponse, Error> {
        if request.revision > current {
            return Err(Error::FutureRev);
        }
        let at = if request.revision <= 0 { current } else { request.revision };
        if at < self.compacted {
            return Err(Error::Compacted);
        }
        let keys = match draft {
            Some(draft) if at == current => draft.clone(),
            _ => self.at(at),
        };
        let mut kvs: Vec<KeyValue> = keys
            .into_iter()
            .filter(|(key, _)| in_range(key, &request.key, &request.range_end))
            .map(|(_, kv)| kv)
            .collect();
        let mut response = RangeResponse { header: header(current), count: kvs.len() as i64, ..Default::default() };
        if request.count_only {
            return Ok(response);
        }
        if request.keys_only && request.sort_target != 4 {
            kvs.iter_mut().for_each(|kv| {
                kv.value = Bytes::new();
                kv.lease = 0;
            });
        }
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let default_order = request.sort_order == 0 || (request.sort_order == 1 && request.sort_target == 0);
        if request.limit > 0 && !filtered && default_order {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
                && (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision)
                && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
        });
        if !(request.sort_target == 0 && request.sort_order != 2) {
            kvs.sort_by(|a, b| {
                let order = match request.sort_target {
                    0 => a.key.cmp(&b.key),
                    1 => a.version.cmp(&b.version),
                    2 => a.create_revision.cmp(&b.create_revision),
                    3 => a.mod_revision.cmp(&b.mod_revision),
                    _ => a.value.cmp(&b.value),
                };
                if request.sort_order == 2 { order.reverse() } else { order }
            });
        }
        if request.limit > 0 && kvs.len() > request.limit as usize {
            kvs.truncate(request.limit as usize);
            response.more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        response.kvs = kvs.iter().map(encoded).collect();
        Ok(response)
    }

    pub(super) fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let mut draft = Draft { model: self, keys: self.at(self.revision), events: Vec::new() };
        draft.txn(request)
    }

    /// Applies an entry.
    pub(super) fn apply(&mut self, request: &InternalRaftRequest) -> Result<Response, Error> {
        let current = self.revision;
        let mut draft = Draft { model: self, keys: self.at(current), events: Vec::new() };
        let mut grant = None;
        let mut revoke = None;
        let mut compact = None;
        let response = if let Some(put) = &request.put {
            draft.check_put(put)?;
            Response::Put(draft.put(put))
        } else if let Some(delete) = &request.delete_range {
            Response::DeleteRange(draft.delete(delete))
        } else if let Some(txn) = &request.txn {
            Response::Txn(draft.txn(txn)?)
        } else if let Some(compaction) = &request.compaction {
            if compaction.revision <= self.compacted {
                return Err(Error::Compacted);
            }
            if compaction.revision > current {
                return Err(Error::FutureRev);
            }
            compact = Some(compaction.revision);
            Response::Compaction(CompactionResponse { header: header(current) })
        } else if let Some(lease) = &request.lease_grant {
            if lease.id == 0 {
                return Err(Error::LeaseNotFound);
            }
            if lease.ttl > 9_000_000_000 {
                return Err(Error::LeaseTtlTooLarge);
            }
            if self.leases.contains_key(&lease.id) {
                return Err(Error::LeaseExist);
            }
            let ttl = lease.ttl.max(2);
            grant = Some((lease.id, ttl));
            Response::LeaseGrant(LeaseGrantResponse {
                header: header(current),
                id: lease.id,
                ttl,
                ..Default::default()
            })
        } else if let Some(lease) = &request.lease_revoke {
            if !self.leases.contains_key(&lease.id) {
                return Err(Error::LeaseNotFound);
            }
            let attached: Vec<Vec<u8>> =
                draft.keys.iter().filter(|(_, kv)| kv.lease == lease.id).map(|(key, _)| key.clone()).collect();
            for key in attached {
                draft.delete(&DeleteRangeRequest { key: key.into(), ..Default::default() });
            }
            revoke = Some(lease.id);
            Response::LeaseRevoke(LeaseRevokeResponse { header: header(draft.revision()) })
        } else {
            panic!("the model does not know {request:?}");
        };
        let events = draft.events;
        if !events.is_empty() {
            self.revision += 1;
            self.events.extend(events);
        }
        if let Some((id, ttl)) = grant {
            self.leases.insert(id, ttl);
        }
        if let Some(id) = revoke {
            self.leases.remove(&id);
        }
        if let Some(revision) = compact {
            self.compacted = revision;
        }
        Ok(response)
    }
}

impl Draft<'_> {
    fn revision(&self) -> i64 {
        self.model.revision + i64::from(!self.events.is_empty())
    }

    fn write(&mut self, key: &[u8], state: Option<KeyValue>) {
        match &state {
            Some(kv) => self.keys.insert(key.to_vec(), kv.clone()),
            None => self.keys.remove(key),
        };
        self.events.push(Event { main: self.model.revision + 1, key: key.to_vec(), state });
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.model.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.keys.contains_key(&put.key[..]) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let old = self.keys.get(&put.key[..]).cloned();
        let main = self.model.revision + 1;
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if old.is_some() { kept.create_revision } else { main },
            mod_revision: main,
            version: kept.version + 1,
            value: if put.ignore_value && old.is_some() { kept.value.clone() } else { put.value.clone() },
            lease: if put.ignore_lease && old.is_some() { kept.lease } else { put.lease },
        };
        self.write(&put.key, Some(kv));
        let prev_kv = old.filter(|_| put.prev_kv).map(|kv| encoded(&kv)).unwrap_or_default();
        PutResponse { header: header(main), prev_kv }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> = self
            .keys
            .iter()
            .filter(|(key, _)| in_range(key, &delete.key, &delete.range_end))
            .map(|(_, kv)| kv.clone())
            .collect();
        for kv in &gone {
            self.write(&kv.key, None);
        }
        DeleteRangeResponse {
            header: header(self.revision()),
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone.iter().map(encoded).collect() } else { Vec::new() },
        }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let found: Vec<&KeyValue> = self
            .keys
            .iter()
            .filter(|(key, _)| in_range(key, &compare.key, &compare.range_end))
            .map(|(_, kv)| kv)
            .collect();
        let missing = KeyValue::default();
        if found.is_empty() && compare.target == 3 {
            return false;
        }
        let found = if found.is_empty() { vec![&missing] } else { found };
        let number = |target: i32| match (&compare.target_union, target) {
            (Some(compare::TargetUnion::Version(number)), 0)
            | (Some(compare::TargetUnion::CreateRevision(number)), 1)
            | (Some(compare::TargetUnion::ModRevision(number)), 2)
            | (Some(compare::TargetUnion::Lease(number)), 4) => *number,
            _ => 0,
        };
        found.into_iter().all(|kv| {
            let order = match compare.target {
                0 => kv.version.cmp(&number(0)),
                1 => kv.create_revision.cmp(&number(1)),
                2 => kv.mod_revision.cmp(&number(2)),
                3 => match &compare.target_union {
                    Some(compare::TargetUnion::Value(value)) => kv.value.cmp(value),
                    _ => kv.value[..].cmp(&[]),
                },
                _ => kv.lease.cmp(&number(4)),
            };
            match compare.result {
                0 => order == Ordering::Equal,
                1 => order == Ordering::Greater,
                2 => order == Ordering::Less,
                _ => order != Ordering::Equal,
            }
        })
    }

    /// The branch of each transaction on the way, by its place in a walk.
    fn path(&self, txn: &TxnRequest) -> Vec<bool> {
        let succeeded = txn.compare.iter().all(|compare| self.compare(compare));
        let mut path = vec![succeeded];
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Some(request_op::Request::RequestTxn(nested)) = &op.request {
                path.extend(self.path(nested));
            }
        }
        path
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        let path = self.path(txn);
        self.check(txn, &mut path.clone())?;
        let mut response = self.execute(txn, &mut path.clone());
        response.header = header(self.revision());
        Ok(response)
    }

    fn check(&self, txn: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Error> {
        for op in if path.remove(0) { &txn.success } else { &txn.failure } {
            match op.request.as_ref().expect("an operation") {
                request_op::Request::RequestRange(range) => {
                    if range.revision > self.model.revision {
                        return Err(Error::FutureRev);
                    }
                    if range.revision != 0 && range.revision < self.model.compacted {
                        return Err(Error::Compacted);
                    }
                }
                request_op::Request::RequestPut(put) => self.check_put(put)?,
                request_op::Request::RequestDeleteRange(_) => {}
                request_op::Request::RequestTxn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn execute(&mut self, txn: &TxnRequest, path: &mut Vec<bool>) -> TxnResponse {
        let succeeded = path.remove(0);
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            let response = match op.request.as_ref().expect("an operation") {
                request_op::Request::RequestRange(range) => {
                    let answer = self.model.range_in(range, self.revision(), Some(&self.keys));
                    response_op::Response::ResponseRange(answer.expect("it was checked"))
                }
                request_op::Request::RequestPut(put) => response_op::Response::ResponsePut(self.put(put)),
                request_op::Request::RequestDeleteRange(delete) => {
                    response_op::Response::ResponseDeleteRange(self.delete(delete))
                }
                request_op::Request::RequestTxn(nested) => {
                    response_op::Response::ResponseTxn(self.execute(nested, path))
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses }
    }
}
