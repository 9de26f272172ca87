//! Dialing a peer for a stream, and reading it.
//!
//! Two of these run for every member that we know, one a stream. Each dials as soon as it is started, reads until the stream
//! ends in whatever way, and dials again, at most once in [`REDIAL_INTERVAL`]. A stream is never silent: five seconds without
//! a link heartbeat mean that the other side, or the way, is gone. What cannot be decoded ends the stream as well.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use quorate_runtime::clock::timeout;

use super::codec::{CodecError, Decoder, Frame, StreamKind};
use super::connection::{CallError, Connection};
use super::patience::Patience;
use super::peer::Peer;
use super::pipeline::read_text;
use super::{PATH_STREAM, REDIAL_INTERVAL, headers};

/// Why a dial failed.
enum DialError {
    /// The peer is too old to serve streams; that says nothing about whether it is alive.
    Unsupported,
    Failed(CallError),
}

impl<E: Into<CallError>> From<E> for DialError {
    fn from(error: E) -> Self {
        DialError::Failed(error.into())
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the peer closed it")]
    Closed,
    #[error("nothing came for {0:?}")]
    Silent(std::time::Duration),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("what it carries cannot be read: {0}")]
    Unreadable(#[from] CodecError),
}

/// Reads one stream of `peer`; runs until dropped.
pub async fn read(peer: Arc<Peer>, kind: StreamKind) {
    // Said once, not ten times a second.
    let mut last_failure = String::new();
    loop {
        let started = peer.rt().mono_now();
        match dial(&peer, kind).await {
            Ok((mut connection, body)) => {
                peer.activate();
                last_failure.clear();
                tracing::info!(peer = %peer.id(), stream = kind.name(), "reading the peer's stream");
                let mut patience = Patience::new(peer.rt().clone(), peer.core().read_limit());
                let ended = connection.drive(read_frames(&peer, kind, body, &mut patience)).await;
                tracing::warn!(peer = %peer.id(), stream = kind.name(), reason = %ended, "lost the peer's stream");
                if !matches!(ended, Ended::Closed) {
                    peer.deactivate(kind.name(), "read", ended);
                }
            }
            Err(failure) => {
                let text = match failure {
                    DialError::Unsupported => "the peer's version does not serve such streams".to_owned(),
                    DialError::Failed(error) => {
                        let text = error.to_string();
                        peer.deactivate(kind.name(), "dial", error);
                        text
                    }
                };
                if text != last_failure {
                    let stream = kind.name();
                    tracing::warn!(peer = %peer.id(), stream, reason = text, "cannot read the peer's stream; trying again");
                    last_failure = text;
                }
            }
        }
        peer.rt().sleep_until(started + REDIAL_INTERVAL).await;
    }
}

async fn dial(peer: &Peer, kind: StreamKind) -> Result<(Connection, Incoming), DialError> {
    let url = peer.urls.pick().map_err(CallError::Unusable)?;
    let result = async {
        let core = peer.core();
        let mut connection = Connection::dial(peer.rt(), url.clone(), core.dial_limit()).await?;
        let path = format!("{PATH_STREAM}/{}/{}", kind.name(), core.config.id);
        let request = core.headers.stream_request(&url, &path, peer.id());
        let answer = connection.call(peer.rt(), request, core.read_limit()).await?;
        let (head, body) = answer.into_parts();
        if !headers::supports_streams(&head.headers, core.config.server_version) {
            return Err(DialError::Unsupported);
        }
        match head.status {
            StatusCode::OK => Ok((connection, body)),
            StatusCode::GONE => {
                core.inbox.removed(peer.id());
                Err(CallError::Refused("this member was removed from the cluster".to_owned()).into())
            }
            StatusCode::NOT_FOUND => {
                Err(CallError::Refused("the peer does not know this member, yet".to_owned()).into())
            }
            status => {
                let text = connection.drive(timeout(&**peer.rt(), core.read_limit(), read_text(body))).await;
                let text = text.map_err(|_| CallError::Timeout(core.read_limit()))?.map_err(CallError::from)?;
                let theirs = headers::text(&head.headers, &headers::CLUSTER_ID).unwrap_or("");
                let whose = match text == headers::CLUSTER_ID_MISMATCH {
                    true => format!(" (its cluster is {theirs}, ours is {})", core.config.cluster_id),
                    false => String::new(),
                };
                Err(CallError::Refused(format!("the peer answered {status}: {text}{whose}")).into())
            }
        }
    }
    .await;
    if result.is_err() {
        peer.urls.failed(&url);
    }
    result
}

async fn read_frames(peer: &Peer, kind: StreamKind, mut body: Incoming, patience: &mut Patience) -> Ended {
    let core = peer.core();
    let mut decoder = Decoder::new(kind, core.config.id, peer.id(), core.config.limits.codec);
    let mut dropping = false;
    loop {
        let data = match patience.wait(body.frame()).await {
            Err(_) => return Ended::Silent(patience.limit()),
            Ok(None) => return decoder.finish().map_or_else(Ended::from, |()| Ended::Closed),
            Ok(Some(Err(error))) => return error.into(),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => continue,
            },
        };
        peer.count_received(data.len());
        decoder.push(data);
        loop {
            let message = match decoder.next_frame() {
                Err(error) => return error.into(),
                Ok(None) => break,
                Ok(Some(Frame::LinkHeartbeat)) => continue,
                Ok(Some(Frame::Message(message))) => message,
            };
            let delivered = core.deliver(message);
            if let Err(reason) = delivered {
                peer.count_receive_failure();
                if !dropping {
                    tracing::warn!(peer = %peer.id(), stream = kind.name(), reason, "messages from the peer are dropped");
                }
            }
            dropping = delivered.is_err();
        }
    }
}
