//! Leases: which exist, how long each was granted for, and which keys hang on it.
//!
//! A lease is a replicated record, not a timer: nothing here counts time. The leader decides that a lease has expired and
//! proposes its revocation; it also proposes checkpoints, which say how much time was left.
//!
//! - **grant** stores a record. A time to live below the member's minimum is raised, and stored raised.
//! - **put** moves a key from the lease it had to the lease it is given (0 is none); **delete** takes it off.
//! - **revoke** deletes all attached keys in byte order, as one revision, and the record.
//!
//! Attachments are not stored: at start they are rebuilt from the leases that the newest rows of living keys name. A key
//! whose lease does not exist is attached to nothing.
//!
//! Records are shared with readers in shards, so that a snapshot costs one pointer and a change copies one shard.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::leasepb;
use quorate_types::{Error, LeaseId};

use crate::sync::Arc;

/// The longest time to live that may be granted: etcd's limit.
pub(crate) const TTL_MAX_SECS: i64 = 9_000_000_000;

const SHARDS: usize = 64;

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The time to live that was granted, in seconds.
    pub ttl_secs: i64,
    /// Seconds that were left at the last checkpoint; 0 if there was none since the last renewal.
    pub remaining_ttl_secs: i64,
}

impl Grant {
    pub(crate) fn to_record(self, id: LeaseId) -> leasepb::Lease {
        leasepb::Lease { id: id.0, ttl: self.ttl_secs, remaining_ttl: self.remaining_ttl_secs }
    }

    pub(crate) fn from_record(record: &leasepb::Lease) -> (LeaseId, Self) {
        (LeaseId(record.id), Self { ttl_secs: record.ttl, remaining_ttl_secs: record.remaining_ttl })
    }
}

/// The records at one moment.
#[derive(Clone)]
pub(crate) struct LeaseSnapshot {
    shards: Arc<[Arc<BTreeMap<LeaseId, Grant>>; SHARDS]>,
}

impl Default for LeaseSnapshot {
    fn default() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| Arc::default())) }
    }
}

impl LeaseSnapshot {
    fn shard(id: LeaseId) -> usize {
        // Ids are made of a member, a time and a counter; the counter's low bits differ most.
        (id.0 as u64 % SHARDS as u64) as usize
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<Grant> {
        self.shards[Self::shard(id)].get(&id).copied()
    }

    /// All records, ordered by id.
    pub(crate) fn all(&self) -> Vec<(LeaseId, Grant)> {
        let mut all: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.iter().map(|(id, grant)| (*id, *grant))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    fn shard_mut(&mut self, id: LeaseId) -> &mut BTreeMap<LeaseId, Grant> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[Self::shard(id)])
    }
}

/// The writer's side.
#[derive(Default)]
pub(crate) struct Leases {
    grants: LeaseSnapshot,
    attached: BTreeMap<LeaseId, BTreeSet<Box<[u8]>>>,
    /// Changed since the last flush took them.
    dirty: BTreeSet<LeaseId>,
}

impl Leases {
    /// A lease as it was stored.
    pub(crate) fn restore(&mut self, id: LeaseId, grant: Grant) {
        self.grants.shard_mut(id).insert(id, grant);
    }

    /// What readers may hold on to.
    pub(crate) fn snapshot(&self) -> LeaseSnapshot {
        self.grants.clone()
    }

    pub(crate) fn exists(&self, id: LeaseId) -> bool {
        self.grants.get(id).is_some()
    }

    /// Grants; answers the time to live that was granted.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_secs: i64, ttl_min_secs: i64) -> Result<i64, Error> {
        if id == LeaseId::NONE {
            return Err(Error::LeaseNotFound);
        }
        if ttl_secs > TTL_MAX_SECS {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.exists(id) {
            return Err(Error::LeaseExist);
        }
        let ttl_secs = ttl_secs.max(ttl_min_secs);
        self.grants.shard_mut(id).insert(id, Grant { ttl_secs, remaining_ttl_secs: 0 });
        self.dirty.insert(id);
        Ok(ttl_secs)
    }

    /// Notes how much time was left. A lease that is gone by now is none of a checkpoint's business.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_ttl_secs: i64) {
        if self.exists(id)
            && let Some(grant) = self.grants.shard_mut(id).get_mut(&id)
        {
            grant.remaining_ttl_secs = remaining_ttl_secs;
            self.dirty.insert(id);
        }
    }

    /// The keys on a lease, in byte order.
    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &[u8]> {
        self.attached.get(&id).into_iter().flatten().map(|key| &key[..])
    }

    /// Up to `max` keys on a lease, the first in byte order.
    pub(crate) fn first_keys(&self, id: LeaseId, max: usize) -> Vec<Box<[u8]>> {
        self.attached.get(&id).into_iter().flatten().take(max).cloned().collect()
    }

    /// Forgets the record. Its keys were deleted before.
    pub(crate) fn revoke(&mut self, id: LeaseId) {
        assert!(!self.attached.contains_key(&id), "lease {id} is revoked while keys hang on it");
        self.grants.shard_mut(id).remove(&id);
        self.dirty.insert(id);
    }

    /// `key` had the lease `old` and has `new`; [`LeaseId::NONE`] is none.
    pub(crate) fn moved(&mut self, key: &[u8], old: LeaseId, new: LeaseId) {
        if old != new
            && old != LeaseId::NONE
            && let Some(keys) = self.attached.get_mut(&old)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.attached.remove(&old);
            }
        }
        if new != LeaseId::NONE && self.exists(new) {
            let keys = self.attached.entry(new).or_default();
            if !keys.contains(key) {
                keys.insert(key.into());
            }
        }
    }

    /// What a flush has to write: each changed lease, `None` if it is gone.
    pub(crate) fn take_dirty(&mut self) -> Vec<(LeaseId, Option<Grant>)> {
        std::mem::take(&mut self.dirty).into_iter().map(|id| (id, self.grants.get(id))).collect()
    }
}
