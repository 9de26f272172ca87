//! The hub: watches come and go, and those in step are told what is new.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_runtime::{bug, mark};

use super::catch_up::Cursor;
use super::event::{Event, Events, Held};
use super::gather::gather;
use super::interests::{Interests, WatchedKeys};
use super::slots::Slots;
use super::stream::{Answer, Refusal, Room, Stream};
use crate::error::StoreError;
use crate::view::{Reader, Recent};

/// What may wait in memory, and how much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Answers that may wait on a stream before its watchers stall.
    pub stream_answers_max: usize,
    /// Bytes of events that may wait on a stream.
    pub stream_bytes_max: usize,
    /// Bytes of all events that are held. Beyond it a stream gets more only when nothing waits there.
    pub held_bytes_max: usize,
    /// Revisions in one answer to a watcher that catches up; etcd's number.
    pub answer_revisions_max: usize,
    /// Bytes of events after which such an answer ends with its revision.
    pub answer_bytes_max: usize,
    /// Watchers that catch up together.
    pub cursor_watchers_max: usize,
    /// Rows that one step looks at, bytes that it keeps, and watchers that it tells. The revision in which one of them is reached
    /// is read to its end.
    pub step_rows_max: usize,
    /// See [`WatchLimits::step_rows_max`].
    pub step_bytes_max: usize,
    /// See [`WatchLimits::step_rows_max`].
    pub step_told_max: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            stream_answers_max: 1024,
            stream_bytes_max: 8 << 20,
            held_bytes_max: 64 << 20,
            answer_revisions_max: 1000,
            answer_bytes_max: 16 << 20,
            cursor_watchers_max: 512,
            step_rows_max: 2000,
            step_bytes_max: 1 << 20,
            step_told_max: 10_000,
        }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct NewWatch {
    /// As in a range: the key, or where the range starts.
    pub key: Bytes,
    /// As in a range: nothing for one key, one zero byte for all keys from `key` on.
    pub range_end: Bytes,
    /// The first revision to be told; 0 is the next one.
    pub start_revision: i64,
    /// The id that the client wants; 0 leaves it to the stream.
    pub watch_id: i64,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Tell what was there before.
    pub with_previous: bool,
    /// Tell from time to time how far the watch is.
    pub progress_notify: bool,
    /// The client takes large answers in pieces.
    pub fragment: bool,
}

/// A stream of this hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(usize);

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Streams.
    pub streams: usize,
    /// Watchers, ended ones included that still keep their id.
    pub watchers: usize,
    /// Watchers that are not in step.
    pub slow: usize,
    /// Events that wait to be sent.
    pub pending_events: usize,
}

/// Where a watcher is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    InStep,
    Waiting,
    CatchingUp,
    Stalled,
    Compacted,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    pub(super) id: i64,
    pub(super) keys: WatchedKeys,
    /// What the client asked for.
    pub(super) start_revision: i64,
    /// The first revision of which nothing is queued. In step, all below it are below the hub's next revision too, unless the
    /// watch starts in the future.
    pub(super) next_revision: i64,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) with_previous: bool,
    pub(super) fragment: bool,
    /// The client wants to know how far the watch is, and whether nothing was sent since that was last the question.
    pub(super) quiet: Option<bool>,
    pub(super) place: Place,
}

impl Watcher {
    pub(super) fn passes(&self, event: &Event) -> bool {
        if event.is_delete() { !self.no_delete } else { !self.no_put }
    }
}

/// The hub.
#[derive(Debug)]
pub struct WatchHub {
    pub(super) limits: WatchLimits,
    /// Watchers in step have been told everything up to here.
    pub(super) revision: i64,
    pub(super) watchers: Slots<Watcher>,
    pub(super) streams: Slots<Stream>,
    pub(super) in_step: Interests,
    /// By the revision that they need next.
    pub(super) waiting: BTreeSet<(i64, usize)>,
    pub(super) cursors: VecDeque<Cursor>,
    pub(super) held: Held,
    pub(super) slow: usize,
    pending_events: usize,
    /// Streams that had nothing waiting, and now have.
    woken: Vec<StreamId>,
    /// Lists by interest, empty between two revisions.
    lists: Vec<Vec<Arc<Event>>>,
}

impl WatchHub {
    /// A hub without streams.
    pub fn new(limits: WatchLimits) -> Self {
        Self {
            limits,
            revision: 0,
            watchers: Slots::default(),
            streams: Slots::default(),
            in_step: Interests::default(),
            waiting: BTreeSet::new(),
            cursors: VecDeque::new(),
            held: Held::default(),
            slow: 0,
            pending_events: 0,
            woken: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// A new stream.
    pub fn open(&mut self) -> StreamId {
        StreamId(self.streams.insert(Stream::default()))
    }

    /// The stream is gone, and its watches with it.
    pub fn close(&mut self, stream: StreamId) {
        for watcher in std::mem::take(&mut self.streams[stream.0].watchers).into_values() {
            self.remove(watcher);
        }
        self.pending_events -= self.streams[stream.0].queued_events();
        self.streams.remove(stream.0);
        self.woken.retain(|woken| *woken != stream);
    }

    /// A client asks for a watch. The answer says what became of it.
    pub fn create(&mut self, reader: &Reader, stream: StreamId, asked: NewWatch) -> Result<(), StoreError> {
        let recent = reader.recent();
        self.advance(reader, &recent)?;
        let revision = recent.revision;
        let refuse = |reason| Answer::Refused { reason, revision };
        if asked.start_revision < 0 {
            self.push(stream, refuse(Refusal::NegativeRevision));
            return Ok(());
        }
        let Some(keys) = WatchedKeys::from_request(asked.key, asked.range_end) else {
            self.push(stream, refuse(Refusal::EmptyRange));
            return Ok(());
        };
        let Some(watch_id) = self.streams[stream.0].id_for(asked.watch_id) else {
            self.push(stream, refuse(Refusal::DuplicateId));
            return Ok(());
        };
        let starts_in_past = (1..=revision).contains(&asked.start_revision);
        let keys = keys.detached();
        let watcher = self.watchers.insert(Watcher {
            stream,
            id: watch_id,
            keys,
            start_revision: asked.start_revision,
            next_revision: if starts_in_past { asked.start_revision } else { asked.start_revision.max(revision + 1) },
            no_put: asked.no_put,
            no_delete: asked.no_delete,
            with_previous: asked.with_previous,
            fragment: asked.fragment,
            quiet: asked.progress_notify.then_some(true),
            place: Place::InStep,
        });
        self.streams[stream.0].watchers.insert(watch_id, watcher);
        if starts_in_past {
            self.slow += 1;
            self.wait(watcher);
        } else {
            self.add_in_step(watcher);
        }
        self.push(stream, Answer::Created { watch_id, revision });
        Ok(())
    }

    /// A client ends a watch. One that it does not have is no watch to end, and gets no answer.
    pub fn cancel(&mut self, reader: &Reader, stream: StreamId, watch_id: i64) {
        if let Some(watcher) = self.streams[stream.0].watchers.remove(&watch_id) {
            self.remove(watcher);
            let revision = reader.recent().revision.max(self.revision);
            self.push(stream, Answer::Canceled { watch_id, revision });
        }
    }

    /// A client asks how far its watches are, all together. No answer unless all are in step and have begun.
    pub fn request_progress(&mut self, reader: &Reader, stream: StreamId) -> Result<(), StoreError> {
        let recent = reader.recent();
        self.advance(reader, &recent)?;
        let watchers = &self.streams[stream.0].watchers;
        let are_here = watchers.values().all(|watcher| self.is_at(*watcher, &recent));
        if !watchers.is_empty() && are_here {
            self.push_progress(stream, None);
        }
        Ok(())
    }

    /// It is time to tell how far the watches are that want to know and have been quiet for an interval.
    pub fn tell_progress(&mut self, reader: &Reader, stream: StreamId) -> Result<(), StoreError> {
        let recent = reader.recent();
        self.advance(reader, &recent)?;
        let watchers: Vec<(i64, usize)> =
            self.streams[stream.0].watchers.iter().map(|(id, watcher)| (*id, *watcher)).collect();
        for (id, watcher) in watchers {
            let Some(quiet) = &mut self.watchers[watcher].quiet else { continue };
            if std::mem::replace(quiet, true) && self.is_at(watcher, &recent) {
                self.push_progress(stream, Some(id));
            }
        }
        Ok(())
    }

    /// In step with the newest state, and begun.
    fn is_at(&self, watcher: usize, recent: &Recent) -> bool {
        let watcher = &self.watchers[watcher];
        let is_in_step = watcher.place == Place::InStep || bug!("progress-ahead-of-the-events");
        is_in_step && self.revision == recent.revision && watcher.start_revision <= recent.revision
    }

    /// Through the queue, behind all events up to here. A stream that is not read needs no more of it.
    fn push_progress(&mut self, stream: StreamId, watch_id: Option<i64>) {
        if self.streams[stream.0].has_room(self.room()) {
            self.push(stream, Answer::Progress { watch_id, revision: self.revision });
        }
    }

    /// Takes answers off the stream until they weigh `bytes_max` or there are `answers_max` of them. Then [`WatchHub::has_work`]
    /// may be true that was not.
    pub fn take(&mut self, stream: StreamId, answers_max: usize, bytes_max: usize, taken: &mut Vec<Answer>) {
        let mut bytes = 0;
        while taken.len() < answers_max && bytes < bytes_max {
            let Some(answer) = self.streams[stream.0].pop() else { break };
            if let Answer::Events { watch_id, events, with_previous, .. } = &answer {
                bytes += events.bytes(*with_previous);
                self.pending_events -= events.len();
                if let Some(watcher) = self.streams[stream.0].watchers.get(watch_id) {
                    let quiet = &mut self.watchers[*watcher].quiet;
                    *quiet = quiet.map(|_| false);
                }
            }
            taken.push(answer);
        }
        let half = self.room();
        let half = Room { answers: half.answers / 2, bytes: half.bytes / 2 };
        if !self.streams[stream.0].stalled.is_empty() && self.streams[stream.0].has_room(half) {
            for watcher in std::mem::take(&mut self.streams[stream.0].stalled) {
                self.wait(watcher);
            }
        }
    }

    /// True if [`WatchHub::step`] has something to do even if the store has not changed.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.cursors.is_empty()
    }

    /// Tells watchers in step what is new, and lets one cursor read on. True if there is more to do at once.
    pub fn step(&mut self, reader: &Reader) -> Result<bool, StoreError> {
        if self.watchers.len() == 0 {
            return Ok(false);
        }
        let recent = reader.recent();
        self.advance(reader, &recent)?;
        self.catch_up(reader, &recent)?;
        Ok(self.revision < recent.revision || self.has_work())
    }

    /// The streams for which something waits where nothing did, since they were last asked for.
    pub fn take_woken(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.woken)
    }

    /// Bytes of the events that somebody still holds: queues, batches, and whoever has taken an answer.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// How many there are.
    pub fn counts(&self) -> WatchCounts {
        WatchCounts {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            slow: self.slow,
            pending_events: self.pending_events,
        }
    }

    /// Tells watchers in step what is new: all of it, or what one step can.
    fn advance(&mut self, reader: &Reader, recent: &Recent) -> Result<(), StoreError> {
        if recent.revision <= self.revision {
            return Ok(());
        }
        if self.in_step.is_empty() {
            self.revision = recent.revision;
            return Ok(());
        }
        let from = self.revision + 1;
        let is_jump = bug!("watcher-goes-back-after-a-snapshot") && recent.revision > from + 20;
        if is_jump || from < recent.rows.complete_from() {
            // Some of the rows may be gone: a snapshot took the state's place, or a compaction was quicker than we were. Who
            // needs one of those is told so there.
            mark!("watchers_in_step_must_catch_up");
            self.revision = recent.revision;
            for watcher in self.in_step.drain() {
                let next = &mut self.watchers[watcher].next_revision;
                if !bug!("watcher-goes-back-after-a-snapshot") {
                    *next = from.max(*next);
                }
                if *next <= recent.revision {
                    self.slow += 1;
                    self.wait(watcher);
                } else {
                    self.add_in_step(watcher);
                }
            }
            return Ok(());
        }
        let gathered = gather(reader, recent, &self.in_step, &self.held, self.limits, from..=recent.revision)?;
        for events in gathered.revisions() {
            self.tell_revision(events);
        }
        self.revision = gathered.through;
        Ok(())
    }

    /// Tells watchers in step of one revision.
    fn tell_revision<'a>(&mut self, events: impl Iterator<Item = (&'a Arc<Event>, &'a [usize])>) {
        let mut lists = std::mem::take(&mut self.lists);
        let mut wanting: Vec<usize> = Vec::new();
        let mut revision = 0;
        for (event, interests) in events {
            revision = event.revision();
            // Those whose last watcher has stalled at an earlier revision are not there any more.
            for interest in interests.iter().filter(|interest| self.in_step.try_interest(**interest).is_some()) {
                if lists.len() <= *interest {
                    lists.resize_with(interest + 1, Vec::new);
                }
                if lists[*interest].is_empty() {
                    wanting.push(*interest);
                }
                lists[*interest].push(event.clone());
            }
        }
        let mut stalled = Vec::new();
        for interest in wanting {
            let events = Events::new(std::mem::take(&mut lists[interest]));
            let watchers = std::mem::take(&mut self.in_step.interest_mut(interest).watchers);
            for watcher in &watchers {
                if self.watchers[*watcher].next_revision > revision {
                    continue;
                }
                if self.tell(*watcher, events.clone(), revision) {
                    let next = &mut self.watchers[*watcher].next_revision;
                    *next = if bug!("watcher-goes-back-after-a-snapshot") { *next } else { revision + 1 };
                } else {
                    // Its next revision is at or before this one, and nothing that it wants lies between them.
                    self.watchers[*watcher].next_revision = revision;
                    stalled.push(*watcher);
                }
            }
            self.in_step.interest_mut(interest).watchers = watchers;
        }
        self.lists = lists;
        for watcher in stalled {
            mark!("watcher_in_step_stalls");
            let Watcher { keys, with_previous, .. } = &self.watchers[watcher];
            self.in_step.remove(keys, watcher, *with_previous);
            self.slow += 1;
            self.stall(watcher);
        }
    }

    /// Queues an answer with those events that pass the watcher's filters, if there are any. False if its stream has no room.
    pub(super) fn tell(&mut self, watcher: usize, events: Events, revision: i64) -> bool {
        let to = &self.watchers[watcher];
        let events = if to.no_put || to.no_delete { events.filtered(|event| to.passes(event)) } else { events };
        if events.is_empty() {
            return true;
        }
        if !self.has_room(watcher) {
            return false;
        }
        let Watcher { stream, id, with_previous, fragment, .. } = *to;
        self.pending_events += events.len();
        self.push(stream, Answer::Events { watch_id: id, revision, events, with_previous, fragment });
        true
    }

    pub(super) fn has_room(&self, watcher: usize) -> bool {
        self.streams[self.watchers[watcher].stream.0].has_room(self.room())
    }

    /// The room on each stream now.
    fn room(&self) -> Room {
        if self.held.bytes() >= self.limits.held_bytes_max {
            return Room { answers: 0, bytes: 0 };
        }
        Room { answers: self.limits.stream_answers_max, bytes: self.limits.stream_bytes_max }
    }

    pub(super) fn push(&mut self, stream: StreamId, answer: Answer) {
        if self.streams[stream.0].push(answer) {
            self.woken.push(stream);
        }
    }

    /// From now on the watcher is told each revision as it comes.
    pub(super) fn add_in_step(&mut self, watcher: usize) {
        let Watcher { keys, with_previous, place, .. } = &mut self.watchers[watcher];
        *place = Place::InStep;
        self.in_step.add(keys, watcher, *with_previous);
    }

    /// The watcher, in no place now, needs a cursor.
    fn wait(&mut self, watcher: usize) {
        self.watchers[watcher].place = Place::Waiting;
        self.waiting.insert((self.watchers[watcher].next_revision, watcher));
    }

    /// The watcher, in no place now, is told nothing until its stream has been read.
    pub(super) fn stall(&mut self, watcher: usize) {
        self.watchers[watcher].place = Place::Stalled;
        self.streams[self.watchers[watcher].stream.0].stalled.insert(watcher);
    }

    /// What the watcher should be told next is gone. False if its stream has no room for that: it stalls.
    pub(super) fn end_compacted(&mut self, watcher: usize, compact_revision: i64) {
        if !self.has_room(watcher) {
            mark!("compacted_watcher_stalls");
            self.stall(watcher);
            return;
        }
        let Watcher { stream, id, place, .. } = &mut self.watchers[watcher];
        *place = Place::Compacted;
        let (stream, watch_id) = (*stream, *id);
        self.slow -= 1;
        self.push(stream, Answer::Compacted { watch_id, compact_revision });
    }

    /// Forgets a watcher that its stream does not name any more.
    fn remove(&mut self, watcher: usize) {
        let Watcher { stream, keys, next_revision, with_previous, place, .. } = self.watchers.remove(watcher);
        match place {
            Place::InStep => self.in_step.remove(&keys, watcher, with_previous),
            Place::Waiting => {
                self.waiting.remove(&(next_revision, watcher));
            }
            Place::CatchingUp => self.take_off_cursor(watcher, &keys, with_previous),
            Place::Stalled => {
                self.streams[stream.0].stalled.remove(&watcher);
            }
            Place::Compacted => {}
        }
        self.slow -= usize::from(!matches!(place, Place::InStep | Place::Compacted));
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let mut slow = 0;
        let in_step = self.in_step.watchers();
        for (number, watcher) in self.watchers.iter() {
            let stream = &self.streams[watcher.stream.0];
            assert_eq!(stream.watchers.get(&watcher.id), Some(&number));
            assert_eq!(in_step.contains(&number), watcher.place == Place::InStep);
            assert_eq!(self.waiting.contains(&(watcher.next_revision, number)), watcher.place == Place::Waiting);
            assert_eq!(stream.stalled.contains(&number), watcher.place == Place::Stalled);
            let on_cursors = self.cursors.iter().filter(|cursor| cursor.has(number)).count();
            assert_eq!(on_cursors, usize::from(watcher.place == Place::CatchingUp));
            slow += usize::from(!matches!(watcher.place, Place::InStep | Place::Compacted));
        }
        assert_eq!(self.slow, slow);
        assert_eq!(in_step.len(), self.watchers.iter().filter(|(_, watcher)| watcher.place == Place::InStep).count());
        let queued: usize = self.streams.iter().map(|(_, stream)| stream.queued_events()).sum();
        assert_eq!(self.pending_events, queued);
        self.streams.iter().for_each(|(_, stream)| stream.check_invariants());
        assert!(self.lists.iter().all(Vec::is_empty));
    }
}
