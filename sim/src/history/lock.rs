//! What clients asked of the lock service, and were told. The service writes keys of its own, which no KV call asks for.

use bytes::Bytes;
use prost::Message;
use quorate_proto::v3lockpb as pb;

use super::{Operation, Outcome, Recorded, Request, Service, queue};

/// A call of the lock service.
#[derive(Clone, Debug, PartialEq)]
pub enum LockRequest {
    /// Lock.
    Lock(pb::LockRequest),
    /// Unlock.
    Unlock(pb::UnlockRequest),
}

/// What it returned.
#[derive(Clone, Debug, PartialEq)]
pub enum LockAnswer {
    /// To a Lock.
    Lock(pb::LockResponse),
    /// To an Unlock.
    Unlock(pb::UnlockResponse),
}

/// One call.
pub type LockCall = Operation<LockRequest, LockAnswer>;

impl LockCall {
    /// The key by which the caller waits and owns: the lock's name, a slash, and the lease in hex. For an Unlock the key that
    /// it deletes.
    pub fn key(&self) -> Bytes {
        match &self.request {
            LockRequest::Lock(lock) => queue::key(&lock.name, lock.lease),
            LockRequest::Unlock(unlock) => unlock.key.clone(),
        }
    }

    /// What it may have written, each once at most. A Lock that fails cleans up.
    pub fn writes(&self) -> Vec<Request> {
        let key = self.key();
        match &self.request {
            _ if matches!(self.outcome, Outcome::Refused { .. }) => Vec::new(),
            LockRequest::Lock(lock) if self.answer().is_some() => vec![queue::enter(&key, &Bytes::new(), lock.lease)],
            LockRequest::Lock(lock) => vec![queue::enter(&key, &Bytes::new(), lock.lease), queue::leave(&key)],
            LockRequest::Unlock(_) => vec![queue::leave(&key)],
        }
    }
}

impl LockAnswer {
    /// The store's revision as the header tells it; 0 without a header.
    pub fn revision(&self) -> i64 {
        let header = match self {
            LockAnswer::Lock(answer) => answer.header.as_ref(),
            LockAnswer::Unlock(answer) => answer.header.as_ref(),
        };
        header.map_or(0, |header| header.revision)
    }
}

impl Service for LockRequest {
    type Answer = LockAnswer;
    const NUMBER: u64 = 2;

    fn calls(recorded: &mut Recorded) -> &mut Vec<LockCall> {
        &mut recorded.locks
    }

    fn encoded(answer: &LockAnswer) -> Vec<u8> {
        match answer {
            LockAnswer::Lock(answer) => answer.encode_to_vec(),
            LockAnswer::Unlock(answer) => answer.encode_to_vec(),
        }
    }
}
