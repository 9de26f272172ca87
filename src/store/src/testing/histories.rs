//! Random histories: whatever is put, deleted, compacted, flushed, lost and replayed, the store answers as the model does.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quorate_proto::etcdserverpb::*;
use quorate_runtime::clock::MonoTime;
use quorate_types::{Error, LeaseId, LogIndex, Revision};

use super::disk::Dice;
use super::model::Model;
use super::{Bench, FILE, entry};
use crate::{
    Command, Finished, Job, Outcome, ReadError, Response, Store, StoreError, StoreOptions, View, is_read_only,
};

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// An entry; the view after it may come later, with the next.
    Apply {
        request: Box<InternalRaftRequest>,
        publish: bool,
        /// Whether somebody reads right after it.
        look: bool,
    },
    Range(RangeRequest),
    ReadTxn(TxnRequest),
    /// Keeps the newest view, to be asked again later.
    Hold,
    /// Runs all jobs to their end.
    Jobs,
    /// Takes one job and does not finish it yet.
    TakeJob,
    FinishJob,
    /// Begins to defragment, unless that is going on.
    Defragment,
    Reopen,
    /// Cuts the power within the next job, or after it.
    Crash {
        after_operations: u64,
        seed: u64,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "ab", "abc", "b/1", "b/2", "b/3"])
            .prop_map(|key| key.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ]
}

fn keys() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let end = prop_oneof![3 => Just(Vec::new()), 2 => key(), 2 => Just(vec![0])];
    (prop_oneof![4 => key(), 1 => Just(vec![0])], end)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 3 => 1..4i64]
}

fn put() -> impl Strategy<Value = PutRequest> {
    (key(), prop::collection::vec(any::<u8>(), 0..6), lease(), any::<bool>(), 0..8u8).prop_map(
        |(key, value, lease, prev_kv, flags)| PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            prev_kv,
            ignore_value: flags == 1 || flags == 3,
            ignore_lease: flags == 2 || flags == 3,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (keys(), any::<bool>()).prop_map(|((key, end), prev_kv)| DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        prev_kv,
    })
}

fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0i64), 1 => 1..40i64]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let numbers =
        (prop_oneof![2 => Just(0i64), 2 => 1..6i64, 1 => Just(-1i64)], prop_oneof![3 => Just(0i64), 3 => -3..60i64]);
    let filters = prop_oneof![3 => Just((0, 0, 0, 0)), 1 => (bound(), bound(), bound(), bound())];
    (keys(), numbers, 0..3i32, 0..5i32, 0..8u8, filters).prop_map(
        |((key, end), (limit, revision), sort_order, sort_target, flags, filters)| RangeRequest {
            key: key.into(),
            range_end: end.into(),
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: flags == 1,
            keys_only: flags == 2 || flags == 3,
            count_only: flags == 4,
            min_mod_revision: filters.0,
            max_mod_revision: filters.1,
            min_create_revision: filters.2,
            max_create_revision: filters.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    use quorate_proto::etcdserverpb::compare::TargetUnion;
    let number = prop_oneof![Just(0i64), 1..4i64, 1..40i64];
    (keys(), 0..4i32, 0..5i32, number, prop::collection::vec(any::<u8>(), 0..2), 0..9u8).prop_map(
        |((key, range_end), result, target, number, value, odd)| Compare {
            result,
            target,
            key: key.into(),
            range_end: range_end.into(),
            target_union: match (target, odd) {
                (_, 0) => None,
                (_, 1) => Some(TargetUnion::Version(number)),
                (0, _) => Some(TargetUnion::Version(number)),
                (1, _) => Some(TargetUnion::CreateRevision(number)),
                (2, _) => Some(TargetUnion::ModRevision(number)),
                (3, _) => Some(TargetUnion::Value(value.into())),
                _ => Some(TargetUnion::Lease(number)),
            },
        },
    )
}

fn txn_of(op: impl Strategy<Value = request_op::Request> + Clone + 'static) -> impl Strategy<Value = TxnRequest> {
    let ops = move || prop::collection::vec(op.clone().prop_map(|request| RequestOp { request: Some(request) }), 0..5);
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let plain = prop_oneof![
        2 => range().prop_map(request_op::Request::RequestRange),
        4 => put().prop_map(request_op::Request::RequestPut),
        2 => delete().prop_map(request_op::Request::RequestDeleteRange),
    ]
    .boxed();
    let nested = txn_of(plain.clone()).prop_map(request_op::Request::RequestTxn).boxed();
    let twice =
        txn_of(prop_oneof![3 => plain.clone(), 1 => nested.clone()].boxed()).prop_map(request_op::Request::RequestTxn);
    txn_of(prop_oneof![6 => plain, 1 => nested, 1 => twice].boxed())
}

pub(super) fn request() -> impl Strategy<Value = Box<InternalRaftRequest>> {
    let new = InternalRaftRequest::default;
    prop_oneof![
        8 => put().prop_map(move |put| InternalRaftRequest { put: Some(put), ..new() }),
        3 => delete().prop_map(move |delete| InternalRaftRequest { delete_range: Some(delete), ..new() }),
        5 => txn().prop_map(move |txn| InternalRaftRequest { txn: Some(txn), ..new() }),
        2 => (-2..60i64).prop_map(move |revision| InternalRaftRequest {
            compaction: Some(CompactionRequest { revision, physical: true }), ..new() }),
        2 => (0..4i64, prop_oneof![0..100i64, Just(9_000_000_001)]).prop_map(move |(id, ttl)| InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id, ttl }), ..new() }),
        1 => (1..4i64).prop_map(move |id| InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id }), ..new() }),
    ]
    .prop_map(Box::new)
}

fn step() -> impl Strategy<Value = Step> {
    let reads = txn_of(range().prop_map(request_op::Request::RequestRange).boxed());
    prop_oneof![
        20 => (request(), 0..5u8, any::<bool>())
            .prop_map(|(request, publish, look)| Step::Apply { request, publish: publish > 0, look }),
        8 => range().prop_map(Step::Range),
        2 => reads.prop_map(Step::ReadTxn),
        1 => Just(Step::Hold),
        2 => Just(Step::Jobs),
        2 => Just(Step::TakeJob),
        2 => Just(Step::FinishJob),
        1 => Just(Step::Defragment),
        1 => Just(Step::Reopen),
        1 => (0..40u64, any::<u64>()).prop_map(|(after_operations, seed)| Step::Crash { after_operations, seed }),
    ]
}

/// The store, the model, and the log that both have seen.
struct History {
    bench: Option<Bench>,
    model: Model,
    /// The model as of the newest view.
    published: Model,
    log: Vec<(Box<InternalRaftRequest>, Result<Response, Error>)>,
    /// Views that were kept, with the model as it was.
    held: Vec<(Arc<View>, Model)>,
    job: Option<Job>,
    flushed: LogIndex,
}

fn refused<T>(answer: Result<T, ReadError>) -> Result<T, Error> {
    answer.map_err(|error| match error {
        ReadError::Refused(error) => error,
        ReadError::Damaged(error) | ReadError::Closed(error) => panic!("{error}"),
    })
}

impl History {
    fn new() -> Self {
        let options = StoreOptions { compaction_batch_rows: 2, pending_bytes_max: 4096, ..StoreOptions::default() };
        Self {
            bench: Some(Bench::new(options)),
            model: Model::new(),
            published: Model::new(),
            log: Vec::new(),
            held: Vec::new(),
            job: None,
            flushed: LogIndex(0),
        }
    }

    fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().expect("a store between two steps")
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Apply { request, publish, look } => {
                let (before, was_shown) = (self.model.clone(), self.is_shown());
                let Outcome { result, over_quota } = self.bench().apply_unpublished(Command::Request(request.clone()));
                assert!(!over_quota);
                let expected = self.model.apply(&request);
                assert_eq!(result, expected, "{request:?}");
                self.log.push((request, result));
                if !was_shown && self.is_shown() {
                    // It might have stopped halfway.
                    self.published = before;
                }
                if publish {
                    self.publish();
                }
                if !look {
                    return;
                }
            }
            Step::Range(request) => {
                let view = self.view();
                assert_eq!(refused(view.range(&request)), self.published.range(&request), "{request:?}");
            }
            Step::ReadTxn(request) => {
                assert!(is_read_only(&request));
                let view = self.view();
                assert_eq!(refused(view.read_txn(&request)), self.published.read_txn(&request), "{request:?}");
            }
            Step::Hold => {
                let view = self.view();
                self.held.push((view, self.published.clone()));
            }
            Step::Jobs => {
                self.finish_job();
                let finished = self.bench().run_jobs().expect("a healthy disk");
                self.note(&finished);
                self.publish();
                // Nothing is left to delete now.
                let view = self.bench().store.reader().view();
                assert_eq!(view.db_size_in_use_bytes(), 16 * 1024 + self.model.row_bytes());
                assert!(view.db_size_bytes() >= view.db_size_in_use_bytes());
                self.defragmented();
            }
            Step::TakeJob => {
                if self.job.is_none()
                    && let Some(at) = self.bench().store.next_job_at()
                {
                    let now = self.bench().now.max(at);
                    self.bench().now = now;
                    self.job = self.bench().store.take_job(now);
                }
            }
            Step::FinishJob => self.finish_job(),
            Step::Defragment => {
                self.defragmented();
                if !self.bench().store.is_defragmenting() {
                    self.bench().store.defragment();
                }
            }
            Step::Reopen => {
                self.finish_job();
                self.held.clear();
                let bench = self.bench.take().expect("a store").reopen().expect("an undamaged file");
                self.recover(bench);
            }
            Step::Crash { after_operations, seed } => self.crash(after_operations, seed),
        }
        self.compare_all();
    }

    /// What a reader gets: the state as of the last publication, or, if nobody has read since, as of the last entry.
    fn view(&mut self) -> Arc<View> {
        if !self.is_shown() {
            self.published = self.model.clone();
        }
        self.bench().store.reader().view()
    }

    /// Readers have a view; what is applied from here on they do not see before it is published.
    fn is_shown(&mut self) -> bool {
        self.bench().store.published.shown().is_some()
    }

    fn publish(&mut self) {
        self.bench().store.publish();
        self.published = self.model.clone();
    }

    fn finish_job(&mut self) {
        if let Some(job) = self.job.take() {
            let now = self.bench().now;
            let finished = self.run_job(job, now).expect("a healthy disk");
            self.note(&finished);
        }
    }

    /// If a defragmentation has just ended, it went well.
    fn defragmented(&mut self) {
        if let Some(ended) = self.bench().store.defragmented() {
            ended.expect("a healthy disk");
        }
    }

    fn run_job(&mut self, job: Job, now: MonoTime) -> Result<Vec<Finished>, StoreError> {
        let outcome = job.run(&self.bench().disk);
        self.bench().store.finish_job(outcome, now)
    }

    fn note(&mut self, finished: &[Finished]) {
        for finished in finished {
            match finished {
                Finished::Flushed { index, .. } => self.flushed = *index,
                Finished::Compacted(compacted) => assert!(compacted.revision <= Revision(self.model.compacted)),
            }
        }
        assert_eq!(self.bench().store.durable_index(), self.flushed);
    }

    fn crash(&mut self, after_operations: u64, seed: u64) {
        self.bench().disk.fail_after(after_operations);
        let mut finished = Vec::new();
        let mut failed = false;
        if let Some(job) = self.job.take() {
            let now = self.bench().now;
            match self.run_job(job, now) {
                Ok(some) => finished.extend(some),
                Err(_) => failed = true,
            }
        }
        if !failed && let Ok(some) = self.bench().run_jobs() {
            finished.extend(some);
        }
        for finished in finished {
            if let Finished::Flushed { index, .. } = finished {
                self.flushed = index;
            }
        }
        self.held.clear();
        let Bench { disk, options, store, now } = self.bench.take().expect("a store");
        // The disk is dead from here, whether the countdown got that far or not: closing is no clean shutdown.
        disk.fail_after(0);
        drop(store);
        disk.power_cycle(&mut Dice(seed));
        let store = Store::open_on(&disk, Path::new(FILE), options.clone()).expect("a crash damages nothing");
        self.recover(Bench { disk, options, store, now });
    }

    /// Replays the log from where the file ends; the answers are the same again.
    fn recover(&mut self, bench: Bench) {
        self.bench = Some(bench);
        let applied = self.bench().store.applied().0;
        assert_eq!(applied, self.bench().store.durable_index());
        assert!(applied >= self.flushed, "durable through {}, found {applied}", self.flushed);
        self.flushed = applied;
        for (request, answer) in self.log.clone().into_iter().skip(applied.0 as usize) {
            let outcome = self.bench().apply(Command::Request(request));
            assert_eq!(outcome.result, answer);
        }
        self.publish();
    }

    /// The newest view is the model's state, and so is each view that was kept.
    fn compare_all(&mut self) {
        let view = self.view();
        self.held.push((view, self.published.clone()));
        for (view, model) in &self.held {
            assert_eq!(view.revision().0, model.revision);
            assert_eq!(view.compact_revision().0, model.compacted);
            assert!((1..4).all(|id| view.lease_exists(LeaseId(id)) == model.leases.contains_key(&id)));
            for revision in [0, model.compacted.max(1)] {
                let all = RangeRequest {
                    key: vec![0].into(),
                    range_end: vec![0].into(),
                    revision,
                    ..RangeRequest::default()
                };
                assert_eq!(refused(view.range(&all)), model.range(&all), "revision {revision}");
            }
        }
        self.held.pop();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96, rng_seed: RngSeed::Fixed(3), failure_persistence: None, max_shrink_iters: 4000, ..Default::default()
    })]
    #[test]
    fn the_store_answers_as_the_model_does(steps in prop::collection::vec(step(), 1..80)) {
        let mut history = History::new();
        for step in steps {
            history.run(step);
        }
        history.run(Step::Jobs);
    }
}

#[test]
fn a_long_delete_shows_nothing_before_it_is_complete() {
    let mut bench = Bench::new(StoreOptions::default());
    for number in 0..20u8 {
        bench.apply(entry(|request| {
            request.put = Some(PutRequest { key: vec![b'k', number].into(), ..PutRequest::default() });
        }));
    }
    let reader = bench.store.reader();
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
    let delete = DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: true };
    let index = bench.store.applied().0.next();
    let term = bench.store.applied().1;
    let mut progress =
        bench.store.start(index, term, entry(|request| request.delete_range = Some(delete))).expect("healthy");
    let mut slices = 1;
    while progress == crate::Progress::More {
        assert_eq!(bench.store.next_job_at(), None, "half an entry is never flushed");
        assert_eq!(reader.view().range(&all).expect("readable").count, 20);
        progress = bench.store.resume().expect("healthy");
        slices += 1;
    }
    assert!(slices > 3);
    let crate::Progress::Done(Outcome { result: Ok(Response::DeleteRange(response)), .. }) = progress else {
        panic!("{progress:?}")
    };
    assert_eq!((response.deleted, response.prev_kvs.len()), (20, 20));
    assert_eq!(reader.view().range(&all).expect("readable").count, 20);
    bench.store.publish();
    assert_eq!(reader.view().range(&all).expect("readable").count, 0);
    assert_eq!(reader.view().revision(), Revision(22));
}
