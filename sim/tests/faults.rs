//! Each fault alone: it strikes, what it is for really happens, and nothing that it may not break is broken.
#![cfg(feature = "sim")]

use quorate_sim::faults;
use quorate_sim::run::{Options, Report, run};

/// A fault that strikes seldom has so many seeds for it.
const SEEDS_MAX: u64 = 40;

/// What a run with the fault shows, and one without it does not.
fn has_happened(fault: &str, report: &Report) -> bool {
    let told = |words: &str| report.story.iter().any(|(_, sentence)| sentence.contains(words));
    match fault {
        "kill" | "crash_in_call" => report.disk.crashes > 0,
        "pause" => told("is paused") && told("goes on"),
        "slow_disk" => told("slow disk of"),
        "disk_errors" => report.disk.errors > 0,
        "full_disk" => told("bytes on disk of"),
        "clocks" => told("clock of") || told("clocks of"),
        "network" => told("network latency"),
        "partition" => told("cut m") || told("cut c"),
        "quorum_lost" => told("--force-new-cluster=true"),
        "membership" => told("is to join"),
        other => panic!("say here how to see that {other} has happened"),
    }
}

#[test]
fn each_fault_alone_strikes_and_breaks_nothing_that_it_may_not() {
    for (fault, _) in faults::ALL {
        let options = Options { fault: Some(fault), members: Some(3), ..Options::new(0) };
        let mut reports = (0..SEEDS_MAX).map(|seed| run(&Options { seed, ..options.clone() }));
        // It may strike so softly that nothing comes of it.
        let struck = reports.find(|report| {
            assert!(report.is_good(), "{fault}:\n{report}");
            !report.strikes.is_empty() && has_happened(fault, report)
        });
        let report = struck.unwrap_or_else(|| panic!("{fault} did not happen within {SEEDS_MAX} seeds"));
        let others = faults::ALL.iter().map(|(name, _)| name).filter(|name| *name != fault);
        let strangers: Vec<_> = others.filter(|name| report.strikes.contains_key(*name)).collect();
        assert!(strangers.is_empty(), "{fault} came with {strangers:?}");
    }
}

/// A product that cannot do what the operator of a lost majority needs must fail the run, and not keep it for ever.
#[test]
fn a_survivor_that_cannot_go_on_alone_is_reported() {
    let lost = Options { fault: Some("quorum_lost"), members: Some(3), ..Options::new(0) };
    let seeds = (0..SEEDS_MAX).map(|seed| Options { seed, ..lost.clone() });
    let struck: Vec<_> = seeds.filter(|options| run(options).strikes.contains_key("quorum_lost")).collect();
    assert!(!struck.is_empty(), "it did not strike within {SEEDS_MAX} seeds");
    let with_bug = |options: &Options| run(&Options { bug: Some("forced-in-memory-only"), ..options.clone() });
    let reports: Vec<_> = struck.iter().map(with_bug).collect();
    for report in reports {
        let complaint = report.violations.iter().find(|violation| violation.checker == "member_health");
        let what = complaint.unwrap_or_else(|| panic!("nobody minds that the survivor is not alone:\n{report}"));
        assert!(what.what.contains("was to go on alone"), "{report}");
    }
}
