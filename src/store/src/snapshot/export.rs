//! A view as a snapshot file, in chunks.
//!
//! The file begins with its length, so rows are looked at twice: once for their lengths, once for themselves. The view
//! does not change meanwhile; it keeps the database's pages and its pending rows for as long as the export lives.

use bytes::Bytes;
use prost::Message as _;
use quorate_bolt::{PAGE_BYTES, Planner, WriteError, Writer};
use quorate_proto::etcdserverpb::AlarmMember;
use quorate_proto::raftpb::ConfState;
use quorate_types::{LeaseId, LogIndex, Term};

use super::{
    ALARM, AUTH, AUTH_REVISION, AUTH_REVISION_FIRST, BUCKETS, CLUSTER, CLUSTER_VERSION, CONF_STATE, CONSISTENT_INDEX,
    ConfStateJson, DOWNGRADE, FINISHED_COMPACT, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META, REMOVED, SCHEDULED_COMPACT,
    STORAGE_VERSION, SnapshotRowKey, TERM,
};
use crate::error::{FileName, StoreError};
use crate::lease::Grant;
use crate::membership::Membership;
use crate::mvcc::revision::RowRevision;
use crate::row_scan::RowScan;
use crate::rows::Rows;
use crate::sync::Arc;

/// The oldest version of etcd whose file says for which version it is.
const FIRST_WITH_STORAGE_VERSION: (u64, u64) = (3, 6);

/// All of a view but the rows.
pub(crate) struct SmallState {
    pub(crate) applied: (LogIndex, Term),
    pub(crate) revision: i64,
    pub(crate) compact_scheduled: i64,
    pub(crate) conf_state: Arc<ConfState>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) alarms: Vec<AlarmMember>,
    pub(crate) leases: Vec<(LeaseId, Grant)>,
}

/// What a snapshot is made of. Unlike the view that it comes from it does not hold the key index, of which the writer would
/// have to copy whatever it changes meanwhile.
pub struct SnapshotSource {
    pub(crate) small: SmallState,
    pub(crate) rows: Rows,
}

impl SnapshotSource {
    /// The snapshot, in chunks. Reads every row once to see how long the file will be: call it, and
    /// [`SnapshotExport::next_chunk`], where blocking is allowed.
    pub fn export(self) -> Result<SnapshotExport, StoreError> {
        SnapshotExport::new(&self.small, &self.rows)
    }
}

/// A snapshot of a view, on its way out. May be carried from one worker to another between two chunks.
pub struct SnapshotExport {
    index: LogIndex,
    term: Term,
    conf_state: ConfState,
    file: FileName,
    writer: Writer,
    /// Every bucket, in order; rows are not in here.
    buckets: std::vec::IntoIter<Bucket>,
    /// Set while the bucket of rows is written.
    rows: Option<RowScan>,
    /// The scan for the second pass, until it begins.
    second_pass: Option<RowScan>,
    finished: bool,
}

struct Bucket {
    name: &'static str,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl SnapshotExport {
    /// Runs the first pass.
    fn new(small: &SmallState, rows: &Rows) -> Result<Self, StoreError> {
        let buckets: Vec<Bucket> = BUCKETS
            .into_iter()
            .map(|name| Bucket { name, pairs: small.pairs(name, rows.compact_finished()) })
            .collect();
        let mut planner = Planner::new(PAGE_BYTES);
        for Bucket { name, pairs } in &buckets {
            planner.bucket(name.len());
            pairs.iter().for_each(|(key, value)| planner.pair(key.len(), value.len()));
            if *name == KEY {
                let mut scan = rows.scan(small.revision)?;
                while let Some((tombstone, encoded_len)) = scan.next_len()? {
                    planner.pair(SnapshotRowKey::len(tombstone), encoded_len);
                }
            }
        }
        Ok(Self {
            index: small.applied.0,
            term: small.applied.1,
            conf_state: ConfState::clone(&small.conf_state),
            file: rows.file().clone(),
            writer: Writer::new(planner.finish()),
            buckets: buckets.into_iter(),
            rows: None,
            second_pass: Some(rows.scan(small.revision)?),
            finished: false,
        })
    }

    /// The last entry that the snapshot holds.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// That entry's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Raft's configuration after that entry.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// How long the whole file is.
    pub fn len_bytes(&self) -> u64 {
        self.writer.len_bytes()
    }

    /// The next piece of the file, [`quorate_bolt::CHUNK_BYTES`] long but for the last; `None` after that. Blocks on the disk.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(chunk) = self.writer.pop_chunk() {
                return Ok(Some(chunk));
            }
            if self.finished {
                return Ok(None);
            }
            self.write_on()?;
        }
    }

    /// Writes one row, or a bucket of anything else.
    fn write_on(&mut self) -> Result<(), StoreError> {
        let Self { file, writer, buckets, rows, .. } = self;
        // What the writer refuses did not come from an entry: keys are limited long before.
        let failed = |error: WriteError| StoreError::damaged(file, format!("making a snapshot: {error}"));
        if let Some(scan) = rows {
            let written =
                scan.next(|row| writer.pair(SnapshotRowKey::new(row.revision, row.tombstone).bytes(), row.encoded))?;
            match written {
                Some(written) => written.map_err(failed)?,
                None => *rows = None,
            }
        } else if let Some(Bucket { name, pairs }) = buckets.next() {
            writer.bucket(name.as_bytes()).map_err(failed)?;
            for (key, value) in &pairs {
                writer.pair(key, value).map_err(failed)?;
            }
            if name == KEY {
                *rows = self.second_pass.take();
            }
        } else {
            writer.finish().map_err(failed)?;
            self.finished = true;
        }
        Ok(())
    }
}

impl SmallState {
    /// The pairs of a bucket, in order; none for the bucket of rows.
    pub(super) fn pairs(&self, bucket: &str, compact_finished: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = match bucket {
            ALARM => self.alarms.iter().map(|alarm| (alarm.encode_to_vec(), Vec::new())).collect(),
            // Every etcd counts from here, also where auth was never used: one that began elsewhere would later refuse
            // what the others allow.
            AUTH => vec![(AUTH_REVISION.into(), AUTH_REVISION_FIRST.to_be_bytes().into())],
            CLUSTER => {
                let version = self.membership.cluster_version();
                let version = version.map(|version| (CLUSTER_VERSION.into(), version.into()));
                let json = |downgrade| serde_json::to_vec(downgrade).expect("strings and flags become JSON");
                let downgrade = self.membership.downgrade().map(|downgrade| (DOWNGRADE.into(), json(downgrade)));
                [version, downgrade].into_iter().flatten().collect()
            }
            LEASE => {
                let record = |(id, grant): &(LeaseId, Grant)| {
                    (id.0.to_be_bytes().to_vec(), grant.to_record(*id).encode_to_vec())
                };
                self.leases.iter().map(record).collect()
            }
            MEMBERS => {
                let json = |member| serde_json::to_vec(member).expect("strings and numbers become JSON");
                let members = self.membership.members().iter();
                members.map(|member| (member.id.to_string().into(), json(member))).collect()
            }
            MEMBERS_REMOVED => {
                let removed = self.membership.removed().iter();
                removed.map(|id| (id.to_string().into(), REMOVED.into())).collect()
            }
            META => self.meta(compact_finished),
            _ => Vec::new(),
        };
        // Ids as text or as varints are in another order than as numbers.
        pairs.sort_unstable();
        pairs
    }

    fn meta(&self, compact_finished: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let conf_state = serde_json::to_vec(&ConfStateJson::from(&*self.conf_state));
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = vec![
            (CONSISTENT_INDEX.into(), self.applied.0.0.to_be_bytes().into()),
            (TERM.into(), self.applied.1.0.to_be_bytes().into()),
            (CONF_STATE.into(), conf_state.expect("numbers become JSON")),
        ];
        for (name, at) in [(SCHEDULED_COMPACT, self.compact_scheduled), (FINISHED_COMPACT, compact_finished)] {
            // A compaction at 0 is one, and -1 is none.
            if at >= 0 {
                pairs.push((name.into(), SnapshotRowKey::new(RowRevision::new(at, 0), false).bytes().into()));
            }
        }
        // Not this program's own version: an older etcd that the cluster may still have would refuse the file.
        if let Some(version) = self.membership.cluster_version()
            && let [major, minor, ..] =
                version.split('.').filter_map(|part| part.parse().ok()).collect::<Vec<u64>>()[..]
            && (major, minor) >= FIRST_WITH_STORAGE_VERSION
        {
            pairs.push((STORAGE_VERSION.into(), version.into()));
        }
        pairs
    }
}
