//! A leader whose disk stands still lets go.
//!
//! Nothing new enters the log while a write of it is under way, so a leader whose disk hangs holds up the whole cluster, though the
//! others could go on without it. In etcd a hanging write stops the leader's heartbeats, too, and the others elect another one.
//! Here heartbeats go on, and elections would cost the cluster its time; so after an election timeout the leader hands over to a
//! voter that has the whole log on its disk already: that one writes, and ours does not. If there is none, all disks are slow
//! and nobody would do better.

use std::time::Duration;

use quorate_raft::node::Node;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::mark;
use quorate_types::MemberId;

/// Since when the log is being written.
#[derive(Default)]
pub struct LogStall {
    since: Option<MonoTime>,
}

impl LogStall {
    /// A write begins.
    pub fn begin(&mut self, now: MonoTime) {
        self.since = Some(now);
    }

    /// It has ended.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// Hands over, if this member `own` leads and its write takes longer than `limit`. To be called on each tick.
    pub fn hand_over_if_stalled(&self, node: &mut Node, own: MemberId, now: MonoTime, limit: Duration) {
        let Some(stalled) = self.since.map(|since| now - since).filter(|stalled| *stalled > limit) else { return };
        let Some(successor) = node.complete_successor() else { return };
        mark!("leader_with_a_hanging_disk_lets_go");
        tracing::warn!(
            local_member_id = %own,
            transferee_member_id = %successor,
            stalled_ms = stalled.as_millis(),
            "the disk of the log stands still: leadership is handed over"
        );
        node.transfer_leader(successor);
    }
}
