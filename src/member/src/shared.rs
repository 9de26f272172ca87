//! What the handles of a member and its two loops share: channels, and a few numbers that anyone may read.
//!
//! The raft loop and the apply loop each own their state; nobody else touches it. What handles need to know at any moment is
//! published here as plain atomics: each is written by one loop, and no two are read as one fact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use quorate_proto::raftpb;
use quorate_raft::node::{Committed, PeerProgress};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::sync::{oneshot, watch};
use quorate_runtime::{Rt, spawn};
use quorate_store::Response;
use quorate_types::{Error, LeaseId, LogIndex, MemberId, Term};

use crate::defragment;

/// The answer to a proposal.
#[derive(Debug, PartialEq)]
pub struct Answered {
    pub result: Result<Response, Error>,
    /// When its entry began to be applied here, if it was.
    pub apply_began_at: Option<MonoTime>,
}

impl From<Error> for Answered {
    /// Whoever proposed is told before anything was applied.
    fn from(error: Error) -> Self {
        Self { result: Err(error), apply_began_at: None }
    }
}

/// Whoever waits for it.
pub type Reply = oneshot::Sender<Answered>;

/// Who waits for the entry with a request id, and until when.
#[derive(Debug)]
pub struct Waiter {
    pub request_id: u64,
    pub deadline: MonoTime,
    /// It is proposed only if this member leads in this term, and answered with `NotLeader` if it does not.
    pub only_in: Option<Term>,
    /// Where it waits.
    pub reactor: usize,
    pub reply: Reply,
}

/// A proposal on its way to the raft loop, and who waits for what comes of it.
#[derive(Debug)]
pub struct Proposal {
    pub payload: Payload,
    pub waiter: Waiter,
}

/// Who waits until what was committed before is applied.
#[derive(Debug)]
pub struct Reader {
    /// Hears earlier that a quorum has confirmed the leader. Not heard from if no question was needed.
    pub confirmed: Option<oneshot::Sender<()>>,
    /// Hears when all is applied.
    pub applied: oneshot::Sender<()>,
}

/// What is proposed.
#[derive(Debug)]
pub enum Payload {
    /// An encoded `InternalRaftRequest`.
    Request(Bytes),
    /// A change of members; its id is the waiter's.
    ConfChange(Box<raftpb::ConfChange>),
}

/// What else a handle asks of the raft loop.
#[derive(Debug)]
pub enum RaftQuestion {
    /// How far each peer is; nobody, unless this member leads.
    Progress(oneshot::Sender<Vec<PeerProgress>>),
    /// Hand leadership to this member. Nothing happens unless this member leads.
    TransferLeader(MemberId),
}

/// What a handle asks of the apply loop.
#[derive(Debug)]
pub enum StateQuestion {
    /// Which keys are on this lease now, in byte order?
    LeaseKeys { id: LeaseId, reply: oneshot::Sender<Vec<Bytes>> },
    /// Copy the database into a new file, and say when that is done.
    Defragment { reply: defragment::Reply },
}

/// From the raft loop to the apply loop, in order.
#[derive(Debug)]
pub enum ToApply {
    /// These requests were put into the log; their entries come later.
    Proposed(Vec<Waiter>),
    /// Apply these.
    Committed(Vec<Committed>),
    /// Time to look for waiters whose deadline passed.
    Tick,
    /// The log has a mark at this snapshot: its database takes the place of the present one. The answer says that it has.
    Install { index: LogIndex, reply: oneshot::Sender<()> },
}

/// From the apply loop to the raft loop.
#[derive(Debug)]
pub enum FromApply {
    /// Everything up to here is applied and visible.
    Applied { index: LogIndex, term: Term },
    /// A configuration change is due: Raft takes it and answers with the new configuration.
    ConfChange { change: raftpb::ConfChange, reply: oneshot::Sender<raftpb::ConfState> },
    /// The database durably holds everything up to here, under this configuration.
    Durable { index: LogIndex, conf_state: raftpb::ConfState },
}

/// Why a member stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Asked,
    /// It was removed from the cluster, for good.
    Removed,
    /// It could not go on; the text says why and what to do.
    Failed(String),
}

/// Raft's state as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// The current term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<MemberId>,
    /// The last committed index.
    pub committed: LogIndex,
    /// The last applied index.
    pub applied: LogIndex,
    /// This member does not vote.
    pub is_learner: bool,
}

/// Numbers that the loops publish.
#[derive(Debug, Default)]
pub struct Published {
    pub term: AtomicU64,
    /// 0 if none is known.
    pub leader: AtomicU64,
    /// When this member heard of its last leader, by its monotonic clock.
    pub leader_elected_at_ns: AtomicU64,
    /// The term in which this member leads; 0 if it does not. One fact, unlike `term` and `leader` together.
    pub leads_in: AtomicU64,
    pub committed: AtomicU64,
    pub applied: AtomicU64,
    pub is_learner: AtomicBool,
    /// We lead, nobody else votes, and everything of earlier terms is applied: what is visible now is linearizable.
    pub reads_need_no_round: AtomicBool,
    /// We applied our own removal: nothing that is proposed here goes anywhere any more.
    pub removed: AtomicBool,
    /// Counts what concerns the cluster's version: we began to lead, members changed, the version changed.
    pub version_news: watch::Sender<u64>,
}

impl Published {
    /// Wakes whoever watches over the cluster's version.
    pub fn tell_version_news(&self) {
        self.version_news.send_modify(|count| *count += 1);
    }

    /// The term in which this member leads, as far as it knows.
    pub fn leads_in(&self) -> Option<Term> {
        let term = self.leads_in.load(Ordering::Acquire);
        (term != 0).then_some(Term(term))
    }

    pub fn status(&self) -> RaftStatus {
        let leader = self.leader.load(Ordering::Acquire);
        RaftStatus {
            term: Term(self.term.load(Ordering::Acquire)),
            leader: (leader != 0).then_some(MemberId(leader)),
            committed: LogIndex(self.committed.load(Ordering::Acquire)),
            applied: LogIndex(self.applied.load(Ordering::Acquire)),
            is_learner: self.is_learner.load(Ordering::Acquire),
        }
    }
}

/// How a member ends: asked from anywhere, told once.
#[derive(Debug)]
pub struct Stopping {
    /// Set once; the first reason stays.
    asked: watch::Sender<Option<StopReason>>,
    /// The member is no member any more, and stops in a moment.
    leaving: watch::Sender<bool>,
    /// The loops have ended.
    ended: watch::Sender<bool>,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { asked: watch::Sender::new(None), leaving: watch::Sender::new(false), ended: watch::Sender::new(false) }
    }
}

impl Stopping {
    /// Asks the loops to end. The first reason stays. False if somebody has asked before.
    pub fn ask(&self, reason: StopReason) -> bool {
        self.asked.send_if_modified(|current| {
            let is_first = current.is_none();
            if is_first {
                *current = Some(reason);
            }
            is_first
        })
    }

    /// The removal of this member was applied. True the first time.
    pub fn set_leaving(&self) -> bool {
        !self.leaving.send_replace(true)
    }

    /// Waits until the member's removal was applied.
    pub async fn leaving(&self) {
        // The sender is ours.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    /// Asks the loops to end because this member was removed, and says so in the words that operators look for.
    pub fn ask_removed(&self) {
        if self.ask(StopReason::Removed) {
            tracing::warn!(error = "the member has been permanently removed from the cluster", "server error");
            tracing::warn!("data-dir used by this member must be removed");
            tracing::warn!("this member has been permanently removed from the cluster. Exiting.");
        }
    }

    /// True once somebody asked.
    pub fn is_asked(&self) -> bool {
        self.asked.borrow().is_some()
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.asked.subscribe().wait_for(Option::is_some).await;
    }

    /// The loops have ended.
    pub fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Waits until the loops have ended, and says why they did.
    pub async fn ended(&self) -> StopReason {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        self.asked.borrow().clone().unwrap_or(StopReason::Asked)
    }
}

/// Runs `work` (a loop of the member) to its end, in a task of its own, and ends with it. raft-rs and the store end in a panic when
/// one of their invariants breaks; then the reason is kept and the whole member stops: what broke must not be used again.
pub fn spawn_stopping_on_panic(
    rt: &Rt,
    name: &'static str,
    stopping: &Arc<Stopping>,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let stopping = Arc::clone(stopping);
    let ended = spawn::spawn_with_result(&**rt, async move {
        if let Err(panic) = std::panic::AssertUnwindSafe(work).catch_unwind().await {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            tracing::error!(which = name, reason = text, "an invariant broke; this member stops");
            stopping.ask(StopReason::Failed(format!("the {name} broke an invariant: {text}")));
        }
    });
    async move {
        // Without a result its task is gone, and so is the process.
        let _ = ended.await;
    }
}
