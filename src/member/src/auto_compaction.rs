//! Compaction by itself: the leader asks for what an operator would, so that history does not grow for ever.
//!
//! By age (*periodic*): every member notes its revision ten times a period (an hour, if the period is longer), the leader or
//! not, and keeps the notes of one period. When a period has passed, and then every period (every hour, if it is longer), the
//! leader compacts at the oldest note. A new leader has notes of its own, so a change of leaders loses no time.
//!
//! By number (*revision*): every five minutes the leader compacts at its revision less those that are to be kept.
//!
//! A compaction that fails is tried again when the next note is due. What is decided stands in the log of this program, as from
//! etcd; nothing else tells a compaction that was asked for by a client from one that was not.
//!
//! Source: etcd `server/etcdserver/api/v3compactor/periodic.go`, `revision.go`.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::{bug, mark, select};
use quorate_types::{Error, GoDuration};

use crate::Member;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Everything that is younger than this; not zero.
    Periodic(Duration),
    /// So many of the newest revisions; looked at as often as `interval` says.
    Revision {
        /// Not below 1.
        kept: i64,
        /// Five minutes in etcd.
        interval: Duration,
    },
}

/// Between two looks at the number of revisions.
pub const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Longest time between two compactions by age.
const COMPACT_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// Notes in such a time.
const NOTES: u32 = 10;

/// No two notes are closer.
const NOTE_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Runs as long as the member.
pub async fn run(member: Member) {
    let Some(kept) = member.config().auto_compaction else { return };
    let work = async {
        match kept {
            AutoCompaction::Periodic(period) => by_age(&member, period).await,
            AutoCompaction::Revision { kept, interval } => by_number(&member, kept, interval).await,
        }
    };
    select! {
        biased;
        () = member.stopping() => {}
        () = work => {}
    }
}

async fn by_age(member: &Member, period: Duration) {
    let rt = member.runtime();
    let shown = GoDuration::from(period).to_string();
    let mut notes = Notes::begin(period, rt.mono_now());
    loop {
        notes.take(member.view().revision().0);
        rt.sleep(notes.interval).await;
        if !leads(member) {
            continue;
        }
        let Some(revision) = notes.due(rt.mono_now()) else { continue };
        tracing::info!(revision, compact_period = shown, "starting auto periodic compaction");
        let begun_at = rt.mono_now();
        match compact(member, revision).await {
            Ok(()) => {
                let took = GoDuration::from(rt.mono_now() - begun_at).to_string();
                tracing::info!(revision, compact_period = shown, took, "completed auto periodic compaction");
                notes.compacted(revision, rt.mono_now());
            }
            Err(error) => {
                let retry_interval = GoDuration::from(notes.interval).to_string();
                tracing::warn!(revision, compact_period = shown, retry_interval, %error, "failed auto periodic compaction");
            }
        }
    }
}

async fn by_number(member: &Member, kept: i64, interval: Duration) {
    let rt = member.runtime();
    let mut last = 0;
    loop {
        rt.sleep(interval).await;
        let newest = member.view().revision().0;
        let revision = if bug!("one-revision-less-is-kept") { newest - kept + 1 } else { newest - kept };
        if revision <= 0 || revision == last || !leads(member) {
            continue;
        }
        tracing::info!(revision, revision_compaction_retention = kept, "starting auto revision compaction");
        let begun_at = rt.mono_now();
        match compact(member, revision).await {
            Ok(()) => {
                last = revision;
                let took = GoDuration::from(rt.mono_now() - begun_at).to_string();
                tracing::info!(
                    revision,
                    revision_compaction_retention = kept,
                    took,
                    "completed auto revision compaction"
                );
            }
            Err(error) => {
                let retry_interval = GoDuration::from(interval).to_string();
                tracing::warn!(
                    revision,
                    revision_compaction_retention = kept,
                    retry_interval,
                    %error,
                    "failed auto revision compaction"
                );
            }
        }
    }
}

fn leads(member: &Member) -> bool {
    member.raft_status().leader == Some(member.id())
}

/// Somebody else may have compacted as much meanwhile.
async fn compact(member: &Member, revision: i64) -> Result<(), Error> {
    let compaction = CompactionRequest { revision, physical: false };
    match member.propose(InternalRaftRequest { compaction: Some(compaction), ..Default::default() }).await {
        Ok(_) => {
            mark!("compacted_by_itself");
            Ok(())
        }
        Err(Error::Compacted) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The revisions of one period, and when to compact.
struct Notes {
    period: Duration,
    /// Between two notes.
    interval: Duration,
    /// So many notes are a period, with both ends.
    notes_max: usize,
    /// The oldest first.
    notes: VecDeque<i64>,
    last_revision: i64,
    last_success: MonoTime,
    /// From a success to the next compaction; the first one waits for a whole period.
    wait: Duration,
}

impl Notes {
    fn begin(period: Duration, now: MonoTime) -> Self {
        let interval = (period.min(COMPACT_INTERVAL_MAX) / NOTES).max(NOTE_INTERVAL_MIN);
        let notes_max =
            usize::try_from(period.as_nanos() / interval.as_nanos()).unwrap_or(usize::MAX).saturating_add(1);
        Self { period, interval, notes_max, notes: VecDeque::new(), last_revision: 0, last_success: now, wait: period }
    }

    fn take(&mut self, revision: i64) {
        self.notes.push_back(revision);
        if self.notes.len() > self.notes_max {
            self.notes.pop_front();
        }
    }

    /// The revision to compact at, if it is time.
    fn due(&mut self, now: MonoTime) -> Option<i64> {
        let note = if bug!("newest-note-is-compacted") { self.notes.back() } else { self.notes.front() };
        let revision = *note?;
        if now - self.last_success < self.wait || revision == self.last_revision {
            return None;
        }
        self.wait = self.period.min(COMPACT_INTERVAL_MAX);
        Some(revision)
    }

    fn compacted(&mut self, revision: i64, now: MonoTime) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// What is compacted, and after how many minutes, if the revision grows by one a minute and all goes well.
    fn story(period: Duration, minutes: u64) -> Vec<(u64, i64)> {
        let start = MonoTime::from_nanos(0);
        let mut notes = Notes::begin(period, start);
        let (mut passed, mut compacted) = (Duration::ZERO, Vec::new());
        while passed < minutes as u32 * MINUTE {
            notes.take(1 + passed.as_secs() as i64 / 60);
            passed += notes.interval;
            let now = start + passed;
            if let Some(revision) = notes.due(now) {
                compacted.push((passed.as_secs() / 60, revision));
                notes.compacted(revision, now);
            }
        }
        compacted
    }

    #[test]
    fn short_periods_are_kept_and_compacted_once_a_period() {
        assert_eq!(story(10 * MINUTE, 40), [(10, 1), (20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn long_periods_are_compacted_every_hour() {
        assert_eq!(story(180 * MINUTE, 400), [(180, 1), (240, 55), (300, 115), (360, 175)]);
    }

    #[test]
    fn what_fails_is_tried_again_with_the_next_note() {
        let start = MonoTime::from_nanos(0);
        let mut notes = Notes::begin(10 * MINUTE, start);
        (1..=11).for_each(|revision| notes.take(revision));
        assert_eq!(notes.due(start + 9 * MINUTE), None);
        assert_eq!(notes.due(start + 10 * MINUTE), Some(1));
        notes.take(12);
        assert_eq!(notes.due(start + 11 * MINUTE), Some(2));
        notes.compacted(2, start + 11 * MINUTE);
        assert_eq!(notes.due(start + 30 * MINUTE), None, "nothing new is old enough");
        notes.take(13);
        assert_eq!(notes.due(start + 30 * MINUTE), Some(3));
    }

    #[test]
    fn a_period_of_next_to_nothing_is_no_endless_loop() {
        let notes = Notes::begin(Duration::from_nanos(3), MonoTime::from_nanos(0));
        assert_eq!((notes.interval, notes.notes_max), (NOTE_INTERVAL_MIN, 1));
    }
}
