//! How a scenario is written.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::words::{Named, Span};
use super::{
    Call, Comparison, Condition, Deed, Figure, Line, Load, NOBODY, Patience, Quantity, Scenario, Sight, Wanted, When,
    Who,
};
use crate::world::cluster::Depth;

/// Where the deed begins in a line, if there is room.
const DEED_COLUMN: usize = 25;

/// Where the text of a header begins.
const TEXT_COLUMN: usize = 9;

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut header = |key: &str, text: &dyn Display| {
            // Lines of a text after the first are indented.
            let text = text.to_string().trim().replace('\n', &format!("\n{:TEXT_COLUMN$}", ""));
            writeln!(f, "{:TEXT_COLUMN$}{text}", format!("{key}:"))
        };
        header("title", &self.title)?;
        header("source", &self.source)?;
        header("then", &self.then)?;
        let plural = |count, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let mut cluster = plural(self.founders, "member", "members");
        if self.spares > 0 {
            cluster += &format!(" and {}", plural(self.spares, "spare machine", "spare machines"));
        }
        if self.reactors != Scenario::default().reactors {
            cluster += &format!(", {}", plural(self.reactors as u64, "reactor", "reactors"));
        }
        if self.busy_percent > 0 {
            cluster += &format!(", {} percent busy", self.busy_percent);
        }
        if self.depth == Depth::Core {
            cluster += ", core";
        }
        if !self.starts {
            cluster += ", not started";
        }
        header("cluster", &cluster)?;
        for setting in &self.settings {
            header("option", setting)?;
        }
        if !self.load.clients.is_empty() {
            header("load", &self.load)?;
        }
        if self.seed != 0 {
            header("seed", &self.seed)?;
        }
        for bug in &self.bugs {
            header("bug", &format!("{} caught by {}", bug.name, Quoted(&bug.caught_by)))?;
        }
        writeln!(f)?;
        print_lines(f, &self.lines, 0)
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(u64, &str)> = Vec::new();
        for workload in self.clients.iter().map(|client| client.unwrap_or(NOBODY)) {
            match groups.last_mut() {
                Some((count, name)) if *name == workload => *count += 1,
                _ => groups.push((1, workload)),
            }
        }
        let groups: Vec<_> = groups.iter().map(|(count, name)| format!("{count} {name}")).collect();
        write!(f, "{} every {} keys {}", groups.join(", "), span(self.think), self.keys)?;
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {}", span(timeout))?;
        }
        write!(f, " padding {}", self.padding_bytes_max)
    }
}

fn print_lines(f: &mut Formatter<'_>, lines: &[Line], depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for line in lines {
        let mut start = format!("{indent}{}", line.when);
        if line.maybe {
            start += " maybe";
        }
        write!(f, "{start:DEED_COLUMN$} ")?;
        match &line.deed {
            Deed::Repeat(times, inner) => {
                writeln!(f, "repeat {times} times")?;
                print_lines(f, inner, depth + 1)?;
                writeln!(f, "{indent}end")?;
            }
            Deed::OneOf(lists) => {
                writeln!(f, "one of")?;
                for (number, list) in lists.iter().enumerate() {
                    if number > 0 {
                        writeln!(f, "{indent}or")?;
                    }
                    print_lines(f, list, depth + 1)?;
                }
                writeln!(f, "{indent}end")?;
            }
            deed => {
                write!(f, "{deed}")?;
                if let Some(needs) = &line.needs {
                    write!(f, " needs {needs}")?;
                }
                writeln!(f)?;
            }
        }
    }
    Ok(())
}

fn span(time: Duration) -> Span {
    Span(time.as_nanos() as u64)
}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            When::At(from, to) if from == to => write!(f, "at {}", span(from)),
            When::At(from, to) => write!(f, "at some time in {}..{}", span(from), span(to)),
            When::After(from, to) if from == to && from.is_zero() => write!(f, "then"),
            When::After(from, to) if from == to => write!(f, "after {}", span(from)),
            When::After(from, to) => write!(f, "after {}..{}", span(from), span(to)),
        }
    }
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Who::Machine(machine) => write!(f, "{}", Named(*machine)),
            Who::Leader => write!(f, "the leader"),
            Who::Follower => write!(f, "a follower"),
            Who::AnyMember => write!(f, "a member"),
            Who::All => write!(f, "all"),
            Who::AllBut(who) => write!(f, "all but {who}"),
            Who::Named(name) => write!(f, "{name}"),
            Who::Several(all) => {
                let names: Vec<_> = all.iter().map(Who::to_string).collect();
                write!(f, "{}", names.join(", "))
            }
        }
    }
}

/// A text in quotes of the kind that it has none of.
struct Marked<'a>(&'a str);

impl Display for Marked<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

/// A text that is in quotes if it has to be.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| !c.is_whitespace() && !",\"'#".contains(c);
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            return write!(f, "{}", self.0);
        }
        write!(f, "{}", Marked(self.0))
    }
}

impl Display for Deed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Wait => write!(f, "wait"),
            Deed::Later(text) => write!(f, "later {}", Quoted(text)),
            Deed::Repeat(times, _) => write!(f, "repeat {times} times"),
            Deed::OneOf(_) => write!(f, "one of"),
            Deed::LetWho(name, who) => write!(f, "let {name} be {who}"),
            Deed::LetNumber(name, quantity, who) => write!(f, "let {name} be {quantity} of {who}"),
            Deed::Act(action) => write!(f, "{action}"),
            Deed::Partition { who, from, one_way } => {
                write!(f, "partition {who} from {from}{}", if *one_way { " one-way" } else { "" })
            }
            Deed::Isolate(who) => write!(f, "isolate {who}"),
            Deed::CrashInCall(who, calls) => write!(f, "crash {who} within {calls} disk calls"),
            Deed::Stop(who) => write!(f, "stop {who}"),
            Deed::Lose(who) => write!(f, "lose {who}"),
            Deed::Wipe(who) => write!(f, "wipe {who}"),
            Deed::SetApart(who) => write!(f, "set {who} apart"),
            Deed::DeclareLost(who) => write!(f, "declare lost what {who} lacks"),
            Deed::FlipBit(who) => write!(f, "flip a bit in the log of {who}"),
            Deed::Call { call, at, wanted } => {
                match wanted {
                    Wanted::Success if matches!(call, Call::Get { is: Some(_), .. }) => write!(f, "expect ")?,
                    Wanted::Success => {}
                    Wanted::Anything => write!(f, "try ")?,
                    Wanted::Failure(_) => write!(f, "expect ")?,
                }
                write!(f, "{call}")?;
                if let Some(at) = at {
                    write!(f, " at {at}")?;
                }
                if let Call::Get { is: Some(is), .. } = call {
                    match is {
                        Some(value) => write!(f, " = {}", Quoted(value))?,
                        None => write!(f, " = nothing")?,
                    }
                }
                match wanted {
                    Wanted::Failure(Some(words)) => write!(f, " fails with {}", Marked(words)),
                    Wanted::Failure(None) => write!(f, " fails"),
                    Wanted::Success | Wanted::Anything => Ok(()),
                }
            }
            Deed::Expect(condition, patience) => write!(f, "expect {condition}{patience}"),
        }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Call::Put(key, value) => write!(f, "put {} = {}", Quoted(key), Quoted(value)),
            Call::PutMany(count) => write!(f, "put {count} keys"),
            Call::Grant(count, secs) => {
                write!(f, "grant {count} leases of {} with a key each", span(Duration::from_secs(*secs)))
            }
            Call::Get { key, local, .. } => write!(f, "{}get {}", if *local { "local " } else { "" }, Quoted(key)),
            Call::Delete(key) => write!(f, "delete {}", Quoted(key)),
            Call::Compact => write!(f, "compact"),
            Call::Add(machine, is_learner) => {
                write!(f, "add {machine}{}", if *is_learner { " as learner" } else { "" })
            }
            Call::Remove(who) => write!(f, "remove {who}"),
            Call::Promote(who) => write!(f, "promote {who}"),
            Call::MoveLeader(who) => write!(f, "move leader to {who}"),
            Call::Start(who, settings) => {
                write!(f, "start {who}{}", if settings.is_empty() { "" } else { " with" })?;
                settings.iter().try_for_each(|setting| write!(f, " --{}={}", setting.name, setting.value))
            }
        }
    }
}

impl Display for Quantity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quantity::Term => "term",
            Quantity::Revision => "revision",
            Quantity::Applied => "applied-index",
            Quantity::Members => "members",
            Quantity::Learners => "learners",
            Quantity::Leases => "leases",
            Quantity::LeasedKeys => "leased-keys",
        })
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) if self.figure == 0 => write!(f, "{name}"),
            Some(name) => write!(f, "{name} + {}", self.figure),
            None => write!(f, "{}", self.figure),
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Condition::SomeLeader => write!(f, "a leader"),
            Condition::NoLeader => write!(f, "no leader"),
            Condition::Leads(who) => write!(f, "{who} leads"),
            Condition::Serves(who) => write!(f, "{who} serves"),
            Condition::Ended(who, None) => write!(f, "{who} ended"),
            Condition::Ended(who, Some(words)) => write!(f, "{who} ended with {}", Marked(words)),
            Condition::Logged(who, words, true) => write!(f, "log of {who} has {}", Marked(words)),
            Condition::Logged(who, words, false) => write!(f, "log of {who} lacks {}", Marked(words)),
            Condition::Number(quantity, who, comparison, figure) => {
                let words = match comparison {
                    Comparison::Is => "is",
                    Comparison::AtLeast => "is at least",
                    Comparison::AtMost => "is at most",
                };
                write!(f, "{quantity} of {who} {words} {figure}")
            }
            Condition::Watch { key, from, at, sees } => {
                f.write_str("watch")?;
                if let Some(key) = key {
                    write!(f, " on {}", Quoted(key))?;
                }
                write!(f, " from {from} at {at} sees ")?;
                match sees {
                    Sight::Events(count) => write!(f, "{count} events"),
                    Sight::Value(value) => write!(f, "{}", Quoted(value)),
                }
            }
            Condition::Same(quantity, who) => write!(f, "same {quantity} of {who}"),
        }
    }
}

impl Display for Patience {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Patience::Now => Ok(()),
            Patience::Within(time) => write!(f, " within {}", span(time)),
            Patience::During(100, time) => write!(f, " for {}", span(time)),
            Patience::During(percent, time) => write!(f, " for {percent}% of {}", span(time)),
        }
    }
}
