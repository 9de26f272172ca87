//! What etcd asks of the URLs in its flags, beyond being URLs.

use std::net::IpAddr;

pub use quorate_types::Url;

/// A listener needs an address of this machine, not a name. The error is etcd's text.
pub fn check_bind(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.scheme().is_unix()) {
        let (host, _port) = url.host_port()?;
        if host != "localhost" && host.parse::<IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

/// What is told to others needs a host. The error is etcd's text.
pub fn check_advertised(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.scheme().is_unix()) {
        if url.host_port()?.0.is_empty() {
            return Err(format!("unexpected empty host ({url})"));
        }
    }
    Ok(())
}

/// Texts of `urls`, in order.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_need_an_address_and_advertised_urls_a_host() {
        let list = |text| Url::parse_list(text).unwrap();
        assert_eq!(check_bind(&list("http://127.0.0.1:1,http://[::]:1,http://localhost:1,unix://x")), Ok(()));
        assert_eq!(
            check_bind(&list("http://foo:1234")),
            Err("expected IP in URL for binding (http://foo:1234)".to_owned())
        );
        assert_eq!(check_advertised(&list("http://foo:1")), Ok(()));
        assert_eq!(check_advertised(&list("http://:1")), Err("unexpected empty host (http://:1)".to_owned()));
    }
}
