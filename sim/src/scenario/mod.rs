//! Scenario files: an incident, told in an operator's words, that plays itself.
//!
//! ```text
//! title:   A survivor becomes the whole cluster
//! source:  F-01
//! then:    The two others were lost with their disks.
//! cluster: 3 members and 2 spare machines
//! option:  snapshot-count 50
//! load:    2 register, 1 txns
//!
//! at some time in 5s..9s   let S be a member
//! then                     lose all but S
//! after 1s                 expect put x = 1 at S fails
//! then                     kill S
//! then                     start S with --force-new-cluster
//! then                     expect members of S is 1 within 10s
//! ```
//!
//! A header, then a timeline. Each line says when and what: [`When`] counts from the start of the members or from the end of the
//! line before; what is drawn (`at some time in`, `a member`, `one of`) the seed decides, so that one file covers many seeds. A
//! plain deed has to succeed; `try` does not mind; `expect` says what must be so. Workloads (`load`) run all the time, and when the
//! timeline has ended the world is healed, every member that is meant to live is started, and all checkers judge.
//!
//! [`parse`] reads a file, [`std::fmt::Display`] writes one that reads the same; [`play`] does what it says.

mod calls;
pub mod options;
mod parse;
pub mod play;
mod print;
mod read;
mod rot;
#[cfg(test)]
mod tests;
pub mod words;

use std::time::Duration;

use crate::actions::Action;
use crate::world::cluster::Depth;
use crate::world::net::MachineId;

pub use calls::Caller;
pub use options::Setting;
pub use parse::parse;
pub use read::Trouble;

/// A scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Where it was read from.
    pub path: String,
    /// What it is about.
    pub title: String,
    /// Who tells of it.
    pub source: String,
    /// What went wrong then.
    pub then: String,
    /// How many members found the cluster.
    pub founders: u64,
    /// Machines beside theirs.
    pub spares: u64,
    /// The founders are started at the beginning; if not, the timeline starts them.
    pub starts: bool,
    /// The members' settings, where they are not the defaults.
    pub settings: Vec<Setting>,
    /// How many reactors each process believes to have.
    pub reactors: usize,
    /// How busy each processor is with other things, in percent.
    pub busy_percent: u64,
    /// How much of the members' surroundings is real.
    pub depth: Depth,
    /// What clients do all the time.
    pub load: Load,
    /// The first seed to play.
    pub seed: u64,
    /// With each of these bugs it must fail.
    pub bugs: Vec<SeededBug>,
    /// What happens.
    pub lines: Vec<Line>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            path: String::new(),
            title: String::new(),
            source: String::new(),
            then: String::new(),
            founders: 3,
            spares: 0,
            starts: true,
            settings: Vec::new(),
            reactors: 2,
            busy_percent: 0,
            depth: Depth::Full,
            load: Load::default(),
            seed: 0,
            bugs: Vec::new(),
            lines: Vec::new(),
        }
    }
}

/// What clients do all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The workload of each client by number; `None` if there is no such client.
    pub clients: Vec<Option<&'static str>>,
    /// Mean pause of a client between two calls.
    pub think: Duration,
    /// So many keys exist.
    pub keys: u64,
    /// How long a call may take; by default a second more than the member takes.
    pub timeout: Option<Duration>,
    /// Most bytes of padding in a value.
    pub padding_bytes_max: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self { clients: Vec::new(), think: Duration::ZERO, keys: 30, timeout: None, padding_bytes_max: 2000 }
    }
}

/// Who stands in a `load` for a client that is not there, so that the others keep their numbers.
pub const NOBODY: &str = "nobody";

/// A seeded bug and who has to notice it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeededBug {
    /// Its name.
    pub name: &'static str,
    /// A checker's name, or the deed of the line that fails.
    pub caught_by: String,
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// When it happens.
    pub when: When,
    /// The seed decides whether it happens at all.
    pub maybe: bool,
    /// What it needs that is not built yet: then it does not happen.
    pub needs: Option<String>,
    /// What happens.
    pub deed: Deed,
}

/// When a line happens. The two times are the same, or the seed draws one between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the beginning, but not before the line before has ended.
    At(Duration, Duration),
    /// So long after the line before has ended.
    After(Duration, Duration),
}

/// Which machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// That one.
    Machine(MachineId),
    /// The member that leads; waits a while for one.
    Leader,
    /// A running member that does not lead, drawn.
    Follower,
    /// A member, drawn.
    AnyMember,
    /// Every member.
    All,
    /// Every member but these.
    AllBut(Box<Who>),
    /// What `let` has given a name.
    Named(String),
    /// All of these.
    Several(Vec<Who>),
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing: a pause.
    Wait,
    /// What the incident has and cannot be played yet, in words; its line says what it needs.
    Later(String),
    /// These lines, so many times.
    Repeat(u64, Vec<Line>),
    /// One of these lists of lines, drawn.
    OneOf(Vec<Vec<Line>>),
    /// Names machines.
    LetWho(String, Who),
    /// Names a number.
    LetNumber(String, Quantity, Who),
    /// Something that happens to the world.
    Act(Action<Who>),
    /// Links between the two are cut; one way: the others do not hear the first.
    Partition {
        /// These ...
        who: Who,
        /// ... from these.
        from: Who,
        /// Only what the first send is lost.
        one_way: bool,
    },
    /// Links to all other members are cut.
    Isolate(Who),
    /// Its power fails inside a disk call, after up to so many.
    CrashInCall(Who, u64),
    /// It is asked to stop (SIGTERM), and does.
    Stop(Who),
    /// Machine and disk are gone for ever; the machine is spare.
    Lose(Who),
    /// The disk is replaced by an empty one; the process dies.
    Wipe(Who),
    /// It goes on, but is no member of this cluster any more: nobody's calls but the timeline's reach it.
    SetApart(Who),
    /// What it does not hold is lost, and everybody knows: the checkers do not ask for it.
    DeclareLost(Who),
    /// One bit of its log changes at rest, in a record that others follow. The process must not run.
    FlipBit(Who),
    /// An operator's or a client's call.
    Call {
        /// Which.
        call: Call,
        /// At this member; at any if nobody is named.
        at: Option<Who>,
        /// What must come of it.
        wanted: Wanted,
    },
    /// This must be so.
    Expect(Condition, Patience),
}

/// A call of an operator or a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A put.
    Put(String, String),
    /// Puts of so many keys of the shared key space.
    PutMany(u64),
    /// So many leases for so many seconds, each with a key of its own.
    Grant(u64, u64),
    /// A read of a key.
    Get {
        /// Of which.
        key: String,
        /// Serializable: from what the member has.
        local: bool,
        /// What it must hold (`None`: no such key), if the scenario says.
        is: Option<Option<String>>,
    },
    /// A delete of a key.
    Delete(String),
    /// A compaction at the newest revision, physical.
    Compact,
    /// A machine's member is added; the machine gets an empty disk.
    Add(Who, bool),
    /// A member is removed.
    Remove(Who),
    /// A learner becomes a voter.
    Promote(Who),
    /// The lead moves.
    MoveLeader(Who),
    /// A member is started, with these settings beside its own.
    Start(Who, Vec<Setting>),
}

/// What must come of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It works, at last.
    Success,
    /// Anything.
    Anything,
    /// It is refused or not answered; the words must be in the reason.
    Failure(Option<String>),
}

/// A number that a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Raft's term.
    Term,
    /// The store's revision.
    Revision,
    /// The last applied index.
    Applied,
    /// How many members it knows.
    Members,
    /// How many of them do not vote.
    Learners,
    /// How many leases it has.
    Leases,
    /// How many keys are attached to them.
    LeasedKeys,
}

/// A number: a figure, or one that has a name, and a figure beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Of the number that a `let` has named.
    pub name: Option<String>,
    /// Added to it.
    pub figure: u64,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// So many events, each of a revision of its own.
    Events(u64),
    /// One put of this value, and nothing else.
    Value(String),
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Is,
    /// Not less.
    AtLeast,
    /// Not more.
    AtMost,
}

/// What can be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Some running member leads.
    SomeLeader,
    /// No running member knows a leader.
    NoLeader,
    /// That one leads.
    Leads(Who),
    /// It answers a linearizable read.
    Serves(Who),
    /// Its process has ended by itself; with these words.
    Ended(Who, Option<String>),
    /// It has logged this; or has not.
    Logged(Who, String, bool),
    /// A number compares to another one.
    Number(Quantity, Who, Comparison, Figure),
    /// A watch there tells this.
    Watch {
        /// The key; `None`: all of them.
        key: Option<String>,
        /// From this revision on.
        from: Figure,
        /// There.
        at: Who,
        /// Of everything up to now.
        sees: Sight,
    },
    /// All of these have the same.
    Same(Quantity, Who),
}

/// For how long a condition is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is so now.
    Now,
    /// It becomes so in this time.
    Within(Duration),
    /// It is so for so many percent of this time.
    During(u64, Duration),
}

/// The features that a line may wait for.
pub const NEEDS: &[&str] = &["auth"];

impl Scenario {
    /// True if some of its lines wait for what is not built yet.
    pub fn is_partial(&self) -> bool {
        fn waits(lines: &[Line]) -> bool {
            lines.iter().any(|line| {
                line.needs.is_some()
                    || match &line.deed {
                        Deed::Repeat(_, inner) => waits(inner),
                        Deed::OneOf(lists) => lists.iter().any(|list| waits(list)),
                        _ => false,
                    }
            })
        }
        waits(&self.lines)
    }
}
