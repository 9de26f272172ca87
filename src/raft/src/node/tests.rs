use super::*;
use prost::Message as _;
use rand_chacha::rand_core::SeedableRng;

const ME: MemberId = MemberId(0x8e9e_05c5_2164_694d);

fn founding_entry() -> raftpb::Entry {
    let change = raftpb::ConfChange {
        id: None,
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
        node_id: Some(ME.0),
        context: Some(Bytes::from_static(b"{}")),
    };
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        term: Some(1),
        index: Some(1),
        data: Some(change.encode_to_vec().into()),
    }
}

fn founder() -> Node {
    let config = NodeConfig {
        id: ME,
        election_ticks: 10,
        pre_vote: true,
        applied: LogIndex(0),
        base: Position::default(),
        entries: vec![founding_entry()],
        hard_state: raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(1) },
        conf_state: raftpb::ConfState::default(),
    };
    Node::new(config, ChaCha8Rng::from_seed([1; 32])).unwrap()
}

/// Does all work at once; returns what was committed.
fn settle(node: &mut Node) -> Vec<Committed> {
    let mut all = Vec::new();
    while let Some(work) = node.take_work() {
        node.on_persisted(work.number);
        for entry in work.committed {
            if let Payload::ConfChange(change) = &entry.payload {
                node.apply_conf_change(change).unwrap();
            }
            node.on_applied(entry.index);
            all.push(entry);
        }
    }
    all
}

fn leader() -> Node {
    let mut node = founder();
    settle(&mut node);
    node.campaign_if_alone();
    settle(&mut node);
    assert!(node.status().is_leader);
    node
}

#[test]
fn a_founder_applies_its_own_membership_then_leads_term_two() {
    let mut node = founder();
    assert!(!node.status().is_sole_voter);
    let founding = settle(&mut node);
    assert!(matches!(founding[..], [Committed { index: LogIndex(1), term: Term(1), payload: Payload::ConfChange(_) }]));
    node.campaign_if_alone();
    let first = settle(&mut node);
    assert_eq!(first, [Committed { index: LogIndex(2), term: Term(2), payload: Payload::Empty }]);
    let status = node.status();
    assert_eq!(status.leader, Some(ME));
    assert!(status.has_committed_in_term && status.is_sole_voter);
}

#[test]
fn a_batch_is_one_append_and_counts_only_when_persisted() {
    let mut node = leader();
    assert!(node.propose([Bytes::from_static(b"a"), Bytes::from_static(b"b")]));
    let work = node.take_work().unwrap();
    assert_eq!(work.entries.len(), 2);
    assert!(work.must_sync && work.committed.is_empty());
    // The next batch may be handed out before the first is durable, but neither is committed.
    assert!(node.propose([Bytes::from_static(b"c")]));
    let next = node.take_work().unwrap();
    assert!(next.committed.is_empty() && node.take_work().is_none());
    node.on_persisted(work.number);
    let after = node.take_work().unwrap();
    let payloads: Vec<_> = after.committed.iter().map(|entry| entry.payload.clone()).collect();
    assert_eq!(payloads, [Payload::Request(Bytes::from_static(b"a")), Payload::Request(Bytes::from_static(b"b"))]);
    node.on_persisted(after.number);
    node.on_persisted(next.number);
    assert_eq!(settle(&mut node).len(), 1);
}

#[test]
fn nothing_is_proposed_without_a_leader() {
    let mut node = founder();
    settle(&mut node);
    assert!(!node.propose([Bytes::from_static(b"a")]));
}

#[test]
fn a_read_index_is_confirmed_at_once_by_a_sole_voter() {
    let mut node = leader();
    node.read_index(77);
    let work = node.take_work().unwrap();
    assert_eq!(work.reads, [(77, LogIndex(2))]);
}

#[test]
fn the_same_seed_draws_the_same_timeouts() {
    let draw = |seed| {
        let mut node = founder();
        node.jitter = ChaCha8Rng::from_seed([seed; 32]);
        (0..20)
            .map(|_| {
                node.draw_election_timeout();
                node.election_timeout_ticks
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    assert!(draw(3).iter().all(|ticks| (10..20).contains(ticks)));
}

#[test]
fn who_installs_a_snapshot_does_not_want_to_lead_but_votes() {
    const LEADER: u64 = 7;
    let mut node = founder();
    settle(&mut node);
    let conf_state = raftpb::ConfState { voters: vec![ME.0, LEADER], ..raftpb::ConfState::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(100), term: Some(5) };
    let message = |kind: raftpb::MessageType, term| raftpb::Message {
        r#type: Some(kind as i32),
        to: Some(ME.0),
        from: Some(LEADER),
        term: Some(term),
        ..raftpb::Message::default()
    };
    let snapshot = raftpb::Snapshot { data: Some(Bytes::new()), metadata: Some(metadata) };
    node.step(raftpb::Message { snapshot: Some(snapshot), ..message(raftpb::MessageType::MsgSnap, 5) }).unwrap();
    while let Some(work) = node.take_work() {
        node.on_persisted(work.number);
    }
    // The log stands at the snapshot, the state does not.
    for _ in 0..100 {
        node.tick();
    }
    node.step(message(raftpb::MessageType::MsgTimeoutNow, 5)).unwrap();
    assert_eq!((node.status().term, node.raw.raft.state), (Term(5), StateRole::Follower));
    let asked = raftpb::Message { index: Some(100), log_term: Some(5), ..message(raftpb::MessageType::MsgVote, 6) };
    node.step(asked).unwrap();
    assert_eq!(node.raw.raft.vote, LEADER, "its leader was not heard of for long");
    node.on_applied(LogIndex(100));
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!(node.raw.raft.state, StateRole::PreCandidate);
}

#[test]
fn a_sole_voter_leads_once_its_log_is_on_disk() {
    const LEADER: u64 = 7;
    let mut node = founder();
    settle(&mut node);
    let message = |kind: raftpb::MessageType| raftpb::Message {
        r#type: Some(kind as i32),
        to: Some(ME.0),
        from: Some(LEADER),
        term: Some(5),
        ..raftpb::Message::default()
    };
    // The leader's last words: it has left the cluster, and its successor is alone.
    let entry = raftpb::Entry { r#type: Some(0), term: Some(5), index: Some(2), data: None };
    let append = raftpb::Message {
        index: Some(1),
        log_term: Some(1),
        commit: Some(1),
        entries: vec![entry],
        ..message(raftpb::MessageType::MsgApp)
    };
    node.step(append).unwrap();
    let work = node.take_work().unwrap();
    assert_eq!(work.entries.len(), 1);
    node.step(message(raftpb::MessageType::MsgTimeoutNow)).unwrap();
    for _ in 0..100 {
        node.tick();
    }
    assert_eq!((node.status().term, node.raw.raft.state), (Term(5), StateRole::Follower));
    node.on_persisted(work.number);
    node.tick();
    assert_eq!((node.status().term, node.raw.raft.state), (Term(6), StateRole::Leader));
}
