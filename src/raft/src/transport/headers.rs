//! What a request between members says about its sender, and what is checked before anything else.

use std::fmt;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use quorate_types::{ClusterId, MemberId};

use super::TransportConfig;
use super::body::RequestBody;
use super::url::PeerUrl;

/// The sender's id.
pub const FROM: HeaderName = HeaderName::from_static("x-server-from");
/// The receiver's id, on streams.
pub const TO: HeaderName = HeaderName::from_static("x-raft-to");
/// The sender's etcd version.
pub const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
/// The oldest version that the sender works with.
pub const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
/// The cluster that both should be in.
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
/// Where the sender can be reached, with commas between.
pub const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");

/// The oldest release that we work with.
const OLDEST: Version = Version { major: 3, minor: 0 };
const OLDEST_TEXT: HeaderValue = HeaderValue::from_static("3.0.0");

/// The texts of a refusal with 412, which the other side compares.
pub const INCOMPATIBLE_VERSION: &str = "incompatible version";
/// See [`INCOMPATIBLE_VERSION`].
pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// A release, as far as compatibility goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    /// The release `major.minor`.
    pub const fn new(major: u64, minor: u64) -> Self {
        Self { major, minor }
    }

    /// The release after this one.
    pub const fn next_minor(self) -> Self {
        Self { major: self.major, minor: self.minor + 1 }
    }

    /// `3.7.1`, `v3.7`, `3.8.0-alpha.0+build`: three numbers, of which the last ones may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(|part| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u64>().ok(),
            false => None,
        });
        let major = parts.next()??;
        let minor = parts.next().unwrap_or(Some(0))?;
        let _patch = parts.next().unwrap_or(Some(0))?;
        parts.next().is_none().then_some(Self { major, minor })
    }

    /// What a header says; none means 2.0, the last release that sent none.
    fn from_header(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        match headers.get(name) {
            None => Some(Self { major: 2, minor: 0 }),
            Some(value) => Self::parse(value.to_str().ok()?),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether a request may be from a member of this cluster, of a release that we work with; else the text to answer.
pub fn check_compatible(headers: &HeaderMap, config: &TransportConfig) -> Result<(), &'static str> {
    let from = text(headers, &FROM).unwrap_or("");
    let remote = Version::from_header(headers, &SERVER_VERSION);
    let remote_oldest = Version::from_header(headers, &MIN_CLUSTER_VERSION);
    let own = Version::parse(config.server_version);
    let fits = remote.is_some_and(|remote| remote >= OLDEST) && remote_oldest.is_some() && remote_oldest <= own;
    if !fits {
        let shown = |version: Option<Version>| version.map_or("unreadable".to_owned(), |version| version.to_string());
        tracing::warn!(
            from,
            version = shown(remote),
            needs_at_least = shown(remote_oldest),
            own_version = config.server_version,
            "refused a request of a member whose version does not fit ours"
        );
        return Err(INCOMPATIBLE_VERSION);
    }
    // As text: etcd compares it so.
    let cluster = text(headers, &CLUSTER_ID).unwrap_or("");
    if cluster != config.cluster_id.to_string() {
        tracing::warn!(from, cluster, own_cluster = %config.cluster_id, "refused a request of a member of another cluster");
        return Err(CLUSTER_ID_MISMATCH);
    }
    Ok(())
}

/// Whether the member that gave this answer can serve streams to us: newer ones can, of older ones those that etcd lists.
pub fn supports_streams(headers: &HeaderMap, own: &str) -> bool {
    let Some(remote) = Version::from_header(headers, &SERVER_VERSION) else { return false };
    let listed = matches!((remote.major, remote.minor), (2, 1..=3) | (3, 0..=7));
    listed || Version::parse(own).is_some_and(|own| remote >= own)
}

/// A header's text, if it is there and is text.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An id as etcd reads it: hex, nothing before or after.
pub fn parse_member_id(text: &str) -> Option<MemberId> {
    match text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => u64::from_str_radix(text, 16).ok().map(MemberId),
        false => None,
    }
}

/// The values that every request of ours carries, made once.
#[derive(Debug)]
pub struct OwnHeaders {
    from: HeaderValue,
    version: HeaderValue,
    cluster: HeaderValue,
    peer_urls: Option<HeaderValue>,
}

impl OwnHeaders {
    /// What `config` says about us.
    ///
    /// # Panics
    /// If the version is not visible ASCII: it is a constant of the program.
    pub fn new(config: &TransportConfig) -> Self {
        let peer_urls = HeaderValue::try_from(config.peer_urls.join(","));
        if let Err(error) = &peer_urls {
            tracing::warn!(urls = ?config.peer_urls, %error, "peers are not told our URLs: they do not fit into a header");
        }
        Self {
            from: hex(config.id),
            version: HeaderValue::from_static(config.server_version),
            cluster: cluster_hex(config.cluster_id),
            peer_urls: peer_urls.ok().filter(|urls| !urls.is_empty()),
        }
    }

    /// Our cluster, for answers.
    pub fn cluster(&self) -> HeaderValue {
        self.cluster.clone()
    }

    /// Our version, for answers.
    pub fn version(&self) -> HeaderValue {
        self.version.clone()
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(FROM, self.from.clone());
        headers.insert(SERVER_VERSION, self.version.clone());
        headers.insert(MIN_CLUSTER_VERSION, OLDEST_TEXT);
        headers.insert(CLUSTER_ID, self.cluster.clone());
        if let Some(urls) = &self.peer_urls {
            headers.insert(PEER_URLS, urls.clone());
        }
    }

    /// A GET of a stream of `to`.
    pub fn stream_request(&self, url: &PeerUrl, path: &str, to: MemberId) -> Request<RequestBody> {
        let mut request = plain_request(Method::GET, url, path, RequestBody::Empty);
        self.add_to(request.headers_mut());
        request.headers_mut().insert(TO, hex(to));
        request
    }

    /// A POST of a message or a snapshot.
    pub fn post(
        &self,
        url: &PeerUrl,
        path: &str,
        content_type: &'static str,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut request = plain_request(Method::POST, url, path, body);
        self.add_to(request.headers_mut());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        request
    }
}

/// A request that says nothing about us.
pub fn plain_request(method: Method, url: &PeerUrl, path: &str, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("paths here are made of letters and slashes");
    request.headers_mut().insert(HOST, url.host_header());
    request
}

fn hex(id: MemberId) -> HeaderValue {
    HeaderValue::try_from(id.to_string()).expect("hex digits")
}

fn cluster_hex(id: ClusterId) -> HeaderValue {
    HeaderValue::try_from(id.to_string()).expect("hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(Version::parse("3.7.1"), version(3, 7));
        assert_eq!(Version::parse("v3.4"), version(3, 4));
        assert_eq!(Version::parse("3"), version(3, 0));
        assert_eq!(Version::parse("3.8.0-alpha.0"), version(3, 8));
        for garbage in ["", "3.x", "three", "3.7.1.2", "+3.7", "3..1"] {
            assert_eq!(Version::parse(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn ids_are_hex_and_nothing_else() {
        assert_eq!(parse_member_id("c922d3972831acef"), Some(MemberId(0xc922_d397_2831_acef)));
        assert_eq!(parse_member_id("00AF"), Some(MemberId(0xaf)));
        for garbage in ["", "+1", "0x1", "g", "1ffffffffffffffff"] {
            assert_eq!(parse_member_id(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn older_answers_support_streams_if_etcd_lists_them() {
        let with = |version: &'static str| {
            supports_streams(&HeaderMap::from_iter([(SERVER_VERSION, HeaderValue::from_static(version))]), "3.7.1")
        };
        assert!(with("3.4.23") && with("3.7.0") && with("3.9.0") && with("2.3.7") && with("4.0.0"));
        assert!(!with("2.0.13") && !with("2.5.0") && !with("nonsense"));
        assert!(!supports_streams(&HeaderMap::new(), "3.7.1"));
    }
}
