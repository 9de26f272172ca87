//! Says what a member waits for that cannot serve yet.
//!
//! A cluster serves once a majority is there. The first of three members waits for a second, for as long as it takes, and a
//! joiner waits for the leader to send the log; an operator who looks into the log shall see for whom.

use std::time::Duration;

use quorate_runtime::select;

use crate::Member;

/// Before the first line: usually the others are there by then.
const FIRST_AFTER: Duration = Duration::from_secs(5);

/// Between two lines.
const THEN_EVERY: Duration = Duration::from_secs(30);

/// Runs until the member is ready, or stops.
pub async fn tell(member: Member) {
    let mut pause = FIRST_AFTER;
    loop {
        select! {
            biased;
            () = member.stopping() => return,
            () = member.ready() => return,
            () = member.runtime().sleep(pause) => {}
        }
        tell_once(&member);
        pause = THEN_EVERY;
    }
}

fn tell_once(member: &Member) {
    let view = member.view();
    let reached = member.transport().status();
    let voters = view.members().iter().filter(|voter| !voter.is_learner);
    let is_there = |id| id == member.id() || reached.get(&id).is_some_and(|peer| peer.active_since.is_some());
    let (there, missing): (Vec<_>, Vec<_>) = voters.partition(|voter| is_there(voter.id));
    let quorum = (there.len() + missing.len()) / 2 + 1;
    if view.members().iter().all(|known| known.id != member.id()) {
        tracing::warn!(
            local_member_id = %member.id(),
            "waiting for the cluster's leader to send the log: this member joins, and knows nothing yet"
        );
    } else if there.len() < quorum {
        let missing: Vec<String> = missing.iter().map(|voter| voter.peer_urls.join(",")).collect();
        tracing::warn!(
            local_member_id = %member.id(),
            connected_voters = there.len(),
            needed_voters = quorum,
            missing_peer_urls = ?missing,
            "waiting for other members: the cluster serves once a majority of its voters is connected"
        );
    } else {
        tracing::warn!(
            local_member_id = %member.id(),
            leader = ?member.raft_status().leader,
            "waiting for the cluster to elect a leader and to take this member's name"
        );
    }
}
