//! Snapshots: the whole state as the file that etcd would send, and back.
//!
//! The form is etcd's database file: bbolt, with ten buckets. So a member that is an etcd can take what a member of ours
//! sends and the other way round, and what an operator saves is what etcd's tools know.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | main u64, `_`, sub u64, a tombstone `t` too | `KeyValue` |
//! | `meta` | `consistent_index`, `term` | u64 |
//! | | `scheduledCompactRev`, `finishedCompactRev` | a row's key |
//! | | `confState` | Raft's configuration, JSON |
//! | | `storageVersion` | what the layout needs to be read |
//! | `lease` | id u64 | `Lease` |
//! | `alarm` | `AlarmMember` | |
//! | `cluster` | `clusterVersion`; `downgrade` | text; JSON |
//! | `members` | id in hex | JSON |
//! | `members_removed` | id in hex | `removed` |
//! | `auth` | `authEnabled`, `authRevision` | one byte; u64 |
//! | `authUsers`, `authRoles` | | |
//!
//! - `export`: everything comes from one view, the entry's index and term and Raft's configuration included, never from what
//!   the member is about to do. Rows go through in two passes and are never in memory.
//! - `import`: a new database, made beside the one in use and complete before it has its name. Whatever does not make sense
//!   is refused and named.
//! - `hash`: a number over all of it.
//! - `v2`: the members once more, in the JSON that etcd puts beside the file.

mod export;
mod hash;
mod import;
mod v2;

use quorate_proto::raftpb::ConfState;
use serde::{Deserialize, Serialize};

pub(crate) use self::export::SmallState;
pub use self::export::{SnapshotExport, SnapshotSource};
pub(crate) use self::hash::hash;
#[cfg(test)]
pub(crate) use self::import::import_on;
pub use self::import::{Imported, import_snapshot};
pub(crate) use self::v2::membership_v2_json;
use crate::mvcc::revision::RowRevision;

const KEY: &str = "key";
const META: &str = "meta";
const LEASE: &str = "lease";
const ALARM: &str = "alarm";
const CLUSTER: &str = "cluster";
const MEMBERS: &str = "members";
const MEMBERS_REMOVED: &str = "members_removed";
const AUTH: &str = "auth";
const AUTH_USERS: &str = "authUsers";
const AUTH_ROLES: &str = "authRoles";

/// All buckets, in the order of the file. An etcd that misses one dies when it first writes to it.
const BUCKETS: [&str; 10] = [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];

const CONSISTENT_INDEX: &str = "consistent_index";
const TERM: &str = "term";
const SCHEDULED_COMPACT: &str = "scheduledCompactRev";
const FINISHED_COMPACT: &str = "finishedCompactRev";
const CONF_STATE: &str = "confState";
const STORAGE_VERSION: &str = "storageVersion";

const CLUSTER_VERSION: &str = "clusterVersion";
const DOWNGRADE: &str = "downgrade";

const REMOVED: &str = "removed";

const AUTH_ENABLED: &str = "authEnabled";
const AUTH_REVISION: &str = "authRevision";
/// Of an auth store in which nothing was ever done.
const AUTH_REVISION_FIRST: u64 = 1;

/// The key of a row, as etcd's file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRowKey {
    bytes: [u8; Self::TOMBSTONE_LEN],
    tombstone: bool,
}

impl SnapshotRowKey {
    const LEN: usize = 17;
    const TOMBSTONE_LEN: usize = Self::LEN + 1;
    const SEPARATOR: u8 = b'_';
    const MARK: u8 = b't';

    pub(crate) fn new(revision: RowRevision, tombstone: bool) -> Self {
        let mut bytes = [0; Self::TOMBSTONE_LEN];
        bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
        bytes[8] = Self::SEPARATOR;
        bytes[9..17].copy_from_slice(&u64::from(revision.sub).to_be_bytes());
        bytes[17] = Self::MARK;
        Self { bytes, tombstone }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..Self::len(self.tombstone)]
    }

    fn len(tombstone: bool) -> usize {
        if tombstone { Self::TOMBSTONE_LEN } else { Self::LEN }
    }

    /// The row, and whether it is a tombstone; `None` if this is no key of a row.
    fn parse(bytes: &[u8]) -> Option<(RowRevision, bool)> {
        let (main, rest) = bytes.split_first_chunk::<8>()?;
        let (separator, rest) = rest.split_first()?;
        let (sub, rest) = rest.split_first_chunk::<8>()?;
        let tombstone = match rest {
            [] => false,
            [Self::MARK] => true,
            _ => return None,
        };
        let main = i64::from_be_bytes(*main);
        let sub = u32::try_from(u64::from_be_bytes(*sub)).ok()?;
        (*separator == Self::SEPARATOR && main >= 0).then_some((RowRevision::new(main, sub), tombstone))
    }
}

/// Raft's configuration as etcd's JSON.
#[derive(Serialize, Deserialize)]
struct ConfStateJson {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners_next: Vec<u64>,
    #[serde(default)]
    auto_leave: bool,
}

impl From<&ConfState> for ConfStateJson {
    fn from(conf_state: &ConfState) -> Self {
        Self {
            voters: conf_state.voters.clone(),
            learners: conf_state.learners.clone(),
            voters_outgoing: conf_state.voters_outgoing.clone(),
            learners_next: conf_state.learners_next.clone(),
            auto_leave: conf_state.auto_leave(),
        }
    }
}

impl From<ConfStateJson> for ConfState {
    fn from(json: ConfStateJson) -> Self {
        let ConfStateJson { voters, learners, voters_outgoing, learners_next, auto_leave } = json;
        Self { voters, learners, voters_outgoing, learners_next, auto_leave: Some(auto_leave) }
    }
}
