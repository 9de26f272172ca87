//! Founding, joining, going on and going on alone, on a disk in memory that can crash anywhere.

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::raftpb::{self, ConfChangeType};
use quorate_raft::node::{Committed, Payload};
use quorate_raft::wal::test_disk::{Dice, TestDisk, Torn};
use quorate_raft::wal::{Batch, Recovered, Wal, read_all};
use quorate_runtime::clock::MonoTime;
use quorate_store::{Command, Progress, Store};
use quorate_types::{LogIndex, Term};

use super::*;

/// A member `m1` of as many founders as `founders` says.
fn config(founders: usize) -> MemberConfig {
    let url = |number| format!("http://10.0.0.{number}:2380");
    MemberConfig {
        initial_cluster: (1..=founders).map(|number| (format!("m{number}"), vec![url(number)])).collect(),
        wal_segment_bytes: 64 << 10,
        cache_bytes: 1 << 20,
        ..MemberConfig::single("m1", Path::new("/data/m1.etcd"), &url(1), "http://10.0.0.1:2379")
    }
}

fn forced(founders: usize) -> MemberConfig {
    MemberConfig { force_new_cluster: true, ..config(founders) }
}

/// What [`plan`] would decide if nobody else could be asked.
fn boot_alone(disk: &TestDisk, config: &MemberConfig) -> Result<Booted, StartError> {
    let plan = match data_dir::has_member(&disk.rt(), config)? {
        true => Plan::GoOn,
        false => Plan::Found(Founding::of(config)?),
    };
    boot(&disk.rt(), config, plan)
}

const JOINER: MemberId = MemberId(0xc1dc_01d9_eea5_8c70);

fn joining() -> Joining {
    let other = Member {
        id: MemberId(7),
        peer_urls: vec!["http://10.0.0.7:2380".to_owned()],
        is_learner: false,
        name: "m7".to_owned(),
        client_urls: Vec::new(),
    };
    Joining { own: JOINER, cluster_id: ClusterId(0x2d02_5cca_6233_67cb), others: vec![other] }
}

fn boot_joiner(disk: &TestDisk) -> Result<Booted, StartError> {
    let config = MemberConfig { initial_cluster_state: ClusterState::Existing, ..config(3) };
    let plan = match data_dir::has_member(&disk.rt(), &config)? {
        true => Plan::GoOn,
        false => Plan::Join(joining()),
    };
    boot(&disk.rt(), &config, plan)
}

fn log(disk: &TestDisk) -> Recovered {
    read_all(&disk.rt(), &config(1).wal_path()).unwrap()
}

/// The log's entries as `index@term`, those about members with who comes (`+`), goes (`-`) or changes.
fn told(log: &Recovered) -> Vec<String> {
    let one = |entry: &raftpb::Entry| {
        let position = format!("{}@{}", entry.index(), entry.term());
        if entry.r#type() != raftpb::EntryType::EntryConfChange {
            return position;
        }
        let change = raftpb::ConfChange::decode(entry.data()).unwrap();
        let sign = match change.r#type() {
            ConfChangeType::ConfChangeAddNode => "+",
            ConfChangeType::ConfChangeAddLearnerNode => "+learner ",
            ConfChangeType::ConfChangeRemoveNode => "-",
            ConfChangeType::ConfChangeUpdateNode => "~",
        };
        let context = String::from_utf8_lossy(change.context()).into_owned();
        format!("{position} {sign}{:x} {context}", change.node_id()).trim_end().to_owned()
    };
    log.entries.iter().map(one).collect()
}

fn put(index: u64, term: u64, key: &str) -> raftpb::Entry {
    let put = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..PutRequest::default() };
    let request = InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() };
    raftpb::Entry { r#type: None, term: Some(term), index: Some(index), data: Some(request.encode_to_vec().into()) }
}

fn change(index: u64, term: u64, kind: ConfChangeType, id: u64, context: Option<String>) -> raftpb::Entry {
    let change = raftpb::ConfChange {
        id: None,
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: context.map(Bytes::from),
    };
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        data: Some(change.encode_to_vec().into()),
        ..put(index, term, "")
    }
}

fn add_learner(index: u64, term: u64, id: u64) -> raftpb::Entry {
    let context = format!(r#"{{"id":{id},"peerURLs":["http://10.0.1.{id}:2380"],"isLearner":true}}"#);
    change(index, term, ConfChangeType::ConfChangeAddLearnerNode, id, Some(context))
}

fn append(wal: &mut Wal, hard_state: (u64, u64, u64), entries: Vec<raftpb::Entry>) {
    let (term, vote, commit) = hard_state;
    let hard_state = raftpb::HardState { term: Some(term), vote: Some(vote), commit: Some(commit) };
    wal.append(&Batch { hard_state: Some(hard_state), entries, sync: true }).unwrap();
}

/// Applies what Raft says is committed, as the member's loops do; leads if it is alone. The keys that are there then.
fn run(booted: &mut Booted) -> Vec<String> {
    loop {
        booted.node.campaign_if_alone();
        let mut idle = true;
        while let Some(work) = booted.node.take_work() {
            idle = false;
            booted.wal.append(&Batch { hard_state: work.hard_state, entries: work.entries, sync: true }).unwrap();
            booted.node.on_persisted(work.number);
            for entry in work.committed {
                let index = entry.index;
                apply(booted, entry);
                booted.node.on_applied(index);
            }
        }
        if idle {
            break;
        }
    }
    booted.store.publish();
    let all = RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        keys_only: true,
        ..RangeRequest::default()
    };
    let view = booted.store.reader().view();
    let pairs = view.range(&all).unwrap().kvs;
    let key = |pair: Bytes| KeyValue::decode(pair).unwrap().key;
    pairs.into_iter().map(|pair| String::from_utf8_lossy(&key(pair)).into_owned()).collect()
}

fn apply(booted: &mut Booted, entry: Committed) {
    if entry.index <= booted.store.applied().0 {
        return;
    }
    let command = match entry.payload {
        Payload::Empty => Command::Empty,
        Payload::Request(data) => Command::Request(Box::new(InternalRaftRequest::decode(data).unwrap())),
        Payload::ConfChange(change) => match booted.store.check_conf_change(&change) {
            Ok(()) => {
                let conf_state = booted.node.apply_conf_change(&change).unwrap();
                Command::ConfChange { change, conf_state }
            }
            Err(error) => Command::RefusedConfChange(error),
        },
    };
    let progress = booted.store.start(entry.index, entry.term, command).unwrap();
    assert!(matches!(progress, Progress::Done(_)));
}

/// Everything applied goes to disk.
fn flush(disk: &TestDisk, store: &mut Store) {
    let late = MonoTime::from_nanos(1 << 60);
    while store.durable_index() < store.applied().0 {
        let job = store.take_job(late).expect("something is left to be flushed");
        store.finish_job(job.run(&*disk.rt()), late).unwrap();
    }
}

fn ids(booted: &Booted) -> Vec<MemberId> {
    booted.store.reader().view().members().iter().map(|member| member.id).collect()
}

/// A directory of `m1` of three, in which `m1` follows in term 2: puts a, b, c at 5..=7 are committed, and x, y, z at 8..=10
/// came last. What the hard state says is committed is `commit`; the database holds entries up to `flushed`.
fn survivor(commit: u64, flushed: u64) -> (TestDisk, MemberId) {
    let disk = TestDisk::default();
    let mut booted = boot_alone(&disk, &config(3)).unwrap();
    let empty = raftpb::Entry { data: None, ..put(4, 2, "") };
    let entries = vec![empty, put(5, 2, "a"), put(6, 2, "b"), put(7, 2, "c")];
    append(&mut booted.wal, (2, 7, commit), entries);
    append(&mut booted.wal, (2, 7, commit), vec![put(8, 2, "x"), put(9, 2, "y"), put(10, 2, "z")]);
    let own = booted.id;
    drop(booted);
    if flushed > 0 {
        let mut booted = boot_alone(&disk, &config(3)).unwrap();
        booted.node = {
            // As if the leader had told that `flushed` is committed.
            let mut log = log(&disk);
            log.entries.truncate(flushed as usize);
            log.hard_state.commit = Some(flushed);
            node(&booted, log)
        };
        run(&mut booted);
        flush(&disk, &mut booted.store);
        assert_eq!(booted.store.durable_index(), LogIndex(flushed));
    }
    (disk, own)
}

fn node(booted: &Booted, log: Recovered) -> Node {
    let config = NodeConfig {
        id: booted.id,
        election_ticks: 10,
        pre_vote: true,
        applied: booted.store.applied().0,
        base: Position::default(),
        entries: log.entries,
        hard_state: log.hard_state,
        conf_state: raftpb::ConfState::clone(&booted.store.conf_state()),
    };
    Node::new(config, random::generator(&*TestDisk::default().rt())).unwrap()
}

/// The founders' ids, ascending.
fn founders() -> Vec<u64> {
    let mut founders: Vec<u64> = (1..=3)
        .map(|number| crate::ids::founding_member_id(&[format!("http://10.0.0.{number}:2380")], "etcd-cluster").0)
        .collect();
    founders.sort_unstable();
    founders
}

#[test]
fn a_founding_that_a_crash_cut_short_is_finished_by_the_next_start() {
    let whole = TestDisk::default();
    drop(boot_alone(&whole, &config(3)).unwrap());
    let expected = log(&whole);
    assert_eq!(expected.entries.len(), 3);
    assert_eq!(expected.hard_state, raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(3) });
    let mut refounded = 0;
    for after in 0..whole.changes() {
        let disk = TestDisk::default();
        disk.fail_after(after);
        drop(boot_alone(&disk, &config(3)));
        disk.crash(&mut Dice::new(after), Torn::Garbage);
        refounded += u64::from(!data_dir::has_member(&disk.rt(), &config(3)).unwrap());
        let mut booted = boot_alone(&disk, &config(3)).unwrap_or_else(|error| panic!("crash {after}: {error}"));
        let log = log(&disk);
        assert_eq!((log.entries, log.hard_state), (expected.entries.clone(), expected.hard_state), "crash {after}");
        run(&mut booted);
        assert_eq!(ids(&booted).len(), 3);
    }
    assert!(refounded > 0 && refounded < whole.changes());
}

#[test]
fn a_join_that_a_crash_cut_short_is_finished_by_the_next_start_and_founds_nothing() {
    let whole = TestDisk::default();
    drop(boot_joiner(&whole).unwrap());
    let mut joined_again = 0;
    for after in 0..whole.changes() {
        let disk = TestDisk::default();
        disk.fail_after(after);
        drop(boot_joiner(&disk));
        disk.crash(&mut Dice::new(after), Torn::Garbage);
        joined_again += u64::from(!data_dir::has_member(&disk.rt(), &config(3)).unwrap());
        let mut booted = boot_joiner(&disk).unwrap_or_else(|error| panic!("crash {after}: {error}"));
        assert_eq!((booted.id, booted.cluster_id), (JOINER, ClusterId(0x2d02_5cca_6233_67cb)));
        run(&mut booted);
        let status = booted.node.status();
        assert!(!status.is_member && !status.is_leader && status.committed == LogIndex(0), "crash {after}: {status:?}");
        assert_eq!(ids(&booted), []);
        assert_eq!(told(&log(&disk)), Vec::<String>::new());
    }
    assert!(joined_again > 0 && joined_again < whole.changes());
}

#[test]
fn a_joiner_that_starts_again_ignores_the_flags_and_waits_for_the_leader() {
    let disk = TestDisk::default();
    let first = boot_joiner(&disk).unwrap();
    assert_eq!(first.others.len(), 1);
    drop(first);
    // State `new`, other names, nobody to ask.
    let elsewhere = MemberConfig { name: "x".to_owned(), initial_cluster: Vec::new(), ..config(3) };
    let mut again = boot(&disk.rt(), &elsewhere, Plan::GoOn).unwrap();
    assert_eq!(again.id, JOINER);
    // The leader's first words: its term, and nothing to commit.
    let heartbeat = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgHeartbeat as i32),
        from: Some(7),
        to: Some(JOINER.0),
        term: Some(5),
        commit: Some(0),
        ..raftpb::Message::default()
    };
    again.node.step(heartbeat).unwrap();
    run(&mut again);
    assert_eq!((again.node.status().leader, again.node.status().term), (Some(MemberId(7)), Term(5)));
    assert!(again.node.hears_a_leader());
}

#[test]
fn a_survivor_keeps_what_was_committed_and_goes_on_alone_for_good() {
    let (disk, own) = survivor(7, 0);
    let mut booted = boot_alone(&disk, &forced(3)).unwrap();
    let others: Vec<u64> = founders().into_iter().filter(|id| *id != own.0).collect();
    assert_eq!(booted.dropped.iter().map(|id| id.0).collect::<Vec<_>>(), others);
    let written = log(&disk);
    assert_eq!(told(&written)[7..], [format!("8@3 -{:x}", others[0]), format!("9@3 -{:x}", others[1])]);
    assert_eq!(written.hard_state, raftpb::HardState { term: Some(3), vote: Some(own.0), commit: Some(9) });
    assert_eq!(run(&mut booted), ["a", "b", "c"]);
    assert!(booted.node.status().is_leader);
    assert_eq!(ids(&booted), [own]);
    let view = booted.store.reader().view();
    assert_eq!(view.removed().iter().map(|id| id.0).collect::<Vec<_>>(), others);
    assert_eq!(view.members()[0].peer_urls, ["http://10.0.0.1:2380"]);
    drop(view);
    drop(booted);

    // With nothing flushed, the next start without the flag finds all of it in the log.
    let mut again = boot_alone(&disk, &config(3)).unwrap();
    assert_eq!(run(&mut again), ["a", "b", "c"]);
    assert!(again.node.status().is_leader);
    assert_eq!((ids(&again), again.dropped.len()), (vec![own], 0));
}

#[test]
fn what_the_database_holds_was_committed_whatever_the_hard_state_says() {
    for flushed in [4, 6, 7] {
        let (disk, own) = survivor(3, flushed);
        let mut booted = boot_alone(&disk, &forced(3)).unwrap();
        assert_eq!(run(&mut booted), ["a", "b", "c"][..flushed as usize - 4]);
        assert_eq!((ids(&booted), booted.node.status().is_leader), (vec![own], true));
        flush(&disk, &mut booted.store);
        drop(booted);
        let mut again = boot_alone(&disk, &config(3)).unwrap();
        assert_eq!(ids(&again), [own]);
        run(&mut again);
        assert!(again.node.status().is_leader);
    }
}

#[test]
fn a_sole_voter_loses_nothing_and_its_learners_go() {
    let disk = TestDisk::default();
    let mut booted = boot_alone(&disk, &config(1)).unwrap();
    let own = booted.id;
    run(&mut booted);
    append(&mut booted.wal, (2, own.0, 1), vec![put(2, 2, "a"), add_learner(3, 2, 9), put(4, 2, "b")]);
    drop(booted);
    let mut booted = boot_alone(&disk, &forced(1)).unwrap();
    assert_eq!(booted.dropped, [MemberId(9)]);
    assert_eq!(told(&log(&disk))[4..], ["5@3 -9"]);
    assert_eq!(run(&mut booted), ["a", "b"]);
    assert_eq!((ids(&booted), booted.node.status().is_leader), (vec![own], true));
    // Acknowledged, and the commit index not written yet.
    append(&mut booted.wal, (4, own.0, 6), vec![put(7, 4, "c")]);
    drop(booted);

    // The flag stays where it was: nothing more is written, and nothing lost.
    let before = told(&log(&disk));
    let mut again = boot_alone(&disk, &forced(1)).unwrap();
    assert_eq!(told(&log(&disk)), before);
    assert_eq!(run(&mut again), ["a", "b", "c"]);
}

#[test]
fn a_voter_that_was_being_added_ends_what_one_member_may_count_as_committed() {
    let disk = TestDisk::default();
    let mut booted = boot_alone(&disk, &config(1)).unwrap();
    let own = booted.id;
    let added = r#"{"id":9,"peerURLs":["http://10.0.1.9:2380"]}"#.to_owned();
    let added = change(3, 2, ConfChangeType::ConfChangeAddNode, 9, Some(added));
    append(&mut booted.wal, (2, own.0, 1), vec![put(2, 2, "a"), added, put(4, 2, "b")]);
    drop(booted);
    let mut booted = boot_alone(&disk, &forced(1)).unwrap();
    assert_eq!(run(&mut booted), ["a"]);
    assert_eq!((ids(&booted), booted.node.status().is_leader), (vec![own], true));
}

#[test]
fn a_learner_becomes_the_voter_that_is_left() {
    let disk = TestDisk::default();
    let mut booted = boot_joiner(&disk).unwrap();
    let voter = r#"{"id":7,"peerURLs":["http://10.0.0.7:2380"],"name":"m7"}"#.to_owned();
    let entries = vec![
        change(1, 1, ConfChangeType::ConfChangeAddNode, 7, Some(voter)),
        put(2, 2, "a"),
        add_learner(3, 2, JOINER.0),
        put(4, 2, "b"),
        put(5, 2, "x"),
    ];
    append(&mut booted.wal, (2, 0, 4), entries);
    drop(booted);
    let mut booted = boot_alone(&disk, &forced(3)).unwrap();
    let written = told(&log(&disk));
    assert_eq!(run(&mut booted), ["a", "b"]);
    assert_eq!((ids(&booted), booted.node.status().is_leader), (vec![JOINER], true));
    assert!(!booted.store.reader().view().members()[0].is_learner);
    let expected =
        [format!(r#"5@3 +{JOINER} {{"id":{},"peerURLs":null,"isPromote":true}}"#, JOINER.0), "6@3 -7".to_owned()];
    assert_eq!(written[4..], expected);
}

#[test]
fn a_log_that_does_not_know_its_owner_gets_it_at_etcds_default_url() {
    let disk = TestDisk::default();
    let mut booted = boot_joiner(&disk).unwrap();
    let voter = r#"{"id":7,"peerURLs":["http://10.0.0.7:2380"],"name":"m7"}"#.to_owned();
    append(
        &mut booted.wal,
        (2, 0, 2),
        vec![change(1, 1, ConfChangeType::ConfChangeAddNode, 7, Some(voter)), put(2, 2, "a")],
    );
    drop(booted);
    let mut booted = boot_alone(&disk, &forced(3)).unwrap();
    let written = told(&log(&disk));
    assert_eq!(run(&mut booted), ["a"]);
    assert!(booted.node.status().is_leader);
    let view = booted.store.reader().view();
    assert_eq!((view.members().len(), view.members()[0].id), (1, JOINER));
    assert_eq!(view.members()[0].peer_urls, ["http://localhost:2380"]);
    let expected = format!(r#"3@3 +{JOINER} {{"id":{},"peerURLs":["http://localhost:2380"]}}"#, JOINER.0);
    assert_eq!(written[2..], [expected, "4@3 -7".to_owned()]);
}

#[test]
fn a_removed_member_goes_on_neither_with_others_nor_alone() {
    let (disk, own) = survivor(7, 0);
    let mut booted = boot_alone(&disk, &config(3)).unwrap();
    append(&mut booted.wal, (2, 7, 8), vec![change(8, 2, ConfChangeType::ConfChangeRemoveNode, own.0, None)]);
    drop(booted);
    let before = told(&log(&disk));
    // The removal is in the log alone, and then in the database.
    for is_flushed in [false, true] {
        let refused = boot_alone(&disk, &forced(3)).err().expect("refused").to_string();
        assert!(refused.contains("was removed from its cluster"), "{refused}");
        assert_eq!(told(&log(&disk)), before);
        match boot_alone(&disk, &config(3)) {
            Ok(mut booted) => {
                assert!(!is_flushed);
                run(&mut booted);
                assert!(!booted.node.status().is_member);
                flush(&disk, &mut booted.store);
            }
            Err(error) => {
                assert!(is_flushed);
                assert!(matches!(error, StartError::Removed { id } if id == own), "{error}");
            }
        }
    }
}

#[test]
fn a_crash_while_being_forced_leaves_the_old_cluster_or_one_that_wants_the_flag_again_or_the_new_one() {
    let (whole, own) = survivor(7, 0);
    let before = whole.changes();
    drop(boot_alone(&whole, &forced(3)).unwrap());
    let changes = whole.changes() - before;
    let mut seen = std::collections::BTreeSet::new();
    for after in 0..=changes {
        let (disk, _) = survivor(7, 0);
        disk.fail_after(after);
        drop(boot_alone(&disk, &forced(3)));
        disk.crash(&mut Dice::new(after), Torn::Garbage);
        match boot_alone(&disk, &config(3)) {
            Ok(mut booted) => {
                run(&mut booted);
                let is_alone = ids(&booted) == [own];
                assert_eq!(booted.node.status().is_leader, is_alone);
                if !is_alone {
                    assert_eq!(ids(&booted).len(), 3);
                    assert!(log(&disk).entries.iter().all(|entry| entry.term() < 3), "crash {after}");
                }
                seen.insert(if is_alone { "new" } else { "old" });
            }
            Err(error) => {
                assert!(error.to_string().contains("start this member once more with that flag"), "{error}");
                seen.insert("interrupted");
            }
        }
        let mut booted = boot_alone(&disk, &forced(3)).unwrap_or_else(|error| panic!("crash {after}: {error}"));
        assert_eq!(run(&mut booted), ["a", "b", "c"], "crash {after}");
        assert_eq!((ids(&booted), booted.node.status().is_leader), (vec![own], true));
        drop(booted);
        let mut again = boot_alone(&disk, &config(3)).unwrap();
        run(&mut again);
        assert!(again.node.status().is_leader, "crash {after}");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["interrupted", "new", "old"]);
}
