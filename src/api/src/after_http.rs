//! What goes on with a connection once it speaks no HTTP any more.
//!
//! A service that agrees to an upgrade leaves the work for afterwards in the request's [`AfterHttp`]. The server that has the
//! connection does that work in the connection's place: it lives on the same reactor, counts as one of the server's
//! connections, and is cut off as they are when a shutdown takes too long.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_runtime::BoxFuture;

/// Where the work is left. It comes as an extension of a request that asks for an upgrade.
#[derive(Clone, Default)]
pub struct AfterHttp(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl AfterHttp {
    /// Leaves work for the time after the upgrade.
    pub fn leave(&self, work: BoxFuture<'static, ()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }

    /// Takes what was left, if anything was.
    pub fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
