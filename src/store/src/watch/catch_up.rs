//! Cursors: how watchers that start in the past, or have fallen behind, get to the present.
//!
//! A cursor reads the history once for a group of watchers that need it from about the same revision on. It reads a little each
//! time that it is its turn, on the state of that moment, which it then lets go of: however long the way is, no old view of the
//! database is kept. What each watcher wants gathers in its batch, which becomes an answer when it holds 1000 revisions
//! (etcd's number) or weighs enough, or when the present is reached; there the group is in step.
//!
//! A watcher whose stream has no room leaves its cursor with what was gathered undone: its next revision has not moved. One whose
//! next revision is compacted is told so.
//!
//! Cursors take turns. A watcher that needs only the last few thousand revisions does not wait behind those who read a long
//! history: for such there is always a cursor.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_runtime::{bug, mark};

use super::event::{Event, Events};
use super::gather::gather;
use super::hub::{Place, WatchHub, Watcher};
use super::interests::{Interests, WatchedKeys};
use crate::error::StoreError;
use crate::view::{Reader, Recent};

/// Cursors that read a long history at the same time.
const LONG_CURSORS_MAX: usize = 3;
/// Revisions that lie close together: one cursor for all who start among them.
const NEAR_REVISIONS: i64 = if cfg!(test) { 20 } else { 10_000 };

/// What a watcher will be told next.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<Arc<Event>>,
    bytes: usize,
    /// How many revisions matched, those included of which the filters leave nothing.
    revisions: usize,
    last_revision: i64,
}

/// The cursor.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The first revision that it has not read.
    next_revision: i64,
    interests: Interests,
    watchers: BTreeMap<usize, Batch>,
    /// It began near the present.
    is_short: bool,
}

impl Cursor {
    #[cfg(test)]
    pub(super) fn has(&self, watcher: usize) -> bool {
        self.watchers.contains_key(&watcher)
    }
}

impl WatchHub {
    /// Lets waiting watchers have cursors, and one cursor read on.
    pub(super) fn catch_up(&mut self, reader: &Reader, recent: &Recent) -> Result<(), StoreError> {
        self.end_those_compacted(recent.compacted);
        self.start_cursors();
        let Some(mut cursor) = self.cursors.pop_front() else { return Ok(()) };
        let arrived = self.read_on(&mut cursor, reader, recent)?;
        if !arrived && !cursor.watchers.is_empty() {
            self.cursors.push_back(cursor);
        }
        Ok(())
    }

    /// Nobody waits for, or is on the way to, what is gone.
    fn end_those_compacted(&mut self, compacted: i64) {
        while let Some((next_revision, watcher)) = self.waiting.first().copied()
            && next_revision < compacted
        {
            self.waiting.pop_first();
            self.end_compacted(watcher, compacted);
        }
        let mut cursors = std::mem::take(&mut self.cursors);
        for cursor in cursors.iter_mut().filter(|cursor| cursor.next_revision < compacted) {
            let watchers: Vec<usize> = cursor.watchers.keys().copied().collect();
            for watcher in watchers {
                // What was gathered can still be told.
                if !self.tell_batch(cursor, watcher) {
                    continue;
                }
                let next_revision = &mut self.watchers[watcher].next_revision;
                *next_revision = cursor.next_revision.max(*next_revision);
                if *next_revision < compacted {
                    mark!("watcher_catching_up_is_compacted");
                    self.leave(cursor, watcher);
                    self.end_compacted(watcher, compacted);
                }
            }
            cursor.next_revision = compacted;
        }
        cursors.retain(|cursor| !cursor.watchers.is_empty());
        self.cursors = cursors;
    }

    fn start_cursors(&mut self) {
        while let Some((first, _)) = self.waiting.first().copied() {
            let is_short = first > self.revision - NEAR_REVISIONS;
            let long = self.cursors.iter().filter(|cursor| !cursor.is_short).count();
            let from = if is_short {
                if self.cursors.iter().any(|cursor| cursor.is_short) {
                    return;
                }
                first
            } else if long < LONG_CURSORS_MAX {
                first
            } else if let Some((near, _)) = self.waiting.range((self.revision - NEAR_REVISIONS + 1, 0)..).next()
                && !self.cursors.iter().any(|cursor| cursor.is_short)
            {
                *near
            } else {
                return;
            };
            let is_short = from > self.revision - NEAR_REVISIONS;
            let group: Vec<(i64, usize)> = self
                .waiting
                .range((from, 0)..(from + NEAR_REVISIONS, 0))
                .take(self.limits.cursor_watchers_max)
                .copied()
                .collect();
            let mut cursor =
                Cursor { next_revision: from, interests: Interests::default(), watchers: BTreeMap::new(), is_short };
            for (next_revision, watcher) in group {
                self.waiting.remove(&(next_revision, watcher));
                let Watcher { keys, with_previous, place, .. } = &mut self.watchers[watcher];
                *place = Place::CatchingUp;
                cursor.interests.add(keys, watcher, *with_previous);
                cursor.watchers.insert(watcher, Batch::default());
            }
            self.cursors.push_back(cursor);
        }
    }

    /// True once the cursor is at the present, and its watchers in step.
    fn read_on(&mut self, cursor: &mut Cursor, reader: &Reader, recent: &Recent) -> Result<bool, StoreError> {
        let until = self.revision;
        if cursor.next_revision <= until {
            let gathered =
                gather(reader, recent, &cursor.interests, &self.held, self.limits, cursor.next_revision..=until)?;
            for (event, interests) in gathered.events() {
                // Who leaves the cursor meanwhile leaves its interest, too: look each time.
                let watchers: Vec<usize> = interests
                    .iter()
                    .filter_map(|interest| cursor.interests.try_interest(*interest))
                    .flat_map(|interest| interest.watchers.iter().copied())
                    .collect();
                for watcher in watchers {
                    self.add_to_batch(cursor, watcher, event);
                }
            }
            cursor.next_revision = gathered.through + 1 + i64::from(bug!("catching-up-skips-a-revision"));
        }
        let watchers: Vec<usize> = cursor.watchers.keys().copied().collect();
        let arrived = cursor.next_revision > until;
        if !arrived {
            if self.held.bytes() >= self.limits.held_bytes_max {
                mark!("batches_are_told_early");
                for watcher in watchers {
                    self.tell_batch(cursor, watcher);
                }
            }
            return Ok(false);
        }
        for watcher in watchers {
            if self.tell_batch(cursor, watcher) {
                let next_revision = &mut self.watchers[watcher].next_revision;
                *next_revision = cursor.next_revision.max(*next_revision);
                self.leave(cursor, watcher);
                self.slow -= 1;
                self.add_in_step(watcher);
            }
        }
        Ok(true)
    }

    /// The watcher wants this event, unless it lies before its next revision.
    fn add_to_batch(&mut self, cursor: &mut Cursor, watcher: usize, event: &Arc<Event>) {
        let revision = event.revision();
        let to = &self.watchers[watcher];
        if revision < to.next_revision {
            return;
        }
        let Some(batch) = cursor.watchers.get(&watcher) else { return };
        if revision > batch.last_revision {
            let is_full =
                batch.revisions >= self.limits.answer_revisions_max || batch.bytes >= self.limits.answer_bytes_max;
            if is_full && !self.tell_batch(cursor, watcher) {
                return;
            }
            // What could not be told need not be gathered.
            if cursor.watchers[&watcher].events.is_empty() && !self.has_room(watcher) {
                self.watchers[watcher].next_revision = revision;
                self.leave(cursor, watcher);
                self.stall(watcher);
                return;
            }
        }
        let to = &self.watchers[watcher];
        let batch = cursor.watchers.get_mut(&watcher).expect("it is on the cursor");
        if revision > batch.last_revision {
            batch.revisions += 1;
            batch.last_revision = revision;
        }
        if to.passes(event) {
            batch.bytes += event.kv().len() + if to.with_previous { event.prev_kv().len() } else { 0 };
            batch.events.push(event.clone());
        }
    }

    /// Queues what was gathered for the watcher. If its stream has no room, it leaves the cursor as if nothing had been gathered,
    /// and stalls: false.
    fn tell_batch(&mut self, cursor: &mut Cursor, watcher: usize) -> bool {
        let batch = std::mem::take(cursor.watchers.get_mut(&watcher).expect("it is on the cursor"));
        if batch.revisions == 0 {
            return true;
        }
        if !batch.events.is_empty() && !self.tell(watcher, Events::new(batch.events), self.revision) {
            mark!("watcher_catching_up_stalls");
            self.leave(cursor, watcher);
            self.stall(watcher);
            return false;
        }
        self.watchers[watcher].next_revision = batch.last_revision + 1;
        true
    }

    /// The watcher is on the cursor no more, and in no place.
    fn leave(&mut self, cursor: &mut Cursor, watcher: usize) {
        let Watcher { keys, with_previous, .. } = &self.watchers[watcher];
        cursor.interests.remove(keys, watcher, *with_previous);
        cursor.watchers.remove(&watcher);
    }

    /// The same for one that is gone.
    pub(super) fn take_off_cursor(&mut self, watcher: usize, keys: &WatchedKeys, with_previous: bool) {
        if let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.watchers.contains_key(&watcher)) {
            cursor.interests.remove(keys, watcher, with_previous);
            cursor.watchers.remove(&watcher);
        }
        self.cursors.retain(|cursor| !cursor.watchers.is_empty());
    }
}
