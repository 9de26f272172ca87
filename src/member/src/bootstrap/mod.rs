//! From a directory to a node that can run: founding a cluster, joining one, or going on after a stop or crash.
//!
//! [`plan`] decides what to do before anything is created, and [`boot`] does it. A directory with a log goes on; then the
//! flags about founding and joining are not looked at. Without a log, `--initial-cluster-state` says whether the member founds
//! a cluster ([`founding`]) or joins one ([`joining`]); both ask the other members first, so that a wrong flag, or a member
//! that has been running before, leaves no trace.
//!
//! *Founding and joining.* The database is made first, then the log. A founder's log is there with its founding entries or not
//! at all; a joiner's begins with nothing but the ids, and waits for the leader. So a crash in between leaves a directory
//! that the next start founds or joins with again (a database without a log is remade), and a log without entries is a
//! joiner's.
//!
//! *Going on.* The database knows what it holds durably. The log is read from its newest mark at or below that, and must
//! reach at least as far: what the database applied had been durable in the log. Raft starts with everything that the
//! database holds taken as applied (and so as committed), and replays the rest. `--force-new-cluster` adds entries to the
//! log in between ([`alone`]). A member that its own membership says was removed does not start.

mod alone;
mod founding;
mod initial_cluster;
mod joining;
mod others;
mod peer_urls;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use quorate_proto::{raftpb, walpb};
use quorate_raft::log::Position;
use quorate_raft::node::{Node, NodeConfig, NodeError};
use quorate_raft::wal::{self, Recovered, SnapshotMark, Wal, WalError, WalOptions};
use quorate_runtime::disk::FileLock;
use quorate_runtime::spawn::{self, Worker};
use quorate_runtime::{Rt, bug, random, witness};
use quorate_store::{Member, Store, StoreError, StoreOptions};
use quorate_types::{ClusterId, LogIndex, MemberId};

use crate::config::{ClusterState, MemberConfig};
use crate::data_dir::{self, DataDirError, Found};
use crate::incoming;
use founding::Founding;
use joining::Joining;

/// A member cannot start. Nothing was changed, unless a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log is damaged or cannot be read.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The database is damaged or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refuses what was recovered.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// `--name` is not in `--initial-cluster`.
    #[error("couldn't find local name \"{name}\" in the initial cluster configuration")]
    NameNotFound {
        /// The name given.
        name: String,
    },
    /// `--initial-cluster` and `--initial-advertise-peer-urls` disagree; the sentence is etcd's.
    #[error("{0}")]
    PeerUrlsDiffer(String),
    /// One URL is given to two members, or twice to one.
    #[error("initial cluster {cluster} has duplicate url")]
    DuplicateUrl {
        /// The list.
        cluster: String,
    },
    /// The cluster knows this member as one that has been running, yet the directory is empty.
    #[error("member {id} has already been bootstrapped")]
    AlreadyBootstrapped {
        /// Who this member would be.
        id: MemberId,
    },
    /// No member of the cluster to be joined could be asked.
    #[error("cannot fetch cluster info from peer urls: {0}")]
    NoClusterInfo(String),
    /// The cluster to be joined has other members than `--initial-cluster`.
    #[error("error validating peerURLs {cluster}: {why}")]
    MembersDiffer {
        /// The cluster.
        cluster: String,
        /// What differs.
        why: String,
    },
    /// The cluster to be joined has a version that this one does not speak, or none yet.
    #[error("incompatible with current running cluster")]
    Incompatible,
    /// The cluster to be joined has more learners than `--max-learners`.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
    /// The directory is that of a member that was removed from its cluster.
    #[error("the member has been permanently removed from the cluster")]
    Removed {
        /// Who it was.
        id: MemberId,
    },
    /// It holds other data than the rest of its cluster.
    #[error("{0}: replace this member by a new one with an empty directory")]
    Inconsistent(String),
    /// Its rows cannot be hashed.
    #[error(transparent)]
    Unhashed(#[from] quorate_store::ReadError),
    /// The log and the database do not belong together.
    #[error("{path}: {what}", path = path.display())]
    Mismatch {
        /// Where.
        path: PathBuf,
        /// What does not fit, and what to do.
        what: String,
    },
}

fn already_bootstrapped(id: MemberId) -> StartError {
    tracing::warn!(
        local_member_id = %id,
        "the cluster knows this member by its name, yet its data directory is empty: what it has voted and acknowledged would be \
         forgotten. Bring the directory back; or remove the member from the cluster, add it again, and start it with an empty \
         directory and --initial-cluster-state=existing"
    );
    StartError::AlreadyBootstrapped { id }
}

/// What a member runs on.
pub struct Booted {
    pub id: MemberId,
    pub cluster_id: ClusterId,
    pub node: Node,
    pub store: Store,
    pub wal: Box<Wal>,
    /// The newest mark in the log.
    pub marked: LogIndex,
    /// Where others are that the membership does not name yet.
    pub others: Vec<Member>,
    /// Who is out of the cluster already, although applying it is still to come.
    pub dropped: Vec<MemberId>,
    pub lock: Box<dyn FileLock>,
}

/// What a start is to do.
pub enum Plan {
    /// Go on with what is there.
    GoOn,
    /// Found a cluster, with others or alone.
    Found(Founding),
    /// Join a cluster.
    Join(Joining),
}

/// Decides what to do. Creates nothing.
pub async fn plan(rt: &Rt, config: &MemberConfig, worker: &dyn Worker) -> Result<Plan, StartError> {
    let looking = {
        let (rt, config) = (rt.clone(), config.clone());
        spawn::run_on(worker, move || data_dir::has_member(&rt, &config)).await
    };
    if looking.unwrap_or_else(|_gone| unreachable!("the caller holds the worker"))? {
        return Ok(Plan::GoOn);
    }
    match config.initial_cluster_state {
        ClusterState::New => founding::plan(rt, config).await.map(Plan::Found),
        ClusterState::Existing => joining::plan(rt, config).await.map(Plan::Join),
    }
}

/// Opens, founds or joins. Blocking: called once, before anything is served.
pub fn boot(rt: &Rt, config: &MemberConfig, plan: Plan) -> Result<Booted, StartError> {
    let (found, lock) = data_dir::claim(rt, config)?;
    match (found, plan) {
        (Found::Member, _) => go_on(rt, config, lock),
        (Found::Nothing, Plan::Found(founding)) => found_cluster(rt, config, &founding, lock),
        (Found::Nothing, Plan::Join(joining)) => join_cluster(rt, config, joining, lock),
        (Found::Nothing, Plan::GoOn) => {
            Err(mismatch(&config.wal_path(), "the log was there a moment ago, and is gone"))
        }
    }
}

fn found_cluster(
    rt: &Rt,
    config: &MemberConfig,
    founding: &Founding,
    lock: Box<dyn FileLock>,
) -> Result<Booted, StartError> {
    let (own, cluster_id) = (founding.own, founding.cluster_id);
    let store = new_database(rt, config)?;
    let batch = founding.batch();
    let wal = Wal::create_with(rt.clone(), &config.wal_path(), metadata(own, cluster_id), &batch, wal_options(config))?;
    tell_start(config, own, cluster_id);
    let hard_state = batch.hard_state.unwrap_or_default();
    let log = Log { wal, base: Position::default(), entries: batch.entries, hard_state };
    assemble(rt, config, (own, cluster_id), store, log, lock)
}

fn join_cluster(
    rt: &Rt,
    config: &MemberConfig,
    joining: Joining,
    lock: Box<dyn FileLock>,
) -> Result<Booted, StartError> {
    let Joining { own, cluster_id, others } = joining;
    let store = new_database(rt, config)?;
    let wal = Wal::create(rt.clone(), &config.wal_path(), metadata(own, cluster_id), wal_options(config))?;
    tell_start(config, own, cluster_id);
    let log = Log { wal, base: Position::default(), entries: Vec::new(), hard_state: raftpb::HardState::default() };
    Ok(Booted { others, ..assemble(rt, config, (own, cluster_id), store, log, lock)? })
}

fn tell_start(config: &MemberConfig, own: MemberId, cluster_id: ClusterId) {
    tracing::info!(
        local_member_id = %own,
        cluster_id = %cluster_id,
        name = config.name,
        advertise_peer_urls = ?config.advertise_peer_urls,
        "starting local member"
    );
}

fn metadata(own: MemberId, cluster_id: ClusterId) -> walpb::Metadata {
    walpb::Metadata { node_id: Some(own.0), cluster_id: Some(cluster_id.0) }
}

/// A start that was cut short may have left a database that nothing was ever applied to.
fn new_database(rt: &Rt, config: &MemberConfig) -> Result<Store, StartError> {
    let path = config.database_path();
    let io = |source| StartError::DataDir(DataDirError::Io { path: path.clone(), source });
    if rt.exists(&path).map_err(io)? {
        let left_over = Store::open(rt, &path, store_options(config))?;
        if left_over.durable_index() != LogIndex(0) {
            return Err(StartError::DataDir(DataDirError::Incomplete { present: path, missing: config.wal_path() }));
        }
        drop(left_over);
        rt.remove_file(&path).map_err(io)?;
    }
    Ok(Store::create(rt, &path, store_options(config))?)
}

fn go_on(rt: &Rt, config: &MemberConfig, lock: Box<dyn FileLock>) -> Result<Booted, StartError> {
    incoming::settle(rt, config)?;
    let store = Store::open(rt, &config.database_path(), store_options(config))?;
    let durable = store.durable_index();
    let wal_path = config.wal_path();
    let base = wal::newest_mark(rt, &wal_path, durable)?.unwrap_or(SnapshotMark::START);
    let (wal, recovered) = Wal::open(rt.clone(), &wal_path, base, durable, wal_options(config))?;
    let Recovered { metadata, mut hard_state, entries, torn, .. } = recovered;
    if let Some(torn) = torn {
        tracing::warn!(
            file = %torn.file.display(),
            offset = torn.offset_bytes,
            lost_bytes = torn.lost_bytes,
            "the log ended in a write that was never acknowledged; it was cut off"
        );
    }
    let id = MemberId(metadata.node_id.unwrap_or(0));
    let cluster_id = ClusterId(metadata.cluster_id.unwrap_or(0));
    if !config.force_new_cluster && store.membership().is_removed(id) {
        return Err(StartError::Removed { id });
    }
    let last = entries.last().and_then(|entry| entry.index).unwrap_or(base.index.0);
    if last < durable.0 {
        return Err(mismatch(
            &config.wal_path(),
            &format!(
                "the log ends at entry {last}, yet the database holds entries up to {durable}: the log was lost in part"
            ),
        ));
    }
    witness::recovers(id.0, hard_state.term(), hard_state.vote(), last);
    // What the database holds was committed, even if the commit index did not reach the disk.
    let wal_commit_index = hard_state.commit();
    hard_state.commit = Some(wal_commit_index.max(durable.0));
    let mut log = Log { wal, base: Position { index: base.index.0, term: base.term.0 }, entries, hard_state };
    let dropped = match config.force_new_cluster {
        true => alone::force(rt, config, (id, cluster_id), &store, wal_commit_index, &mut log)?,
        false => {
            alone::check_finished(rt, config)?;
            tracing::info!(
                local_member_id = %id,
                cluster_id = %cluster_id,
                commit_index = hard_state.commit(),
                applied_index = durable.0,
                "restarting local member"
            );
            Vec::new()
        }
    };
    Ok(Booted { dropped, ..assemble(rt, config, (id, cluster_id), store, log, lock)? })
}

/// The log, and what was read from it (or just written to it).
struct Log {
    wal: Wal,
    base: Position,
    entries: Vec<raftpb::Entry>,
    hard_state: raftpb::HardState,
}

fn assemble(
    rt: &Rt,
    config: &MemberConfig,
    (id, cluster_id): (MemberId, ClusterId),
    store: Store,
    log: Log,
    lock: Box<dyn FileLock>,
) -> Result<Booted, StartError> {
    let mut conf_state = raftpb::ConfState::clone(&store.conf_state());
    if config.force_new_cluster && bug!("forced-in-memory-only") {
        conf_state = raftpb::ConfState { voters: vec![id.0], ..Default::default() };
    }
    let mut node = Node::new(
        NodeConfig {
            id,
            election_ticks: config.election_ticks(),
            pre_vote: config.pre_vote,
            applied: store.applied().0,
            base: log.base,
            entries: log.entries,
            hard_state: log.hard_state,
            conf_state,
        },
        random::generator(&**rt),
    )?;
    let (index, term) = store.applied();
    if index > LogIndex(0) && !bug!("no-snapshot-to-give-after-a-start") {
        // A cluster of which the only other voter needs a snapshot commits nothing before that has it.
        node.offer_snapshot(Position { index: index.0, term: term.0 }, &store.conf_state());
    }
    Ok(Booted {
        id,
        cluster_id,
        node,
        store,
        wal: Box::new(log.wal),
        marked: LogIndex(log.base.index),
        others: Vec::new(),
        dropped: Vec::new(),
        lock,
    })
}

pub fn store_options(config: &MemberConfig) -> StoreOptions {
    StoreOptions {
        quota_bytes: config.quota_bytes,
        flush_interval: config.flush_interval,
        pending_bytes_max: config.pending_bytes_max,
        cache_bytes: config.cache_bytes,
        compaction_batch_rows: config.compaction_batch_rows,
        compaction_interval: config.compaction_interval,
        defragment_slice_bytes: config.defragment_slice_bytes,
        max_learners: config.max_learners,
        lease_ttl_min_secs: config.lease_ttl_min_secs(),
        unsafe_no_fsync: config.unsafe_no_fsync,
    }
}

fn wal_options(config: &MemberConfig) -> WalOptions {
    WalOptions { segment_bytes: config.wal_segment_bytes, unsafe_no_fsync: config.unsafe_no_fsync }
}

fn mismatch(path: &Path, what: &str) -> StartError {
    StartError::Mismatch {
        path: path.to_path_buf(),
        what: format!("{what}. Restore this member from a backup, or replace it by a new one with an empty directory"),
    }
}
