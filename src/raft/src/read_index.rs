//! Who waits for a linearizable read, and at which index they may go (Raft thesis 6.4).
//!
//! All reads that wait at one moment share one question to the leader. While it is under way, later readers gather for the
//! next: they must not join it, because its answer may be older than a write that finished before they came. A question may
//! be lost without a word (no leader, no commit in the term yet), so it is asked again, with a fresh context, when the owner
//! says so: on a new leader, on the first commit of a term, and every [`RETRY_AFTER`].

use std::collections::VecDeque;
use std::time::Duration;

use quorate_runtime::bug;
use quorate_runtime::clock::MonoTime;
use quorate_types::LogIndex;

/// A question without an answer is asked again after this long (etcd `server/etcdserver/v3_server.go`).
pub const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Readers (of any kind `W`) in their three stages: gathering, asked, waiting for apply.
#[derive(Debug)]
pub struct ReadQueue<W> {
    gathering: Vec<W>,
    asked: Option<Asked<W>>,
    confirmed: VecDeque<(LogIndex, Vec<W>)>,
}

#[derive(Debug)]
struct Asked<W> {
    context: u64,
    at: MonoTime,
    waiters: Vec<W>,
}

impl<W> Default for ReadQueue<W> {
    fn default() -> Self {
        Self { gathering: Vec::new(), asked: None, confirmed: VecDeque::new() }
    }
}

impl<W> ReadQueue<W> {
    /// A reader comes.
    pub fn push(&mut self, waiter: W) {
        self.gathering.push(waiter);
    }

    /// True if [`ReadQueue::ask`] would give a question now.
    pub fn wants_to_ask(&self, now: MonoTime) -> bool {
        match &self.asked {
            None => !self.gathering.is_empty(),
            Some(asked) => now >= asked.at + RETRY_AFTER,
        }
    }

    /// When an unanswered question should be asked again.
    pub fn retry_at(&self) -> Option<MonoTime> {
        self.asked.as_ref().map(|asked| asked.at + RETRY_AFTER)
    }

    /// Puts a question under `context`: a new one, or again the one that got no answer. Everybody gathered may join, since
    /// the context is new.
    pub fn ask(&mut self, context: u64, now: MonoTime) {
        let mut waiters = self.asked.take().map(|asked| asked.waiters).unwrap_or_default();
        waiters.append(&mut self.gathering);
        self.asked = Some(Asked { context, at: now, waiters });
    }

    /// What was asked may be lost: the next [`ReadQueue::wants_to_ask`] says yes.
    pub fn ask_again(&mut self) {
        if let Some(asked) = self.asked.take() {
            let mut waiters = asked.waiters;
            waiters.append(&mut self.gathering);
            self.gathering = waiters;
        }
    }

    /// The question `context` was answered: its readers may go once `index` is applied. Returns them; `None` if it is an answer
    /// to an older question, which nobody waits for.
    pub fn on_confirmed(&mut self, context: u64, index: LogIndex) -> Option<&mut [W]> {
        let mut asked = self.asked.take_if(|asked| asked.context == context)?;
        if bug!("late-reader-joins-the-round") {
            asked.waiters.append(&mut self.gathering);
        }
        debug_assert!(self.confirmed.back().is_none_or(|(last, _)| *last <= index), "read indexes only rise");
        self.confirmed.push_back((index, asked.waiters));
        self.confirmed.back_mut().map(|(_, waiters)| waiters.as_mut_slice())
    }

    /// Everything up to `applied` is applied: the readers that may go now.
    pub fn take_ready(&mut self, applied: LogIndex) -> Vec<W> {
        let mut ready = Vec::new();
        while self.confirmed.front().is_some_and(|(index, _)| *index <= applied) {
            ready.extend(self.confirmed.pop_front().expect("just seen").1);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: MonoTime = MonoTime::from_nanos(0);

    #[test]
    fn readers_that_come_during_a_round_wait_for_the_next() {
        let mut queue = ReadQueue::default();
        queue.push("a");
        queue.push("b");
        assert!(queue.wants_to_ask(T0));
        queue.ask(1, T0);
        queue.push("c");
        assert!(!queue.wants_to_ask(T0));
        assert_eq!(queue.on_confirmed(1, LogIndex(5)), Some(["a", "b"].as_mut_slice()));
        assert!(queue.take_ready(LogIndex(4)).is_empty());
        assert_eq!(queue.take_ready(LogIndex(5)), ["a", "b"]);
        assert!(queue.wants_to_ask(T0));
        queue.ask(2, T0);
        assert!(queue.on_confirmed(2, LogIndex(5)).is_some());
        assert_eq!(queue.take_ready(LogIndex(5)), ["c"]);
    }

    #[test]
    fn a_lost_question_is_asked_again_and_its_late_answer_ignored() {
        let mut queue = ReadQueue::default();
        queue.push("a");
        queue.ask(1, T0);
        assert!(!queue.wants_to_ask(T0 + Duration::from_millis(499)));
        let later = T0 + RETRY_AFTER;
        assert!(queue.wants_to_ask(later));
        queue.push("b");
        queue.ask(2, later);
        assert_eq!(queue.on_confirmed(1, LogIndex(9)), None);
        assert!(queue.take_ready(LogIndex(9)).is_empty());
        assert!(queue.on_confirmed(2, LogIndex(9)).is_some());
        assert_eq!(queue.take_ready(LogIndex(9)), ["a", "b"]);
    }

    #[test]
    fn a_new_leader_means_asking_again_at_once() {
        let mut queue = ReadQueue::default();
        queue.push("a");
        queue.ask(1, T0);
        queue.ask_again();
        assert!(queue.wants_to_ask(T0));
    }
}
