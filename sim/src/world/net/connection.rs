//! One connection: two pipes of segments, and the stream that each process holds.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use quorate_runtime::io::{AsyncRead, AsyncWrite, ReadBuf};
use quorate_runtime::net::Address;

use crate::world::clock::{self, SimTime};
use crate::world::lock;
use crate::world::net::{MachineId, SimNet, State};
use crate::world::trace::Event;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that connected.
    Opener = 0,
    /// The one that listened.
    Accepter = 1,
}

impl End {
    /// The opposite end.
    pub fn other(self) -> End {
        match self {
            End::Opener => End::Accepter,
            End::Accepter => End::Opener,
        }
    }
}

/// A connection, from its first segment until both ends are gone.
pub struct Connection {
    machines: [MachineId; 2],
    opener_address: Address,
    /// `pipes[end]` carries bytes *to* that end.
    pipes: [Pipe; 2],
    ends: [EndState; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndState {
    /// A process holds a stream.
    Open,
    /// The stream was dropped, or its process died on a living machine: segments are answered with a reset.
    Closed,
    /// The machine lost power: segments are not answered.
    Silent,
}

/// What travels to one end.
#[derive(Default)]
struct Pipe {
    segments: VecDeque<Segment>,
    bytes_under_way: usize,
    last_arrival: SimTime,
    /// When the end of the stream arrives.
    ends: Option<SimTime>,
    /// When a reset arrives.
    breaks: Option<SimTime>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    alarm: Arc<PipeAlarm>,
    /// When the alarm will ring, if that is still to come.
    rings: SimTime,
}

struct Segment {
    /// `NEVER` while the link is cut.
    arrives: SimTime,
    bytes: Vec<u8>,
    read: usize,
}

/// Wakes the reader that waits now.
#[derive(Default)]
struct PipeAlarm {
    reader: Mutex<Option<Waker>>,
}

impl Wake for PipeAlarm {
    fn wake(self: Arc<Self>) {
        let reader = lock(&self.reader).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Pipe {
    /// Asks for a wake-up of the waiting reader when the next thing arrives.
    fn arm(&mut self) {
        let next = [self.segments.front().map(|segment| segment.arrives), self.ends, self.breaks];
        let next = next.into_iter().flatten().min().unwrap_or(SimTime::NEVER);
        let Some(reader) = &self.reader else { return };
        if next <= clock::now() {
            reader.wake_by_ref();
            self.reader = None;
        } else if next < SimTime::NEVER {
            *lock(&self.alarm.reader) = Some(reader.clone());
            // One that rings too early only makes the reader ask again; one for each poll would be many.
            if self.rings <= clock::now() || self.rings > next {
                self.rings = next;
                clock::wake_at(next, &Waker::from(Arc::clone(&self.alarm)));
            }
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn is_broken(&self) -> bool {
        self.breaks.is_some_and(|at| at <= clock::now())
    }
}

impl Connection {
    pub(super) fn new(opener: MachineId, accepter: MachineId, opener_address: Address) -> Self {
        Self {
            machines: [opener, accepter],
            opener_address,
            pipes: [Pipe::default(), Pipe::default()],
            ends: [EndState::Open; 2],
        }
    }

    pub(super) fn opener_address(&self) -> &Address {
        &self.opener_address
    }

    pub(super) fn touches(&self, machine: MachineId) -> bool {
        self.machines.contains(&machine)
    }

    pub(super) fn is_open(&self) -> bool {
        self.ends == [EndState::Open; 2]
    }

    pub(super) fn is_finished(&self) -> bool {
        !self.ends.contains(&EndState::Open)
    }

    /// The open ends that lie on `machine`.
    pub(super) fn ends_on(&self, machine: MachineId) -> Vec<End> {
        let ends = [End::Opener, End::Accepter];
        ends.into_iter().filter(|&end| self.machines[end as usize] == machine).collect()
    }

    /// The end on `to`, if the other one is on `from`.
    pub(super) fn end_towards(&self, from: MachineId, to: MachineId) -> Option<End> {
        let ends = [End::Opener, End::Accepter];
        ends.into_iter().find(|&end| self.machines[end as usize] == to && self.machines[end.other() as usize] == from)
    }

    /// The link towards `end` works again: what waited arrives from `from_time` on.
    pub(super) fn resume(&mut self, end: End, from_time: SimTime) {
        let pipe = &mut self.pipes[end as usize];
        for segment in &mut pipe.segments {
            if segment.arrives == SimTime::NEVER {
                segment.arrives = from_time;
                pipe.last_arrival = from_time;
            }
        }
        for event in [&mut pipe.ends, &mut pipe.breaks].into_iter().flatten() {
            *event = (*event).min(from_time);
        }
        pipe.arm();
    }

    /// Breaks both directions.
    pub(super) fn reset(&mut self, at: SimTime) {
        self.reset_end(End::Opener, at);
        self.reset_end(End::Accepter, at);
    }

    /// `end` gets a reset at `at`.
    pub(super) fn reset_end(&mut self, end: End, at: SimTime) {
        let pipe = &mut self.pipes[end as usize];
        pipe.breaks = Some(pipe.breaks.map_or(at, |earlier| earlier.min(at)));
        pipe.arm();
        // Its writer waits on the other pipe.
        self.pipes[end.other() as usize].wake_writer();
    }

    /// The process that held `end` is gone. `news` is when and how abruptly the peer hears of it; `None`: not at all.
    pub(super) fn owner_died(&mut self, end: End, news: Option<(SimTime, bool)>) {
        if self.ends[end as usize] != EndState::Open {
            return;
        }
        self.pipes[end as usize].reader = None;
        self.pipes[end.other() as usize].writer = None;
        match news {
            None => self.ends[end as usize] = EndState::Silent,
            Some((arrives, abruptly)) => {
                self.ends[end as usize] = EndState::Closed;
                if abruptly {
                    self.reset_end(end.other(), arrives);
                } else {
                    self.end_stream_to(end.other(), arrives);
                }
            }
        }
    }

    /// The machine of `end` lost power, and the other end has not heard of it.
    pub(super) fn is_silent(&self, end: End) -> bool {
        self.ends[end as usize] == EndState::Silent
    }

    /// True if bytes were sent to the dead `end` that nobody took.
    pub(super) fn has_unheard_bytes(&self, end: End) -> bool {
        self.is_silent(end) && !self.pipes[end as usize].segments.is_empty()
    }

    fn end_stream_to(&mut self, end: End, arrives: SimTime) {
        let pipe = &mut self.pipes[end as usize];
        if pipe.ends.is_none() {
            pipe.ends = Some(arrives.max(pipe.last_arrival));
            pipe.arm();
        }
    }
}

impl State {
    /// When something that is sent now to `end` of connection `id` arrives; also rolls for loss and reset.
    fn arrival(&mut self, id: u64, end: End) -> SimTime {
        let connection = &self.connections[&id];
        let (from, to) = (connection.machines[end.other() as usize], connection.machines[end as usize]);
        if self.cut.contains_key(&(from, to)) {
            return SimTime::NEVER;
        }
        let last = connection.pipes[end as usize].last_arrival;
        let travel_ns = self.travel_ns();
        clock::now().plus_nanos(travel_ns).max(last)
    }

    /// Fewer bytes than offered, sometimes.
    fn portion(&mut self, offered: usize) -> usize {
        if offered > 1 && self.dice.percent(self.knobs.partial_percent) {
            self.dice.between(1, offered as u64) as usize
        } else {
            offered
        }
    }
}

/// One end of a connection, held by a process.
pub struct SimStream {
    net: Arc<SimNet>,
    id: u64,
    end: End,
}

impl SimStream {
    pub(super) fn new(net: Arc<SimNet>, id: u64, end: End) -> Self {
        Self { net, id, end }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut guard = self.net.state();
        let state = &mut *guard;
        let take_at_most = state.portion(buffer.remaining());
        let Some(connection) = state.connections.get_mut(&self.id) else { return Poll::Ready(Err(broken())) };
        let pipe = &mut connection.pipes[self.end as usize];
        if pipe.is_broken() {
            return Poll::Ready(Err(broken()));
        }
        match pipe.segments.front_mut() {
            Some(segment) if segment.arrives <= clock::now() => {
                let take = take_at_most.min(segment.bytes.len() - segment.read);
                let bytes = &segment.bytes[segment.read..segment.read + take];
                buffer.put_slice(bytes);
                state.trace.note(Event::Delivery, &[self.id, self.end as u64], bytes);
                state.counters.deliveries += 1;
                state.counters.bytes += take as u64;
                segment.read += take;
                if segment.read == segment.bytes.len() {
                    pipe.segments.pop_front();
                }
                pipe.bytes_under_way -= take;
                pipe.wake_writer();
                Poll::Ready(Ok(()))
            }
            None if pipe.ends.is_some_and(|at| at <= clock::now()) => Poll::Ready(Ok(())),
            _ => {
                pipe.reader = Some(context.waker().clone());
                pipe.arm();
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut guard = self.net.state();
        let state = &mut *guard;
        let (towards, window_bytes) = (self.end.other(), state.knobs.window_bytes);
        let Some(connection) = state.connections.get_mut(&self.id) else { return Poll::Ready(Err(broken())) };
        if connection.pipes[self.end as usize].is_broken() {
            return Poll::Ready(Err(broken()));
        }
        let pipe = &mut connection.pipes[towards as usize];
        if pipe.ends.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.bytes_under_way >= window_bytes {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let room = window_bytes - pipe.bytes_under_way;
        let take = state.portion(data.len().min(room));
        if state.dice.per_million(state.knobs.reset_per_million) {
            state.counters.resets += 1;
            state.trace.note(Event::Connection, &[self.id], b"reset");
            state.connections.get_mut(&self.id).expect("found above").reset(clock::now());
            return Poll::Ready(Err(broken()));
        }
        let arrives = state.arrival(self.id, towards);
        let connection = state.connections.get_mut(&self.id).expect("found above");
        if connection.ends[towards as usize] == EndState::Closed {
            // Nobody is there to read: the answer is a reset, one latency after the arrival.
            if arrives < SimTime::NEVER {
                let answered = arrives.plus_nanos(state.knobs.latency.base_ns);
                connection.reset_end(self.end, answered);
            }
            return Poll::Ready(Ok(take));
        }
        let pipe = &mut connection.pipes[towards as usize];
        if arrives < SimTime::NEVER {
            pipe.last_arrival = arrives;
        }
        pipe.bytes_under_way += take;
        pipe.segments.push_back(Segment { arrives, bytes: data[..take].to_vec(), read: 0 });
        let is_silent = connection.ends[towards as usize] == EndState::Silent;
        if is_silent && state.machines[&connection.machines[towards as usize]].powered {
            // The machine is back and does not know this connection.
            let answered = arrives.plus_nanos(state.knobs.latency.base_ns);
            connection.reset_end(self.end, answered);
        } else if !is_silent {
            connection.pipes[towards as usize].arm();
        }
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.state();
        if state.connections.contains_key(&self.id) {
            let towards = self.end.other();
            let arrives = state.arrival(self.id, towards);
            let connection = state.connections.get_mut(&self.id).expect("just found");
            connection.end_stream_to(towards, arrives);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.net.state();
        let Some(connection) = state.connections.get(&self.id) else { return };
        if connection.ends[self.end as usize] != EndState::Open {
            // The process is dead; its machine has said what there is to say.
            return;
        }
        let unread = !connection.pipes[self.end as usize].segments.is_empty();
        let arrives = state.arrival(self.id, self.end.other());
        let connection = state.connections.get_mut(&self.id).expect("just found");
        connection.ends[self.end as usize] = EndState::Closed;
        if unread {
            connection.reset_end(self.end.other(), arrives);
        } else {
            connection.end_stream_to(self.end.other(), arrives);
        }
        if connection.is_finished() {
            state.connections.remove(&self.id);
        }
    }
}
