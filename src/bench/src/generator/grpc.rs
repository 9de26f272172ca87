//! A gRPC client that costs little: unary calls straight over h2.
//!
//! The generator shares the machine with the server that it measures, so what it burns, the server lacks. The generated
//! clients start a task and box several futures for each call; here a call is one stream, driven by the task that makes it.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use tokio::net::TcpStream;

/// Flag (not compressed) and length, before every message.
const MESSAGE_PREFIX_BYTES: usize = 5;

/// Answers may be ahead of us by so much: a benchmark must not measure window updates.
const WINDOW_BYTES: u32 = 16 << 20;

/// Where a call's request is built before it is cut off and sent. Kept by each client, so that its memory is used again.
const BUFFER_BYTES: usize = 16 << 10;

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The server said no.
    Refused {
        /// The gRPC status code.
        code: i32,
        /// Its text.
        message: String,
    },
    /// The connection broke, or the answer is no gRPC.
    Broken(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused { code, message } => write!(f, "code {code}: {message}"),
            CallError::Broken(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        CallError::Broken(format!("the connection broke: {error}"))
    }
}

/// The methods that are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// etcdserverpb.KV/Range
    Range,
    /// etcdserverpb.KV/Put
    Put,
    /// etcdserverpb.KV/Txn
    Txn,
    /// etcdserverpb.Maintenance/Status
    Status,
}

/// The requests' unchanging part.
#[derive(Clone)]
struct Target {
    range: Uri,
    put: Uri,
    txn: Uri,
    status: Uri,
    headers: HeaderMap,
}

impl Target {
    fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let uri =
            |method: &str| Uri::builder().scheme("http").authority(address.to_string()).path_and_query(method).build();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("quorate-bench/", env!("CARGO_PKG_VERSION"))));
        Ok(Self {
            range: uri("/etcdserverpb.KV/Range")?,
            put: uri("/etcdserverpb.KV/Put")?,
            txn: uri("/etcdserverpb.KV/Txn")?,
            status: uri("/etcdserverpb.Maintenance/Status")?,
            headers,
        })
    }

    fn request(&self, method: Rpc) -> Request<()> {
        let uri = match method {
            Rpc::Range => &self.range,
            Rpc::Put => &self.put,
            Rpc::Txn => &self.txn,
            Rpc::Status => &self.status,
        };
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// One client's handle on a connection. Clones share the connection, not the buffer.
pub struct Channel {
    sender: SendRequest<Bytes>,
    target: Target,
    buffer: BytesMut,
}

impl Clone for Channel {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), target: self.target.clone(), buffer: BytesMut::with_capacity(BUFFER_BYTES) }
    }
}

impl Channel {
    /// Connects; the connection is driven by a task on the calling reactor.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Channel> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await
            .with_context(|| format!("no HTTP/2 connection to {address}"))?;
        tokio::spawn(async move {
            // Why a connection ended is told to every call on it.
            let _ = connection.await;
        });
        Ok(Channel { sender, target: Target::new(address)?, buffer: BytesMut::with_capacity(BUFFER_BYTES) })
    }

    /// One unary call: the answer's message, still encoded.
    pub async fn call(&mut self, method: Rpc, message: &impl prost::Message) -> Result<Bytes, CallError> {
        let message = self.frame(message);
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (response, mut body) = self.sender.send_request(self.target.request(method), false)?;
        body.send_data(message, true)?;
        let response = response.await?;
        let (head, mut body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::Broken(format!("not a gRPC server: HTTP status {}", head.status)));
        }
        // An error without a message comes as one block of headers.
        if body.is_end_stream() {
            check_status(&head.headers)?;
        }
        let mut answer = Bytes::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer = if answer.is_empty() { data } else { [answer, data].concat().into() };
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        check_status(&trailers)?;
        if answer.len() < MESSAGE_PREFIX_BYTES {
            return Err(CallError::Broken("an answer without a message".to_owned()));
        }
        answer.advance(MESSAGE_PREFIX_BYTES);
        Ok(answer)
    }

    fn frame(&mut self, message: &impl prost::Message) -> Bytes {
        let len = message.encoded_len();
        self.buffer.reserve(MESSAGE_PREFIX_BYTES + len);
        self.buffer.put_u8(0);
        self.buffer.put_u32(u32::try_from(len).expect("requests are far smaller than 4 GiB"));
        message.encode(&mut self.buffer).expect("the buffer has room for the message");
        self.buffer.split().freeze()
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    static STATUS: HeaderName = HeaderName::from_static("grpc-status");
    static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    let status = headers.get(&STATUS).map(HeaderValue::as_bytes);
    match status {
        Some(b"0") => Ok(()),
        Some(code) => Err(CallError::Refused {
            code: str::from_utf8(code).ok().and_then(|code| code.parse().ok()).unwrap_or(2),
            message: headers
                .get(&MESSAGE)
                .map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
                .unwrap_or_default(),
        }),
        None => Err(CallError::Broken("an answer without a gRPC status".to_owned())),
    }
}
