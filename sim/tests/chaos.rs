//! Chaos over many seeds, and the proofs that it means something: runs repeat to the bit, crashes really lose bytes, and a
//! known bug is found.
//!
//! `SIM_SEEDS=N` runs N seeds instead of 200 (and a fifth of them with members that come and go), `SIM_SEED=S` runs that seed
//! alone.
#![cfg(feature = "sim")]

use std::ops::ControlFlow;
use std::process::Command;

use quorate_sim::run::soak::soak;
use quorate_sim::run::{Options, Report, demands, run};

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn must_be_good(report: &Report) {
    assert!(report.is_good(), "{report}");
}

#[test]
fn no_seed_finds_anything_and_crashes_really_lose_bytes() {
    if let Some(seed) = number("SIM_SEED") {
        let report = run(&Options::new(seed));
        println!("{report}");
        return must_be_good(&report);
    }
    let seeds = number("SIM_SEEDS").unwrap_or(200);
    let options = Options::new(0);
    let tally = soak(0..seeds, jobs(), &options, |report| {
        println!("{}", report.summary());
        ControlFlow::Continue(())
    });
    println!("{}", tally.table());
    if let Some(report) = tally.failed.first() {
        let all: Vec<_> = tally.failed.iter().map(|report| report.seed).collect();
        panic!("seeds {all:?} found something; the first:\n{report}");
    }
    assert!(tally.seconds >= (seeds * options.seconds) as f64);
    assert!(tally.acked >= seeds * options.operations);
    assert_eq!(demands::unmet(&tally), Vec::<String>::new());
}

/// Each of these runs installs a snapshot and adds a member, or it is a failure by itself.
#[test]
fn members_come_and_go_and_nothing_is_lost() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(200).div_ceil(5);
    let options = Options { membership: true, ..Options::new(0) };
    let tally = soak(0..seeds, jobs(), &options, |report| {
        println!("{}", report.summary());
        ControlFlow::Continue(())
    });
    println!("{}", tally.table());
    if let Some(report) = tally.failed.first() {
        let all: Vec<_> = tally.failed.iter().map(|report| report.seed).collect();
        panic!("seeds {all:?} found something; the first:\n{report}");
    }
    let count =
        |counts: &std::collections::BTreeMap<&'static str, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    assert!(count(&tally.marks, "snapshot_installed") >= seeds);
    assert!(count(&tally.strikes, "member_added") >= seeds);
    // A few seeds may happen to have none of these.
    if seeds >= 20 {
        assert!(count(&tally.strikes, "member_removed") > 0 && count(&tally.strikes, "member_promoted") > 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_in_this_process_and_in_another() {
    for seed in [3, 14, 15] {
        let (first, second) = (run(&Options::new(seed)), run(&Options::new(seed)));
        must_be_good(&first);
        assert_eq!(first.summary(), second.summary());
        assert_eq!((first.events, &first.marks), (second.events, &second.marks));
        let output = Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
            .args(["run", "--seed", &seed.to_string()])
            .output()
            .expect("the simulator's binary runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(printed.trim(), first.summary(), "another process saw another history");
    }
}

#[test]
fn another_seed_or_one_flipped_bit_gives_another_trace() {
    let short = Options { seconds: 5, operations: 50, ..Options::new(9) };
    let plain = run(&short);
    assert_ne!(plain.hash, run(&Options { seed: 10, ..short.clone() }).hash);
    let flipped = run(&Options { flip_value: Some(5), ..short });
    assert_ne!(plain.hash, flipped.hash);
}

/// Most runs end early, because the database is damaged and says so. But where it survives, acknowledged writes are gone.
#[test]
fn a_member_that_does_not_wait_for_the_disk_is_found_out() {
    let options = Options { unsafe_no_fsync: true, ..Options::new(0) };
    let mut reports = (0..100).map(|seed| run(&Options { seed, ..options.clone() }));
    let loss = reports.find_map(|report| {
        assert!(!report.is_good() || report.disk.crashes_with_loss == 0, "lost bytes and found nothing:\n{report}");
        let found = |checker| report.violations.iter().any(|violation| violation.checker == checker);
        (found("durable_acks") && found("linearizable")).then_some(report)
    });
    println!("{}", loss.expect("a hundred runs without fsync lost no acknowledged write: the simulator is asleep"));
}
