//! Handing leadership over: because an operator asks for it, or because this member stops.
//!
//! The leader brings the other's log up to its own, takes no proposals meanwhile (they are held, and go to the new leader, see
//! `held`), and tells it to begin an election at once, which nobody refuses. It takes a round trip or two. If it does not
//! come to pass within an election timeout, Raft gives up and goes on as before, and it is tried again.
//!
//! Source: etcd `server/etcdserver/server.go` (`MoveLeader`, `TryTransferLeadershipOnShutdown`), `util.go` (`longestConnected`).

use std::time::Duration;

use quorate_runtime::clock::MonoTime;
use quorate_types::{Error, MemberId};

use crate::Member;
use crate::shared::RaftQuestion;

/// Pause between two looks at who leads.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl Member {
    /// Hands leadership to `to`, and waits until it leads.
    ///
    /// # Errors
    /// `NotLeader`, if this member does not lead; `BadLeaderTransferee`, if `to` is no voter; `TimeoutLeaderTransfer`, if `to`
    /// did not take over in time.
    pub async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        if self.raft_status().leader != Some(self.id()) {
            return Err(Error::NotLeader);
        }
        if !self.view().members().iter().any(|member| member.id == to && !member.is_learner) {
            return Err(Error::BadLeaderTransferee);
        }
        self.hand_over(to, self.config().request_timeout()).await
    }

    /// To be called before a clean stop, while this member still serves: if it leads and there are other voters, the one that
    /// has been reached for longest takes over, or the next, if that one does not answer. Takes an election timeout at most.
    pub async fn transfer_leadership(&self) {
        let leader = self.raft_status().leader;
        let skip = |why: &'static str| {
            let leader = leader.unwrap_or_default();
            tracing::info!(local_member_id = %self.id(), current_leader_member_id = %leader, "{why}");
        };
        if leader != Some(self.id()) {
            return skip("skipped leadership transfer; local server is not leader");
        }
        let view = self.view();
        let voters = view.members().iter().filter(|member| !member.is_learner);
        if voters.clone().count() < 2 {
            return skip("skipped leadership transfer for single voting member cluster");
        }
        let mut candidates: Vec<(MonoTime, MemberId)> =
            voters.filter_map(|voter| Some((self.transport().active_since(voter.id)?, voter.id))).collect();
        candidates.sort_unstable();
        let limit = Duration::from_millis(self.config().election_ms);
        let mut failure = Error::Unhealthy;
        // A candidate that is there needs a small part of its share.
        let share = limit / u32::try_from(candidates.len().max(1)).unwrap_or(u32::MAX);
        for (_, candidate) in candidates {
            match self.hand_over(candidate, share).await {
                Ok(()) => return,
                Err(error) => failure = error,
            }
        }
        tracing::warn!(local_member_id = %self.id(), error = %failure, "leadership transfer failed");
    }

    async fn hand_over(&self, to: MemberId, limit: Duration) -> Result<(), Error> {
        let rt = self.runtime();
        let started = rt.mono_now();
        let (deadline, mut ask_at) = (started + limit, started);
        tracing::info!(
            local_member_id = %self.id(),
            current_leader_member_id = %self.id(),
            transferee_member_id = %to,
            "leadership transfer starting"
        );
        while self.raft_status().leader != Some(to) {
            let now = rt.mono_now();
            if now >= deadline {
                return Err(Error::TimeoutLeaderTransfer);
            }
            if now >= ask_at {
                self.ask_raft(RaftQuestion::TransferLeader(to))?;
                ask_at = now + Duration::from_millis(self.config().election_ms);
            }
            rt.sleep(LOOK_INTERVAL).await;
        }
        tracing::info!(
            local_member_id = %self.id(),
            old_leader_member_id = %self.id(),
            new_leader_member_id = %to,
            took_ms = (rt.mono_now() - started).as_millis() as u64,
            "leadership transfer finished"
        );
        Ok(())
    }
}
