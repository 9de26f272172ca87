//! Members and clients on their machines: starting, stopping, killing, pausing.
//!
//! There are more machines than founders: the others are spare until an operator has added a member for them (see
//! `faults::membership`), and one whose member was removed is spare again. What is spare is not started by anybody.
//!
//! A member machine has a name, an address, a disk and a clock that outlive its processes. A process is one start of the real
//! member with its real gRPC server on a simulated listener, on a madsim node of its own. Nothing in the product knows.
//!
//! What a member does of its own accord and must not (a start that fails, a stop that nobody asked for) becomes a complaint,
//! unless the simulator itself had failed its disk; then the machine's supervisor just starts it again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use quorate_api::Api;
use quorate_member::{ClusterState, Member, MemberConfig, StartError, StopReason};
use quorate_raft::transport::Carrier;
use quorate_runtime::Rt;
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::watch;
use quorate_store::View;
use quorate_types::MemberId;

use crate::history::DeclaredLoss;
use crate::scenario::Setting;
use crate::world::clock::{self, MachineClock, SimTime};
use crate::world::disk::{Death, SimDisk};
use crate::world::net::MachineId;
use crate::world::net::frames::FrameNet;
use crate::world::runtime::SimRuntime;
use crate::world::trace::Event;
use crate::world::{World, lock};

/// How much of a member's surroundings is real in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All of it: gRPC and rafthttp, byte for byte, on simulated streams.
    Full,
    /// Clients call the services themselves, and members hand messages over as they are: the same member, many times faster.
    Core,
}

impl Depth {
    /// Its name, as on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Depth::Full => "full",
            Depth::Core => "core",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Depth::Full, Depth::Core].into_iter().find(|depth| depth.name() == name)
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom clients call in core depth.
#[derive(Clone)]
pub struct Server {
    /// The process's runtime.
    pub rt: Rt,
    /// Its services.
    pub api: Arc<Api>,
    /// Which process of its machine it is.
    pub process: u64,
}

/// What of a member's settings a run may choose.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How much is real.
    pub depth: Depth,
    /// How many reactors a process believes to have.
    pub reactors: usize,
    /// Odds, in percent, that a job takes longer than the disk needs for it, and that a task which lets others run has to wait for
    /// them: other work keeps the processor busy. Any other task that is woken has to wait at times, too.
    pub busy_percent: u64,
    /// Changes settings of every start.
    pub settings: MemberConfig,
}

/// The machines of a run that are there for members.
pub struct Cluster {
    world: Arc<World>,
    /// All of them, in order of their numbers.
    pub machines: Vec<Arc<MemberMachine>>,
    complaints: Mutex<Vec<String>>,
    crashes: Mutex<Vec<SimTime>>,
}

/// A machine that runs a member.
pub struct MemberMachine {
    /// Its name, as in `--name`.
    pub name: String,
    /// Its number in the network.
    pub machine: MachineId,
    /// Its disk.
    pub disk: Arc<SimDisk>,
    /// Its clock.
    pub clock: Arc<MachineClock>,
    address: SocketAddr,
    peer_address: SocketAddr,
    /// Where other members reach it.
    pub peer_url: String,
    limits: Limits,
    state: Mutex<MachineState>,
}

/// What a machine is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// To found the cluster.
    Founder,
    /// To join it; with the peer URLs of all its members, as the answer told that added this one.
    Joiner(Vec<Vec<String>>),
    /// For nothing now.
    Spare,
}

struct MachineState {
    role: Role,
    process: Option<Process>,
    starts: u64,
    /// The last member that was started here.
    last_member: Option<MemberId>,
    /// What its last process said when it ended by itself.
    last_words: Option<String>,
    forced: Forced,
}

/// Whether a machine's member was made a cluster of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forced {
    No,
    /// Its member was started with `--force-new-cluster`, and has not been ready since.
    Asked,
    /// It was, and began with this.
    Done(DeclaredLoss),
}

struct Process {
    number: u64,
    node: NodeHandle,
    member: Option<Member>,
    shutdown: Option<watch::Sender<bool>>,
    /// From when on it serves clients.
    server: Option<Server>,
    paused_since: Option<SimTime>,
    /// How many errors had been injected into the disk when it started.
    errors_before: u64,
    /// Whoever started it wants to know whether it starts at all.
    may_refuse: bool,
    /// It was started with `--force-new-cluster`.
    forces: bool,
    exited: bool,
}

/// The flag that makes a member a cluster of its own.
pub const FORCE_NEW_CLUSTER: &str = "force-new-cluster";

/// How long the supervisor waits before it starts a process again that exited by itself.
const SUPERVISOR_PAUSE: Duration = Duration::from_millis(500);

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

impl Cluster {
    /// Machines for `count` founders and as many as `spare` more, all off.
    pub fn new(world: &Arc<World>, count: u64, spare: u64, limits: &Limits) -> Arc<Self> {
        if limits.busy_percent > 0 {
            world.wakes.be_busy(world.dice("busy"), limits.busy_percent);
        }
        let name = machine_name;
        let ip = |number: u64| IpAddr::V4(Ipv4Addr::new(10, 0, 0, number as u8));
        let peer_url = |number| format!("http://{}:{PEER_PORT}", ip(number));
        let founders: Vec<_> = (1..=count).map(|number| (name(number), vec![peer_url(number)])).collect();
        let machines = (1..=count + spare).map(|number| {
            let (name, ip) = (name(number), ip(number));
            world.net.add_machine(number, &name, ip);
            let mut dice = world.dice(&format!("machine {name}"));
            let clock = Arc::new(MachineClock::new(Duration::from_nanos(dice.between(1, 1_000_000_000_000))));
            let address = SocketAddr::new(ip, CLIENT_PORT);
            let mut limits = limits.clone();
            let config = MemberConfig::single(
                &name,
                Path::new("/var/lib/member.etcd"),
                &peer_url(number),
                &format!("http://{address}"),
            );
            limits.settings = MemberConfig {
                name: config.name,
                data_dir: config.data_dir,
                initial_cluster: founders.clone(),
                advertise_peer_urls: config.advertise_peer_urls,
                advertise_client_urls: config.advertise_client_urls,
                ..limits.settings
            };
            Arc::new(MemberMachine {
                machine: number,
                disk: SimDisk::new(number, dice.fork("disk"), world.trace.clone()),
                clock,
                name,
                address,
                peer_address: SocketAddr::new(ip, PEER_PORT),
                limits,
                peer_url: peer_url(number),
                state: Mutex::new(MachineState {
                    role: if number <= count { Role::Founder } else { Role::Spare },
                    process: None,
                    starts: 0,
                    last_member: None,
                    last_words: None,
                    forced: Forced::No,
                }),
            })
        });
        let machines = machines.collect();
        Arc::new(Self { world: Arc::clone(world), machines, complaints: Mutex::default(), crashes: Mutex::default() })
    }

    /// The machine of that number.
    ///
    /// # Panics
    /// If it is none of ours.
    pub fn machine(&self, number: MachineId) -> &Arc<MemberMachine> {
        let found = self.machines.iter().find(|machine| machine.machine == number);
        found.unwrap_or_else(|| panic!("{} is no member's machine", machine_name(number)))
    }

    /// The machines that are not spare, in order of their numbers.
    pub fn members(&self) -> Vec<Arc<MemberMachine>> {
        self.machines.iter().filter(|machine| !machine.is_spare()).cloned().collect()
    }

    /// Who leads in the highest term.
    pub fn leader(&self) -> Option<MachineId> {
        let leading = self.machines.iter().filter(|machine| !machine.is_spare()).filter_map(|machine| {
            let member = machine.member()?;
            let status = member.raft_status();
            (status.leader == Some(member.id())).then_some((status.term, machine.machine))
        });
        leading.max().map(|(_, machine)| machine)
    }

    /// The peer URLs of each member, as the running member knows them that has applied most; none if nothing runs.
    pub fn newest_membership(&self) -> Option<Vec<Vec<String>>> {
        Some(self.newest_view()?.members().iter().map(|member| member.peer_urls.clone()).collect())
    }

    fn newest_view(&self) -> Option<Arc<View>> {
        let views = self.machines.iter().filter_map(|machine| Some(machine.member()?.view()));
        views.max_by_key(|view| view.applied())
    }

    /// The spare machines that a member was added for, and nobody knows, and the membership with them. Whoever tells of it may lag
    /// behind, and name the member that a machine had before: that one is not meant.
    pub fn awaited(&self) -> Vec<(Arc<MemberMachine>, Vec<Vec<String>>)> {
        let Some(view) = self.newest_view() else { return Vec::new() };
        let members: Vec<_> = view.members().iter().map(|member| member.peer_urls.clone()).collect();
        let is_awaited = |machine: &&Arc<MemberMachine>| {
            let last = machine.last_member();
            let added = view.members().iter().find(|member| member.peer_urls.contains(&machine.peer_url));
            machine.is_spare() && added.is_some_and(|added| Some(added.id) != last)
        };
        self.machines.iter().filter(is_awaited).map(|machine| (Arc::clone(machine), members.clone())).collect()
    }

    /// Takes a spare machine into use for a member that was added: with an empty disk, and started. `members` is the membership
    /// with it: the peer URLs of each.
    pub fn enlist(self: &Arc<Self>, machine: &Arc<MemberMachine>, members: Vec<Vec<String>>) {
        self.assign(machine, members);
        self.start(machine);
    }

    /// The same, not started.
    pub fn assign(&self, machine: &MemberMachine, members: Vec<Vec<String>>) {
        assert!(machine.is_among(&members), "{} joins a cluster that it was added to", machine.name);
        self.wipe(machine, Death::Kill);
        lock(&machine.state).role = Role::Joiner(members);
        self.world.tell(format!("{} is to join", machine.name));
    }

    /// Ends `machine`'s process and gives it an empty disk.
    pub fn wipe(&self, machine: &MemberMachine, death: Death) {
        self.kill(machine, death);
        machine.disk.replace();
    }

    /// The member of `machine` was removed. Its process, if there is one, finds out by itself.
    pub fn retire(&self, machine: &MemberMachine) {
        lock(&machine.state).role = Role::Spare;
        self.world.tell(format!("{} is no member any more", machine.name));
    }

    /// With what `machine`'s member is started now. Who joins is told the membership of the moment, as an operator would; while
    /// nobody runs who knows it, what its addition was answered with.
    fn settings(&self, machine: &MemberMachine, flags: &[Setting]) -> MemberConfig {
        let mut settings = machine.limits.settings.clone();
        let role = lock(&machine.state).role.clone();
        if let Role::Joiner(told) = role {
            settings.initial_cluster_state = ClusterState::Existing;
            let members = self.newest_membership().filter(|members| machine.is_among(members)).unwrap_or(told);
            let name = |urls: &[String]| {
                let machine = self.machines.iter().find(|machine| urls.contains(&machine.peer_url));
                machine.map_or_else(|| "unknown".to_owned(), |machine| machine.name.clone())
            };
            settings.initial_cluster = members.into_iter().map(|urls| (name(&urls), urls)).collect();
        }
        flags.iter().for_each(|flag| flag.apply(&mut settings));
        settings
    }

    /// Starts `machine`'s member unless it runs, or is spare. False if it does not have to.
    pub fn start(self: &Arc<Self>, machine: &Arc<MemberMachine>) -> bool {
        !machine.is_spare() && self.start_with(machine, Vec::new(), false)
    }

    /// Starts `machine`'s member unless it runs, also one that was removed, with these settings beside its own. If it `may_refuse`,
    /// it is no complaint when it does: see [`MemberMachine::last_words`].
    pub fn start_with(self: &Arc<Self>, machine: &Arc<MemberMachine>, flags: Vec<Setting>, may_refuse: bool) -> bool {
        let mut state = lock(&machine.state);
        if state.process.is_some() {
            return false;
        }
        state.starts += 1;
        state.last_words = None;
        let forces = flags.iter().any(|flag| flag.name == FORCE_NEW_CLUSTER);
        if forces {
            state.forced = Forced::Asked;
        }
        let number = state.starts;
        let with: String = flags.iter().map(|flag| format!(" --{}={}", flag.name, flag.value)).collect();
        self.world.tell(format!("{} starts{with} (process {number})", machine.name));
        self.world.trace.note(Event::Fault, &[machine.machine, number], b"start");
        self.world.net.power_returned(machine.machine);
        let node = self.world.new_node(&format!("{}.{number}", machine.name));
        let errors_before = machine.disk.counters().errors;
        let runtime: Rt = Arc::new(SimRuntime {
            machine: machine.machine,
            node: node.clone(),
            clock: Arc::clone(&machine.clock),
            disk: machine.disk.begin_process(),
            net: Arc::clone(&self.world.net),
            wakes: Arc::clone(&self.world.wakes),
            dice: Arc::new(Mutex::new(self.world.dice(&format!("{} process {number}", machine.name)))),
            trace: self.world.trace.clone(),
            reactors: machine.limits.reactors,
            busy_percent: machine.limits.busy_percent,
        });
        runtime.spawn(Box::pin(live(Arc::clone(self), Arc::clone(machine), Rt::clone(&runtime), number, flags)));
        state.process = Some(Process {
            number,
            node,
            member: None,
            shutdown: None,
            server: None,
            paused_since: None,
            errors_before,
            may_refuse,
            forces,
            exited: false,
        });
        true
    }

    /// Ends `machine`'s process, if there is one. False if there was none.
    ///
    /// A machine whose disk has failed to sync also loses its power: as on Linux, its cache may show clean pages that are not on
    /// the medium, and a new process could not tell. An operator reboots it.
    pub fn kill(&self, machine: &MemberMachine, death: Death) -> bool {
        let Some(process) = lock(&machine.state).process.take() else { return false };
        let death = if machine.disk.has_failed_to_sync() { Death::PowerFailure } else { death };
        // A paused process stood still since then: none of its later calls happened.
        let at = process.paused_since.unwrap_or_else(clock::now);
        // First the disk and the network, so that nothing that a task's drop does gets through; then the tasks.
        machine.disk.end_process(death, at);
        match death {
            Death::Exit | Death::Kill => self.world.net.process_died(machine.machine),
            Death::PowerFailure => self.world.net.power_failed(machine.machine),
        }
        let handle = Handle::current();
        if process.paused_since.is_some() {
            // Tasks that were set aside would be dropped inside the executor's lock.
            handle.resume(process.node.id());
        }
        handle.kill(process.node.id());
        self.world.tell(format!("{} dies: {death:?}", machine.name));
        self.world.trace.note(Event::Fault, &[machine.machine, process.number], b"kill");
        if death != Death::Exit {
            lock(&self.crashes).push(clock::now());
        }
        true
    }

    /// Asks `machine`'s member to stop, and waits until it has, or gives up and kills it. False if it had to be killed.
    pub async fn stop(&self, machine: &MemberMachine) -> bool {
        let (member, shutdown) = match &mut lock(&machine.state).process {
            Some(process) => (process.member.clone(), process.shutdown.take()),
            None => return true,
        };
        let Some(member) = member else {
            self.kill(machine, Death::Kill);
            return false;
        };
        if let Some(shutdown) = shutdown {
            shutdown.send_replace(true);
        }
        member.stop();
        let limit = Duration::from_secs(30);
        let stopped = quorate_runtime::select! {
            biased;
            _ = member.stopped() => true,
            () = clock::sleep(limit) => false,
        };
        if !stopped {
            self.complain(format!("{} does not stop within {limit:?} of being asked", machine.name));
        }
        drop(member);
        self.kill(machine, if stopped { Death::Exit } else { Death::Kill });
        stopped
    }

    /// Stops `machine`'s process where it stands (SIGSTOP). False if none runs.
    pub fn pause(&self, machine: &MemberMachine) -> bool {
        let mut state = lock(&machine.state);
        let running = state.process.as_mut().filter(|process| process.paused_since.is_none());
        let Some(process) = running else { return false };
        process.paused_since = Some(clock::now());
        Handle::current().pause(process.node.id());
        self.world.tell(format!("{} is paused", machine.name));
        true
    }

    /// Lets it go on (SIGCONT). False if it was not paused.
    pub fn resume(&self, machine: &MemberMachine) -> bool {
        let mut state = lock(&machine.state);
        let Some(process) = state.process.as_mut().filter(|process| process.paused_since.is_some()) else {
            return false;
        };
        process.paused_since = None;
        Handle::current().resume(process.node.id());
        self.world.tell(format!("{} goes on", machine.name));
        true
    }

    /// Notes that a member did what it must not.
    pub fn complain(&self, complaint: String) {
        self.world.tell(format!("COMPLAINT: {complaint}"));
        lock(&self.complaints).push(complaint);
    }

    /// Every complaint so far.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }

    /// When members were killed.
    pub fn crashes(&self) -> Vec<SimTime> {
        lock(&self.crashes).clone()
    }

    /// A process ended by itself. If the simulator had failed its disk, it is started again after a pause; else it is a
    /// complaint, and the member stays down: the run has found what it was for.
    async fn exited(self: &Arc<Self>, machine: &Arc<MemberMachine>, number: u64, how: String) {
        let excused = machine.is_excused() || machine.is_spare();
        if !excused && !machine.may_refuse() && !machine.is_halfway() {
            self.complain(format!("{} {how}", machine.name));
        }
        self.ended(machine, number, &how, excused).await;
    }

    /// A process ended by itself; if that is `excused` it is started again after a pause.
    async fn ended(self: &Arc<Self>, machine: &Arc<MemberMachine>, number: u64, how: &str, excused: bool) {
        self.world.tell(format!("{} {how}", machine.name));
        {
            let mut state = lock(&machine.state);
            if let Some(process) = state.process.as_mut().filter(|process| process.number == number) {
                process.exited = true;
                state.last_words = Some(how.to_owned());
            }
        }
        // Whoever lit the fuse kills and starts.
        if !excused || machine.disk.is_fuse_blown() {
            return;
        }
        let (cluster, machine) = (Arc::clone(self), Arc::clone(machine));
        self.world.new_node("supervisor").spawn(async move {
            clock::sleep(SUPERVISOR_PAUSE).await;
            let still_exited =
                lock(&machine.state).process.as_ref().is_some_and(|process| process.number == number && process.exited);
            if still_exited {
                cluster.kill(&machine, Death::Exit);
                cluster.start(&machine);
            }
        });
    }
}

/// The life of one member process.
async fn live(cluster: Arc<Cluster>, machine: Arc<MemberMachine>, rt: Rt, number: u64, flags: Vec<Setting>) {
    let settings = cluster.settings(&machine, &flags);
    let frames = (machine.depth() == Depth::Core).then(|| FrameNet::open(&cluster.world.net, machine.machine));
    let carrier = frames.clone().map(|frames| frames as Arc<dyn Carrier>);
    let member = match Member::start_with_carrier(Rt::clone(&rt), settings, carrier).await {
        Ok(member) => member,
        // It was killed before it had heard of it.
        Err(error @ StartError::Removed { .. }) => {
            return cluster.ended(&machine, number, &format!("cannot start: {error}"), false).await;
        }
        // Who joins must be told by somebody who the members are, and of what version; if nobody was there just now, its supervisor
        // tries again, as with etcd. Nor need what it was told still be so: a removal that nobody had an answer to may have come in
        // between, and the next start is told of it. In the end it must get in all the same: the operator waits until every member
        // that was added serves.
        Err(error @ (StartError::NoClusterInfo(_) | StartError::Incompatible | StartError::MembersDiffer { .. })) => {
            return cluster.ended(&machine, number, &format!("cannot start: {error}"), true).await;
        }
        Err(error) => return cluster.exited(&machine, number, format!("cannot start: {error}")).await,
    };
    let (shutdown, asked) = watch::channel(false);
    {
        let mut state = lock(&machine.state);
        state.last_member = Some(member.id());
        if let Some(process) = &mut state.process {
            process.member = Some(member.clone());
            process.shutdown = Some(shutdown);
        }
    }
    if let Some(frames) = frames {
        rt.spawn(Box::pin(frames.deliver_to(Arc::clone(member.transport()))));
    }
    let handlers = Api::new(Rt::clone(&rt), member.clone(), quorate_api::ApiOptions::default());
    let api = quorate_api::ApiService::new(Arc::clone(&handlers));
    match rt.listen(Address::Tcp(machine.peer_address), ListenOptions::default()).await {
        Ok(listener) => {
            let peers = quorate_api::PeerPort::new(api.clone(), member.clone());
            let (grace, limits) = (quorate_api::ServerOptions::default().grace, member.config().peer_limits);
            rt.spawn(Box::pin(quorate_api::serve_peers(Rt::clone(&rt), listener, peers, asked.clone(), grace, limits)));
        }
        Err(error) => {
            member.stop();
            return cluster.exited(&machine, number, format!("cannot listen for peers: {error}")).await;
        }
    }
    member.ready().await;
    machine.on_ready(&member);
    match rt.listen(Address::Tcp(machine.address), ListenOptions::default()).await {
        Ok(listener) => {
            rt.spawn(Box::pin(quorate_api::serve(Rt::clone(&rt), listener, api, asked)));
            if let Some(process) = lock(&machine.state).process.as_mut() {
                process.server = Some(Server { rt: Rt::clone(&rt), api: handlers, process: number });
            }
        }
        Err(error) => {
            member.stop();
            return cluster.exited(&machine, number, format!("cannot listen: {error}")).await;
        }
    }
    match member.stopped().await {
        StopReason::Failed(reason) => cluster.exited(&machine, number, format!("stopped by itself: {reason}")).await,
        StopReason::Removed => cluster.ended(&machine, number, "stopped: it was removed from the cluster", false).await,
        StopReason::Asked => {}
    }
}

impl MemberMachine {
    /// Where its clients connect.
    pub fn client_address(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// Its member, once that has started.
    pub fn member(&self) -> Option<Member> {
        lock(&self.state).process.as_ref().and_then(|process| process.member.clone())
    }

    /// Its member can be asked from now on.
    fn on_ready(&self, member: &Member) {
        let (mut state, view) = (lock(&self.state), member.view());
        if state.forced == Forced::Asked {
            state.forced = Forced::Done(DeclaredLoss { at: clock::now(), revision: view.revision().0 });
        }
    }

    /// What its member began with when it was last forced to be a cluster of its own; nothing before it is ready.
    pub fn kept_when_forced(&self) -> Option<DeclaredLoss> {
        match lock(&self.state).forced {
            Forced::Done(kept) => Some(kept),
            Forced::No | Forced::Asked => None,
        }
    }

    /// How much of its surroundings is real.
    pub fn depth(&self) -> Depth {
        self.limits.depth
    }

    /// Who serves clients here, if anybody does.
    pub fn server(&self) -> Option<Server> {
        lock(&self.state).process.as_ref().filter(|process| !process.exited).and_then(|process| process.server.clone())
    }

    /// True if one of `members`, which are given by their peer URLs, is its.
    pub fn is_among(&self, members: &[Vec<String>]) -> bool {
        members.iter().any(|urls| urls.contains(&self.peer_url))
    }

    /// True if no member is meant to run here now.
    pub fn is_spare(&self) -> bool {
        lock(&self.state).role == Role::Spare
    }

    /// True if a process exists (it may be starting, or paused).
    pub fn is_running(&self) -> bool {
        lock(&self.state).process.is_some()
    }

    /// True if the running process was failed by its disk, so that it may refuse or stop.
    pub fn is_excused(&self) -> bool {
        let errors = self.disk.counters().errors;
        let failed = lock(&self.state).process.as_ref().is_some_and(|process| errors > process.errors_before);
        failed || self.disk.is_fuse_blown()
    }

    /// What its process said when it ended by itself, if it has.
    pub fn last_words(&self) -> Option<String> {
        lock(&self.state).last_words.clone()
    }

    fn may_refuse(&self) -> bool {
        lock(&self.state).process.as_ref().is_some_and(|process| process.may_refuse)
    }

    /// Its process was started without `--force-new-cluster` after a start with it that was cut off: it is refused until that
    /// was made again.
    fn is_halfway(&self) -> bool {
        let state = lock(&self.state);
        state.forced == Forced::Asked && state.process.as_ref().is_some_and(|process| !process.forces)
    }

    /// How long its member waits until what was proposed is applied, by its own clock.
    pub fn request_timeout(&self) -> Duration {
        self.limits.settings.request_timeout()
    }

    /// Where its member keeps its log.
    pub fn wal_path(&self) -> std::path::PathBuf {
        self.limits.settings.wal_path()
    }

    /// The last member that was started here.
    pub fn last_member(&self) -> Option<MemberId> {
        lock(&self.state).last_member
    }

    /// How often its member was started.
    pub fn starts(&self) -> u64 {
        lock(&self.state).starts
    }
}

/// A machine for client number `client`, and the runtime of its one process, which lives as long as the run.
pub fn client_runtime(world: &Arc<World>, client: u64) -> Rt {
    let machine = client_machine(client);
    let name = machine_name(machine);
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 1, client as u8));
    world.net.add_machine(machine, &name, address);
    let disk = SimDisk::new(machine, world.dice(&format!("disk of {name}")), world.trace.clone());
    Arc::new(SimRuntime {
        machine,
        node: world.new_node(&name),
        clock: Arc::new(MachineClock::new(Duration::from_secs(1))),
        disk: disk.begin_process(),
        net: Arc::clone(&world.net),
        wakes: Arc::clone(&world.wakes),
        dice: Arc::new(Mutex::new(world.dice(&name))),
        trace: world.trace.clone(),
        reactors: 1,
        busy_percent: 0,
    })
}

/// Machines from this number on are clients'.
const FIRST_CLIENT: MachineId = 100;

/// The machine number of client `client`.
pub fn client_machine(client: u64) -> MachineId {
    FIRST_CLIENT + client
}

/// What a machine is called: `m1`, `c0`.
pub fn machine_name(machine: MachineId) -> String {
    match machine.checked_sub(FIRST_CLIENT) {
        Some(client) => format!("c{client}"),
        None => format!("m{machine}"),
    }
}

/// The number of the machine that is called so.
pub fn machine_number(name: &str) -> Option<MachineId> {
    let (first, number) = name.split_at_checked(1)?;
    let number: MachineId = number.parse().ok().filter(|_| !number.starts_with('+'))?;
    match first {
        "m" if (1..FIRST_CLIENT).contains(&number) => Some(number),
        "c" if number < FIRST_CLIENT => Some(FIRST_CLIENT + number),
        _ => None,
    }
}
