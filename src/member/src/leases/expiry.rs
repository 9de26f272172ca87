//! What has ended is revoked: at most a thousand leases a second, each by an entry of its own, which deletes its keys as one
//! revision.
//!
//! Each batch begins with the question to a quorum whether this member still leads: what a deposed leader thinks has ended may
//! have been renewed at its successor long ago.
//!
//! Source: etcd `server/etcdserver/server.go` (`revokeExpiredLeases`), `server/lease/lessor.go` (`revokeExpiredLeases`).

use std::time::Duration;

use futures_util::future::join_all;
use quorate_proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseRevokeRequest};
use quorate_runtime::{bug, mark, select};
use quorate_types::{Error, LeaseId, Term};

use super::now;
use crate::Member;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Leases in one entry of checkpoints (etcd `server/lease/lessor.go`, `maxLeaseCheckpointBatchSize`).
const CHECKPOINTS_MAX: usize = 1000;

/// Leases that are revoked after one look.
const BATCH_MAX: usize = 500;

/// Runs until the member stops.
pub async fn revoke_ended(member: Member) {
    loop {
        select! {
            biased;
            () = member.stopping() => return,
            () = member.runtime().sleep(LOOK_INTERVAL) => {}
        }
        select! {
            biased;
            () = member.stopping() => return,
            () = look(&member) => {}
        }
    }
}

async fn look(member: &Member) {
    let inner = &*member.inner;
    let leads_in = inner.lessor.counts_in(&inner.published);
    let is_stale = bug!("lease-revoked-by-a-stale-leader");
    if leads_in.is_none() && !is_stale {
        return inner.lessor.end();
    }
    if inner.lessor.lock().has_ended(now(&inner.rt)) {
        let confirmed = member.linearize().await.is_ok() && inner.lessor.counts_in(&inner.published) == leads_in;
        if confirmed || is_stale {
            let only_in = leads_in.filter(|_| !is_stale);
            let ended = inner.lessor.lock().take_ended(now(&inner.rt), BATCH_MAX);
            join_all(ended.into_iter().map(|id| revoke(member, only_in, id))).await;
        }
    }
    if let Some(term) = leads_in {
        write_checkpoints(member, term).await;
    }
}

async fn revoke(member: &Member, only_in: Option<Term>, id: LeaseId) {
    let request =
        InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id: id.0 }), ..InternalRaftRequest::default() };
    match member.propose_in(only_in, request).await {
        Ok(_) => {
            mark!("lease_ended");
            member.metrics().leases_expired.inc();
        }
        // Somebody else has revoked it, or leads now.
        Err(Error::LeaseNotFound | Error::NotLeader | Error::Stopped) => {}
        Err(error) => tracing::warn!(lease_id = %id, error = %error, "failed to revoke lease"),
    }
}

/// Writes down what leases have left, as many as an entry takes.
async fn write_checkpoints(member: &Member, term: Term) {
    let inner = &*member.inner;
    let due = inner.lessor.lock().take_checkpoints(now(&inner.rt), CHECKPOINTS_MAX);
    if due.is_empty() {
        return;
    }
    mark!("checkpoints_written");
    let checkpoints =
        due.iter().map(|(id, left_secs)| LeaseCheckpoint { id: id.0, remaining_ttl: *left_secs }).collect();
    if let Err(error) = member.write_checkpoints(term, checkpoints).await {
        tracing::debug!(error = %error, "could not write down what leases have left; again later");
    }
    // It may have been written also if nobody said so.
    let ids = due.into_iter().map(|(id, _)| id);
    inner.lessor.checkpointed(ids, now(&inner.rt));
}
