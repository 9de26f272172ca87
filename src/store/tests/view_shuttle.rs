//! What readers and the writer share, under every schedule that shuttle can think of: a reader finds each row that its view
//! promises, whatever the writer appends, seals and lets go of meanwhile; a view has all that was announced before it was asked
//! for, and no half of an entry; views never go back.
//!
//! The files under test are compiled here once more, on instrumented twins of the types in `src/sync.rs`.

#[allow(dead_code, reason = "this test uses a part of the module, the store all of it")]
#[path = "../src/pending.rs"]
mod pending;
#[path = "../src/publish.rs"]
mod publish;
#[allow(dead_code, reason = "this test uses a part of the module, the store all of it")]
#[path = "../src/mvcc/revision.rs"]
mod revision;

mod mvcc {
    pub(crate) use crate::revision;
}

/// The twins. Every access is a point where shuttle may let another thread run.
mod sync {
    pub(crate) use std::sync::Arc;

    pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};

    pub(crate) struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

    impl<T> ArcSwapOption<T> {
        pub(crate) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().expect("no panic").clone()
        }

        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            *self.0.lock().expect("no panic") = value;
        }
    }

    pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self(std::sync::OnceLock::new())
        }

        pub(crate) fn get(&self) -> Option<&T> {
            shuttle::thread::yield_now();
            self.0.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            shuttle::thread::yield_now();
            self.0.set(value)
        }

        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            shuttle::thread::yield_now();
            self.0.get_or_init(init)
        }
    }
}

use bytes::Bytes;
use pending::{Row, Seen};
use publish::Published;
use revision::RowRevision;
use shuttle::sync::atomic::AtomicI64;
use sync::{Arc, Ordering};

/// A view in small: the database is a list of revisions.
#[derive(Clone)]
struct View {
    durable: Arc<Vec<i64>>,
    sealed: Option<Seen>,
    active: Seen,
    /// It promises rows 1 to this one.
    revision: i64,
    /// An entry is half done: nobody may see that.
    is_half: bool,
}

/// What the writer has looks just like it.
type State = View;

fn row(main: i64) -> Row {
    Row { revision: RowRevision::new(main, 0), tombstone: false, encoded: Bytes::from(main.to_be_bytes().to_vec()) }
}

impl View {
    fn holds(&self, main: i64) -> bool {
        let revision = RowRevision::new(main, 0);
        let pending = [Some(&self.active), self.sealed.as_ref()].into_iter().flatten();
        self.durable.contains(&main) || pending.filter_map(|seen| seen.find(revision)).any(|found| *found == row(main))
    }
}

/// Batches of one to three rows; `announced` says up to where readers have been told of them.
fn writer(published: &Published<State, View>, announced: &AtomicI64, batches: i64) {
    for batch in 0..batches {
        for entry in 0..=batch % 3 {
            let mut state = published.lock();
            let is_long = entry == 1;
            if is_long {
                published.show(&state);
                state.is_half = true;
                drop(state);
                state = published.lock();
                state.is_half = false;
            }
            state.revision += 1;
            let next = row(state.revision);
            state.active.push(next);
        }
        let state = published.lock();
        published.announce(&state);
        let revision = state.revision;
        drop(state);
        announced.store(revision, Ordering::SeqCst);

        let mut state = published.lock();
        match state.sealed.take() {
            None => state.sealed = Some(std::mem::replace(&mut state.active, Seen::new())),
            Some(flushed) if batch % 3 == 2 => {
                // Durable first, then the view on it, then the generation may go.
                let rows = flushed.rows().map(|row| row.revision.main);
                state.durable = Arc::new(state.durable.iter().copied().chain(rows).collect());
                if published.shown().is_some() {
                    published.replace(state.clone());
                }
            }
            unflushed => state.sealed = unflushed,
        }
    }
}

fn reader(published: &Published<State, View>, announced: &AtomicI64, reads: usize) {
    let mut newest = 0;
    for _ in 0..reads {
        let told = announced.load(Ordering::SeqCst);
        let view = published.load();
        assert!(!view.is_half, "a view of a half entry");
        assert!(view.revision >= told, "revision {told} was announced, {} is shown", view.revision);
        assert!(view.revision >= newest, "views never go back");
        newest = view.revision;
        for main in 1..=view.revision {
            assert!(view.holds(main), "revision {main} of {}", view.revision);
        }
    }
}

fn run() {
    let empty = View { durable: Arc::default(), sealed: None, active: Seen::new(), revision: 0, is_half: false };
    let published = Arc::new(Published::new(empty, View::clone));
    let announced = Arc::new(AtomicI64::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (published, announced) = (published.clone(), announced.clone());
            shuttle::thread::spawn(move || reader(&published, &announced, 3))
        })
        .collect();
    writer(&published, &announced, 6);
    for reader in readers {
        reader.join().expect("a reader");
    }
    assert_eq!(published.load().revision, 12);
}

#[test]
fn readers_find_what_their_view_promises_under_random_schedules() {
    shuttle::check_random(run, 1_000);
}

#[test]
fn readers_find_what_their_view_promises_under_rare_preemptions() {
    shuttle::check_pct(run, 1_000, 3);
}
