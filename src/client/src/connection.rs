//! One HTTP/2 connection as a tower service.
//!
//! *Connect:* a byte stream from the runtime, hyper's HTTP/2 handshake over it, one task that drives the connection on the
//! calling reactor. *Call:* any number of requests at once, from any clone. *Break:* when the stream ends or fails, the
//! driving task ends; calls in flight and later ones fail with the gRPC status `Unavailable`, and [`Connection::closed`]
//! completes. *Close:* when the last clone and the last answer are dropped, the connection is closed.
//!
//! No time passes in here: there are no timeouts and no keep-alive. A peer that silently vanished is noticed by whoever
//! puts a deadline on a call.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use quorate_http::{Executor, HyperStream};
use quorate_runtime::net::{Address, BoxStream};
use quorate_runtime::{BoxFuture, Rt, sync::watch};
use tonic::Status;

/// Bytes that a server may send ahead in one call: large ranges and snapshots must not stop for window updates.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes that a server may send ahead over all calls of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Answers' trailers carry error messages, which may quote keys.
const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the network did not let us through.
    #[error("cannot connect to {address}: {source}")]
    Network {
        /// Where to.
        address: Address,
        /// What the network said.
        source: io::Error,
    },
    /// Somebody listens, but HTTP/2 could not be spoken.
    #[error("no HTTP/2 connection to {address}: {source}")]
    Handshake {
        /// Where to.
        address: Address,
        /// What hyper said.
        source: hyper::Error,
    },
}

/// One HTTP/2 connection. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: http2::SendRequest<tonic::body::Body>,
    address: Address,
    /// Its sender lives as long as the task that drives the connection; no value is ever sent.
    driven: watch::Receiver<()>,
}

impl Connection {
    /// Connects to `address`. The connection is driven by a task on the calling reactor.
    pub async fn connect(rt: &Rt, address: Address) -> Result<Connection, ConnectError> {
        let stream = rt
            .connect(address.clone())
            .await
            .map_err(|source| ConnectError::Network { address: address.clone(), source })?;
        Self::over(rt, stream, address).await
    }

    /// Speaks HTTP/2 over `stream`; `address` only names the other side.
    pub async fn over(rt: &Rt, stream: BoxStream, address: Address) -> Result<Connection, ConnectError> {
        let (sender, connection) = http2::Builder::new(Executor::new(rt.clone()))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .handshake(HyperStream::new(stream))
            .await
            .map_err(|source| ConnectError::Handshake { address: address.clone(), source })?;
        let (driving, driven) = watch::channel(());
        let peer = address.clone();
        rt.spawn(Box::pin(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "connection failed");
            }
            drop(driving);
        }));
        Ok(Connection { sender, address, driven })
    }

    /// Who is on the other side.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The scheme and authority for `with_origin` of a generated client.
    pub fn origin(&self) -> http::Uri {
        let authority = match &self.address {
            Address::Tcp(address) => http::uri::Authority::try_from(address.to_string()).ok(),
            Address::Unix(_) => None,
        };
        let authority = authority.unwrap_or_else(|| http::uri::Authority::from_static("localhost"));
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(authority);
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        http::Uri::from_parts(parts).unwrap_or_default()
    }

    /// True once the connection is of no more use.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Completes once the connection is of no more use.
    pub async fn closed(&self) {
        let mut driven = self.driven.clone();
        // No value is ever sent, so this ends only with the driving task.
        while driven.changed().await.is_ok() {}
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("closed", &self.is_closed()).finish()
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<Answer>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    /// Always: that the connection is closed is told by the call, because generated clients turn an error here into a
    /// status of their own (`Unknown`).
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = self.sender.send_request(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map(Answer)),
                Err(error) => Err(unavailable(error)),
            }
        })
    }
}

/// The body of an answer; it fails with `Unavailable` when the connection breaks before its end.
#[derive(Debug)]
pub struct Answer(Incoming);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(context).map_err(unavailable)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A failure of the connection or of one stream of it. The request may or may not have been executed.
fn unavailable(error: hyper::Error) -> Status {
    let mut text = format!("connection failed: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Status::unavailable(text)
}
