//! Every flag of etcd 3.7, with what this version does about it, and the one that etcd lacks: `max-inflight-bytes`.
//!
//! One table feeds the parser, the help text, the environment variables and the check of what is not built yet. Names, kinds
//! and defaults are etcd's; the sentences are ours.

use super::value::Kind;
use Kind::{Bool, Duration, FeatureGates, Int, OneOf, OneOfRepeating, Origins, Text, Uint, Uint32, Urls, Words};

/// What this version does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// What etcd does with it.
    Works,
    /// Accepted. A value other than the default gets a warning with this reason why it changes nothing.
    NoEffect(&'static str),
    /// A value other than the default is refused, naming what is missing: an operator who asks for it must not believe to
    /// have it.
    Missing(&'static str),
    /// A name from before etcd 2.0 that etcd still parses, and drops with a warning.
    Dropped,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Text of the default; goes through the same parser as any value.
    pub default: &'static str,
    /// For the help text.
    pub help: &'static str,
    /// What we do with it.
    pub support: Support,
}

/// Flags under one heading of the help text.
pub struct Group {
    /// The heading.
    pub heading: &'static str,
    /// In the order of the help text.
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help, support: Support::Works }
}

impl Flag {
    const fn missing(mut self, what: &'static str) -> Flag {
        self.support = Support::Missing(what);
        self
    }

    const fn no_effect(mut self, why: &'static str) -> Flag {
        self.support = Support::NoEffect(why);
        self
    }
}

const fn dropped(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Dropped, default: "", help: "", support: Support::Dropped }
}

/// Headings in the order of the help text. The last one is not shown.
pub const GROUPS: &[Group] = &[
    Group { heading: "Member", flags: MEMBER },
    Group { heading: "Clustering", flags: CLUSTERING },
    Group { heading: "Security", flags: SECURITY },
    Group { heading: "Auth", flags: AUTH },
    Group { heading: "Profiling and Monitoring", flags: MONITORING },
    Group { heading: "Logging", flags: LOGGING },
    Group { heading: "Distributed tracing", flags: TRACING },
    Group { heading: "Features", flags: FEATURES },
    Group { heading: "Unsafe feature", flags: UNSAFE },
    Group { heading: HIDDEN_HEADING, flags: HIDDEN },
];

/// The heading of what the help text leaves out.
pub const HIDDEN_HEADING: &str = "";

/// All flags.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

const TLS: &str = "TLS";
const AUTHENTICATION: &str = "users and roles";
const DISCOVERY: &str = "discovery";
const OPENTELEMETRY: &str = "OpenTelemetry tracing";

const MEMBER: &[Flag] = &[
    flag("name", Text, "default", "Name of this member, as people read it."),
    flag("data-dir", Text, "", "Directory of the member's data (empty: ${name}.etcd)."),
    flag("wal-dir", Text, "", "Directory of the log, if it shall not lie in the data directory."),
    flag("snapshot-count", Uint, "10000", "Applied entries between two snapshots of Raft's log."),
    flag("heartbeat-interval", Uint, "100", "Time between two heartbeats, in milliseconds."),
    flag("election-timeout", Uint, "1000", "Time without a leader until an election, in milliseconds."),
    flag("initial-election-tick-advance", Bool, "true", "Start the first election early.")
        .no_effect("the first election waits for a whole timeout, unless the member is alone"),
    flag("listen-peer-urls", Urls, "http://localhost:2380", "URLs to listen on for other members."),
    flag("listen-client-urls", Urls, "http://localhost:2379", "URLs to listen on for clients, gRPC and HTTP."),
    flag(
        "listen-client-http-urls",
        Urls,
        "",
        "URLs to listen on for clients over plain HTTP only; the others then serve gRPC only.",
    ),
    flag("max-snapshots", Uint, "5", "Snapshot files to keep.").no_effect("there are no separate snapshot files"),
    flag("max-wals", Uint, "5", "Log files to keep.")
        .no_effect("log files are removed as soon as the database holds what is in them"),
    flag("memory-mlock", Bool, "false", "Lock the member's memory, so that it is never swapped out."),
    flag(
        "quota-backend-bytes",
        Int,
        "0",
        "Size of the database at which writes are refused (0: 2 GiB, negative: no limit).",
    ),
    flag("backend-bbolt-freelist-type", Text, "map", "Kind of bbolt's list of free pages.")
        .no_effect("the database is not bbolt"),
    flag("backend-batch-interval", Duration, "0s", "Longest time until applied changes go to the database (0: 100ms)."),
    flag("backend-batch-limit", Int, "0", "Changes until they go to the database.")
        .no_effect("batches are bounded by time and by bytes"),
    flag("max-txn-ops", Uint, "128", "Most operations in each part of a transaction."),
    flag("max-request-bytes", Uint, "1572864", "Largest request, in bytes."),
    flag(
        "max-inflight-bytes",
        Uint,
        "268435456",
        "Bytes of large requests under way, and as many of large answers; who finds no room waits (0: no limit).",
    ),
    flag("max-concurrent-streams", Uint32, "4294967295", "Most requests in flight on one connection."),
    flag(
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        "Least time between two pings of a client; who pings oftener is cut off (0: 5m0s).",
    ),
    flag("grpc-keepalive-interval", Duration, "2h0m0s", "Silence after which a connection is pinged (0: never)."),
    flag("grpc-keepalive-timeout", Duration, "20s", "Time that a ping may stay unanswered (0: no pings)."),
    flag("socket-reuse-port", Bool, "false", "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", Bool, "false", "Set SO_REUSEADDR on listeners."),
    flag("raft-read-timeout", Duration, "5s", "Longest wait for bytes from a peer, at least 5s."),
    flag("raft-write-timeout", Duration, "5s", "Longest wait to send bytes to a peer, at least 5s."),
    flag("enable-grpc-gateway", Bool, "true", "Serve gRPC's calls as JSON over HTTP, too."),
    flag("feature-gates", FeatureGates, "", "Switches of features that are not final, as Name=true,Other=false."),
    flag("config-file", Text, "", "A YAML file with all settings; other flags and variables are then ignored."),
];

const CLUSTERING: &[Flag] = &[
    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", "This member's URLs, as other members are told."),
    flag("advertise-client-urls", Urls, "http://localhost:2379", "This member's URLs, as clients are told."),
    flag("initial-cluster", Text, "default=http://localhost:2380", "Founding members, as name=url,name=url."),
    flag(
        "initial-cluster-state",
        OneOf(&["new", "existing"]),
        "new",
        "Found a cluster ('new') or join one ('existing'); ignored once the member has data.",
    ),
    flag("initial-cluster-token", Text, "etcd-cluster", "Goes into the ids, so that clusters founded alike differ."),
    flag("discovery-endpoints", Words, "", "Where the discovery service is.").missing(DISCOVERY),
    flag("discovery-token", Text, "", "Token of the cluster at the discovery service.").missing(DISCOVERY),
    flag("discovery-dial-timeout", Duration, "2s", "Longest wait for a connection to it.").missing(DISCOVERY),
    flag("discovery-request-timeout", Duration, "5s", "Longest wait for an answer of it.").missing(DISCOVERY),
    flag("discovery-keepalive-time", Duration, "2s", "Time between pings to it.").missing(DISCOVERY),
    flag("discovery-keepalive-timeout", Duration, "6s", "Time that a ping to it may stay unanswered.").missing(DISCOVERY),
    flag("discovery-insecure-transport", Bool, "true", "Talk to it without TLS.").missing(DISCOVERY),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", "Do not check its certificate.").missing(DISCOVERY),
    flag("discovery-cert", Text, "", "Certificate to show it.").missing(DISCOVERY),
    flag("discovery-key", Text, "", "Key of that certificate.").missing(DISCOVERY),
    flag("discovery-cacert", Text, "", "Authorities that may vouch for it.").missing(DISCOVERY),
    flag("discovery-user", Text, "", "User at the discovery service.").missing(DISCOVERY),
    flag("discovery-password", Text, "", "Password of that user.").missing(DISCOVERY),
    flag("discovery-fallback", OneOf(&["exit", "proxy"]), "exit", "What to do when discovery fails; only 'exit'."),
    flag("discovery-srv", Text, "", "DNS domain whose service records name the members.").missing(DISCOVERY),
    flag("discovery-srv-name", Text, "", "Suffix to the name of those records.").missing(DISCOVERY),
    flag("strict-reconfig-check", Bool, "true", "Refuse membership changes that would cost the quorum."),
    flag("pre-vote", Bool, "true", "Ask for votes before raising the term."),
    flag("auto-compaction-mode", Text, "periodic", "Unit of the retention: 'periodic' or 'revision'."),
    flag(
        "auto-compaction-retention",
        Text,
        "0",
        "History to keep: hours or a duration such as 30m, or a number of revisions (0: never compact by itself).",
    ),
    flag(
        "v2-deprecation",
        OneOfRepeating(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "write-only",
        "Phase of the v2 store's removal.",
    )
    .no_effect("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input"),
];

const SECURITY: &[Flag] = &[
    flag("cert-file", Text, "", "Certificate of the client listeners.").missing(TLS),
    flag("key-file", Text, "", "Key of that certificate.").missing(TLS),
    flag("client-cert-file", Text, "", "Certificate for own connections as a client.").missing(TLS),
    flag("client-key-file", Text, "", "Key of that certificate.").missing(TLS),
    flag("client-cert-auth", Bool, "false", "Ask clients for a certificate.").missing(TLS),
    flag("client-crl-file", Text, "", "List of revoked client certificates.").missing(TLS),
    flag("client-cert-allowed-hostname", Words, "", "Host names that client certificates may have.").missing(TLS),
    flag("trusted-ca-file", Text, "", "Authorities that may vouch for clients.").missing(TLS),
    flag("auto-tls", Bool, "false", "Make own certificates for the client listeners.").missing(TLS),
    flag("peer-cert-file", Text, "", "Certificate of the peer listeners.").missing(TLS),
    flag("peer-key-file", Text, "", "Key of that certificate.").missing(TLS),
    flag("peer-client-cert-file", Text, "", "Certificate for connections to peers.").missing(TLS),
    flag("peer-client-key-file", Text, "", "Key of that certificate.").missing(TLS),
    flag("peer-client-cert-auth", Bool, "false", "Ask peers for a certificate.").missing(TLS),
    flag("peer-trusted-ca-file", Text, "", "Authorities that may vouch for peers.").missing(TLS),
    flag("peer-cert-allowed-cn", Words, "", "Common names that peer certificates may have.").missing(TLS),
    flag("peer-cert-allowed-hostname", Words, "", "Host names that peer certificates may have.").missing(TLS),
    flag("peer-auto-tls", Bool, "false", "Make own certificates for the peer listeners.").missing(TLS),
    flag("peer-crl-file", Text, "", "List of revoked peer certificates.").missing(TLS),
    flag("peer-skip-client-san-verification", Bool, "false", "Do not check the names in peer certificates.")
        .missing(TLS),
    flag("self-signed-cert-validity", Uint, "1", "Years that own certificates are valid.").missing(TLS),
    flag("cipher-suites", Words, "", "Cipher suites of TLS 1.2.").missing(TLS),
    flag("tls-min-version", Text, "TLS1.2", "Lowest version of TLS.").missing(TLS),
    flag("tls-max-version", Text, "", "Highest version of TLS.").missing(TLS),
    flag("cors", Origins, "*", "Origins whose pages may call (* for all)."),
    flag("host-whitelist", Words, "*", "Host names that HTTP requests may name (* for all)."),
];

const AUTH: &[Flag] = &[
    flag("auth-token", Text, "simple", "Kind of tokens.").missing(AUTHENTICATION),
    flag("bcrypt-cost", Uint, "10", "Cost of hashing a password.").missing(AUTHENTICATION),
    flag("auth-token-ttl", Uint, "300", "Seconds that a simple token lives.").missing(AUTHENTICATION),
];

const MONITORING: &[Flag] = &[
    flag("enable-pprof", Bool, "false", "Serve profiles of the process under /debug/pprof/."),
    flag("metrics", Text, "basic", "Level of metrics; 'extensive' adds latencies of gRPC calls."),
    flag("listen-metrics-urls", Urls, "", "Further URLs to listen on for /metrics and /health."),
];

const LOGGING: &[Flag] = &[
    flag("logger", Text, "zap", "Kind of log; only 'zap'."),
    flag(
        "log-outputs",
        Words,
        "default",
        "Where log lines go: default, stderr, stdout or files, separated by commas; or systemd/journal.",
    ),
    flag("log-level", Text, "info", "Least level that is shown: debug, info, warn, error, panic or fatal."),
    flag("log-format", Text, "json", "Form of log lines: json or console."),
    flag("enable-log-rotation", Bool, "false", "Put the log file aside when it is full."),
    flag(
        "log-rotation-config-json",
        Text,
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        "When to put the log file aside (maxsize, in megabytes) and what to keep (maxage, in days; maxbackups).",
    ),
    flag("warning-unary-request-duration", Duration, "300ms", "Requests slower than this are logged."),
];

const TRACING: &[Flag] = &[
    flag("enable-distributed-tracing", Bool, "false", "Send traces to a collector.").missing(OPENTELEMETRY),
    flag("distributed-tracing-address", Text, "localhost:4317", "Address of the collector.").missing(OPENTELEMETRY),
    flag("distributed-tracing-service-name", Text, "etcd", "Name of the service in traces.").missing(OPENTELEMETRY),
    flag("distributed-tracing-instance-id", Text, "", "Name of this member in traces.").missing(OPENTELEMETRY),
    flag("distributed-tracing-sampling-rate", Int, "0", "Traces kept out of a million.").missing(OPENTELEMETRY),
];

const FEATURES: &[Flag] = &[
    flag("corrupt-check-time", Duration, "0s", "Time between comparisons of all members' data (0: never)."),
    flag(
        "compact-hash-check-time",
        Duration,
        "1m0s",
        "Time between comparisons of compaction hashes, if the gate CompactHashCheck is on.",
    ),
    flag("compaction-batch-limit", Int, "0", "Revisions that compaction removes at a time (0: 1000)."),
    flag("compaction-sleep-interval", Duration, "0s", "Pause between two such batches (0: 10ms)."),
    flag("watch-progress-notify-interval", Duration, "0s", "Time between progress notices of a watch (0: 10m)."),
    flag("warning-apply-duration", Duration, "100ms", "Requests that take longer to read or to apply are logged."),
    flag("bootstrap-defrag-threshold-megabytes", Uint, "0", "Defragment at start if that frees so much (0: never)."),
    flag("max-learners", Int, "1", "Most members without a vote."),
    flag("downgrade-check-time", Duration, "5s", "Time between checks of a downgrade.")
        .no_effect("the leader looks every four seconds"),
    flag("snapshot-catchup-entries", Uint, "5000", "Entries kept behind a snapshot for slow followers."),
];

const UNSAFE: &[Flag] = &[
    flag(
        "force-new-cluster",
        Bool,
        "false",
        "Drop all other members, and what they may not have seen, and go on alone.",
    ),
    flag("unsafe-no-fsync", Bool, "false", "Do not wait for the disk: a power cut loses acknowledged writes."),
];

const HIDDEN: &[Flag] = &[
    flag("version", Bool, "false", "Show the version and end."),
    flag(
        "experimental-watch-progress-notify-interval",
        Duration,
        "0s",
        "The name of watch-progress-notify-interval in 3.4.",
    ),
    dropped("cluster-active-size"),
    dropped("cluster-remove-delay"),
    dropped("cluster-sync-interval"),
    dropped("config"),
    dropped("force"),
    dropped("max-result-buffer"),
    dropped("max-retry-attempts"),
    dropped("peer-heartbeat-interval"),
    dropped("peer-election-timeout"),
    dropped("retry-interval"),
    dropped("snapshot"),
    dropped("v"),
    dropped("vv"),
    dropped("test.coverprofile"),
    dropped("test.outputdir"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::value::Value;
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_are_valid() {
        let mut names = BTreeSet::new();
        for flag in all() {
            assert!(names.insert(flag.name), "{} is there twice", flag.name);
            let default = flag.kind.parse(flag.default);
            assert!(default.is_ok(), "{}: {default:?}", flag.name);
            assert!(flag.kind != Kind::Urls || flag.default.is_empty() || default != Ok(Value::Nothing));
            assert_eq!(flag.kind == Kind::Dropped, flag.support == Support::Dropped);
        }
    }
}
