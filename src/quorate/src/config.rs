//! From flags to what a member and its listeners are started with, after etcd's checks.
//!
//! The checks come in etcd's order and with etcd's sentences. After them comes one of our own: what this version does not
//! have is refused by name, all of it in one sentence, so that nobody believes to have what is not there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_api::{Access, ApiOptions, ServerOptions};
use quorate_member::{AutoCompaction, ClusterState, MemberConfig, PEER_LIMIT_MIN, PeerLimits, REVISION_INTERVAL};
use quorate_runtime::net::ListenOptions;
use quorate_types::{GoDuration, Quoted};

use crate::flags::table::{self, Support};
use crate::flags::value::Gate;
use crate::flags::{Origin, Settings};
use crate::urls::{self, Url};

const DEFAULT_NAME: &str = "default";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";

/// Longest election timeout: beyond it a cluster is of no use (etcd `server/embed/config.go`).
const ELECTION_MS_MAX: u64 = 50_000;
/// etcd's default quota.
const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Beyond this etcd warns.
const QUOTA_BYTES_ADVISED: i64 = 8 * 1024 * 1024 * 1024;
/// Beyond this etcd warns.
const REQUEST_BYTES_ADVISED: u64 = 10 * 1024 * 1024;
/// etcd's time between notices to quiet watches, and the shortest that may be asked for.
const WATCH_PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(10 * 60);
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// etcd's time after which a call is slow.
const SLOW_AFTER_DEFAULT: Duration = Duration::from_millis(300);
/// How long requests in flight may go on after a signal. An operator's supervisor waits for the process to go.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A member that comes back is compared with the others before it takes part.
const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";
const LEASE_CHECKPOINT: &str = "LeaseCheckpoint";
/// As in etcd 3.7 checkpoints are always stored.
const LEASE_CHECKPOINT_PERSIST: &str = "LeaseCheckpointPersist";
/// Time between two checkpoints of a lease (etcd `server/lease/lessor.go`).
const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A renewal counts before what was committed meanwhile is applied.
const FAST_LEASE_KEEP_ALIVE: &str = "FastLeaseKeepAlive";
/// Leases may be revoked while others are refused because too much waits to be applied.
const PRIORITY_REQUEST: &str = "PriorityRequest";
/// Peers are connected to from the address by which they know this member.
const SET_MEMBER_LOCAL_ADDR: &str = "SetMemberLocalAddr";
const TXN_MODE_WRITE_WITH_SHARED_BUFFER: &str = "TxnModeWriteWithSharedBuffer";
/// While the database is defragmented, gRPC's health service says that nothing is served.
const STOP_GRPC_SERVICE_ON_DEFRAG: &str = "StopGRPCServiceOnDefrag";
/// Members compare what compactions have left.
const COMPACT_HASH_CHECK: &str = "CompactHashCheck";

/// The sentence of etcd that also gets a line of its own.
pub const ADVERTISE_REQUIRED: &str = "--advertise-client-urls is required when --listen-client-urls is set explicitly";

/// Everything that a run needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the member.
    pub member: MemberConfig,
    /// For its peers to reach it.
    pub listen_peer: Vec<Url>,
    /// For its clients.
    pub listen_client: Vec<Url>,
    /// For its clients over plain HTTP. If there are any, the others serve gRPC alone.
    pub listen_http: Vec<Url>,
    /// For who looks after it.
    pub listen_metrics: Vec<Url>,
    /// Of every listener.
    pub listen: ListenOptions,
    /// Of every client connection.
    pub server: ServerOptions,
    /// The address of this machine that peers are connected to from, if not the one that the kernel takes.
    pub connects_from: Option<IpAddr>,
    /// The process's memory is never swapped out.
    pub locks_memory: bool,
    /// Every feature gate, and whether it is open.
    pub gates: Vec<(Gate, bool)>,
    /// Profiles of the process are served.
    pub has_profiles: bool,
    /// Of the API.
    pub api: ApiOptions,
}

/// What the leader leaves of the history by itself. A plain number counts hours or revisions, as the mode says; what has a unit
/// is a duration, which counts its nanoseconds as revisions in the other mode, as in etcd.
fn auto_compaction(settings: &Settings) -> Result<Option<AutoCompaction>, String> {
    const HOUR_NANOS: i64 = 3_600_000_000_000;
    let by_age = settings.text("auto-compaction-mode") == "periodic";
    let retention = match settings.text("auto-compaction-retention") {
        "" => "0",
        given => given,
    };
    let kept = match retention.parse::<i64>() {
        Ok(hours) if hours >= 0 && by_age => {
            hours.checked_mul(HOUR_NANOS).ok_or("--auto-compaction-retention is too long")?
        }
        Ok(revisions) if revisions >= 0 => revisions,
        _ => GoDuration::parse(retention).map_err(|error| format!("error parsing CompactionRetention: {error}"))?.nanos,
    };
    match u64::try_from(kept) {
        Err(_negative) => Err(format!("--auto-compaction-retention must be >=0 (set to {retention})")),
        Ok(0) => Ok(None),
        Ok(nanos) if by_age => Ok(Some(AutoCompaction::Periodic(Duration::from_nanos(nanos)))),
        Ok(_) => Ok(Some(AutoCompaction::Revision { kept, interval: REVISION_INTERVAL })),
    }
}

/// Checks the settings and builds the configuration; warnings go to the log. `default_host` finds the address by which other
/// machines reach this one.
pub fn build(settings: &Settings, default_host: impl Fn() -> Result<IpAddr, String>) -> Result<Config, String> {
    if settings.text("discovery-fallback") == "proxy" {
        return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".into());
    }
    check(settings)?;
    refuse_missing(settings)?;
    warn_no_effect(settings);

    let name = settings.text("name").to_owned();
    let (advertise_peer, advertise_client) = advertised(settings, default_host);
    let initial_cluster = match settings.text("initial-cluster") {
        // A name alone renames the founding member, too.
        cluster if name != DEFAULT_NAME && cluster == default_cluster() => {
            vec![(name.clone(), urls::texts(&advertise_peer))]
        }
        cluster => parse_cluster(cluster).map_err(|error| format!("error setting up initial cluster: {error}"))?,
    };
    let data_dir = match settings.text("data-dir") {
        "" => {
            let default = PathBuf::from(format!("{name}.etcd"));
            tracing::warn!(data_dir = %default.display(), "'data-dir' was empty; using default");
            default
        }
        given => PathBuf::from(given),
    };
    let mut member = MemberConfig::single(&name, &data_dir, DEFAULT_PEER_URL, DEFAULT_CLIENT_URL);
    member.wal_dir = Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    member.initial_cluster = initial_cluster;
    member.initial_cluster_state = match settings.text("initial-cluster-state") {
        "existing" => ClusterState::Existing,
        _ => ClusterState::New,
    };
    settings.text("initial-cluster-token").clone_into(&mut member.initial_cluster_token);
    member.force_new_cluster = settings.bool("force-new-cluster");
    member.strict_reconfig_check = settings.bool("strict-reconfig-check");
    member.advertise_peer_urls = urls::texts(&advertise_peer);
    member.advertise_client_urls = urls::texts(&advertise_client);
    member.heartbeat_ms = settings.uint("heartbeat-interval");
    member.election_ms = settings.uint("election-timeout");
    member.pre_vote = settings.bool("pre-vote");
    member.snapshot_count = settings.uint("snapshot-count");
    member.snapshot_catchup_entries = settings.uint("snapshot-catchup-entries");
    member.quota_bytes = quota(settings.int("quota-backend-bytes"));
    member.max_request_bytes = request_bytes(settings.uint("max-request-bytes"));
    member.inflight_bytes_max = match settings.uint("max-inflight-bytes") {
        0 => usize::MAX,
        bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
    };
    member.max_txn_ops = usize::try_from(settings.uint("max-txn-ops")).unwrap_or(usize::MAX);
    member.max_learners = usize::try_from(settings.int("max-learners")).unwrap_or(0);
    member.initial_corrupt_check = settings.gate(INITIAL_CORRUPT_CHECK);
    member.corrupt_check_time = settings.duration("corrupt-check-time").positive();
    if settings.gate(COMPACT_HASH_CHECK) {
        member.compact_hash_check_time = settings.duration("compact-hash-check-time").positive();
    }
    member.auto_compaction = auto_compaction(settings)?;
    member.lease_checkpoint_interval = settings.gate(LEASE_CHECKPOINT).then_some(LEASE_CHECKPOINT_INTERVAL);
    member.renewals_count_at_once = settings.gate(FAST_LEASE_KEEP_ALIVE);
    member.revocations_go_first = settings.gate(PRIORITY_REQUEST);
    let peer_limit = |name| peer_limit(settings, name);
    member.peer_limits = PeerLimits { read: peer_limit("raft-read-timeout"), write: peer_limit("raft-write-timeout") };
    member.unsafe_no_fsync = settings.bool("unsafe-no-fsync");
    if let Some(interval) = settings.duration("backend-batch-interval").positive() {
        member.flush_interval = interval;
    }
    if let Some(rows) = usize::try_from(settings.int("compaction-batch-limit")).ok().filter(|rows| *rows > 0) {
        member.compaction_batch_rows = rows;
    }
    if let Some(pause) = settings.duration("compaction-sleep-interval").positive() {
        member.compaction_interval = pause;
    }
    let threshold_mib = settings.uint("bootstrap-defrag-threshold-megabytes");
    member.bootstrap_defrag_threshold_bytes = (threshold_mib > 0).then(|| threshold_mib.saturating_mul(1 << 20));
    if let Some(limit) = settings.duration("warning-apply-duration").positive() {
        member.warning_apply_duration = limit;
    }
    Ok(Config {
        member,
        listen_peer: settings.urls("listen-peer-urls").to_vec(),
        listen_client: settings.urls("listen-client-urls").to_vec(),
        listen_http: settings.urls("listen-client-http-urls").to_vec(),
        listen_metrics: settings.urls("listen-metrics-urls").to_vec(),
        listen: ListenOptions {
            reuse_port: settings.bool("socket-reuse-port"),
            reuse_address: settings.bool("socket-reuse-address"),
        },
        connects_from: settings.gate(SET_MEMBER_LOCAL_ADDR).then(|| local_address(&advertise_peer)).flatten(),
        locks_memory: settings.bool("memory-mlock"),
        gates: settings.all_gates().collect(),
        // Also for who looks for what is wrong, as in etcd.
        has_profiles: settings.bool("enable-pprof") || settings.text("log-level") == "debug",
        server: server_options(settings),
        api: ApiOptions {
            watch_progress_interval: watch_progress_interval(settings),
            has_gateway: settings.bool("enable-grpc-gateway"),
            access: Access {
                origins: settings.words("cors").to_vec(),
                hosts: settings.words("host-whitelist").to_vec(),
            },
            slow_after: slow_after(settings),
            has_latencies: settings.text("metrics") == "extensive",
            has_recent_calls: settings.text("log-level") == "debug",
            unwell_in_defragmentation: settings.gate(STOP_GRPC_SERVICE_ON_DEFRAG),
            ..ApiOptions::default()
        },
    })
}

fn default_cluster() -> String {
    format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}")
}

/// etcd's checks (etcd `server/embed/config.go`, `Validate`), in its order.
fn check(settings: &Settings) -> Result<(), String> {
    urls::check_bind(settings.urls("listen-peer-urls"))?;
    urls::check_bind(settings.urls("listen-client-urls"))?;
    urls::check_bind(settings.urls("listen-client-http-urls"))?;
    urls::check_bind(settings.urls("listen-metrics-urls"))?;
    let advertise_peer = settings.urls("initial-advertise-peer-urls");
    urls::check_advertised(advertise_peer).map_err(|why| {
        let given = urls::texts(advertise_peer).join(",");
        format!("--initial-advertise-peer-urls {} must be \"host:port\" ({why})", Quoted(&given))
    })?;
    let advertise_client = settings.urls("advertise-client-urls");
    urls::check_advertised(advertise_client).map_err(|why| {
        let given = urls::texts(advertise_client).join(",");
        let forms = "\"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"";
        format!("--advertise-client-urls {} must be in the format {forms} ({why})", Quoted(&given))
    })?;

    let endpoints = settings.words("discovery-endpoints");
    let (srv, srv_name) = (settings.text("discovery-srv"), settings.text("discovery-srv-name"));
    // Discovery takes the place of the default founding member.
    let discovers = !srv.is_empty() || !srv_name.is_empty() || !endpoints.is_empty();
    let has_cluster =
        !settings.text("initial-cluster").is_empty() && (settings.is_given("initial-cluster") || !discovers);
    let ways = [has_cluster, !srv.is_empty(), !endpoints.is_empty()];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
            .into());
    }
    if settings.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }

    let (heartbeat_ms, election_ms) = (settings.uint("heartbeat-interval"), settings.uint("election-timeout"));
    if heartbeat_ms == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election_ms == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return Err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        ));
    }
    if election_ms > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    // A file leaves the default in its place.
    let from_file = settings.origin("listen-client-urls") == Origin::File;
    if settings.is_given("listen-client-urls") && !settings.is_given("advertise-client-urls") && !from_file {
        return Err(ADVERTISE_REQUIRED.into());
    }
    match settings.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".into()),
        other => return Err(format!("unknown auto-compaction-mode {}", Quoted(other))),
    }
    auto_compaction(settings)?;
    if settings.gate(LEASE_CHECKPOINT_PERSIST) && !settings.gate(LEASE_CHECKPOINT) {
        return Err(format!(
            "enabling feature gate {LEASE_CHECKPOINT_PERSIST} requires enabling feature gate {LEASE_CHECKPOINT}"
        ));
    }
    let hash_check = settings.duration("compact-hash-check-time");
    if hash_check.positive().is_none() {
        return Err(format!("--compact-hash-check-time must be >0 (set to {hash_check})"));
    }
    if settings.text("name") == DEFAULT_NAME {
        tracing::warn!(
            name = DEFAULT_NAME,
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue \
             when multiple members have the same default name"
        );
    }
    let http = settings.urls("listen-client-http-urls");
    if let Some(both) = http.iter().find(|url| settings.urls("listen-client-urls").contains(url)) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {both}"
        ));
    }
    for url in settings.urls("listen-client-urls").iter().chain(http).filter(|url| url.scheme().is_secure()) {
        if settings.text("cert-file").is_empty() && settings.text("key-file").is_empty() && !settings.bool("auto-tls") {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
    }
    Ok(())
}

/// Names everything that was asked for and is not there.
fn refuse_missing(settings: &Settings) -> Result<(), String> {
    let mut wanted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for flag in table::all() {
        if let Support::Missing(what) = flag.support
            && settings.differs(flag)
        {
            wanted.entry(what).or_default().push(format!("--{}", flag.name));
        }
    }
    let listeners = ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"];
    for (flag, urls) in listeners.map(|flag| (flag, settings.urls(flag))) {
        if urls.iter().any(|url| url.scheme().is_secure()) {
            wanted.entry("TLS").or_default().push(format!("--{flag} with https"));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut text = String::from("this version of Quorate does not have");
    for (number, (what, flags)) in wanted.iter().enumerate() {
        let _ = write!(text, "{} {what} ({})", if number == 0 { "" } else { "," }, flags.join(", "));
    }
    text.push_str(": start without these settings");
    Err(text)
}

/// Says which settings change nothing here, and why.
fn warn_no_effect(settings: &Settings) {
    for flag in table::all() {
        match flag.support {
            Support::NoEffect(why) if settings.differs(flag) => {
                tracing::warn!(flag_name = flag.name, reason = why, "flag has no effect in this version");
            }
            Support::Dropped if settings.is_given(flag.name) => {
                tracing::warn!(flag_name = flag.name, "flag is no longer supported - ignoring");
            }
            _ => {}
        }
    }
    if settings.is_given("max-snapshots") {
        tracing::warn!("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8");
    }
    if !settings.gate(TXN_MODE_WRITE_WITH_SHARED_BUFFER) {
        let reason = "transactions have no buffer to share";
        tracing::warn!(
            feature_gate = TXN_MODE_WRITE_WITH_SHARED_BUFFER,
            reason,
            "feature gate has no effect in this version"
        );
    }
    if settings.bool("unsafe-no-fsync") {
        tracing::warn!("--unsafe-no-fsync is set: a crash of this machine loses acknowledged writes");
    }
}

/// What others are told. Whoever listens on all addresses and says nothing else advertises this machine's own address.
fn advertised(settings: &Settings, default_host: impl Fn() -> Result<IpAddr, String>) -> (Vec<Url>, Vec<Url>) {
    let mut detected = None;
    let mut resolve = |listen: &[Url], advertise: &[Url], default: &str| {
        let is_default = matches!(advertise, [only] if only.as_str() == default);
        let port = match listen.first().map(Url::host_port) {
            Some(Ok(("0.0.0.0", port))) if is_default => port,
            _ => return advertise.to_vec(),
        };
        match detected.get_or_insert_with(&default_host) {
            Ok(host) => vec![Url::http(&host.to_string(), port)],
            Err(_) => advertise.to_vec(),
        }
    };
    let peer =
        resolve(settings.urls("listen-peer-urls"), settings.urls("initial-advertise-peer-urls"), DEFAULT_PEER_URL);
    let client =
        resolve(settings.urls("listen-client-urls"), settings.urls("advertise-client-urls"), DEFAULT_CLIENT_URL);
    match detected {
        Some(Ok(host)) => tracing::info!(%host, "detected default host for advertise"),
        Some(Err(error)) => tracing::info!(error, "failed to detect default host"),
        None => {}
    }
    (peer, client)
}

/// The first advertised address that is one of this machine for others, too (etcd `server/embed/config.go`, `InferLocalAddr`).
fn local_address(advertised: &[Url]) -> Option<IpAddr> {
    let urls = urls::texts(advertised);
    tracing::info!(advertise_peer_urls = ?urls, "searching for a suitable member local address in AdvertisePeerURLs");
    let hosts = advertised.iter().filter_map(|url| url.host_port().ok()?.0.parse::<IpAddr>().ok());
    let found = hosts.into_iter().find(|host| !host.is_loopback() && !host.is_unspecified());
    match found {
        Some(address) => tracing::info!(local_addr = %address, "setting member local address"),
        None => tracing::warn!(
            advertise_peer_urls = ?urls,
            "unable to set a member local address due to lack of suitable local addresses"
        ),
    }
    found
}

/// Never less than etcd's default: peers say something every third of it.
fn peer_limit(settings: &Settings, name: &str) -> Duration {
    let limit = settings.duration(name).positive().unwrap_or_default();
    if limit < PEER_LIMIT_MIN {
        tracing::info!("{name} increased to minimum value: {}", GoDuration::from(PEER_LIMIT_MIN));
    }
    limit.max(PEER_LIMIT_MIN)
}

/// `name=url,name=url`: names in order, each with its URLs in order.
fn parse_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut members: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name).or_default().push(Url::parse(url)?);
    }
    let sorted = |mut urls: Vec<String>| {
        urls.sort_unstable();
        urls
    };
    Ok(members.into_iter().map(|(name, urls)| (name.to_owned(), sorted(urls::texts(&urls)))).collect())
}

fn quota(bytes: i64) -> Option<u64> {
    match u64::try_from(bytes) {
        Err(_) => {
            tracing::info!(quota_size_bytes = bytes, "disabled backend quota");
            None
        }
        Ok(0) => {
            tracing::info!(quota_size_bytes = QUOTA_BYTES_DEFAULT, "enabled backend quota with default value");
            Some(QUOTA_BYTES_DEFAULT)
        }
        Ok(size) => {
            if bytes > QUOTA_BYTES_ADVISED {
                tracing::warn!(
                    quota_size_bytes = bytes,
                    quota_maximum_size_bytes = QUOTA_BYTES_ADVISED,
                    "quota exceeds the maximum value"
                );
            }
            tracing::info!(quota_size_bytes = bytes, "enabled backend quota");
            Some(size)
        }
    }
}

fn request_bytes(bytes: u64) -> usize {
    if bytes > REQUEST_BYTES_ADVISED {
        tracing::warn!(
            max_request_bytes = bytes,
            recommended_request_bytes = REQUEST_BYTES_ADVISED,
            "exceeded recommended request limit"
        );
    }
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What gRPC's Go server demands between two pings of a client where nothing else is set.
const PING_GAP_DEFAULT: Duration = Duration::from_secs(5 * 60);

fn server_options(settings: &Settings) -> ServerOptions {
    let interval = settings.duration("grpc-keepalive-interval").positive();
    let timeout = settings.duration("grpc-keepalive-timeout").positive();
    let default = ServerOptions::default();
    ServerOptions {
        max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
        // Either of the two at zero switches pings off.
        keepalive_interval: interval.filter(|_| timeout.is_some()),
        keepalive_timeout: timeout.unwrap_or(default.keepalive_timeout),
        keepalive_min_time: settings.duration("grpc-keepalive-min-time").positive().unwrap_or(PING_GAP_DEFAULT),
        grace: STOP_GRACE,
    }
}

fn slow_after(settings: &Settings) -> Duration {
    settings.duration("warning-unary-request-duration").positive().unwrap_or(SLOW_AFTER_DEFAULT)
}

fn watch_progress_interval(settings: &Settings) -> Duration {
    let (name, old_name) = ("watch-progress-notify-interval", "experimental-watch-progress-notify-interval");
    if settings.is_given(old_name) {
        tracing::warn!(
            "--{old_name} is deprecated in v3.6 and will be decommissioned in v3.7. Use '--{name}' instead."
        );
    }
    let asked = if settings.is_given(name) { settings.duration(name) } else { settings.duration(old_name) };
    match asked.positive() {
        None => WATCH_PROGRESS_INTERVAL_DEFAULT,
        Some(interval) if interval < WATCH_PROGRESS_INTERVAL_MIN => {
            tracing::warn!(
                min_watch_progress_notify_interval = "100ms",
                "adjusting watch progress notify interval to minimum period"
            );
            WATCH_PROGRESS_INTERVAL_MIN
        }
        Some(interval) => interval,
    }
}

/// The address from which this machine would send to the world. Nothing is sent: connecting a datagram socket only asks the
/// kernel for the route.
pub fn route_address() -> Result<IpAddr, String> {
    let ask = |bind: &str, to: &str| -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(bind)?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    // Addresses reserved for documentation: on no real network, but behind the default route.
    ask("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|_| ask("[::]:0", "[2001:db8::1]:9"))
        .map_err(|error| format!("no default route: {error}"))
}

impl Config {
    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.member.data_dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{self, Asked};

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

    fn config(line: &[&str]) -> Result<Config, String> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        match flags::read(&words) {
            Ok(Asked::Run(settings)) => build(&settings, || Ok(HOST)),
            other => panic!("{other:?}"),
        }
    }

    fn refused(line: &[&str]) -> String {
        config(line).err().unwrap_or_else(|| panic!("{line:?} is accepted"))
    }

    #[test]
    fn progress_notices_by_either_name() {
        let interval = |line: &[&str]| config(line).unwrap().api.watch_progress_interval;
        assert_eq!(interval(&[]), Duration::from_secs(600));
        assert_eq!(interval(&["--watch-progress-notify-interval=3s"]), Duration::from_secs(3));
        assert_eq!(interval(&["--watch-progress-notify-interval=1ms"]), Duration::from_millis(100));
        let old = "--experimental-watch-progress-notify-interval=5s";
        assert_eq!(interval(&[old]), Duration::from_secs(5));
        assert_eq!(interval(&[old, "--watch-progress-notify-interval=3s"]), Duration::from_secs(3));
    }

    #[test]
    fn defaults_are_etcds() {
        let config = config(&[]).unwrap();
        let member = &config.member;
        assert_eq!(member.data_dir, Path::new("default.etcd"));
        assert_eq!(member.wal_dir, None);
        assert_eq!(member.initial_cluster, [("default".to_owned(), vec![DEFAULT_PEER_URL.to_owned()])]);
        assert_eq!((member.heartbeat_ms, member.election_ms), (100, 1000));
        assert_eq!((member.snapshot_count, member.snapshot_catchup_entries), (10_000, 5_000));
        assert_eq!(member.quota_bytes, Some(2_147_483_648));
        assert_eq!((member.max_txn_ops, member.max_request_bytes), (128, 1_572_864));
        assert_eq!(member.flush_interval, Duration::from_millis(100));
        assert_eq!((member.compaction_batch_rows, member.compaction_interval), (1000, Duration::from_millis(10)));
        assert!(member.pre_vote && !member.unsafe_no_fsync && member.bootstrap_defrag_threshold_bytes.is_none());
        assert_eq!(member.initial_cluster_state, ClusterState::New);
        assert!(!member.force_new_cluster && member.strict_reconfig_check);
        assert_eq!(config.server.max_concurrent_streams, u32::MAX);
        assert_eq!(config.server.keepalive_interval, Some(Duration::from_secs(7200)));
    }

    #[test]
    fn settings_reach_the_member() {
        let config = config(&[
            "--name=n",
            "--data-dir=/d",
            "--wal-dir=/w",
            "--initial-cluster=n=http://a:2,n=http://a:1",
            "--initial-cluster-token=t",
            "--initial-advertise-peer-urls=http://a:1,http://a:2",
            "--listen-client-urls=http://127.0.0.1:5",
            "--advertise-client-urls=http://c:5",
            "--quota-backend-bytes=-1",
            "--backend-batch-interval=5ms",
            "--compaction-batch-limit=7",
            "--compaction-sleep-interval=1s",
            "--bootstrap-defrag-threshold-megabytes=3",
            "--max-txn-ops=3",
            "--grpc-keepalive-timeout=0",
            "--grpc-keepalive-min-time=7s",
            "--socket-reuse-port",
            "--initial-cluster-state=existing",
            "--force-new-cluster",
            "--strict-reconfig-check=false",
            "--raft-read-timeout=7s",
            "--raft-write-timeout=1s",
            "--feature-gates=PriorityRequest=true,FastLeaseKeepAlive=false",
        ])
        .unwrap();
        let member = &config.member;
        assert_eq!((member.data_dir.to_str(), member.wal_dir.as_deref()), (Some("/d"), Some(Path::new("/w"))));
        assert_eq!(member.initial_cluster, [("n".to_owned(), vec!["http://a:1".to_owned(), "http://a:2".to_owned()])]);
        assert_eq!(member.advertise_client_urls, ["http://c:5"]);
        assert_eq!((member.quota_bytes, member.max_txn_ops), (None, 3));
        assert_eq!(member.flush_interval, Duration::from_millis(5));
        assert_eq!((member.compaction_batch_rows, member.compaction_interval), (7, Duration::from_secs(1)));
        assert_eq!(member.bootstrap_defrag_threshold_bytes, Some(3_145_728));
        assert_eq!(config.server.keepalive_interval, None);
        assert_eq!(config.server.keepalive_min_time, Duration::from_secs(7));
        assert!(config.listen.reuse_port);
        assert_eq!(member.initial_cluster_state, ClusterState::Existing);
        assert!(member.force_new_cluster && !member.strict_reconfig_check);
        assert!(member.revocations_go_first && !member.renewals_count_at_once);
        assert_eq!(member.peer_limits, PeerLimits { read: Duration::from_secs(7), write: PEER_LIMIT_MIN });
    }

    #[test]
    fn peers_are_connected_to_from_the_first_address_that_others_can_reach() {
        let urls = "--initial-advertise-peer-urls=http://127.0.0.1:1,http://h:1,http://10.0.0.7:1,http://10.0.0.8:1";
        let cluster = "--initial-cluster=default=http://127.0.0.1:1,default=http://h:1,default=http://10.0.0.7:1,\
                       default=http://10.0.0.8:1";
        let from = |gates: &str| config(&[urls, cluster, gates]).unwrap().connects_from;
        assert_eq!(from("--feature-gates=SetMemberLocalAddr=true"), Some("10.0.0.7".parse().unwrap()));
        assert_eq!(from("--feature-gates=SetMemberLocalAddr=false"), None);
        assert_eq!(config(&["--feature-gates=SetMemberLocalAddr=true"]).unwrap().connects_from, None);
    }

    #[test]
    fn a_name_alone_renames_the_founding_member() {
        let cluster = |line: &[&str]| config(line).unwrap().member.initial_cluster;
        assert_eq!(cluster(&["--name=x"]), [("x".to_owned(), vec![DEFAULT_PEER_URL.to_owned()])]);
        assert_eq!(
            cluster(&["--name=x", "--initial-advertise-peer-urls=http://h:1"]),
            [("x".to_owned(), vec!["http://h:1".to_owned()])]
        );
        assert_eq!(
            cluster(&["--name=x", "--initial-cluster=y=http://h:1"]),
            [("y".to_owned(), vec!["http://h:1".to_owned()])]
        );
    }

    #[test]
    fn listening_everywhere_advertises_this_machine() {
        let config = config(&["--name=x", "--listen-peer-urls=http://0.0.0.0:77"]).unwrap();
        assert_eq!(config.member.advertise_peer_urls, ["http://10.1.2.3:77"]);
        assert_eq!(config.member.initial_cluster, [("x".to_owned(), vec!["http://10.1.2.3:77".to_owned()])]);
        assert_eq!(config.member.advertise_client_urls, [DEFAULT_CLIENT_URL]);
    }

    #[test]
    fn refused_with_etcds_words() {
        for (line, text) in [
            (["--listen-client-urls=http://127.0.0.1:1"].as_slice(), ADVERTISE_REQUIRED),
            (&["--listen-client-urls=http://foo:1234"], "expected IP in URL for binding (http://foo:1234)"),
            (
                &["--initial-advertise-peer-urls=http://:1"],
                "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
            ),
            (
                &["--heartbeat-interval=500"],
                "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[500ms]",
            ),
            (
                &["--election-timeout=60000"],
                "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            ),
            (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
            (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
            (&["--auto-compaction-mode=x"], "unknown auto-compaction-mode \"x\""),
            (
                &["--auto-compaction-retention=1d"],
                "error parsing CompactionRetention: time: unknown unit \"d\" in duration \"1d\"",
            ),
            (
                &["--auto-compaction-retention=-1"],
                "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
            ),
            (&["--auto-compaction-retention=-1h"], "--auto-compaction-retention must be >=0 (set to -1h)"),
            (
                &["--listen-client-http-urls=http://localhost:2379"],
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379",
            ),
            (&["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
            (&["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
            (
                &["--discovery-srv=x", "--initial-cluster=a=http://b:1"],
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
            ),
            (
                &["--discovery-fallback=proxy"],
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
            ),
            (
                &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"],
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
            ),
            (
                &["--initial-cluster=a=b"],
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: b",
            ),
        ] {
            assert_eq!(refused(line), text);
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let text = refused(&["--cert-file=a", "--key-file=b", "--discovery-srv=x"]);
        assert_eq!(
            text,
            "this version of Quorate does not have TLS (--cert-file, --key-file), discovery (--discovery-srv): start without \
             these settings"
        );
        assert!(refused(&["--listen-peer-urls=https://127.0.0.1:1"]).contains("--listen-peer-urls with https"));
        assert_eq!(
            refused(&["--feature-gates=LeaseCheckpointPersist=true"]),
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
        );
    }

    #[test]
    fn who_may_ask_over_http() {
        let config = config(&[
            "--cors=http://b:2,http://a:1",
            "--host-whitelist=h",
            "--enable-grpc-gateway=false",
            "--listen-client-http-urls=http://127.0.0.1:7",
            "--listen-metrics-urls=http://127.0.0.1:8",
            "--feature-gates=StopGRPCServiceOnDefrag=true",
        ])
        .unwrap();
        assert_eq!(
            (config.api.access.origins, config.api.access.hosts),
            (vec!["http://a:1".into(), "http://b:2".into()], vec!["h".into()])
        );
        assert!(!config.api.has_gateway && config.api.unwell_in_defragmentation);
        assert_eq!(
            (urls::texts(&config.listen_http), urls::texts(&config.listen_metrics)),
            (vec!["http://127.0.0.1:7".into()], vec!["http://127.0.0.1:8".into()])
        );
    }

    #[test]
    fn what_is_kept_by_itself_is_read_as_etcd_reads_it() {
        let kept = |line: &[&str]| config(line).unwrap().member.auto_compaction;
        let hours = |hours: u64| Some(AutoCompaction::Periodic(Duration::from_secs(3600 * hours)));
        let revisions = |kept| Some(AutoCompaction::Revision { kept, interval: REVISION_INTERVAL });
        assert_eq!(kept(&[]), None);
        assert_eq!(kept(&["--auto-compaction-retention="]), None);
        assert_eq!(kept(&["--auto-compaction-retention=2"]), hours(2));
        assert_eq!(
            kept(&["--auto-compaction-retention=90m"]),
            Some(AutoCompaction::Periodic(Duration::from_secs(5400)))
        );
        assert_eq!(kept(&["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"]), revisions(1000));
        assert_eq!(kept(&["--auto-compaction-mode=revision", "--auto-compaction-retention=2us"]), revisions(2000));
    }

    #[test]
    fn what_equals_its_default_is_accepted() {
        for line in [
            ["--auth-token=simple", "--cert-file=", "--cors=*", "--host-whitelist=*"].as_slice(),
            &["--auto-compaction-retention=0", "--auto-compaction-mode=revision", "--tls-min-version=TLS1.2"],
            &["--initial-cluster-state=new", "--feature-gates=FastLeaseKeepAlive=true", "--corrupt-check-time=0"],
            &["--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true", "--corrupt-check-time=1m"],
            &["--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true"],
            &["--max-wals=9", "--snapshot", "--v2-deprecation=gone", "--strict-reconfig-check=false"],
        ] {
            assert!(config(line).is_ok(), "{line:?}: {:?}", config(line).err());
        }
    }
}
