//! What readers and the writer share, under every schedule that shuttle can think of: a reader finds each row that its view
//! promises, whatever the writer appends, seals and lets go of meanwhile, and views never go back.
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

    use shuttle::sync::Mutex;

    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub(crate) fn new(value: Arc<T>) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            self.0.lock().expect("no panic").clone()
        }

        pub(crate) fn store(&self, value: Arc<T>) {
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
use sync::Arc;

/// A view in small: the database is a list of revisions.
struct View {
    durable: Arc<Vec<i64>>,
    sealed: Option<Seen>,
    active: Seen,
    /// It promises rows 1 to this one.
    revision: i64,
}

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

fn writer(published: &Published<View>, batches: i64) {
    let mut active = Seen::new();
    let mut sealed: Option<Seen> = None;
    let mut durable = Arc::new(Vec::new());
    let mut revision = 0;
    for batch in 0..batches {
        for _ in 0..3 {
            revision += 1;
            active.push(row(revision));
        }
        published.store(Arc::new(View {
            durable: durable.clone(),
            sealed: sealed.clone(),
            active: active.clone(),
            revision,
        }));
        match sealed.take() {
            None => sealed = Some(std::mem::replace(&mut active, Seen::new())),
            Some(flushed) if batch % 3 == 2 => {
                // Durable first, then the view on it, then the generation may go.
                durable =
                    Arc::new(durable.iter().copied().chain(flushed.rows().map(|row| row.revision.main)).collect());
                let view = View { durable: durable.clone(), sealed: None, active: active.clone(), revision };
                published.store(Arc::new(view));
            }
            unflushed => sealed = unflushed,
        }
    }
}

fn reader(published: &Published<View>, reads: usize) {
    let mut newest = 0;
    for _ in 0..reads {
        let view = published.load();
        assert!(view.revision >= newest, "views never go back");
        newest = view.revision;
        for main in 1..=view.revision {
            assert!(view.holds(main), "revision {main} of {}", view.revision);
        }
    }
}

fn run() {
    let empty = View { durable: Arc::default(), sealed: None, active: Seen::new(), revision: 0 };
    let published = Arc::new(Published::new(Arc::new(empty)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let published = published.clone();
            shuttle::thread::spawn(move || reader(&published, 3))
        })
        .collect();
    writer(&published, 6);
    for reader in readers {
        reader.join().expect("a reader");
    }
    assert_eq!(published.load().revision, 18);
}

#[test]
fn readers_find_what_their_view_promises_under_random_schedules() {
    shuttle::check_random(run, 1_000);
}

#[test]
fn readers_find_what_their_view_promises_under_rare_preemptions() {
    shuttle::check_pct(run, 1_000, 3);
}
