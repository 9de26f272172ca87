//! What a write says whose time has run out. Its entry may be in the log, and be applied later.
//!
//! etcd guesses at the cause from what it knows of the leader and of its connections, and says so; operators look for these texts.
//! A write that nobody led to, so that it was never proposed, has an error of its own
//! ([`Error::ContextDeadlineExceeded`]).
//!
//! Source: etcd `server/etcdserver/server.go` (`parseProposeCtxErr`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_runtime::clock::MonoTime;
use quorate_types::{Error, MemberId};

use crate::Member;

impl Member {
    /// The error of a write that began at `begun_at`.
    pub(crate) fn why_timed_out(&self, begun_at: MonoTime) -> Error {
        let inner = &*self.inner;
        let known = Known {
            own: inner.id,
            leader: inner.published.status().leader,
            elected_at: MonoTime::from_nanos(inner.published.leader_elected_at_ns.load(Ordering::Acquire)),
            election: Duration::from_millis(inner.config.election_ms),
            members: self.view().members().iter().map(|member| member.id).collect(),
            active_since: &|id| inner.transport.active_since(id),
        };
        known.cause(begun_at)
    }
}

struct Known<'a> {
    own: MemberId,
    leader: Option<MemberId>,
    /// When the last leader was elected, as far as this member has heard.
    elected_at: MonoTime,
    election: Duration,
    members: Vec<MemberId>,
    /// Since when everything sent to a member has arrived.
    active_since: &'a dyn Fn(MemberId) -> Option<MonoTime>,
}

impl Known<'_> {
    fn cause(&self, begun_at: MonoTime) -> Error {
        if begun_at < self.elected_at && self.elected_at < begun_at + 2 * self.election {
            return Error::TimeoutDueToLeaderFail;
        }
        let is_connected = |id: MemberId| (self.active_since)(id).is_some_and(|since| since < begun_at);
        let is_cut_off = match self.leader {
            None => false,
            Some(leader) if leader != self.own => !is_connected(leader),
            Some(_) => {
                let connected = self.members.iter().filter(|id| **id == self.own || is_connected(**id));
                connected.count() <= self.members.len() / 2
            }
        };
        if is_cut_off { Error::TimeoutDueToConnectionLost } else { Error::Timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> MonoTime {
        MonoTime::from_nanos(seconds * 1_000_000_000)
    }

    /// Of three members; the third has been reached since second 50.
    fn known(leader: u64) -> Known<'static> {
        Known {
            own: MemberId(1),
            leader: (leader != 0).then_some(MemberId(leader)),
            elected_at: at(10),
            election: Duration::from_secs(1),
            members: [1, 2, 3].map(MemberId).to_vec(),
            active_since: &|id| (id == MemberId(3)).then_some(at(50)),
        }
    }

    #[test]
    fn who_waited_while_a_leader_was_elected_is_told_so() {
        for (begun_at, expected) in
            [(8, Error::Timeout), (9, Error::TimeoutDueToLeaderFail), (10, Error::Timeout), (60, Error::Timeout)]
        {
            assert_eq!(known(0).cause(at(begun_at)), expected, "{begun_at}");
        }
    }

    #[test]
    fn who_is_not_connected_with_who_decides_is_told_so() {
        for (leader, begun_at, expected) in [
            (2, 60, Error::TimeoutDueToConnectionLost),
            (3, 60, Error::Timeout),
            (3, 50, Error::TimeoutDueToConnectionLost),
            // Ourselves, with one of two others.
            (1, 60, Error::Timeout),
            (1, 40, Error::TimeoutDueToConnectionLost),
            (0, 40, Error::Timeout),
        ] {
            assert_eq!(known(leader).cause(at(begun_at)), expected, "{leader} {begun_at}");
        }
    }
}
