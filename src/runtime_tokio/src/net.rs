//! Kernel sockets: TCP and unix.
//!
//! Every TCP connection, either way, sends small writes at once (no Nagle) and probes a silent peer after 30 s. A listener
//! may be bound again at once after a restart. As in Go, a wildcard (`0.0.0.0` or `[::]`) listens on every address of the
//! machine, of both families.
//!
//! An accepted connection is a plain socket, known to no reactor, until [`Incoming::into_stream`] registers it with the one
//! that will serve it.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_runtime::BoxFuture;
use quorate_runtime::net::{Address, BoxStream, Incoming, ListenOptions, Listener, Net, SrvRecord};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::TokioRuntime;

/// Connections that the kernel keeps for us until we accept them; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Silence after which a peer is probed, and the time between probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// First and longest wait after an accept that failed for want of descriptors or memory.
const ACCEPT_WAIT_MIN: Duration = Duration::from_millis(5);
const ACCEPT_WAIT_MAX: Duration = Duration::from_secs(1);

impl Net for TokioRuntime {
    fn listen(&self, address: Address, options: ListenOptions) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = match address {
                Address::Tcp(address) => Box::new(TcpAcceptor::bind(address, options)?),
                Address::Unix(path) => Box::new(UnixAcceptor::bind(path)?),
            };
            Ok(listener)
        })
    }

    fn connect(&self, address: Address) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream: BoxStream = match address {
                Address::Tcp(address) => {
                    let stream = connect_from(self.source, address).await?;
                    set_options(&SockRef::from(&stream))?;
                    Box::new(stream)
                }
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            Ok(stream)
        })
    }

    fn lookup_host(&self, host: String, port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    fn lookup_srv(&self, name: String) -> BoxFuture<'_, io::Result<Vec<SrvRecord>>> {
        Box::pin(async move {
            let text = format!("looking up service records ({name}): this version has no resolver for SRV records");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        })
    }
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address).await };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let bound = socket.bind(SocketAddr::new(source, 0));
    bound.map_err(|error| io::Error::new(error.kind(), format!("from {source}: {error}")))?;
    socket.connect(address).await
}

fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// How long to wait after accepts that failed because the process (or the machine) has no descriptor or memory left. The
/// connection is still in the queue, so trying again at once would spin.
#[derive(Default)]
struct Patience {
    last: Duration,
}

impl Patience {
    fn next_wait(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(ACCEPT_WAIT_MIN, ACCEPT_WAIT_MAX);
        self.last
    }

    fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

/// The next connection that `accept` gives. One that was gone before we took it is skipped; for want of descriptors or memory
/// this first waits, then reports, so that a caller in a loop neither spins nor misses why nobody is served.
async fn next<T>(
    patience: &mut Patience,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
) -> io::Result<T> {
    loop {
        match poll_fn(&mut accept).await {
            Ok(accepted) => {
                patience.reset();
                return Ok(accepted);
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::PROTO | Errno::INTR) => {}
                _ => {
                    tokio::time::sleep(patience.next_wait()).await;
                    return Err(error);
                }
            },
        }
    }
}

struct TcpAcceptor {
    listener: TcpListener,
    local: SocketAddr,
    patience: Patience,
}

impl TcpAcceptor {
    fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let socket = if address.ip().is_unspecified() {
            let every = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
            match bind_tcp(every, options) {
                // A machine without IPv6 still has its IPv4 addresses.
                Err(error) if lacks_ipv6(&error) && address.is_ipv4() => bind_tcp(address, options)?,
                other => other?,
            }
        } else {
            bind_tcp(address, options)?
        };
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        let local = listener.local_addr()?;
        Ok(TcpAcceptor { listener, local, patience: Patience::default() })
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT))
}

fn bind_tcp(address: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // `options.reuse_address` asks for what is always set: without it a restart fails while old connections fade.
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

impl Listener for TcpAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            let (stream, peer) = next(&mut self.patience, |context| self.listener.poll_accept(context)).await?;
            let socket = stream.into_std()?;
            Ok(Box::new(TcpIncoming { socket, peer }) as Box<dyn Incoming>)
        })
    }

    fn local_address(&self) -> Address {
        Address::Tcp(self.local)
    }
}

struct TcpIncoming {
    socket: std::net::TcpStream,
    peer: SocketAddr,
}

impl Incoming for TcpIncoming {
    /// A peer that came over IPv4 to a listener of both families shows its IPv4 address.
    fn peer_address(&self) -> Address {
        Address::Tcp(SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port()))
    }

    fn into_stream(self: Box<Self>) -> io::Result<BoxStream> {
        set_options(&SockRef::from(&self.socket))?;
        Ok(Box::new(TcpStream::from_std(self.socket)?))
    }
}

struct UnixAcceptor {
    listener: UnixListener,
    path: PathBuf,
    patience: Patience,
}

impl UnixAcceptor {
    fn bind(path: PathBuf) -> io::Result<Self> {
        remove_stale(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
        Ok(UnixAcceptor { listener, path, patience: Patience::default() })
    }
}

/// Removes a socket file that a dead process left behind. Anything else that is there stays, and binding will fail on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // Does anyone listen there? Never waits: a full queue answers EAGAIN, which means yes.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

impl Listener for UnixAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            let (stream, _unnamed) = next(&mut self.patience, |context| self.listener.poll_accept(context)).await?;
            let socket = stream.into_std()?;
            Ok(Box::new(UnixIncoming { socket, path: self.path.clone() }) as Box<dyn Incoming>)
        })
    }

    fn local_address(&self) -> Address {
        Address::Unix(self.path.clone())
    }
}

impl Drop for UnixAcceptor {
    fn drop(&mut self) {
        // Best effort: a file that stays is recognised as stale by the next bind.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct UnixIncoming {
    socket: unix::UnixStream,
    path: PathBuf,
}

impl Incoming for UnixIncoming {
    /// Clients of a unix socket have no name; the socket's own stands for them.
    fn peer_address(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    fn into_stream(self: Box<Self>) -> io::Result<BoxStream> {
        Ok(Box::new(UnixStream::from_std(self.socket)?))
    }
}
