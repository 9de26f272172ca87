//! When revisions existed, for what can be demanded in real time: nobody is told of a revision before its maker has begun, nor
//! of an old one when a newer one is there already.

use std::ops::RangeInclusive;

use super::{FIRST_WRITE, Made, Replay};
use crate::checkers::Evidence;
use crate::world::clock::SimTime;

/// By when each revision existed, at the latest; from the first write on.
pub struct Existence(Vec<SimTime>);

impl Existence {
    /// Of a replay: a revision is there when its maker was told so, and when anybody was told of it.
    pub fn of(replay: &Replay, evidence: &Evidence) -> Self {
        let mut existed: Vec<SimTime> = replay.made.iter().map(Made::effective_end).collect();
        for (revision, at) in evidence.sightings() {
            let index = usize::try_from(revision - FIRST_WRITE);
            if let Some(existed) = index.ok().and_then(|index| existed.get_mut(index)) {
                *existed = (*existed).min(at);
            }
        }
        for index in (1..existed.len()).rev() {
            existed[index - 1] = existed[index - 1].min(existed[index]);
        }
        Self(existed)
    }

    /// When `revision` was there, at the latest.
    pub fn by(&self, revision: i64) -> SimTime {
        let index = usize::try_from(revision - FIRST_WRITE);
        index.ok().and_then(|index| self.0.get(index)).copied().unwrap_or(SimTime::NEVER)
    }

    /// Whether a call that lasted so long may be answered with the state at `revision`.
    pub fn check_told(&self, replay: &Replay, revision: i64, start: SimTime, end: SimTime) -> Result<(), String> {
        if !(1..=replay.last()).contains(&revision) {
            return Err(format!("told of revision {revision}, but the last is {}", replay.last()));
        }
        if replay.at(revision).is_some_and(|made| made.start > end) {
            return Err(format!("told of revision {revision} before it was made"));
        }
        if self.by(revision + 1) < start {
            return Err(format!("a stale answer: revision {} existed before", revision + 1));
        }
        Ok(())
    }

    /// The revisions of whose state a call may be told that lasted so long.
    pub fn window(&self, replay: &Replay, start: SimTime, end: SimTime) -> RangeInclusive<i64> {
        let oldest = FIRST_WRITE - 1 + self.0.partition_point(|&existed| existed < start) as i64;
        let newest =
            replay.made.iter().rposition(|made| made.start <= end).map_or(0, |index| index as i64 + FIRST_WRITE);
        oldest..=newest.max(oldest)
    }
}
