//! Views: the state after some entry, as readers see it.
//!
//! A view is a snapshot of the key index, the rows (at most two pending generations and one read transaction of the
//! database), and the small things: members, alarms, leases, sizes. It never changes. There is a new one after each batch of
//! entries, if anybody reads (see `publish`), and one more when a flush is durable, before the generation that was flushed is
//! let go. A reader takes the newest and uses that one alone for whatever it answers, for as short as it can: an old view keeps
//! old rows in memory and old pages in the file.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_proto::etcdserverpb::{
    AlarmMember, InternalRaftRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use quorate_proto::raftpb::ConfState;
use quorate_types::{Error, LeaseId, LogIndex, MemberId, Revision, Term};

use crate::alarm::Alarms;
use crate::error::{ReadError, StoreError};
use crate::hash_kv::{Asker, CompactionHash, HashKv, Hashing};
use crate::lease::{Grant, LeaseSnapshot};
use crate::membership::{Member, Membership};
use crate::mvcc::index::{KeyIndex, KeyRange};
use crate::mvcc::revision::RowRevision;
use crate::mvcc::{Snapshot, range, txn};
use crate::publish::Published;
use crate::quota;
use crate::rows::Rows;
use crate::snapshot::{self, SmallState, SnapshotExport, SnapshotSource};
use crate::state::State;
use crate::sync::Arc;

/// The state after one entry.
#[derive(Clone)]
pub struct View {
    applied_index: LogIndex,
    applied_term: Term,
    revision: i64,
    compacted: i64,
    index: KeyIndex,
    rows: Rows,
    leases: LeaseSnapshot,
    alarms: Alarms,
    membership: Arc<Membership>,
    conf_state: Arc<ConfState>,
    compaction_hashes: Arc<Vec<CompactionHash>>,
    db_size_bytes: u64,
    db_size_in_use_bytes: u64,
}

impl View {
    /// What the writer has after a complete entry.
    pub(crate) fn of(state: &State) -> Self {
        Self {
            applied_index: state.applied_index,
            applied_term: state.applied_term,
            revision: state.revision,
            compacted: state.compacted,
            index: state.index.clone(),
            rows: state.rows.clone(),
            leases: state.leases.snapshot(),
            alarms: state.alarms.clone(),
            membership: state.membership.clone(),
            conf_state: state.conf_state.clone(),
            compaction_hashes: state.compaction_hashes.clone(),
            db_size_bytes: state.db_size_bytes(),
            db_size_in_use_bytes: state.db_size_in_use_bytes(),
        }
    }

    /// The same state, its rows looked up elsewhere: `rows` holds all of this view's, and perhaps later ones, which its
    /// index does not name. Hashes of compactions are this member's own, and belong to no entry.
    pub(crate) fn on_rows(&self, rows: Rows, compaction_hashes: Arc<Vec<CompactionHash>>) -> Self {
        Self { rows, compaction_hashes, ..self.clone() }
    }

    fn keys(&self) -> Snapshot<'_> {
        Snapshot::new(&self.index, &self.rows, self.revision, self.compacted)
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// Revisions below this one are compacted; -1 if there was no compaction, as etcd counts.
    pub fn compact_revision(&self) -> Revision {
        Revision(self.compacted)
    }

    /// The entry after which this was the state.
    pub fn applied(&self) -> (LogIndex, Term) {
        (self.applied_index, self.applied_term)
    }

    /// Raft's configuration after that entry.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// How many keys there are.
    pub fn key_count(&self) -> u64 {
        self.index.count(&KeyRange::all())
    }

    /// Answers a range. Of the header only the revision is set; key-values are encoded.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
        range::range(&self.keys(), request)
    }

    /// The same; `None` if the answer's rows take more than `room_bytes`.
    pub fn range_within(&self, request: &RangeRequest, room_bytes: usize) -> Result<Option<RangeResponse>, ReadError> {
        self.read_within(room_bytes, |keys| range::range(keys, request))
    }

    /// Answers a transaction that needs no log entry; `request` is one that [`is_read_only`](crate::is_read_only) accepts.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
        txn::read(&self.keys(), request)
    }

    /// The same; `None` if the answer's rows take more than `room_bytes`.
    pub fn read_txn_within(&self, request: &TxnRequest, room_bytes: usize) -> Result<Option<TxnResponse>, ReadError> {
        self.read_within(room_bytes, |keys| txn::read(keys, request))
    }

    fn read_within<A>(
        &self,
        room_bytes: usize,
        read: impl FnOnce(&Snapshot<'_>) -> Result<A, ReadError>,
    ) -> Result<Option<A>, ReadError> {
        let room_bytes = Cell::new(Some(room_bytes));
        let answer = read(&Snapshot { room_bytes: Some(&room_bytes), ..self.keys() })?;
        Ok(room_bytes.get().map(|_left| answer))
    }

    /// Whether a lease has been granted and not revoked.
    pub fn lease_exists(&self, id: LeaseId) -> bool {
        self.leases.get(id).is_some()
    }

    /// What was granted under that id.
    pub fn lease(&self, id: LeaseId) -> Option<Grant> {
        self.leases.get(id)
    }

    /// All leases, ordered by id.
    pub fn leases(&self) -> Vec<(LeaseId, Grant)> {
        self.leases.all()
    }

    /// The members of the cluster, ordered by id.
    pub fn members(&self) -> &[Member] {
        self.membership.members()
    }

    /// The ids of former members, in order. None of them ever returns.
    pub fn removed(&self) -> &[MemberId] {
        self.membership.removed()
    }

    /// The version that all members speak, once that is known.
    pub fn cluster_version(&self) -> Option<&str> {
        self.membership.cluster_version()
    }

    /// The older version that the cluster shall speak, if it is being downgraded.
    pub fn downgrade_target(&self) -> Option<&str> {
        let downgrade = self.membership.downgrade().filter(|downgrade| downgrade.enabled)?;
        Some(&downgrade.target_version)
    }

    /// The alarms that stand, ordered by member and kind.
    pub fn alarms(&self) -> &[AlarmMember] {
        self.alarms.all()
    }

    /// What the quota is about: 16 KiB and the rows, those not given back by a defragmentation included.
    pub fn db_size_bytes(&self) -> u64 {
        self.db_size_bytes
    }

    /// The part of it that holds rows.
    pub fn db_size_in_use_bytes(&self) -> u64 {
        self.db_size_in_use_bytes
    }

    /// What a snapshot of this state is made of. Takes as long as there are leases.
    pub fn snapshot_source(&self) -> SnapshotSource {
        let small = SmallState {
            applied: self.applied(),
            revision: self.revision,
            compact_scheduled: self.compacted,
            conf_state: Arc::clone(&self.conf_state),
            membership: Arc::clone(&self.membership),
            alarms: self.alarms.all().to_vec(),
            leases: self.leases.all(),
        };
        SnapshotSource { small, rows: self.rows.clone() }
    }

    /// The state as etcd's snapshot, in chunks: see [`SnapshotSource::export`]. This view lives for as long as that takes.
    pub fn snapshot(&self) -> Result<SnapshotExport, StoreError> {
        self.snapshot_source().export()
    }

    /// The hash of the whole state, as etcd computes it over its database file. Reads all rows: call it where blocking is
    /// allowed.
    pub fn hash(&self) -> Result<u32, ReadError> {
        let SnapshotSource { small, rows } = self.snapshot_source();
        Ok(snapshot::hash(&small, &rows)?)
    }

    /// The members as the JSON tree that etcd puts into a Raft snapshot's `data`; etcd 3.5 and 3.6 insist on it.
    pub fn membership_v2_json(&self) -> Vec<u8> {
        snapshot::membership_v2_json(&self.membership)
    }

    /// The hash of all that was written since the last compaction up to a revision (0: the current one), as etcd computes
    /// it; for a revision whose compaction has left one, that. Reads all these rows: call it where blocking is allowed.
    pub fn hash_kv(&self, revision: Revision) -> Result<HashKv, ReadError> {
        let CompactionHash { hash, hash_revision, compact_revision } = match self.compaction_hash(revision) {
            Some(stored) => *stored,
            None => self.hash_now(revision.0)?,
        };
        Ok(HashKv { hash, hash_revision, compact_revision, current_revision: self.revision() })
    }

    /// What the compaction at a revision has left, if it has: [`View::hash_kv`] has nothing to compute there.
    pub fn compaction_hash(&self, revision: Revision) -> Option<&CompactionHash> {
        self.compaction_hashes.iter().find(|stored| stored.hash_revision == revision)
    }

    fn hash_now(&self, revision: i64) -> Result<CompactionHash, ReadError> {
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted.into());
        }
        if revision > self.revision {
            return Err(Error::FutureRev.into());
        }
        let revision = if revision == 0 { self.revision } else { revision };
        let mut hashing = Hashing::new(&self.index, &self.rows, Asker::Request, self.compacted, revision);
        Ok(hashing.step(usize::MAX)?.expect("without a limit it goes to the end"))
    }

    /// The hashes that the newest ten compactions since this member's start have left, the oldest revision first.
    pub fn compaction_hashes(&self) -> &[CompactionHash] {
        &self.compaction_hashes
    }
}

/// All rows up to a revision.
pub(crate) struct Recent {
    pub(crate) revision: i64,
    /// Revisions below this one are compacted.
    pub(crate) compacted: i64,
    /// Rows of an entry that is under way may be among them, beyond `revision`.
    pub(crate) rows: Rows,
}

/// Where readers find the newest view. Cheap to clone; may be used on any thread.
#[derive(Clone)]
pub struct Reader {
    pub(crate) published: Arc<Published<State, View>>,
    pub(crate) quota_bytes: Option<u64>,
    /// The size that the quota is about.
    pub(crate) db_size_bytes: Arc<AtomicU64>,
}

impl Reader {
    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.published.load()
    }

    /// The newest rows alone. Unlike a view this costs the writer nothing afterwards.
    pub(crate) fn recent(&self) -> Recent {
        let state = self.published.lock();
        Recent { revision: state.revision, compacted: state.compacted, rows: state.rows.clone() }
    }

    /// For each key, which row it had at that revision; none if it was not there, or if the revision is compacted.
    pub(crate) fn rows_at<'a>(&self, keys: impl Iterator<Item = (&'a [u8], i64)>) -> Vec<Option<RowRevision>> {
        let mut keys = keys.peekable();
        if keys.peek().is_none() {
            return Vec::new();
        }
        let state = self.published.lock();
        keys.map(|(key, at)| if at < state.compacted { None } else { state.index.get_at(key, Revision(at)) }).collect()
    }

    /// Whether a request fits the quota, asked before it is proposed. Takes no view.
    pub fn check_quota(&self, request: &InternalRaftRequest) -> bool {
        let db_size_bytes = self.db_size_bytes.load(Ordering::Relaxed);
        quota::fits(self.quota_bytes, db_size_bytes, quota::cost_bytes(request))
    }
}
