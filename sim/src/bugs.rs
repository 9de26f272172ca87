//! Seeded bugs: wrong decisions that stand in the product beside the right ones, switched off. They measure the simulator: it
//! must find every one, with the checker that the entry names.
//!
//! A bug is a name, asked for with `bug!("name")` where the decision is made (see `quorate_runtime::bug`), and a line here. It is
//! hunted with one seed after the other until its checker speaks; what other checkers say does not count.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkers::Violation;
use crate::run::{EXPECT, NO_PANIC, Options, Report, soak};
use crate::scenario::{Scenario, SeededBug};
use crate::world::lock;

/// A wrong decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// As in `bug!`.
    pub name: &'static str,
    /// A number of the catalogue of documented failures (`F-…`), or who else warns of it.
    pub source: &'static str,
    /// What is decided wrongly.
    pub what: &'static str,
    /// Who must notice; [`EXPECT`] is a line of the scenario that names it, [`NO_PANIC`] an assertion of the product. A bug that
    /// a scenario names is hunted there.
    pub checker: &'static str,
    /// Whether members come and go while it is hunted.
    pub membership: bool,
}

/// Every bug.
pub const ALL: &[Bug] = &[
    Bug {
        name: "ack-before-fsync",
        source: "Raft thesis 3.8",
        what: "the log is written but not synced before anybody is answered",
        checker: "durable_acks",
        membership: false,
    },
    Bug {
        name: "failed-fsync-ignored",
        source: "F-50",
        what: "a sync that failed counts as done",
        checker: "member_health",
        membership: false,
    },
    Bug {
        name: "names-in-the-log-not-synced",
        source: "F-36",
        what: "a new segment's name is taken as durable without a sync of its directory",
        checker: "member_health",
        membership: false,
    },
    Bug {
        name: "names-at-founding-not-synced",
        source: "found here: seed 1",
        what: "the names of a new member's directories are not made durable",
        checker: "durable_acks",
        membership: false,
    },
    Bug {
        name: "received-snapshot-not-synced",
        source: "F-36",
        what: "the database built from a received snapshot is taken over without having been synced",
        checker: "member_health",
        membership: true,
    },
    Bug {
        name: "commit-of-a-snapshot-before-its-mark",
        source: "found here: seed 292",
        what: "the log says that all up to a snapshot is committed before it says where the snapshot stands",
        checker: "member_health",
        membership: true,
    },
    Bug {
        name: "replaced-entries-written-too",
        source: "found here: seed 98",
        what: "entries that a new leader replaced while they waited for the disk are written together with their successors",
        checker: NO_PANIC,
        membership: false,
    },
    Bug {
        name: "vote-not-written",
        source: "Raft thesis 3.4",
        what: "the vote is not written, so that a restarted member votes twice in a term",
        checker: "raft_safety",
        membership: false,
    },
    Bug {
        name: "own-disk-counted-before-its-sync",
        source: "F-32",
        what: "the leader counts its own entry towards the quorum when it is queued, not when it is durable",
        checker: "durable_acks",
        membership: false,
    },
    Bug {
        name: "follower-answers-before-its-disk",
        source: "Raft thesis 3.8",
        what: "a follower confirms entries, and gives its vote, before they are durable",
        checker: "raft_safety",
        membership: false,
    },
    Bug {
        name: "log-marked-past-the-database",
        source: "F-36",
        what: "the log is marked, and released, up to where applying stands instead of what the database holds durably",
        checker: "member_health",
        membership: true,
    },
    Bug {
        name: "applied-index-behind-the-rows",
        source: "F-31",
        what: "the applied index that is stored with the rows is one too low, so that a restart applies an entry again",
        checker: "equal_hashes",
        membership: false,
    },
    Bug {
        name: "read-without-quorum",
        source: "Raft thesis 6.4, F-54",
        what: "who believes itself leader confirms reads without asking a quorum",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "read-before-applied",
        source: "Raft thesis 6.4",
        what: "a confirmed read does not wait until the member has applied up to its index",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "read-before-own-term",
        source: "F-21",
        what: "a leader confirms reads before it has committed an entry of its own term",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "read-context-used-again",
        source: "F-20",
        what: "every question for a read index has the same name, so that a late answer to an old one confirms a new one",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "late-reader-joins-the-round",
        source: "Raft thesis 6.4",
        what: "readers that came while a question was under way take its answer, too",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "forwarded-twice",
        source: "F-23",
        what: "a write that a follower passes on is proposed twice",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "compaction-drops-what-is-visible",
        source: "F-44",
        what: "compaction drops the row that a read at its revision still sees",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "unwatched-compaction-skipped",
        source: "F-45",
        what: "a compaction is skipped by members where nobody waits for its answer",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "old-read-sees-the-next-revision",
        source: "folklore",
        what: "a read at a revision sees what the next one wrote",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "limited-range-counts-what-it-returns",
        source: "folklore",
        what: "the count of a limited range is that of the keys returned",
        checker: "linearizable",
        membership: false,
    },
    Bug {
        name: "removed-member-forgotten",
        source: "F-13",
        what: "the ids of removed members are not kept",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "no-snapshot-to-give-after-a-start",
        source: "found here: seed 1 --membership",
        what: "a member that has just started gives nobody a snapshot before its next flush",
        checker: "liveness",
        membership: true,
    },
    Bug {
        name: "change-told-before-commit-is-durable",
        source: "found here: seed 294",
        what: "a leader tells that a change of members is committed before its own disk knows it",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "leaves-before-the-commit-is-kept",
        source: "found here: seed 1864",
        what: "a leader leaves the cluster before anybody else's disk knows that its removal is committed",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "alarm-for-the-disk-forgotten",
        source: "found here: seed 5",
        what: "a member forgets that it asked for the NOSPACE alarm before that has taken effect",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "alarm-of-a-removed-member-stays",
        source: "found here: seed 344",
        what: "the NOSPACE alarm of a member that was removed is left to nobody",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "defragmented-file-not-synced",
        source: "folklore",
        what: "the defragmented database takes the other's place before it is on the disk",
        checker: "member_health",
        membership: false,
    },
    Bug {
        name: "defragmentation-forgets-leases",
        source: "folklore",
        what: "the defragmented database has no leases",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "forced-in-memory-only",
        source: "F-01",
        what: "--force-new-cluster removes the others in memory, and the log knows nothing of it",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "forced-by-the-commit-index-alone",
        source: "F-02",
        what: "--force-new-cluster cuts the log at the commit index on disk, although the database holds more",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "forced-without-the-learners",
        source: "F-03",
        what: "--force-new-cluster removes voters only",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "removal-believed",
        source: "F-04",
        what: "whoever says that this member was removed is believed, whatever way he went",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "founder-counts-itself-only",
        source: "F-10",
        what: "a founder counts the members that it has seen: itself",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "empty-directory-taken-back",
        source: "F-14",
        what: "a member whose directory is empty comes back under its old id",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "quorum-before-the-addition",
        source: "F-15",
        what: "whether a voter may be added is judged by the quorum before it",
        checker: EXPECT,
        membership: true,
    },
    Bug {
        name: "pre-vote-despite-a-leader",
        source: "F-18",
        what: "a pre-vote is granted by who hears a leader",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "term-raised-without-asking",
        source: "F-19",
        what: "a candidate raises its term before it has asked whether it could win",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "another-time-counts-as-ill",
        source: "F-25",
        what: "a peer with another time of day counts as not connected",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "applied-index-ahead-of-the-rows",
        source: "F-31",
        what: "the applied index that is stored with the rows is one too high, so that a restart leaves an entry out",
        checker: "durable_acks",
        membership: false,
    },
    Bug {
        name: "revision-of-the-surviving-rows",
        source: "F-34",
        what: "after a start the revision is that of the newest row",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "any-damage-is-a-torn-tail",
        source: "F-35",
        what: "whatever is wrong with a record ends the log there",
        checker: EXPECT,
        membership: false,
    },
    Bug {
        name: "watcher-goes-back-after-a-snapshot",
        source: "F-40",
        what: "it is not noted what a watcher in step was told, and after a jump, as with a snapshot, it goes on where it began",
        checker: "watch",
        membership: true,
    },
    Bug {
        name: "lease-revoked-by-a-stale-leader",
        source: "F-27",
        what: "who does not lead any more goes on counting, and asks no quorum before it revokes",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "leases-counted-by-the-wall-clock",
        source: "F-26",
        what: "the leader counts leases by the time of day",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "checkpoint-outlives-a-renewal",
        source: "F-28",
        what: "a lease is renewed while the log still says how little it had left",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "dead-lease-renewed",
        source: "F-29",
        what: "a lease that has ended, and whose revocation is on its way, is renewed with success",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "lock-given-at-once",
        source: "folklore",
        what: "a lock is given to who has queued for it, without waiting for its turn",
        checker: "locks",
        membership: false,
    },
    Bug {
        name: "lock-given-to-who-lost-its-lease",
        source: "folklore",
        what: "a lock is given to who has come to its turn, even if its lease has ended while it waited",
        checker: "locks",
        membership: false,
    },
    Bug {
        name: "campaign-won-at-once",
        source: "folklore",
        what: "a campaign is won by who has queued for it, without waiting for its turn",
        checker: "elections",
        membership: false,
    },
    Bug {
        name: "leader-told-from-an-old-state",
        source: "folklore",
        what: "who asks for the leader is told what the member holds, however far behind it is",
        checker: "elections",
        membership: false,
    },
    Bug {
        name: "observer-begins-one-late",
        source: "folklore",
        what: "an observer that has read the leader's value misses the next revision",
        checker: "elections",
        membership: false,
    },
    Bug {
        name: "alarms-forgotten-at-restart",
        source: "folklore",
        what: "a member that starts again knows nothing of the alarms in its database",
        checker: "alarms",
        membership: false,
    },
    Bug {
        name: "no-space-stops-nobody",
        source: "folklore",
        what: "writes are applied although the NOSPACE alarm stands",
        checker: "alarms",
        membership: false,
    },
    Bug {
        name: "defragmentation-frees-nothing",
        source: "folklore",
        what: "the defragmented database counts towards the quota like the one before",
        checker: "liveness",
        membership: false,
    },
    Bug {
        name: "one-revision-less-is-kept",
        source: "folklore",
        what: "compaction by itself keeps one revision less than it should",
        checker: "auto_compaction",
        membership: false,
    },
    Bug {
        name: "newest-note-is-compacted",
        source: "folklore",
        what: "compaction by itself goes up to the revision of now, not to that of a period ago",
        checker: "auto_compaction",
        membership: false,
    },
    Bug {
        name: "new-leader-counts-what-may-be-left",
        source: "F-28",
        what: "a new leader gives leases half of their time, because some of it must be over",
        checker: "leases",
        membership: false,
    },
    Bug {
        name: "progress-ahead-of-the-events",
        source: "F-42",
        what: "progress is told to watchers that have not caught up",
        checker: "watch",
        membership: false,
    },
    Bug {
        name: "catching-up-skips-a-revision",
        source: "F-43",
        what: "a watcher that has caught up misses the next revision",
        checker: "watch",
        membership: false,
    },
    Bug {
        name: "previous-value-is-the-new-one",
        source: "folklore",
        what: "what was there before a change is read at its own revision",
        checker: "watch",
        membership: false,
    },
];

/// The bug of that name.
pub fn named(name: &str) -> Option<&'static Bug> {
    ALL.iter().find(|bug| bug.name == name)
}

/// What became of a hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The run that its checker found wrong.
    pub caught: Option<Report>,
    /// Seeds up to and with that one; all, if it was not caught.
    pub seeds: u64,
    /// How often the wrong decision was asked for in all runs.
    pub reached: u64,
}

/// Runs the seeds 0, 1, … with the bug switched on, `jobs` at a time, until it is caught or there were `seeds_max`.
pub fn hunt(bug: &Bug, seeds_max: u64, jobs: usize, on_report: impl Fn(&Report) + Sync) -> Hunt {
    let options = Options { bug: Some(bug.name), membership: bug.membership, ..Options::new(0) };
    hunt_with(&options, seeds_max, jobs, |report| {
        on_report(report);
        report.violations.iter().any(|violation| violation.checker == bug.checker)
    })
}

/// Plays a scenario with a bug that it names, on its own seed and those after it, until whom it names has noticed: a checker,
/// or a line of it by its deed.
pub fn hunt_in(
    scenario: &Arc<Scenario>,
    bug: &SeededBug,
    seeds_max: u64,
    jobs: usize,
    on_report: impl Fn(&Report) + Sync,
) -> Hunt {
    let options = Options { bug: Some(bug.name), ..Options::of_scenario(Arc::clone(scenario), scenario.seed) };
    hunt_with(&options, seeds_max, jobs, |report| {
        on_report(report);
        let notices = |violation: &Violation| {
            violation.checker == bug.caught_by
                || (violation.checker == EXPECT && violation.what.contains(&format!(": {}: ", bug.caught_by)))
        };
        report.violations.iter().any(notices)
    })
}

fn hunt_with(options: &Options, seeds_max: u64, jobs: usize, is_caught: impl Fn(&Report) -> bool + Sync) -> Hunt {
    let reached = AtomicU64::new(0);
    let caught: Mutex<Option<Report>> = Mutex::default();
    let first = options.seed;
    soak::each(first..first + seeds_max, jobs, options, |report| {
        reached.fetch_add(report.bug_reached, Ordering::Relaxed);
        if !is_caught(&report) {
            return ControlFlow::Continue(());
        }
        let mut caught = lock(&caught);
        if caught.as_ref().is_none_or(|other| report.seed < other.seed) {
            *caught = Some(report);
        }
        ControlFlow::Break(())
    });
    let caught = caught.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seeds = caught.as_ref().map_or(seeds_max, |report| report.seed + 1 - first);
    Hunt { caught, seeds, reached: reached.into_inner() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers;

    #[test]
    fn names_are_unique_and_every_checker_is_one() {
        let checkers: Vec<_> = checkers::all().iter().map(|checker| checker.name()).collect();
        for bug in ALL {
            assert_eq!(ALL.iter().filter(|other| other.name == bug.name).count(), 1, "{} is there twice", bug.name);
            assert!(
                checkers.contains(&bug.checker) || [EXPECT, NO_PANIC].contains(&bug.checker),
                "{}: there is no checker {}",
                bug.name,
                bug.checker
            );
        }
    }
}
