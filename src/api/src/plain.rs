//! Plain HTTP on the client port: `/version`, `/health`, `/livez`, `/readyz`, `/metrics`, and the gateway's description. Bodies, codes
//! and headers are etcd's.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode, Uri};
use prometheus::TextEncoder;
use quorate_member::SERVER_VERSION;

use crate::body::ApiBody;
use crate::gateway::openapi;
use crate::service::Api;
use crate::{debug, health, probes};

/// Text, as Go's server declares it.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// A page, as Go's server declares it.
pub const HTML: &str = "text/html; charset=utf-8";
/// JSON, as etcd declares it.
pub const JSON: &str = "application/json";
/// The gateway's description.
const OPENAPI: &str = "/openapi.json";
const VARIABLES: &str = "/debug/vars";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a request that is neither gRPC nor for the gateway.
pub async fn answer(api: &Api, method: &Method, uri: &Uri) -> Response<ApiBody> {
    match uri.path() {
        "/version" | OPENAPI | VARIABLES if method != Method::GET => refuse_method("GET"),
        "/version" => {
            let version = version_json(api.member.view().cluster_version());
            respond(StatusCode::OK, JSON, Bytes::from(version))
        }
        VARIABLES => debug::variables(api),
        OPENAPI if api.has_gateway => respond(StatusCode::OK, JSON, Bytes::from_static(openapi::DOCUMENT.as_bytes())),
        _ => answer_monitoring(api, method, uri).await,
    }
}

/// Answers what a listener for metrics answers, too.
pub async fn answer_monitoring(api: &Api, method: &Method, uri: &Uri) -> Response<ApiBody> {
    match uri.path() {
        "/health" if method != Method::GET => refuse_method("GET"),
        "/health" => health::answer(api, uri).await,
        "/metrics" => metrics(api),
        _ => match probes::answer(api, method, uri).await {
            Some(answer) => answer,
            None => error(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

/// An answer with a body.
pub fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::Plain(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer as Go's `http.Error` makes it.
pub fn error(status: StatusCode, text: &str) -> Response<ApiBody> {
    let mut response = respond(status, TEXT, Bytes::from(format!("{text}\n")));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer where only one other method is allowed.
pub fn refuse_method(allowed: &'static str) -> Response<ApiBody> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The values of a query parameter, decoded; empty ones are left out.
pub fn query<'a>(uri: &'a Uri, name: &'a str) -> impl Iterator<Item = String> + 'a {
    uri.query().unwrap_or_default().split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name && !value.is_empty()).then(|| decoded(value).into_owned())
    })
}

/// True if a query parameter is there, with a value or without.
pub fn has_query(uri: &Uri, name: &str) -> bool {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    pairs.any(|pair| decoded(pair.split_once('=').map_or(pair, |(key, _)| key)) == name)
}

/// Undoes URL encoding; what is not valid stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        (bytes, rest) = match (byte, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(value)) => (pushed(bytes, value), &after[2..]),
            (b'+', _) => (pushed(bytes, b' '), after),
            _ => (pushed(bytes, byte), after),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn pushed(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// What `/version` says. The cluster's version is undecided until the first leader has proposed it.
fn version_json(cluster: Option<&str>) -> String {
    let storage = storage_version(cluster).unwrap_or("unknown");
    let cluster = cluster.unwrap_or("not_decided");
    format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#)
}

/// The version that the stored form belongs to: the cluster's. etcd has noted it since 3.6 only, and shows the last before
/// that until then, also while a new cluster speaks 3.0 because not all members have answered yet.
pub fn storage_version(cluster: Option<&str>) -> Option<&str> {
    let is_noted = |version: &str| version.split('.').nth(1).and_then(|minor| minor.parse().ok()) >= Some(6_u64);
    cluster.map(|version| if is_noted(version) { version } else { "3.5.0" })
}

fn metrics(api: &Api) -> Response<ApiBody> {
    let text = api.metrics.scrapes.count(|| {
        let mut families: Vec<_> = api.registries.iter().flat_map(prometheus::Registry::gather).collect();
        families.sort_by(|left, right| left.name().cmp(right.name()));
        TextEncoder::new().encode_to_string(&families)
    });
    match text {
        Ok(text) => respond(StatusCode::OK, PROMETHEUS, Bytes::from(text)),
        Err(failure) => {
            tracing::error!(error = %failure, "failed to print the metrics");
            error(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to print the metrics: {failure}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_json(Some("3.7.0")), r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
        assert_eq!(version_json(Some("3.0.0")), r#"{"etcdserver":"3.7.1","etcdcluster":"3.0.0","storage":"3.5.0"}"#);
        assert_eq!(storage_version(Some("3.6.0")), Some("3.6.0"));
        assert_eq!(version_json(None), r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#);
    }

    #[test]
    fn query_parameters() {
        let uri: Uri = "/health?exclude=NOSPACE&serializable=true&exclude=CORR%55PT&exclude=&x=%zz+%".parse().unwrap();
        assert_eq!(query(&uri, "exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert_eq!(query(&uri, "serializable").collect::<Vec<_>>(), ["true"]);
        assert_eq!(query(&uri, "x").collect::<Vec<_>>(), ["%zz %"]);
        assert_eq!(query(&"/health".parse().unwrap(), "exclude").count(), 0);
        let given = |text: &str| has_query(&text.parse().unwrap(), "verbose");
        assert!(
            given("/livez?verbose") && given("/livez?a=b&verbose=0") && !given("/livez?verbos=e") && !given("/livez")
        );
    }

    #[test]
    fn errors_look_like_gos() {
        let response = error(StatusCode::NOT_FOUND, "404 page not found");
        assert_eq!(response.headers()[CONTENT_TYPE], TEXT);
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let ApiBody::Plain(body) = response.into_body() else { panic!("a plain body") };
        assert_eq!(body, "404 page not found\n");
    }
}
