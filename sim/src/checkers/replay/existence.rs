//! When revisions existed, for what can be demanded in real time: nobody is told of a revision before its maker has begun, nor
//! of an old one when a newer one is there already.

use std::ops::RangeInclusive;

use super::{FIRST_WRITE, Made, Replay};
use crate::checkers::Evidence;
use crate::world::clock::SimTime;

/// When each revision came to be, at the earliest and at the latest; from the first write on. A revision is there only when all
/// below it are, and then all below it are.
pub struct Existence {
    /// Not before the makers of all up to it had begun.
    begun: Vec<SimTime>,
    /// By the time that a maker of one from it on was told so, or that anybody was told of one.
    existed: Vec<SimTime>,
}

impl Existence {
    /// Of a replay.
    pub fn of(replay: &Replay, evidence: &Evidence) -> Self {
        let mut begun: Vec<SimTime> = replay.made.iter().map(|made| made.start).collect();
        for index in 1..begun.len() {
            begun[index] = begun[index].max(begun[index - 1]);
        }
        let mut existed: Vec<SimTime> = replay.made.iter().map(Made::effective_end).collect();
        for (revision, at) in evidence.sightings() {
            if let Some(existed) = index(revision).and_then(|index| existed.get_mut(index)) {
                *existed = (*existed).min(at);
            }
        }
        for index in (1..existed.len()).rev() {
            existed[index - 1] = existed[index - 1].min(existed[index]);
        }
        Self { begun, existed }
    }

    /// When `revision` was there, at the latest.
    pub fn by(&self, revision: i64) -> SimTime {
        index(revision).and_then(|index| self.existed.get(index)).copied().unwrap_or(SimTime::NEVER)
    }

    /// When `revision` was there, at the earliest.
    pub fn begun(&self, revision: i64) -> SimTime {
        index(revision).and_then(|index| self.begun.get(index)).copied().unwrap_or_default()
    }

    /// The newest revision that may have been there at that time.
    pub fn newest(&self, at: SimTime) -> i64 {
        FIRST_WRITE - 1 + self.begun.partition_point(|&begun| begun <= at) as i64
    }

    /// The revisions of whose state a call may be told that lasted so long.
    pub fn window(&self, start: SimTime, end: SimTime) -> RangeInclusive<i64> {
        let oldest = FIRST_WRITE - 1 + self.existed.partition_point(|&existed| existed < start) as i64;
        oldest..=self.newest(end).max(oldest)
    }
}

fn index(revision: i64) -> Option<usize> {
    usize::try_from(revision - FIRST_WRITE).ok()
}
