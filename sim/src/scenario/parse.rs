//! How a scenario is read: a header of `key: text` lines, an empty line, and a timeline.

use std::time::Duration;

use super::read::{Trouble, Words};
use super::words::{Share, Signed, Span};
use super::{
    Call, Comparison, Condition, Deed, Figure, Line, Load, NEEDS, NOBODY, Patience, Quantity, Scenario, SeededBug,
    Setting, Sight, Wanted, When, Who, options,
};
use crate::actions::{Action, DiskErrorRates};
use crate::world::cluster::{Depth, machine_number};
use crate::world::dice::Latency;
use crate::world::net::NetKnobs;
use crate::{bugs, checkers, workloads};

/// Reads the text of a scenario file.
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn parse(path: &str, source: &str) -> Result<Scenario, Trouble> {
    let mut scenario = Scenario { path: path.to_owned(), ..Scenario::default() };
    let mut lines = source.lines().enumerate().map(|(index, text)| (index + 1, text)).peekable();
    // Who is no checker, and what to say if no line does that either.
    let mut unknown_catchers = Vec::new();
    let mut last_text: Option<&'static str> = None;
    let mut seen = Vec::new();
    while let Some((number, text)) = lines.next_if(|(_, text)| !text.trim().is_empty()) {
        if text.trim_start().starts_with('#') {
            continue;
        }
        if text.starts_with(' ') {
            // The text of the line before goes on.
            let field = match last_text {
                Some("title") => &mut scenario.title,
                Some("source") => &mut scenario.source,
                Some("then") => &mut scenario.then,
                _ => {
                    return Err(
                        Words::of(number, 1, text)?.trouble("a key of the header, at the beginning of the line", KEYS)
                    );
                }
            };
            field.push('\n');
            field.push_str(text.trim());
            continue;
        }
        let key = header_key(number, text)?;
        if !["option", "bug"].contains(&key) && seen.contains(&key) {
            return Err(Words::of(number, 1, text)?.trouble(format!("`{key}` only once"), []));
        }
        seen.push(key);
        last_text = Some(key);
        let column = key.chars().count() + 2;
        let rest = &text[key.len() + 1..];
        match key {
            "title" => scenario.title = rest.trim().to_owned(),
            "source" => scenario.source = rest.trim().to_owned(),
            "then" => scenario.then = rest.trim().to_owned(),
            "bug" => unknown_catchers.extend(seeded_bug(&mut scenario, Words::of(number, column, rest)?)?),
            _ => header_words(&mut scenario, key, Words::of(number, column, rest)?)?,
        }
    }
    let header_end = lines.peek().map_or(source.lines().count(), |(number, _)| *number);
    for (key, text) in [("title", &scenario.title), ("source", &scenario.source), ("then", &scenario.then)] {
        if text.is_empty() {
            return Err(Words::of(header_end.max(1), 1, "")?.trouble(format!("a `{key}:` in the header"), []));
        }
    }
    let mut numbered = Vec::new();
    for (number, text) in lines {
        let words = Words::of(number, 1, text)?;
        if !words.is_empty() {
            numbered.push((number, words));
        }
    }
    let mut numbered = numbered.into_iter();
    scenario.lines = block(&mut numbered, None)?.0;
    match unknown_catchers.into_iter().find(|(caught_by, _)| !has_deed(&scenario.lines, caught_by)) {
        Some((_, trouble)) => Err(trouble),
        None => Ok(scenario),
    }
}

/// True if some line does what `text` says.
fn has_deed(lines: &[Line], text: &str) -> bool {
    lines.iter().any(|line| match &line.deed {
        Deed::Repeat(_, inner) => has_deed(inner, text),
        Deed::OneOf(lists) => lists.iter().any(|list| has_deed(list, text)),
        deed => deed.to_string() == text,
    })
}

const KEYS: [&str; 8] = ["title", "source", "then", "cluster", "option", "load", "bug", "seed"];

fn header_key(number: usize, text: &str) -> Result<&'static str, Trouble> {
    let word = text.split_once(':').map_or(text, |(key, _)| key);
    match KEYS.iter().find(|key| **key == word && text.contains(':')) {
        Some(key) => Ok(key),
        None => {
            let mut trouble = Words::of(number, 1, word)?.trouble("a key of the header and `:`", KEYS);
            trouble.width = word.chars().count();
            Err(trouble)
        }
    }
}

fn header_words(scenario: &mut Scenario, key: &str, mut words: Words) -> Result<(), Trouble> {
    match key {
        "cluster" => {
            scenario.founders = words.number("a number of members")?;
            words.one_of("`members`", ["members", "member"])?;
            if words.take("and") {
                scenario.spares = words.number("a number of spare machines")?;
                words.need("spare")?;
                words.one_of("`machines`", ["machines", "machine"])?;
            }
            while words.take(",") {
                if words.take("not started") {
                    scenario.starts = false;
                } else if words.take(Depth::Core.name()) {
                    scenario.depth = Depth::Core;
                } else {
                    let number: u64 =
                        words.value("`not started`, `core`, or a number of reactors", |word| word.parse().ok())?;
                    match words.one_of("`reactors` or `percent busy`", ["reactors", "reactor", "percent"])? {
                        "percent" => {
                            words.need("busy")?;
                            scenario.busy_percent = number;
                        }
                        _ => scenario.reactors = number as usize,
                    }
                }
            }
        }
        "option" => scenario.settings.push(setting(&mut words)?),
        "seed" => scenario.seed = words.number("a seed")?,
        "load" => {
            loop {
                let count = words.number("a number of clients")? as usize;
                let known = workloads::ALL.iter().map(|(name, _)| *name).chain([NOBODY]);
                let name = words.one_of("a workload", known)?;
                scenario.load.clients.extend(std::iter::repeat_n((name != NOBODY).then_some(name), count));
                if !words.take(",") {
                    break;
                }
            }
            load(&mut scenario.load, &mut words)?;
        }
        _ => unreachable!("the keys are known"),
    }
    words.finish()
}

/// How clients behave.
fn load(load: &mut Load, words: &mut Words) -> Result<(), Trouble> {
    let mut calls_per_second = 50;
    let mut think = None;
    while !words.is_empty() {
        match words
            .one_of("`at`, `every`, `keys`, `timeout` or `padding`", ["at", "every", "keys", "timeout", "padding"])?
        {
            "at" => {
                calls_per_second = words.number("a number of calls")?.max(1);
                words.need("calls a second")?;
            }
            "every" => think = Some(span(words)?),
            "keys" => load.keys = words.number("a number of keys")?.max(1),
            "timeout" => load.timeout = Some(span(words)?),
            _ => load.padding_bytes_max = words.number("a number of bytes")?.max(1),
        }
    }
    let clients = load.clients.len() as u64;
    load.think = think.unwrap_or(Duration::from_micros(clients * 1_000_000 / calls_per_second));
    Ok(())
}

/// Returns who catches it if that is no checker, and what is wrong with that unless a line of the timeline is meant.
fn seeded_bug(scenario: &mut Scenario, mut words: Words) -> Result<Option<(String, Trouble)>, Trouble> {
    let name = words.one_of("a seeded bug", bugs::ALL.iter().map(|bug| bug.name))?;
    words.need("caught by")?;
    let checkers: Vec<_> = checkers::all().iter().map(|checker| checker.name()).collect();
    let trouble = words.trouble("a checker, or what a line of the timeline does, in quotes", checkers.iter().copied());
    let caught_by = words.text("a checker, or what a line of the timeline does, in quotes")?;
    words.finish()?;
    let is_checker = checkers.contains(&caught_by.as_str());
    scenario.bugs.push(SeededBug { name, caught_by: caught_by.clone() });
    Ok((!is_checker).then_some((caught_by, trouble)))
}

fn setting(words: &mut Words) -> Result<Setting, Trouble> {
    let name = words.one_of("a setting of a member, by the name of its flag", options::names())?;
    words.value(&format!("a value of {name}"), |value| Setting::new(name, value))
}

/// What ends a list of lines.
#[derive(PartialEq)]
enum BlockEnd {
    Or,
    End,
    File,
}

/// The lines up to the end of the block that `opener` has begun, or up to the end of the file.
fn block(
    numbered: &mut impl Iterator<Item = (usize, Words)>,
    opener: Option<(&Words, bool)>,
) -> Result<(Vec<Line>, BlockEnd), Trouble> {
    let mut lines = Vec::new();
    while let Some((number, mut words)) = numbered.next() {
        for (word, end) in [("end", BlockEnd::End), ("or", BlockEnd::Or)] {
            if words.peek() == Some(word) {
                if opener.is_none_or(|(_, has_choices)| end == BlockEnd::Or && !has_choices) {
                    return Err(words.trouble("a time: there is nothing to end here", []));
                }
                words.need(word)?;
                words.finish()?;
                return Ok((lines, end));
            }
        }
        let (when, maybe) = when(&mut words)?;
        let deed = if words.take("repeat") {
            let times = words.number("how many times")?;
            words.need("times")?;
            words.finish()?;
            Deed::Repeat(times, block(numbered, Some((&words, false)))?.0)
        } else if words.take("one of") {
            words.finish()?;
            let mut lists = Vec::new();
            loop {
                let (list, end) = block(numbered, Some((&words, true)))?;
                lists.push(list);
                if end == BlockEnd::End {
                    break Deed::OneOf(lists);
                }
            }
        } else {
            deed(&mut words)?
        };
        if matches!(deed, Deed::Later(_)) && words.peek() != Some("needs") {
            return Err(words.trouble("`needs` and a feature", []));
        }
        let needs =
            if words.take("needs") { Some(words.one_of("a feature", NEEDS.iter().copied())?.to_owned()) } else { None };
        words.finish()?;
        lines.push(Line { number, when, maybe, needs, deed });
    }
    match opener {
        Some((words, _)) => Err(words.trouble("an `end` of this block before the end of the file", [])),
        None => Ok((lines, BlockEnd::File)),
    }
}

fn when(words: &mut Words) -> Result<(When, bool), Trouble> {
    let when = match words.one_of("`at`, `after` or `then`", ["at", "after", "then"])? {
        "then" => When::After(Duration::ZERO, Duration::ZERO),
        "at" if words.take("some time in") => {
            let (from, to) = range(words)?;
            When::At(from, to)
        }
        "at" => {
            let at = span(words)?;
            When::At(at, at)
        }
        _ => {
            let (from, to) = range(words)?;
            When::After(from, to)
        }
    };
    Ok((when, words.take("maybe")))
}

fn span(words: &mut Words) -> Result<Duration, Trouble> {
    words.value("a time, as in 1.5s or 200ms", read_span)
}

fn read_span(text: &str) -> Option<Duration> {
    Span::read(text).map(|Span(ns)| Duration::from_nanos(ns))
}

/// `5s`, or `5s..20s`.
fn range(words: &mut Words) -> Result<(Duration, Duration), Trouble> {
    words.value("a time, or two as in 5s..20s", |text| {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let range = (read_span(from)?, read_span(to)?);
        (range.0 <= range.1).then_some(range)
    })
}

fn who(words: &mut Words) -> Result<Who, Trouble> {
    let first = one(words)?;
    let mut all = vec![first];
    while words.take(",") || words.take("and") {
        all.push(one(words)?);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Who::Several(all) })
}

fn one(words: &mut Words) -> Result<Who, Trouble> {
    for (phrase, who) in [
        ("the leader", Who::Leader),
        ("leader", Who::Leader),
        ("a follower", Who::Follower),
        ("a member", Who::AnyMember),
    ] {
        if words.take(phrase) {
            return Ok(who);
        }
    }
    if words.take("all but") {
        return Ok(Who::AllBut(Box::new(who(words)?)));
    }
    if words.take("all") {
        return Ok(Who::All);
    }
    let known = ["the leader", "leader", "a follower", "a member", "all"];
    let read = |word: &str| match machine_number(word) {
        Some(machine) => Some(Who::Machine(machine)),
        None => read_name(word).map(Who::Named),
    };
    words
        .value("a member: m1, `leader`, `a follower`, `a member`, `all`, or a name with a capital", read)
        .map_err(|trouble| Trouble { suggestion: words.trouble("", known).suggestion, ..trouble })
}

fn name(words: &mut Words) -> Result<String, Trouble> {
    words.value("a name that begins with a capital", read_name)
}

fn read_name(word: &str) -> Option<String> {
    let is_name = word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphanumeric());
    is_name.then(|| word.to_owned())
}

const VERBS: [&str; 40] = [
    "wait",
    "let",
    "start",
    "kill",
    "crash",
    "pause",
    "resume",
    "cut",
    "mend",
    "network",
    "reset",
    "slow",
    "fail",
    "leave",
    "free",
    "run",
    "move",
    "leap",
    "partition",
    "isolate",
    "heal",
    "stop",
    "lose",
    "wipe",
    "set",
    "declare",
    "flip",
    "put",
    "get",
    "local",
    "delete",
    "compact",
    "add",
    "remove",
    "promote",
    "try",
    "expect",
    "one",
    "repeat",
    "do",
];

fn deed(words: &mut Words) -> Result<Deed, Trouble> {
    if words.take("wait") {
        return Ok(Deed::Wait);
    }
    if words.take("later") {
        return Ok(Deed::Later(words.text("what is to come, in quotes")?));
    }
    if words.take("let") {
        let name = name(words)?;
        words.need("be")?;
        return Ok(match quantity(words) {
            Some(quantity) => {
                words.need("of")?;
                Deed::LetNumber(name, quantity, who(words)?)
            }
            None => Deed::LetWho(name, who(words)?),
        });
    }
    if words.take("try") {
        return match call(words)? {
            Some(call) => called(words, call, Wanted::Anything),
            None => Err(words.trouble("a call", CALLS)),
        };
    }
    if words.take("expect") {
        return expectation(words);
    }
    if let Some(call) = call(words)? {
        // A start is no call if it has no flags.
        return match call {
            Call::Start(who, flags) if flags.is_empty() => Ok(Deed::Act(Action::Start(who))),
            call => called(words, call, Wanted::Success),
        };
    }
    if let Some(action) = action(words)? {
        return Ok(Deed::Act(action));
    }
    if let Some(deed) = harm(words)? {
        return Ok(deed);
    }
    Err(words.trouble("something that happens", VERBS))
}

/// What is made of actions, or goes beyond them.
fn harm(words: &mut Words) -> Result<Option<Deed>, Trouble> {
    Ok(Some(if words.take("partition") {
        let these = who(words)?;
        words.need("from")?;
        let from = who(words)?;
        Deed::Partition { who: these, from, one_way: words.take("one-way") }
    } else if words.take("isolate") {
        Deed::Isolate(who(words)?)
    } else if words.take("heal") {
        Deed::Act(Action::MendAll)
    } else if words.take("stop") {
        Deed::Stop(who(words)?)
    } else if words.take("lose") {
        Deed::Lose(who(words)?)
    } else if words.take("wipe") {
        Deed::Wipe(who(words)?)
    } else if words.take("set") {
        let who = who(words)?;
        words.need("apart")?;
        Deed::SetApart(who)
    } else if words.take("declare lost what") {
        let who = who(words)?;
        words.need("lacks")?;
        Deed::DeclareLost(who)
    } else if words.take("flip a bit in the log of") {
        Deed::FlipBit(who(words)?)
    } else if words.take("crash") {
        let who = who(words)?;
        if words.take("within") {
            let calls = words.number("a number of calls")?;
            words.need("disk calls")?;
            Deed::CrashInCall(who, calls)
        } else if words.take("after") {
            let calls = words.number("a number of calls")?;
            words.need("disk calls")?;
            Deed::Act(Action::CrashAfter(who, calls))
        } else {
            Deed::Act(Action::Crash(who))
        }
    } else {
        return Ok(None);
    }))
}

fn action(words: &mut Words) -> Result<Option<Action<Who>>, Trouble> {
    let share = |words: &mut Words| words.value("a share, as in 5% or 200ppm", Share::read).map(|Share(ppm)| ppm);
    Ok(Some(if words.take("kill") {
        Action::Kill(who(words)?)
    } else if words.take("pause") {
        Action::Pause(who(words)?)
    } else if words.take("resume") {
        Action::Resume(who(words)?)
    } else if words.take("cut") {
        let from = who(words)?;
        words.need("->")?;
        Action::Cut { from, to: who(words)? }
    } else if words.take("mend all links") {
        Action::MendAll
    } else if words.take("mend network") {
        Action::Network(NetKnobs::default())
    } else if words.take("mend disk of") {
        Action::DiskErrors(who(words)?, DiskErrorRates::default())
    } else if words.take("network") {
        Action::Network(network(words)?)
    } else if words.take("reset a connection of") {
        Action::ResetConnection(who(words)?)
    } else if words.take("slow disk of") {
        let who = who(words)?;
        words.need("to")?;
        Action::DiskSpeed(who, percent(words)?)
    } else if words.take("fail disk of") {
        let who = who(words)?;
        let mut rates = DiskErrorRates::default();
        while !words.is_empty() {
            let rate = match words.one_of("`reads`, `writes` or `syncs`", ["reads", "writes", "syncs"])? {
                "reads" => &mut rates.reads,
                "writes" => &mut rates.writes,
                _ => &mut rates.syncs,
            };
            *rate = share(words)?;
        }
        Action::DiskErrors(who, rates)
    } else if words.take("leave") {
        let bytes = words.number("a number of bytes")?;
        words.need("bytes on disk of")?;
        Action::DiskRoom(who(words)?, Some(bytes))
    } else if words.take("free disk of") {
        Action::DiskRoom(who(words)?, None)
    } else if words.take("run clocks of") {
        let who = who(words)?;
        words.need("wrong by")?;
        Action::ClockRate(who, words.value("a rate, as in +20000ppm", |text| text.strip_suffix("ppm")?.parse().ok())?)
    } else if words.take("move clock of") {
        let who = who(words)?;
        words.need("by")?;
        Action::ClockJump(
            who,
            words.value("a time with its sign, as in +8h or -45s", |text| Some(Signed::read(text)?.0))?,
        )
    } else if words.take("leap clocks of") {
        let who = who(words)?;
        words.need("by")?;
        Action::ClockLeap(who, span(words)?)
    } else {
        return Ok(None);
    }))
}

fn percent(words: &mut Words) -> Result<u64, Trouble> {
    words.value("a percentage, as in 300%", |text| text.strip_suffix('%')?.parse().ok())
}

/// What of the network is not as usual.
fn network(words: &mut Words) -> Result<NetKnobs, Trouble> {
    let mut knobs = NetKnobs::default();
    let keys = ["latency", "spread", "tail", "loss", "resets", "partial", "window"];
    while words.peek().is_some_and(|word| word != "needs") {
        let share = |words: &mut Words| words.value("a share, as in 5% or 200ppm", Share::read).map(|Share(ppm)| ppm);
        let span_ns = |words: &mut Words| span(words).map(|span| span.as_nanos() as u64);
        match words.one_of("what of the network changes", keys)? {
            "latency" => knobs.latency = Latency { base_ns: span_ns(words)?, ..knobs.latency },
            "spread" => knobs.latency = Latency { spread_ns: span_ns(words)?, ..knobs.latency },
            "tail" => {
                knobs.latency.tail_per_million = share(words)?;
                knobs.latency.tail_ns = span_ns(words)?;
            }
            "loss" => knobs.loss_per_million = share(words)?,
            "resets" => knobs.reset_per_million = share(words)?,
            "partial" => knobs.partial_percent = percent(words)?,
            _ => knobs.window_bytes = words.number("a number of bytes")? as usize,
        }
    }
    Ok(knobs)
}

const CALLS: [&str; 11] =
    ["put", "grant", "get", "local", "delete", "compact", "add", "remove", "promote", "move", "start"];

fn call(words: &mut Words) -> Result<Option<Call>, Trouble> {
    Ok(Some(if words.take("put") {
        let key = words.text("a key, or a number of keys")?;
        if words.take("keys") {
            match key.parse() {
                Ok(count) => Call::PutMany(count),
                Err(_) => return Err(words.trouble("a number before `keys`", [])),
            }
        } else {
            words.need("=")?;
            Call::Put(key, words.text("a value")?)
        }
    } else if words.take("grant") {
        let count = words.number("a number of leases")?;
        words.need("leases")?;
        words.need("of")?;
        let time = span(words)?;
        words.need("with")?;
        words.need("a")?;
        words.need("key")?;
        words.need("each")?;
        Call::Grant(count, time.as_secs())
    } else if words.take("local get") {
        Call::Get { key: words.text("a key")?, local: true, is: None }
    } else if words.take("get") {
        Call::Get { key: words.text("a key")?, local: false, is: None }
    } else if words.take("delete") {
        Call::Delete(words.text("a key")?)
    } else if words.take("compact") {
        Call::Compact
    } else if words.take("add") {
        let machine = who(words)?;
        Call::Add(machine, words.take("as learner"))
    } else if words.take("remove") {
        Call::Remove(who(words)?)
    } else if words.take("promote") {
        Call::Promote(who(words)?)
    } else if words.take("move leader to") {
        Call::MoveLeader(who(words)?)
    } else if words.take("start") {
        let who = who(words)?;
        let mut flags = Vec::new();
        if words.take("with") {
            while words.peek().is_some_and(|word| word.starts_with("--")) {
                flags.push(flag(words)?);
            }
            if flags.is_empty() {
                return Err(words.trouble("a flag, as in --force-new-cluster", []));
            }
        }
        Call::Start(who, flags)
    } else {
        return Ok(None);
    }))
}

fn flag(words: &mut Words) -> Result<Setting, Trouble> {
    let read = |word: &str| {
        let flag = word.strip_prefix("--")?;
        let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
        Setting::new(name, value)
    };
    let written =
        words.peek().unwrap_or_default().trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
    words.value("a flag of a member and a value that it takes", read).map_err(|trouble| {
        let close = options::names()
            .max_by(|one, other| strsim::jaro_winkler(&written, one).total_cmp(&strsim::jaro_winkler(&written, other)));
        let suggestion = close.filter(|close| *close != written).map(|close| format!("--{close}"));
        Trouble { suggestion, ..trouble }
    })
}

/// What follows a call.
fn called(words: &mut Words, call: Call, wanted: Wanted) -> Result<Deed, Trouble> {
    let at = if words.take("at") { Some(who(words)?) } else { None };
    Ok(Deed::Call { call, at, wanted })
}

fn expectation(words: &mut Words) -> Result<Deed, Trouble> {
    if let Some(call) = call(words)? {
        let Deed::Call { call, at, .. } = called(words, call, Wanted::Success)? else { unreachable!("it is a call") };
        if let Call::Get { key, local, .. } = &call
            && words.take("=")
        {
            let value = words.text("a value, or `nothing`")?;
            let is = Some((value != "nothing").then_some(value));
            let call = Call::Get { key: key.clone(), local: *local, is };
            return Ok(Deed::Call { call, at, wanted: Wanted::Success });
        }
        words.need("fails")?;
        let why = if words.take("with") { Some(words.text("what the error says")?) } else { None };
        return Ok(Deed::Call { call, at, wanted: Wanted::Failure(why) });
    }
    let condition = condition(words)?;
    let patience = if words.take("within") {
        Patience::Within(span(words)?)
    } else if words.take("for") {
        if words.peek().is_some_and(|word| word.ends_with('%')) {
            let percent = percent(words)?;
            words.need("of")?;
            Patience::During(percent, span(words)?)
        } else {
            Patience::During(100, span(words)?)
        }
    } else {
        Patience::Now
    };
    Ok(Deed::Expect(condition, patience))
}

fn condition(words: &mut Words) -> Result<Condition, Trouble> {
    if words.take("a leader") {
        return Ok(Condition::SomeLeader);
    }
    if words.take("no leader") {
        return Ok(Condition::NoLeader);
    }
    if words.take("log of") {
        let who = who(words)?;
        let is_there = words.one_of("`has` or `lacks`", ["has", "lacks"])? == "has";
        return Ok(Condition::Logged(who, words.text("words of a log line")?, is_there));
    }
    if words.take("same") {
        let Some(quantity) = quantity(words) else {
            return Err(words.trouble("a number that members have", QUANTITIES));
        };
        words.need("of")?;
        return Ok(Condition::Same(quantity, who(words)?));
    }
    if let Some(quantity) = quantity(words) {
        words.need("of")?;
        let who = who(words)?;
        words.need("is")?;
        let comparison = match () {
            () if words.take("at least") => Comparison::AtLeast,
            () if words.take("at most") => Comparison::AtMost,
            () => Comparison::Is,
        };
        return Ok(Condition::Number(quantity, who, comparison, figure(words)?));
    }
    if words.take("watch") {
        let key = if words.take("on") { Some(words.text("a key")?) } else { None };
        words.need("from")?;
        let from = figure(words)?;
        words.need("at")?;
        let at = who(words)?;
        words.need("sees")?;
        let seen = words.text("a value, or a number of events")?;
        let sees = match words.take("events") {
            true => Sight::Events(seen.parse().map_err(|_| words.trouble("a number before `events`", []))?),
            false => Sight::Value(seen),
        };
        return Ok(Condition::Watch { key, from, at, sees });
    }
    let who = who(words)?;
    Ok(match words.one_of("`leads`, `serves` or `ended`", ["leads", "serves", "ended"])? {
        "leads" => Condition::Leads(who),
        "serves" => Condition::Serves(who),
        _ => Condition::Ended(who, if words.take("with") { Some(words.text("what it says")?) } else { None }),
    })
}

/// A number that a `let` has named, perhaps with one beside it; or a figure.
fn figure(words: &mut Words) -> Result<Figure, Trouble> {
    match words.peek().and_then(read_name) {
        Some(name) => {
            words.need(&name)?;
            let figure = if words.take("+") { words.number("a number")? } else { 0 };
            Ok(Figure { name: Some(name), figure })
        }
        None => Ok(Figure { name: None, figure: words.number("a number, or the name of one")? }),
    }
}

const QUANTITIES: [&str; 7] = ["term", "revision", "applied-index", "members", "learners", "leases", "leased-keys"];

fn quantity(words: &mut Words) -> Option<Quantity> {
    use Quantity::{Applied, Learners, LeasedKeys, Leases, Members, Revision, Term};
    let all = [Term, Revision, Applied, Members, Learners, Leases, LeasedKeys];
    all.into_iter().find(|quantity| words.take(&quantity.to_string()))
}
