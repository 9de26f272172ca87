//! Tests of the crate as a whole: golden scripts, random histories against a naive model, damage.

mod damage;
mod defragment;
mod disk;
mod figures;
mod golden;
mod hashes;
mod histories;
mod model;
mod retired;
mod snapshots;

use std::path::Path;

use quorate_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use quorate_runtime::clock::MonoTime;
use quorate_types::Term;

use self::disk::MemoryDisk;
use crate::{Command, Finished, Outcome, Progress, Store, StoreError, StoreOptions};

const FILE: &str = "member/snap/db";

/// A store on a disk in memory, driven as the apply loop would.
pub(crate) struct Bench {
    disk: MemoryDisk,
    options: StoreOptions,
    pub(crate) store: Store,
    now: MonoTime,
}

impl Bench {
    pub(crate) fn new(options: StoreOptions) -> Self {
        let disk = MemoryDisk::default();
        let store = Store::create_on(&disk, Path::new(FILE), options.clone()).expect("a new store");
        Self { disk, options, store, now: MonoTime::from_nanos(1) }
    }

    /// Applies the next entry and publishes.
    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.apply_unpublished(command);
        self.store.publish();
        outcome
    }

    fn apply_unpublished(&mut self, command: Command) -> Outcome {
        let index = self.store.applied().0.next();
        let mut progress = self.store.start(index, Term(1), command).expect("an undamaged store");
        loop {
            match progress {
                Progress::Done(outcome) => return outcome,
                Progress::More => progress = self.store.resume().expect("an undamaged store"),
            }
        }
    }

    /// Runs every job that is due or will be.
    pub(crate) fn run_jobs(&mut self) -> Result<Vec<Finished>, StoreError> {
        let mut finished = Vec::new();
        while let Some(at) = self.store.next_job_at() {
            self.now = self.now.max(at);
            if let Some(job) = self.store.take_job(self.now) {
                finished.extend(self.store.finish_job(job.run(&self.disk), self.now)?);
            }
        }
        Ok(finished)
    }

    /// Goes on with the state of another one, as after a snapshot. All readers follow.
    pub(crate) fn succeed_with(&mut self, successor: Bench) {
        let Bench { disk, store, .. } = successor;
        self.disk = disk;
        drop(self.store.succeed_with(store));
    }

    /// Closes the store and opens it again.
    fn reopen(self) -> Result<Self, StoreError> {
        let Self { disk, options, store, now } = self;
        drop(store);
        let store = Store::open_on(&disk, Path::new(FILE), options.clone())?;
        Ok(Self { disk, options, store, now })
    }
}

/// An entry that holds one request.
pub(crate) fn entry(fill: impl FnOnce(&mut InternalRaftRequest)) -> Command {
    let mut request = InternalRaftRequest {
        header: Some(RequestHeader { id: 1, ..RequestHeader::default() }),
        ..InternalRaftRequest::default()
    };
    fill(&mut request);
    Command::Request(Box::new(request))
}
