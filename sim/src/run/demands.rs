//! What a sweep must have shown, beside that nothing is wrong: a simulation in which little happens finds little.
//!
//! Each demand needs a number of runs before it can be judged fairly; a smaller sweep is not asked.

use super::coverage;
use super::soak::Tally;

/// Every [`mark!`](quorate_runtime::mark!) of the product. (A test compares this list with the sources.)
pub const MARKS: &[&str] = &[
    "alarm_of_a_removed_member_taken_back",
    "batches_are_told_early",
    "checkpoint_taken_back",
    "checkpoints_written",
    "compacted_by_itself",
    "compacted_watcher_stalls",
    "defragmentation_overtaken",
    "defragmented",
    "disk_alarm_raised",
    "disk_alarm_taken_back",
    "entries_read_from_the_log",
    "file_freed_in_steps",
    "flush_waited_for_room",
    "leader_asked_about_a_lease",
    "leader_with_a_hanging_disk_lets_go",
    "lease_count_begins",
    "lease_ended",
    "membership_change_refused",
    "quota_used_up",
    "renewal_counted_before_applied",
    "renewal_waits_for_the_end",
    "snapshot_installed",
    "waited_for_room",
    "wal_segment_cut",
    "wal_segment_prepared_in_place",
    "wal_torn_tail_cut",
    "watcher_catching_up_is_compacted",
    "watcher_catching_up_stalls",
    "watcher_in_step_stalls",
    "watchers_in_step_must_catch_up",
];

/// From so many runs on, crashes must have hurt.
const RUNS_FOR_CRASHES: u64 = 20;

/// From so many runs on, the mean number of kinds of faults is judged.
const RUNS_FOR_KINDS: u64 = 100;

/// From so many runs on, everything must have happened.
const RUNS_FOR_ALL: u64 = 2000;

/// What the sweep has not shown, a sentence each.
pub fn unmet(tally: &Tally) -> Vec<String> {
    let mut unmet = Vec::new();
    if tally.runs >= RUNS_FOR_CRASHES {
        if tally.lossy_percent() < 30.0 {
            unmet.push(format!(
                "only {:.0} % of the crashes lost or tore unsynced bytes; 30 % must",
                tally.lossy_percent()
            ));
        }
        if tally.cut_tails == 0 {
            unmet.push("no recovery cut a torn tail off the log".to_owned());
        }
    }
    if tally.runs >= RUNS_FOR_KINDS && tally.kinds_mean() < 4.0 {
        unmet.push(format!("a run met {:.1} kinds of faults in the mean; 4 must", tally.kinds_mean()));
    }
    if tally.runs >= RUNS_FOR_ALL {
        let pairs = coverage::missing(&tally.pairs).into_iter();
        unmet.extend(pairs.map(|(fault, workload)| format!("{fault} never met {workload}")));
        let marks = MARKS.iter().filter(|mark| !tally.marks.contains_key(*mark));
        unmet.extend(marks.map(|mark| format!("the mark {mark} was never reached")));
    }
    unmet
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn every_mark_of_the_product_is_demanded_and_no_other() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut files);
        let mut marks = BTreeSet::new();
        for file in files {
            #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
            let text = std::fs::read_to_string(&file).unwrap();
            let used = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for rest in used.flat_map(|line| line.split("mark!(\"").skip(1)) {
                marks.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
        assert_eq!(marks.iter().collect::<Vec<_>>(), MARKS.iter().collect::<Vec<_>>());
    }

    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }

    #[test]
    fn a_sweep_in_which_little_happens_is_told_so() {
        let mut tally = Tally { runs: RUNS_FOR_ALL, ..Tally::default() };
        let all = unmet(&tally);
        assert!(all.iter().any(|what| what.contains("mark snapshot_installed")));
        assert!(all.iter().any(|what| what.contains("partition never met compaction")));
        tally.runs = RUNS_FOR_CRASHES - 1;
        assert_eq!(unmet(&tally), Vec::<String>::new(), "too few runs to judge");
    }
}
