//! Every scenario file holds on a few seeds; `make scenarios` plays more, and each with the bugs that it names.
#![cfg(feature = "sim")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_sim::run::soak::soak;
use quorate_sim::run::{EXPECT, Options};
use quorate_sim::scenario::{Scenario, parse};

const SEEDS: u64 = 5;

#[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
fn scenarios() -> Vec<(String, Scenario)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "scenario"));
    files.sort();
    let read = |file: &PathBuf| {
        let path = format!("scenarios/{}", file.file_name().unwrap().to_string_lossy());
        let source = std::fs::read_to_string(file).unwrap();
        let scenario = parse(&path, &source).unwrap_or_else(|trouble| panic!("{}", trouble.render(&path, &source)));
        (source, scenario)
    };
    files.iter().map(read).collect()
}

#[test]
fn every_scenario_holds() {
    let scenarios = scenarios();
    assert!(scenarios.len() >= 16, "there are only {}", scenarios.len());
    for (_, scenario) in scenarios {
        let options = Options::of_scenario(Arc::new(scenario), 0);
        let tally = soak(0..SEEDS, 2, &options, |_| ControlFlow::Continue(()));
        let failed: String = tally.failed.iter().map(|report| report.to_string()).collect();
        assert!(failed.is_empty(), "{failed}");
    }
}

#[test]
fn every_scenario_names_a_bug_and_is_written_as_it_is_read() {
    for (_, scenario) in scenarios() {
        assert!(!scenario.bugs.is_empty(), "{}: it names no bug", scenario.path);
        let printed = scenario.to_string();
        let again = parse(&scenario.path, &printed).unwrap_or_else(|trouble| panic!("{trouble}\n{printed}"));
        assert_eq!(again.to_string(), printed);
    }
}

/// A line of a scenario can notice a bug only where it is played; and the table of bugs names the same checker as the file.
#[test]
fn who_notices_a_bug_is_said_once() {
    let scenarios = scenarios();
    let named = |bug: &str| {
        let seeded = scenarios.iter().flat_map(|(_, scenario)| &scenario.bugs);
        seeded.filter(|seeded| seeded.name == bug).map(|seeded| seeded.caught_by.clone()).collect::<Vec<_>>()
    };
    let checkers: Vec<_> = quorate_sim::checkers::all().iter().map(|checker| checker.name()).collect();
    for bug in quorate_sim::bugs::ALL {
        match &named(bug.name)[..] {
            [] => assert_ne!(bug.checker, EXPECT, "{}: no scenario names it", bug.name),
            [by] if checkers.contains(&by.as_str()) => assert_eq!(bug.checker, by, "{}", bug.name),
            [_line] => assert_eq!(bug.checker, EXPECT, "{}", bug.name),
            many => panic!("{}: {} scenarios name it", bug.name, many.len()),
        }
    }
}

/// The same seed plays the same, and another seed another way.
#[test]
fn a_scenario_is_a_function_of_its_seed() {
    let (_, scenario) = scenarios().remove(0);
    let scenario = Arc::new(scenario);
    let hash = |seed| quorate_sim::run::run(&Options::of_scenario(Arc::clone(&scenario), seed)).hash;
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

/// What makes a request slow stands in the log of who was asked.
#[test]
fn slow_requests_are_told_of_with_their_steps() {
    let source = "title:   Everybody is far away\nsource:  none\nthen:    Nobody knew where the time went.\n\
        cluster: 3 members\n\n\
        at 3s  let L be the leader\n\
        then   network latency 150ms spread 1ms\n\
        then   put x = 1 at L\n\
        then   get x at L\n\
        then   expect log of L has 'operation=\"put\"'\n\
        then   expect log of L has \"'process raft request'\"\n\
        then   expect log of L has \"'agreement among raft nodes before linearized reading'\"\n";
    let path = "slow.scenario";
    let scenario = parse(path, source).unwrap_or_else(|trouble| panic!("{}", trouble.render(path, source)));
    let report = quorate_sim::run::run(&Options::of_scenario(Arc::new(scenario), 1));
    assert!(report.violations.is_empty(), "{report}");
}
