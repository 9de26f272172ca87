use super::*;
use crate::actions::DiskErrorRates;
use crate::world::dice::{Dice, Latency};
use crate::world::net::NetKnobs;

const HEADER: &str = "title:   t\nsource:  s\nthen:    w\ncluster: 3 members and 2 spare machines\n";

fn line(text: &str) -> Result<Scenario, Trouble> {
    parse("x.scenario", &format!("{HEADER}\n{text}\n"))
}

/// Every deed in the words that the printer has for it.
const DEEDS: &[&str] = &[
    "wait",
    "let S be a member",
    "let S be all but m1, m2",
    "let R be revision of the leader",
    "let L be leased-keys of m1",
    "grant 20 leases of 10m with a key each at m2",
    "expect watch from R + 1 at S sees 9 events within 5s",
    "expect watch on x from 2 at m1, m2 sees \"a b\"",
    "expect leases of S is at least L",
    "start m1",
    "start S with --force-new-cluster=true --initial-cluster-state=existing",
    "kill all",
    "crash a follower",
    "crash m2 within 20 disk calls",
    "pause the leader",
    "resume all",
    "cut m1 -> c0",
    "mend all links",
    "mend network",
    "mend disk of m1",
    "network latency 1ms spread 20ms tail 5% 600ms loss 200ppm resets 0% partial 50% window 4096",
    "reset a connection of m3",
    "slow disk of m1 to 300%",
    "fail disk of m1 reads 5000ppm writes 0% syncs 10%",
    "leave 1024 bytes on disk of m1",
    "free disk of m1",
    "run clocks of m1 wrong by -20000ppm",
    "move clock of m1 by +8h",
    "leap clocks of m1 by 5s",
    "partition m1 from m2, m3 one-way",
    "isolate S",
    "stop m1",
    "lose all but S",
    "wipe m1",
    "set m1 apart",
    "declare lost what S lacks",
    "flip a bit in the log of m1",
    "put x = 1",
    "put x = \"two words\" at m1",
    "put 20 keys at the leader",
    "try put x = 1 at m1",
    "expect put x = 1 at m1 fails",
    "expect put x = 1 at m1 fails with \"no space, it says\"",
    "get x",
    "local get x at m1",
    "expect get x at m1 = 1",
    "expect local get x at m1 = nothing",
    "delete x",
    "compact",
    "add m4 as learner",
    "promote m4",
    "remove the leader at m1",
    "move leader to m1",
    "expect start m1 fails with 'it said \"no\"'",
    "expect a leader for 90% of 10s",
    "expect no leader for 1.5s",
    "expect m1 leads within 2s",
    "expect m1, m2 serves",
    "expect m1 ended",
    "expect m1 ended with \"removed\" within 5s",
    "expect log of m1 has \"a b\"",
    "expect log of m1 lacks \"a b\"",
    "expect term of m1 is at most T + 2",
    "expect revision of m1 is at least R",
    "expect members of m1 is 1 within 2s",
    "expect same applied-index of all",
];

#[test]
fn every_deed_is_written_as_it_is_read() {
    for deed in DEEDS {
        let read = line(&format!("then {deed}")).unwrap_or_else(|trouble| panic!("{deed}: {trouble}"));
        assert_eq!(read.lines[0].deed.to_string(), *deed);
    }
}

#[test]
fn a_scenario_is_written_as_it_is_read() {
    let text = format!(
        "{HEADER}option:  snapshot-count 3\nload:    2 register, 1 txns at 70 calls a second\n\
         bug:     vote-not-written caught by 'expect log of m1 has \"x\"'\n\n\
         at some time in 5s..9s    maybe kill leader # a comment\n\
         then                      repeat 3 times\n\
         after 1s..2s              one of\n\
         then start m1\nor\nthen crash m1\nthen put x = 1 needs auth\nend\nend\n\
         then later \"20 leases with a key each\" needs auth\n\
         then                      expect log of m1 has \"x\"\n"
    );
    let read = parse("x.scenario", &text).unwrap();
    assert!(read.is_partial());
    let again = parse("x.scenario", &read.to_string()).unwrap_or_else(|trouble| panic!("{trouble}\n{read}"));
    assert_eq!(without_numbers(again), without_numbers(read));
}

fn without_numbers(mut scenario: Scenario) -> Scenario {
    fn clear(lines: &mut [Line]) {
        for line in lines {
            line.number = 0;
            match &mut line.deed {
                Deed::Repeat(_, inner) => clear(inner),
                Deed::OneOf(lists) => lists.iter_mut().for_each(|list| clear(list)),
                _ => {}
            }
        }
    }
    clear(&mut scenario.lines);
    scenario
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_was_meant() {
    for (text, column, expected, suggestion) in [
        ("at 5s kil m1", 7, "something that happens", Some("kill")),
        ("at 5 kill m1", 4, "a time", None),
        ("then later \"20 leases\"", 23, "`needs` and a feature", None),
        ("att 5s kill m1", 1, "`at`, `after` or `then`", Some("at")),
        ("at some time in 9s..5s kill m1", 17, "a time, or two", None),
        ("then kill leadr", 11, "a member", Some("leader")),
        ("then kill m1 now", 14, "the end of the line", None),
        ("then expect m1 servs", 16, "`leads`, `serves` or `ended`", Some("serves")),
        ("then expect log of m1 hass \"x\"", 23, "`has` or `lacks`", Some("has")),
        ("then expect log of m1 has \"x", 27, "a `\"` at the end", None),
        ("then start m1 with --force-new-clutser", 20, "a flag", Some("--force-new-cluster")),
        ("then slow disk of m1 to fast", 25, "a percentage", None),
        ("then put x 1", 12, "`=`", None),
        ("then put x", 11, "`=`", None),
        ("then wait needs aut", 17, "a feature", Some("auth")),
        ("end", 1, "nothing to end", None),
        ("then repeat 3 times", 20, "an `end`", None),
        ("then expect term of m1 is at leest 3", 27, "a number", None),
    ] {
        let trouble = line(text).unwrap_err();
        assert_eq!((trouble.line, trouble.column), (6, column), "{text}: {trouble}");
        assert!(trouble.expected.contains(expected), "{text}: {trouble}");
        assert_eq!(trouble.suggestion.as_deref(), suggestion, "{text}");
    }
}

#[test]
fn a_header_is_checked_too() {
    for (header, place, expected) in [
        ("titel: t\n", (1, 1), "a key of the header"),
        ("title: t\ntitle: u\n", (2, 1), "only once"),
        ("title: t\nsource: s\n\n", (3, 1), "a `then:`"),
        ("title: t\nsource: s\nthen: w\ncluster: three members\n", (4, 10), "a number of members"),
        ("title: t\nsource: s\nthen: w\noption: snapshot-cout 3\n", (4, 9), "a setting"),
        ("title: t\nsource: s\nthen: w\noption: snapshot-count x\n", (4, 24), "a value of snapshot-count"),
        ("title: t\nsource: s\nthen: w\nload: 2 registers\n", (4, 9), "a workload"),
        ("title: t\nsource: s\nthen: w\nbug: no-such caught by x\n", (4, 6), "a seeded bug"),
        (
            "title: t\nsource: s\nthen: w\nbug: vote-not-written caught by raft-safety\n",
            (4, 33),
            "a checker, or what a line",
        ),
    ] {
        let trouble = parse("x.scenario", header).unwrap_err();
        assert_eq!((trouble.line, trouble.column), place, "{header}: {trouble}");
        assert!(trouble.expected.contains(expected), "{header}: {trouble}");
    }
}

#[test]
fn trouble_is_shown_in_its_line() {
    let source = format!("{HEADER}\nat 5s kil m1\n");
    let shown = parse("x.scenario", &source).unwrap_err().render("x.scenario", &source);
    assert!(shown.contains("--> x.scenario:6:7"), "{shown}");
    assert!(shown.contains("at 5s kil m1\n  |       ^^^ here"), "{shown}");
    assert!(shown.contains("did you mean `kill`?"), "{shown}");
}

fn drawn_action(dice: &mut Dice) -> Action<Who> {
    let machine = Who::Machine(dice.between(1, 7));
    match dice.below(15) {
        0 => Action::Start(machine),
        1 => Action::Kill(machine),
        2 => Action::Crash(machine),
        3 => Action::Pause(machine),
        4 => Action::Resume(machine),
        5 => Action::Cut { from: machine, to: Who::Machine(dice.between(100, 105)) },
        6 => Action::MendAll,
        7 => Action::Network(NetKnobs {
            latency: Latency {
                base_ns: dice.magnitude(1, 1 << 40),
                spread_ns: dice.magnitude(1, 1 << 40),
                tail_per_million: dice.below(1_000_001),
                tail_ns: dice.magnitude(1, 1 << 40),
            },
            loss_per_million: dice.below(1_000_001),
            reset_per_million: dice.below(1_000_001),
            partial_percent: dice.below(101),
            window_bytes: dice.magnitude(1, 1 << 30) as usize,
        }),
        8 => Action::ResetConnection(machine),
        9 => Action::DiskSpeed(machine, dice.below(5000)),
        10 => Action::DiskErrors(
            machine,
            DiskErrorRates { reads: dice.below(2), writes: dice.below(1_000_001), syncs: dice.below(1_000_001) },
        ),
        11 => Action::DiskRoom(machine, dice.percent(50).then(|| dice.magnitude(1, 1 << 40))),
        12 => Action::ClockRate(machine, dice.below(400_000) as i64 - 200_000),
        13 => Action::ClockJump(machine, dice.magnitude(1, 1 << 50) as i64 - (1 << 40)),
        _ => Action::ClockLeap(machine, Duration::from_nanos(dice.magnitude(1, 1 << 40))),
    }
}

/// So that what a story tells can be done again.
#[test]
fn every_action_is_written_as_it_is_read() {
    let mut dice = Dice::new(1, "actions");
    for _ in 0..2000 {
        let action = drawn_action(&mut dice);
        let read = line(&format!("then {action}")).unwrap_or_else(|trouble| panic!("{action}: {trouble}"));
        assert_eq!(read.lines[0].deed, Deed::Act(action));
    }
}
