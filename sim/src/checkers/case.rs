//! What checkers judge: the evidence, and what really happened, as far as the evidence tells.

use std::cell::OnceCell;

use super::Evidence;
use super::replay::{Existence, Replay};
use crate::history::compaction::Compaction;
use crate::world::clock::SimTime;

/// A run before its judges. The history is replayed once, for all of them.
pub struct Case<'a> {
    /// What the run has left.
    pub evidence: &'a Evidence,
    truth: OnceCell<Result<Truth<'a>, String>>,
}

/// What really happened.
pub(super) struct Truth<'a> {
    pub(super) replay: Replay<'a>,
    pub(super) existence: Existence,
    /// Every compaction that may have happened.
    pub(super) compactions: Vec<Compaction<'a>>,
}

impl<'a> Case<'a> {
    /// Of a run.
    pub fn of(evidence: &'a Evidence) -> Self {
        Self { evidence, truth: OnceCell::new() }
    }

    /// What really happened. Without an order of the writes there is nothing to compare with: the error says why there is none,
    /// and it is for `linearizable` to report it.
    pub(super) fn truth(&self) -> Result<&Truth<'a>, String> {
        self.truth.get_or_init(|| Truth::new(self.evidence)).as_ref().map_err(Clone::clone)
    }
}

impl<'a> Truth<'a> {
    fn new(evidence: &'a Evidence) -> Result<Self, String> {
        let replay = Replay::new(evidence)?;
        let existence = Existence::of(&replay, evidence);
        Ok(Self { replay, existence, compactions: evidence.compactions().collect() })
    }

    /// Whether a call that lasted so long may be told of `revision` as of the newest; one that began with the run, that it was
    /// there.
    pub(super) fn check_told(&self, revision: i64, start: SimTime, end: SimTime) -> Result<(), String> {
        let made = |revision| self.replay.at(revision).map_or_else(String::new, |made| made.describe());
        let last = self.replay.last();
        if !(1..=last).contains(&revision) {
            return Err(format!("told of revision {revision}, but the last is {last}"));
        }
        if self.existence.begun(revision) > end {
            let late = self.replay.from(1).find(|(_, made)| made.start > end).map_or(revision, |(late, _)| late);
            return Err(format!(
                "told of the future: revision {revision} rests on {late}, made later by {}",
                made(late)
            ));
        }
        let next = revision + 1;
        if self.existence.by(next) < start {
            return Err(format!("a stale answer: revision {next} was there before, made by {}", made(next)));
        }
        Ok(())
    }

    /// True if somebody had asked by `at` for a compaction that hides `revision`.
    pub(super) fn may_be_compacted(&self, revision: i64, at: SimTime) -> bool {
        self.compactions.iter().any(|compaction| compaction.revision > revision && compaction.start <= at)
    }
}
