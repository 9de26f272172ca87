//! Plays a timeline: one line after the other, until the end or until something is not as it has to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madsim::task::JoinHandle;
use prost::Message as _;
use quorate_member::Member;
use quorate_proto::etcdserverpb::RangeRequest;
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::witness;

use super::calls::Caller;
use super::{Call, Comparison, Condition, Deed, Figure, Line, Patience, Quantity, Sight, Wanted, When, Who};
use crate::actions::Action;
use crate::faults::Stage;
use crate::faults::crash_in_call::{Burnt, burn_down};
use crate::run::LogCollector;
use crate::world::clock::{self, SimTime};
use crate::world::cluster::{MemberMachine, machine_name};
use crate::world::dice::Dice;
use crate::world::disk::Death;
use crate::world::net::MachineId;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a line waits for a leader that it speaks of.
const LEADER_WAIT: Duration = Duration::from_secs(20);

/// How long a process may take to end by itself, when it should.
const END_WAIT: Duration = Duration::from_secs(30);

/// What came of a timeline.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The line that was not as it has to be, and how it was.
    pub failure: Option<String>,
}

/// Plays lines.
pub struct Player {
    stage: Arc<Stage>,
    log: LogCollector,
    dice: Dice,
    caller: Caller,
    machines: BTreeMap<String, Vec<MachineId>>,
    numbers: BTreeMap<String, u64>,
    fuses: Vec<JoinHandle<Burnt>>,
}

/// How a line that fails says why.
type Played = Result<(), String>;

impl Player {
    /// A player whose calls `caller` makes.
    pub fn new(stage: &Arc<Stage>, log: LogCollector, dice: Dice, caller: Caller) -> Self {
        Self {
            stage: Arc::clone(stage),
            log,
            dice,
            caller,
            machines: BTreeMap::new(),
            numbers: BTreeMap::new(),
            fuses: Vec::new(),
        }
    }

    /// Plays all lines, or up to the first that fails.
    pub async fn play(mut self, lines: &[Line]) -> Outcome {
        let failure = self.play_all(lines).await.err();
        for fuse in self.fuses {
            fuse.await.expect("a fuse burns down, or does not");
        }
        Outcome { failure }
    }

    async fn play_all(&mut self, lines: &[Line]) -> Played {
        for line in lines {
            self.wait(line.when).await;
            if (line.maybe && self.dice.percent(50)) || line.needs.is_some() {
                continue;
            }
            match &line.deed {
                Deed::Repeat(times, inner) => {
                    for _ in 0..*times {
                        Box::pin(self.play_all(inner)).await?;
                    }
                }
                Deed::OneOf(lists) => {
                    let chosen = self.dice.pick(lists);
                    Box::pin(self.play_all(chosen)).await?;
                }
                deed => {
                    self.tell_if_call(deed);
                    let played = self.act(deed).await;
                    played.map_err(|why| format!("line {}: {deed}: {why}", line.number))?;
                }
            }
        }
        Ok(())
    }

    /// Actions are told as they happen.
    fn tell_if_call(&self, deed: &Deed) {
        if !matches!(deed, Deed::Wait | Deed::Later(_) | Deed::Act(_) | Deed::Isolate(_) | Deed::Partition { .. }) {
            self.stage.world.tell(deed.to_string());
        }
    }

    async fn wait(&mut self, when: When) {
        let (start, from, to) = match when {
            When::At(from, to) => (SimTime::default(), from, to),
            When::After(from, to) => (clock::now(), from, to),
        };
        let drawn_ns = self.dice.between(from.as_nanos() as u64, to.as_nanos() as u64);
        let until = start.plus_nanos(drawn_ns);
        if until > clock::now() {
            clock::sleep_until(until).await;
        }
    }

    async fn act(&mut self, deed: &Deed) -> Played {
        match deed {
            Deed::Wait | Deed::Later(_) => {}
            Deed::Repeat(..) | Deed::OneOf(_) => unreachable!("blocks are played line by line"),
            Deed::LetWho(name, who) => {
                let machines = self.which(who).await?;
                let names: Vec<_> = machines.iter().map(|&machine| machine_name(machine)).collect();
                self.stage.world.tell(format!("{name} is {}", names.join(", ")));
                self.machines.insert(name.clone(), machines);
            }
            Deed::LetNumber(name, quantity, who) => {
                let machine = self.one(who).await?;
                let number = self.number(quantity, machine)?;
                self.stage.world.tell(format!("{name} is {number}"));
                self.numbers.insert(name.clone(), number);
            }
            Deed::Act(action) => self.perform(action).await?,
            Deed::Partition { who, from, one_way } => {
                let (these, those) = (self.which(who).await?, self.which(from).await?);
                self.part(&these, &those, *one_way);
            }
            Deed::Isolate(who) => {
                let these = self.which(who).await?;
                let all = self.stage.cluster.machines.iter().map(|machine| machine.machine);
                let those: Vec<_> = all.filter(|machine| !these.contains(machine)).collect();
                self.part(&these, &those, false);
            }
            Deed::CrashInCall(who, calls) => {
                for machine in self.which(who).await? {
                    self.crash_in_call(machine, *calls).await;
                }
            }
            Deed::Stop(who) => {
                for machine in self.machines_of(who).await? {
                    self.stage.cluster.stop(&machine).await;
                }
            }
            Deed::Lose(who) => {
                for machine in self.machines_of(who).await? {
                    self.stage.cluster.wipe(&machine, Death::PowerFailure);
                    self.stage.cluster.retire(&machine);
                }
            }
            Deed::Wipe(who) => {
                for machine in self.machines_of(who).await? {
                    self.stage.cluster.wipe(&machine, Death::PowerFailure);
                }
            }
            Deed::SetApart(who) => {
                for machine in self.machines_of(who).await? {
                    self.stage.cluster.retire(&machine);
                    let member = machine.member().ok_or_else(|| format!("{} does not run", machine.name))?;
                    witness::set_apart(member.id().0);
                }
            }
            Deed::DeclareLost(who) => {
                let survivor = self.one(who).await?;
                let survivor = self.stage.cluster.machine(survivor);
                let kept = survivor.kept_when_forced();
                let kept = kept.ok_or_else(|| format!("{} was not started with --force-new-cluster", survivor.name))?;
                // What others have applied there is not what the survivor goes on with.
                witness::forget();
                self.stage.recorder.declare_lost(kept);
            }
            Deed::FlipBit(who) => {
                for machine in self.machines_of(who).await? {
                    let flipped = super::rot::flip_a_bit(&machine, &mut self.dice);
                    self.stage.world.tell(flipped.map_err(|error| error.to_string())?);
                }
            }
            Deed::Call { call, at, wanted } => self.call(call, at.as_ref(), wanted).await?,
            Deed::Expect(condition, patience) => self.expect(condition, *patience).await?,
        }
        Ok(())
    }

    async fn perform(&mut self, action: &Action<Who>) -> Played {
        // An action on several machines is one on each.
        let mut whos = Vec::new();
        action.aimed(|who| whos.push(who.clone()));
        let mut aims: Vec<Vec<MachineId>> = vec![Vec::new()];
        for who in &whos {
            let machines = self.which(who).await?;
            let longer = |aim: &Vec<MachineId>, machine: MachineId| [aim.as_slice(), &[machine]].concat();
            aims = aims.iter().flat_map(|aim| machines.iter().map(move |&machine| longer(aim, machine))).collect();
        }
        for aim in aims {
            let mut machines = aim.into_iter();
            let aimed = action.aimed(|_| machines.next().expect("as many as were asked for"));
            match aimed {
                // An operator may start what is no member any more.
                Action::Start(machine) => {
                    self.stage.cluster.start_with(self.stage.cluster.machine(machine), Vec::new(), false);
                }
                fuse @ Action::CrashAfter(machine, _) => self.light_fuse(&fuse, machine),
                other => {
                    self.stage.act(&other);
                }
            }
        }
        Ok(())
    }

    fn part(&self, these: &[MachineId], those: &[MachineId], one_way: bool) {
        for &from in these {
            for &to in those {
                self.stage.act(&Action::Cut { from, to });
                if !one_way {
                    self.stage.act(&Action::Cut { from: to, to: from });
                }
            }
        }
    }

    /// In a call, or, if there is none for a while, all the same.
    async fn crash_in_call(&mut self, number: MachineId, calls: u64) {
        let machine = Arc::clone(self.stage.cluster.machine(number));
        let fuse = Action::CrashAfter(number, self.dice.below(calls.max(1)));
        if self.stage.act(&fuse) && burn_down(&self.stage, &machine).await == Burnt::Never {
            self.stage.act(&Action::Crash(number));
        }
    }

    /// The timeline goes on meanwhile.
    fn light_fuse(&mut self, fuse: &Action, number: MachineId) {
        if self.stage.act(fuse) {
            let (stage, machine) = (Arc::clone(&self.stage), Arc::clone(self.stage.cluster.machine(number)));
            let node = self.stage.world.new_node("fuse");
            self.fuses.push(node.spawn(async move { burn_down(&stage, &machine).await }));
        }
    }

    async fn call(&mut self, call: &Call, at: Option<&Who>, wanted: &Wanted) -> Played {
        let at = match at {
            Some(who) => Some(self.one(who).await?),
            None => None,
        };
        if let Call::Start(who, flags) = call {
            for machine in self.machines_of(who).await? {
                self.stage.cluster.start_with(&machine, flags.clone(), *wanted != Wanted::Success);
                if let Wanted::Failure(words) = wanted {
                    self.has_ended(&machine, words.as_deref()).await?;
                    self.stage.cluster.kill(&machine, Death::Exit);
                }
            }
            return Ok(());
        }
        let member = match call {
            Call::Add(who, _) | Call::Remove(who) | Call::Promote(who) | Call::MoveLeader(who) => {
                Some(self.one(who).await?)
            }
            _ => None,
        };
        match (wanted, self.caller.call(call, member, at, *wanted == Wanted::Success).await) {
            (Wanted::Anything, _) | (Wanted::Success, Ok(())) | (Wanted::Failure(None), Err(_)) => Ok(()),
            (Wanted::Success, Err(why)) => Err(why),
            (Wanted::Failure(Some(words)), Err(why)) if why.contains(words.as_str()) => Ok(()),
            (Wanted::Failure(Some(_)), Err(why)) => Err(format!("it failed with \"{why}\"")),
            (Wanted::Failure(_), Ok(())) => Err("it worked".to_owned()),
        }
    }

    async fn has_ended(&self, machine: &MemberMachine, words: Option<&str>) -> Played {
        let deadline = clock::now().plus_nanos(END_WAIT.as_nanos() as u64);
        loop {
            if let Some(last_words) = machine.last_words() {
                return match words {
                    Some(words) if !last_words.contains(words) => Err(format!("it said \"{last_words}\"")),
                    _ => Ok(()),
                };
            }
            if clock::now() >= deadline {
                return Err(format!("{} has not ended after {END_WAIT:?}", machine.name));
            }
            clock::sleep(LOOK_EVERY).await;
        }
    }

    async fn expect(&mut self, condition: &Condition, patience: Patience) -> Played {
        match patience {
            Patience::Now => self.holds(condition).await,
            Patience::Within(time) => {
                let deadline = clock::now().plus_nanos(time.as_nanos() as u64);
                loop {
                    let held = self.holds(condition).await;
                    if held.is_ok() || clock::now() >= deadline {
                        return held;
                    }
                    clock::sleep(LOOK_EVERY).await;
                }
            }
            Patience::During(percent, time) => {
                let deadline = clock::now().plus_nanos(time.as_nanos() as u64);
                let (mut looks, mut held, mut last) = (0u64, 0u64, String::new());
                while clock::now() < deadline {
                    looks += 1;
                    match self.holds(condition).await {
                        Ok(()) => held += 1,
                        Err(why) => last = why,
                    }
                    if percent == 100 && held < looks {
                        return Err(last);
                    }
                    clock::sleep(LOOK_EVERY).await;
                }
                if held * 100 >= looks * percent {
                    return Ok(());
                }
                Err(format!("it held {held} times of {looks}; the last time not: {last}"))
            }
        }
    }

    async fn holds(&mut self, condition: &Condition) -> Played {
        match condition {
            Condition::SomeLeader => self.stage.cluster.leader().map(drop).ok_or_else(|| "nobody leads".to_owned()),
            Condition::NoLeader => {
                let known = self.running().find_map(|machine| machine.member()?.raft_status().leader);
                known.map_or(Ok(()), |leader| Err(format!("{leader} leads")))
            }
            Condition::Leads(who) => {
                let number = self.one(who).await?;
                match self.stage.cluster.leader() {
                    Some(leader) if leader == number => Ok(()),
                    Some(leader) => Err(format!("{} leads", machine_name(leader))),
                    None => Err("nobody leads".to_owned()),
                }
            }
            Condition::Serves(who) => {
                for machine in self.which(who).await? {
                    let read = Call::Get { key: "k000".to_owned(), local: false, is: None };
                    self.caller.call(&read, None, Some(machine), false).await?;
                }
                Ok(())
            }
            Condition::Ended(who, words) => {
                for machine in self.machines_of(who).await? {
                    let last_words = machine.last_words().ok_or_else(|| format!("{} has not ended", machine.name))?;
                    if !words.as_ref().is_none_or(|words| last_words.contains(words.as_str())) {
                        return Err(format!("{} said \"{last_words}\"", machine.name));
                    }
                }
                Ok(())
            }
            Condition::Logged(who, words, wanted) => {
                for machine in self.which(who).await? {
                    let how = match self.log.has(machine, words) {
                        Some(found) if found == *wanted => continue,
                        Some(true) => "has it",
                        Some(false) => "lacks it",
                        None => "lacks it as far as it was kept, which is not all of it",
                    };
                    return Err(format!("the log of {} {how}", machine_name(machine)));
                }
                Ok(())
            }
            Condition::Number(quantity, who, comparison, figure) => {
                let other = self.value(figure)?;
                for machine in self.which(who).await? {
                    let number = self.number(quantity, machine)?;
                    let holds = match comparison {
                        Comparison::Is => number == other,
                        Comparison::AtLeast => number >= other,
                        Comparison::AtMost => number <= other,
                    };
                    if !holds {
                        return Err(format!("the {quantity} of {} is {number}", machine_name(machine)));
                    }
                }
                Ok(())
            }
            Condition::Watch { key, from, at, sees } => {
                let from = i64::try_from(self.value(from)?).unwrap_or(i64::MAX);
                for machine in self.which(at).await? {
                    let told = self.caller.watch(key.as_deref(), from, machine).await?;
                    let is_so = match sees {
                        Sight::Events(count) => {
                            let revisions: BTreeSet<i64> = told.iter().map(|(revision, _)| *revision).collect();
                            told.len() as u64 == *count && revisions.len() == told.len()
                        }
                        Sight::Value(value) => matches!(&told[..], [(_, Some(only))] if only == value),
                    };
                    if !is_so {
                        return Err(format!("a watch at {} was told {told:?}", machine_name(machine)));
                    }
                }
                Ok(())
            }
            Condition::Same(quantity, who) => {
                let machines = self.which(who).await?;
                let numbers =
                    machines.iter().map(|&machine| self.number(quantity, machine)).collect::<Result<Vec<_>, _>>()?;
                if numbers.windows(2).all(|pair| pair[0] == pair[1]) {
                    Ok(())
                } else {
                    Err(format!("they are {numbers:?}"))
                }
            }
        }
    }

    fn number(&self, quantity: &Quantity, machine: MachineId) -> Result<u64, String> {
        let machine = self.stage.cluster.machine(machine);
        let member = machine.member().ok_or_else(|| format!("{} does not run", machine.name))?;
        Ok(match quantity {
            Quantity::Term => member.raft_status().term.0,
            Quantity::Revision => member.view().revision().0 as u64,
            Quantity::Applied => member.raft_status().applied.0,
            Quantity::Members => member.view().members().len() as u64,
            Quantity::Learners => member.view().members().iter().filter(|member| member.is_learner).count() as u64,
            Quantity::Leases => member.leases().len() as u64,
            Quantity::LeasedKeys => leased_keys(&member)?,
        })
    }

    fn value(&self, figure: &Figure) -> Result<u64, String> {
        let base = match &figure.name {
            Some(name) => *self.numbers.get(name).ok_or_else(|| format!("there is no number {name}"))?,
            None => 0,
        };
        Ok(base + figure.figure)
    }

    fn running(&self) -> impl Iterator<Item = &Arc<MemberMachine>> {
        self.stage.cluster.machines.iter().filter(|machine| !machine.is_spare())
    }

    async fn one(&mut self, who: &Who) -> Result<MachineId, String> {
        match self.which(who).await?[..] {
            [machine] => Ok(machine),
            ref machines => Err(format!("{who} must be one machine; it is {}", machines.len())),
        }
    }

    async fn machines_of(&mut self, who: &Who) -> Result<Vec<Arc<MemberMachine>>, String> {
        Ok(self.which(who).await?.into_iter().map(|machine| Arc::clone(self.stage.cluster.machine(machine))).collect())
    }

    async fn which(&mut self, who: &Who) -> Result<Vec<MachineId>, String> {
        let members = || -> Vec<MachineId> { self.running().map(|machine| machine.machine).collect() };
        Ok(match who {
            Who::Machine(machine) => vec![*machine],
            Who::All => members(),
            Who::AnyMember => {
                let members = members();
                vec![*self.dice.pick(&members)]
            }
            Who::Leader => vec![self.some_leader().await?],
            Who::Follower => {
                let leader = self.some_leader().await?;
                let all = self.running().filter(|machine| machine.member().is_some()).map(|machine| machine.machine);
                let followers: Vec<_> = all.filter(|&machine| machine != leader).collect();
                if followers.is_empty() {
                    return Err("nobody follows".to_owned());
                }
                vec![*self.dice.pick(&followers)]
            }
            Who::AllBut(who) => {
                let not = Box::pin(self.which(who)).await?;
                self.running().map(|machine| machine.machine).filter(|machine| !not.contains(machine)).collect()
            }
            Who::Named(name) => self.machines.get(name).cloned().ok_or_else(|| format!("nobody was named {name}"))?,
            Who::Several(whos) => {
                let mut all = Vec::new();
                for who in whos {
                    all.extend(Box::pin(self.which(who)).await?);
                }
                all
            }
        })
    }

    async fn some_leader(&self) -> Result<MachineId, String> {
        let deadline = clock::now().plus_nanos(LEADER_WAIT.as_nanos() as u64);
        loop {
            if let Some(leader) = self.stage.cluster.leader() {
                return Ok(leader);
            }
            if clock::now() >= deadline {
                return Err(format!("nobody has led for {LEADER_WAIT:?}"));
            }
            clock::sleep(LOOK_EVERY).await;
        }
    }
}

/// How many keys of a member are attached to leases.
fn leased_keys(member: &Member) -> Result<u64, String> {
    let zero = Bytes::from_static(b"\0");
    let all = RangeRequest { key: zero.clone(), range_end: zero, ..Default::default() };
    let rows = member.view().range(&all).map_err(|error| error.to_string())?.kvs;
    let is_leased = |row: &&Bytes| KeyValue::decode((*row).clone()).is_ok_and(|row| row.lease != 0);
    Ok(rows.iter().filter(is_leased).count() as u64)
}
