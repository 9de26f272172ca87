//! The KV service.
//!
//! A write: quota → checks of the request → proposed → answered once it is applied here. A read: checks → unless it is
//! serializable, agreement with the cluster → answered from a view in the connection's own task. A transaction that only
//! reads is a read.
//!
//! The quota is looked at before the request, as etcd does: a put that is wrong *and* does not fit is told that there is no
//! space. What passes here and does not fit when it is applied is found there.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use prost::Message;
use quorate_member::{Operation, trace};
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    InternalRaftRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader,
    TxnRequest, TxnResponse,
};
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::mark;
use quorate_store::{Response, View, is_read_only};
use quorate_types::{Error, Revision};
use tonic::Status;

use crate::body::{Chunk, Messages};
use crate::errors::status;
use crate::room::Roomy;
use crate::service::Api;
use crate::timed_read::TimedRead;
use crate::{check, grpc};

/// Keys in the first piece of a streamed range.
const FIRST_CHUNK_KEYS: i64 = 10;

/// A streamed range gives back its view after so long, and goes on with a newer one at the same revision: a view keeps
/// pages of the database from being used again.
const VIEW_HELD_MAX: Duration = Duration::from_secs(1);

impl Api {
    /// KV.Range.
    pub async fn range(self: Arc<Self>, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.range_with_room(request).await.map(Roomy::into_answer)
    }

    /// The same, with the answer's room.
    pub(crate) async fn range_with_room(
        self: Arc<Self>,
        request: RangeRequest,
    ) -> Result<Roomy<RangeResponse>, Status> {
        check::range(&request).map_err(status)?;
        let mut timed = TimedRead::begin(&self, Operation::Range, "range");
        let within = |view: &View, room_bytes| view.range_within(&request, room_bytes);
        let read = timed.read(request.serializable, within).await;
        timed.end(read.is_ok(), || range_detail(&request, read.as_deref().ok()));
        let mut response = read?;
        self.member.metrics().keys.ranges_read(1);
        self.fill(&mut response.header);
        Ok(response)
    }

    /// KV.RangeStream: the answer of Range in pieces, as encoded messages.
    pub fn range_stream(self: Arc<Self>, request: RangeRequest) -> Result<Messages, Status> {
        check::range_stream(&request)?;
        let keys_left = if request.limit > 0 { request.limit } else { i64::MAX };
        let pieces = Pieces { api: self, request, keys_left, keys_sent: 0, reading: None };
        Ok(Box::pin(stream::try_unfold(Some(pieces), |pieces| async move {
            let Some(pieces) = pieces else { return Ok(None) };
            let (response, rest) = pieces.next().await?;
            let message = grpc::encode(&RangeStreamResponse { range_response: Some(response) })?;
            Ok(Some((Chunk::message(message), rest)))
        })))
    }

    /// KV.Put.
    pub async fn put(self: Arc<Self>, request: PutRequest) -> Result<PutResponse, Status> {
        let checked = check::put(&request);
        let request = InternalRaftRequest { put: Some(request), ..Default::default() };
        self.check_quota(&request).await?;
        checked.map_err(status)?;
        match self.propose(request).await? {
            Response::Put(mut response) => {
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("put", &other)),
        }
    }

    /// KV.DeleteRange.
    pub async fn delete_range(self: Arc<Self>, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        check::delete_range(&request).map_err(status)?;
        let request = InternalRaftRequest { delete_range: Some(request), ..Default::default() };
        match self.propose(request).await? {
            Response::DeleteRange(mut response) => {
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("delete", &other)),
        }
    }

    /// KV.Txn.
    pub async fn txn(self: Arc<Self>, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.txn_with_room(request).await.map(Roomy::into_answer)
    }

    /// The same, with the answer's room.
    pub(crate) async fn txn_with_room(self: Arc<Self>, request: TxnRequest) -> Result<Roomy<TxnResponse>, Status> {
        let checked = check::txn(&request, self.member.config().max_txn_ops);
        if is_read_only(&request) {
            checked.map_err(status)?;
            return self.read_txn(request).await;
        }
        let request = InternalRaftRequest { txn: Some(request), ..Default::default() };
        self.check_quota(&request).await?;
        checked.map_err(status)?;
        match self.propose(request).await? {
            Response::Txn(mut response) => {
                self.fill(&mut response.header);
                Ok(response.into())
            }
            other => Err(unexpected("transaction", &other)),
        }
    }

    async fn read_txn(&self, request: TxnRequest) -> Result<Roomy<TxnResponse>, Status> {
        let mut timed = TimedRead::begin(self, Operation::ReadonlyTxn, "transaction");
        let within = |view: &View, room_bytes| view.read_txn_within(&request, room_bytes);
        let read = timed.read(check::is_serializable(&request), within).await;
        timed.end(read.is_ok(), || {
            let (count, revision) = match &read {
                Ok(response) => (response.responses.len(), response.header.map_or(0, |header| header.revision)),
                Err(_) => (0, 0),
            };
            let fields: [(&str, &dyn Display); 3] =
                [("read_only", &true), ("number_of_response", &count), ("response_revision", &revision)];
            trace::detail(&fields)
        });
        let mut response = read?;
        self.member.metrics().keys.ranges_read(response.responses.len());
        self.fill(&mut response.header);
        Ok(response)
    }

    /// KV.Compact. A physical one answers once this member has removed the rows.
    pub async fn compact(self: Arc<Self>, request: CompactionRequest) -> Result<CompactionResponse, Status> {
        let proposal = InternalRaftRequest { compaction: Some(request), ..Default::default() };
        match self.propose(proposal).await? {
            Response::Compaction(mut response) => {
                if request.physical {
                    self.member.compacted(Revision(request.revision)).await.map_err(status)?;
                }
                response.header.get_or_insert_default().revision = self.member.view().revision().0;
                self.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected("compaction", &other)),
        }
    }

    /// Refuses what would not fit any more, and raises the alarm that makes every member refuse.
    pub(crate) async fn check_quota(&self, request: &InternalRaftRequest) -> Result<(), Status> {
        let member_id = self.member.id().0;
        if self.member.check_quota(request) {
            return Ok(());
        }
        mark!("quota_used_up");
        let raised = {
            let view = self.member.view();
            view.alarms().iter().any(|raised| raised.member_id == member_id && raised.alarm() == AlarmType::Nospace)
        };
        if !raised {
            let alarm =
                AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: AlarmType::Nospace as i32 };
            // The client's answer does not depend on it: the next write that does not fit tries again.
            if let Err(error) =
                self.member.propose(InternalRaftRequest { alarm: Some(alarm), ..Default::default() }).await
            {
                tracing::warn!(%error, "failed to raise the alarm that the database is full");
            }
        }
        Err(status(Error::NoSpace))
    }
}

/// What the log tells of a range.
fn range_detail(request: &RangeRequest, response: Option<&RangeResponse>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (count, revision) =
        response.map_or((0, 0), |response| (response.kvs.len(), response.header.map_or(0, |header| header.revision)));
    trace::detail(&[
        ("range_begin", &text(&request.key)),
        ("range_end", &text(&request.range_end)),
        ("response_count", &count),
        ("response_revision", &revision),
    ])
}

/// What is left of a streamed range.
struct Pieces {
    api: Arc<Api>,
    /// The next piece: its key, its limit once the first piece was read, its revision once the view was given back.
    request: RangeRequest,
    keys_left: i64,
    keys_sent: i64,
    reading: Option<Reading>,
}

/// Where the pieces are read.
struct Reading {
    view: Arc<View>,
    give_back_at: MonoTime,
    /// The store's revision when the first piece was read: told at the end, and read at if the request named none.
    revision: Revision,
}

impl Pieces {
    /// The next piece, and what is left after it.
    async fn next(mut self) -> Result<(RangeResponse, Option<Self>), Status> {
        let now = self.api.rt.mono_now();
        let reading = match self.reading.take() {
            None => self.start(now).await?,
            Some(reading) if now < reading.give_back_at => reading,
            Some(reading) => {
                if self.request.revision <= 0 {
                    self.request.revision = reading.revision.0;
                }
                Reading { view: self.api.member.view(), give_back_at: now + VIEW_HELD_MAX, ..reading }
            }
        };
        let piece = reading.view.range(&self.request).map_err(|failure| self.api.read_failed(failure))?;
        self.api.member.metrics().keys.ranges_read(1);
        if self.request.count_only {
            return Ok((self.last(&reading, Vec::new(), false, piece.count), None));
        }
        let keys = i64::try_from(piece.kvs.len()).unwrap_or(i64::MAX);
        let piece_bytes = piece.encoded_len();
        self.keys_left -= keys;
        let next_key = match piece.kvs.last() {
            Some(last) if piece.more && self.keys_left > 0 => key_after(last)?,
            // `count` is of all keys from this piece's first one on, whatever its limit.
            _ => return Ok((self.last(&reading, piece.kvs, piece.more, self.keys_sent + piece.count), None)),
        };
        self.keys_sent += keys;
        self.request.key = next_key;
        let target_bytes = self.api.member.config().max_request_bytes;
        self.request.limit = next_limit(self.request.limit, piece_bytes, target_bytes).min(self.keys_left);
        self.reading = Some(reading);
        Ok((RangeResponse { kvs: piece.kvs, ..Default::default() }, Some(self)))
    }

    async fn start(&mut self, now: MonoTime) -> Result<Reading, Status> {
        if !self.request.serializable {
            self.api.member.linearize().await.map_err(status)?;
        }
        if !self.request.count_only {
            self.request.limit = FIRST_CHUNK_KEYS.min(self.keys_left);
        }
        let view = self.api.member.view();
        let revision = view.revision();
        Ok(Reading { view, give_back_at: now + VIEW_HELD_MAX, revision })
    }

    /// The last piece: it alone has a header, and tells about the whole.
    fn last(&self, reading: &Reading, kvs: Vec<Bytes>, more: bool, count: i64) -> RangeResponse {
        let mut header = ResponseHeader { revision: reading.revision.0, ..Default::default() };
        self.api.fill_without_revision(&mut header);
        RangeResponse { header: Some(header), kvs, more, count }
    }
}

/// Pieces near `target_bytes`: doubled when below half of it, halved when above twice.
fn next_limit(limit: i64, piece_bytes: usize, target_bytes: usize) -> i64 {
    if piece_bytes < target_bytes / 2 {
        limit.saturating_mul(2)
    } else if piece_bytes > target_bytes.saturating_mul(2) {
        (limit / 2).max(1)
    } else {
        limit
    }
}

/// The first key that can follow that of an encoded key-value.
fn key_after(key_value: &Bytes) -> Result<Bytes, Status> {
    let key = KeyValue::decode(key_value.clone())
        .map_err(|error| Status::data_loss(format!("the store returned a row that is no key-value: {error}")))?
        .key;
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(&key);
    next.extend_from_slice(&[0]);
    Ok(next.freeze())
}

/// A bug: the entry of one request was answered as if it were another's.
pub(crate) fn unexpected(asked: &str, response: &Response) -> Status {
    tracing::error!(asked, ?response, "the store answered another question than the one asked");
    Status::internal(format!("a {asked} was answered with something else; this is a bug of the server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_settle_between_half_and_twice_the_target() {
        let target = 1000;
        for (limit, bytes, expected) in
            [(10, 499, 20), (10, 500, 10), (10, 2000, 10), (10, 2001, 5), (1, 5000, 1), (i64::MAX, 0, i64::MAX)]
        {
            assert_eq!(next_limit(limit, bytes, target), expected);
        }
    }

    #[test]
    fn nothing_lies_between_a_key_and_the_one_after_it() {
        let row = KeyValue { key: "ab".into(), value: "x".into(), ..Default::default() }.encode_to_vec();
        assert_eq!(key_after(&row.into()).unwrap(), "ab\0");
        assert_eq!(key_after(&Bytes::from_static(b"\xff")).unwrap_err().code(), tonic::Code::DataLoss);
    }
}
