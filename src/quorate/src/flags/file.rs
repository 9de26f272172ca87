//! The configuration file: YAML or JSON, with etcd's keys.
//!
//! With a file nothing else counts: neither flags nor variables (etcd `server/etcdmain/config.go`). Keys are the flags' names, but
//! for some groups ([`PLACES`]). Values have the types of etcd's structures (`server/embed/config.go`), which are not those of
//! the flags: lengths of time are whole nanoseconds, some lists are lists. A key that etcd does not know says nothing there; here
//! the log names it, with the one that was probably meant.

use std::fs;

use quorate_types::GoDuration;
use serde_json::{Map, Value as Json};

use super::table::{self, Flag};
use super::value::{Kind, Value};
use super::{Origin, Settings};

/// Flags whose place in the file is not their name.
const PLACES: &[(&str, &str)] = &[
    ("socket-reuse-port", "socket-options.reuse-port"),
    ("socket-reuse-address", "socket-options.reuse-address"),
    ("discovery-endpoints", "discovery-config.client.endpoints"),
    ("discovery-token", "discovery-config.token"),
    ("discovery-dial-timeout", "discovery-config.client.dial-timeout"),
    ("discovery-request-timeout", "discovery-config.client.request-timeout"),
    ("discovery-keepalive-time", "discovery-config.client.keepalive-time"),
    ("discovery-keepalive-timeout", "discovery-config.client.keepalive-timeout"),
    ("discovery-insecure-transport", "discovery-config.client.secure.insecure-transport"),
    ("discovery-insecure-skip-tls-verify", "discovery-config.client.secure.insecure-skip-tls-verify"),
    ("discovery-cert", "discovery-config.client.secure.cert"),
    ("discovery-key", "discovery-config.client.secure.key"),
    ("discovery-cacert", "discovery-config.client.secure.cacert"),
    ("discovery-user", "discovery-config.client.auth.username"),
    ("discovery-password", "discovery-config.client.auth.password"),
    ("cert-file", "client-transport-security.cert-file"),
    ("key-file", "client-transport-security.key-file"),
    ("client-cert-file", "client-transport-security.client-cert-file"),
    ("client-key-file", "client-transport-security.client-key-file"),
    ("client-cert-auth", "client-transport-security.client-cert-auth"),
    ("client-cert-allowed-hostname", "client-transport-security.allowed-hostname"),
    ("trusted-ca-file", "client-transport-security.trusted-ca-file"),
    ("auto-tls", "client-transport-security.auto-tls"),
    ("peer-cert-file", "peer-transport-security.cert-file"),
    ("peer-key-file", "peer-transport-security.key-file"),
    ("peer-client-cert-file", "peer-transport-security.client-cert-file"),
    ("peer-client-key-file", "peer-transport-security.client-key-file"),
    ("peer-client-cert-auth", "peer-transport-security.client-cert-auth"),
    ("peer-trusted-ca-file", "peer-transport-security.trusted-ca-file"),
    ("peer-cert-allowed-cn", "peer-transport-security.allowed-cn"),
    ("peer-cert-allowed-hostname", "peer-transport-security.allowed-hostname"),
    ("peer-auto-tls", "peer-transport-security.auto-tls"),
    ("peer-skip-client-san-verification", "peer-transport-security.skip-client-san-verification"),
];

/// Flags that a file cannot set.
const NOT_IN_FILES: &[&str] = &[
    "config-file",
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-fallback",
    "client-crl-file",
    "peer-crl-file",
];

/// Flags whose values are lists in the file; the other lists are texts with commas.
const LISTS: &[&str] = &[
    "log-outputs",
    "cipher-suites",
    "discovery-endpoints",
    "client-cert-allowed-hostname",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// What a file says.
#[derive(Debug)]
pub struct Loaded {
    /// The settings, whatever flags and variables say.
    pub settings: Settings,
    /// Keys that nobody knows, each with the nearest one that is known.
    pub unknown: Vec<(String, Option<&'static str>)>,
}

impl Loaded {
    /// Writes into the log what came of the file.
    pub fn log(&self, path: &str) {
        tracing::info!(
            path,
            "loaded server configuration, other configuration command line flags and environment variables will be ignored if \
             provided"
        );
        for (key, nearest) in &self.unknown {
            let nearest = nearest.unwrap_or_default();
            tracing::warn!(path, key, nearest, "the configuration file has a key that nobody knows; it says nothing");
        }
    }
}

/// Reads the file.
pub fn load(path: &str) -> Result<Loaded, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("open {path}: {error}"))?;
    read(&text).map_err(|why| format!("{path}: {why}"))
}

fn read(text: &str) -> Result<Loaded, String> {
    let mut given = Map::new();
    // An empty file says nothing.
    match serde_saphyr::from_str::<Option<Json>>(text).map_err(|error| error.to_string())? {
        None | Some(Json::Null) => {}
        Some(Json::Object(members)) => flatten("", members, &mut given),
        Some(_) => return Err("the file must be a mapping of keys to values".to_owned()),
    }
    let mut settings = Settings::defaults();
    for flag in table::all().filter(|flag| is_in_files(flag)) {
        let Some(value) = given.remove(place(flag)).filter(|value| !value.is_null()) else { continue };
        let value = parse(flag, &value).map_err(|why| format!("{}: {why}", place(flag)))?;
        settings.set(flag, value, Origin::File);
    }
    let unknown = given.keys().map(|key| (key.clone(), nearest(key))).collect();
    Ok(Loaded { settings, unknown })
}

/// Keys of mappings in mappings, with dots between them.
fn flatten(prefix: &str, members: Map<String, Json>, flat: &mut Map<String, Json>) {
    for (key, value) in members {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Json::Object(inner) => flatten(&key, inner, flat),
            value => {
                flat.insert(key, value);
            }
        }
    }
}

fn is_in_files(flag: &Flag) -> bool {
    flag.kind != Kind::Dropped && !NOT_IN_FILES.contains(&flag.name)
}

fn place(flag: &Flag) -> &'static str {
    PLACES.iter().find(|(name, _)| *name == flag.name).map_or(flag.name, |(_, place)| place)
}

/// The known key that looks most like `key`, if one does.
fn nearest(key: &str) -> Option<&'static str> {
    let known = table::all().filter(|flag| is_in_files(flag)).map(place);
    let rated = known.map(|known| (strsim::jaro_winkler(known, key), known));
    let best = rated.max_by(|left, right| left.0.total_cmp(&right.0));
    best.filter(|(likeness, _)| *likeness > 0.8).map(|(_, known)| known)
}

/// A value of the file, which has the type of etcd's structure.
fn parse(flag: &Flag, value: &Json) -> Result<Value, String> {
    let wrong = |wanted: &str| format!("cannot unmarshal {value} into {wanted}");
    let whole = || value.as_i64().map(|number| number.to_string()).or_else(|| value.as_u64().map(|n| n.to_string()));
    let text = match (flag.kind, value) {
        (Kind::Words, Json::Array(words)) if LISTS.contains(&flag.name) => {
            let words: Option<Vec<&str>> = words.iter().map(Json::as_str).collect();
            return match words.ok_or_else(|| wrong("a list of strings"))?.as_slice() {
                [] => Ok(Value::Words(Vec::new())),
                words => flag.kind.parse(&words.join(",")),
            };
        }
        (Kind::Words, _) if LISTS.contains(&flag.name) => return Err(wrong("a list of strings")),
        (Kind::Duration, _) => {
            let nanos = value.as_i64().ok_or_else(|| wrong("a number of nanoseconds"))?;
            return Ok(Value::Duration(GoDuration { nanos }));
        }
        (Kind::Bool, Json::Bool(on)) => on.to_string(),
        (Kind::Bool, _) => return Err(wrong("a boolean")),
        (Kind::Int | Kind::Uint | Kind::Uint32, _) => whole().ok_or_else(|| wrong("a whole number"))?,
        // Where text is wanted, a number or a boolean is one.
        (_, Json::String(text)) => text.clone(),
        (_, Json::Number(_) | Json::Bool(_)) => value.to_string(),
        _ => return Err(wrong("a string")),
    };
    // Nothing is what nobody has said.
    if text.is_empty() && !matches!(flag.kind, Kind::Text) {
        return Ok(Value::Nothing);
    }
    flag.kind.parse(&text).map_err(|why| format!("invalid value {value}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        read(text).unwrap_or_else(|why| panic!("{why}\n{text}")).settings
    }

    #[test]
    fn a_file_of_etcds_documentation_is_understood() {
        let settings = settings(
            "# This is the configuration file\n\
             name: 'm1'\n\
             data-dir: /var/lib/etcd\n\
             snapshot-count: 5000\n\
             heartbeat-interval: 100\n\
             quota-backend-bytes: 0\n\
             listen-peer-urls: http://127.0.0.1:2380,http://127.0.0.1:7001\n\
             listen-client-urls: http://localhost:2379\n\
             cors:\n\
             initial-cluster-state: 'new'\n\
             strict-reconfig-check: false\n\
             enable-pprof: false\n\
             auto-compaction-retention: 1\n\
             auto-compaction-mode: periodic\n\
             grpc-keepalive-interval: 7200000000000\n\
             log-outputs: [stderr, /tmp/log]\n\
             feature-gates: LeaseCheckpoint=true\n\
             socket-options:\n  reuse-port: true\n\
             client-transport-security:\n  cert-file: /c\n  client-cert-auth: true\n\
             peer-transport-security:\n  cert-file: /p\n  allowed-cn: [a, b]\n",
        );
        assert_eq!((settings.text("name"), settings.uint("snapshot-count")), ("m1", 5000));
        assert_eq!(settings.urls("listen-peer-urls").len(), 2);
        assert_eq!(settings.words("cors"), ["*"], "nothing is said of it");
        assert!(!settings.bool("strict-reconfig-check") && settings.bool("socket-reuse-port"));
        assert_eq!(settings.text("auto-compaction-retention"), "1");
        assert_eq!(settings.duration("grpc-keepalive-interval").to_string(), "2h0m0s");
        assert_eq!(settings.words("log-outputs"), ["/tmp/log", "stderr"]);
        assert_eq!(settings.gates(), [("LeaseCheckpoint", true)]);
        assert_eq!((settings.text("cert-file"), settings.text("peer-cert-file")), ("/c", "/p"));
        assert!(settings.bool("client-cert-auth"));
        assert_eq!(settings.words("peer-cert-allowed-cn"), ["a", "b"]);
        assert_eq!(settings.origin("name"), Origin::File);
        assert!(!settings.is_given("wal-dir"));
    }

    #[test]
    fn json_is_yaml_and_nothing_is_a_file() {
        assert_eq!(settings(r#"{"name": "j", "max-txn-ops": 7}"#).uint("max-txn-ops"), 7);
        assert_eq!(settings("").text("name"), "default");
        assert_eq!(settings("# nothing\n").text("name"), "default");
    }

    #[test]
    fn values_have_the_types_of_etcds_structures() {
        for (text, key) in [
            ("heartbeat-interval: '100'", "heartbeat-interval"),
            ("heartbeat-interval: 1.5", "heartbeat-interval"),
            ("heartbeat-interval: -1", "heartbeat-interval"),
            ("corrupt-check-time: 5s", "corrupt-check-time"),
            ("pre-vote: 'true'", "pre-vote"),
            ("log-outputs: stderr", "log-outputs"),
            ("name: [a]", "name"),
            ("listen-peer-urls: foo", "listen-peer-urls"),
            ("peer-transport-security:\n  auto-tls: 1", "peer-transport-security.auto-tls"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.starts_with(&format!("{key}: ")), "{text}: {why}");
        }
        for text in ["- a", "name: [", "7"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_that_nobody_knows_are_named_with_what_was_probably_meant() {
        let loaded =
            read("heartbeat-intervall: 5\nname: x\nfoo:\n  bar: 1\npeer-transport-security:\n  certfile: x\n").unwrap();
        let expected = [
            ("foo.bar".to_owned(), None),
            ("heartbeat-intervall".to_owned(), Some("heartbeat-interval")),
            ("peer-transport-security.certfile".to_owned(), Some("peer-transport-security.cert-file")),
        ];
        assert_eq!(loaded.unknown, expected);
        assert_eq!(loaded.settings.text("name"), "x");
    }

    #[test]
    fn every_place_is_a_flags() {
        for (name, _) in PLACES {
            assert!(table::find(name).is_some(), "{name}");
        }
        for name in LISTS.iter().chain(NOT_IN_FILES) {
            assert!(table::find(name).is_some(), "{name}");
        }
    }
}
