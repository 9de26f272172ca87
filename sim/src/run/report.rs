//! What a run tells: one line, and on failure a story and the command that replays it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::coverage::Pair;
use crate::checkers::Violation;
use crate::scenario::Deed;
use crate::world::clock::SimTime;
use crate::world::cluster::Depth;
use crate::world::disk::DiskCounters;
use crate::world::net::NetCounters;

/// The outcome of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How much was real; unknown after a panic.
    pub depth: Option<Depth>,
    /// Simulated seconds with clients and faults.
    pub seconds: f64,
    /// How long the run took in reality; not part of what it says.
    pub took: Duration,
    /// Operations answered in that time.
    pub acked: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Operations refused.
    pub refused: u64,
    /// What happened on the members' disks.
    pub disk: DiskCounters,
    /// What happened on the network.
    pub net: NetCounters,
    /// How often each fault struck.
    pub strikes: BTreeMap<&'static str, u64>,
    /// What was done to the world and its members, and when.
    pub deeds: Vec<(SimTime, Deed)>,
    /// Which faults met which workloads: see [`coverage`](super::coverage).
    pub pairs: BTreeSet<Pair>,
    /// The trace hash.
    pub hash: u64,
    /// Events in it.
    pub events: u64,
    /// Named marks of the product that were reached, and how often.
    pub marks: BTreeMap<&'static str, u64>,
    /// How often the seeded bug of this run was asked for.
    pub bug_reached: u64,
    /// What is wrong; empty is good.
    pub violations: Vec<Violation>,
    /// What happened, told; kept for a failing run.
    pub story: Vec<(SimTime, String)>,
    /// What members logged last; kept for a failing run.
    pub log_lines: Vec<String>,
    /// How often members logged what, by level and text.
    pub log_counts: BTreeMap<String, u64>,
    /// A line for each event of the trace, if they were wanted.
    pub trace_lines: Vec<String>,
    /// Panics that members caught, in order.
    pub panics: Vec<String>,
    /// How to run this again.
    pub replay_command: String,
}

/// The mark of a recovery that cut a torn tail off the log.
const CUT_TAIL: &str = "wal_torn_tail_cut";

impl Report {
    /// Recoveries that cut a torn tail off the log.
    pub fn cut_tails(&self) -> u64 {
        self.marks.get(CUT_TAIL).copied().unwrap_or(0)
    }

    /// True if nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// The one line.
    pub fn summary(&self) -> String {
        let strikes: Vec<_> = self.strikes.iter().map(|(fault, count)| format!("{fault}:{count}")).collect();
        format!(
            "seed={} depth={} sim_s={:.1} acked={} unknown={} refused={} crashes={} lossy={} torn={} cut_tails={} faults=[{}] hash={:016x} {}",
            self.seed,
            self.depth.map_or("?", Depth::name),
            self.seconds,
            self.acked,
            self.unknown,
            self.refused,
            self.disk.crashes,
            self.disk.crashes_with_loss,
            self.disk.crashes_with_torn_sectors,
            self.cut_tails(),
            strikes.join(" "),
            self.hash,
            if self.is_good() { "ok" } else { "FAILED" },
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        if self.is_good() {
            return Ok(());
        }
        const STORY_LINES: usize = 60;
        let skipped = self.story.len().saturating_sub(STORY_LINES);
        writeln!(f, "-- what happened{}", if skipped > 0 { " (the end of it)" } else { "" })?;
        for (at, sentence) in &self.story[skipped..] {
            writeln!(f, "   {at} {sentence}")?;
        }
        writeln!(f, "-- what members logged last")?;
        for line in self.log_lines.iter().rev().take(40).rev() {
            writeln!(f, "   {line}")?;
        }
        for panic in self.panics.iter().take(5) {
            writeln!(f, "-- a panic: {panic}")?;
        }
        for violation in &self.violations {
            writeln!(f, "FAIL check={} seed={}\n   {}", violation.checker, self.seed, violation.what)?;
        }
        writeln!(f, "replay: {}", self.replay_command)
    }
}
