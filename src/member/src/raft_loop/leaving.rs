//! How a member leaves: its removal is committed, and nobody may miss it when it has gone.
//!
//! Who leads first hands its lead to another. A removal that is committed is applied once somebody who stays can do without us
//! ([`Node::may_leave`]), or when that takes too long. Who has not heard of its removal hears of it from its peers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_proto::raftpb;
use quorate_proto::raftpb::ConfChangeType;
use quorate_raft::node::Node;
use quorate_runtime::bug;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::sync::oneshot;
use quorate_types::MemberId;

use super::Running;
use crate::held::HeldChange;
use crate::shared::StopReason;

/// Time between two lines about a peer that takes us for removed: it says so ten times a second.
const REMOVAL_DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// Our own removal is committed: it is applied when those who stay can do without us, or when that takes too long.
pub struct Leaving {
    change: raftpb::ConfChange,
    reply: oneshot::Sender<raftpb::ConfState>,
    deadline: MonoTime,
}

impl Running {
    /// A peer answers us as one who was removed. While our cluster has a leader, for us, it is the peer that went another way:
    /// it was made a cluster of its own (`--force-new-cluster`) although others were alive. It asks for nothing but to be
    /// left alone, and must not stop a healthy majority.
    pub(super) fn on_removed(&mut self, by: MemberId) {
        if !self.node.hears_a_leader() || bug!("removal-believed") {
            if !self.stopping.is_asked() {
                tracing::info!(%by, "a peer says that this member was removed");
                self.stopping.ask_removed();
            }
            return;
        }
        let now = self.rt.mono_now();
        // Who was really removed hears of it before its leader falls silent.
        let doubted_at = *self.removal_doubted_at.get_or_insert(now + REMOVAL_DOUBT_INTERVAL);
        if now >= doubted_at {
            self.removal_doubted_at = Some(now + REMOVAL_DOUBT_INTERVAL);
            tracing::error!(
                peer = %by,
                leader = ?self.status.leader,
                "a peer says that this member was removed, yet this member's cluster goes on with it: the peer has left, to \
                 be a cluster of its own (--force-new-cluster). Remove the peer from this cluster"
            );
        }
    }

    /// A change of members is committed, and the apply loop has come to it.
    pub(super) fn on_conf_change(&mut self, change: raftpb::ConfChange, reply: oneshot::Sender<raftpb::ConfState>) {
        if removes(&change, self.id) && !self.node.may_leave() {
            let deadline = self.rt.mono_now() + self.limits.request_timeout;
            self.leaving = Some(Leaving { change, reply, deadline });
        } else {
            self.apply_conf_change(&change, reply);
        }
    }

    fn apply_conf_change(&mut self, change: &raftpb::ConfChange, reply: oneshot::Sender<raftpb::ConfState>) {
        match self.node.apply_conf_change(change) {
            Ok(conf_state) => {
                self.configured_at = self.node.status().committed;
                // The apply loop waits for exactly this answer.
                let _ = reply.send(conf_state);
                if removes(change, self.id) {
                    self.published.removed.store(true, Ordering::Release);
                }
                self.refresh_status();
            }
            Err(error) => {
                tracing::error!(error = %error, "raft refuses a committed membership change; this member stops");
                self.stopping.ask(StopReason::Failed(error.to_string()));
            }
        }
    }

    pub(super) fn leave_if_possible(&mut self) {
        let now = self.rt.mono_now();
        let node = &mut self.node;
        let ready = self.leaving.take_if(|leaving| node.may_leave() || leaving.deadline <= now);
        if let Some(Leaving { change, reply, .. }) = ready {
            self.apply_conf_change(&change, reply);
        }
    }
}

fn removes(change: &raftpb::ConfChange, id: MemberId) -> bool {
    change.r#type() == ConfChangeType::ConfChangeRemoveNode && change.node_id() == id.0
}

/// True if leadership is being handed over now because the change removes us, who lead. If nobody takes it, it is tried again
/// until the change's time is over: who removes itself cannot stay until the others know for certain that it was removed.
pub(super) fn hand_over_first(node: &mut Node, own: MemberId, held: &HeldChange) -> bool {
    if !held.removes(own) {
        return false;
    }
    let Some(successor) = node.successor() else { return false };
    tracing::info!(local_member_id = %own, transferee_member_id = %successor, "leadership is handed over before this member is removed");
    node.transfer_leader(successor);
    true
}
