//! Finding out that members differ, which they never should: by bit rot below every checksum, by a bug, by a hand in the files.
//!
//! Members compare hashes over their rows (etcd `server/etcdserver/corrupt.go`; the hash is
//! [`View::hash_kv`](quorate_store::View::hash_kv)). Each answers for any revision at `/members/hashkv` on its peer port
//! (`ask`). There are three comparisons, all off unless asked for, and each is etcd's:
//!
//! - *At the start* ([`initial_check`]): a member that comes back asks all others for the hash at its own revision, before it
//!   takes part. If one differs, it refuses to start.
//! - *Periodic* ([`watch`]): the leader hashes its newest revision, asks all others for the same, waits until it has applied
//!   what was committed meanwhile, and hashes again.
//! - *At compactions* ([`watch`]): each member keeps the hashes that its compactions have left. The leader goes through its
//!   own, newest first, until it finds one at which all could be compared.
//!
//! What the answers mean is decided by `judge`, without any I/O. Whoever is found guilty gets a CORRUPT alarm through the log;
//! from then on no member takes writes, until an operator has replaced the member and disarmed the alarm.

mod ask;
mod judge;

use std::time::Duration;

use quorate_proto::etcdserverpb::AlarmType;
use quorate_runtime::{Rt, select};
use quorate_store::{HashKv, ReadError, View};
use quorate_types::{ClusterId, Error, MemberId, Revision};

use crate::Member;
use ask::{AskError, PeerHash};
use judge::Verdict;

/// Compares a member that comes back with all others, at the revision that it holds. The error says that they differ, and so
/// that it must not start.
pub async fn initial_check(
    rt: &Rt,
    (own, cluster): (MemberId, ClusterId),
    view: &View,
    own_hash: &HashKv,
    limit: Duration,
) -> Result<(), String> {
    tracing::info!(local_member_id = %own, timeout = ?limit, "starting initial corruption check");
    let asked = ask::peers_of(view, own);
    let peers = ask::ask_all(rt, cluster, &asked, own_hash.hash_revision, limit).await;
    let mut differ = 0;
    for peer in &peers {
        let told = |what: &'static str| {
            tracing::warn!(
                local_member_id = %own,
                local_member_revision = own_hash.hash_revision.0,
                local_member_compact_revision = own_hash.compact_revision.0,
                local_member_hash = own_hash.hash,
                remote_peer_id = %peer.id,
                remote_peer_endpoints = ?peer.urls,
                remote_peer = ?peer.answer,
                "{what}"
            );
        };
        match &peer.answer {
            Ok(answer) if answer.hash == own_hash.hash => {}
            Ok(answer) if answer.compact_revision == own_hash.compact_revision.0 => {
                told("found different hash values from remote peer");
                differ += 1;
            }
            Ok(_) => told("found different compact revision values from remote peer"),
            Err(AskError::FutureRevision) => told("cannot fetch hash from slow remote peer"),
            Err(AskError::Compacted) => told("cannot fetch hash from remote peer; local member is behind"),
            Err(AskError::ClusterIdMismatch) => told("cluster ID mismatch"),
            // Said already, where it happened.
            Err(AskError::Failed(_)) => {}
        }
    }
    if differ > 0 {
        return Err(format!("{own} found data inconsistency with peers"));
    }
    tracing::info!(local_member_id = %own, "initial corruption checking passed; no corruption");
    Ok(())
}

/// Runs the comparisons that the configuration asks for, whenever this member leads, until it stops.
pub async fn watch(member: Member) {
    let config = member.config();
    let both = async {
        quorate_runtime::join!(
            async {
                if let Some(interval) = config.corrupt_check_time {
                    compare_newest(&member, interval).await;
                }
            },
            async {
                if let Some(interval) = config.compact_hash_check_time {
                    compare_compactions(&member, interval).await;
                }
            },
        );
    };
    select! {
        biased;
        () = member.stopping() => {}
        () = both => {}
    }
}

async fn compare_newest(member: &Member, interval: Duration) {
    tracing::info!(local_member_id = %member.id(), interval = ?interval, "enabled corruption checking");
    loop {
        member.runtime().sleep(interval).await;
        if leads(member)
            && let Err(error) = check_newest(member).await
        {
            tracing::warn!(error = %error, "failed to check hash KV");
        }
    }
}

async fn compare_compactions(member: &Member, interval: Duration) {
    tracing::info!(local_member_id = %member.id(), interval = ?interval, "enabled compact hash checking");
    let mut checked = Revision(0);
    loop {
        member.runtime().sleep(interval).await;
        if leads(member) {
            checked = check_compactions(member, checked).await;
        }
    }
}

fn leads(member: &Member) -> bool {
    member.raft_status().leader == Some(member.id())
}

async fn ask_peers(member: &Member, revision: Revision) -> Vec<PeerHash> {
    let asked = ask::peers_of(&member.view(), member.id());
    let limit = member.config().request_timeout();
    ask::ask_all(member.runtime(), member.cluster_id(), &asked, revision, limit).await
}

/// One periodic comparison.
async fn check_newest(member: &Member) -> Result<(), Error> {
    let first = hash(member).await?;
    let peers = ask_peers(member, first.hash_revision).await;
    member.linearize().await?;
    let second = hash(member).await?;
    let verdict = judge::newest(member.id(), &first, &second, &peers);
    for finding in &verdict.findings {
        tracing::warn!(accused = %finding.accused, "{}", finding.what);
    }
    // One at a time: with the first, everything stops anyway.
    if let Some(finding) = verdict.findings.first() {
        raise(member, finding.accused);
    }
    tracing::info!(number_of_peers_checked = verdict.peers_compared, "finished peer corruption check");
    Ok(())
}

async fn hash(member: &Member) -> Result<HashKv, Error> {
    match member.hash_kv(Revision(0)).await {
        Ok(hash) => Ok(hash),
        Err(ReadError::Refused(error)) => Err(error),
        Err(ReadError::Closed(_)) => Err(Error::Stopped),
        Err(ReadError::Damaged(damage)) => {
            member.fail(format!("a hash found damage: {damage}"));
            Err(Error::Stopped)
        }
    }
}

/// Compares at the newest compaction where that is possible; returns up to where all members are known to agree.
async fn check_compactions(member: &Member, checked: Revision) -> Revision {
    let own = member.view().compaction_hashes().to_vec();
    tracing::info!(local_member_id = %member.id(), "starting compact hash check");
    let mut looked_at = 0;
    let mut agreed = checked;
    for own in own.iter().rev().take_while(|own| own.hash_revision > checked) {
        looked_at += 1;
        let peers = ask_peers(member, own.hash_revision).await;
        match judge::compaction(member.id(), own, &peers) {
            Verdict::Alone => {}
            Verdict::Agree => {
                tracing::info!(
                    number_of_peers_checked = peers.len(),
                    revision = own.hash_revision.0,
                    compact_revision = own.compact_revision.0,
                    "successfully checked hash on whole cluster"
                );
                agreed = own.hash_revision;
                break;
            }
            Verdict::Incomplete { skipped } => tracing::warn!(
                number_of_peers_skipped = skipped,
                number_of_peers = peers.len(),
                revision = own.hash_revision.0,
                "skipped revision in compaction hash check; was not able to check all peers"
            ),
            Verdict::Differ { accused, groups } => {
                tracing::error!(
                    revision = own.hash_revision.0,
                    compact_revision = own.compact_revision.0,
                    hashes = ?groups,
                    "Detected compaction hash mismatch"
                );
                for accused in accused {
                    raise(member, accused);
                }
                break;
            }
        }
    }
    tracing::info!(number_of_hashes_checked = looked_at, "finished compaction hash check");
    agreed
}

fn raise(member: &Member, accused: MemberId) {
    tracing::error!(accused = %accused, "raising a CORRUPT alarm: replace this member, then disarm the alarm");
    member.raise_alarm(AlarmType::Corrupt, accused);
}
