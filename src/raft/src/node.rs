//! The driver over raft-rs: events in, work out, no I/O.
//!
//! raft-rs is a pure state machine that hands out a `Ready`: what to persist, what is committed, what to send. This file drives
//! it step for step as its guide has it, in the asynchronous form, so that the next batch can be proposed while the last is
//! being synced:
//!
//! 1. [`Node::tick`], [`Node::propose`], [`Node::read_index`] feed events.
//! 2. [`Node::take_work`] turns a `Ready` into [`Work`]. Its entries are in the in-memory log from then on.
//! 3. The owner sends `Work::messages` at once (only a leader has some: it replicates while its own disk is busy, Raft thesis
//!    10.2.1), hands `Work::committed` to be applied, and has `Work::hard_state` and `Work::entries` written and synced.
//! 4. When they are durable, the owner sends `Work::messages_when_durable` and calls [`Node::on_persisted`]. Only then do
//!    they count towards the quorum.
//! 5. When entries are applied, [`Node::on_applied`] says so; when the database holds them, [`Node::shrink_to`] leaves them to
//!    the log's files, and [`Node::release_to`] forgets them. A follower that needs some of the former makes the node want them
//!    ([`Node::next_wanted`]): the owner reads them in the background and calls [`Node::on_read`].
//!
//! A follower that is too far behind is sent a snapshot instead of entries. Raft is told where one *could* stand
//! ([`Node::offer_snapshot`]); the body is made when the message leaves, from one view of the store, and carries that view's
//! own position, which may be later. What comes of it is told in [`Node::on_snapshot_sent`]. The follower's owner takes the
//! body in before it gives the message to its node; then `Work::snapshot` says that Raft wants it, and the database and the
//! log are switched before `on_persisted`.
//!
//! Raft takes no proposals without a leader, and none while leadership is handed over ([`NodeStatus::takes_proposals`]); a
//! second configuration change, before the first is applied, it turns into nothing ([`Node::is_changing`]). The owner holds
//! what cannot be taken yet. A leader that applies its own removal gives the lead to whom it knows to be furthest, and stops
//! leading: raft-rs leaves that to its owner, and dies of the next entry that becomes durable. So it is applied only when
//! somebody has caught up. Nobody at all applies his removal before somebody who stays has it on its disk that it is committed
//! ([`Node::may_leave`]).
//!
//! Elections draw their timeout from a generator that raft-rs keeps to itself and seeds past every simulator; so after every
//! event it is set from the runtime's own seeded stream, drawn anew when term, role or leader changed.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_proto::raftpb;
use quorate_runtime::bug;
use quorate_types::{LogIndex, MemberId, Term};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::drain;
use crate::log::{Log, Position, Wanted};
use crate::transport;
use crate::wire;

/// Entries that one `Ready` may commit, in bytes: what apply gets at once.
const COMMITTED_BYTES_MAX: u64 = 1 << 20;

/// Bytes of log that a message to a peer may carry.
const MESSAGE_BYTES_MAX: u64 = 256 << 10;

/// Append messages on their way to one peer. A follower that has much to catch up with must not fill its queue, or what does
/// not fit is dropped, and all of it sent again. etcd's 512 messages of a megabyte would.
const INFLIGHT_MESSAGES_MAX: usize = 128;

// But for single entries that are larger than a message.
const _: () = assert!(MESSAGE_BYTES_MAX * INFLIGHT_MESSAGES_MAX as u64 <= transport::QUEUED_BYTES_DEFAULT / 2);

/// What a node is started from.
#[derive(Debug)]
pub struct NodeConfig {
    /// Who we are.
    pub id: MemberId,
    /// Ticks without a leader until an election starts; the real timeout is drawn from one to two times this.
    pub election_ticks: usize,
    /// Ask before raising the term (Raft thesis 9.6).
    pub pre_vote: bool,
    /// The last entry that the state machine holds.
    pub applied: LogIndex,
    /// The last entry before `entries`.
    pub base: Position,
    /// The recovered log.
    pub entries: Vec<raftpb::Entry>,
    /// The recovered variables.
    pub hard_state: raftpb::HardState,
    /// The configuration at `applied`.
    pub conf_state: raftpb::ConfState,
}

/// The node cannot start from what was recovered.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An entry of the log cannot be put into Raft.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// raft-rs refuses the configuration.
    #[error("raft refuses to start: {0}")]
    Refused(String),
}

/// A committed entry, ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its position.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Payload {
    /// Nothing: a leader's first entry, or what a refused configuration change turned into.
    Empty,
    /// An encoded `InternalRaftRequest`.
    Request(Bytes),
    /// A configuration change.
    ConfChange(raftpb::ConfChange),
}

/// What has to be done after some events.
#[derive(Debug)]
pub struct Work {
    /// Names this work in [`Node::on_persisted`].
    pub number: u64,
    /// To be sent now.
    pub messages: Vec<raftpb::Message>,
    /// To be sent once everything here, and all work before it, is durable.
    pub messages_when_durable: Vec<raftpb::Message>,
    /// The state to be taken over before anything else here: everything older in the log and the database goes.
    pub snapshot: Option<raftpb::SnapshotMetadata>,
    /// Variables to write, if they changed.
    pub hard_state: Option<raftpb::HardState>,
    /// Entries to write.
    pub entries: Vec<raftpb::Entry>,
    /// The writes must be synced before [`Node::on_persisted`]; otherwise (a commit index alone) they need not be.
    pub must_sync: bool,
    /// With this the commit index passes a configuration change. Nobody may be told, nor anything be applied, before it is
    /// durable. A member that hears of its own removal leaves for good: if we then forgot that the removal was committed, we
    /// would wait for its vote for ever, for until a change is applied the old configuration elects.
    pub commits_change: bool,
    /// Entries to apply, in order.
    pub committed: Vec<Committed>,
    /// Read indexes that were confirmed: context and index.
    pub reads: Vec<(u64, LogIndex)>,
}

/// What the node knows of the cluster, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The current term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<MemberId>,
    /// We lead.
    pub is_leader: bool,
    /// The last committed entry.
    pub committed: LogIndex,
    /// An entry of the current term is committed: reads may be confirmed.
    pub has_committed_in_term: bool,
    /// We are the only voter.
    pub is_sole_voter: bool,
    /// Nobody else is a member, not even as a learner.
    pub is_alone: bool,
    /// We are a learner.
    pub is_learner: bool,
    /// We are a voter or a learner. A member that is not cannot vote, and what it proposes goes nowhere.
    pub is_member: bool,
    /// What is proposed now is appended here, or passed on to the leader.
    pub takes_proposals: bool,
}

/// How far a peer's log is known to equal the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub id: MemberId,
    /// The last entry known to be on its disk.
    pub matched: LogIndex,
    /// What it has said that it knows to be committed; it has that on its disk as far as a configuration change is concerned.
    /// 0: it has said nothing, as members of etcd do.
    pub committed: LogIndex,
    /// It takes part in no vote.
    pub is_learner: bool,
    /// It was heard from since the last look (an election timeout ago at most).
    pub is_active: bool,
}

/// One Raft node.
pub struct Node {
    raw: RawNode<Log>,
    id: MemberId,
    jitter: ChaCha8Rng,
    election_ticks: usize,
    election_timeout_ticks: usize,
    jitter_drawn_for: (u64, StateRole, u64),
    /// Our removal is committed, at the latest here, and waits for [`Node::may_leave`]: nothing more is proposed.
    leaving_at: Option<LogIndex>,
    /// The newest term in which a leader spoke to us, and what that one knows to be committed.
    told: (Term, LogIndex),
    /// Where configuration changes are in the log that are not known to be committed.
    changes: BTreeSet<u64>,
    /// Whom we asked to take over when we were removed.
    bequest: Option<Bequest>,
    /// Kept beside raft-rs's own form, which is slow to ask.
    configuration: Configuration,
}

/// A removed leader's request to take over. It is made again with each tick for a while, because a follower that has not
/// applied the removal yet ignores it.
#[derive(Clone, Copy, Debug)]
struct Bequest {
    successor: u64,
    term: u64,
    ticks_left: usize,
}

/// What of the configuration is asked all the time.
#[derive(Debug, Default)]
struct Configuration {
    is_sole_voter: bool,
    is_alone: bool,
    is_learner: bool,
    is_member: bool,
    learners: Vec<u64>,
}

impl Configuration {
    fn of(id: MemberId, state: &ConfState) -> Self {
        let is_sole_voter = state.get_voters() == [id.0] && state.get_voters_outgoing().is_empty();
        Self {
            is_sole_voter,
            is_alone: is_sole_voter && state.get_learners().is_empty() && state.get_learners_next().is_empty(),
            is_learner: state.get_learners().contains(&id.0),
            is_member: state.get_voters().contains(&id.0) || state.get_learners().contains(&id.0),
            learners: state.get_learners().to_vec(),
        }
    }
}

impl Node {
    /// A node that continues from `config`; `jitter` is where its election timeouts are drawn from.
    pub fn new(config: NodeConfig, jitter: ChaCha8Rng) -> Result<Self, NodeError> {
        let raft_config = Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied: config.applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote && !bug!("term-raised-without-asking"),
            ..Config::default()
        };
        raft_config.validate().map_err(|error| NodeError::Refused(error.to_string()))?;
        let learners = config.conf_state.learners.clone();
        let entries: Vec<Entry> = config
            .entries
            .into_iter()
            .map(|entry| wire::entry_to_raft(entry, |id| learners.contains(&id)))
            .collect::<Result<_, _>>()?;
        let committed = config.hard_state.commit();
        let changes = entries.iter().filter(|entry| is_change(entry) && entry.index > committed);
        let changes = changes.map(|entry| entry.index).collect();
        let log = Log::new(
            config.base,
            entries,
            wire::hard_state_to_raft(&config.hard_state),
            wire::conf_state_to_raft(&config.conf_state),
        );
        let raw =
            RawNode::new(&raft_config, log, &drain::logger()).map_err(|error| NodeError::Refused(error.to_string()))?;
        let mut node = Self {
            jitter_drawn_for: (raw.raft.term, raw.raft.state, raw.raft.leader_id),
            raw,
            id: config.id,
            jitter,
            election_ticks: config.election_ticks,
            election_timeout_ticks: config.election_ticks,
            leaving_at: None,
            told: (Term(0), LogIndex(0)),
            changes,
            bequest: None,
            configuration: Configuration::default(),
        };
        node.read_configuration();
        node.draw_election_timeout();
        node.keep_election_timeout();
        Ok(node)
    }

    /// One heartbeat interval passed.
    pub fn tick(&mut self) {
        if !self.may_lead() {
            // Others may still be voted for: the time since the leader was heard of goes on.
            let raft = &mut self.raw.raft;
            raft.election_elapsed = (raft.election_elapsed + 1).min(raft.election_timeout());
        } else {
            self.raw.tick();
        }
        self.repeat_bequest();
        self.keep_election_timeout();
    }

    /// Starts an election now if no other member could win one: a sole voter need not wait for a timeout.
    pub fn campaign_if_alone(&mut self) {
        let raft = &self.raw.raft;
        // Raft refuses to campaign while a committed configuration change may be still to be applied.
        let is_caught_up = raft.raft_log.applied >= raft.raft_log.committed;
        if is_caught_up && self.may_lead() && raft.leader_id == raft::INVALID_ID && self.status().is_sole_voter {
            // An error would mean that we lead already.
            let _ = self.raw.campaign();
            self.keep_election_timeout();
        }
    }

    /// Proposes requests (each an encoded `InternalRaftRequest`), as one message with one entry each: raft-rs appends them at
    /// once, and copies no bytes. Returns false if nothing can be proposed now ([`NodeStatus::takes_proposals`]).
    #[must_use]
    pub fn propose(&mut self, requests: impl IntoIterator<Item = Bytes>) -> bool {
        let entries: Vec<Entry> = requests
            .into_iter()
            .map(|data| {
                let mut entry = Entry::default();
                entry.set_data(data);
                entry
            })
            .collect();
        self.step_proposal(entries)
    }

    /// Proposes one configuration change. Returns false if nothing can be proposed now. See [`Node::is_changing`], too.
    #[must_use]
    pub fn propose_conf_change(&mut self, change: &raftpb::ConfChange) -> bool {
        use prost::Message as _;
        let entry = raftpb::Entry {
            r#type: Some(raftpb::EntryType::EntryConfChange as i32),
            data: Some(change.encode_to_vec().into()),
            ..raftpb::Entry::default()
        };
        let entry = wire::entry_to_raft(entry, |id| self.is_learner(id)).expect("just encoded");
        self.step_proposal(vec![entry])
    }

    fn step_proposal(&mut self, entries: Vec<Entry>) -> bool {
        debug_assert!(!entries.is_empty());
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_from(self.id.0);
        message.set_entries(entries.into());
        let taken = self.raw.step(message).is_ok();
        self.keep_election_timeout();
        taken
    }

    /// False while this member must not stand for election; raft-rs would break off if it did.
    ///
    /// A snapshot was received that the state does not come from, yet: raft-rs would look for changes of members among entries
    /// that are not there (etcd's raft, `promotable`). Or a sole voter's log is not all on disk, yet: who leads must have it
    /// there, and the votes of others are asked for only then, but the own one is enough at once.
    fn may_lead(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let is_installing = log.applied + 1 < log.first_index();
        let wins_too_soon = self.configuration.is_sole_voter && log.persisted < log.last_index();
        !is_installing && !wins_too_soon
    }

    /// Takes a peer's message. What does not concern us any more (answers of strangers, old terms, proposals that nobody can
    /// take now) is dropped, as Raft allows.
    ///
    /// # Errors
    /// The message is none that a peer may send.
    pub fn step(&mut self, message: raftpb::Message) -> Result<(), wire::WireError> {
        let message = wire::message_to_raft(message, |id| self.is_learner(id))?;
        let brings_configuration = message.get_msg_type() == MessageType::MsgSnapshot;
        if message.get_msg_type() == MessageType::MsgRequestPreVote && bug!("pre-vote-despite-a-leader") {
            self.raw.raft.election_elapsed = self.election_ticks;
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow && !self.may_lead() {
            return Ok(());
        }
        if matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat) {
            let (term, commit) = (Term(message.term), LogIndex(message.commit));
            // By term, then by index.
            self.told = self.told.max((term, commit));
        }
        // Errors mean: not for us, or not now.
        let _ = self.raw.step(message);
        if brings_configuration {
            self.read_configuration();
        }
        self.keep_election_timeout();
        Ok(())
    }

    /// A message to `peer` got lost, or nobody listens there: send carefully until it answers.
    pub fn on_unreachable(&mut self, peer: MemberId) {
        self.raw.report_unreachable(peer.0);
        self.keep_election_timeout();
    }

    /// The snapshot for `peer` arrived, or did not. Raft sends nothing else to it until this is called.
    pub fn on_snapshot_sent(&mut self, peer: MemberId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer.0, status);
        self.keep_election_timeout();
    }

    /// A snapshot can be made that stands at `position` or later.
    pub fn offer_snapshot(&mut self, position: Position, conf_state: &raftpb::ConfState) {
        self.raw.mut_store().offer_snapshot(position, wire::conf_state_to_raft(conf_state));
    }

    /// Asks `to` to take over as leader. Proposals are held back until it has, or an election timeout is over.
    pub fn transfer_leader(&mut self, to: MemberId) {
        self.raw.transfer_leader(to.0);
        self.keep_election_timeout();
    }

    /// As the leader: who should take over. The voter that has most of the log, of those lately heard from if there are any.
    pub fn successor(&self) -> Option<MemberId> {
        let voters = self.progress().into_iter().filter(|peer| !peer.is_learner && peer.id != self.id);
        voters.max_by_key(|peer| (peer.is_active, peer.matched, Reverse(peer.id))).map(|peer| peer.id)
    }

    /// As the leader, unless leadership is being handed over: a voter, lately heard from, that has the whole log on its disk.
    pub fn complete_successor(&self) -> Option<MemberId> {
        let last = LogIndex(self.raw.raft.raft_log.last_index());
        self.raw.raft.lead_transferee.is_none().then(|| self.successor()).flatten().filter(|successor| {
            let progress = self.progress();
            progress.iter().any(|peer| peer.id == *successor && peer.is_active && peer.matched >= last)
        })
    }

    /// We lead, and a configuration change is under way. Of another one Raft would make an empty entry, and who proposed it
    /// would wait in vain.
    pub fn is_changing(&self) -> bool {
        self.raw.raft.state == StateRole::Leader && self.raw.raft.has_pending_conf()
    }

    /// Starts an election now, as after a timeout.
    pub fn campaign(&mut self) {
        // An error would mean that we lead already, or may not.
        let _ = self.raw.campaign();
        self.keep_election_timeout();
    }

    /// As the leader: how far each peer is, in order of their ids. Empty otherwise.
    pub fn progress(&self) -> Vec<PeerProgress> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let conf = self.raw.raft.prs().conf();
        let mut all: Vec<_> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(&id, progress)| PeerProgress {
                id: MemberId(id),
                matched: LogIndex(progress.matched),
                committed: LogIndex(progress.committed_index),
                is_learner: conf.learners().contains(&id),
                is_active: progress.recent_active || id == self.id.0,
            })
            .collect();
        // raft-rs keeps them in a hash map.
        all.sort_unstable_by_key(|progress| progress.id);
        all
    }

    /// Asks for a read index. The answer comes as [`Work::reads`] with this `context`, or never: a node without a leader, or
    /// without a commit in its term, drops the question. Contexts must be unique in the cluster.
    pub fn read_index(&mut self, context: u64) {
        self.raw.read_index(context.to_be_bytes().to_vec());
    }

    /// What has to be done now; `None` if nothing.
    pub fn take_work(&mut self) -> Option<Work> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let reads = ready
            .take_read_states()
            .into_iter()
            .filter_map(|state| {
                let context = state.request_ctx.as_slice().try_into().ok()?;
                Some((u64::from_be_bytes(context), LogIndex(state.index)))
            })
            .collect();
        let new_entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        self.note_changes(&new_entries);
        let passes_change = hard_state.as_ref().is_some_and(|new| self.pass_changes(new.commit));
        let commits_change = passes_change && !bug!("change-told-before-commit-is-durable");
        let work = Work {
            number: ready.number(),
            messages: from_raft(ready.take_messages()),
            messages_when_durable: from_raft(ready.take_persisted_messages()),
            snapshot: snapshot.as_ref().map(wire::snapshot_from_raft),
            hard_state: hard_state.as_ref().map(wire::hard_state_from_raft),
            entries: new_entries.iter().map(wire::entry_from_raft).collect(),
            must_sync: ready.must_sync() || commits_change,
            commits_change,
            committed: ready.take_committed_entries().into_iter().map(committed).collect(),
            reads,
        };
        // The in-memory log answers raft-rs from now on, also before the disk has the entries: raft-rs counts them as ours
        // only once `on_persisted` was called.
        let log = self.raw.mut_store();
        if let Some(snapshot) = snapshot {
            log.restart_at(Position { index: snapshot.index, term: snapshot.term }, snapshot.get_conf_state().clone());
        }
        log.append(&new_entries);
        if let Some(hard_state) = hard_state {
            log.set_hard_state(hard_state);
        }
        self.raw.advance_append_async(ready);
        Some(work)
    }

    /// Notes which of these entries, the newest of the log, change the configuration. They replace what was there.
    fn note_changes(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.changes.retain(|index| *index < first.index);
        self.changes.extend(entries.iter().filter(|entry| is_change(entry)).map(|entry| entry.index));
    }

    /// True if some change is committed with `commit`, and was not known to be before.
    fn pass_changes(&mut self, commit: u64) -> bool {
        let left = self.changes.split_off(&(commit + 1));
        let passed = std::mem::replace(&mut self.changes, left);
        !passed.is_empty()
    }

    /// All work up to `number` is durable.
    pub fn on_persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
    }

    /// The state machine holds everything up to `index`.
    pub fn on_applied(&mut self, index: LogIndex) {
        self.raw.advance_apply_to(index.0);
    }

    /// Takes an applied configuration change into Raft's configuration, and returns the new one.
    pub fn apply_conf_change(&mut self, change: &raftpb::ConfChange) -> Result<raftpb::ConfState, NodeError> {
        let inside = wire::conf_change_to_raft(change, |id| self.is_learner(id));
        let state = self.raw.apply_conf_change(&inside).map_err(|error| NodeError::Refused(error.to_string()))?;
        self.raw.mut_store().set_conf_state(state.clone());
        self.read_configuration();
        if self.raw.raft.state == StateRole::Leader && !state.get_voters().contains(&self.id.0) {
            self.step_down();
        }
        self.keep_election_timeout();
        Ok(wire::conf_state_from_raft(&state))
    }

    /// Our own removal is committed. As long as this is false, it should not be applied: of those who stay, nobody who could lead
    /// has all that we have, or nobody has it on its disk that the removal is committed. Each of them would ask in vain, sooner
    /// or later, for the vote of one that is gone. From the first call on nothing is proposed, so that others can catch up.
    ///
    /// Who leads hears from the others what they know. (Members of etcd do not tell.) Anybody else knows it when its leader does.
    pub fn may_leave(&mut self) -> bool {
        let raft = &self.raw.raft;
        let last = LogIndex(raft.raft_log.last_index());
        let leaving_at = *self.leaving_at.get_or_insert(LogIndex(raft.raft_log.committed));
        if bug!("leaves-before-the-commit-is-kept") {
            return true;
        }
        if raft.state != StateRole::Leader {
            return self.told >= (Term(raft.term), leaving_at);
        }
        let is_kept = |peer: &PeerProgress| peer.committed == LogIndex(0) || peer.committed >= leaving_at;
        let mut others = self.progress().into_iter().filter(|peer| !peer.is_learner && peer.id != self.id).peekable();
        others.peek().is_none() || others.any(|peer| peer.matched == last && is_kept(&peer))
    }

    /// Ends our leadership because we are no voter any more.
    fn step_down(&mut self) {
        let successor = self.successor();
        let raft = &mut self.raw.raft;
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
        if let Some(MemberId(successor)) = successor {
            raft.send_timeout_now(successor);
            self.bequest = Some(Bequest { successor, term, ticks_left: self.election_ticks });
        }
    }

    fn repeat_bequest(&mut self) {
        let Some(Bequest { successor, term, ticks_left }) = self.bequest else { return };
        let raft = &mut self.raw.raft;
        if ticks_left == 0 || raft.term != term || raft.leader_id != raft::INVALID_ID {
            self.bequest = None;
            return;
        }
        raft.send_timeout_now(successor);
        self.bequest = Some(Bequest { successor, term, ticks_left: ticks_left - 1 });
    }

    /// Leaves entries up to `durable` at most to the log's files, until those in memory weigh no more than `budget_bytes`.
    pub fn shrink_to(&mut self, budget_bytes: usize, durable: LogIndex) {
        let applied = self.raw.raft.raft_log.applied;
        self.raw.mut_store().shrink_to(budget_bytes, durable.0.min(applied));
    }

    /// Forgets entries up to `index`: who needs one of them gets a snapshot.
    pub fn release_to(&mut self, index: LogIndex) {
        let applied = self.raw.raft.raft_log.applied;
        self.raw.mut_store().release_to(index.0.min(applied));
    }

    /// The log's files must have every entry after this one.
    pub fn oldest(&self) -> LogIndex {
        LogIndex(self.raw.store().oldest().index)
    }

    /// Entries that a follower waits for, and that have to be read from the log's files.
    pub fn next_wanted(&mut self) -> Option<Wanted> {
        let is_leader = self.raw.raft.state == StateRole::Leader;
        let log = self.raw.mut_store();
        if !is_leader {
            log.forget_wanted();
        }
        log.next_wanted()
    }

    /// `wanted` was read, or (`None`) could not be: then whoever needs what is in the files only gets a snapshot.
    ///
    /// # Errors
    /// An entry cannot be put into Raft; it then counts as not read.
    pub fn on_read(&mut self, wanted: &Wanted, entries: Option<Vec<raftpb::Entry>>) -> Result<(), wire::WireError> {
        let entries = entries.map(|entries| {
            entries.into_iter().map(|entry| wire::entry_to_raft(entry, |id| self.is_learner(id))).collect()
        });
        let (entries, result) = match entries.transpose() {
            Ok(entries) => (entries, Ok(())),
            Err(error) => (None, Err(error)),
        };
        for context in self.raw.mut_store().arrived(wanted, entries) {
            self.raw.on_entries_fetched(context);
        }
        self.keep_election_timeout();
        result
    }

    /// The term of an entry that is still in memory, or of the last one that is not.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.raw.raft.raft_log.term(index.0).ok().map(Term)
    }

    /// What the node knows now.
    pub fn status(&self) -> NodeStatus {
        let raft = &self.raw.raft;
        NodeStatus {
            term: Term(raft.term),
            leader: (raft.leader_id != raft::INVALID_ID).then_some(MemberId(raft.leader_id)),
            is_leader: raft.state == StateRole::Leader,
            committed: LogIndex(raft.raft_log.committed),
            has_committed_in_term: raft.commit_to_current_term(),
            is_sole_voter: self.configuration.is_sole_voter,
            is_alone: self.configuration.is_alone,
            is_learner: self.configuration.is_learner,
            is_member: self.configuration.is_member,
            takes_proposals: self.takes_proposals(),
        }
    }

    /// The term in which it leads.
    pub fn leads_in(&self) -> Option<Term> {
        let raft = &self.raw.raft;
        (raft.state == StateRole::Leader).then_some(Term(raft.term))
    }

    /// [`NodeStatus::takes_proposals`] alone.
    pub fn takes_proposals(&self) -> bool {
        let raft = &self.raw.raft;
        match raft.state {
            StateRole::Leader => {
                raft.lead_transferee.is_none() && self.configuration.is_member && self.leaving_at.is_none()
            }
            StateRole::Follower => raft.leader_id != raft::INVALID_ID,
            StateRole::Candidate | StateRole::PreCandidate => false,
        }
    }

    /// True while a leader is there: we lead, with a quorum, or were sent something by the leader within an election timeout.
    /// The leader in [`Node::status`] is the last one known; a learner, which never campaigns, keeps it for ever.
    pub fn hears_a_leader(&self) -> bool {
        let raft = &self.raw.raft;
        raft.leader_id != raft::INVALID_ID && raft.election_elapsed < self.election_ticks
    }

    fn is_learner(&self, id: u64) -> bool {
        self.configuration.learners.contains(&id)
    }

    /// After every change of the configuration.
    fn read_configuration(&mut self) {
        self.configuration = Configuration::of(self.id, &self.raw.raft.prs().conf().to_conf_state());
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.election_ticks as u64;
        let extra = self.jitter.next_u64() % ticks;
        self.election_timeout_ticks = self.election_ticks + extra as usize;
    }

    fn keep_election_timeout(&mut self) {
        let raft = &self.raw.raft;
        let now = (raft.term, raft.state, raft.leader_id);
        if now != self.jitter_drawn_for {
            self.jitter_drawn_for = now;
            self.draw_election_timeout();
        }
        self.raw.raft.set_randomized_election_timeout(self.election_timeout_ticks);
    }
}

fn is_change(entry: &Entry) -> bool {
    matches!(entry.get_entry_type(), EntryType::EntryConfChange | EntryType::EntryConfChangeV2)
}

fn from_raft(messages: Vec<Message>) -> Vec<raftpb::Message> {
    messages.into_iter().map(wire::message_from_raft).collect()
}

fn committed(entry: Entry) -> Committed {
    let (index, term) = (LogIndex(entry.index), Term(entry.term));
    let outside = wire::entry_from_raft(&entry);
    let payload = match outside.data {
        None => Payload::Empty,
        Some(data) if outside.r#type == Some(raftpb::EntryType::EntryConfChange as i32) => {
            use prost::Message as _;
            // It was decoded when it entered Raft.
            Payload::ConfChange(raftpb::ConfChange::decode(data).expect("decoded before"))
        }
        Some(data) => Payload::Request(data),
    };
    Committed { index, term, payload }
}

#[cfg(test)]
mod tests;
