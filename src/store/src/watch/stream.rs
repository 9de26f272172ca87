//! One stream: its watches by id, and the answers that wait to be sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::Events;

/// What is sent on a stream.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A watch began, at this revision of the store.
    Created {
        /// The watch.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watch did not begin.
    Refused {
        /// Why.
        reason: Refusal,
        /// The store's revision.
        revision: i64,
    },
    /// A watch ended, as was asked.
    Canceled {
        /// The watch.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watch ended: what it should have told next is compacted.
    Compacted {
        /// The watch.
        watch_id: i64,
        /// Where the history begins now.
        compact_revision: i64,
    },
    /// All events up to this revision have been sent.
    Progress {
        /// The watch; `None` for all watches of the stream.
        watch_id: Option<i64>,
        /// The revision.
        revision: i64,
    },
    /// What happened.
    Events {
        /// The watch.
        watch_id: i64,
        /// The store's revision: for a watch in step that of the events, for one that catches up a later one.
        revision: i64,
        /// Whole revisions.
        events: Events,
        /// Tell what was there before.
        with_previous: bool,
        /// The client takes large answers in pieces.
        fragment: bool,
    },
}

impl Answer {
    /// How many events it tells.
    pub fn events(&self) -> usize {
        match self {
            Answer::Events { events, .. } => events.len(),
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Answer::Events { events, with_previous, .. } => events.bytes(*with_previous),
            _ => 0,
        }
    }
}

/// Why a watch did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its start revision is negative.
    NegativeRevision,
    /// Its range ends where it begins, or before.
    EmptyRange,
    /// Its id is in use on the stream.
    DuplicateId,
}

/// How much of a stream's answers may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) answers: usize,
    pub(super) bytes: usize,
}

/// The stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Watchers by the id that the client knows.
    pub(super) watchers: BTreeMap<i64, usize>,
    /// Where the search for a free id begins.
    next_id: i64,
    /// Watchers that had to stop because too much waits here.
    pub(super) stalled: BTreeSet<usize>,
    queue: VecDeque<Answer>,
    queued_bytes: usize,
    queued_events: usize,
}

impl Stream {
    /// The id of a new watch, if the client has one in mind (0 is none) that is free.
    pub(super) fn id_for(&mut self, wanted: i64) -> Option<i64> {
        if wanted != 0 {
            return (!self.watchers.contains_key(&wanted)).then_some(wanted);
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    pub(super) fn has_room(&self, room: Room) -> bool {
        self.queue.is_empty() || (self.queue.len() < room.answers && self.queued_bytes < room.bytes)
    }

    /// True if nothing waited before.
    pub(super) fn push(&mut self, answer: Answer) -> bool {
        let was_empty = self.queue.is_empty();
        self.queued_events += answer.events();
        self.queued_bytes += answer.bytes();
        self.queue.push_back(answer);
        was_empty
    }

    pub(super) fn pop(&mut self) -> Option<Answer> {
        let answer = self.queue.pop_front()?;
        self.queued_events -= answer.events();
        self.queued_bytes -= answer.bytes();
        Some(answer)
    }

    pub(super) fn queued_events(&self) -> usize {
        self.queued_events
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.queued_events, self.queue.iter().map(Answer::events).sum::<usize>());
        assert_eq!(self.queued_bytes, self.queue.iter().map(Answer::bytes).sum::<usize>());
    }
}
