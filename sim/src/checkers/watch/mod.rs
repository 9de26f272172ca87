//! etcd's watch guarantees, for each watch alone, against the replayed history (see [`Replay`]).
//!
//! A watch is told of every change to its keys from its start revision on, each once, in the order of revisions, all changes of
//! one revision together, with the exact rows, and of nothing else (*ordered, unique, reliable, atomic*). It may be resumed from
//! any revision: it yields all since then, or is cancelled because that was compacted (*resumable*). A response without events
//! says: you have been told everything up to here (*bookmarkable*). In detail:
//!
//! - The first response says that the watch was created, under the id that was asked for. A watch from revision 0 starts after
//!   some revision that its member had reached by then: it may miss what is not newer than that response's revision, but once
//!   it has begun it misses nothing.
//! - Nothing is told below the start revision, neither events nor progress.
//! - Events are in the order in which the transaction made them, where anybody knows it. Filters leave out puts or deletions.
//! - `prev_kv` is the row as it was at the revision before; nothing, if there was none, and for a key that is new. It may also
//!   be missing if that revision was compacted.
//! - Fragments, if asked for, are put together before anything else.
//! - A cancellation has a reason: the client asked for it, the request is one that is refused, or what comes next was
//!   compacted, by somebody who had asked for that.
//! - When all is healed, every change arrives within the recovery limit.

mod event;
#[cfg(test)]
mod tests;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::Event;
use quorate_types::Error;

use super::case::Truth;
use super::{Case, Checker, Evidence};
use crate::history::watch::{Watch, is_progress};
use crate::world::clock::SimTime;
use event::Expected;

/// See the module.
pub struct Watches;

impl Checker for Watches {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        if evidence.watches.is_empty() {
            return Ok(());
        }
        let Ok(truth) = case.truth() else { return Ok(()) };
        for watch in &evidence.watches {
            let verdict = Judge::new(watch, evidence, truth).judge();
            verdict.map_err(|what| format!("{what}: {}", watch.describe()))?;
        }
        Ok(())
    }
}

/// The walk along one watch.
struct Judge<'a> {
    watch: &'a Watch,
    evidence: &'a Evidence,
    truth: &'a Truth<'a>,
    /// What should be told, by revision.
    expected: Vec<Expected<'a>>,
    /// The index of the next one.
    next: usize,
    id: Option<i64>,
    /// Where a watch from revision 0 has begun is known from its first event.
    may_begin_earlier: bool,
    /// Everything up to this revision has been told.
    told: i64,
    header_revision: i64,
    fragments: Vec<Event>,
    canceled: bool,
}

impl<'a> Judge<'a> {
    fn new(watch: &'a Watch, evidence: &'a Evidence, truth: &'a Truth<'a>) -> Self {
        let first = watch.request.start_revision.max(0);
        Self {
            watch,
            evidence,
            truth,
            expected: event::expected(watch, &truth.replay, first),
            next: 0,
            id: None,
            may_begin_earlier: first == 0,
            told: (first - 1).max(0),
            header_revision: 0,
            fragments: Vec::new(),
            canceled: false,
        }
    }

    fn judge(mut self) -> Result<(), String> {
        for (at, response) in &self.watch.responses {
            self.on_response(*at, response)?;
        }
        self.check_in_time()
    }

    fn on_response(&mut self, at: SimTime, response: &pb::WatchResponse) -> Result<(), String> {
        if self.canceled {
            return Err(format!("a response after the end: {response:?}"));
        }
        if response.created != self.id.is_none() {
            let when = if response.created { "created twice" } else { "a response before it was created" };
            return Err(format!("{when}: {response:?}"));
        }
        if response.compact_revision != 0 && !response.canceled {
            return Err(format!("a compacted watch goes on: {response:?}"));
        }
        if response.created {
            return self.on_created(at, response);
        }
        let for_all = response.watch_id == NO_ID && is_progress(response);
        if self.id != Some(response.watch_id) && !for_all {
            return Err(format!("a response of another watch: {response:?}"));
        }
        if response.canceled {
            return self.on_canceled(at, response);
        }
        self.check_header(at, response)?;
        if is_progress(response) {
            return self.on_progress(response);
        }
        if response.fragment && !self.watch.request.fragment {
            return Err(format!("a fragment that nobody asked for: {response:?}"));
        }
        self.fragments.extend(response.events.iter().cloned());
        if response.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut self.fragments);
        self.on_events(at, response, &events)
    }

    fn on_created(&mut self, at: SimTime, response: &pb::WatchResponse) -> Result<(), String> {
        let request = &self.watch.request;
        self.id = Some(response.watch_id);
        if response.canceled {
            return self.on_canceled(at, response);
        }
        if request.start_revision < 0 || self.watch.is_of_nothing() {
            return Err(format!("it must be refused: {response:?}"));
        }
        if request.watch_id != 0 && request.watch_id != response.watch_id {
            return Err(format!("another id than was asked for: {response:?}"));
        }
        if !response.events.is_empty() || response.fragment {
            return Err(format!("events in the response that creates it: {response:?}"));
        }
        // Later headers may be older than this one: it does not wait for the events that are on their way.
        let revision = header(response)?.revision;
        self.check_begun(at, revision)?;
        if self.may_begin_earlier {
            self.next = self.expected.partition_point(|expected| expected.revision <= revision);
        }
        Ok(())
    }

    fn check_header(&mut self, at: SimTime, response: &pb::WatchResponse) -> Result<(), String> {
        let header = header(response)?;
        if [header.cluster_id, header.member_id, header.raft_term].contains(&0) {
            return Err(format!("a header is not filled: {response:?}"));
        }
        if header.revision < self.header_revision {
            return Err(format!("the revision went back from {}: {response:?}", self.header_revision));
        }
        self.header_revision = header.revision;
        self.check_begun(at, header.revision)
    }

    /// Nobody is told of a revision that nobody has made, or before its maker has begun. Watches may lag.
    fn check_begun(&self, at: SimTime, revision: i64) -> Result<(), String> {
        self.truth.check_told(revision, SimTime::default(), at)
    }

    /// Everything up to the header's revision has been told.
    fn on_progress(&mut self, response: &pb::WatchResponse) -> Result<(), String> {
        if !self.fragments.is_empty() {
            return Err(format!("progress between fragments: {response:?}"));
        }
        let revision = self.header_revision;
        if revision < self.watch.request.start_revision {
            return Err(format!("progress below the start revision: {response:?}"));
        }
        if let Some(missing) = self.expected.get(self.next).filter(|missing| missing.revision <= revision) {
            return Err(format!("progress at revision {revision}, but it was not told of {}", missing.describe()));
        }
        self.may_begin_earlier = false;
        self.told = self.told.max(revision);
        Ok(())
    }

    fn on_events(&mut self, at: SimTime, response: &pb::WatchResponse, events: &[Event]) -> Result<(), String> {
        let decoded = event::decode(events)?;
        for told in decoded.chunk_by(|left, right| left.revision() == right.revision()) {
            let revision = told[0].revision();
            if revision > self.header_revision {
                return Err(format!("an event is newer than its header: {response:?}"));
            }
            if std::mem::take(&mut self.may_begin_earlier) {
                let at = self.expected.partition_point(|expected| expected.revision < revision);
                self.next = self.next.min(at);
            }
            let Some(expected) = self.expected.get_mut(self.next) else {
                return Err(format!("told of revision {revision}, where nothing was to be told (any more)"));
            };
            if expected.revision > revision {
                let why = if revision <= self.told { "again, or late," } else { "though it is not for it," };
                return Err(format!("told of revision {revision} {why} and next should be {}", expected.describe()));
            }
            if expected.revision < revision {
                return Err(format!("told of revision {revision}, but not of {} before", expected.describe()));
            }
            expected.told_at = Some(at);
            let expected = &self.expected[self.next];
            expected.check(told, &self.watch.request, |revision| self.truth.may_be_compacted(revision, at))?;
            self.check_begun(at, revision)?;
            self.told = revision;
            self.next += 1;
        }
        Ok(())
    }

    fn on_canceled(&mut self, at: SimTime, response: &pb::WatchResponse) -> Result<(), String> {
        self.canceled = true;
        let request = &self.watch.request;
        if !response.events.is_empty() {
            return Err(format!("events in the response that ends it: {response:?}"));
        }
        if response.compact_revision != 0 {
            let compacted = response.compact_revision;
            let asked = self.truth.compactions.iter().any(|by| by.revision == compacted && by.start <= at);
            return if !asked {
                Err(format!("nobody has compacted at {compacted}: {response:?}"))
            } else if compacted <= self.told + 1 {
                Err(format!("cancelled by a compaction at {compacted}, though it needs nothing below: {response:?}"))
            } else {
                Ok(())
            };
        }
        let refused = response.created
            && ((request.start_revision < 0 && response.cancel_reason == Error::Compacted.message())
                || (self.watch.is_of_nothing() && response.cancel_reason == EMPTY_RANGE)
                || (self.shares_its_id() && response.cancel_reason == DUPLICATE_ID));
        if refused || self.watch.cancel_asked.is_some_and(|asked| asked <= at) {
            return Ok(());
        }
        Err(format!("cancelled without a reason: {response:?}"))
    }

    /// True if the client has used the id before on this stream.
    fn shares_its_id(&self) -> bool {
        let id = self.watch.request.watch_id;
        let same = |other: &&Watch| {
            let taken = other.responses.first().map(|(_, response)| response.watch_id);
            other.stream == self.watch.stream && (other.request.watch_id == id || taken == Some(id))
        };
        id != 0 && self.evidence.watches.iter().filter(same).count() > 1
    }

    /// What a healed cluster owes its watchers.
    fn check_in_time(&self) -> Result<(), String> {
        let evidence = self.evidence;
        let due = |existed: SimTime| {
            let from = existed.max(evidence.healed_at).max(self.watch.start);
            from.plus_nanos(evidence.recovery_limit_ns)
        };
        // Who has stopped listening by then proves nothing.
        let is_late = |due: SimTime, told_at: Option<SimTime>| {
            due < self.watch.end && told_at.is_none_or(|told_at| told_at > due)
        };
        if self.id.is_none() && is_late(due(SimTime::default()), None) {
            return Err(format!("not created by {}", due(SimTime::default())));
        }
        if self.id.is_none() || self.canceled {
            return Ok(());
        }
        // Those before the first one told are before the beginning of a watch from revision 0.
        let begun = self.expected.iter().position(|expected| expected.told_at.is_some()).unwrap_or(self.next);
        for expected in &self.expected[begun..] {
            let due = due(self.truth.existence.by(expected.revision));
            if is_late(due, expected.told_at) {
                return Err(format!("not told by {due} of {}", expected.describe()));
            }
        }
        Ok(())
    }
}

/// The id of what speaks for all watches of a stream, and of a watch that was refused.
const NO_ID: i64 = -1;

/// etcd's words for a watch of a range that has no key.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// etcd's words for an id that is in use.
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

fn header(response: &pb::WatchResponse) -> Result<&pb::ResponseHeader, String> {
    response.header.as_ref().ok_or_else(|| format!("a response without a header: {response:?}"))
}
