//! Watches of a member: a hub for each reactor, and who makes it work.
//!
//! A stream belongs to the hub of the reactor that its connection lives on, so a hub, its streams and its driver share one
//! thread, and telling ten thousand watchers of a write crosses no thread. What does cross is one ring of a bell for each
//! batch of entries, and only to reactors where somebody watches ([`Watches::ring`]): the apply loop does nothing else for
//! watchers. The hub reads what is new by itself, from the store.
//!
//! The lock around a hub is there because a handle may be dropped anywhere; it is never held across an await, and the driver
//! gives it back between steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_runtime::sync::Notify;
use quorate_runtime::{Rt, select};
use quorate_store::watch::{Answer, NewWatch, StreamId, WatchCounts, WatchHub, WatchLimits};
use quorate_store::{ReadError, Reader, StoreError};

use crate::Member;
use crate::metrics::Metrics;

/// The hubs, by reactor.
#[derive(Clone)]
pub struct Watches {
    hubs: Arc<[Arc<Hub>]>,
    /// How many hubs have a watcher.
    watched: Arc<AtomicUsize>,
}

struct Hub {
    state: Mutex<State>,
    /// There is something to do.
    bell: Notify,
    /// Somebody watches here.
    is_watched: AtomicBool,
    watched: Arc<AtomicUsize>,
    metrics: Metrics,
}

struct State {
    hub: WatchHub,
    bells: BTreeMap<StreamId, Arc<Notify>>,
    /// What the metrics were told last.
    counted: WatchCounts,
}

impl Watches {
    /// Hubs for all reactors, with nobody in them.
    pub fn new(rt: &Rt, limits: WatchLimits, metrics: &Metrics) -> Self {
        let watched = Arc::new(AtomicUsize::new(0));
        let hub = |_| {
            let state = State { hub: WatchHub::new(limits), bells: BTreeMap::new(), counted: WatchCounts::default() };
            Arc::new(Hub {
                state: Mutex::new(state),
                bell: Notify::new(),
                is_watched: AtomicBool::new(false),
                watched: Arc::clone(&watched),
                metrics: metrics.clone(),
            })
        };
        Self { hubs: (0..rt.reactor_count()).map(hub).collect(), watched }
    }

    /// Tells the hubs that the store has changed.
    ///
    /// Nobody is missed: a watcher counts before it looks at the store, and the store has changed before this is called, both
    /// under the store's lock. So either it is counted here, or it has seen the change.
    pub fn ring(&self) {
        if self.watched.load(Ordering::Relaxed) > 0 {
            for hub in self.hubs.iter().filter(|hub| hub.is_watched.load(Ordering::Relaxed)) {
                hub.bell.notify_one();
            }
        }
    }

    /// Makes the hubs work, each on its reactor, until `member` stops.
    pub fn drive(&self, rt: &Rt, member: &Member) {
        for (reactor, hub) in self.hubs.iter().enumerate() {
            let (hub, member) = (Arc::clone(hub), member.clone());
            rt.spawn_on(reactor, Box::new(move || Box::pin(drive(hub, member))));
        }
    }

    /// A new stream on the hub of the calling reactor.
    pub fn open(&self, rt: &Rt, reader: Reader) -> WatchStream {
        let hub = Arc::clone(&self.hubs[rt.current_reactor()]);
        let bell = Arc::new(Notify::new());
        let id = hub.with(|state| {
            let id = state.hub.open();
            state.bells.insert(id, Arc::clone(&bell));
            id
        });
        WatchStream { hub, reader, id, bell }
    }
}

async fn drive(hub: Arc<Hub>, member: Member) {
    let reader = member.inner.reader.clone();
    let stopping = member.stopping();
    quorate_runtime::pin!(stopping);
    loop {
        select! {
            biased;
            () = &mut stopping => return,
            () = hub.bell.notified() => {}
        }
        loop {
            match hub.with(|state| state.hub.step(&reader)) {
                Ok(true) => member.inner.rt.yield_now().await,
                Ok(false) => break,
                // The member has stopped, or the old state has just been replaced: whoever did that rings again.
                Err(StoreError::Closed { .. }) => break,
                Err(error) => return member.fail(format!("reading for watchers found damage: {error}")),
            }
            if member.is_stopping() {
                return;
            }
        }
    }
}

impl Hub {
    /// Works on the hub; then those for whom there is news are woken, and the metrics follow.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut state);
        for stream in state.hub.take_woken() {
            if let Some(bell) = state.bells.get(&stream) {
                bell.notify_one();
            }
        }
        let counts = state.hub.counts();
        let before = std::mem::replace(&mut state.counted, counts);
        self.metrics.count_watches(before, counts);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the hub has ended the task that it was in; the others find out by themselves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `ring` has to think of this hub, from now on.
    fn set_watched(&self, is_watched: bool) {
        if self.is_watched.swap(is_watched, Ordering::Relaxed) != is_watched {
            if is_watched {
                self.watched.fetch_add(1, Ordering::Relaxed);
            } else {
                self.watched.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// One stream of watches. Dropping it ends them all.
pub struct WatchStream {
    hub: Arc<Hub>,
    reader: Reader,
    id: StreamId,
    bell: Arc<Notify>,
}

impl WatchStream {
    /// Asks for a watch. The answer comes on the stream.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn create(&self, new: NewWatch) -> Result<(), ReadError> {
        self.hub.with(|state| {
            self.hub.set_watched(true);
            let created = state.hub.create(&self.reader, self.id, new);
            self.after(state);
            created
        })?;
        Ok(())
    }

    /// Ends a watch. If there was one, the answer comes on the stream.
    pub fn cancel(&self, watch_id: i64) {
        self.hub.with(|state| {
            state.hub.cancel(&self.reader, self.id, watch_id);
            self.after(state);
        });
    }

    /// Asks how far all watches of the stream are together. No answer unless all are in step.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn request_progress(&self) -> Result<(), ReadError> {
        self.hub.with(|state| state.hub.request_progress(&self.reader, self.id))?;
        Ok(())
    }

    /// Tells how far those watches are that want it and were told nothing since the last call.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn tell_progress(&self) -> Result<(), ReadError> {
        self.hub.with(|state| state.hub.tell_progress(&self.reader, self.id))?;
        Ok(())
    }

    /// Takes answers that wait, in order: until there are `answers_max`, or they weigh `bytes_max`.
    pub fn take(&self, answers_max: usize, bytes_max: usize, taken: &mut Vec<Answer>) {
        self.hub.with(|state| {
            state.hub.take(self.id, answers_max, bytes_max, taken);
            self.after(state);
        });
        let events: usize = taken.iter().map(Answer::events).sum();
        self.hub.metrics.watch_events.inc_by(events as u64);
    }

    /// Completes when answers may wait that did not when all had been taken.
    pub async fn news(&self) {
        self.bell.notified().await;
    }

    /// Watchers may have come, gone, or want to catch up.
    fn after(&self, state: &State) {
        self.hub.set_watched(state.hub.counts().watchers > 0);
        if state.hub.has_work() {
            self.hub.bell.notify_one();
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.with(|state| {
            state.hub.close(self.id);
            state.bells.remove(&self.id);
            self.after(state);
        });
    }
}
