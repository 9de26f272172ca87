//! Messages as single POSTs: for peers that read no stream of ours, yet.
//!
//! [`WORKERS`] tasks share one short queue, each with a connection of its own that it keeps for the next message. So posts may
//! overtake each other, which Raft does not mind. An idle connection is given up before the peer's listener would, or a
//! message would be written into a closing one and be lost.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_runtime::select;
use quorate_runtime::sync::Notify;

use super::body::RequestBody;
use super::connection::{CallError, Connection};
use super::outbox::{Budget, MessageQueue};
use super::peer::Peer;
use super::{IDLE_LIMIT, headers};

/// Posts under way to one peer.
pub const WORKERS: usize = 4;
/// Messages that wait for one of them.
const QUEUE_MESSAGES: usize = 64;
/// An answer is a line; what is longer is cut.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// What waits to be posted.
#[derive(Debug)]
pub struct Pipeline {
    queue: Mutex<MessageQueue>,
    arrived: Notify,
}

impl Pipeline {
    /// Nothing waits.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { queue: Mutex::new(MessageQueue::new(QUEUE_MESSAGES, budget)), arrived: Notify::new() }
    }

    /// Queues `message` and wakes a worker; false if there is no room.
    pub fn push(&self, message: raftpb::Message) -> bool {
        let queued = self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        if queued {
            self.arrived.notify_one();
        }
        queued
    }

    async fn next(&self) -> raftpb::Message {
        loop {
            let arrived = self.arrived.notified();
            let (popped, more) = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                (queue.pop(), !queue.is_empty())
            };
            if more {
                // One wake-up may stand for any number of messages: pass it on.
                self.arrived.notify_one();
            }
            match popped {
                Some((message, _weight)) => return message,
                None => arrived.await,
            }
        }
    }
}

/// One worker; runs until dropped.
pub async fn work(peer: Arc<Peer>) {
    let mut kept: Option<Connection> = None;
    loop {
        let message = match &mut kept {
            None => peer.pipeline.next().await,
            Some(connection) => {
                let idle = peer.rt().sleep(IDLE_LIMIT);
                select! {
                    biased;
                    message = peer.pipeline.next() => message,
                    () = connection.closed() => {
                        kept = None;
                        continue;
                    }
                    () = idle => {
                        kept = None;
                        continue;
                    }
                }
            }
        };
        match post(&peer, &mut kept, &message).await {
            Ok(sent_bytes) => {
                peer.activate();
                peer.count_sent(sent_bytes);
            }
            Err(error) => {
                kept = None;
                peer.deactivate("post", "write", error);
                peer.count_send_failure();
                peer.report_unreachable();
            }
        }
    }
}

/// Posts one message, on the connection that is kept or on a new one, which is then kept.
async fn post(peer: &Peer, kept: &mut Option<Connection>, message: &raftpb::Message) -> Result<usize, CallError> {
    let url = peer.urls.pick().map_err(CallError::Unusable)?;
    let result = async {
        let usable = match kept {
            Some(connection) => *connection.url() == url && connection.ready().await,
            None => false,
        };
        if !usable {
            *kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::dial(peer.rt(), url.clone(), peer.core().dial_limit()).await?),
        };
        let encoded = Bytes::from(message.encode_to_vec());
        let sent_bytes = encoded.len();
        let body = RequestBody::Whole(encoded);
        let request = peer.core().headers.post(&url, super::PATH_POST, "application/protobuf", body);
        let answer = connection.call(peer.rt(), request, peer.core().read_limit()).await?;
        check_answer(peer, connection, answer).await?;
        Ok(sent_bytes)
    }
    .await;
    if result.is_err() {
        peer.urls.failed(&url);
    }
    result
}

/// Reads the answer to a POST to its end, so that the connection can be used again. Only 204 is good.
pub async fn check_answer(
    peer: &Peer,
    connection: &mut Connection,
    answer: http::Response<Incoming>,
) -> Result<(), CallError> {
    let (head, body) = answer.into_parts();
    let limit = peer.core().read_limit();
    let reading = quorate_runtime::clock::timeout(&**peer.rt(), limit, read_text(body));
    let text = connection.drive(reading).await.map_err(|_| CallError::Timeout(limit))??;
    match head.status {
        http::StatusCode::NO_CONTENT => Ok(()),
        http::StatusCode::FORBIDDEN => {
            peer.core().inbox.removed(peer.id());
            Err(CallError::Refused("this member was removed from the cluster".to_owned()))
        }
        http::StatusCode::PRECONDITION_FAILED if text == headers::CLUSTER_ID_MISMATCH => {
            let theirs = headers::text(&head.headers, &headers::CLUSTER_ID).unwrap_or("").to_owned();
            tracing::error!(
                peer = %peer.id(),
                cluster = theirs,
                own_cluster = %peer.core().config.cluster_id,
                "the peer is in another cluster: the same URL is used by two clusters"
            );
            Err(CallError::Refused(text))
        }
        status => Err(CallError::Refused(format!("answered {status}: {text}"))),
    }
}

/// The beginning of a body as text, without the newline at its end.
pub async fn read_text(mut body: Incoming) -> Result<String, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = ANSWER_BYTES_MAX.saturating_sub(bytes.len());
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
