//! Where the time of a slow request went: a line in the log with its steps (etcd `pkg/traceutil`).
//!
//! Steps are noted as they end, with moments that somebody has read from the clock anyway: a request that is fast pays for
//! a few stores, and nothing is written or put together for it. Of a slow one the log tells the steps that took more than their
//! share.

use std::fmt::Display;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::etcdserverpb::InternalRaftRequest;
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;
use quorate_store::Response;
use quorate_types::GoDuration;

/// Requests that take longer are told of (etcd `server/etcdserver/v3_server.go`, `traceThreshold`).
pub const LONG: Duration = Duration::from_millis(100);

/// No request has more steps.
const STEPS_MAX: usize = 4;

/// A request under way.
#[derive(Debug)]
pub struct Trace {
    operation: &'static str,
    begun_at: MonoTime,
    steps: [(&'static str, MonoTime); STEPS_MAX],
    count: usize,
}

impl Trace {
    /// `operation` begins.
    pub fn begin(operation: &'static str, at: MonoTime) -> Self {
        Self { operation, begun_at: at, steps: [("", at); STEPS_MAX], count: 0 }
    }

    /// When it began.
    pub fn begun_at(&self) -> MonoTime {
        self.begun_at
    }

    /// The step `what` ended. A request that goes in circles keeps its first steps, and the end of its last.
    pub fn step(&mut self, what: &'static str, at: MonoTime) {
        self.count = (self.count + 1).min(STEPS_MAX);
        self.steps[self.count - 1] = (what, at);
    }

    /// It ended at `at`. If that took long, the log tells so, with `detail` of what was asked.
    pub fn end(&self, rt: &Rt, at: MonoTime, detail: impl FnOnce() -> String) {
        let took = at - self.begun_at;
        if took <= LONG {
            return;
        }
        let ended = rt.wall_now().unix_nanos();
        let text = |nanos: u64| jiff::Timestamp::from_nanosecond(nanos.into()).map(|at| format!("{at:.6}"));
        let steps = self.long_steps();
        tracing::info!(
            trace_id = rt.random_u64() >> 33,
            operation = self.operation,
            detail = detail(),
            duration = %GoDuration::from(took),
            start = text(ended.saturating_sub(took.as_nanos() as u64)).unwrap_or_default(),
            end = text(ended).unwrap_or_default(),
            steps = ?steps,
            step_count = steps.len(),
            "trace"
        );
    }

    /// The steps that took more than their share of what is long.
    fn long_steps(&self) -> Vec<String> {
        let share = LONG / (self.count as u32 + 1);
        let steps = &self.steps[..self.count];
        let begins = std::iter::once(self.begun_at).chain(steps.iter().map(|(_, at)| *at));
        let took = steps.iter().zip(begins).map(|((what, at), begun_at)| (what, *at - begun_at));
        took.filter(|(_, took)| *took > share)
            .map(|(what, took)| format!("'{what}'  (duration: {})", GoDuration::from(took)))
            .collect()
    }
}

/// Tells of a write that was applied, and what it was answered. It began, began to be applied, and ended at these moments.
pub(crate) fn tell_of_write(
    rt: &Rt,
    request: &InternalRaftRequest,
    response: Option<&Response>,
    [begun_at, apply_began_at, ended_at]: [MonoTime; 3],
) {
    let revision = response.and_then(revision).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (operation, told) = if let Some(put) = &request.put {
        let (key, bytes) = (text(&put.key), put.encoded_len());
        ("put", detail(&[("key", &key), ("req_size", &bytes), ("response_revision", &revision)]))
    } else if let Some(delete) = &request.delete_range {
        let (key, range_end) = (text(&delete.key), text(&delete.range_end));
        ("delete_range", detail(&[("key", &key), ("range_end", &range_end), ("response_revision", &revision)]))
    } else if request.txn.is_some() {
        let count = match response {
            Some(Response::Txn(txn)) => txn.responses.len(),
            _ => 0,
        };
        let fields: [(&str, &dyn Display); 3] =
            [("read_only", &false), ("number_of_response", &count), ("response_revision", &revision)];
        ("transaction", detail(&fields))
    } else if let Some(compaction) = &request.compaction {
        ("compact", detail(&[("revision", &compaction.revision), ("response_revision", &revision)]))
    } else {
        return;
    };
    let mut trace = Trace::begin(operation, begun_at);
    trace.step("process raft request", apply_began_at);
    trace.step("apply the request", ended_at);
    trace.end(rt, ended_at, || told);
}

fn revision(response: &Response) -> Option<i64> {
    let header = match response {
        Response::Put(answer) => &answer.header,
        Response::DeleteRange(answer) => &answer.header,
        Response::Txn(answer) => &answer.header,
        Response::Compaction(answer) => &answer.header,
        _ => return None,
    };
    header.as_ref().map(|header| header.revision)
}

/// Puts together the text about a request: `{key:a; req_size:3; }`.
pub fn detail(fields: &[(&str, &dyn Display)]) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}:{value}; ")).collect();
    format!("{{{fields}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_nanos(0) + Duration::from_millis(ms)
    }

    #[test]
    fn of_the_steps_those_are_told_that_took_their_time() {
        let mut trace = Trace::begin("range", at(0));
        trace.step("first", at(120));
        trace.step("second", at(130));
        trace.step("third", at(200));
        assert_eq!(trace.long_steps(), ["'first'  (duration: 120ms)", "'third'  (duration: 70ms)"]);
    }

    #[test]
    fn the_last_step_of_many_takes_the_rest() {
        let mut trace = Trace::begin("range", at(0));
        for step in 1..=10 {
            trace.step("again", at(100 * step));
        }
        let told = trace.long_steps();
        assert_eq!((told.len(), &*told[3]), (STEPS_MAX, "'again'  (duration: 700ms)"));
    }

    #[test]
    fn details_read_as_in_etcd() {
        assert_eq!(detail(&[("key", &"a b"), ("req_size", &3)]), "{key:a b; req_size:3; }");
    }
}
