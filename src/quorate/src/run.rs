//! One run of a member, from its listeners to its end.
//!
//! 1. All ports are bound first: a port that is taken ends the program before anything is written.
//! 2. The member starts: it locks its directory, founds or recovers, and its loops run.
//! 3. When it is part of a working cluster it is published; client listeners serve, and the service manager is told.
//! 4. A signal ends it: leadership is handed over, listeners close, requests in flight get a moment, the member flushes and
//!    closes its files, and the process dies of the signal. A member that cannot go on ends the process with status 1, one that
//!    was removed from its cluster with 0.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use quorate_api::{ApiOptions, ApiService, ServerOptions, Traffic};
use quorate_member::{Member, StartError, StopReason};
use quorate_runtime::net::{Address, ListenOptions, Listener};
use quorate_runtime::sync::{oneshot, watch};
use quorate_runtime::{Rt, select, spawn};
use sd_notify::NotifyState;

use quorate_types::GoDuration;

use crate::config::Config;
use crate::data_dir::Found;
use crate::go;
use crate::log::{Spread, fatal};
use crate::memory;
use crate::server_metrics;
use crate::signals::{self, Signal};
use crate::urls::{self, Url};
use crate::version;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Status(i32),
    /// By a signal, of which the process shall now die.
    Signal(Signal),
}

/// Runs a member until it ends.
pub async fn run(rt: Rt, config: Config, found: Found) -> Ending {
    match Running::start(rt, config, found).await {
        Ok(running) => running.until_the_end().await,
        Err(NoStart::Removed) => {
            tell_removed();
            Ending::Status(0)
        }
        Err(NoStart::Because(error)) => {
            fatal!(error, "discovery failed");
            Ending::Status(1)
        }
    }
}

/// Why a member does not run.
enum NoStart {
    /// This went wrong.
    Because(String),
    /// It is no member any more. A supervisor that restarts what fails shall leave it alone: the status is 0.
    Removed,
}

impl From<String> for NoStart {
    fn from(error: String) -> Self {
        NoStart::Because(error)
    }
}

impl From<StartError> for NoStart {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Removed { .. } => NoStart::Removed,
            error => NoStart::Because(error.to_string()),
        }
    }
}

/// etcd's last words of a removed member.
fn tell_removed() {
    tracing::warn!(error = "the member has been permanently removed from the cluster", "server error");
    tracing::warn!("data-dir used by this member must be removed");
}

/// A listener that nobody serves yet.
type Bound = Box<dyn Listener>;

/// A member and its listeners.
struct Running {
    rt: Rt,
    config: Config,
    member: Member,
    api: ApiService,
    client_listeners: Vec<(Bound, Traffic)>,
    /// True tells the clients' servers to end, and then the peers'.
    stop_clients: watch::Sender<bool>,
    stop_peers: watch::Sender<bool>,
    peer_servers: Vec<oneshot::Receiver<()>>,
    signal: oneshot::Receiver<Signal>,
}

impl Running {
    /// Binds, starts the member and serves its peers. The error says why not.
    async fn start(rt: Rt, config: Config, found: Found) -> Result<Running, NoStart> {
        if config.locks_memory {
            memory::lock()?;
        }
        if config.listen != ListenOptions::default() {
            tracing::info!(
                reuse_address = config.listen.reuse_address,
                reuse_port = config.listen.reuse_port,
                "configuring socket options"
            );
        }
        if config.api.process.profiler.is_some() {
            tracing::info!(path = "/debug/pprof", "pprof is enabled");
        }
        tracing::info!(listen_peer_urls = ?urls::texts(&config.listen_peer), "configuring peer listeners");
        let peer_listeners = bind(&rt, &config.listen_peer, config.listen).await?;
        tracing::info!(listen_client_urls = ?urls::texts(&config.listen_client), "configuring client listeners");
        let clients = bind(&rt, &config.listen_client, config.listen).await?;
        let http = bind(&rt, &config.listen_http, config.listen).await?;
        let metrics_listeners = bind(&rt, &config.listen_metrics, config.listen).await?;
        let traffic = if http.is_empty() { Traffic::Both } else { Traffic::Grpc };
        let clients = clients.into_iter().map(|listener| (listener, traffic));
        let client_listeners = clients.chain(http.into_iter().map(|listener| (listener, Traffic::Http))).collect();

        log_start(&rt, &config, found);
        let member = Member::start(rt.clone(), config.member.clone()).await?;
        // From here on a signal stops the member instead of killing it.
        let signal = signals::first().map_err(|error| format!("cannot wait for signals: {error}"))?;

        let (stop_clients, _) = watch::channel(false);
        let (stop_peers, _) = watch::channel(false);
        let api = quorate_api::service(rt.clone(), member.clone(), api_options(&config)?);
        let peer_port = quorate_api::PeerPort::new(api.clone(), member.clone());
        let mut peer_servers = Vec::new();
        for listener in peer_listeners {
            tracing::info!(address = %listener.local_address(), "serving peer traffic");
            let (service, stop) = (peer_port.clone(), stop_peers.subscribe());
            let serving = quorate_api::serve_peers(
                rt.clone(),
                listener,
                service,
                stop,
                config.server.grace,
                config.member.peer_limits,
            );
            peer_servers.push(spawn::spawn_with_result(&*rt, serving));
        }
        for listener in metrics_listeners {
            tracing::info!(address = %listener.local_address(), "serving metrics");
            // Also while there is no cluster yet: that is when somebody asks why.
            let (service, stop) = (api.for_traffic(Traffic::Metrics), stop_peers.subscribe());
            let make = move |_: &Address| service.clone();
            let serving = quorate_api::serve_each(rt.clone(), listener, make, stop, config.server.clone());
            peer_servers.push(spawn::spawn_with_result(&*rt, serving));
        }
        tracing::info!(
            local_member_id = %member.id(),
            initial_advertise_peer_urls = ?config.member.advertise_peer_urls,
            listen_peer_urls = ?urls::texts(&config.listen_peer),
            advertise_client_urls = ?config.member.advertise_client_urls,
            listen_client_urls = ?urls::texts(&config.listen_client),
            listen_metrics_urls = ?urls::texts(&config.listen_metrics),
            "now serving peer/client/metrics"
        );
        Ok(Running { rt, config, member, api, client_listeners, stop_clients, stop_peers, peer_servers, signal })
    }

    async fn until_the_end(mut self) -> Ending {
        let mut client_servers = Vec::new();
        let early = select! {
            biased;
            signal = &mut self.signal => Some(signal.ok()),
            () = self.member.stopping() => Some(None),
            () = self.member.ready() => None,
        };
        let signal = match early {
            Some(signal) => signal,
            None => {
                client_servers = self.serve_clients();
                notify_ready();
                let (member, api, stop_clients) = (&self.member, &self.api, &self.stop_clients);
                let draining = async {
                    // Who was removed serves its peers for a moment more; its clients had better go elsewhere at once.
                    member.leaving().await;
                    api.drain();
                    stop_clients.send_replace(true);
                    std::future::pending::<()>().await;
                };
                select! {
                    biased;
                    signal = &mut self.signal => signal.ok(),
                    () = member.stopping() => None,
                    () = draining => None,
                }
            }
        };
        if let Some(signal) = signal {
            tracing::info!(signal = signal.name(), "received signal; shutting down");
        }
        self.stop(client_servers, signal).await
    }

    /// Starts a server on each client listener.
    fn serve_clients(&mut self) -> Vec<oneshot::Receiver<()>> {
        let mut servers = Vec::new();
        for (listener, traffic) in self.client_listeners.drain(..) {
            tracing::info!("ready to serve client requests");
            tracing::info!(
                traffic = traffic.name(),
                address = %listener.local_address(),
                "serving client traffic insecurely; this is strongly discouraged!"
            );
            let options: ServerOptions = self.config.server.clone();
            let (stop, service) = (self.stop_clients.subscribe(), self.api.for_traffic(traffic));
            let make = move |remote: &Address| service.for_remote(remote);
            let serving = quorate_api::serve_each(self.rt.clone(), listener, make, stop, options);
            servers.push(spawn::spawn_with_result(&*self.rt, serving));
        }
        servers
    }

    /// Ends everything in order: clients, the member, peers.
    async fn stop(self, client_servers: Vec<oneshot::Receiver<()>>, signal: Option<Signal>) -> Ending {
        let (name, data_dir) = (&self.config.member.name, self.config.member.data_dir.display().to_string());
        let log = |message: &'static str| {
            tracing::info!(
                name,
                data_dir = data_dir,
                advertise_peer_urls = ?self.config.member.advertise_peer_urls,
                advertise_client_urls = ?self.config.member.advertise_client_urls,
                "{message}"
            );
        };
        log("closing etcd server");
        if signal.is_some() {
            // While everything is still served: what comes in meanwhile goes to the new leader through us.
            self.member.transfer_leadership().await;
        }
        self.api.drain();
        self.stop_clients.send_replace(true);
        for server in client_servers {
            // An error means that it panicked, which is in the log.
            let _ = server.await;
        }
        self.member.stop();
        let reason = self.member.stopped().await;
        self.stop_peers.send_replace(true);
        for server in self.peer_servers {
            let _ = server.await;
        }
        log("closed etcd server");
        match (reason, signal) {
            (StopReason::Failed(error), _) => {
                fatal!(error, "the member cannot go on");
                Ending::Status(1)
            }
            (StopReason::Removed, _) => {
                tell_removed();
                Ending::Status(0)
            }
            (StopReason::Asked, Some(signal)) => Ending::Signal(signal),
            (StopReason::Asked, None) => Ending::Status(0),
        }
    }
}

/// The API's options, with the metrics of this program.
fn api_options(config: &Config) -> Result<ApiOptions, String> {
    let registry = server_metrics::registry(&config.gates);
    let registry = registry.map_err(|error| format!("cannot count what the process uses: {error}"))?;
    let mut options = config.api.clone();
    options.registries.push(registry);
    Ok(options)
}

async fn bind(rt: &Rt, urls: &[Url], options: ListenOptions) -> Result<Vec<Bound>, String> {
    let mut listeners = Vec::new();
    for url in urls {
        let address = address(url)?;
        let network = match &address {
            Address::Tcp(_) => "tcp",
            Address::Unix(_) => "unix",
        };
        let listener = rt.listen(address.clone(), options).await;
        listeners
            .push(listener.map_err(|error| format!("listen {network} {address}: bind: {}", go::error::text(&error)))?);
    }
    Ok(listeners)
}

/// Where a URL listens.
fn address(url: &Url) -> Result<Address, String> {
    if url.scheme().is_unix() {
        return Ok(Address::Unix(url.socket_path().into()));
    }
    let (host, port) = url.host_port()?;
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| format!("expected IP in URL for binding ({url})"))?,
    };
    let port = match port {
        "" => 0,
        port => port.parse().map_err(|_| format!("listen tcp: address {port}: invalid port"))?,
    };
    Ok(Address::Tcp(SocketAddr::new(ip, port)))
}

fn notify_ready() {
    tracing::info!("notifying init daemon");
    match sd_notify::notify(&[NotifyState::Ready]) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}

/// etcd's start line, with our version behind its.
fn log_start(rt: &Rt, config: &Config, found: Found) {
    let member = &config.member;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let path = |path: &std::path::Path| path.display().to_string();
    let wal_dir = member.wal_dir.as_deref().map(path).unwrap_or_default();
    let cluster: Vec<String> = member
        .initial_cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    let fields = Spread::default()
        .with("etcd-version", version::ETCD_VERSION)
        .with("quorate-version", version::QUORATE_VERSION)
        .with("git-sha", version::GIT_SHA)
        .with("go-version", version::GO_VERSION)
        .with("go-os", version::OS)
        .with("go-arch", version::ARCH)
        .with("max-cpu-set", rt.reactor_count())
        .with("max-cpu-available", cores)
        .with("member-initialized", found == Found::Member)
        .with("name", member.name.as_str())
        .with("data-dir", path(&member.data_dir))
        .with("wal-dir", wal_dir.as_str())
        .with("wal-dir-dedicated", wal_dir.as_str())
        .with("member-dir", path(&member.member_dir()))
        .with("force-new-cluster", member.force_new_cluster)
        .with("heartbeat-interval", GoDuration::from_millis(member.heartbeat_ms).to_string())
        .with("election-timeout", GoDuration::from_millis(member.election_ms).to_string())
        .with("initial-election-tick-advance", true)
        .with("snapshot-count", member.snapshot_count)
        .with("snapshot-catchup-entries", member.snapshot_catchup_entries)
        .with("initial-advertise-peer-urls", member.advertise_peer_urls.clone())
        .with("listen-peer-urls", urls::texts(&config.listen_peer))
        .with("advertise-client-urls", member.advertise_client_urls.clone())
        .with("listen-client-urls", urls::texts(&config.listen_client))
        .with("listen-metrics-urls", urls::texts(&config.listen_metrics))
        .with("initial-cluster", cluster.join(","))
        .with("initial-cluster-state", member.initial_cluster_state.name())
        .with("initial-cluster-token", member.initial_cluster_token.as_str())
        .with("quota-backend-bytes", member.quota_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
        .with("max-txn-ops", member.max_txn_ops)
        .with("max-request-bytes", member.max_request_bytes)
        .with("max-concurrent-streams", config.server.max_concurrent_streams)
        .with("pre-vote", member.pre_vote)
        .with("unsafe-no-fsync", member.unsafe_no_fsync)
        .with("v2-deprecation", "write-only")
        .with("max-learners", member.max_learners);
    tracing::info!(spread = ?fields, "starting an etcd server");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_addresses() {
        let at = |url: &str| address(&Url::parse(url).unwrap()).map(|address| address.to_string());
        assert_eq!(at("http://localhost:2379"), Ok("127.0.0.1:2379".into()));
        assert_eq!(at("http://[::1]:0"), Ok("[::1]:0".into()));
        assert_eq!(at("http://127.0.0.1:"), Ok("127.0.0.1:0".into()));
        assert_eq!(at("unix:///run/q.sock"), Ok("/run/q.sock".into()));
        assert_eq!(at("unix://q.sock"), Ok("q.sock".into()));
        assert!(at("http://127.0.0.1:99999").is_err());
    }
}
