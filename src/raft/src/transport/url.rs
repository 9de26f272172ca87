//! Where a peer can be reached: the URLs that it advertises, one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;

/// A peer URL that can be dialed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl {
    text: String,
    host: String,
    port: u16,
    host_header: HeaderValue,
}

impl PeerUrl {
    /// Reads `http://host:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("the peer URL {text:?} cannot be used: {what}");
        let uri: http::Uri = text.trim().parse().map_err(|error| wrong(&format!("{error}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("TLS between members is not supported yet; advertise http://host:port")),
            _ => return Err(wrong("it must have the form http://host:port")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let port = authority.port_u16().ok_or_else(|| wrong("it names no port; write http://host:port"))?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong("nothing may follow the port or stand before the host"));
        }
        let host = authority.host();
        let bare_host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host_header = HeaderValue::try_from(authority.as_str()).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { text: text.trim().to_owned(), host: bare_host.to_owned(), port, host_header })
    }

    /// The URL itself.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A name or an IP address (without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the header `Host` says.
    pub fn host_header(&self) -> HeaderValue {
        self.host_header.clone()
    }
}

/// Picks one of a peer's URLs, the same until it fails.
#[derive(Debug)]
pub struct UrlPicker {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    urls: Vec<Result<Arc<PeerUrl>, String>>,
    picked: usize,
}

impl UrlPicker {
    /// Begins with the first.
    pub fn new(urls: &[String]) -> Self {
        Self { state: Mutex::new(State { urls: parse_all(urls), picked: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins again with other URLs.
    pub fn update(&self, urls: &[String]) {
        *self.state() = State { urls: parse_all(urls), picked: 0 };
    }

    /// The URL to try now. One that cannot be used at all is an error, and the next call gives the next.
    pub fn pick(&self) -> Result<Arc<PeerUrl>, String> {
        let mut state = self.state();
        match state.urls.get(state.picked).cloned() {
            Some(Ok(url)) => Ok(url),
            Some(Err(reason)) => {
                state.advance();
                Err(reason)
            }
            None => Err("the peer has no URL".to_owned()),
        }
    }

    /// `url` failed: the next is tried, unless somebody else has moved on already.
    pub fn failed(&self, url: &PeerUrl) {
        let mut state = self.state();
        if matches!(state.urls.get(state.picked), Some(Ok(picked)) if **picked == *url) {
            state.advance();
        }
    }
}

impl State {
    fn advance(&mut self) {
        self.picked = (self.picked + 1) % self.urls.len().max(1);
    }
}

fn parse_all(urls: &[String]) -> Vec<Result<Arc<PeerUrl>, String>> {
    urls.iter().map(|url| PeerUrl::parse(url).map(Arc::new)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_taken_apart() {
        let named = PeerUrl::parse("http://m1.example:2380").unwrap();
        assert_eq!(
            (named.host(), named.port(), named.host_header()),
            ("m1.example", 2380, HeaderValue::from_static("m1.example:2380"))
        );
        let v6 = PeerUrl::parse("http://[::1]:2380/").unwrap();
        assert_eq!((v6.host(), v6.port(), v6.host_header()), ("::1", 2380, HeaderValue::from_static("[::1]:2380")));
    }

    #[test]
    fn what_cannot_be_dialed_says_why() {
        for (url, why) in [
            ("https://a:1", "TLS"),
            ("unix://a:1", "form http"),
            ("http://a", "no port"),
            ("http://a:1/path", "follow the port"),
            ("http://u@a:1", "before the host"),
            ("a:1", "form http"),
            ("", "cannot be used"),
        ] {
            let error = PeerUrl::parse(url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn a_failure_moves_on_once() {
        let picker = UrlPicker::new(&["http://a:1".into(), "https://b:1".into(), "http://c:1".into()]);
        let a = picker.pick().unwrap();
        assert_eq!(picker.pick().unwrap(), a);
        picker.failed(&a);
        picker.failed(&a);
        assert!(picker.pick().unwrap_err().contains("TLS"));
        let c = picker.pick().unwrap();
        assert_eq!(c.as_str(), "http://c:1");
        picker.failed(&c);
        assert_eq!(picker.pick().unwrap(), a);
        picker.update(&["http://d:1".into()]);
        picker.failed(&a);
        assert_eq!(picker.pick().unwrap().as_str(), "http://d:1");
        assert!(UrlPicker::new(&[]).pick().is_err());
    }
}
