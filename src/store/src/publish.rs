//! The one place where the writer hands something to readers on other threads.
//!
//! A value is made complete first and swapped in as a whole; a reader takes a reference to whichever value is there and
//! keeps it as long as it likes. Neither ever waits for the other.

use crate::sync::{Arc, ArcSwap};

/// The newest value of a kind. One writer stores, any number of readers load.
pub(crate) struct Published<T> {
    current: ArcSwap<T>,
}

impl<T> Published<T> {
    pub(crate) fn new(first: Arc<T>) -> Self {
        Self { current: ArcSwap::new(first) }
    }

    /// The newest value.
    pub(crate) fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Replaces the value. Whoever loads from now on sees `next`, or a later one.
    pub(crate) fn store(&self, next: Arc<T>) {
        self.current.store(next);
    }
}
