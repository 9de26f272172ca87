//! Who may ask over plain HTTP: pages of which origins, and under which names of this server.
//!
//! A browser runs the scripts of any page, and a page's name may be made to point here (DNS rebinding, CVE-2018-5702): then the
//! request names a host that is none of ours. Both are checked as in etcd (`server/embed/serve.go`, `accessController`); gRPC is
//! out of a page's reach and not checked.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderMap,
    HeaderValue, ORIGIN,
};
use http::request::Parts;
use http::{Response, StatusCode};

use crate::body::ApiBody;
use crate::plain;

/// What stands for all.
const ALL: &str = "*";
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");

/// The operator's lists (`--cors`, `--host-whitelist`). An empty one, and one with `*`, allows all.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Origins whose pages may read the answers.
    pub origins: Vec<String>,
    /// Host names that requests may name.
    pub hosts: Vec<String>,
}

impl Access {
    /// The refusal of a request that names another host.
    pub(crate) fn refuse_host(&self, parts: &Parts) -> Option<Response<ApiBody>> {
        let host = host_name(parts);
        if allows(&self.hosts, &host) {
            return None;
        }
        tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
        let text = format!(
            "This request names the host {host:?}, which is not on the server's list (CVE-2018-5702). Either use TLS, or start \
             the server with --host-whitelist and this name."
        );
        Some(plain::error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// Tells the browser that a page may read the answer, if it may.
    pub(crate) fn tell_origin(&self, asked: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let origin = if allows(&self.origins, ALL) {
            HeaderValue::from_static(ALL)
        } else {
            let is_listed =
                |origin: &&HeaderValue| self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
            let Some(origin) = asked.filter(is_listed) else { return };
            origin.clone()
        };
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    }
}

/// The origin of the page that asks.
pub fn origin(parts: &Parts) -> Option<HeaderValue> {
    parts.headers.get(ORIGIN).cloned()
}

fn allows(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|known| known == ALL || known == name)
}

/// The host that a request names, without its port.
fn host_name(parts: &Parts) -> String {
    let named = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let named = named.or_else(|| Some(String::from_utf8_lossy(parts.headers.get(HOST)?.as_bytes()).into_owned()));
    let named = named.unwrap_or_default();
    // Without a port Go takes it as it is, brackets and all.
    match named.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') && host.ends_with(']') => host[1..host.len() - 1].to_owned(),
        Some((host, _)) if !host.contains([':', '[', ']']) => host.to_owned(),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(host: &str) -> Parts {
        Request::builder().uri("/health").header(HOST, host).body(()).unwrap().into_parts().0
    }

    #[test]
    fn hosts_as_go_splits_them() {
        for (named, host) in
            [("a:1", "a"), ("a", "a"), ("[::1]:1", "::1"), ("[::1]", "[::1]"), ("::1", "::1"), ("", ""), ("a:", "a")]
        {
            assert_eq!(host_name(&parts(named)), host, "{named}");
        }
        let absolute = Request::builder().uri("http://b:2/x").header(HOST, "a:1").body(()).unwrap().into_parts().0;
        assert_eq!(host_name(&absolute), "b");
    }

    #[test]
    fn who_names_another_host_is_refused() {
        let access = Access { hosts: vec!["good".into()], ..Access::default() };
        assert!(access.refuse_host(&parts("good:2379")).is_none());
        let refused = access.refuse_host(&parts("evil:2379")).unwrap();
        assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
        assert!(Access::default().refuse_host(&parts("evil")).is_none());
        let all = Access { hosts: vec!["*".into()], ..Access::default() };
        assert!(all.refuse_host(&parts("evil")).is_none());
    }

    #[test]
    fn pages_of_other_origins_may_not_read() {
        let allowed = |origins: &[&str], asked: Option<&'static str>| {
            let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
            let mut headers = HeaderMap::new();
            let asked = asked.map(HeaderValue::from_static);
            Access { origins, ..Access::default() }.tell_origin(asked.as_ref(), &mut headers);
            headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|origin| origin.to_str().unwrap().to_owned())
        };
        assert_eq!(allowed(&["*"], None).as_deref(), Some("*"));
        assert_eq!(allowed(&[], Some("http://a")).as_deref(), Some("*"));
        assert_eq!(allowed(&["http://a", "http://b"], Some("http://b")).as_deref(), Some("http://b"));
        assert_eq!(allowed(&["http://a"], Some("http://c")), None);
        assert_eq!(allowed(&["http://a"], None), None);
    }
}
