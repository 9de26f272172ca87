//! From a directory to a node that can run: founding a cluster, or going on after a stop or crash.
//!
//! *Founding.* The database is made first, then the log, then the log's first batch: the founding entries, exactly as etcd
//! writes them (one ConfChange AddNode per member at index 1..N, term 1, ascending id, context the member's JSON; HardState
//! term 1, commit N). A crash in between leaves a directory that the next start founds again: a database without a log is
//! remade, and a log without entries gets them.
//!
//! *Going on.* The database knows what it holds durably. The log is read from its newest mark at or below that, and must
//! reach at least as far: what the database applied had been durable in the log. Raft starts with everything that the
//! database holds taken as applied (and so as committed), and replays the rest.

use std::path::Path;

use prost::Message as _;
use quorate_proto::{raftpb, walpb};
use quorate_raft::log::Position;
use quorate_raft::node::{Node, NodeConfig, NodeError};
use quorate_raft::wal::{self, Batch, Recovered, SnapshotMark, Wal, WalError, WalOptions};
use quorate_runtime::disk::FileLock;
use quorate_runtime::{Rt, random};
use quorate_store::{Store, StoreError, StoreOptions};
use quorate_types::{ClusterId, LogIndex, MemberId};
use serde::Serialize;

use crate::config::MemberConfig;
use crate::data_dir::{self, DataDirError, Found};
use crate::{ids, incoming};

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
    /// `--name` is not among the founding members.
    #[error("couldn't find local name \"{name}\" in the initial cluster configuration")]
    NameNotFound {
        /// The name given.
        name: String,
    },
    /// `--initial-cluster` and `--initial-advertise-peer-urls` disagree.
    #[error(
        "--initial-cluster has {name}={expected} but missing from --initial-advertise-peer-urls={given} (resolved urls: \
         \"{given}\" != \"{expected}\")"
    )]
    PeerUrlsDiffer {
        /// The name given.
        name: String,
        /// Its URLs in `--initial-cluster`.
        expected: String,
        /// The URLs given.
        given: String,
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
        path: std::path::PathBuf,
        /// What does not fit, and what to do.
        what: String,
    },
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
    pub lock: Box<dyn FileLock>,
}

/// The JSON that etcd puts into a founding ConfChange (etcd `server/etcdserver/api/membership/member.go`).
#[derive(Serialize)]
struct FoundingMember<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    name: &'a str,
}

/// Who the founding members are.
struct Founders<'a> {
    /// Ascending by id.
    members: Vec<(MemberId, &'a str, &'a [String])>,
    own: MemberId,
}

/// Opens or founds. Blocking: called once, before anything is served.
pub fn boot(rt: &Rt, config: &MemberConfig) -> Result<Booted, StartError> {
    if !data_dir::has_member(rt, config)? {
        // Flags that do not fit are refused before anything is created.
        founders(config)?;
    }
    let (found, lock) = data_dir::claim(rt, config)?;
    match found {
        Found::Nothing => found_cluster(rt, config, lock),
        Found::Member => go_on(rt, config, lock),
    }
}

fn found_cluster(rt: &Rt, config: &MemberConfig, lock: Box<dyn FileLock>) -> Result<Booted, StartError> {
    let founders = founders(config)?;
    let cluster_id = ids::cluster_id(&founders.members.iter().map(|member| member.0).collect::<Vec<_>>());
    let store = new_database(rt, config)?;
    let metadata = walpb::Metadata { node_id: Some(founders.own.0), cluster_id: Some(cluster_id.0) };
    let mut wal = Wal::create(rt.clone(), &config.wal_path(), metadata, wal_options(config))?;
    let (entries, hard_state) = founding_batch(&founders);
    wal.append(&Batch { hard_state: Some(hard_state), entries: entries.clone(), sync: true })?;
    tracing::info!(
        local_member_id = %founders.own,
        cluster_id = %cluster_id,
        name = config.name,
        advertise_peer_urls = ?config.advertise_peer_urls,
        "starting local member"
    );
    let log = Log { wal, base: Position::default(), entries, hard_state };
    assemble(rt, config, (founders.own, cluster_id), store, log, lock)
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
    let (mut wal, recovered) = Wal::open(rt.clone(), &wal_path, base, durable, wal_options(config))?;
    let Recovered { metadata, mut hard_state, mut entries, torn, .. } = recovered;
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
    if entries.is_empty() && base.index == LogIndex(0) {
        if durable != LogIndex(0) {
            return Err(mismatch(&wal_path, "the log is empty, yet the database holds applied entries"));
        }
        let founders = founders(config)?;
        if founders.own != id {
            return Err(mismatch(
                &wal_path,
                "the log was made for another member, and holds no entry yet: check --initial-cluster, or remove it",
            ));
        }
        (entries, hard_state) = founding_batch(&founders);
        wal.append(&Batch { hard_state: Some(hard_state), entries: entries.clone(), sync: true })?;
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
    // What the database holds was committed, even if the commit index did not reach the disk.
    hard_state.commit = Some(hard_state.commit.unwrap_or(0).max(durable.0));
    tracing::info!(
        local_member_id = %id,
        cluster_id = %cluster_id,
        commit_index = hard_state.commit.unwrap_or(0),
        applied_index = durable.0,
        "restarting local member"
    );
    let log = Log { wal, base: Position { index: base.index.0, term: base.term.0 }, entries, hard_state };
    assemble(rt, config, (id, cluster_id), store, log, lock)
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
    let node = Node::new(
        NodeConfig {
            id,
            election_ticks: config.election_ticks(),
            pre_vote: config.pre_vote,
            applied: store.applied().0,
            base: log.base,
            entries: log.entries,
            hard_state: log.hard_state,
            conf_state: store.conf_state().clone(),
        },
        random::generator(&**rt),
    )?;
    Ok(Booted { id, cluster_id, node, store, wal: Box::new(log.wal), marked: LogIndex(log.base.index), lock })
}

fn founders(config: &MemberConfig) -> Result<Founders<'_>, StartError> {
    let Some((_, own_urls)) = config.initial_cluster.iter().find(|(name, _)| *name == config.name) else {
        return Err(StartError::NameNotFound { name: config.name.clone() });
    };
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    if sorted(own_urls) != sorted(&config.advertise_peer_urls) {
        return Err(StartError::PeerUrlsDiffer {
            name: config.name.clone(),
            expected: own_urls.join(","),
            given: config.advertise_peer_urls.join(","),
        });
    }
    let token = &config.initial_cluster_token;
    let mut members: Vec<_> = config
        .initial_cluster
        .iter()
        .map(|(name, urls)| (ids::founding_member_id(urls, token), name.as_str(), urls.as_slice()))
        .collect();
    members.sort_unstable_by_key(|member| member.0);
    Ok(Founders { own: ids::founding_member_id(own_urls, token), members })
}

fn founding_batch(founders: &Founders<'_>) -> (Vec<raftpb::Entry>, raftpb::HardState) {
    let entries: Vec<raftpb::Entry> = founders
        .members
        .iter()
        .zip(1..)
        .map(|((id, name, peer_urls), index)| {
            let context = FoundingMember { id: id.0, peer_urls, name };
            let change = raftpb::ConfChange {
                id: None,
                r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
                node_id: Some(id.0),
                context: Some(serde_json::to_vec(&context).expect("plain text and numbers").into()),
            };
            raftpb::Entry {
                r#type: Some(raftpb::EntryType::EntryConfChange as i32),
                term: Some(1),
                index: Some(index),
                data: Some(change.encode_to_vec().into()),
            }
        })
        .collect();
    let hard_state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(entries.len() as u64) };
    (entries, hard_state)
}

pub fn store_options(config: &MemberConfig) -> StoreOptions {
    StoreOptions {
        quota_bytes: config.quota_bytes,
        flush_interval: config.flush_interval,
        pending_bytes_max: config.pending_bytes_max,
        cache_bytes: config.cache_bytes,
        compaction_batch_rows: config.compaction_batch_rows,
        compaction_interval: config.compaction_interval,
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
