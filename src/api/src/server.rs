//! From a listener to calls on a service: the server that everything with an HTTP port runs on.
//!
//! 1. [`serve`] accepts. Each connection is handed, still without a stream, to the next reactor in turn; there the stream is
//!    made, so that the connection and all its requests live on that reactor and wake each other without a system call.
//! 2. The first bytes tell the protocol: HTTP/2's preface (gRPC with prior knowledge), or HTTP/1.1. Both get the same service.
//!    An authority that is a URL, as etcdctl 3.4 sends it, is made one on the way ([`AuthorityFilter`]); who pings too often is
//!    cut off ([`PingLimit`]). If a service and a client agree to go on with another protocol, that is done in the connection's place
//!    ([`AfterHttp`]).
//! 3. When `shutdown` turns true (or its sender is gone) the listener closes, connections are told to finish (GOAWAY, or no
//!    more keep-alive), requests in flight get [`ServerOptions::grace`], and what is still there then is cut off.
//!
//! The port of the other members speaks HTTP/1.1 alone, and lets nobody wait for long ([`serve_peers`]).
//!
//! What a client does wrong ends its stream or its connection, and nothing else. Failing accepts (no descriptors left) are
//! tried again after a pause that doubles, so that they do not spin.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::server::conn::auto;
use quorate_http::{AuthorityFilter, Executor, HyperStream, PingLimit, Timer};
use quorate_raft::transport::{PeerLimits, WriteLimit};
use quorate_runtime::sync::{mpsc, watch};
use quorate_runtime::{BoxFuture, Rt, clock, net, select};
use tower_service::Service;

use crate::after_http::AfterHttp;

/// What hyper accepts as an error of a service or a body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// First pause after a failed accept; it doubles up to [`ACCEPT_PAUSE_MAX`].
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How much of one request may be on its way before the handler reads it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for all requests of a connection together. Half of it is what h2 allows for the overhead of small frames that
/// nobody has read yet, 256 bytes each; beyond, it ends the connection. So many thousand watches, or renewals, may come at once.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Request headers: room for a signed token of several kilobytes.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// What an operator may set about connections.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// HTTP/2 streams that one connection may have open (etcd's `--max-concurrent-streams`).
    pub max_concurrent_streams: u32,
    /// A connection is pinged when nothing was received for so long (etcd's `--grpc-keepalive-interval`); `None` for never.
    pub keepalive_interval: Option<Duration>,
    /// A ping unanswered for so long ends the connection (etcd's `--grpc-keepalive-timeout`).
    pub keepalive_timeout: Duration,
    /// Least time between two pings of a client (etcd's `--grpc-keepalive-min-time`).
    pub keepalive_min_time: Duration,
    /// How long requests in flight may go on after shutdown was asked for.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
            keepalive_min_time: Duration::from_secs(5),
            grace: Duration::from_secs(5),
        }
    }
}

/// [`serve_each`] with one service for all, and etcd's default options.
pub async fn serve<S, B>(rt: Rt, listener: Box<dyn net::Listener>, service: S, shutdown: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    serve_each(rt, listener, move |_| service.clone(), shutdown, ServerOptions::default()).await;
}

/// Serves every connection that `listener` accepts, until `shutdown` is true, with the service that `make` has for who is at its
/// other end. Returns once the last connection has ended, or its grace is over.
///
/// The service is cloned for each request and must take a call at any time: `poll_ready` is not asked (those of tonic and
/// axum are always ready).
pub async fn serve_each<S, B>(
    rt: Rt,
    listener: Box<dyn net::Listener>,
    make: impl Fn(&net::Address) -> S + Clone + Send + 'static,
    shutdown: watch::Receiver<bool>,
    options: ServerOptions,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let builder = connection_builder(&rt, &options);
    let (clock, grace) = (rt.clone(), options.grace);
    let serve_one = move |stream, phase: watch::Receiver<Phase>, peer| -> BoxFuture<'static, ()> {
        let after = AfterHttp::default();
        let (builder, service) = (builder.clone(), Calls { service: make(&peer), after: Some(after.clone()) });
        let clock = clock.clone();
        let stream = PingLimit::new(stream, options.keepalive_min_time, move || clock.mono_now());
        Box::pin(async move {
            let stream = HyperStream::new(AuthorityFilter::new(stream));
            let connection = builder.serve_connection_with_upgrades(stream, service);
            drive(pin!(connection), auto::UpgradeableConnection::graceful_shutdown, phase.clone(), &peer).await;
            if let Some(work) = after.take() {
                until_cut_off(work, phase).await;
            }
        })
    };
    accept(rt, listener, shutdown, grace, serve_one).await;
}

/// Serves members: HTTP/1.1 alone, as etcd's peer port does. A write that a peer does not take within `limits` ends its
/// connection, and so does one on which nothing is asked for so long: a peer that is gone without a word must not hold what
/// waits for it.
pub async fn serve_peers<S, B>(
    rt: Rt,
    listener: Box<dyn net::Listener>,
    service: S,
    shutdown: watch::Receiver<bool>,
    grace: Duration,
    limits: PeerLimits,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut builder = http1::Builder::new();
    builder.timer(Timer::new(rt.clone())).header_read_timeout(limits.read).auto_date_header(false);
    let clock = rt.clone();
    let serve_one = move |stream, phase, peer| -> BoxFuture<'static, ()> {
        let (builder, service) = (builder.clone(), Calls { service: service.clone(), after: None });
        let stream = HyperStream::new(WriteLimit::new(clock.clone(), stream, limits.write));
        Box::pin(async move {
            let connection = builder.serve_connection(stream, service);
            drive(pin!(connection), http1::Connection::graceful_shutdown, phase, &peer).await;
        })
    };
    accept(rt, listener, shutdown, grace, serve_one).await;
}

/// Gives every connection that `listener` accepts to `serve_one`, on a reactor, until `shutdown` is true and the connections
/// have ended.
async fn accept<F>(
    rt: Rt,
    mut listener: Box<dyn net::Listener>,
    mut shutdown: watch::Receiver<bool>,
    grace: Duration,
    serve_one: F,
) where
    F: Fn(net::BoxStream, watch::Receiver<Phase>, net::Address) -> BoxFuture<'static, ()> + Clone + Send + 'static,
{
    let address = listener.local_address();
    let (phase_sender, phase) = watch::channel(Phase::Serving);
    // Never sent to: each connection holds a sender, so the channel closes when the last one is gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut places = Places::of(rt.reactor_count());
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = select! {
            biased;
            // An error means that the sender is gone, and with it whoever could still ask.
            _ = shutdown.wait_for(|asked| *asked) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(incoming) => {
                pause = ACCEPT_PAUSE_MIN;
                // One of the senders is ours.
                let place = places.next(alive.strong_count() == 1);
                let start = connection_start(incoming, serve_one.clone(), phase.clone(), alive.clone());
                rt.spawn_on(place, start);
            }
            Err(error) => {
                tracing::warn!(%address, %error, pause_ms = pause.as_millis(), "failed to accept a connection; trying again");
                select! {
                    biased;
                    _ = shutdown.wait_for(|asked| *asked) => break,
                    () = rt.sleep(pause) => {}
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    drop(listener);
    drop(alive);
    phase_sender.send_replace(Phase::Draining);
    if clock::timeout(&*rt, grace, all_gone.recv()).await.is_err() {
        tracing::debug!(%address, "cutting off connections that did not end in time");
        phase_sender.send_replace(Phase::CutOff);
        all_gone.recv().await;
    }
}

/// On which reactor the next connection lives.
///
/// Reactor 0 has the raft and the apply loop. A connection that is alone lives there too: it is served without waking another
/// thread twice, which for a single client is a good part of a put. The others take turns on the other reactors.
struct Places {
    reactor_count: usize,
    turn: usize,
}

impl Places {
    fn of(reactor_count: usize) -> Self {
        Self { reactor_count, turn: 0 }
    }

    fn next(&mut self, is_alone: bool) -> usize {
        if is_alone || self.reactor_count == 1 {
            return 0;
        }
        self.turn += 1;
        1 + (self.turn - 1) % (self.reactor_count - 1)
    }
}

/// How far a shutdown is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No new requests; those in flight go on.
    Draining,
    /// Connections end now.
    CutOff,
}

fn connection_builder(rt: &Rt, options: &ServerOptions) -> auto::Builder<Executor> {
    let timer = Timer::new(rt.clone());
    let mut builder = auto::Builder::new(Executor::new(rt.clone()));
    // No date header: hyper would take it from the host's clock. No limit on the time between two HTTP/1 requests, as etcd.
    builder.http1().timer(timer.clone()).header_read_timeout(None).auto_date_header(false);
    builder
        .http2()
        .timer(timer)
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(options.max_concurrent_streams)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// What runs on the reactor that gets the connection.
fn connection_start<F>(
    incoming: Box<dyn net::Incoming>,
    serve_one: F,
    phase: watch::Receiver<Phase>,
    alive: mpsc::Sender<()>,
) -> Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>
where
    F: Fn(net::BoxStream, watch::Receiver<Phase>, net::Address) -> BoxFuture<'static, ()> + Send + 'static,
{
    Box::new(move || {
        Box::pin(async move {
            let peer = incoming.peer_address();
            match incoming.into_stream() {
                Ok(stream) => serve_one(stream, phase, peer).await,
                Err(error) => tracing::debug!(%peer, %error, "the connection broke before it was served"),
            }
            drop(alive);
        })
    })
}

/// Runs one connection through the phases of a shutdown; `close` asks it to finish.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    close: impl Fn(Pin<&mut C>),
    mut phase: watch::Receiver<Phase>,
    peer: &net::Address,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut awaited = Phase::Draining;
    let result = loop {
        select! {
            biased;
            result = connection.as_mut() => break result,
            reached = phase.wait_for(|phase| *phase >= awaited) => match reached.map(|phase| *phase) {
                Ok(Phase::Draining) => {
                    close(connection.as_mut());
                    awaited = Phase::CutOff;
                }
                // The accept loop is gone, or time is up.
                Ok(_) | Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "the connection ended with an error");
    }
}

/// Does what is left to do on a connection, as long as connections may live.
async fn until_cut_off(work: BoxFuture<'static, ()>, mut phase: watch::Receiver<Phase>) {
    select! {
        biased;
        () = work => {}
        // An error means that the accept loop is gone.
        _ = phase.wait_for(|phase| *phase >= Phase::CutOff) => {}
    }
}

/// A tower service as hyper's.
struct Calls<S> {
    service: S,
    /// For requests to go on with another protocol, where that is possible.
    after: Option<AfterHttp>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Future: Future<Output = Result<S::Response, S::Error>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(after) = &self.after
            && request.extensions().get::<OnUpgrade>().is_some()
        {
            request.extensions_mut().insert(after.clone());
        }
        self.service.clone().call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn who_is_alone_is_beside_the_raft_loop_and_the_others_take_turns() {
        let mut places = Places::of(4);
        let placed: Vec<usize> = [true, false, false, true, false, false].map(|is_alone| places.next(is_alone)).into();
        assert_eq!(placed, [0, 1, 2, 0, 3, 1]);
        let mut only = Places::of(1);
        assert_eq!([true, false, false].map(|is_alone| only.next(is_alone)), [0, 0, 0]);
    }
}
