//! What a member is told when it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_raft::transport::PeerLimits;
use quorate_store::watch::WatchLimits;

use crate::auto_compaction::AutoCompaction;

/// Committed but unapplied entries beyond which proposals are refused (etcd `server/etcdserver/v3_server.go`).
const APPLY_GAP_MAX: u64 = 5000;
/// The same for what goes first ([`MemberConfig::revocations_go_first`]).
const APPLY_GAP_MAX_FIRST: u64 = 2 * APPLY_GAP_MAX;

/// What a member without data does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Found a cluster.
    New,
    /// Join one that runs.
    Existing,
}

impl ClusterState {
    /// As the flag has it.
    pub fn name(self) -> &'static str {
        match self {
            ClusterState::New => "new",
            ClusterState::Existing => "existing",
        }
    }
}

/// A member's settings. Defaults are etcd 3.7's where etcd has the setting.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The name that operators see.
    pub name: String,
    /// Where `member/` lies.
    pub data_dir: PathBuf,
    /// Where the log lies, if not in `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// The members at the start, this one among them: name and peer URLs, as given. Used only when there is no log yet.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// Whether they found a cluster. Used only when there is no log yet.
    pub initial_cluster_state: ClusterState,
    /// Mixed into ids, so that two clusters founded alike differ.
    pub initial_cluster_token: String,
    /// Drop all other members and what they may not have seen, and go on alone. Used only when there is a log.
    pub force_new_cluster: bool,
    /// Refuse membership changes that would cost the quorum.
    pub strict_reconfig_check: bool,
    /// The peer URLs that others are told.
    pub advertise_peer_urls: Vec<String>,
    /// The client URLs that others are told.
    pub advertise_client_urls: Vec<String>,
    /// A Raft tick.
    pub heartbeat_ms: u64,
    /// Time without a leader until an election.
    pub election_ms: u64,
    /// Ask before raising the term.
    pub pre_vote: bool,
    /// Entries between two marks in the log below which it may be released.
    pub snapshot_count: u64,
    /// Entries kept in memory below the mark for slow followers.
    pub snapshot_catchup_entries: u64,
    /// Size at which writes are refused; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Largest encoded request.
    pub max_request_bytes: usize,
    /// So many bytes of large requests may be under way, and as many of large answers. etcd has no such limit.
    pub inflight_bytes_max: usize,
    /// Most operations in a list of a transaction.
    pub max_txn_ops: usize,
    /// Most learners.
    pub max_learners: usize,
    /// Compare with all others before taking part again.
    pub initial_corrupt_check: bool,
    /// Time between comparisons of all members at the newest revision; `None` for never.
    pub corrupt_check_time: Option<Duration>,
    /// Time between comparisons at what compactions have left; `None` for never.
    pub compact_hash_check_time: Option<Duration>,
    /// Never wait for the disk. A crash of the machine then loses acknowledged writes.
    pub unsafe_no_fsync: bool,
    /// Rows wait this long, at most, to be written to the database in one batch.
    pub flush_interval: Duration,
    /// Rows that may wait; then applying waits.
    pub pending_bytes_max: usize,
    /// The database's page cache.
    pub cache_bytes: usize,
    /// Size of a log segment.
    pub wal_segment_bytes: u64,
    /// Log entries kept in memory weigh no more than this.
    pub log_memory_bytes: usize,
    /// Rows that compaction removes at a time.
    pub compaction_batch_rows: usize,
    /// Pause between two such batches.
    pub compaction_interval: Duration,
    /// How long a peer may take.
    pub peer_limits: PeerLimits,
    /// Leases may be revoked while other writes are refused because too much waits to be applied.
    pub revocations_go_first: bool,
    /// A renewal counts as soon as a quorum has said that this member leads, and not only once all is applied that was committed
    /// before: a member that is behind with its work then lets no lease end whose holder is alive.
    pub renewals_count_at_once: bool,
    /// What takes longer to read or to apply is told of in the log.
    pub warning_apply_duration: Duration,
    /// What the leader leaves of the history by itself; `None`: all of it.
    pub auto_compaction: Option<AutoCompaction>,
    /// The database is defragmented at the start, if that gives so many bytes back; `None`: never.
    pub bootstrap_defrag_threshold_bytes: Option<u64>,
    /// Bytes of rows that a defragmentation copies at a time.
    pub defragment_slice_bytes: u64,
    /// What watches may hold in memory, for each reactor's.
    pub watch_limits: WatchLimits,
    /// How often the leader writes down what a lease has left; `None`: never, and each new leader gives leases their whole time.
    pub lease_checkpoint_interval: Option<Duration>,
}

impl MemberConfig {
    /// A member that is a cluster by itself, with etcd's defaults.
    pub fn single(name: &str, data_dir: &Path, peer_url: &str, client_url: &str) -> Self {
        Self {
            name: name.to_owned(),
            data_dir: data_dir.to_path_buf(),
            wal_dir: None,
            initial_cluster: vec![(name.to_owned(), vec![peer_url.to_owned()])],
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".to_owned(),
            force_new_cluster: false,
            strict_reconfig_check: true,
            advertise_peer_urls: vec![peer_url.to_owned()],
            advertise_client_urls: vec![client_url.to_owned()],
            heartbeat_ms: 100,
            election_ms: 1000,
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_bytes: Some(2 * 1024 * 1024 * 1024),
            max_request_bytes: 1_572_864,
            inflight_bytes_max: 256 << 20,
            max_txn_ops: 128,
            max_learners: 1,
            initial_corrupt_check: false,
            corrupt_check_time: None,
            compact_hash_check_time: None,
            unsafe_no_fsync: false,
            flush_interval: Duration::from_millis(100),
            pending_bytes_max: 64 << 20,
            cache_bytes: 64 << 20,
            wal_segment_bytes: 64_000_000,
            log_memory_bytes: 16 << 20,
            compaction_batch_rows: 1_000,
            compaction_interval: Duration::from_millis(10),
            peer_limits: PeerLimits::default(),
            revocations_go_first: false,
            renewals_count_at_once: true,
            warning_apply_duration: Duration::from_millis(100),
            auto_compaction: None,
            bootstrap_defrag_threshold_bytes: None,
            defragment_slice_bytes: 8 << 20,
            watch_limits: WatchLimits::default(),
            lease_checkpoint_interval: None,
        }
    }

    /// The directory of everything that the member keeps.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The directory of the database.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// The database file.
    pub fn database_path(&self) -> PathBuf {
        self.snap_dir().join("quorate.redb")
    }

    /// The directory of the log.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// Ticks in an election timeout.
    pub fn election_ticks(&self) -> usize {
        usize::try_from(self.election_ms / self.heartbeat_ms.max(1)).unwrap_or(usize::MAX).max(2)
    }

    /// How long a request may wait (etcd `server/config/config.go`, `ReqTimeout`).
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + Duration::from_millis(2 * self.election_ms)
    }

    /// How long another member's peer port may take to answer (etcd `server/config/config.go`, `PeerDialTimeout`).
    pub fn peer_dial_timeout(&self) -> Duration {
        Duration::from_secs(1) + Duration::from_millis(self.election_ms)
    }

    /// The shortest lease, in seconds (etcd `server/etcdserver/server.go`: three half election timeouts, rounded up).
    pub fn lease_ttl_min_secs(&self) -> i64 {
        let ticks_ms = self.election_ticks() as u64 * self.heartbeat_ms;
        i64::try_from((3 * ticks_ms).div_ceil(2).div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// How many entries may be committed and not applied yet when `request` is proposed.
    pub fn apply_gap_max(&self, request: &InternalRaftRequest) -> u64 {
        match self.revocations_go_first && request.lease_revoke.is_some() {
            true => APPLY_GAP_MAX_FIRST,
            false => APPLY_GAP_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};

    use super::*;

    #[test]
    fn only_revocations_go_first_and_only_if_told_so() {
        let grant = InternalRaftRequest { lease_grant: Some(LeaseGrantRequest::default()), ..Default::default() };
        let revoke = InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest::default()), ..Default::default() };
        let mut config = MemberConfig::single("a", Path::new("a"), "http://a:2380", "http://a:2379");
        assert_eq!((config.apply_gap_max(&grant), config.apply_gap_max(&revoke)), (5_000, 5_000));
        config.revocations_go_first = true;
        assert_eq!((config.apply_gap_max(&grant), config.apply_gap_max(&revoke)), (5_000, 10_000));
    }
}
