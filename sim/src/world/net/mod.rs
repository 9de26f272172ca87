//! The simulated network: byte streams between machines, in memory.
//!
//! A connection is two directed pipes of bytes ([`connection`]). What a writer gives to a pipe travels in segments, each with a
//! drawn arrival time, in order. Between two machines lies a *link* for each direction, which can be cut: segments then wait,
//! as TCP's retransmissions would, until the link heals. So a partition may be one-way, and a short one only delays.
//!
//! Loss shows as delay (a retransmission) or as a reset, never as missing bytes. A process that dies closes its connections (the
//! peer sees an end or a reset after the latency); a machine that loses power says nothing: its peers are left half-open until
//! it is back and answers one of their segments, or TCP's own keepalive, with a reset. Writes and reads may take fewer bytes than offered.

pub mod connection;
pub mod frames;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use quorate_runtime::BoxFuture;
use quorate_runtime::net::{Address, BoxStream, Incoming, ListenOptions, Listener};
use quorate_runtime::sync::Notify;

use crate::world::clock::{self, SimTime};
use crate::world::dice::{Dice, Latency};
use crate::world::lock;
use crate::world::net::connection::{Connection, End, SimStream};
use crate::world::trace::{Event, Trace};

/// A machine, by number.
pub type MachineId = u64;

/// How the network behaves; may be changed at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetKnobs {
    /// How long a segment travels between two machines.
    pub latency: Latency,
    /// So many of a million segments are lost and sent again.
    pub loss_per_million: u64,
    /// So many of a million segments break their connection.
    pub reset_per_million: u64,
    /// So many percent of reads and writes take fewer bytes than offered.
    pub partial_percent: u64,
    /// Bytes under way in one pipe before its writer must wait.
    pub window_bytes: usize,
}

impl Default for NetKnobs {
    fn default() -> Self {
        Self {
            latency: Latency { base_ns: 50_000, spread_ns: 150_000, tail_per_million: 5000, tail_ns: 20_000_000 },
            loss_per_million: 0,
            reset_per_million: 0,
            partial_percent: 2,
            window_bytes: 256 * 1024,
        }
    }
}

/// What happened, for the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections made.
    pub connections: u64,
    /// Reads that returned bytes.
    pub deliveries: u64,
    /// Bytes that readers got.
    pub bytes: u64,
    /// Segments that were lost and sent again.
    pub retransmissions: u64,
    /// Connections broken by the dice or on request.
    pub resets: u64,
}

/// The network that all machines share.
pub struct SimNet {
    state: Mutex<State>,
    /// Some link works again.
    mended: Notify,
}

struct State {
    knobs: NetKnobs,
    dice: Dice,
    trace: Trace,
    counters: NetCounters,
    machines: BTreeMap<MachineId, Machine>,
    names: BTreeMap<String, IpAddr>,
    /// Directed links that carry nothing now.
    cut: BTreeMap<(MachineId, MachineId), SimTime>,
    listeners: BTreeMap<ListenKey, Backlog>,
    connections: BTreeMap<u64, Connection>,
    frames: frames::Frames,
    next_connection: u64,
    next_listener: u64,
}

struct Machine {
    address: IpAddr,
    powered: bool,
    next_port: u16,
}

/// Unix sockets are known to their own machine only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ListenKey {
    Tcp(SocketAddr),
    Unix(MachineId, std::path::PathBuf),
}

struct Backlog {
    /// Tells a listener from its predecessor at the same address, whose drop must free nothing.
    listener: u64,
    machine: MachineId,
    arrived: VecDeque<u64>,
    waiter: Option<Waker>,
}

/// How long a connect tries before it gives up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The first retransmission; each further one takes twice as long.
const RETRANSMIT_NS: u64 = 200_000_000;

/// How often the kernel asks whether the other end of a silent connection is still there; the production runtime sets it.
const KEEPALIVE_NS: u64 = 30_000_000_000;

impl SimNet {
    /// A network without machines.
    pub fn new(dice: Dice, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                knobs: NetKnobs::default(),
                dice,
                trace,
                counters: NetCounters::default(),
                machines: BTreeMap::new(),
                names: BTreeMap::new(),
                cut: BTreeMap::new(),
                listeners: BTreeMap::new(),
                connections: BTreeMap::new(),
                frames: frames::Frames::default(),
                next_connection: 1,
                next_listener: 1,
            }),
            mended: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Plugs a machine in.
    pub fn add_machine(&self, machine: MachineId, name: &str, address: IpAddr) {
        let mut state = self.state();
        let old = state.machines.insert(machine, Machine { address, powered: true, next_port: 32_768 });
        assert!(old.is_none(), "machine {machine} is plugged in already");
        state.names.insert(name.to_owned(), address);
    }

    /// Changes the knobs.
    pub fn tune(&self, change: impl FnOnce(&mut NetKnobs)) {
        change(&mut self.state().knobs);
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.state().counters
    }

    /// Cuts the link from one machine to another, in this direction only.
    pub fn cut(&self, from: MachineId, to: MachineId) {
        let mut state = self.state();
        state.cut.entry((from, to)).or_insert_with(clock::now);
        state.trace.note(Event::Fault, &[from, to], b"cut");
    }

    /// Mends the link in this direction; what waited is sent again.
    pub fn mend(&self, from: MachineId, to: MachineId) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(since) = state.cut.remove(&(from, to)) else { return };
        state.trace.note(Event::Fault, &[from, to], b"mend");
        // The longer the cut, the longer the sender's timer has become.
        let pause_ns = (clock::now().since(since).as_nanos() as u64).clamp(RETRANSMIT_NS, 5_000_000_000);
        for connection in state.connections.values_mut() {
            if let Some(end) = connection.end_towards(from, to) {
                let resume = clock::now().plus_nanos(state.dice.below(pause_ns));
                connection.resume(end, resume);
            }
        }
        let resume = clock::now().plus_nanos(state.dice.below(pause_ns));
        state.release_frames(from, to, resume);
        self.mended.notify_waiters();
    }

    /// Mends every link.
    pub fn mend_all(&self) {
        let cut: Vec<_> = self.state().cut.keys().copied().collect();
        for (from, to) in cut {
            self.mend(from, to);
        }
    }

    /// Breaks a drawn connection of `machine`, in the middle of whatever it carries. False if it has none.
    pub fn reset_one(&self, machine: MachineId) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let open: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, connection)| connection.touches(machine) && connection.is_open())
            .map(|(&id, _)| id)
            .collect();
        if open.is_empty() {
            return false;
        }
        let id = *state.dice.pick(&open);
        state.counters.resets += 1;
        state.trace.note(Event::Connection, &[id], b"reset");
        state.connections.get_mut(&id).expect("it is in the list").reset(clock::now());
        true
    }

    /// The process on `machine` died; the machine closes what it had open.
    pub fn process_died(&self, machine: MachineId) {
        let mut state = self.state();
        let state = &mut *state;
        state.listeners.retain(|_, backlog| backlog.machine != machine);
        for (&id, connection) in &mut state.connections {
            for end in connection.ends_on(machine) {
                let arrives = clock::now().plus_nanos(state.knobs.latency.draw(&mut state.dice));
                let abruptly = state.dice.percent(50);
                state.trace.note(Event::Connection, &[id, end as u64, u64::from(abruptly)], b"died");
                connection.owner_died(end, Some((arrives, abruptly)));
            }
        }
        state.close_office(machine);
        state.drop_finished();
    }

    /// `machine` lost power: its peers hear nothing.
    pub fn power_failed(&self, machine: MachineId) {
        let mut state = self.state();
        let state = &mut *state;
        state.machines.get_mut(&machine).expect("a known machine").powered = false;
        state.listeners.retain(|_, backlog| backlog.machine != machine);
        for connection in state.connections.values_mut() {
            for end in connection.ends_on(machine) {
                connection.owner_died(end, None);
            }
        }
        state.close_office(machine);
        state.drop_finished();
    }

    /// `machine` has power again: it answers segments of connections that it does not know with a reset.
    pub fn power_returned(&self, machine: MachineId) {
        let mut state = self.state();
        let state = &mut *state;
        state.machines.get_mut(&machine).expect("a known machine").powered = true;
        for connection in state.connections.values_mut() {
            for end in connection.ends_on(machine) {
                if connection.is_silent(end) {
                    let asks = if connection.has_unheard_bytes(end) { 2 * RETRANSMIT_NS } else { KEEPALIVE_NS };
                    let arrives = clock::now().plus_nanos(state.dice.below(asks));
                    connection.reset_end(end.other(), arrives);
                }
            }
        }
    }

    /// Listens at `address` for a process on `machine`.
    pub fn listen(
        self: &Arc<Self>,
        machine: MachineId,
        address: Address,
        options: ListenOptions,
    ) -> io::Result<Box<dyn Listener>> {
        let mut state = self.state();
        let state = &mut *state;
        let host = state.machines.get_mut(&machine).expect("a known machine");
        let key = match address {
            Address::Unix(path) => ListenKey::Unix(machine, path),
            Address::Tcp(wanted) => {
                if !wanted.ip().is_unspecified() && wanted.ip() != host.address {
                    return Err(io::ErrorKind::AddrNotAvailable.into());
                }
                let mut port = wanted.port();
                if port == 0 {
                    port = host.next_port;
                    host.next_port += 1;
                }
                ListenKey::Tcp(SocketAddr::new(host.address, port))
            }
        };
        if state.listeners.contains_key(&key) {
            let shared = if options.reuse_port { " (one listener an address in the simulator)" } else { "" };
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("address in use{shared}")));
        }
        let listener = state.next_listener;
        state.next_listener += 1;
        state.listeners.insert(key.clone(), Backlog { listener, machine, arrived: VecDeque::new(), waiter: None });
        Ok(Box::new(SimListener { net: Arc::clone(self), key, listener }))
    }

    /// Connects a process on `machine` to `address`.
    pub async fn connect(self: Arc<Self>, machine: MachineId, address: Address) -> io::Result<BoxStream> {
        let key = match address {
            Address::Tcp(address) => ListenKey::Tcp(address),
            Address::Unix(path) => ListenKey::Unix(machine, path),
        };
        let gives_up = clock::now().plus_nanos(CONNECT_TIMEOUT.as_nanos() as u64);
        let mut pause_ns = 1_000_000_000;
        loop {
            let (there, back) = {
                let mut state = self.state();
                (state.latency(), state.latency())
            };
            clock::sleep(there).await;
            let attempt = self.state().try_connect(machine, &key);
            match attempt {
                Attempt::Connected(id) => {
                    // Held over the wait, so that a caller who gives up closes the connection.
                    let stream = SimStream::new(self, id, End::Opener);
                    clock::sleep(back).await;
                    return Ok(Box::new(stream));
                }
                Attempt::Refused => {
                    clock::sleep(back).await;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Attempt::NoAnswer => {
                    let next = clock::now().plus_nanos(pause_ns);
                    if next > gives_up {
                        clock::sleep_until(gives_up).await;
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    clock::sleep_until(next).await;
                    pause_ns *= 2;
                }
            }
        }
    }

    /// The way of one small message between two machines; for ever while the link is cut. False if it gets lost with a
    /// connection that breaks, or meets a machine without power.
    pub async fn travel(&self, from: MachineId, to: MachineId) -> bool {
        loop {
            // Asked for before looking, so that no mending is missed.
            let mended = self.mended.notified();
            if !self.state().cut.contains_key(&(from, to)) {
                break;
            }
            mended.await;
        }
        let (latency, breaks) = {
            let mut state = self.state();
            let state = &mut *state;
            let latency = Duration::from_nanos(state.travel_ns());
            let breaks = state.dice.per_million(state.knobs.reset_per_million);
            state.counters.resets += u64::from(breaks);
            (latency, breaks)
        };
        clock::sleep(latency).await;
        !breaks && self.state().machines[&to].powered
    }

    /// Addresses of a machine's name.
    pub fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let found = self.state().names.get(name).copied();
        found.map(|address| vec![address]).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no machine is called {name:?} in this simulation"))
        })
    }
}

enum Attempt {
    Connected(u64),
    Refused,
    NoAnswer,
}

impl State {
    fn latency(&mut self) -> Duration {
        Duration::from_nanos(self.knobs.latency.draw(&mut self.dice))
    }

    /// How long a segment travels on a link that works, with retransmissions.
    fn travel_ns(&mut self) -> u64 {
        let mut travel_ns = self.knobs.latency.draw(&mut self.dice);
        let mut again_ns = RETRANSMIT_NS;
        while self.dice.per_million(self.knobs.loss_per_million) && again_ns < 20 * RETRANSMIT_NS {
            self.counters.retransmissions += 1;
            travel_ns += again_ns;
            again_ns *= 2;
        }
        travel_ns
    }

    fn try_connect(&mut self, from: MachineId, key: &ListenKey) -> Attempt {
        let target = match key {
            ListenKey::Unix(machine, _) => Some(*machine),
            ListenKey::Tcp(address) => {
                self.machines.iter().find(|(_, machine)| machine.address == address.ip()).map(|(&id, _)| id)
            }
        };
        let Some(to) = target else { return Attempt::NoAnswer };
        let is_cut = self.cut.contains_key(&(from, to)) || self.cut.contains_key(&(to, from));
        if is_cut || !self.machines[&to].powered {
            return Attempt::NoAnswer;
        }
        let opener_address = {
            let opener = self.machines.get_mut(&from).expect("a known machine");
            opener.next_port = opener.next_port.checked_add(1).unwrap_or(32_768);
            SocketAddr::new(opener.address, opener.next_port)
        };
        let Some(backlog) = self.listeners.get_mut(key) else { return Attempt::Refused };
        let id = self.next_connection;
        self.next_connection += 1;
        backlog.arrived.push_back(id);
        if let Some(waiter) = backlog.waiter.take() {
            waiter.wake();
        }
        self.connections.insert(id, Connection::new(from, to, Address::Tcp(opener_address)));
        self.counters.connections += 1;
        self.trace.note(Event::Connection, &[id, from, to], b"open");
        Attempt::Connected(id)
    }

    fn drop_finished(&mut self) {
        self.connections.retain(|_, connection| !connection.is_finished());
    }
}

struct SimListener {
    net: Arc<SimNet>,
    key: ListenKey,
    listener: u64,
}

impl SimListener {
    fn with_backlog<T>(&self, state: &mut State, visit: impl FnOnce(&mut Backlog) -> T) -> Option<T> {
        state.listeners.get_mut(&self.key).filter(|backlog| backlog.listener == self.listener).map(visit)
    }
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(poll_fn(move |context| {
            let mut state = self.net.state();
            let arrived = self.with_backlog(&mut state, |backlog| {
                let arrived = backlog.arrived.pop_front();
                if arrived.is_none() {
                    backlog.waiter = Some(context.waker().clone());
                }
                arrived
            });
            match arrived {
                None => Poll::Ready(Err(io::Error::other("the listener belongs to a dead process"))),
                Some(None) => Poll::Pending,
                Some(Some(id)) => {
                    let peer = state.connections.get(&id).map(|connection| connection.opener_address().clone());
                    // A connection may be gone again before it was accepted.
                    let Some(peer) = peer else { return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())) };
                    let incoming =
                        SimIncoming { stream: SimStream::new(Arc::clone(&self.net), id, End::Accepter), peer };
                    Poll::Ready(Ok(Box::new(incoming) as Box<dyn Incoming>))
                }
            }
        }))
    }

    fn local_address(&self) -> Address {
        match &self.key {
            ListenKey::Tcp(address) => Address::Tcp(*address),
            ListenKey::Unix(_, path) => Address::Unix(path.clone()),
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.net.state();
        let Some(arrived) = self.with_backlog(&mut state, |backlog| std::mem::take(&mut backlog.arrived)) else {
            return;
        };
        state.listeners.remove(&self.key);
        // Connections that nobody accepted are reset.
        for id in arrived {
            if let Some(connection) = state.connections.get_mut(&id) {
                connection.reset(clock::now());
            }
        }
    }
}

struct SimIncoming {
    stream: SimStream,
    peer: Address,
}

impl Incoming for SimIncoming {
    fn peer_address(&self) -> Address {
        self.peer.clone()
    }

    fn into_stream(self: Box<Self>) -> io::Result<BoxStream> {
        Ok(Box::new(self.stream))
    }
}

#[cfg(test)]
mod tests;
