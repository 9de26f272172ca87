//! Whether two lists of peer URLs lead to the same places.
//!
//! A cluster knows its members' URLs as they were first written; an operator may write a host's name where another wrote its
//! address. So lists that differ as text are compared once more with every name looked up, which can take a while just after
//! a machine has got its name: it is tried again each second.
//!
//! Source: etcd `pkg/netutil/netutil.go` (`URLStringsEqual`), `host_normalize.go`. `localhost` is never looked up.

use std::net::IpAddr;
use std::time::Duration;

use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;

/// How long names are looked up, for all comparisons of one start together.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(30);

/// Time between two look-ups of one name.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A URL taken apart. The host has no brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    scheme: String,
    host: String,
    port: Option<u16>,
    rest: String,
}

impl Place {
    fn of(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_unix = matches!(scheme, "unix" | "unixs");
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !is_unix => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (authority, None),
            },
            _ => (authority, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // One address has many spellings.
        let host = host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |ip| ip.to_string());
        Self { scheme: scheme.to_owned(), host, port, rest: rest.to_owned() }
    }

    /// The place with its host looked up.
    async fn resolved(&self, rt: &Rt, url: &str, deadline: MonoTime) -> Result<Self, String> {
        let Some(port) = self.port else { return Ok(self.clone()) };
        if self.host == "localhost" || self.host.parse::<IpAddr>().is_ok() {
            return Ok(self.clone());
        }
        loop {
            let found = rt.lookup_host(self.host.clone(), port).await;
            let why = match found.as_deref() {
                Ok([first, ..]) => {
                    tracing::info!(url, host = self.host, resolved_addr = %first, "resolved URL Host");
                    return Ok(Self { host: first.ip().to_string(), ..self.clone() });
                }
                Ok([]) => "the name has no address".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(url, host = self.host, retry_interval = "1s", error = why, "failed to resolve URL Host");
            if rt.mono_now() + RETRY_AFTER > deadline {
                return Err(format!("failed to resolve {url:?} (lookup {}: {why})", self.host));
            }
            rt.sleep(RETRY_AFTER).await;
        }
    }
}

/// Compares two lists, in any order. The error says how they differ.
pub async fn compare(rt: &Rt, a: &[String], b: &[String], deadline: MonoTime) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", quoted(a), quoted(b)));
    }
    let places = |urls: &[String]| {
        let mut places: Vec<Place> = urls.iter().map(|url| Place::of(url)).collect();
        places.sort_unstable();
        places
    };
    if places(a) == places(b) {
        return Ok(());
    }
    let (resolved_a, resolved_b) = (resolve(rt, a, deadline).await?, resolve(rt, b, deadline).await?);
    match resolved_a.iter().zip(&resolved_b).find(|(a, b)| a != b) {
        None => Ok(()),
        Some((a, b)) => Err(format!("resolved urls: {:?} != {:?}", a.text(), b.text())),
    }
}

async fn resolve(rt: &Rt, urls: &[String], deadline: MonoTime) -> Result<Vec<Place>, String> {
    let mut places = Vec::with_capacity(urls.len());
    for url in urls {
        places.push(Place::of(url).resolved(rt, url, deadline).await?);
    }
    places.sort_unstable();
    Ok(places)
}

impl Place {
    fn text(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        format!("{}://{host}{port}{}", self.scheme, self.rest)
    }
}

/// As Go prints a list of strings in quotes.
fn quoted(urls: &[String]) -> String {
    let quoted: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
    format!("[{}]", quoted.join(" "))
}
