//! What the peer port answers while members have no peers: `/version`, `/health` and `/members`, as etcd's peer port does.
//!
//! Clients' calls are not served here, as in etcd since 3.6.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use quorate_api::{ApiBody, ApiService};
use quorate_member::Member;
use serde::Serialize;
use tower_service::Service;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// A member in the words of `/members`; what is empty is left out, as in etcd.
#[derive(Serialize)]
struct Shown<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

/// The service of the peer port.
#[derive(Clone)]
pub struct PeerPort {
    api: ApiService,
    member: Member,
}

impl PeerPort {
    /// Answers for `member`; what the client port has, too, comes from `api`.
    pub fn new(api: ApiService, member: Member) -> Self {
        PeerPort { api, member }
    }

    /// All members, numbers in decimal (etcd `server/etcdserver/api/etcdhttp/peer.go`).
    fn members(&self) -> Response<ApiBody> {
        let view = self.member.view();
        let members: Vec<_> = view
            .members()
            .iter()
            .map(|member| Shown {
                id: member.id.0,
                peer_urls: &member.peer_urls,
                is_learner: member.is_learner,
                name: &member.name,
                client_urls: &member.client_urls,
            })
            .collect();
        let members = serde_json::to_string(&members).expect("plain texts and numbers");
        let body = format!("{members}\n");
        let mut response = plain(StatusCode::OK, "application/json", body);
        let cluster_id = HeaderValue::from_str(&self.member.cluster_id().to_string()).expect("hexadecimal digits");
        response.headers_mut().insert(CLUSTER_ID, cluster_id);
        response
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::Plain(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, text: &str) -> Response<ApiBody> {
    plain(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

impl<B> Service<Request<B>> for PeerPort
where
    ApiService: Service<Request<B>, Response = Response<ApiBody>>,
    <ApiService as Service<Request<B>>>::Future: Send + 'static,
    <ApiService as Service<Request<B>>>::Error: Send + 'static,
{
    type Response = Response<ApiBody>;
    type Error = <ApiService as Service<Request<B>>>::Error;
    type Future = quorate_runtime::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.api.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = match (request.uri().path(), request.method()) {
            ("/version" | "/health", &Method::GET) => return Box::pin(self.api.call(request)),
            ("/members", &Method::GET) => self.members(),
            ("/version" | "/health" | "/members", _) => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}
