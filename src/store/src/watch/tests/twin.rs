//! Whatever clients ask, write, compact and leave unread: every watch is ordered, complete, without repetition, whole in each
//! revision, true about the past and about progress, and ends only where its history does.
//!
//! The naive history is a list of revisions; what a watch must be told follows from it by looking at every event.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use super::small_steps;
use crate::mvcc::encode::Fields;
use crate::mvcc::index::KeyRange;
use crate::testing::{Bench, entry};
use crate::watch::{Answer, NewWatch, StreamId, WatchHub, WatchLimits};
use crate::{Command, StoreOptions};

#[derive(Clone, Debug)]
enum Step {
    /// One transaction; keys without a value are deleted.
    Write(Vec<(u8, Option<u8>)>),
    DeleteRange(u8, Vec<u8>),
    /// So many revisions below the current one.
    Compact(i64),
    Jobs,
    /// The member gets a snapshot of one that is ahead by these writes, and perhaps compacted up to its revision.
    Install(Vec<(u8, Option<u8>)>, bool),
    Open,
    Close(usize),
    Create(usize, Asked),
    Cancel(usize, i64),
    Progress(usize),
    Tick(usize),
    Work(usize),
    Take(usize, usize),
}

#[derive(Clone, Debug)]
struct Asked {
    key: u8,
    range_end: Vec<u8>,
    /// Relative to the current revision; `None` is 0 in the request.
    start: Option<i64>,
    id: i64,
    no_put: bool,
    no_delete: bool,
    with_previous: bool,
}

fn key() -> impl Strategy<Value = u8> {
    b'a'..b'g'
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(vec![]), 2 => key().prop_map(|key| vec![key]), 2 => Just(vec![0])]
}

fn writes() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
    let write = (key(), prop_oneof![3 => any::<u8>().prop_map(Some), 1 => Just(None)]);
    prop::collection::btree_map(key(), write.prop_map(|(_, value)| value), 1..4)
        .prop_map(|map| map.into_iter().collect())
}

fn asked() -> impl Strategy<Value = Asked> {
    let start = prop_oneof![2 => Just(None), 4 => (-30..4i64).prop_map(Some)];
    let id = prop_oneof![4 => Just(0), 1 => 1..4i64];
    (key(), range_end(), start, id, 0..8u8, any::<bool>()).prop_map(
        |(key, range_end, start, id, filters, with_previous)| Asked {
            key,
            range_end,
            start,
            id,
            no_put: filters == 0,
            no_delete: filters == 1,
            with_previous,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => writes().prop_map(Step::Write),
        2 => (key(), range_end()).prop_map(|(key, end)| Step::DeleteRange(key, end)),
        2 => (0..12i64).prop_map(Step::Compact),
        1 => Just(Step::Jobs),
        1 => (writes(), any::<bool>()).prop_map(|(writes, compacts)| Step::Install(writes, compacts)),
        1 => Just(Step::Open),
        1 => (0..4usize).prop_map(Step::Close),
        6 => (0..4usize, asked()).prop_map(|(stream, asked)| Step::Create(stream, asked)),
        1 => (0..4usize, 0..5i64).prop_map(|(stream, id)| Step::Cancel(stream, id)),
        3 => (0..4usize).prop_map(Step::Progress),
        2 => (0..4usize).prop_map(Step::Tick),
        6 => (1..4usize).prop_map(Step::Work),
        5 => (0..4usize, 1..9usize).prop_map(|(stream, count)| Step::Take(stream, count)),
    ]
}

/// An event as the history has it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    revision: i64,
    key: Vec<u8>,
    /// Create revision, version and value; a delete has none.
    put: Option<(i64, i64, Vec<u8>)>,
    previous: Option<(i64, Vec<u8>)>,
}

/// All events, in order.
#[derive(Default)]
struct History {
    events: Vec<Told>,
    revision: i64,
    /// Create revision, version, mod revision, value.
    alive: BTreeMap<Vec<u8>, (i64, i64, i64, Vec<u8>)>,
}

impl History {
    fn write(&mut self, writes: &[(Vec<u8>, Option<u8>)]) {
        let revision = self.revision + 1;
        for (key, value) in writes {
            let old = self.alive.get(key).cloned();
            let previous = old.clone().map(|(_, _, changed, value)| (changed, value));
            let put = match value {
                None if old.is_none() => continue,
                None => {
                    self.alive.remove(key);
                    None
                }
                Some(value) => {
                    let (create, version) = old.map_or((revision, 1), |(create, version, ..)| (create, version + 1));
                    self.alive.insert(key.clone(), (create, version, revision, vec![*value]));
                    Some((create, version, vec![*value]))
                }
            };
            self.events.push(Told { revision, key: key.clone(), put, previous });
            self.revision = revision;
        }
    }
}

/// What one watch has been told so far.
#[derive(Debug)]
struct Watch {
    asked: Asked,
    start: i64,
    /// The place in the history of the next event to look at.
    next: usize,
    /// Nothing more may come.
    ended: bool,
}

impl Watch {
    fn wants(&self, event: &Told) -> bool {
        let key = [self.asked.key];
        event.revision >= self.start
            && KeyRange::from_request(&key, &self.asked.range_end).contains(&event.key)
            && !(if event.put.is_some() { self.asked.no_put } else { self.asked.no_delete })
    }

    /// Passes over what it does not want, up to and with `through`; true if nothing that it wants lies there.
    fn skips_through(&mut self, history: &History, through: i64) -> bool {
        while let Some(event) = history.events.get(self.next).filter(|event| event.revision <= through) {
            if self.wants(event) {
                return false;
            }
            self.next += 1;
        }
        true
    }
}

struct Client {
    id: StreamId,
    watches: BTreeMap<i64, Watch>,
    /// Asked for and not yet answered, in order.
    asked: Vec<(Asked, i64)>,
    cancels: Vec<i64>,
}

struct World {
    bench: Bench,
    entries: Vec<Command>,
    hub: WatchHub,
    limits: WatchLimits,
    history: History,
    compacted: i64,
    clients: Vec<Client>,
    told: usize,
}

impl World {
    fn new(limits: WatchLimits) -> Self {
        Self {
            bench: Bench::new(StoreOptions::default()),
            entries: Vec::new(),
            hub: WatchHub::new(limits),
            limits,
            history: History { revision: 1, ..History::default() },
            compacted: -1,
            clients: Vec::new(),
            told: 0,
        }
    }

    fn apply(&mut self, command: Command) {
        self.entries.push(command.clone());
        assert!(self.bench.apply(command).result.is_ok());
    }

    fn transaction(writes: &[(u8, Option<u8>)]) -> Command {
        let ops = writes.iter().map(|(key, value)| {
            let key = Bytes::copy_from_slice(&[*key]);
            RequestOp {
                request: Some(match value {
                    Some(value) => Request::RequestPut(PutRequest {
                        key,
                        value: Bytes::copy_from_slice(&[*value]),
                        ..Default::default()
                    }),
                    None => Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() }),
                }),
            }
        });
        let txn = TxnRequest { success: ops.collect(), ..Default::default() };
        entry(|request| request.txn = Some(txn))
    }

    fn note_writes(&mut self, writes: &[(u8, Option<u8>)]) {
        let writes: Vec<_> = writes.iter().map(|(key, value)| (vec![*key], *value)).collect();
        self.history.write(&writes);
    }

    fn step(&mut self, step: Step) {
        let reader = self.bench.store.reader();
        match step {
            Step::Write(writes) => {
                self.note_writes(&writes);
                self.apply(Self::transaction(&writes));
            }
            Step::DeleteRange(key, range_end) => {
                let range = KeyRange::from_request(std::slice::from_ref(&key), &range_end);
                let keys: Vec<_> = self
                    .history
                    .alive
                    .keys()
                    .filter(|key| range.contains(key))
                    .map(|key| (key.clone(), None))
                    .collect();
                self.history.write(&keys);
                let delete = DeleteRangeRequest {
                    key: Bytes::copy_from_slice(&[key]),
                    range_end: range_end.clone().into(),
                    prev_kv: false,
                };
                self.apply(entry(|request| request.delete_range = Some(delete)));
            }
            Step::Compact(below) => {
                let revision = self.history.revision - below;
                if revision > self.compacted.max(0) {
                    self.compacted = revision;
                    let compaction = CompactionRequest { revision, physical: false };
                    self.apply(entry(|request| request.compaction = Some(compaction)));
                }
            }
            Step::Jobs => {
                self.bench.run_jobs().unwrap();
            }
            Step::Install(writes, compacts) => self.install(&writes, compacts),
            Step::Open if self.clients.len() < 4 => {
                let id = self.hub.open();
                self.clients.push(Client { id, watches: BTreeMap::new(), asked: Vec::new(), cancels: Vec::new() });
            }
            Step::Open => {}
            Step::Work(steps) => {
                for _ in 0..steps {
                    self.hub.step(&reader).unwrap();
                }
            }
            Step::Close(client) if client < self.clients.len() => {
                let client = self.clients.remove(client);
                self.hub.close(client.id);
            }
            Step::Create(client, asked) if client < self.clients.len() => self.create(client, asked),
            Step::Cancel(client, id) if client < self.clients.len() => {
                self.clients[client].cancels.push(id);
                self.hub.cancel(&reader, self.clients[client].id, id);
            }
            Step::Progress(client) if client < self.clients.len() => {
                self.hub.request_progress(&reader, self.clients[client].id).unwrap();
            }
            Step::Tick(client) if client < self.clients.len() => {
                self.hub.tell_progress(&reader, self.clients[client].id).unwrap();
            }
            Step::Take(client, count) if client < self.clients.len() => self.take(client, count),
            _ => {}
        }
        self.hub.check_invariants();
    }

    fn install(&mut self, writes: &[(u8, Option<u8>)], compacts: bool) {
        let mut ahead = Bench::new(StoreOptions::default());
        self.note_writes(writes);
        self.entries.push(Self::transaction(writes));
        if compacts && self.history.revision > self.compacted.max(0) {
            self.compacted = self.history.revision;
            let compaction = CompactionRequest { revision: self.compacted, physical: false };
            self.entries.push(entry(|request| request.compaction = Some(compaction)));
        }
        for command in &self.entries {
            assert!(ahead.apply(command.clone()).result.is_ok());
        }
        ahead.run_jobs().unwrap();
        self.bench.succeed_with(ahead);
    }

    fn create(&mut self, client: usize, asked: Asked) {
        let start = asked.start.map_or(0, |start| (self.history.revision + start).max(1));
        let new = NewWatch {
            key: Bytes::copy_from_slice(&[asked.key]),
            range_end: asked.range_end.clone().into(),
            start_revision: start,
            watch_id: asked.id,
            no_put: asked.no_put,
            no_delete: asked.no_delete,
            with_previous: asked.with_previous,
            progress_notify: true,
            fragment: false,
        };
        self.clients[client].asked.push((asked, start));
        self.hub.create(&self.bench.store.reader(), self.clients[client].id, new).unwrap();
    }

    fn take(&mut self, client: usize, count: usize) {
        let mut taken = Vec::new();
        self.hub.take(self.clients[client].id, count, usize::MAX, &mut taken);
        for answer in taken {
            self.check(client, answer);
        }
    }

    fn check(&mut self, client: usize, answer: Answer) {
        let (history, current) = (&self.history, self.history.revision);
        let client = &mut self.clients[client];
        match answer {
            Answer::Created { watch_id, revision } => {
                let (asked, start) = client.asked.remove(0);
                assert!(asked.id == 0 || asked.id == watch_id);
                assert!(revision <= current);
                let start = if start == 0 { revision + 1 } else { start };
                let old = client.watches.insert(watch_id, Watch { asked, start, next: 0, ended: false });
                assert!(old.is_none(), "the id was free");
            }
            Answer::Refused { .. } => {
                let (asked, _) = client.asked.remove(0);
                let is_empty = asked.range_end.len() == 1 && asked.range_end[0] != 0 && asked.range_end[0] <= asked.key;
                assert!(is_empty || client.watches.contains_key(&asked.id), "{asked:?}");
            }
            Answer::Canceled { watch_id, .. } => {
                assert!(client.cancels.contains(&watch_id));
                assert!(client.watches.remove(&watch_id).is_some());
            }
            Answer::Compacted { watch_id, compact_revision } => {
                let watch = client.watches.get_mut(&watch_id).expect("a watch of the stream");
                assert!(!watch.ended && compact_revision <= self.compacted);
                // Something between what it was told and the bound is gone, or may be.
                assert!(watch.start < compact_revision);
                watch.ended = true;
            }
            Answer::Progress { watch_id, revision } => {
                assert!(revision <= current);
                for (_, watch) in client.watches.iter_mut().filter(|(id, _)| watch_id.is_none_or(|only| only == **id)) {
                    assert!(!watch.ended && watch.start <= revision + i64::from(watch.asked.start.is_none()));
                    assert!(
                        watch.skips_through(history, revision),
                        "told of progress, not of {:?}",
                        history.events[watch.next]
                    );
                }
            }
            Answer::Events { watch_id, revision, events, with_previous, .. } => {
                let watch = client.watches.get_mut(&watch_id).expect("a watch of the stream");
                assert!(!watch.ended && !events.is_empty() && with_previous == watch.asked.with_previous);
                let mut last = 0;
                let mut revisions = 0;
                for event in events.iter() {
                    revisions += usize::from(event.revision() > last);
                    last = event.revision();
                    watch.skips_through(history, last);
                    let expected = &history.events[watch.next];
                    watch.next += 1;
                    let fields = Fields::parse(event.kv()).unwrap();
                    assert_eq!((fields.key, fields.mod_revision), (&expected.key[..], expected.revision));
                    assert_eq!(event.is_delete(), expected.put.is_none());
                    if let Some((create, version, value)) = &expected.put {
                        let told = (fields.create_revision, fields.version, fields.value);
                        assert_eq!(told, (*create, *version, &value[..]));
                    }
                    if with_previous && !event.prev_kv().is_empty() {
                        let told = Fields::parse(event.prev_kv()).unwrap();
                        assert_eq!(Some((told.mod_revision, told.value.to_vec())), expected.previous);
                    } else if with_previous && expected.previous.is_some() {
                        assert!(last - 1 < self.compacted, "not told what was there before");
                    }
                }
                assert!(revisions <= self.limits.answer_revisions_max);
                assert!(last <= revision && revision <= current);
                if let Some(next) = history.events.get(watch.next) {
                    assert!(next.revision > last || !watch.wants(next), "a revision in two answers");
                }
                self.told += events.len();
            }
        }
    }

    /// Everything is told in the end.
    fn finish(&mut self) {
        let reader = self.bench.store.reader();
        for _ in 0..1000 {
            while self.hub.step(&reader).unwrap() {}
            for client in 0..self.clients.len() {
                self.take(client, usize::MAX);
            }
            if !self.hub.has_work() {
                break;
            }
        }
        self.hub.check_invariants();
        assert_eq!(self.hub.counts().slow, 0, "all are in step");
        for client in &mut self.clients {
            for watch in client.watches.values_mut().filter(|watch| !watch.ended) {
                assert!(
                    watch.skips_through(&self.history, i64::MAX),
                    "not told of {:?}",
                    self.history.events[watch.next]
                );
            }
        }
        for client in std::mem::take(&mut self.clients) {
            self.hub.close(client.id);
        }
        assert_eq!(self.hub.counts(), crate::watch::WatchCounts::default());
        assert_eq!(self.hub.held_bytes(), 0, "nobody holds events any more");
    }
}

fn limits() -> impl Strategy<Value = WatchLimits> {
    (1..8usize, 1..200usize, 1..4000usize, 1..5usize, 1..100usize).prop_map(
        |(stream_answers_max, stream_bytes_max, held_bytes_max, answer_revisions_max, answer_bytes_max)| WatchLimits {
            stream_answers_max,
            stream_bytes_max,
            held_bytes_max,
            answer_revisions_max,
            answer_bytes_max,
            ..small_steps()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), cases: 400, ..Default::default() })]
    #[test]
    fn every_guarantee_holds(limits in limits(), steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::new(limits);
        world.step(Step::Open);
        steps.into_iter().for_each(|step| world.step(step));
        world.finish();
    }
}
