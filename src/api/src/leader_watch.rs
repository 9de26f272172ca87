//! Ends the streams of clients that want a leader, once there has been none for three election timeouts.
//!
//! A stream that is open costs its client more to open elsewhere than a call that is refused, so a short time without a leader,
//! such as an election, is sat out. One look an election timeout, for all streams together.

use std::time::Duration;

use quorate_member::Member;
use quorate_runtime::sync::watch;
use quorate_runtime::{Rt, select};

/// Looks in a row that found no leader, after which streams end (etcd `server/etcdserver/api/v3rpc/interceptor.go`).
const LOOKS_WITHOUT_LEADER_MAX: u32 = 3;

/// The watch over the leader.
pub struct LeaderWatch {
    /// True while there has been none for too long.
    lost: watch::Receiver<bool>,
}

impl LeaderWatch {
    /// Begins to look, until `member` stops.
    pub fn start(rt: &Rt, member: &Member) -> Self {
        let (tell, lost) = watch::channel(false);
        let (clock, member) = (rt.clone(), member.clone());
        let interval = Duration::from_millis(member.config().election_ms);
        rt.spawn(Box::pin(async move {
            let mut looks = 0;
            loop {
                select! {
                    biased;
                    () = member.stopping() => return,
                    () = clock.sleep(interval) => {}
                }
                looks = if member.raft_status().leader.is_none() { looks + 1 } else { 0 };
                let is_lost = looks >= LOOKS_WITHOUT_LEADER_MAX;
                tell.send_if_modified(|told| std::mem::replace(told, is_lost) != is_lost);
            }
        }));
        Self { lost }
    }

    /// For a stream that has to end with the leader, if its client wants that.
    pub fn lost(&self, is_wanted: bool) -> LeaderLost {
        LeaderLost { lost: is_wanted.then(|| self.lost.clone()) }
    }
}

/// Tells one stream.
pub struct LeaderLost {
    lost: Option<watch::Receiver<bool>>,
}

impl LeaderLost {
    /// Completes if the stream has to end.
    pub async fn told(&mut self) {
        if let Some(lost) = &mut self.lost
            && lost.wait_for(|is_lost| *is_lost).await.is_ok()
        {
            return;
        }
        // Nobody looks any more: the member stops, and so do its streams.
        std::future::pending().await
    }
}
