//! Snapshots: what a view exports, another store imports, and both answer alike.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use prost::Message as _;
use quorate_bolt::{Planner, Reader, Writer};
use quorate_proto::etcdserverpb::*;
use quorate_proto::membershippb;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::raftpb::{ConfChange, ConfState};
use quorate_runtime::disk::{Disk, OpenMode};
use quorate_types::{LogIndex, Revision, Term};

use super::disk::{Dice, MemoryDisk};
use super::histories::request;
use super::{Bench, FILE, entry};
use crate::snapshot::import_on;
use crate::{Command, HashKv, Imported, ReadError, Store, StoreError, StoreOptions, View};

const SNAPSHOT: &str = "member/snap/0000000000000007.snap.db";
const COPY: &str = "member/snap/copy";

fn options() -> StoreOptions {
    StoreOptions { compaction_batch_rows: 2, ..StoreOptions::default() }
}

/// The file that a view exports.
fn exported(view: &View) -> Vec<u8> {
    let mut export = view.snapshot().expect("an undamaged store");
    assert_eq!((export.index(), export.term()), view.applied());
    assert_eq!(export.conf_state(), view.conf_state());
    let mut file = Vec::new();
    while let Some(chunk) = export.next_chunk().expect("an undamaged store") {
        file.extend_from_slice(&chunk);
    }
    assert_eq!(file.len() as u64, export.len_bytes());
    assert!(export.next_chunk().expect("an end is an end").is_none());
    file
}

fn put_file(disk: &MemoryDisk, path: &str, contents: Vec<u8>) {
    disk.open(Path::new(path), OpenMode::OpenOrCreate).expect("a healthy disk");
    disk.set_contents(Path::new(path), contents);
}

fn import(disk: &MemoryDisk, file: Vec<u8>) -> Result<(Imported, Store), StoreError> {
    put_file(disk, SNAPSHOT, file);
    let imported = import_on(disk, Path::new(SNAPSHOT), Path::new(COPY), &options())?;
    Ok((imported, Store::open_on(disk, Path::new(COPY), options())?))
}

fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..RangeRequest::default() }
}

fn hash(view: &View, revision: i64) -> Result<HashKv, quorate_types::Error> {
    view.hash_kv(Revision(revision)).map_err(|error| match error {
        ReadError::Refused(error) => error,
        ReadError::Damaged(error) | ReadError::Closed(error) => panic!("{error}"),
    })
}

/// All that can be asked of a view, but the hashes that compactions have left.
fn check_alike(copy: &View, original: &View) {
    assert_eq!(copy.applied(), original.applied());
    assert_eq!(copy.revision(), original.revision());
    assert_eq!(copy.compact_revision(), original.compact_revision());
    assert_eq!(copy.leases(), original.leases());
    assert_eq!(copy.alarms(), original.alarms());
    assert_eq!(copy.members(), original.members());
    assert_eq!(copy.removed(), original.removed());
    assert_eq!(copy.cluster_version(), original.cluster_version());
    assert_eq!(copy.downgrade_target(), original.downgrade_target());
    assert_eq!(copy.membership_v2_json(), original.membership_v2_json());
    assert_eq!(copy.conf_state().voters, original.conf_state().voters);
    assert_eq!(copy.conf_state().learners, original.conf_state().learners);
    let first = original.compact_revision().0.max(1);
    for revision in first..=original.revision().0 {
        let range = |view: &View| view.range(&everything(revision)).expect("a kept revision");
        assert_eq!(range(copy), range(original), "revision {revision}");
        let mut left = original.compaction_hashes().iter().chain(copy.compaction_hashes());
        let left = left.any(|left| left.hash_revision.0 == revision);
        if !left {
            assert_eq!(hash(copy, revision), hash(original, revision), "revision {revision}");
        }
    }
}

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Request(Box<InternalRaftRequest>),
    AddMember(u64),
    RemoveMember(u64),
    Jobs,
    OneJob,
}

fn step() -> impl Strategy<Value = Step> {
    let small = prop_oneof![
        (1..3i32, 1..5u64, 1..3i32).prop_map(|(action, member_id, alarm)| InternalRaftRequest {
            // Put on and at once taken off again in another order: an alarm that stood would refuse everything else.
            alarm: Some(AlarmRequest {
                action: if alarm == 2 { 2 } else { action },
                member_id: member_id << 60,
                alarm: 7 + alarm
            }),
            ..InternalRaftRequest::default()
        }),
        (1..4i64, 1..100i64).prop_map(|(id, remaining_ttl)| InternalRaftRequest {
            lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints: vec![LeaseCheckpoint { id, remaining_ttl }] }),
            ..InternalRaftRequest::default()
        }),
        prop_oneof![Just("3.6.0"), Just("3.7.0")].prop_map(|version| InternalRaftRequest {
            cluster_version_set: Some(membershippb::ClusterVersionSetRequest { ver: version.into() }),
            ..InternalRaftRequest::default()
        }),
    ];
    prop_oneof![
        30 => request().prop_map(Step::Request),
        3 => small.prop_map(|request| Step::Request(Box::new(request))),
        1 => (1..200u64).prop_map(Step::AddMember),
        1 => (1..200u64).prop_map(Step::RemoveMember),
        1 => Just(Step::Jobs),
        4 => Just(Step::OneJob),
    ]
}

fn run(bench: &mut Bench, step: Step) {
    let conf_change = |kind, id: u64| {
        let context = format!(r#"{{"id":{id},"peerURLs":["http://m{id}:2380"],"name":"m{id}"}}"#);
        ConfChange { r#type: Some(kind), node_id: Some(id), context: Some(context.into()), ..ConfChange::default() }
    };
    let change = match step {
        Step::Request(request) => {
            bench.apply(Command::Request(request));
            return;
        }
        Step::Jobs => {
            bench.run_jobs().expect("a healthy disk");
            return;
        }
        Step::OneJob => {
            if let Some(at) = bench.store.next_job_at() {
                bench.now = bench.now.max(at);
                if let Some(job) = bench.store.take_job(bench.now) {
                    bench.store.finish_job(job.run(&bench.disk), bench.now).expect("a healthy disk");
                }
            }
            return;
        }
        Step::AddMember(id) => conf_change(0, id),
        Step::RemoveMember(id) => conf_change(1, id),
    };
    let mut conf_state = ConfState { auto_leave: Some(false), ..ConfState::clone(&bench.store.conf_state()) };
    if let Err(error) = bench.store.check_conf_change(&change) {
        bench.apply(Command::RefusedConfChange(error));
        return;
    }
    match change.r#type {
        Some(0) => conf_state.voters.push(change.node_id()),
        _ => conf_state.voters.retain(|id| *id != change.node_id()),
    }
    bench.apply(Command::ConfChange { change, conf_state });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, rng_seed: RngSeed::Fixed(8), failure_persistence: None, max_shrink_iters: 2000, ..Default::default()
    })]
    #[test]
    fn a_store_made_of_a_snapshot_answers_as_the_one_that_it_was_taken_of(
        before in prop::collection::vec(step(), 1..60),
        meanwhile in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(request(), 0..20),
    ) {
        let mut bench = Bench::new(options());
        before.into_iter().for_each(|step| run(&mut bench, step));
        let view = bench.store.reader().view();
        let file = exported(&view);

        // A view does not change, and so neither does what it exports. An export that has begun goes on.
        let mut begun = view.snapshot().expect("an undamaged store");
        let first = begun.next_chunk().expect("an undamaged store");
        meanwhile.into_iter().for_each(|step| run(&mut bench, step));
        let rest = std::iter::from_fn(|| begun.next_chunk().expect("an undamaged store"));
        let chunks: Vec<Bytes> = first.into_iter().chain(rest).collect();
        prop_assert!(chunks.concat() == file);
        prop_assert!(exported(&view) == file);

        let disk = MemoryDisk::default();
        let (imported, store) = import(&disk, file.clone()).expect("an honest snapshot");
        prop_assert_eq!((imported.index, imported.term), view.applied());
        prop_assert_eq!(imported.revision, view.revision());
        prop_assert_eq!(&imported.conf_state, &*store.conf_state());
        check_alike(&store.reader().view(), &view);
        prop_assert!(exported(&store.reader().view()) == file, "the snapshot of the copy is another one");

        // And both go on alike from there, compactions that were under way included.
        let mut original = {
            let disk = MemoryDisk::default();
            let store = import(&disk, file).expect("an honest snapshot").1;
            Bench { disk, options: options(), store, now: bench.now }
        };
        let mut copy = Bench { disk, options: options(), store, now: bench.now };
        for request in after {
            let outcome = original.apply(Command::Request(request.clone()));
            prop_assert_eq!(copy.apply(Command::Request(request)), outcome);
            copy.run_jobs().expect("a healthy disk");
        }
        check_alike(&copy.store.reader().view(), &original.store.reader().view());
    }
}

/// A store with some of everything, nothing of it flushed.
fn filled() -> Bench {
    let mut bench = Bench::new(options());
    for (id, kind) in [(0x8e9e_05c5_2164_694d, 0), (0xabc, 0), (0xabc, 1)] {
        let context = format!(r#"{{"id":{id},"peerURLs":["http://127.0.0.1:2380"]}}"#)
            .replace("2380", if id == 0xabc { "1" } else { "2380" });
        let change = ConfChange {
            r#type: Some(kind),
            node_id: Some(id),
            context: Some(context.into()),
            ..ConfChange::default()
        };
        let conf_state =
            ConfState { voters: vec![0x8e9e_05c5_2164_694d], auto_leave: Some(false), ..ConfState::default() };
        bench.apply(match bench.store.check_conf_change(&change) {
            Ok(()) => Command::ConfChange { change, conf_state },
            Err(error) => Command::RefusedConfChange(error),
        });
    }
    let attributes = membershippb::Attributes { name: "m1".into(), client_urls: vec!["http://127.0.0.1:2379".into()] };
    bench.apply(entry(|request| {
        request.cluster_member_attr_set = Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: 0x8e9e_05c5_2164_694d,
            member_attributes: Some(attributes),
        });
    }));
    bench.apply(entry(|request| {
        request.cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() });
    }));
    bench.apply(entry(|request| request.lease_grant = Some(LeaseGrantRequest { id: 7, ttl: 60 })));
    bench.apply(entry(|request| {
        request.alarm = Some(AlarmRequest { action: 1, member_id: 5, alarm: 9 });
    }));
    for (key, value, lease) in [("a", "1", 0), ("b", "2", 7), ("a", "3", 0)] {
        let put = PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
        bench.apply(entry(|request| request.put = Some(put)));
    }
    bench.apply(entry(|request| {
        request.delete_range = Some(DeleteRangeRequest { key: "b".into(), ..DeleteRangeRequest::default() });
    }));
    bench.apply(entry(|request| request.compaction = Some(CompactionRequest { revision: 3, physical: false })));
    bench
}

/// What a snapshot file holds: bucket, key and value.
type Contents = Vec<(Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>)>;

fn contents(file: &[u8]) -> Contents {
    let disk = MemoryDisk::default();
    put_file(&disk, SNAPSHOT, file.to_vec());
    let handle = disk.open(Path::new(SNAPSHOT), OpenMode::ReadOnly).expect("just written");
    let reader = Reader::open(handle, Path::new(SNAPSHOT)).expect("a whole file");
    let pairs = |bucket: &quorate_bolt::Bucket| {
        bucket.entries().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).expect("whole")).collect()
    };
    reader.buckets().map(|(name, bucket)| (name.to_vec(), pairs(bucket))).collect()
}

fn file_of(contents: &Contents) -> Vec<u8> {
    let mut planner = Planner::new(quorate_bolt::PAGE_BYTES);
    for (name, pairs) in contents {
        planner.bucket(name.len());
        pairs.iter().for_each(|(key, value)| planner.pair(key.len(), value.len()));
    }
    let mut writer = Writer::new(planner.finish());
    for (name, pairs) in contents {
        writer.bucket(name).expect("in order");
        pairs.iter().for_each(|(key, value)| writer.pair(key, value).expect("in order"));
    }
    writer.finish().expect("as planned");
    std::iter::from_fn(|| writer.pop_chunk()).flatten().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Byte for byte what peer.md shows of an etcd's file.
#[test]
fn the_buckets_are_those_of_etcd() {
    let bench = filled();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut lines = Vec::new();
    for (bucket, pairs) in contents(&exported(&bench.store.reader().view())) {
        lines.push(text(&bucket));
        for (key, value) in pairs {
            let is_text = |bytes: &[u8]| bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
            let shown = |bytes: &[u8]| if is_text(bytes) { text(bytes) } else { hex(bytes) };
            lines.push(format!("  {} = {}", shown(&key), shown(&value)));
        }
    }
    let expected = r#"
alarm
  08051009 =
auth
  authRevision = 0000000000000001
authRoles
authUsers
cluster
  clusterVersion = 3.7.0
key
  00000000000000025f0000000000000000 = 0a01611002180220012a0131
  00000000000000035f0000000000000000 = 0a0162100318032001 2a01323007
  00000000000000045f0000000000000000 = 0a016110021804200 22a0133
  00000000000000055f000000000000000074 = 0a0162
lease
  0000000000000007 = 0807103c
members
  8e9e05c52164694d = {"id":10276657743932975437,"peerURLs":["http://127.0.0.1:2380"],"name":"m1","clientURLs":["http://127.0.0.1:2379"]}
members_removed
  abc = removed
meta
  confState = {"voters":[10276657743932975437],"auto_leave":false}
  consistent_index = 000000000000000c
  scheduledCompactRev = 00000000000000035f0000000000000000
  storageVersion = 3.7.0
  term = 0000000000000001
"#;
    let squeezed =
        |text: &str| text.lines().map(|line| line.replace(' ', "")).filter(|line| !line.is_empty()).collect::<Vec<_>>();
    assert_eq!(squeezed(&lines.join("\n")), squeezed(expected));
}

type Change = Box<dyn FnOnce(&mut Contents)>;

/// Changes one thing of an honest snapshot.
fn changed(change: impl FnOnce(&mut Contents)) -> Result<(Imported, Store), StoreError> {
    let mut found = contents(&exported(&filled().store.reader().view()));
    change(&mut found);
    found.sort();
    found.iter_mut().for_each(|(_, pairs)| pairs.sort());
    import(&MemoryDisk::default(), file_of(&found))
}

fn set(contents: &mut Contents, bucket: &str, key: &[u8], value: &[u8]) {
    let (_, pairs) = contents.iter_mut().find(|(name, _)| name == bucket.as_bytes()).expect("the bucket");
    pairs.retain(|(found, _)| found != key);
    pairs.push((key.to_vec(), value.to_vec()));
}

fn row(key: &[u8], create: i64, modified: i64, version: i64) -> Vec<u8> {
    let kv = KeyValue {
        key: key.to_vec().into(),
        create_revision: create,
        mod_revision: modified,
        version,
        ..KeyValue::default()
    };
    kv.encode_to_vec()
}

#[test]
fn what_no_cluster_would_send_is_refused_by_name() {
    let row_key = |main: u64, sub: u64| [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat();
    let cases: Vec<(&str, Change)> = vec![
        ("bucket lease: missing", Box::new(|all| all.retain(|(name, _)| name != b"lease"))),
        ("bucket more: not one that etcd 3.7 has", Box::new(|all| all.push((b"more".to_vec(), vec![])))),
        (
            "bucket meta: key term: missing",
            Box::new(|all| {
                all.iter_mut().for_each(|(_, pairs)| pairs.retain(|(key, _)| key != b"term"));
            }),
        ),
        ("bucket meta: key term: not a positive u64", Box::new(|all| set(all, "meta", b"term", &[0; 8]))),
        (
            "bucket meta: key consistent_index: not a positive",
            Box::new(|all| set(all, "meta", b"consistent_index", b"7")),
        ),
        (
            "bucket meta: key finishedCompactRev: not a revision",
            Box::new(|all| set(all, "meta", b"finishedCompactRev", &[1; 17])),
        ),
        ("bucket meta: key confState: ", Box::new(|all| set(all, "meta", b"confState", b"{"))),
        ("bucket meta: key odd: not one that", Box::new(|all| set(all, "meta", b"odd", b""))),
        ("bucket members: key abc: holds member 1", Box::new(|all| set(all, "members", b"abc", br#"{"id":1}"#))),
        ("bucket members: key abc: ", Box::new(|all| set(all, "members", b"abc", b"{}"))),
        (
            "key 8e9e05c52164694d: still a member",
            Box::new(|all| set(all, "members_removed", b"8e9e05c52164694d", b"removed")),
        ),
        ("key 0a: not an id in hex", Box::new(|all| set(all, "members_removed", b"0a", b"removed"))),
        ("key a: not marked as removed", Box::new(|all| set(all, "members_removed", b"a", b"no"))),
        ("key clusterVersion: not a version", Box::new(|all| set(all, "cluster", b"clusterVersion", b"new"))),
        (
            "bucket cluster: key downgrade: not a version",
            Box::new(|all| {
                set(all, "cluster", b"downgrade", br#"{"target-version":"new","enabled":true}"#);
            }),
        ),
        ("bucket alarm: key odd: not an alarm", Box::new(|all| set(all, "alarm", &[8, 5], b"x"))),
        ("bucket auth: key authEnabled: auth is in use", Box::new(|all| set(all, "auth", b"authEnabled", &[1]))),
        (
            "bucket auth: key authRevision: auth is in use",
            Box::new(|all| set(all, "auth", b"authRevision", &9u64.to_be_bytes())),
        ),
        ("bucket authUsers: key root: auth is in use", Box::new(|all| set(all, "authUsers", b"root", b""))),
        ("bucket authRoles: key root: auth is in use", Box::new(|all| set(all, "authRoles", b"root", b""))),
        (
            "bucket lease: key 0000000000000008: holds lease 0",
            Box::new(|all| set(all, "lease", &8u64.to_be_bytes(), b"")),
        ),
        ("bucket key: key odd: not a revision", Box::new(|all| set(all, "key", b"odd", b""))),
        ("bucket key: key 0000000000000000", Box::new(move |all| set(all, "key", &row_key(0, 0), &row(b"k", 1, 1, 1)))),
        (
            "bucket key: key 0000000000000009",
            Box::new(move |all| set(all, "key", &row_key(9, 1 << 32), &row(b"k", 9, 9, 1))),
        ),
        ("row 9.0: not a KeyValue", Box::new(move |all| set(all, "key", &row_key(9, 0), b"odd"))),
        (
            "row 9.0: not a KeyValue",
            Box::new(move |all| {
                // The same number in two bytes.
                set(all, "key", &row_key(9, 0), &[&row(b"k", 9, 9, 0)[..], &[0x20, 0x81, 0x00]].concat());
            }),
        ),
        ("row 9.0: without a key", Box::new(move |all| set(all, "key", &row_key(9, 0), &row(b"", 9, 9, 1)))),
        (
            "row 9.0: its KeyValue contradicts",
            Box::new(move |all| set(all, "key", &row_key(9, 0), &row(b"k", 8, 8, 1))),
        ),
        (
            "row 9.0: its KeyValue contradicts",
            Box::new(move |all| set(all, "key", &row_key(9, 0), &row(b"k", 10, 9, 1))),
        ),
        (
            "row 9.0: its KeyValue contradicts",
            Box::new(move |all| set(all, "key", &row_key(9, 0), &row(b"k", 9, 9, 0))),
        ),
        (
            "row 9.0: its KeyValue contradicts",
            Box::new(move |all| {
                set(all, "key", &[&row_key(9, 0)[..], b"t"].concat(), &row(b"k", 9, 9, 1));
            }),
        ),
    ];
    for (said, change) in cases {
        let Err(error) = changed(change) else { panic!("imported: {said}") };
        assert!(matches!(error, StoreError::Snapshot { .. }), "{error}");
        let text = error.to_string();
        let said = if said.starts_with("bucket alarm") {
            "bucket alarm: key 0805: not an alarm".into()
        } else {
            said.replace("\n", "")
        };
        assert!(text.contains(&said) && text.starts_with(SNAPSHOT), "{said}: {text}");
    }
}

#[test]
fn what_depends_on_nothing_is_left_out() {
    let (imported, store) = changed(|all| {
        set(all, "meta", b"storageVersion", b"3.9.0");
        set(all, "auth", b"authEnabled", &[0]);
    })
    .expect("harmless");
    assert_eq!((imported.index, imported.term), (LogIndex(12), Term(1)));
    check_alike(&store.reader().view(), &filled().store.reader().view());
}

#[test]
fn a_downgrade_is_part_of_the_file_and_of_the_snapshot() {
    let mut bench = filled();
    let set = |bench: &mut Bench, enabled: bool, version: &str| {
        let request = membershippb::DowngradeInfoSetRequest { enabled, ver: version.into() };
        bench.apply(entry(|entry| entry.downgrade_info_set = Some(request))).result
    };
    assert_eq!(set(&mut bench, true, "older"), Err(quorate_types::Error::WrongDowngradeVersionFormat));
    assert_eq!(bench.store.reader().view().downgrade_target(), None);
    for (enabled, version, json) in [
        (true, "3.6.0", r#"{"target-version":"3.6.0","enabled":true}"#),
        (false, "", r#"{"target-version":"","enabled":false}"#),
    ] {
        assert_eq!(set(&mut bench, enabled, version), Ok(crate::Response::Empty));
        let view = bench.store.reader().view();
        assert_eq!(view.downgrade_target(), enabled.then_some(version));
        let file = exported(&view);
        let (_, cluster) = contents(&file).swap_remove(4);
        assert_eq!(cluster[1], (b"downgrade".to_vec(), json.as_bytes().to_vec()));
        let (_, store) = import(&MemoryDisk::default(), file).expect("a whole snapshot");
        check_alike(&store.reader().view(), &view);
        drop(view);
        bench.run_jobs().expect("a healthy disk");
        bench = bench.reopen().expect("an undamaged file");
        assert_eq!(bench.store.reader().view().downgrade_target(), enabled.then_some(version));
    }
}

#[test]
fn the_hash_of_everything_is_over_the_file() {
    let view = filled().store.reader().view();
    let mut expected = 0;
    for (name, pairs) in contents(&exported(&view)) {
        expected = crc32c::crc32c_append(expected, &name);
        for (key, value) in pairs {
            let is_left_out = [&b"consistent_index"[..], b"term", b"storageVersion"].contains(&&key[..]);
            if name != b"meta" || !is_left_out {
                expected = crc32c::crc32c_append(crc32c::crc32c_append(expected, &key), &value);
            }
        }
    }
    assert_eq!(view.hash().expect("an undamaged store"), expected);
}

#[test]
fn an_existing_database_is_never_imported_over() {
    let bench = filled();
    let file = exported(&bench.store.reader().view());
    put_file(&bench.disk, SNAPSHOT, file);
    let error = import_on(&bench.disk, Path::new(SNAPSHOT), Path::new(FILE), &options()).expect_err("in use");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[test]
fn a_crash_while_importing_leaves_all_or_nothing() {
    let file = exported(&filled().store.reader().view());
    let mut whole = 0;
    for operations in (0..400).step_by(3) {
        let disk = MemoryDisk::default();
        put_file(&disk, SNAPSHOT, file.clone());
        disk.open(Path::new(SNAPSHOT), OpenMode::ReadWrite).expect("there").sync_all().expect("a healthy disk");
        disk.sync_dir(Path::new("member/snap")).expect("a healthy disk");
        disk.fail_after(operations);
        let imported = import_on(&disk, Path::new(SNAPSHOT), Path::new(COPY), &options());
        disk.fail_after(0);
        disk.power_cycle(&mut Dice(operations));
        let exists = disk.exists(Path::new(COPY)).expect("power is back");
        assert!(exists || imported.is_err(), "imported, and lost");
        if !exists {
            import_on(&disk, Path::new(SNAPSHOT), Path::new(COPY), &options()).expect("another attempt");
        }
        let store = Store::open_on(&disk, Path::new(COPY), options()).expect("a whole file");
        assert_eq!(store.applied().0, LogIndex(12));
        whole += u64::from(imported.is_ok());
    }
    assert!(whole > 0, "importing takes more than 400 operations");
}

/// A row that is damaged in the database is not sent to anybody.
#[test]
fn a_damaged_row_ends_the_export() {
    let mut bench = Bench::new(options());
    for number in 0..20u8 {
        let put = PutRequest { key: vec![number].into(), value: vec![0xa5; 100].into(), ..PutRequest::default() };
        bench.apply(entry(|request| request.put = Some(put)));
    }
    bench.run_jobs().expect("a healthy disk");
    let Bench { disk, store, options, .. } = bench;
    drop(store);
    let image = disk.contents(Path::new(FILE));
    let place = image.windows(100).position(|window| window == [0xa5; 100]).expect("a value");
    disk.flip(Path::new(FILE), place + 50, 1);
    let store = Store::open_on(&disk, Path::new(FILE), options).expect("values are not read at start");
    let view = store.reader().view();
    let mut export = view.snapshot().expect("lengths are whole");
    let error = loop {
        match export.next_chunk() {
            Ok(chunk) => assert!(chunk.is_some(), "a damaged row was exported"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("checksum mismatch"), "{error}");
    let Err(ReadError::Damaged(error)) = view.hash_kv(Revision(0)) else { panic!("a damaged row was hashed") };
    assert!(error.to_string().contains("checksum mismatch"), "{error}");
}

#[test]
fn an_export_may_go_from_worker_to_worker() {
    fn is_send<T: Send>(_: &T) {}
    let view: Arc<View> = filled().store.reader().view();
    is_send(&view.snapshot().expect("an undamaged store"));
}

/// The whole tree that etcd makes of the same members, but for the history and the counters of its own doing: what
/// `etcdserver.GetMembershipInfoInV2Format` of v3.7.3 gave for a `membership.RaftCluster` with one member, one removed and a
/// version.
#[test]
fn members_as_a_v2_tree() {
    let mut expected: serde_json::Value = serde_json::from_str(include_str!("membership_v2.json")).expect("JSON");
    let json = filled().store.reader().view().membership_v2_json();
    let found: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let events = found["WatcherHub"]["EventHistory"]["Queue"]["Events"].as_array().expect("a list");
    assert!(events.len() == 1000 && events.iter().all(serde_json::Value::is_null));
    for left_out in ["WatcherHub", "Stats"] {
        expected.as_object_mut().expect("an object").remove(left_out);
    }
    for (name, expected) in expected.as_object().expect("an object") {
        assert_eq!(&found[name], expected, "{name}");
    }
}
