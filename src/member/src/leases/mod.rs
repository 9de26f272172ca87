//! Leases and time: who counts, who may be renewed, and what happens when one has ended.
//!
//! That a lease exists is state, and the store has it. That it has ended is the leader's opinion, and becomes state by an
//! entry in the log:
//!
//! 1. A member that has applied an entry of the term in which it leads begins to count (`count`): every lease has its whole
//!    time again, or what a checkpoint has left of it, and an election timeout beside. It uses its monotonic clock.
//! 2. A grant is counted from when it is applied, a renewal from when it is made (etcd's `FastLeaseKeepAlive`). Before it renews anything, the leader asks a
//!    quorum whether it still leads: so no successor can have begun to count earlier, and no holder hears of a renewal that a
//!    successor does not give it.
//! 3. What has ended is revoked by an entry of the log (`expiry`), after a quorum was asked again. Until that is applied the lease
//!    is there, and cannot be renewed: who tries waits, and learns that it is gone.
//! 4. So that a lease which nobody renews does not live for ever while leaders change, the leader can write down what each has left
//!    (a checkpoint). A lease that has one is renewed only after the log was told that it has its whole time again.
//! 5. What a leader decides about time it proposes in its own term or not at all: nothing of that reaches the log through a
//!    successor, who may have renewed the lease meanwhile.
//! 6. Other members pass renewals and questions on to the leader's peer port (`forward`).
//!
//! Source: etcd `server/lease/lessor.go`, `server/etcdserver/v3_server.go` (`LeaseRenew`, `LeaseTimeToLive`).

mod count;
mod expiry;
mod forward;
mod lines;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest};
use quorate_runtime::clock::{self, MonoTime};
use quorate_runtime::sync::{oneshot, watch};
use quorate_runtime::{Rt, bug, mark, pin, select};
use quorate_store::{Command, Response, View};
use quorate_types::{Error, LeaseId, Term};

use crate::Member;
use crate::shared::{Published, StateQuestion};
use count::{LeaseCount, Renewal};

pub use expiry::revoke_ended;
pub use forward::PeerAnswer;
pub use lines::LeaderLines;

/// What a lease has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// As granted, in seconds.
    pub granted_secs: i64,
    /// Whole seconds until it ends; 0 if it has.
    pub left_secs: i64,
    /// The keys on it, in byte order, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// The count, and who waits for it. Shared by the apply loop, which tells it what was applied, and the member's handles.
#[derive(Debug)]
pub struct Lessor {
    count: Mutex<LeaseCount>,
    /// Counts revocations, checkpoints, and ends of the count.
    news: watch::Sender<u64>,
}

/// What an entry may have done to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was granted, or was there already.
    Granted(LeaseId),
    /// It is gone.
    Revoked(LeaseId),
}

impl Change {
    /// What `command` may do.
    pub fn of(command: &Command) -> Option<Self> {
        let Command::Request(request) = command else { return None };
        let granted = request.lease_grant.as_ref().map(|grant| Self::Granted(LeaseId(grant.id)));
        granted.or_else(|| request.lease_revoke.as_ref().map(|revoke| Self::Revoked(LeaseId(revoke.id))))
    }

    /// True unless it certainly did not. A grant that did not fit the quota was made all the same.
    pub fn may_have_happened(self, result: &Result<Response, Error>) -> bool {
        matches!(self, Self::Granted(_)) || matches!(result, Ok(Response::LeaseRevoke(_)))
    }
}

impl Lessor {
    /// Nobody counts yet.
    pub fn new(checkpoint_interval: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { count: Mutex::new(LeaseCount::new(checkpoint_interval)), news: watch::Sender::new(0) })
    }

    /// Entries were applied, the last of them of `term`, and are visible in `view`: counts on, or begins to if this member
    /// leads in that term.
    pub fn follow(
        &self,
        changes: &mut Vec<Change>,
        leads_in: Option<Term>,
        extension: Duration,
        now: MonoTime,
        view: impl FnOnce() -> Arc<View>,
    ) {
        let mut count = self.lock();
        let counts = count.term();
        if let Some(term) = leads_in.filter(|_| leads_in != counts) {
            let leases = view().leases();
            if !leases.is_empty() {
                mark!("lease_count_begins");
            }
            count.begin(term, leases, now, extension);
            changes.clear();
            self.news.send_modify(|count| *count += 1);
            return;
        }
        if counts.is_none() || changes.is_empty() {
            changes.clear();
            return;
        }
        let view = view();
        for change in changes.drain(..) {
            match change {
                Change::Granted(id) => {
                    if let Some(grant) = view.lease(id) {
                        count.granted(id, grant.ttl_secs, now);
                    }
                }
                Change::Revoked(id) => {
                    count.revoked(id);
                    self.news.send_modify(|count| *count += 1);
                }
            }
        }
    }

    /// In which term this member counts, if it leads in that one still.
    fn counts_in(&self, published: &Published) -> Option<Term> {
        let term = self.lock().term()?;
        published.leads_in().filter(|leads_in| *leads_in == term)
    }

    /// Checkpoints of these leases were written, or may have been.
    fn checkpointed(&self, ids: impl Iterator<Item = LeaseId>, now: MonoTime) {
        let mut count = self.lock();
        ids.for_each(|id| count.checkpointed(id, now));
        self.news.send_modify(|count| *count += 1);
    }

    /// This member does not lead any more: it need not count.
    fn end(&self) {
        let mut count = self.lock();
        if count.term().is_some() {
            count.end();
            self.news.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LeaseCount> {
        // A panic under the lock stops the member; the others need not panic, too.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Gives a lease its whole time again, here or at the leader. Returns that time, in seconds.
    ///
    /// # Errors
    /// `LeaseNotFound`, also if it has ended; `NotPrimary`, if this member leads and reaches no quorum; `Timeout`, if nobody
    /// could be asked; `Stopped`.
    pub async fn renew_lease(&self, id: LeaseId) -> Result<i64, Error> {
        let here = || self.renew_lease_here(id, self.config().request_timeout());
        self.at_leader(here, |limit| self.ask_to_renew(id, limit)).await
    }

    /// What a lease has left, here or at the leader.
    ///
    /// # Errors
    /// As [`Member::renew_lease`]; `LeaderChanged` instead of `NotPrimary`.
    pub async fn lease_time_to_live(&self, id: LeaseId, with_keys: bool) -> Result<TimeToLive, Error> {
        let limit = self.config().request_timeout();
        let here = || self.lease_time_to_live_here(id, with_keys, limit);
        let asked = self.at_leader(here, |limit| self.ask_what_is_left(id, with_keys, limit)).await;
        asked.map_err(|error| if error == Error::NotPrimary { Error::LeaderChanged } else { error })
    }

    /// An id that no lease has.
    pub fn new_lease_id(&self) -> LeaseId {
        LeaseId((self.inner.request_ids.next() & (u64::MAX >> 1)).cast_signed())
    }

    /// All leases that exist, as far as this member knows: those that end first come first, where this member counts.
    pub fn leases(&self) -> Vec<LeaseId> {
        let ids = self.view().leases().into_iter().map(|(id, _)| id);
        let count = self.inner.lessor.lock();
        let mut ordered: Vec<_> = ids.map(|id| (count.ends_at(id), id)).collect();
        ordered.sort_unstable();
        ordered.into_iter().map(|(_, id)| id).collect()
    }

    /// The same as [`Member::renew_lease`], if this member leads. The quorum has `limit` to answer.
    ///
    /// # Errors
    /// `NotPrimary`, unless it does.
    pub async fn renew_lease_here(&self, id: LeaseId, limit: Duration) -> Result<i64, Error> {
        let inner = &*self.inner;
        let (told, confirmed) = oneshot::channel();
        let lead = self.confirm_lead(limit, inner.config.renewals_count_at_once.then_some(told));
        pin!(lead);
        select! {
            biased;
            confirmed = confirmed => {
                if confirmed.is_ok() {
                    self.count_renewal(id);
                }
                lead.await?;
            }
            lead = &mut lead => lead?,
        }
        let deadline = inner.rt.mono_now() + inner.config.request_timeout();
        let mut news = inner.lessor.news.subscribe();
        loop {
            news.mark_unchanged();
            let Some(term) = inner.lessor.counts_in(&inner.published) else { return Err(Error::NotPrimary) };
            let renewal = inner.lessor.lock().renew(id, now(&inner.rt));
            match renewal {
                Renewal::Unknown => return Err(Error::LeaseNotFound),
                Renewal::Ended => mark!("renewal_waits_for_the_end"),
                Renewal::Checkpointing => {}
                Renewal::Checkpointed => {
                    self.take_checkpoint_back(term, id).await?;
                    continue;
                }
                Renewal::Renewed(ttl_secs) => {
                    inner.metrics.leases_renewed.inc();
                    return Ok(ttl_secs);
                }
            }
            let left = deadline.max(inner.rt.mono_now()) - inner.rt.mono_now();
            // Its revocation is on its way, or another member leads.
            if clock::timeout(&*inner.rt, left, news.changed()).await.is_err() {
                return Err(Error::Timeout);
            }
        }
    }

    /// The same as [`Member::lease_time_to_live`], if this member leads.
    ///
    /// # Errors
    /// `NotPrimary`, unless it does.
    pub async fn lease_time_to_live_here(
        &self,
        id: LeaseId,
        with_keys: bool,
        limit: Duration,
    ) -> Result<TimeToLive, Error> {
        let inner = &*self.inner;
        self.confirm_lead(limit, None).await?;
        let keys = if with_keys { self.keys_on(id).await? } else { Vec::new() };
        if inner.lessor.counts_in(&inner.published).is_none() {
            return Err(Error::NotPrimary);
        }
        let left = inner.lessor.lock().left(id, now(&inner.rt));
        let (granted_secs, left) = left.ok_or(Error::LeaseNotFound)?;
        Ok(TimeToLive { granted_secs, left_secs: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), keys })
    }

    /// The holder is alive, and a quorum says that this member leads: however far it is behind with applying, it does not let the
    /// lease end meanwhile. Whether the lease is still there, the holder is told once all is applied.
    fn count_renewal(&self, id: LeaseId) {
        let inner = &*self.inner;
        if inner.lessor.counts_in(&inner.published).is_some()
            && let Renewal::Renewed(_) = inner.lessor.lock().renew(id, now(&inner.rt))
        {
            mark!("renewal_counted_before_applied");
        }
    }

    /// A quorum says that this member leads, of which `confirmed` hears, and it has applied all that was committed before.
    async fn confirm_lead(&self, limit: Duration, confirmed: Option<oneshot::Sender<()>>) -> Result<(), Error> {
        if self.inner.published.leads_in().is_none() {
            return Err(Error::NotPrimary);
        }
        match clock::timeout(&*self.inner.rt, limit, self.linearize_telling(confirmed)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::Timeout)) => Err(Error::NotPrimary),
            Ok(Err(error)) => Err(error),
            Err(clock::Elapsed) => Err(Error::TimeoutWaitAppliedIndex),
        }
    }

    async fn keys_on(&self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.state_questions.send(StateQuestion::LeaseKeys { id, reply }).map_err(|_gone| Error::Stopped)?;
        answer.await.map_err(|_gone| Error::Stopped)
    }

    /// Who is renewed has its whole time, also at a successor: the log has to say so before the holder hears of it.
    async fn take_checkpoint_back(&self, term: Term, id: LeaseId) -> Result<(), Error> {
        mark!("checkpoint_taken_back");
        match self.write_checkpoints(term, vec![LeaseCheckpoint { id: id.0, remaining_ttl: 0 }]).await {
            Ok(()) => {
                self.inner.lessor.lock().checkpoint_taken_back(id, now(&self.inner.rt));
                Ok(())
            }
            Err(Error::NotLeader) => Err(Error::NotPrimary),
            Err(error) => Err(error),
        }
    }

    async fn write_checkpoints(&self, term: Term, checkpoints: Vec<LeaseCheckpoint>) -> Result<(), Error> {
        let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
        let request = InternalRaftRequest { lease_checkpoint, ..InternalRaftRequest::default() };
        self.propose_in(Some(term), request).await.map(drop)
    }
}

/// The time by which leases are counted.
pub fn now(rt: &Rt) -> MonoTime {
    if bug!("leases-counted-by-the-wall-clock") {
        return MonoTime::from_nanos(rt.wall_now().unix_nanos());
    }
    rt.mono_now()
}

/// Waits a little between two tries to find the leader.
async fn pause(rt: &Rt) {
    rt.sleep(Duration::from_millis(50)).await;
}
