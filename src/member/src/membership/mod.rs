//! Changing who the members are.
//!
//! A change travels as a Raft entry of its own kind, one at a time. Follow one:
//!
//! 1. The member that is asked checks what the log cannot: that the change will not cost the cluster its quorum (`rules`), and
//!    that a learner who is to vote has caught up. Only the leader knows the latter, so another member passes a promotion on to
//!    it over the peer port (`promotion`).
//! 2. It proposes a `ConfChange` whose context is the member as etcd writes it (`context`), and waits for its id. On the way to
//!    the log it may be held: another change is under way, or the leader is to be removed and hands over first (`raft_loop`).
//! 3. When it is committed, each member asks its store whether it may be made, in the order of the log: only there is it known
//!    what the changes before it came to. A refused one never reaches Raft's configuration.
//! 4. The proposer answers with the refusal, or with the members as they are now. Every member connects to the new one, or
//!    ends its streams to the one that left (`follow`), which sees its own removal in the log, or hears of it from the
//!    others, and stops for good.
//!
//! Source: etcd `server/etcdserver/server.go`.

mod context;
pub mod follow;
pub mod promotion;
mod rules;

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::raftpb::{ConfChange, ConfChangeType};
use quorate_runtime::sync::oneshot;
use quorate_store::{Member as StoredMember, Response};
use quorate_types::{Error, LogIndex, MemberId};

use crate::shared::{Payload, RaftQuestion};
use crate::{Member, ids};
use context::Context;

/// A learner may vote once it has this part of the leader's log, in percent.
const READY_PERCENT: u64 = 90;

/// How long a promotion waits for what is committed to be applied (etcd `server/etcdserver/v3_server.go`, `applyTimeout`).
const APPLY_LIMIT: Duration = Duration::from_secs(1);

/// Pause between two looks at what is applied.
const APPLY_LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl Member {
    /// Adds a member that is reached at `peer_urls` (sorted; checked by the caller). Returns it, and all members.
    ///
    /// # Errors
    /// The change would endanger the quorum, or the membership refuses it; nothing has changed then. With `Timeout` and
    /// `Stopped` the outcome is unknown.
    pub async fn add_member(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(StoredMember, Vec<StoredMember>), Error> {
        let rt = self.runtime();
        let id = ids::added_member_id(&peer_urls, rt.wall_now());
        let member = StoredMember { id, peer_urls, is_learner, name: String::new(), client_urls: Vec::new() };
        if self.config().strict_reconfig_check {
            rules::may_add(&self.standing(), &member)?;
        }
        let change_type = match is_learner {
            true => ConfChangeType::ConfChangeAddLearnerNode,
            false => ConfChangeType::ConfChangeAddNode,
        };
        let members = self.configure(change_type, id, Some(Context::of(&member).encode())).await?;
        Ok((member, members))
    }

    /// Removes a member for good. Returns those who are left.
    ///
    /// # Errors
    /// As of [`Member::add_member`].
    pub async fn remove_member(&self, id: MemberId) -> Result<Vec<StoredMember>, Error> {
        rules::keeps_a_voter(self.view().members(), id)?;
        if self.config().strict_reconfig_check {
            rules::may_remove(&self.standing(), id)?;
        }
        self.configure(ConfChangeType::ConfChangeRemoveNode, id, None).await
    }

    /// From now on a member is reached at other peer URLs. Returns all members.
    ///
    /// # Errors
    /// The membership refuses it; or as of [`Member::add_member`].
    pub async fn update_member(&self, id: MemberId, peer_urls: Vec<String>) -> Result<Vec<StoredMember>, Error> {
        let context = Context::update(id, &peer_urls).encode();
        self.configure(ConfChangeType::ConfChangeUpdateNode, id, Some(context)).await
    }

    /// Makes a voter of a learner, if this member leads and the learner has caught up.
    async fn promote_here(&self, id: MemberId) -> Result<Vec<StoredMember>, Error> {
        self.check_learner_is_ready(id).await?;
        if self.config().strict_reconfig_check {
            rules::may_promote(self.view().members(), id)?;
        }
        let context = Context::promotion(id).encode();
        self.configure(ConfChangeType::ConfChangeAddNode, id, Some(context)).await
    }

    async fn check_learner_is_ready(&self, id: MemberId) -> Result<(), Error> {
        // So that a promotion sees what was committed before it: the learner's own adding, above all.
        self.wait_until_applied(self.raft_status().committed).await?;
        let (reply, answer) = oneshot::channel();
        self.ask_raft(RaftQuestion::Progress(reply))?;
        let progress = answer.await.map_err(|_gone| Error::Stopped)?;
        let matched = |id| progress.iter().find(|peer| peer.id == id).map(|peer| peer.matched.0);
        let leader = matched(self.id()).ok_or(Error::NotLeader)?;
        let learner = matched(id).ok_or(Error::MemberNotFound)?;
        if learner * 100 < leader * READY_PERCENT {
            tracing::warn!(
                local_member_id = %self.id(),
                learner_id = %id,
                learner_match = learner,
                leader_match = leader,
                ready_percent_threshold = READY_PERCENT,
                "rejecting promote learner: learner is not ready"
            );
            return Err(Error::LearnerNotReady);
        }
        Ok(())
    }

    async fn wait_until_applied(&self, index: LogIndex) -> Result<(), Error> {
        let rt = self.runtime();
        let deadline = rt.mono_now() + APPLY_LIMIT;
        while self.raft_status().applied < index {
            if self.is_stopping() {
                return Err(Error::Stopped);
            }
            if rt.mono_now() >= deadline {
                return Err(Error::TimeoutWaitAppliedIndex);
            }
            rt.sleep(APPLY_LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Who is a member, and who of them has been reached for long enough.
    fn standing(&self) -> rules::Standing {
        let now = self.runtime().mono_now();
        let members = self.view().members().to_vec();
        let reached = members
            .iter()
            .filter_map(|member| self.transport().active_since(member.id).map(|since| (member.id, now - since)))
            .collect();
        rules::Standing { own: self.id(), members, reached }
    }

    async fn configure(
        &self,
        change_type: ConfChangeType,
        id: MemberId,
        context: Option<Bytes>,
    ) -> Result<Vec<StoredMember>, Error> {
        let request_id = self.inner.request_ids.next();
        let change =
            ConfChange { id: Some(request_id), r#type: Some(change_type as i32), node_id: Some(id.0), context };
        let now = self.runtime().mono_now();
        match self.submit(request_id, None, now, Payload::ConfChange(Box::new(change))).await?.result? {
            Response::Members(members) => {
                tracing::info!(
                    local_member_id = %self.id(),
                    raft_conf_change = change_type.as_str_name(),
                    raft_conf_change_node_id = %id,
                    "applied a configuration change through raft"
                );
                Ok(members)
            }
            other => unreachable!("a change of members is answered with the members, not with {other:?}"),
        }
    }
}
