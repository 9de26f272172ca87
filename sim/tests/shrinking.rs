//! A failing run is cut down to what it takes, and what is left is a file that fails again.
#![cfg(feature = "sim")]

use std::sync::Arc;

use quorate_sim::run::shrink::shrink;
use quorate_sim::run::{Options, run};
use quorate_sim::scenario::parse;

#[test]
fn a_failing_run_is_cut_down_to_a_crash() {
    let bug = "own-disk-counted-before-its-sync";
    // Shorter than usual, so that there is less to cut away.
    let short = |seed| Options { bug: Some(bug), seconds: 20, operations: 300, ..Options::new(seed) };
    let failing = (0..100).map(short).find_map(|options| {
        let report = run(&options);
        (!report.is_good()).then_some((options, report))
    });
    let (options, report) = failing.expect("it is noticed soon");
    let shrunk = shrink(&options, &report, 400, |_| {}).expect("what was done can be done again");
    let text = shrunk.scenario.to_string();
    assert!(shrunk.scenario.lines.len() <= 5, "{text}");
    // After a failed sync the machine loses its power, too.
    let loses_power = ["crash", "fail disk"].iter().any(|cause| text.contains(cause));
    assert!(loses_power, "without a lost power nothing is lost:\n{text}");

    let again = parse("saved.scenario", &text).unwrap();
    let replayed = run(&Options { bug: Some(bug), ..Options::of_scenario(Arc::new(again.clone()), again.seed) });
    assert_eq!(replayed.hash, shrunk.report.hash);
    assert_eq!(replayed.violations, shrunk.report.violations);
    let without_the_bug = run(&Options::of_scenario(Arc::new(again.clone()), again.seed));
    assert!(without_the_bug.is_good(), "{without_the_bug}");
}
