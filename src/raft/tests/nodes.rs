//! Several nodes in memory, without clock, disk or network: elections, replication, and changes of who they are.
//!
//! Messages travel in the order they were sent, except over links that are cut, where they are lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::raftpb::{self, ConfChange, ConfChangeType};
use quorate_raft::log::Position;
use quorate_raft::node::{Committed, Node, NodeConfig, NodeStatus, Payload};
use quorate_types::{LogIndex, MemberId};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

const ELECTION_TICKS: usize = 10;

struct Peer {
    node: Node,
    applied: Vec<Committed>,
    /// Committed, and not applied because the peer is slow.
    unapplied: VecDeque<Committed>,
    /// Handed out, and not durable because its disk is slow.
    unwritten: Vec<u64>,
    reads: Vec<(u64, LogIndex)>,
}

#[derive(Default)]
struct Group {
    peers: BTreeMap<u64, Peer>,
    on_their_way: VecDeque<raftpb::Message>,
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(u64, u64)>,
    /// Who does not apply for now.
    slow_to_apply: BTreeSet<u64>,
    /// Whose disk does not finish for now.
    slow_to_write: BTreeSet<u64>,
}

fn change(change_type: ConfChangeType, id: u64) -> ConfChange {
    ConfChange {
        id: Some(7),
        r#type: Some(change_type as i32),
        node_id: Some(id),
        context: Some(Bytes::from_static(b"{}")),
    }
}

fn add(id: u64) -> ConfChange {
    change(ConfChangeType::ConfChangeAddNode, id)
}

fn add_learner(id: u64) -> ConfChange {
    change(ConfChangeType::ConfChangeAddLearnerNode, id)
}

fn update(id: u64) -> ConfChange {
    change(ConfChangeType::ConfChangeUpdateNode, id)
}

fn remove(id: u64) -> ConfChange {
    change(ConfChangeType::ConfChangeRemoveNode, id)
}

fn entry(number: u8) -> Bytes {
    Bytes::from(vec![number])
}

impl Peer {
    /// A node that founds a cluster of `founders`, or one that waits to be told of everything.
    fn new(id: u64, founders: &[u64]) -> Self {
        let entries: Vec<_> = founders
            .iter()
            .zip(1..)
            .map(|(founder, index)| raftpb::Entry {
                r#type: Some(raftpb::EntryType::EntryConfChange as i32),
                term: Some(1),
                index: Some(index),
                data: Some(add(*founder).encode_to_vec().into()),
            })
            .collect();
        let founded = !founders.is_empty();
        let config = NodeConfig {
            id: MemberId(id),
            election_ticks: ELECTION_TICKS,
            pre_vote: true,
            applied: LogIndex(0),
            base: Position::default(),
            hard_state: raftpb::HardState {
                term: Some(u64::from(founded)),
                vote: Some(0),
                commit: Some(entries.len() as u64),
            },
            entries,
            conf_state: raftpb::ConfState::default(),
        };
        let node = Node::new(config, ChaCha8Rng::from_seed([id as u8; 32])).unwrap();
        Self { node, applied: Vec::new(), unapplied: VecDeque::new(), unwritten: Vec::new(), reads: Vec::new() }
    }

    fn apply(&mut self) {
        while let Some(entry) = self.unapplied.pop_front() {
            if let Payload::ConfChange(change) = &entry.payload {
                self.node.apply_conf_change(change).unwrap();
            }
            self.node.on_applied(entry.index);
            self.applied.push(entry);
        }
    }
}

impl Group {
    /// `count` founders, none of which leads yet.
    fn founded(count: u64) -> Self {
        let founders: Vec<u64> = (1..=count).collect();
        let mut group = Self::default();
        for id in &founders {
            group.peers.insert(*id, Peer::new(*id, &founders));
        }
        group.settle();
        group
    }

    /// `count` founders, of whom the first leads.
    fn led(count: u64) -> Self {
        let mut group = Self::founded(count);
        group.node(1).campaign();
        group.settle();
        assert_eq!(group.leader(), Some(1));
        group
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.peers.get_mut(&id).unwrap().node
    }

    fn status(&self, id: u64) -> NodeStatus {
        self.peers[&id].node.status()
    }

    /// Who believes to lead; more than one fails the test.
    fn leader(&self) -> Option<u64> {
        let leaders: Vec<u64> = self.peers.keys().copied().filter(|id| self.status(*id).is_leader).collect();
        assert!(leaders.len() <= 1, "{leaders:?} lead");
        leaders.first().copied()
    }

    fn cut_off(&mut self, id: u64) {
        for other in self.peers.keys().copied().filter(|other| *other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
    }

    /// Does all work and delivers all messages, until there is no more.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for (id, peer) in &mut self.peers {
                while let Some(work) = peer.node.take_work() {
                    is_quiet = false;
                    self.on_their_way.extend(work.messages);
                    peer.unapplied.extend(work.committed);
                    peer.reads.extend(work.reads);
                    if self.slow_to_write.contains(id) {
                        // What would be sent once it is durable is never missed in these tests.
                        peer.unwritten.push(work.number);
                    } else {
                        self.on_their_way.extend(work.messages_when_durable);
                        peer.node.on_persisted(work.number);
                    }
                }
                if !self.slow_to_apply.contains(id) {
                    is_quiet &= peer.unapplied.is_empty();
                    peer.apply();
                }
            }
            while let Some(message) = self.on_their_way.pop_front() {
                is_quiet = false;
                let (from, to) = (message.from(), message.to());
                if !self.cut.contains(&(from, to))
                    && let Some(peer) = self.peers.get_mut(&to)
                {
                    peer.node.step(message).unwrap();
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.node.tick());
        self.settle();
    }

    /// Lets time pass until `done`; fails if it takes more than `ticks`. Returns how many it took.
    #[track_caller]
    fn tick_until(&mut self, ticks: usize, done: impl Fn(&Group) -> bool) -> usize {
        for tick in 0..=ticks {
            if done(self) {
                return tick;
            }
            self.tick();
        }
        panic!("it did not happen within {ticks} ticks");
    }

    fn propose(&mut self, at: u64, number: u8) -> bool {
        let taken = self.node(at).propose([entry(number)]);
        self.settle();
        taken
    }

    #[track_caller]
    fn make(&mut self, at: u64, change: &ConfChange) {
        assert!(self.node(at).propose_conf_change(change));
        self.settle();
    }

    /// The requests that a peer has applied, in order.
    fn requests(&self, id: u64) -> Vec<u8> {
        let payloads = self.peers[&id].applied.iter().map(|entry| &entry.payload);
        payloads.filter_map(|payload| if let Payload::Request(data) = payload { Some(data[0]) } else { None }).collect()
    }

    /// Who else votes and who learns, as the leader sees it.
    fn configuration(&mut self) -> (Vec<u64>, Vec<u64>) {
        let leader = self.leader().expect("a leader");
        let (learners, voters): (Vec<_>, Vec<_>) =
            self.node(leader).progress().into_iter().partition(|peer| peer.is_learner);
        let ids = |peers: Vec<quorate_raft::node::PeerProgress>| peers.into_iter().map(|peer| peer.id.0).collect();
        (ids(voters), ids(learners))
    }
}

#[test]
fn three_founders_elect_one_leader_and_apply_the_same() {
    let mut group = Group::founded(3);
    group.tick_until(2 * ELECTION_TICKS, |group| group.leader().is_some());
    let leader = group.leader().unwrap();
    assert!((1..=3).all(|id| group.status(id).leader == Some(MemberId(leader))));
    for number in 0..50 {
        // Each in turn: followers pass on what is proposed to them.
        assert!(group.propose(u64::from(number % 3) + 1, number));
    }
    let expected: Vec<u8> = (0..50).collect();
    for id in 1..=3 {
        assert_eq!(group.requests(id), expected);
        assert_eq!(group.peers[&id].applied, group.peers[&1].applied);
    }
}

#[test]
fn a_minority_commits_nothing_and_steps_down_and_what_it_took_is_replaced() {
    let mut group = Group::led(3);
    group.cut_off(1);
    assert!(group.propose(1, 1));
    assert!(group.requests(1).is_empty());
    group.tick_until(4 * ELECTION_TICKS, |group| !group.status(1).is_leader);
    assert!(!group.status(1).takes_proposals);
    group.tick_until(4 * ELECTION_TICKS, |group| group.leader().is_some());
    let leader = group.leader().unwrap();
    assert!(group.propose(leader, 2));
    group.heal();
    group.tick_until(2 * ELECTION_TICKS, |group| group.requests(1) == [2]);
    assert_eq!(group.leader(), Some(leader), "pre-vote: who comes back disturbs nobody");
}

#[test]
fn leadership_goes_to_whom_it_is_given_at_once_and_nothing_is_lost() {
    let mut group = Group::led(3);
    let term = group.status(1).term.0;
    // The successor lacks an entry; it gets it first.
    group.cut.insert((1, 3));
    group.propose(1, 1);
    group.heal();
    assert_eq!(group.node(1).successor(), Some(MemberId(2)), "who has more of the log is preferred");
    group.node(1).transfer_leader(MemberId(3));
    assert!(!group.status(1).takes_proposals && !group.propose(1, 2));
    group.tick_until(2, |group| group.leader() == Some(3));
    assert_eq!(group.status(3).term.0, term + 1);
    assert!(group.propose(1, 3), "the former leader passes proposals on");
    assert!((1..=3).all(|id| group.requests(id) == [1, 3]));
}

#[test]
fn a_transfer_to_a_silent_member_is_given_up() {
    let mut group = Group::led(3);
    group.cut_off(3);
    group.node(1).transfer_leader(MemberId(3));
    group.settle();
    assert!(!group.propose(1, 1));
    let ticks = group.tick_until(ELECTION_TICKS, |group| group.status(1).takes_proposals);
    assert!(ticks > 1);
    assert!(group.propose(1, 2));
    assert_eq!(group.requests(2), [2]);
}

#[test]
fn a_learner_gets_the_log_and_votes_only_once_promoted() {
    let mut group = Group::led(1);
    group.propose(1, 1);
    group.peers.insert(2, Peer::new(2, &[]));
    group.make(1, &add_learner(2));
    group.tick();
    assert_eq!(group.configuration(), (vec![1], vec![2]));
    assert_eq!(group.requests(2), [1]);
    assert!(group.status(2).is_learner && group.status(2).is_member);
    let progress = group.node(1).progress();
    assert!(progress.iter().all(|peer| peer.matched == progress[0].matched), "{progress:?}");

    // It cannot lead, and the leader does not need it.
    group.node(1).transfer_leader(MemberId(2));
    group.tick();
    assert_eq!((group.leader(), group.node(1).successor()), (Some(1), None));
    group.cut_off(2);
    assert!(group.propose(1, 2));
    assert_eq!(group.requests(1), [1, 2]);
    for _ in 0..4 * ELECTION_TICKS {
        group.tick();
    }
    assert_eq!((group.leader(), group.status(2).term), (Some(1), group.status(1).term));
    group.heal();

    group.tick_until(2 * ELECTION_TICKS, |group| group.requests(2) == [1, 2]);
    group.make(1, &add(2));
    assert_eq!(group.configuration(), (vec![1, 2], vec![]));
    assert!(!group.status(2).is_learner);
    group.cut_off(2);
    group.propose(1, 3);
    assert_eq!(group.requests(1), [1, 2], "two of two are needed now");
}

#[test]
fn an_update_of_peer_urls_leaves_voters_and_learners_what_they_are() {
    let mut group = Group::led(2);
    group.peers.insert(3, Peer::new(3, &[]));
    group.make(1, &add_learner(3));
    for id in 1..=3 {
        group.make(1, &update(id));
    }
    assert_eq!(group.configuration(), (vec![1, 2], vec![3]));
}

#[test]
fn a_second_change_is_not_to_be_proposed_before_the_first_is_applied() {
    let mut group = Group::led(2);
    group.slow_to_apply.insert(1);
    assert!(!group.node(1).is_changing());
    group.make(1, &add_learner(3));
    assert!(group.node(1).is_changing());
    assert!(!group.node(2).is_changing(), "a follower does not know, and passes it on");
    // What comes of one that is proposed all the same.
    group.make(1, &add_learner(4));
    group.slow_to_apply.clear();
    group.settle();
    assert!(!group.node(1).is_changing());
    let last = group.peers[&1].applied.last().unwrap();
    assert_eq!(last.payload, Payload::Empty);
    assert_eq!(group.configuration(), (vec![1, 2], vec![3]));
}

#[test]
fn a_removed_follower_hears_nothing_more_and_disturbs_nobody() {
    let mut group = Group::led(3);
    group.make(1, &remove(3));
    assert!(!group.status(3).is_member, "it still got its own removal");
    let term = group.status(1).term;
    group.propose(1, 1);
    assert!(group.requests(3).is_empty());
    for _ in 0..4 * ELECTION_TICKS {
        group.tick();
    }
    assert_eq!((group.leader(), group.status(1).term, group.status(3).term), (Some(1), term, term));
}

#[test]
fn a_removed_leader_steps_down_and_another_leads_well_before_an_election_timeout() {
    let mut group = Group::led(3);
    // Behind the removal there is an entry that becomes durable only after it is applied; raft-rs alone would die of that.
    assert!(group.node(1).propose_conf_change(&remove(1)));
    assert!(group.node(1).propose([entry(1)]));
    // A successor that has not applied the removal yet does not listen; it is asked again.
    group.slow_to_apply.extend([2, 3]);
    group.settle();
    assert!(!group.status(1).is_leader && !group.status(1).is_member && !group.status(1).takes_proposals);
    assert_eq!(group.leader(), None);
    group.slow_to_apply.clear();
    group.settle();
    let ticks = group.tick_until(3, |group| group.leader().is_some());
    assert!(ticks < ELECTION_TICKS / 2);
    let leader = group.leader().unwrap();
    assert!(group.propose(leader, 2));
    assert_eq!(group.requests(leader), [1, 2]);
    assert_eq!(group.configuration().0, [2, 3]);
}

/// While it has more than all others it would refuse its vote to each of them, and they need it until they apply the removal.
#[test]
fn a_removed_leader_may_leave_only_when_another_has_all_that_it_has() {
    let mut group = Group::led(2);
    group.slow_to_apply.extend([1, 2]);
    assert!(group.node(1).propose_conf_change(&remove(1)));
    group.settle();
    assert!(group.node(1).propose([entry(1)]));
    assert!(!group.node(1).may_leave());
    assert!(!group.node(1).takes_proposals(), "the others could never catch up");
    group.settle();
    assert!(group.status(1).is_leader && group.node(1).may_leave());
    group.slow_to_apply.clear();
    group.settle();
    group.tick_until(3, |group| group.leader() == Some(2));
}

#[test]
fn a_removed_leader_outlives_what_its_disk_still_writes() {
    let mut group = Group::led(3);
    group.slow_to_write.insert(1);
    group.make(1, &remove(1));
    group.propose(1, 1);
    let unwritten = std::mem::take(&mut group.peers.get_mut(&1).unwrap().unwritten);
    let (removal, behind) = unwritten.split_first().expect("the removal is being written");
    group.node(1).on_persisted(*removal);
    group.settle();
    assert!(!group.status(1).is_member && !group.status(1).is_leader);
    group.slow_to_write.clear();
    // raft-rs as it is looks for the own progress here, which is gone, and panics.
    group.node(1).on_persisted(*behind.last().expect("the request is being written"));
    group.settle();
    group.tick_until(3, |group| group.leader().is_some());
}

#[test]
fn a_read_index_of_a_follower_is_confirmed_by_the_leader() {
    let mut group = Group::led(3);
    group.propose(1, 1);
    group.node(2).read_index(77);
    group.settle();
    assert_eq!(group.peers[&2].reads, [(77, group.status(1).committed)]);
}

/// Who removes the other of two voters, and forgets that this was committed, waits for ever for a vote of one that is gone.
#[test]
fn a_change_is_committed_for_others_only_when_the_leaders_disk_has_it() {
    let mut group = Group::led(2);
    let commits = |group: &mut Group| {
        let mut found = Vec::new();
        for id in [1, 2, 1] {
            while let Some(work) = group.node(id).take_work() {
                let number = work.number;
                if id == 1 && !work.committed.is_empty() {
                    found.push((work.commits_change, work.must_sync, work.hard_state.is_some()));
                }
                for message in work.messages.into_iter().chain(work.messages_when_durable) {
                    let to = message.to();
                    group.node(to).step(message).unwrap();
                }
                group.node(id).on_persisted(number);
            }
        }
        found
    };
    assert!(group.node(1).propose([entry(1)]));
    assert_eq!(commits(&mut group), [(false, false, true)]);
    assert!(group.node(1).propose_conf_change(&remove(2)));
    assert_eq!(commits(&mut group), [(true, true, true)]);
    assert!(group.node(1).propose([entry(2)]));
    assert_eq!(commits(&mut group), [(false, false, true)], "said once");
}

/// Its vote is needed until the others know that it is no more.
#[test]
fn a_removed_leader_may_leave_only_when_who_stays_knows_it() {
    let hand_over = |group: &mut Group, id| {
        while let Some(work) = group.node(id).take_work() {
            let number = work.number;
            for message in work.messages.into_iter().chain(work.messages_when_durable) {
                let to = message.to();
                group.node(to).step(message).unwrap();
            }
            group.node(id).on_persisted(number);
        }
    };
    let mut group = Group::led(2);
    group.settle();
    assert!(group.node(1).propose_conf_change(&remove(1)));
    hand_over(&mut group, 1);
    hand_over(&mut group, 2);
    assert!(group.status(1).committed > group.status(2).committed, "only the leader knows, yet");
    assert!(!group.node(1).may_leave());
    hand_over(&mut group, 1);
    hand_over(&mut group, 2);
    assert!(group.node(1).may_leave());
}
