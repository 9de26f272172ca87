//! What the clients asked and were told, with simulated times: the only thing that checkers believe.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;

use crate::world::clock::{self, SimTime};
use crate::world::lock;
use crate::world::trace::{Event, Trace};

/// A call of the KV service.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Range, or RangeStream put together again.
    Range(pb::RangeRequest),
    /// Put.
    Put(pb::PutRequest),
    /// DeleteRange.
    Delete(pb::DeleteRangeRequest),
    /// Txn.
    Txn(pb::TxnRequest),
    /// Compact.
    Compact(pb::CompactionRequest),
}

/// What it returned.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a Range.
    Range(pb::RangeResponse),
    /// To a Put.
    Put(pb::PutResponse),
    /// To a DeleteRange.
    Delete(pb::DeleteRangeResponse),
    /// To a Txn.
    Txn(pb::TxnResponse),
    /// To a Compact.
    Compact(pb::CompactionResponse),
}

impl Answer {
    /// The header; every answer has one, or it is not an answer of etcd's.
    pub fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Answer::Range(answer) => answer.header.as_ref(),
            Answer::Put(answer) => answer.header.as_ref(),
            Answer::Delete(answer) => answer.header.as_ref(),
            Answer::Txn(answer) => answer.header.as_ref(),
            Answer::Compact(answer) => answer.header.as_ref(),
        }
    }

    /// The header, to change it.
    pub fn header_mut(&mut self) -> &mut Option<pb::ResponseHeader> {
        match self {
            Answer::Range(answer) => &mut answer.header,
            Answer::Put(answer) => &mut answer.header,
            Answer::Delete(answer) => &mut answer.header,
            Answer::Txn(answer) => &mut answer.header,
            Answer::Compact(answer) => &mut answer.header,
        }
    }

    /// The store's revision as the header tells it; 0 without a header.
    pub fn revision(&self) -> i64 {
        self.header().map_or(0, |header| header.revision)
    }

    /// The message that came over the wire.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        match self {
            Answer::Range(answer) => answer.encode_to_vec(),
            Answer::Put(answer) => answer.encode_to_vec(),
            Answer::Delete(answer) => answer.encode_to_vec(),
            Answer::Txn(answer) => answer.encode_to_vec(),
            Answer::Compact(answer) => answer.encode_to_vec(),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With an answer.
    Answered(Answer),
    /// With an error that promises: nothing was changed.
    Refused {
        /// gRPC status code.
        code: i32,
        /// etcd's words.
        message: String,
    },
    /// Nobody knows: a timeout, a broken connection, an error that promises nothing. A write may have happened, may still
    /// happen, or may never.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Who called.
    pub client: u64,
    /// When the call was made.
    pub start: SimTime,
    /// When its outcome was known to the client.
    pub end: SimTime,
    /// What was asked.
    pub request: Request,
    /// What came of it. An operation that is still under way is unknown.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// The last moment at which it may have taken effect.
    pub fn effective_end(&self) -> SimTime {
        if self.outcome == Outcome::Unknown { SimTime::NEVER } else { self.end }
    }

    /// For a report: who, when, what, in one line.
    pub fn describe(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Answered(answer) => format!("answered {answer:?}"),
            Outcome::Refused { code, message } => format!("refused with {code} {message:?}"),
            Outcome::Unknown => "outcome unknown".to_owned(),
        };
        let text = format!("client {} {}..{} {:?}: {outcome}", self.client, self.start, self.end, self.request);
        const SHOWN_MAX: usize = 2000;
        match text.char_indices().nth(SHOWN_MAX) {
            Some((cut, _)) => format!("{} … ({} bytes)", &text[..cut], text.len()),
            None => text,
        }
    }
}

/// What one revision changed, as seen by reading the whole store at it and at the one before: key → encoded KeyValue, or
/// `None` for a deletion.
pub type RevisionDiff = BTreeMap<Bytes, Option<Bytes>>;

/// The growing record of a run; clones share it.
#[derive(Clone)]
pub struct Recorder {
    state: Arc<Mutex<Recorded>>,
    trace: Trace,
}

#[derive(Default)]
struct Recorded {
    operations: Vec<Operation>,
    answered: u64,
    taps: BTreeMap<i64, RevisionDiff>,
}

/// An operation under way.
pub struct Ticket(usize);

impl Recorder {
    /// An empty record.
    pub fn new(trace: Trace) -> Self {
        Self { state: Arc::default(), trace }
    }

    /// A call begins.
    pub fn begin(&self, client: u64, request: Request) -> Ticket {
        let mut state = lock(&self.state);
        let now = clock::now();
        state.operations.push(Operation { client, start: now, end: now, request, outcome: Outcome::Unknown });
        Ticket(state.operations.len() - 1)
    }

    /// It ends.
    pub fn end(&self, ticket: Ticket, outcome: Outcome) {
        let (kind, bytes) = match &outcome {
            Outcome::Answered(answer) => (0, answer.encoded()),
            Outcome::Refused { code, message } => (1 + *code as u64, message.clone().into_bytes()),
            Outcome::Unknown => (u64::MAX, Vec::new()),
        };
        self.trace.note(Event::Answer, &[ticket.0 as u64, kind], &bytes);
        let mut state = lock(&self.state);
        state.answered += u64::from(matches!(outcome, Outcome::Answered(_)));
        let operation = &mut state.operations[ticket.0];
        operation.end = clock::now();
        operation.outcome = outcome;
    }

    /// How many operations were answered.
    pub fn answered(&self) -> u64 {
        lock(&self.state).answered
    }

    /// Notes what revision `revision` changed.
    pub fn tap(&self, revision: i64, diff: RevisionDiff) {
        lock(&self.state).taps.insert(revision, diff);
    }

    /// The revisions in `from..=to` that no answered write claims and nobody has tapped.
    pub fn unexplained(&self, from: i64, to: i64) -> Vec<i64> {
        let state = lock(&self.state);
        let claimed: std::collections::BTreeSet<i64> =
            state.operations.iter().filter_map(Operation::written_revision).collect();
        (from..=to).filter(|revision| !claimed.contains(revision) && !state.taps.contains_key(revision)).collect()
    }

    /// Everything so far, in order of the calls' begin.
    pub fn operations(&self) -> Vec<Operation> {
        lock(&self.state).operations.clone()
    }

    /// Every tapped revision.
    pub fn taps(&self) -> BTreeMap<i64, RevisionDiff> {
        lock(&self.state).taps.clone()
    }
}

impl Operation {
    /// The revision that it made, if it was answered and wrote.
    pub fn written_revision(&self) -> Option<i64> {
        let answer = self.answer()?;
        let wrote = match answer {
            Answer::Put(_) => true,
            Answer::Delete(answer) => answer.deleted > 0,
            Answer::Txn(answer) => txn_wrote(answer),
            Answer::Range(_) | Answer::Compact(_) => false,
        };
        wrote.then(|| answer.revision())
    }
}

fn txn_wrote(answer: &pb::TxnResponse) -> bool {
    use pb::response_op::Response;
    answer.responses.iter().any(|op| match &op.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(answer)) => answer.deleted > 0,
        Some(Response::ResponseTxn(answer)) => txn_wrote(answer),
        Some(Response::ResponseRange(_)) | None => false,
    })
}
