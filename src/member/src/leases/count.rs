//! When each lease ends, as the leader counts it. Plain data: it is told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_runtime::bug;
use quorate_runtime::clock::MonoTime;
use quorate_store::Grant;
use quorate_types::{LeaseId, Term};

/// A lease that has ended, and whose revocation was asked for, is looked at again after so long if it is still there (etcd
/// `server/lease/lessor.go`, `expiredLeaseRetryInterval`).
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// What became of a wish to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lives its whole time again, from now: so many seconds.
    Renewed(i64),
    /// It has ended: its revocation is on its way, and nothing can bring it back.
    Ended,
    /// There is no such lease.
    Unknown,
    /// A checkpoint is on its way, which must be in the log before anything can be said: try again when there is news.
    Checkpointing,
    /// A checkpoint is in the log. It must be taken back there first, or a successor would give the lease too little.
    Checkpointed,
}

/// The count of one term.
#[derive(Debug, Default)]
pub struct LeaseCount {
    /// In which this member leads; `None` if nobody counts here.
    term: Option<Term>,
    leases: BTreeMap<LeaseId, Counted>,
    /// Every lease, by when it is to be looked at.
    queue: BTreeSet<(MonoTime, LeaseId)>,
    /// Time between two checkpoints of a lease, if they are made.
    checkpoint_interval: Option<Duration>,
    /// Every lease that has a checkpoint to come, by when.
    checkpoints: BTreeSet<(MonoTime, LeaseId)>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    ttl_secs: i64,
    ends_at: MonoTime,
    look_at: MonoTime,
    checkpoint_at: Option<MonoTime>,
    checkpoint: Checkpoint,
}

/// What the log has, or may have, of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpoint {
    /// Its whole time.
    None,
    /// What was left of it is about to be written.
    OnItsWay,
    /// What was left of it.
    Written,
}

impl LeaseCount {
    /// Of nothing yet; a checkpoint of each lease will be due every `checkpoint_interval`, if there is one.
    pub fn new(checkpoint_interval: Option<Duration>) -> Self {
        Self { checkpoint_interval, ..Self::default() }
    }

    /// The term in which it counts.
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// Begins anew, in `term`: each lease lives the time that was left at its last checkpoint, or its whole time, and
    /// `extension` beside, in which its holder finds the new leader.
    pub fn begin(&mut self, term: Term, leases: Vec<(LeaseId, Grant)>, now: MonoTime, extension: Duration) {
        self.end();
        self.term = Some(term);
        for (id, grant) in leases {
            let mut left = if grant.remaining_ttl_secs > 0 { grant.remaining_ttl_secs } else { grant.ttl_secs };
            if bug!("new-leader-counts-what-may-be-left") {
                left /= 2;
            }
            let checkpoint = if grant.remaining_ttl_secs > 0 { Checkpoint::Written } else { Checkpoint::None };
            self.insert(id, grant.ttl_secs, now + extension + secs(left), checkpoint, now);
        }
    }

    /// Forgets everything.
    pub fn end(&mut self) {
        *self = Self::new(self.checkpoint_interval);
    }

    /// A lease was granted.
    pub fn granted(&mut self, id: LeaseId, ttl_secs: i64, now: MonoTime) {
        if self.term.is_some() && !self.leases.contains_key(&id) {
            self.insert(id, ttl_secs, now + secs(ttl_secs), Checkpoint::None, now);
        }
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(counted) = self.leases.remove(&id) {
            self.queue.remove(&(counted.look_at, id));
            if let Some(at) = counted.checkpoint_at {
                self.checkpoints.remove(&(at, id));
            }
        }
    }

    /// Its holder is alive.
    pub fn renew(&mut self, id: LeaseId, now: MonoTime) -> Renewal {
        let Some(Counted { ttl_secs, ends_at, checkpoint, .. }) = self.leases.get(&id).copied() else {
            return Renewal::Unknown;
        };
        if ends_at <= now && !bug!("dead-lease-renewed") {
            return Renewal::Ended;
        }
        match checkpoint {
            Checkpoint::OnItsWay => return Renewal::Checkpointing,
            Checkpoint::Written if !bug!("checkpoint-outlives-a-renewal") => return Renewal::Checkpointed,
            Checkpoint::Written | Checkpoint::None => {}
        }
        self.revoked(id);
        self.insert(id, ttl_secs, now + secs(ttl_secs), Checkpoint::None, now);
        Renewal::Renewed(ttl_secs)
    }

    /// Up to `max` leases of which a checkpoint is due, with the whole seconds that they have left, rounded up.
    pub fn take_checkpoints(&mut self, now: MonoTime, max: usize) -> Vec<(LeaseId, i64)> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some((at, id)) = self.checkpoints.first().copied()
            && at <= now
        {
            self.checkpoints.remove(&(at, id));
            let counted = self.leases.get_mut(&id).expect("only leases that there are have checkpoints to come");
            counted.checkpoint_at = None;
            if counted.ends_at > now {
                counted.checkpoint = Checkpoint::OnItsWay;
                due.push((
                    id,
                    i64::try_from((counted.ends_at - now).as_nanos().div_ceil(1_000_000_000)).unwrap_or(i64::MAX),
                ));
            }
        }
        due
    }

    /// A checkpoint was written, or may have been.
    pub fn checkpointed(&mut self, id: LeaseId, now: MonoTime) {
        self.set_checkpoint(id, Checkpoint::Written, now);
    }

    /// The log has the lease's whole time again.
    pub fn checkpoint_taken_back(&mut self, id: LeaseId, now: MonoTime) {
        self.set_checkpoint(id, Checkpoint::None, now);
    }

    fn set_checkpoint(&mut self, id: LeaseId, checkpoint: Checkpoint, now: MonoTime) {
        if let Some(Counted { ttl_secs, ends_at, .. }) = self.leases.get(&id).copied() {
            self.revoked(id);
            self.insert(id, ttl_secs, ends_at, checkpoint, now);
        }
    }

    /// Time to live as granted, in seconds, and what is left of it.
    pub fn left(&self, id: LeaseId, now: MonoTime) -> Option<(i64, Duration)> {
        let counted = self.leases.get(&id)?;
        Some((counted.ttl_secs, counted.ends_at.max(now) - now))
    }

    /// When it ends; `None` if it is not counted here.
    pub fn ends_at(&self, id: LeaseId) -> Option<MonoTime> {
        self.leases.get(&id).map(|counted| counted.ends_at)
    }

    /// True if some lease is due for [`LeaseCount::take_ended`].
    pub fn has_ended(&self, now: MonoTime) -> bool {
        self.queue.first().is_some_and(|(look_at, _)| *look_at <= now)
    }

    /// Up to `max` leases that have ended, the earliest first. Each is told once, and again when it is still there later.
    pub fn take_ended(&mut self, now: MonoTime, max: usize) -> Vec<LeaseId> {
        let mut ended = Vec::new();
        while ended.len() < max
            && let Some((look_at, id)) = self.queue.first().copied()
            && look_at <= now
        {
            let again_at = now + LOOK_AGAIN_AFTER;
            self.queue.remove(&(look_at, id));
            self.queue.insert((again_at, id));
            self.leases.get_mut(&id).expect("the queue has the leases that there are").look_at = again_at;
            ended.push(id);
        }
        ended
    }

    fn insert(&mut self, id: LeaseId, ttl_secs: i64, ends_at: MonoTime, checkpoint: Checkpoint, now: MonoTime) {
        // A checkpoint shortly before the end tells nobody anything.
        let checkpoint_at = self.checkpoint_interval.map(|interval| now + interval).filter(|at| *at < ends_at);
        self.leases.insert(id, Counted { ttl_secs, ends_at, look_at: ends_at, checkpoint_at, checkpoint });
        self.queue.insert((ends_at, id));
        self.checkpoints.extend(checkpoint_at.map(|at| (at, id)));
    }
}

/// A lease without time has ended at once.
fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(3);

    fn at(secs: u64) -> MonoTime {
        MonoTime::from_nanos(secs * 1_000_000_000)
    }

    fn grant(ttl_secs: i64, remaining_ttl_secs: i64) -> Grant {
        Grant { ttl_secs, remaining_ttl_secs }
    }

    #[test]
    fn a_new_leader_gives_each_lease_its_time_again_and_an_extension() {
        let mut count = LeaseCount::default();
        let leases = vec![(LeaseId(1), grant(10, 0)), (LeaseId(2), grant(60, 7))];
        count.begin(TERM, leases, at(100), Duration::from_secs(1));
        assert_eq!(count.term(), Some(TERM));
        assert_eq!(count.left(LeaseId(1), at(100)), Some((10, Duration::from_secs(11))));
        // What a checkpoint has left counts, and the answer still names what was granted.
        assert_eq!(count.left(LeaseId(2), at(100)), Some((60, Duration::from_secs(8))));
        assert_eq!(count.take_ended(at(107), 10), []);
        assert_eq!(count.take_ended(at(111), 10), [LeaseId(2), LeaseId(1)]);
    }

    #[test]
    fn who_is_renewed_in_time_lives_its_whole_time_and_who_has_ended_does_not_come_back() {
        let mut count = LeaseCount::default();
        count.begin(TERM, Vec::new(), at(0), Duration::ZERO);
        count.granted(LeaseId(1), 5, at(0));
        assert_eq!(count.renew(LeaseId(1), at(4)), Renewal::Renewed(5));
        assert_eq!(count.take_ended(at(8), 10), []);
        assert_eq!(count.left(LeaseId(1), at(8)), Some((5, Duration::from_secs(1))));
        assert_eq!(count.renew(LeaseId(1), at(9)), Renewal::Ended);
        assert_eq!(count.left(LeaseId(1), at(20)), Some((5, Duration::ZERO)));
        assert_eq!(count.take_ended(at(9), 10), [LeaseId(1)]);
        count.revoked(LeaseId(1));
        assert_eq!(count.renew(LeaseId(1), at(9)), Renewal::Unknown);
        assert_eq!(count.left(LeaseId(1), at(9)), None);
    }

    #[test]
    fn what_has_ended_is_told_once_and_again_if_it_stays() {
        let mut count = LeaseCount::default();
        count.begin(TERM, Vec::new(), at(0), Duration::ZERO);
        for id in 1..=3 {
            count.granted(LeaseId(id), id, at(0));
        }
        assert_eq!(count.take_ended(at(9), 2), [LeaseId(1), LeaseId(2)]);
        assert_eq!(count.take_ended(at(9), 2), [LeaseId(3)]);
        assert_eq!(count.take_ended(at(11), 9), []);
        count.revoked(LeaseId(2));
        assert_eq!(count.take_ended(at(12), 9), [LeaseId(1), LeaseId(3)]);
    }

    #[test]
    fn a_checkpoint_is_taken_back_before_the_next_renewal() {
        let mut count = LeaseCount::new(Some(Duration::from_secs(10)));
        count.begin(TERM, vec![(LeaseId(2), grant(60, 30))], at(0), Duration::ZERO);
        count.granted(LeaseId(1), 25, at(0));
        count.granted(LeaseId(3), 9, at(0));
        assert_eq!(count.take_checkpoints(at(9), 10), []);
        // The third ends before its checkpoint would come.
        assert_eq!(count.take_checkpoints(at(12), 10), [(LeaseId(1), 13), (LeaseId(2), 18)]);
        assert_eq!(count.renew(LeaseId(1), at(13)), Renewal::Checkpointing);
        count.checkpointed(LeaseId(1), at(13));
        assert_eq!(count.renew(LeaseId(1), at(13)), Renewal::Checkpointed);
        count.checkpoint_taken_back(LeaseId(1), at(14));
        assert_eq!(count.renew(LeaseId(1), at(14)), Renewal::Renewed(25));
        assert_eq!(count.left(LeaseId(1), at(14)), Some((25, Duration::from_secs(25))));
        // The next is due an interval later.
        assert_eq!(count.take_checkpoints(at(23), 10), []);
        assert_eq!(count.take_checkpoints(at(24), 10), [(LeaseId(1), 15)]);
        // One that a leader before has written is taken back, too.
        count.begin(TERM, vec![(LeaseId(2), grant(60, 30))], at(30), Duration::ZERO);
        assert_eq!(count.renew(LeaseId(2), at(31)), Renewal::Checkpointed);
    }

    #[test]
    fn nobody_counts_outside_a_term() {
        let mut count = LeaseCount::default();
        count.granted(LeaseId(1), 5, at(0));
        assert_eq!((count.term(), count.left(LeaseId(1), at(0))), (None, None));
        count.begin(TERM, vec![(LeaseId(1), grant(5, 0))], at(0), Duration::ZERO);
        count.end();
        assert_eq!((count.term(), count.renew(LeaseId(1), at(1))), (None, Renewal::Unknown));
    }

    #[test]
    fn a_lease_granted_twice_keeps_the_first_count() {
        let mut count = LeaseCount::default();
        count.begin(TERM, Vec::new(), at(0), Duration::ZERO);
        count.granted(LeaseId(1), 5, at(0));
        // The second was refused: the state machine has the same lease still.
        count.granted(LeaseId(1), 5, at(3));
        assert_eq!(count.ends_at(LeaseId(1)), Some(at(5)));
    }
}
