//! URLs of listeners and members, checked as etcd checks them and kept as they were written.
//!
//! Member ids are a hash over the text of the peer URLs, and tools print them back. So nothing is normalised here beyond what
//! etcd does itself (spaces around, the case of the scheme); a URL library would drop `:80` and lower the host.

use std::fmt;

use crate::Quoted;

/// How to talk to what the URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

impl Scheme {
    /// True for the two that go through a socket file.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }

    /// True for the two that need a certificate.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }
}

/// A URL that etcd would accept.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// `host:port` for TCP; what stands before the path for a unix socket.
    authority: String,
    /// Empty for TCP.
    path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Url {
    /// Reads one URL. The error is etcd's text.
    pub fn parse(text: &str) -> Result<Url, String> {
        let given = text.trim();
        let parts = split(given).map_err(|why| format!("parse {}: {why}", Quoted(given)))?;
        let scheme = match parts.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {given}")),
        };
        if !scheme.is_unix() {
            if split_host_port(parts.host).is_err() {
                return Err(format!("URL address does not have the form \"host:port\": {given}"));
            }
            if !parts.path.is_empty() {
                return Err(format!("URL must not contain a path: {given}"));
            }
        }
        let text = format!("{}{}", parts.scheme, &given[parts.scheme.len()..]);
        Ok(Url { text, scheme, authority: parts.host.to_owned(), path: parts.path.to_owned() })
    }

    /// Reads a list separated by commas: sorted, each once.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        urls.dedup();
        Ok(urls)
    }

    /// Reads the peer URLs of a member, at least one, as a client gives them: sorted.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Url>, String> {
        if texts.is_empty() {
            return Err("no valid URLs given".into());
        }
        let mut urls = texts.iter().map(|text| Url::parse(text)).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(urls)
    }

    /// The URL of `host` and `port`.
    pub fn http(host: &str, port: &str) -> Url {
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Url { text: format!("http://{authority}"), scheme: Scheme::Http, authority, path: String::new() }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port of a TCP URL, the host without brackets; the error is Go's text.
    pub fn host_port(&self) -> Result<(&str, &str), String> {
        split_host_port(&self.authority)
    }

    /// The file of a unix socket, absolute or relative.
    pub fn socket_path(&self) -> String {
        format!("{}{}", self.authority, self.path)
    }
}

struct Parts<'a> {
    scheme: String,
    /// With its port, without a user before it.
    host: &'a str,
    path: &'a str,
}

/// Splits as Go's `url.Parse` does; the error is its reason.
fn split(text: &str) -> Result<Parts<'_>, String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".into());
    }
    if text.is_empty() {
        return Ok(Parts { scheme: String::new(), host: "", path: "" });
    }
    let (scheme, rest) = split_scheme(text)?;
    let rest = rest.split_once('#').map_or(rest, |(before, _fragment)| before);
    let rest = rest.split_once('?').map_or(rest, |(before, _query)| before);
    if scheme.is_empty() && !rest.starts_with('/') {
        let first = rest.split('/').next().unwrap_or(rest);
        if first.contains(':') {
            return Err("first path segment in URL cannot contain colon".into());
        }
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        // `unix:socket` names no file that etcd would find: it is opaque to Go.
        None if !scheme.is_empty() && !rest.starts_with('/') => ("", ""),
        None => ("", rest),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    check_host(host)?;
    Ok(Parts { scheme, host, path })
}

/// The scheme in lower case (empty if there is none) and what follows its colon.
fn split_scheme(text: &str) -> Result<(String, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => return Ok((String::new(), text)),
        }
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".into()) };
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':').unwrap_or("");
    if !(port.is_empty() || (port.starts_with(':') && digits.bytes().all(|byte| byte.is_ascii_digit()))) {
        return Err(format!("invalid port {} after host", Quoted(port)));
    }
    check_escapes(host)?;
    match host.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        Some(bad) => Err(format!("invalid character {} in host name", Quoted(bad.encode_utf8(&mut [0; 4])))),
        None => Ok(()),
    }
}

/// A host may hold escaped bytes that are not ASCII, and `%25` before the zone of an address in brackets.
fn check_escapes(host: &str) -> Result<(), String> {
    for (at, _) in host.match_indices('%') {
        let escape: String = host[at..].chars().take(3).collect();
        let not_ascii = u8::from_str_radix(&escape[1..], 16).is_ok_and(|byte| byte >= 0x80);
        if escape != "%25" && !(not_ascii && escape[1..].bytes().all(|digit| digit.is_ascii_hexdigit())) {
            return Err(format!("invalid URL escape {}", Quoted(&escape)));
        }
    }
    Ok(())
}

/// Go's `net.SplitHostPort`, with its texts.
fn split_host_port(address: &str) -> Result<(&str, &str), String> {
    let error = |why: &str| Err(format!("address {address}: {why}"));
    let Some(colon) = address.rfind(':') else { return error("missing port in address") };
    let (host, port) = (&address[..colon], &address[colon + 1..]);
    if let Some(inside) = host.strip_prefix('[') {
        match inside.find(']') {
            None => return error("missing ']' in address"),
            Some(end) if end + 1 == inside.len() => return Ok((&inside[..end], port)),
            Some(_) => return error("too many colons in address"),
        }
    }
    if address.starts_with('[') && address.ends_with(']') {
        return error("missing port in address");
    }
    if host.contains(':') {
        return error("too many colons in address");
    }
    if host.contains(['[', ']']) {
        return error("unexpected '[' in address");
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_with_etcds_words() {
        for (text, error) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("ftp://127.0.0.1:1", "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
            ("http://foo:1/x", "URL must not contain a path: http://foo:1/x"),
            ("http://foo:1/", "URL must not contain a path: http://foo:1/"),
            ("http://foo", "URL address does not have the form \"host:port\": http://foo"),
            ("http:// ", "URL address does not have the form \"host:port\": http://"),
            ("http://1:2:3", "URL address does not have the form \"host:port\": http://1:2:3"),
            ("http://::1:2379", "URL address does not have the form \"host:port\": http://::1:2379"),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            ("://", "parse \"://\": missing protocol scheme"),
            ("http://a b:3", "parse \"http://a b:3\": invalid character \" \" in host name"),
            ("http://127.0.0.1:abc", "parse \"http://127.0.0.1:abc\": invalid port \":abc\" after host"),
            ("127.0.0.1:2379", "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
            ("http://%zz:1", "parse \"http://%zz:1\": invalid URL escape \"%zz\""),
            ("http://a%20b:1", "parse \"http://a%20b:1\": invalid URL escape \"%20\""),
            ("http://u:p@h", "URL address does not have the form \"host:port\": http://u:p@h"),
            ("http://a\x01:1", "parse \"http://a\\x01:1\": net/url: invalid control character in URL"),
        ] {
            assert_eq!(Url::parse(text), Err(error.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn accepted_and_kept_as_written() {
        for (text, kept) in [
            (" http://127.0.0.1:80 ", "http://127.0.0.1:80"),
            ("HTTP://Host:2379", "http://Host:2379"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("http://u:p@h:1", "http://u:p@h:1"),
            ("http://h%C3%A4:1", "http://h%C3%A4:1"),
            ("unix://localhost:123", "unix://localhost:123"),
            ("unix:///run/q.sock", "unix:///run/q.sock"),
        ] {
            assert_eq!(Url::parse(text).unwrap().as_str(), kept);
        }
        assert_eq!(Url::parse("http://[::1]:2379").unwrap().host_port(), Ok(("::1", "2379")));
        assert_eq!(Url::parse("unix:///run/q.sock").unwrap().socket_path(), "/run/q.sock");
        assert_eq!(Url::parse("unix://localhost:123").unwrap().socket_path(), "localhost:123");
        assert_eq!(Url::parse("http://u:p@h:1").unwrap().host_port(), Ok(("h", "1")));
        assert_eq!(Url::http("fe80::1", "1").as_str(), "http://[fe80::1]:1");
    }

    #[test]
    fn lists_are_sorted_and_each_url_is_there_once() {
        let urls = Url::parse_list("http://b:1,http://a:2, http://b:1").unwrap();
        assert_eq!(urls.iter().map(Url::as_str).collect::<Vec<_>>(), ["http://a:2", "http://b:1"]);
        assert!(Url::parse_list("http://b:1,").is_err());
        let all = |texts: &[&str]| Url::parse_all(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(all(&["http://b:1", " http://a:2"]), Ok(vec![Url::http("a", "2"), Url::http("b", "1")]));
        assert!(all(&[]).is_err() && all(&["http://b:1", ""]).is_err());
    }
}
