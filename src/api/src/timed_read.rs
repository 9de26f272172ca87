//! A read and its time: what metrics count of it, and what the log tells if it was slow.
//!
//! The clock is looked at when a read begins, when the cluster has agreed on what is newest, and when the keys were read.

use std::time::Duration;

use quorate_member::Operation;
use quorate_member::trace::Trace;
use quorate_runtime::clock::MonoTime;
use tonic::Status;

use crate::errors::status;
use crate::service::Api;

/// A read under way.
pub struct TimedRead<'a> {
    api: &'a Api,
    operation: Operation,
    trace: Trace,
    /// The end of its last step.
    last_at: MonoTime,
}

impl<'a> TimedRead<'a> {
    /// It begins. `name` is what the log calls it.
    pub fn begin(api: &'a Api, operation: Operation, name: &'static str) -> Self {
        let now = api.rt.mono_now();
        Self { api, operation, trace: Trace::begin(name, now), last_at: now }
    }

    /// Waits until the newest view shows all that was acknowledged before.
    pub async fn agree(&mut self) -> Result<(), Status> {
        let agreed = self.api.member.linearize().await.map_err(status);
        self.step("agreement among raft nodes before linearized reading");
        agreed
    }

    /// The keys were read, or could not be. Returns how long that took.
    pub fn read(&mut self) -> Duration {
        self.step("read the keys")
    }

    fn step(&mut self, what: &'static str) -> Duration {
        let now = self.api.rt.mono_now();
        let took = now - self.last_at;
        self.last_at = now;
        self.trace.step(what, now);
        took
    }

    /// It ended with its last step. `detail` says what was asked.
    pub fn end(self, is_success: bool, detail: impl FnOnce() -> String) {
        let Self { api, operation, trace, last_at } = self;
        let (times, took) = (&api.member.metrics().times, last_at - trace.begun_at());
        times.answered(operation, is_success, took);
        times.warn_if_slow(operation, took, api.member.config().warning_apply_duration, 0);
        trace.end(&api.rt, last_at, detail);
    }
}
