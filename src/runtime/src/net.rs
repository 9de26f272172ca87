//! Listeners and byte streams.
//!
//! A stream is bytes in order, both ways, until one side closes or the connection breaks. Nothing above this layer may
//! assume that a write arrived because it returned, or that a dead peer is noticed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::BoxFuture;

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Socket options of a listener (etcd's `--socket-reuse-port`, `--socket-reuse-address`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// SO_REUSEADDR beyond what the runtime sets by itself.
    pub reuse_address: bool,
}

/// One service record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Host name, without a trailing dot.
    pub target: String,
    /// Port.
    pub port: u16,
    /// Lower is tried first.
    pub priority: u16,
    /// Share among records of one priority.
    pub weight: u16,
}

/// Opens connections and waits for them.
pub trait Net {
    /// Listens on `address`. Port 0 takes a free one; a stale unix socket file is removed first.
    fn listen(&self, address: Address, options: ListenOptions) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to `address`.
    fn connect(&self, address: Address) -> BoxFuture<'_, io::Result<BoxStream>>;

    /// Addresses of a host name (or of an IP address in text), in the resolver's order.
    fn lookup_host(&self, host: String, port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>>;

    /// Service records of `_service._proto.domain`.
    fn lookup_srv(&self, name: String) -> BoxFuture<'_, io::Result<Vec<SrvRecord>>>;
}

/// A bound listener. Dropping it frees the address.
pub trait Listener: Send + Sync {
    /// The next connection. Errors are of one connection; the listener stays usable.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>>;

    /// Where it is bound, with the port that was taken.
    fn local_address(&self) -> Address;
}

/// An accepted connection that has not been given to a reactor yet.
pub trait Incoming: Send {
    /// Who connected.
    fn peer_address(&self) -> Address;

    /// The stream, on the reactor that calls this.
    fn into_stream(self: Box<Self>) -> io::Result<BoxStream>;
}

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream on the heap.
pub type BoxStream = Box<dyn Stream>;
