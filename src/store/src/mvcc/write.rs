//! Writing within one entry: puts and deletes under one new revision.
//!
//! All that an entry writes has the revision after the current one; the current one moves when the entry is complete.
//! Until then nobody sees a thing of it, because no view is published in between. A long delete can therefore stop after
//! any key and go on later ([`Delete`]).

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use quorate_types::{Error, LeaseId};

use super::Snapshot;
use super::encode::Fields;
use super::index::{KeyRange, Version};
use super::range::{header, stored};
use super::revision::RowRevision;
use crate::error::StoreError;
use crate::format::ROW_OVERHEAD_BYTES;
use crate::operations::Operations;
use crate::pending::Row;
use crate::state::State;

/// How many rows one slice of work may write before others get their turn.
pub(crate) const SLICE_ROWS: usize = if cfg!(test) { 3 } else { 1000 };

/// The writes of one entry so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes {
    /// The revision before the entry.
    begin: i64,
    /// Rows written.
    count: u32,
    /// What the entry has done.
    pub(crate) done: Operations,
}

impl Writes {
    /// Nothing is written yet on top of the current revision.
    pub(crate) fn begin(state: &State) -> Self {
        Self { begin: state.revision, count: 0, done: Operations::default() }
    }

    /// The revision that the entry's reads see and its answers show.
    pub(crate) fn revision(&self) -> i64 {
        if self.count == 0 { self.begin } else { self.begin + 1 }
    }

    /// What the entry's reads see.
    pub(crate) fn snapshot<'a>(&self, state: &'a State) -> Snapshot<'a> {
        Snapshot { revision: self.revision(), ..state.snapshot() }
    }

    /// The entry is complete: its revision becomes the current one.
    pub(crate) fn finish(self, state: &mut State) {
        assert_eq!(state.revision, self.begin, "one entry at a time");
        state.revision = self.revision();
        state.operations.add_entry(self.done);
    }

    fn next_row(&mut self) -> RowRevision {
        let row = RowRevision::new(self.begin + 1, self.count);
        self.count = self.count.checked_add(1).expect("an entry writes fewer than 2^32 rows");
        row
    }

    /// Puts a key; the request was checked by [`check_put`].
    pub(crate) fn put(&mut self, state: &mut State, request: &PutRequest) -> Result<PutResponse, StoreError> {
        let previous = match (needs_previous(request), state.index.get(&request.key)) {
            (true, Some(version)) => Some((version, state.rows.get(version.row)?)),
            _ => None,
        };
        // The checks see the state before a transaction, so a delete earlier in it may have taken the key since. API and
        // leader refuse that; should it come all the same, there is nothing to keep.
        let value = match (&previous, request.ignore_value) {
            (Some((_, kv)), true) => stored(kv).value,
            _ => &request.value,
        };
        let lease = match (&previous, request.ignore_lease) {
            (Some((version, _)), true) => version.lease,
            _ => LeaseId(request.lease),
        };

        self.done.puts += 1;
        self.done.put_bytes += (request.key.len() + value.len()) as u64;
        let at = self.next_row();
        let put = state.index.put(&request.key, at, lease);
        let encoded = Fields {
            key: &request.key,
            create_revision: put.create,
            mod_revision: at.main,
            version: put.version,
            value,
            lease: lease.0,
        }
        .encode();
        append(state, Row { revision: at, tombstone: false, encoded });
        let old_lease = put.previous.map_or(LeaseId::NONE, |version| version.lease);
        if (old_lease, lease) != (LeaseId::NONE, LeaseId::NONE) {
            state.leases.moved(&request.key, old_lease, lease);
        }
        let prev_kv = previous.filter(|_| request.prev_kv).map_or_else(Bytes::new, |(_, kv)| kv);
        Ok(PutResponse { header: header(self.revision()), prev_kv })
    }

    /// Deletes one key; false if it is not there.
    fn delete(&mut self, state: &mut State, key: &[u8]) -> bool {
        let at = RowRevision::new(self.begin + 1, self.count);
        let Some(previous) = state.index.delete(key, at) else { return false };
        assert_eq!(self.next_row(), at, "the row that the index was told");
        let encoded = Fields { key, ..Fields::default() }.encode();
        append(state, Row { revision: at, tombstone: true, encoded });
        if previous.lease != LeaseId::NONE {
            state.leases.moved(key, previous.lease, LeaseId::NONE);
        }
        true
    }

    /// Deletes up to `budget_rows` of the keys on a lease; true once none is left.
    pub(crate) fn delete_attached(&mut self, state: &mut State, lease: LeaseId, budget_rows: &mut usize) -> bool {
        let keys = state.leases.first_keys(lease, *budget_rows);
        for key in &keys {
            let deleted = self.delete(state, key);
            assert!(deleted, "a key on lease {lease} is alive");
        }
        *budget_rows -= keys.len();
        self.done.deletes += keys.len() as u64;
        state.leases.keys(lease).next().is_none()
    }
}

fn append(state: &mut State, row: Row) {
    let bytes = row.encoded.len() as u64 + ROW_OVERHEAD_BYTES;
    state.pending.row_bytes += bytes;
    state.pending.rows += 1;
    state.row_bytes += bytes;
    state.row_bytes_high = state.row_bytes_high.max(state.row_bytes);
    state.rows.push(row);
}

/// True if what the key has is read before it is put.
pub(crate) fn needs_previous(request: &PutRequest) -> bool {
    request.prev_kv || request.ignore_value || request.ignore_lease
}

/// Whether a put may be made: its lease exists, and so does the key if something of it is to be kept.
pub(crate) fn check_put(state: &State, request: &PutRequest) -> Result<(), Error> {
    let lease = LeaseId(request.lease);
    if lease != LeaseId::NONE && !state.leases.exists(lease) {
        return Err(Error::LeaseNotFound);
    }
    if (request.ignore_value || request.ignore_lease) && state.index.get(&request.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// A delete of a range, on its way.
pub(crate) struct Delete {
    request: DeleteRangeRequest,
    /// Where the next slice begins; `None` is the start of the range.
    next_key: Option<Vec<u8>>,
    deleted: i64,
    prev_kvs: Vec<Bytes>,
}

impl Delete {
    pub(crate) fn new(request: DeleteRangeRequest) -> Self {
        Self { request, next_key: None, deleted: 0, prev_kvs: Vec::new() }
    }

    /// False if it is of a single key: that is read, then deleted.
    pub(crate) fn may_stop_halfway(&self) -> bool {
        !self.request.range_end.is_empty()
    }

    /// Deletes up to `budget_rows` keys; the answer once all are gone.
    pub(crate) fn step(
        &mut self,
        state: &mut State,
        writes: &mut Writes,
        budget_rows: &mut usize,
    ) -> Result<Option<DeleteRangeResponse>, StoreError> {
        let start = self.next_key.as_deref().unwrap_or(&self.request.key);
        let range = KeyRange::from_request(start, &self.request.range_end);
        let mut found: Vec<(Box<[u8]>, Version)> = Vec::new();
        let mut more = false;
        state.index.scan(&range, |key, version| {
            if found.len() < *budget_rows {
                found.push((key.into(), *version));
                ControlFlow::Continue(())
            } else {
                more = true;
                ControlFlow::Break(())
            }
        });
        for (key, version) in &found {
            if self.request.prev_kv {
                self.prev_kvs.push(state.rows.get(version.row)?);
            }
            let deleted = writes.delete(state, key);
            assert!(deleted, "a key that the scan found is alive");
        }
        self.deleted += found.len() as i64;
        *budget_rows -= found.len();
        if more {
            if let Some((key, _)) = found.last() {
                // The least key above the last one deleted.
                self.next_key = Some([key, &[0][..]].concat());
            }
            return Ok(None);
        }
        writes.done.deletes += 1;
        Ok(Some(DeleteRangeResponse {
            header: header(writes.revision()),
            deleted: self.deleted,
            prev_kvs: std::mem::take(&mut self.prev_kvs),
        }))
    }
}
