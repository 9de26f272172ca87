//! `--force-new-cluster`: going on alone with the data of one member, when the others are lost for ever.
//!
//! Everything that is known to be committed is kept, and what stands behind it in the log, which the others may never have
//! seen, is dropped. Then the log itself says that this member is alone: entries that remove every other member, voter and
//! learner, are appended and counted as committed on this member's own authority. So the next start without the flag finds a
//! cluster of one, to which members can be added.
//!
//! Known to be committed is what the hard state says or what the database holds, whichever is more: a commit index by itself is
//! not synced. And where this member is the only voter, everything in its log is: nobody else had to be asked. So the flag does
//! no harm if it stays where it was.
//!
//! A learner is promoted first. A member that the log does not know (a copy of a log under other ids, as etcd's old backup
//! makes it) is added, with the peer URL `http://localhost:2380`. Other peer URLs stay as they were, whatever the flags say:
//! `etcdctl member update` changes them. A member that was removed cannot be alone either: ids do not come back.
//!
//! The entries are of a term of their own, so that no log of the old cluster can hold others in their places. A file marks
//! the directory while they are written: should a crash leave some of them, a start without the flag would carry them to
//! members that are not lost after all.
//!
//! Source: etcd `server/etcdserver/bootstrap.go`, `server/storage/util.go` (`CreateConfigChangeEnts`), and etcd's issue 20009.

use std::path::PathBuf;

use prost::Message as _;
use quorate_proto::raftpb;
use quorate_raft::wal::Batch;
use quorate_runtime::disk::OpenMode;
use quorate_runtime::{Rt, bug};
use quorate_store::{Member, Membership, Store};
use quorate_types::{ClusterId, MemberId};

use super::{Log, StartError, mismatch};
use crate::config::MemberConfig;
use crate::data_dir::DataDirError;

/// What a member gets that nobody knows the peer URL of (etcd `server/storage/util.go`).
const UNKNOWN_PEER_URL: &str = "http://localhost:2380";

fn marker(config: &MemberConfig) -> PathBuf {
    config.member_dir().join("forcing-new-cluster")
}

/// Refuses a directory in which a start with the flag did not come to its end.
pub fn check_finished(rt: &Rt, config: &MemberConfig) -> Result<(), StartError> {
    let path = marker(config);
    // A process that was killed may have removed the marker and not made that durable; it must not come back.
    let is_there = rt.exists(&path).and_then(|is_there| rt.sync_dir(&config.member_dir()).map(|()| is_there));
    match is_there {
        Ok(false) => Ok(()),
        Ok(true) => Err(StartError::Mismatch {
            path,
            what: "a start with --force-new-cluster was interrupted: start this member once more with that flag"
                .to_owned(),
        }),
        Err(source) => Err(StartError::DataDir(DataDirError::Io { path, source })),
    }
}

/// Makes `own` the only member in `log`, whose commit index covers what the database holds; on disk it was
/// `wal_commit_index`. Returns who is out now.
pub fn force(
    rt: &Rt,
    config: &MemberConfig,
    (own, cluster_id): (MemberId, ClusterId),
    store: &Store,
    wal_commit_index: u64,
    log: &mut Log,
) -> Result<Vec<MemberId>, StartError> {
    let known_commit =
        if bug!("forced-by-the-commit-index-alone") { wal_commit_index } else { log.hard_state.commit() };
    let mut membership = store.membership();
    let mut commit = store.durable_index().0.min(known_commit);
    for entry in log.entries.iter().skip_while(|entry| entry.index() <= store.durable_index().0) {
        if entry.index() > known_commit && !is_only_voter(&membership, own) {
            break;
        }
        if let Some(change) = conf_change(entry) {
            // One that is refused is refused when it is applied, too.
            let _ = membership.apply(&change, config.max_learners);
        }
        commit = entry.index();
    }
    if membership.is_removed(own) {
        return Err(mismatch(
            &config.data_dir,
            "this member was removed from its cluster, and ids do not come back: it cannot become a cluster of its own",
        ));
    }
    let kept = log.entries.partition_point(|entry| entry.index() <= commit);
    if let Some(first) = log.entries.get(kept) {
        tracing::info!(
            entry_index = first.index(),
            commit_index_from_wal = known_commit,
            number_of_discarded_entries = log.entries.len() - kept,
            "discarding uncommitted WAL entries"
        );
        log.entries.truncate(kept);
    }
    let changes = changes(&membership, own);
    let dropped = membership.members().iter().map(|member| member.id).filter(|id| *id != own).collect();
    log.hard_state.commit = Some(commit);
    if !changes.is_empty() && !bug!("forced-in-memory-only") {
        append(rt, config, own, log, &changes)?;
    }
    remove_marker(rt, config)?;
    tracing::info!(
        cluster_id = %cluster_id,
        local_member_id = %own,
        wal_commit_index,
        commit_index = log.hard_state.commit(),
        "forcing restart member"
    );
    Ok(dropped)
}

fn is_only_voter(membership: &Membership, own: MemberId) -> bool {
    let mut voters = membership.members().iter().filter(|member| !member.is_learner);
    voters.next().is_some_and(|voter| voter.id == own) && voters.next().is_none()
}

fn conf_change(entry: &raftpb::Entry) -> Option<raftpb::ConfChange> {
    let is_change = entry.r#type() == raftpb::EntryType::EntryConfChange;
    // It was decoded when it entered the log.
    is_change.then(|| raftpb::ConfChange::decode(entry.data()).expect("a configuration change in the log"))
}

/// First `own` becomes a voter if it is none, for there must always be one; then all others go, by ascending id.
fn changes(membership: &Membership, own: MemberId) -> Vec<raftpb::ConfChange> {
    let change = |kind, id: MemberId, context: Option<String>| raftpb::ConfChange {
        id: None,
        r#type: Some(kind as i32),
        node_id: Some(id.0),
        context: context.map(bytes::Bytes::from),
    };
    let add = raftpb::ConfChangeType::ConfChangeAddNode;
    let own_context = match membership.members().iter().find(|member| member.id == own) {
        None => {
            let member = Member {
                id: own,
                peer_urls: vec![UNKNOWN_PEER_URL.to_owned()],
                is_learner: false,
                name: String::new(),
                client_urls: Vec::new(),
            };
            Some(serde_json::to_string(&member).expect("plain text and numbers"))
        }
        Some(member) if member.is_learner => Some(format!(r#"{{"id":{},"peerURLs":null,"isPromote":true}}"#, own.0)),
        Some(_) => None,
    };
    let own_change = own_context.map(|context| change(add, own, Some(context)));
    let stays = |member: &Member| member.is_learner && bug!("forced-without-the-learners");
    let others = membership.members().iter().filter(|member| member.id != own && !stays(member));
    let removals = others.map(|member| change(raftpb::ConfChangeType::ConfChangeRemoveNode, member.id, None));
    own_change.into_iter().chain(removals).collect()
}

/// Writes `changes` behind the log's last entry, as committed entries.
fn append(
    rt: &Rt,
    config: &MemberConfig,
    own: MemberId,
    log: &mut Log,
    changes: &[raftpb::ConfChange],
) -> Result<(), StartError> {
    let commit = log.hard_state.commit();
    let term = log.hard_state.term() + 1;
    let entries: Vec<raftpb::Entry> = changes
        .iter()
        .zip(commit + 1..)
        .map(|(change, index)| raftpb::Entry {
            r#type: Some(raftpb::EntryType::EntryConfChange as i32),
            term: Some(term),
            index: Some(index),
            data: Some(change.encode_to_vec().into()),
        })
        .collect();
    let hard_state =
        raftpb::HardState { term: Some(term), vote: Some(own.0), commit: Some(commit + changes.len() as u64) };
    set_marker(rt, config)?;
    log.wal.append(&Batch { hard_state: Some(hard_state), entries: entries.clone(), sync: true })?;
    log.entries.extend(entries);
    log.hard_state = hard_state;
    Ok(())
}

fn set_marker(rt: &Rt, config: &MemberConfig) -> Result<(), StartError> {
    let path = marker(config);
    let set = || -> std::io::Result<()> {
        rt.open(&path, OpenMode::OpenOrCreate)?.sync_all()?;
        rt.sync_dir(&config.member_dir())
    };
    set().map_err(|source| StartError::DataDir(DataDirError::Io { path: path.clone(), source }))
}

fn remove_marker(rt: &Rt, config: &MemberConfig) -> Result<(), StartError> {
    let path = marker(config);
    let remove = || -> std::io::Result<()> {
        if rt.exists(&path)? {
            rt.remove_file(&path)?;
            rt.sync_dir(&config.member_dir())?;
        }
        Ok(())
    };
    remove().map_err(|source| StartError::DataDir(DataDirError::Io { path: path.clone(), source }))
}
