//! Many seeds, on several threads, and what they add up to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coverage::{self, Pair};
use super::{Options, Report, run};
use crate::faults;
use crate::world::cluster::Depth;
use crate::world::disk::DiskCounters;
use crate::world::lock;

/// What many runs add up to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Simulated seconds.
    pub seconds: f64,
    /// Of runs of each depth: simulated seconds, and the processor's seconds that they took.
    pub by_depth: BTreeMap<&'static str, (f64, f64)>,
    /// Answered operations.
    pub acked: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// What happened on disks.
    pub disk: DiskCounters,
    /// Recoveries that cut a torn tail.
    pub cut_tails: u64,
    /// Strikes of each fault.
    pub strikes: BTreeMap<&'static str, u64>,
    /// How many runs had each pair of a fault and a workload.
    pub pairs: BTreeMap<Pair, u64>,
    /// Kinds of faults that struck, over all runs.
    pub kinds: u64,
    /// Marks reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// Log lines by level and text.
    pub log_counts: BTreeMap<String, u64>,
    /// The runs that found something.
    pub failed: Vec<Report>,
    /// Trace hash of each seed.
    pub hashes: BTreeMap<u64, u64>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, report: Report) {
        self.runs += 1;
        self.seconds += report.seconds;
        let (simulated, real) = self.by_depth.entry(report.depth.map_or("?", Depth::name)).or_default();
        *simulated += report.seconds;
        *real += report.took.as_secs_f64();
        self.acked += report.acked;
        self.unknown += report.unknown;
        self.disk += report.disk;
        self.cut_tails += report.cut_tails();
        self.hashes.insert(report.seed, report.hash);
        for (fault, count) in &report.strikes {
            *self.strikes.entry(fault).or_default() += count;
        }
        self.kinds += faults::strikes().filter(|strike| report.strikes.contains_key(strike)).count() as u64;
        for pair in &report.pairs {
            *self.pairs.entry(*pair).or_default() += 1;
        }
        for (mark, count) in &report.marks {
            *self.marks.entry(mark).or_default() += count;
        }
        for (text, count) in &report.log_counts {
            *self.log_counts.entry(text.clone()).or_default() += count;
        }
        if !report.is_good() {
            self.failed.push(report);
        }
    }

    /// Simulated seconds for each second of a processor, by depth.
    pub fn speeds(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.by_depth.iter().map(|(depth, (simulated, real))| (*depth, simulated / real.max(f64::MIN_POSITIVE)))
    }

    /// Percent of the crashes that really lost or tore unsynced bytes.
    pub fn lossy_percent(&self) -> f64 {
        100.0 * self.disk.crashes_with_loss as f64 / self.disk.crashes.max(1) as f64
    }

    /// Kinds of faults that struck in a run, in the mean.
    pub fn kinds_mean(&self) -> f64 {
        self.kinds as f64 / self.runs.max(1) as f64
    }

    /// One number over the trace hashes of all runs: equal for two sweeps over the same seeds.
    pub fn hash(&self) -> u64 {
        let bytes = |(seed, hash): (&u64, &u64)| [seed.to_le_bytes(), hash.to_le_bytes()].concat();
        let bytes: Vec<u8> = self.hashes.iter().flat_map(bytes).collect();
        u64::from(crc32c::crc32c(&bytes)) << 32 | u64::from(crc32c::crc32c_append(1, &bytes))
    }

    /// The final table.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("runs".to_owned(), self.runs.to_string()),
            ("simulated seconds".to_owned(), format!("{:.0}", self.seconds)),
            ("operations answered".to_owned(), self.acked.to_string()),
            ("operations of unknown outcome".to_owned(), self.unknown.to_string()),
            ("crashes".to_owned(), self.disk.crashes.to_string()),
            (
                "crashes that lost or tore unsynced bytes".to_owned(),
                format!("{} ({:.0} %)", self.disk.crashes_with_loss, self.lossy_percent()),
            ),
            ("crashes that tore a sector".to_owned(), self.disk.crashes_with_torn_sectors.to_string()),
            ("crashes that lost a name".to_owned(), self.disk.crashes_with_lost_names.to_string()),
            ("recoveries that cut a tail".to_owned(), self.cut_tails.to_string()),
        ];
        rows.push(("kinds of faults in a run, mean".to_owned(), format!("{:.1}", self.kinds_mean())));
        rows.extend(self.strikes.iter().map(|(fault, count)| (format!("fault {fault}"), count.to_string())));
        rows.push(("pairs of a fault and a workload".to_owned(), self.pairs.len().to_string()));
        let pairs_all = self.pairs.len() + coverage::missing(&self.pairs).len();
        rows.push(("pairs that could be".to_owned(), pairs_all.to_string()));
        rows.extend(self.marks.iter().map(|(mark, count)| (format!("mark {mark}"), count.to_string())));
        let loud = self.log_counts.iter().filter(|(text, _)| text.starts_with("ERROR") || text.starts_with("WARN"));
        rows.extend(loud.map(|(text, count)| (format!("log {text}"), count.to_string())));
        rows.push(("hash over the trace hashes".to_owned(), format!("{:016x}", self.hash())));
        rows.push(("failed".to_owned(), self.failed.len().to_string()));
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(72);
        rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}

/// Runs `options` with the seeds of `seeds` on `jobs` threads, until `take` breaks. Seeds are begun in order: when it breaks,
/// those before are done or under way, and are taken, too.
pub fn each(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    options: &Options,
    take: impl Fn(Report) -> ControlFlow<()> + Sync,
) {
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    if take(run(&Options { seed, ..options.clone() })).is_break() {
                        end.store(0, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Runs `options` with each seed of `seeds` on `jobs` threads, until `on_report` breaks, which hears of each run as it ends (in
/// any order).
pub fn soak(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    options: &Options,
    on_report: impl Fn(&Report) -> ControlFlow<()> + Sync,
) -> Tally {
    let tally = Mutex::new(Tally::default());
    each(seeds, jobs, options, |report| {
        let goes_on = on_report(&report);
        lock(&tally).add(report);
        goes_on
    });
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tally.failed.sort_by_key(|report| report.seed);
    tally
}
