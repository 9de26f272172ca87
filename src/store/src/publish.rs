//! The one place where the writer hands something to readers on other threads.
//!
//! The writer has a *state* that it changes all the time; a reader wants a *view* of it that never changes. To make one is
//! cheap, but while it is the newest, whatever the writer changes next has to be copied first. So a view is made only when
//! somebody is there to see it:
//!
//! 1. The writer changes the state under its lock, and when a batch of changes is complete it announces that there is news.
//!    If the last view was taken by a reader, the next is made at once: who reads all the time never waits. If it was not, there
//!    is none from then on, and changes are made in place.
//! 2. A reader takes the newest view. If there is none, it makes one, under the lock.
//!
//! A reader may so see a change before it is announced, never half of one: before the writer begins what may stop in the
//! middle, it makes the view that readers have meanwhile ([`Published::show`]).

use crate::sync::{Arc, ArcSwapOption, AtomicBool, Mutex, MutexGuard, Ordering};

/// A state, and the newest view of it. One writer, any number of readers.
pub(crate) struct Published<S, V> {
    state: Mutex<S>,
    view: ArcSwapOption<V>,
    /// Some reader has taken a view since the last news.
    is_read: AtomicBool,
    view_of: fn(&S) -> V,
}

impl<S, V> Published<S, V> {
    pub(crate) fn new(state: S, view_of: fn(&S) -> V) -> Self {
        Self { state: Mutex::new(state), view: ArcSwapOption::empty(), is_read: AtomicBool::new(false), view_of }
    }

    /// The newest view. Whoever was told of an announced change sees it.
    pub(crate) fn load(&self) -> Arc<V> {
        if !self.is_read.load(Ordering::Relaxed) {
            self.is_read.store(true, Ordering::Relaxed);
        }
        self.view.load_full().unwrap_or_else(|| self.show(&self.lock()))
    }

    /// The state, for the writer. While this is held, nobody else makes a view.
    pub(crate) fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().expect("who panics in the middle of a change leaves nothing to be read")
    }

    /// Makes a view, if there is none. The state must be complete.
    pub(crate) fn show(&self, state: &S) -> Arc<V> {
        self.view.load_full().unwrap_or_else(|| self.replace((self.view_of)(state)))
    }

    /// The view, if there is one.
    pub(crate) fn shown(&self) -> Option<Arc<V>> {
        self.view.load_full()
    }

    /// What is read from now on, until the next news.
    pub(crate) fn replace(&self, view: V) -> Arc<V> {
        let view = Arc::new(view);
        self.view.store(Some(Arc::clone(&view)));
        view
    }

    /// There is news in the state, and it is complete. Whoever loads from now on sees it.
    pub(crate) fn announce(&self, state: &S) {
        if self.is_read.swap(false, Ordering::Relaxed) {
            self.replace((self.view_of)(state));
        } else if self.shown().is_some() {
            self.view.store(None);
        }
    }
}
