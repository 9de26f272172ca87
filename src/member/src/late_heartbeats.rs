//! A leader's heartbeats that come too late (etcd `server/etcdserver/raft.go` and `pkg/contention/contention.go`).
//!
//! A leader sends one on each tick. If its loop does not get to it in time, because the machine has no processor or no disk for
//! it, the others wait, and after an election timeout they elect another. This tells of it before that happens.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::IntCounter;
use quorate_proto::raftpb::{Message, MessageType};
use quorate_runtime::clock::{Clock, MonoTime};
use quorate_types::{GoDuration, MemberId};

/// When each peer was sent one last.
pub struct LateHeartbeats {
    /// Between two of them; twice as long is too late.
    interval: Duration,
    sent_at: BTreeMap<MemberId, MonoTime>,
}

impl LateHeartbeats {
    /// One is due every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, sent_at: BTreeMap::new() }
    }

    /// The leader is another one: what was sent before does not count.
    pub fn forget(&mut self) {
        self.sent_at.clear();
    }

    /// Looks for heartbeats among messages that go out now. Those that are late are counted, and told of in etcd's words.
    pub fn watch(&mut self, clock: &(dyn Clock + '_), messages: &[Message], failures: &IntCounter) {
        let mut heartbeats = messages.iter().filter(|message| message.r#type() == MessageType::MsgHeartbeat).peekable();
        if heartbeats.peek().is_none() {
            return;
        }
        let now = clock.mono_now();
        for to in heartbeats.map(|message| MemberId(message.to())) {
            if let Some(late_by) = self.observe(to, now) {
                failures.inc();
                tracing::warn!(
                    %to,
                    heartbeat_interval = %GoDuration::from(self.interval),
                    expected_duration = %GoDuration::from(2 * self.interval),
                    exceeded_duration = %GoDuration::from(late_by),
                    "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
                );
            }
        }
    }

    /// One goes to a peer now. By how much it is too late, if it is.
    fn observe(&mut self, to: MemberId, now: MonoTime) -> Option<Duration> {
        let before = self.sent_at.insert(to, now)?;
        (now - before).checked_sub(2 * self.interval).filter(|late_by| !late_by.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_what_comes_after_more_than_two_intervals() {
        let at = |ms: u64| MonoTime::from_nanos(ms * 1_000_000);
        let (one, two) = (MemberId(1), MemberId(2));
        let mut heartbeats = LateHeartbeats::new(Duration::from_millis(100));
        assert_eq!(heartbeats.observe(one, at(5000)), None, "the first is never late");
        assert_eq!(heartbeats.observe(one, at(5200)), None);
        assert_eq!(heartbeats.observe(two, at(5300)), None, "each peer by itself");
        assert_eq!(heartbeats.observe(one, at(5450)), Some(Duration::from_millis(50)));
        assert_eq!(heartbeats.observe(one, at(5500)), None);
        heartbeats.forget();
        assert_eq!(heartbeats.observe(one, at(9000)), None);
    }
}
