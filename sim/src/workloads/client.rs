//! A client: one gRPC connection at a time to one member, with a timeout on each call, recording everything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_client::{Connection, KeepAliveStream, WatchStream};
use quorate_proto::etcdserverpb as pb;
use quorate_runtime::Rt;
use quorate_runtime::net::Address;
use quorate_types::Error;

use crate::faults::Stage;
use crate::history::election::{ElectionAnswer, ElectionRequest, NO_LEADER, NOT_LEADER};
use crate::history::lease::{LeaseAnswer, LeaseRequest};
use crate::history::lock::{LockAnswer, LockRequest};
use crate::history::{Answer, Outcome, Recorder, Request, Service, Ticket};
use crate::workloads::link::Link;
use crate::world::clock;
use crate::world::cluster::{MemberMachine, client_machine};
use crate::world::dice::Dice;
use crate::world::lock;

/// A member that has so many revisions less than the newest is far behind.
const FAR_BEHIND: i64 = 10;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Mean pause between two calls.
    pub think: Duration,
    /// How long a call may take.
    pub timeout: Duration,
    /// So many keys exist.
    pub keys: u64,
    /// Most bytes of padding in a value.
    pub padding_bytes_max: u64,
}

/// What all clients together have learned; a workload may aim with it.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// Highest revision in any header.
    pub revision: i64,
    /// Highest revision whose compaction was asked for.
    pub compacted: i64,
    /// Values written so far.
    values: u64,
    /// Flips a bit in this one.
    flip_value: Option<u64>,
}

impl Knowledge {
    /// Nothing is known. `flip_value`: flip a bit in the value of this number (from 1).
    pub fn new(flip_value: Option<u64>) -> Self {
        Self { flip_value, ..Self::default() }
    }
}

/// One client.
pub struct Client {
    /// Its number.
    pub number: u64,
    /// Its own dice.
    pub dice: Dice,
    /// The record.
    pub recorder: Recorder,
    /// How it behaves.
    pub options: ClientOptions,
    /// What is known.
    pub knowledge: Arc<Mutex<Knowledge>>,
    stage: Arc<Stage>,
    rt: Rt,
    link: Option<Link>,
    /// What the last stream of watches came over.
    watched: Option<Connection>,
    pinned: Option<Address>,
    marks: u64,
    /// Why the last call was not answered.
    pub last_error: String,
}

impl Client {
    /// Client `number` on the runtime of its machine.
    pub fn new(
        number: u64,
        rt: Rt,
        stage: Arc<Stage>,
        recorder: Recorder,
        knowledge: Arc<Mutex<Knowledge>>,
        options: ClientOptions,
    ) -> Self {
        let dice = stage.world.dice(&format!("client {number}"));
        Self {
            number,
            dice,
            recorder,
            options,
            knowledge,
            stage,
            rt,
            link: None,
            watched: None,
            pinned: None,
            marks: 0,
            last_error: String::new(),
        }
    }

    /// From now on it calls only the member there; any member, if `None`.
    pub fn pin(&mut self, address: Option<Address>) {
        // Who calls the same again keeps what it has, as any client does.
        if self.pinned != address {
            self.link = None;
            self.pinned = address;
        }
    }

    /// False once the stage is over.
    pub fn goes_on(&self) -> bool {
        !self.stage.is_over()
    }

    /// Pauses for about the thinking time, or until the stage is over.
    pub async fn think(&mut self) {
        let mean_ns = self.options.think.as_nanos() as u64;
        let pause = Duration::from_nanos(self.dice.between(mean_ns / 4, mean_ns * 7 / 4));
        self.stage.pause(pause).await;
    }

    /// A key of the shared key space.
    pub fn key(&mut self) -> Bytes {
        key_name(self.dice.below(self.options.keys))
    }

    /// A mark that no other operation has; the beginning of every value of one operation.
    pub fn mark(&mut self) -> String {
        self.marks += 1;
        format!("c{}.{}", self.number, self.marks)
    }

    /// A value that no other put has: the operation's mark, a part number, and some padding.
    pub fn value(&mut self, mark: &str, part: u64) -> Bytes {
        let mut value = format!("{mark}/{part}").into_bytes();
        let mut padding = self.dice.below(64);
        if self.dice.percent(3) {
            padding = self.dice.magnitude(1, self.options.padding_bytes_max);
        }
        value.push(b'/');
        value.resize(value.len() + padding as usize, b'a' + (part % 26) as u8);
        self.count(value)
    }

    /// The same without padding, to be one of many elements of a value.
    pub fn element(&mut self, mark: &str, part: u64) -> Bytes {
        self.count(format!("{mark}/{part}/").into_bytes())
    }

    /// Flips a bit of the value whose turn it is.
    fn count(&self, mut value: Vec<u8>) -> Bytes {
        let mut knowledge = lock(&self.knowledge);
        knowledge.values += 1;
        if knowledge.flip_value == Some(knowledge.values) {
            let last = value.last_mut().expect("it has a mark");
            *last ^= 1;
        }
        value.into()
    }

    /// The highest revision that anyone has seen.
    pub fn newest_revision(&self) -> i64 {
        lock(&self.knowledge).revision
    }

    /// A put of a fresh value.
    pub async fn put(&mut self, key: Bytes) -> Outcome {
        let mark = self.mark();
        let value = self.value(&mark, 0);
        self.call(Request::Put(pb::PutRequest { key, value, ..Default::default() })).await
    }

    /// Compacts. What is about to vanish has to be explained before (see [`super::tap`]).
    pub async fn compact(&mut self, revision: i64, physical: bool) -> Outcome {
        // Before the call: it may be done although nobody says so. A revision that is not there yet is refused.
        if revision <= self.newest_revision() {
            let mut knowledge = lock(&self.knowledge);
            knowledge.compacted = knowledge.compacted.max(revision);
        }
        self.call(Request::Compact(pb::CompactionRequest { revision, physical })).await
    }

    /// A linearizable read of the newest revision of a range.
    pub async fn read(&mut self, key: Bytes, range_end: Bytes) -> Outcome {
        self.call(Request::Range(pb::RangeRequest { key, range_end, ..Default::default() })).await
    }

    /// Calls, and records request and outcome.
    pub async fn call(&mut self, request: Request) -> Outcome {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, request.clone());
        let result = within(self.options.timeout, link.call(request)).await;
        self.finish(ticket, result)
    }

    /// A range through RangeStream, put together again and recorded as a range.
    pub async fn stream(&mut self, range: pb::RangeRequest) -> Outcome {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, Request::Range(range.clone()));
        let result = within(self.options.timeout, link.stream(range)).await;
        self.finish(ticket, result)
    }

    /// A stream of watches to some member; none, if that one does not answer in time.
    pub async fn watch_stream(&mut self, require_leader: bool) -> Option<WatchStream> {
        let link = self.connect().await;
        let opening = async {
            let connection = link.connection(&self.rt).await?;
            let stream = WatchStream::open(&connection, require_leader).await.ok()?;
            Some((connection, stream))
        };
        match within(self.options.timeout, opening).await.flatten() {
            Some((connection, stream)) => {
                self.watched = Some(connection);
                Some(stream)
            }
            None => {
                self.link = None;
                None
            }
        }
    }

    /// Calls the lease service, and records request and outcome.
    pub async fn lease(&mut self, request: LeaseRequest) -> Outcome<LeaseAnswer> {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, request.clone());
        let result = within(self.options.timeout, link.lease(request)).await;
        self.end_call(ticket, result)
    }

    /// Calls the lock service, waits no longer than `patience`, and records request and outcome.
    pub async fn lock(&mut self, request: LockRequest, patience: Duration) -> Outcome<LockAnswer> {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, request.clone());
        let result = within(patience, link.lock(request)).await;
        self.end_call(ticket, result)
    }

    /// Calls the election service, waits no longer than `patience`, and records request and outcome.
    pub async fn elect(&mut self, request: ElectionRequest, patience: Duration) -> Outcome<ElectionAnswer> {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, request.clone());
        let result = within(patience, link.elect(request)).await;
        self.end_call(ticket, result)
    }

    /// Raises, takes back or asks for alarms, and records request and outcome.
    pub async fn alarm(&mut self, request: pb::AlarmRequest) -> Outcome<pb::AlarmResponse> {
        let mut link = self.connect().await;
        let ticket = self.recorder.begin(self.number, request);
        let result = within(self.options.timeout, link.alarm(request)).await;
        self.end_call(ticket, result)
    }

    /// How long a proposal whose outcome is unknown may still be on its way to the log: its member holds it for the time of a
    /// request, and so does a leader that it is passed on to.
    pub fn proposals_live(&self) -> Duration {
        3 * self.stage.cluster.machines[0].request_timeout()
    }

    /// A keep-alive stream to some member; none, if that one does not answer in time.
    pub async fn keep_alive_stream(&mut self) -> Option<KeepAliveStream> {
        let link = self.connect().await;
        let opening = async {
            let connection = link.connection(&self.rt).await?;
            KeepAliveStream::open(&connection).await.ok()
        };
        let stream = within(self.options.timeout, opening).await.flatten();
        if stream.is_none() {
            self.link = None;
        }
        stream
    }

    /// Asks for a renewal on a stream.
    pub fn begin_keep_alive(&mut self, stream: &KeepAliveStream, id: i64) -> Ticket<LeaseRequest> {
        let request = pb::LeaseKeepAliveRequest { id };
        let ticket = self.recorder.begin(self.number, LeaseRequest::KeepAlive(request));
        stream.renew(id);
        ticket
    }

    /// Waits for the next answer on the stream, which is to the earliest renewal that has none. `is_broken`: none will come.
    pub async fn end_keep_alive(
        &mut self,
        stream: &mut KeepAliveStream,
        ticket: Ticket<LeaseRequest>,
        is_broken: bool,
    ) -> Outcome<LeaseAnswer> {
        let result = if is_broken { None } else { within(self.options.timeout, stream.next()).await };
        let ended = || tonic::Status::unavailable("the stream ended without an answer");
        let answer =
            result.map(|answer| answer.and_then(|answer| answer.ok_or_else(ended)).map(LeaseAnswer::KeepAlive));
        self.end_call(ticket, answer)
    }

    /// A connection to some member; none, if that one does not answer in time.
    pub(super) async fn connection(&mut self) -> Option<Connection> {
        let link = self.connect().await;
        let connection = within(self.options.timeout, link.connection(&self.rt)).await.flatten();
        if connection.is_none() {
            self.link = None;
        }
        connection
    }

    /// A connection to a member drawn anew, beside the one that calls take.
    pub(super) async fn connection_to_any(&mut self) -> Option<Connection> {
        let address = self.dice.pick(&self.stage.cluster.members()).client_address();
        self.connection_to(address).await
    }

    /// A connection to the member there, beside the one that calls take.
    pub(super) async fn connection_to(&self, address: Address) -> Option<Connection> {
        within(self.options.timeout, Connection::connect(&self.rt, address)).await?.ok()
    }

    /// Where each member serves.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.stage.cluster.members().iter().map(|machine| machine.client_address()).collect()
    }

    /// Where a member serves that runs and is far behind, as an operator sees on a dashboard.
    pub(super) fn address_of_one_far_behind(&mut self) -> Option<Address> {
        let mut behind = self.addresses_far_behind();
        let drawn = self.dice.below(behind.len().max(1) as u64) as usize;
        (drawn < behind.len()).then(|| behind.swap_remove(drawn))
    }

    /// True while the member there is.
    pub(super) fn is_far_behind(&self, address: &Address) -> bool {
        self.addresses_far_behind().contains(address)
    }

    fn addresses_far_behind(&self) -> Vec<Address> {
        let newest = self.newest_revision();
        let is_far_behind = |machine: &Arc<MemberMachine>| {
            machine.member().is_some_and(|member| member.view().revision().0 + FAR_BEHIND < newest)
        };
        self.stage
            .cluster
            .members()
            .iter()
            .filter(|machine| is_far_behind(machine))
            .map(|machine| machine.client_address())
            .collect()
    }

    /// A call begins that is made otherwise.
    pub(super) fn begin(&self, request: Request) -> Ticket {
        self.recorder.begin(self.number, request)
    }

    /// It must not be.
    pub(super) fn complain(&self, complaint: String) {
        self.stage.cluster.complain(complaint);
    }

    /// That call ends.
    pub(super) fn finish(&mut self, ticket: Ticket, result: Option<Result<Answer, tonic::Status>>) -> Outcome {
        if let Some(Ok(answer)) = &result {
            let mut knowledge = lock(&self.knowledge);
            knowledge.revision = knowledge.revision.max(answer.revision());
        }
        self.end_call(ticket, result)
    }

    fn end_call<Q: Service<Answer: Clone + PartialEq>>(
        &mut self,
        ticket: Ticket<Q>,
        result: Option<Result<Q::Answer, tonic::Status>>,
    ) -> Outcome<Q::Answer> {
        let outcome = match result {
            Some(Ok(answer)) => Outcome::Answered(answer),
            Some(Err(status)) => {
                self.last_error = status.message().to_owned();
                self.classify(&status)
            }
            None => {
                self.last_error = "no answer in time".to_owned();
                Outcome::Unknown
            }
        };
        if outcome == Outcome::Unknown {
            // The connection may be half-open: a new one tells.
            self.link = None;
        }
        self.recorder.end(ticket, outcome.clone());
        outcome
    }

    fn classify<A>(&self, status: &tonic::Status) -> Outcome<A> {
        let alarming = matches!(status.code(), tonic::Code::DataLoss | tonic::Code::Unimplemented);
        if alarming && !self.stage.cluster.machines.iter().any(|member| member.is_excused()) {
            self.stage.cluster.complain(format!("client {} was told {status:?}", self.number));
        }
        let promises_nothing_was_done = REFUSALS
            .iter()
            .any(|error| error.message() == status.message() && error.code() as i32 == status.code() as i32)
            || [NO_LEADER, NOT_LEADER].contains(&status.message());
        if promises_nothing_was_done {
            Outcome::Refused { code: status.code() as i32, message: status.message().to_owned() }
        } else {
            Outcome::Unknown
        }
    }

    /// The way to a member; opens one if need be, as often as it takes.
    async fn connect(&mut self) -> Link {
        loop {
            if let Some(link) = self.link.as_ref().filter(|link| !link.is_closed()) {
                return link.clone();
            }
            let cluster = &self.stage.cluster;
            let drawn = self.dice.pick(&cluster.members()).clone();
            let pinned = self.pinned.as_ref();
            let pinned = pinned.and_then(|address| cluster.machines.iter().find(|it| it.client_address() == *address));
            let to = pinned.cloned().unwrap_or(drawn);
            let opening = Link::open(&self.rt, &self.stage.world.net, client_machine(self.number), &to);
            self.link = within(self.options.timeout, opening).await.flatten();
            if self.link.is_none() {
                let pause_ms = self.dice.between(20, 300);
                clock::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
    }
}

/// Errors that promise that nothing was changed, and that the checkers can judge. (`NoSpace` may come from a write that was
/// applied.)
const REFUSALS: &[Error] = &[
    Error::EmptyKey,
    Error::KeyNotFound,
    Error::ValueProvided,
    Error::LeaseProvided,
    Error::TooManyOps,
    Error::DuplicateKey,
    Error::Compacted,
    Error::FutureRev,
    Error::LeaseNotFound,
    Error::LeaseExist,
    Error::LeaseTtlTooLarge,
];

/// The name of key number `number`.
pub fn key_name(number: u64) -> Bytes {
    format!("k{number:03}").into()
}

/// What `work` gives, if that takes no longer than `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    quorate_runtime::select! {
        biased;
        result = work => Some(result),
        () = clock::sleep(limit) => None,
    }
}
