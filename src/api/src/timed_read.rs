//! A read and its time: what metrics count of it, and what the log tells if it was slow.
//!
//! The clock is looked at when a read begins, when the cluster has agreed on what is newest, and when the keys were read.

use std::time::Duration;

use prost::Message;
use quorate_member::Operation;
use quorate_member::trace::Trace;
use quorate_runtime::clock::MonoTime;
use quorate_store::{ReadError, View};
use tonic::Status;

use crate::errors::status;
use crate::room::Roomy;
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

    /// What `read` finds in a view, with as much room as it needs. Unless the read is serializable, the view shows all that was
    /// acknowledged before.
    pub async fn read<A: Message>(
        &mut self,
        is_serializable: bool,
        read: impl Fn(&View, usize) -> Result<Option<A>, ReadError>,
    ) -> Result<Roomy<A>, Status> {
        let api = self.api;
        if !is_serializable {
            let agreed = api.member.linearize().await.map_err(status);
            self.step("agreement among raft nodes before linearized reading");
            agreed?;
        }
        let within = |room_bytes| read(&api.member.view(), room_bytes).map_err(|failure| api.read_failed(failure));
        let read = api.answers.read(within).await;
        let took = self.step("read the keys");
        if self.operation == Operation::Range {
            api.member.metrics().times.range_read(read.is_ok(), took);
        }
        read
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
