//! The Lock and Election services: queues of keys, ordered by the revisions that created them.
//!
//! Who wants a lock, or to be the leader, puts a key `<name>/<lease in hex>` that lives as long as its lease. The key with the
//! lowest create revision is the owner's. The others wait, each for the deletion of the one right before it, so that one
//! deletion wakes one waiter. Everything that keeps this safe is in the store: nothing is remembered here but who is waiting,
//! and a call that goes away takes its key with it.
//!
//! Both services are clients of this member's own KV, Lease and Watch: [`lock`], [`election`]. What these refuse reaches the
//! caller with its text, but as [`Code::Unknown`], as from etcd, where the errors pass through a client.
//!
//! Source: etcd `client/v3/concurrency`, `server/etcdserver/api/v3lock`, `server/etcdserver/api/v3election`.

mod election;
mod lock;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_member::WatchStream;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::response_op::Response as OpResponse;
use quorate_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    ResponseOp, TxnRequest,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::{BoxFuture, select};
use quorate_store::watch::{Answer, NewWatch};
use quorate_types::Error;
use tonic::{Code, Status};

use crate::errors;
use crate::service::Api;

/// Time to live of the lease that somebody gets who brings none.
const SESSION_TTL_SECS: i64 = 60;

/// Answers of a watch that are taken from the hub at once, and what they may weigh before the last of them.
const ANSWERS_PER_TURN: usize = 64;
const BYTES_PER_TURN: usize = 64 << 10;

/// As etcd tells it: a time that has run out keeps its code, all else loses it.
fn told(status: Status) -> Status {
    match status.code() {
        Code::DeadlineExceeded => status,
        _ => Status::unknown(status.message()),
    }
}

/// All keys of the queue `name` begin with this.
fn queue_prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key by which the holder of `lease` stands in the queue.
fn queue_key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The end of the range of all keys that begin with `prefix`, which ends with a slash.
fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix of a queue ends with a slash") += 1;
    end.into()
}

/// `key` was created at `revision`; 0 says that it is not there.
fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

/// The key of a queue that was created first.
fn first_of(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// The key of a queue that was created last of those before `revision`.
fn last_before(prefix: &Bytes, revision: i64) -> RangeRequest {
    RangeRequest { sort_order: SortOrder::Descend as i32, max_create_revision: revision - 1, ..first_of(prefix) }
}

fn get(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

fn put_op(put: PutRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestPut(put)) }
}

fn range_op(range: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(range)) }
}

/// What the part `index` of a transaction has read.
fn read_in(responses: &[ResponseOp], index: usize) -> Result<Vec<KeyValue>, Status> {
    match responses.get(index).and_then(|part| part.response.as_ref()) {
        Some(OpResponse::ResponseRange(range)) => key_values(range),
        other => Err(unexpected_part(other)),
    }
}

/// A bug: a part of a transaction was answered as if it were another's.
fn unexpected_part(part: Option<&OpResponse>) -> Status {
    tracing::error!(?part, "a part of a transaction was answered with something else");
    Status::internal("a part of a transaction was answered with something else; this is a bug of the server")
}

fn key_values(range: &RangeResponse) -> Result<Vec<KeyValue>, Status> {
    range.kvs.iter().map(decode).collect()
}

fn decode(row: &Bytes) -> Result<KeyValue, Status> {
    KeyValue::decode(row.clone()).map_err(|error| Status::data_loss(format!("a row that is no key-value: {error}")))
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

impl Api {
    /// The lease under which somebody queues: what was asked for, or a new one for 0.
    async fn session(self: &Arc<Self>, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = LeaseGrantRequest { id: 0, ttl: SESSION_TTL_SECS };
        Ok(Arc::clone(self).lease_grant(grant).await.map_err(told)?.id)
    }

    /// Completes when the server ends calls that wait, with the reason.
    fn end_of_waiting(self: &Arc<Self>) -> BoxFuture<'static, Error> {
        let api = Arc::clone(self);
        Box::pin(async move {
            select! {
                biased;
                () = api.draining() => Error::Stopped,
                () = api.member.stopping() => Error::Stopped,
            }
        })
    }

    /// Waits until no key of the queue was created before `revision`.
    async fn wait_for_turn(self: &Arc<Self>, prefix: &Bytes, revision: i64) -> Result<(), Status> {
        let mut end = self.end_of_waiting();
        loop {
            let before = Arc::clone(self).range(last_before(prefix, revision)).await?;
            let Some(ahead) = key_values(&before)?.pop() else { return Ok(()) };
            let mut follow = Follow::begin(self, ahead.key.into(), revision_of(before.header.as_ref()))?;
            // After a gap in the history it looks again, too.
            while let Seen::Put { .. } = follow.next(&mut end).await? {}
        }
    }
}

/// What a watch of one key, or of one queue, tells.
enum Seen {
    /// A key was put. `revision`: of the answer.
    Put { revision: i64, mod_revision: i64, kv: Bytes },
    /// A key was deleted.
    Deleted,
    /// The history in between is compacted: it is not known what happened.
    Compacted,
}

/// What is watched: one key, or all of a queue.
struct Watched {
    key: Bytes,
    range_end: Bytes,
}

impl From<Bytes> for Watched {
    fn from(key: Bytes) -> Self {
        Self { key, range_end: Bytes::new() }
    }
}

/// A watch of our own, on this member.
struct Follow {
    api: Arc<Api>,
    stream: WatchStream,
    taken: Vec<Answer>,
    waiting: VecDeque<Seen>,
}

impl Follow {
    /// Watches from `revision` on.
    fn begin(api: &Arc<Api>, watched: Watched, revision: i64) -> Result<Self, Status> {
        let stream = api.member.open_watch_stream();
        let (key, range_end) = (watched.key, watched.range_end);
        let new = NewWatch { key, range_end, start_revision: revision, ..Default::default() };
        stream.create(new).map_err(|failure| api.read_failed(failure))?;
        Ok(Self { api: Arc::clone(api), stream, taken: Vec::new(), waiting: VecDeque::new() })
    }

    /// What happens next. Fails when `end` does.
    async fn next(&mut self, end: &mut BoxFuture<'static, Error>) -> Result<Seen, Status> {
        loop {
            if let Some(seen) = self.waiting.pop_front() {
                return Ok(seen);
            }
            self.stream.take(ANSWERS_PER_TURN, BYTES_PER_TURN, &mut self.taken);
            if self.taken.is_empty() {
                select! {
                    biased;
                    error = &mut *end => return Err(errors::status(error)),
                    () = self.stream.news() => {}
                }
                continue;
            }
            for answer in std::mem::take(&mut self.taken) {
                self.note(answer)?;
            }
        }
    }

    fn note(&mut self, answer: Answer) -> Result<(), Status> {
        match answer {
            Answer::Events { revision, events, .. } => {
                for event in events.iter() {
                    self.waiting.push_back(match event.is_delete() {
                        true => Seen::Deleted,
                        false => Seen::Put { revision, mod_revision: event.revision(), kv: event.kv().clone() },
                    });
                }
            }
            Answer::Compacted { .. } => self.waiting.push_back(Seen::Compacted),
            Answer::Created { .. } | Answer::Progress { .. } => {}
            Answer::Refused { .. } | Answer::Canceled { .. } => {
                tracing::error!(?answer, member = %self.api.member.id(), "a watch of our own was refused");
                return Err(Status::internal("a watch of the server's own was refused; this is a bug of the server"));
            }
        }
        Ok(())
    }
}

/// A key of a queue that has to go if its call does before it has what it waits for.
struct Place {
    api: Arc<Api>,
    key: Bytes,
    create_revision: i64,
    is_kept: bool,
}

impl Place {
    fn new(api: &Arc<Api>, key: Bytes, create_revision: i64) -> Self {
        Self { api: Arc::clone(api), key, create_revision, is_kept: false }
    }

    /// It stays.
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let api = Arc::clone(&self.api);
        let leave = delete_if_created_at(&self.key, self.create_revision);
        self.api.rt.spawn(Box::pin(async move {
            if let Err(status) = api.txn(leave).await {
                // Its lease ends it in any case.
                tracing::warn!(error = %status, "failed to take back the key of a call that has gone away");
            }
        }));
    }
}

/// Deletes `key` if it is still the one that was created at `revision`.
fn delete_if_created_at(key: &Bytes, revision: i64) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
    TxnRequest {
        compare: vec![created_at(key, revision)],
        success: vec![RequestOp { request: Some(Op::RequestDeleteRange(delete)) }],
        failure: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_go_writes_them() {
        let prefix = queue_prefix(b"door");
        assert_eq!(prefix, "door/");
        assert_eq!(prefix_end(&prefix), "door0");
        for (lease, key) in [(0x7c3, "door/7c3"), (-1, "door/-1"), (i64::MIN, "door/-8000000000000000")] {
            assert_eq!(queue_key(&prefix, lease), key);
        }
        assert_eq!(queue_key(&queue_prefix(b""), 5), "/5");
    }
}
