//! What the peer port answers while members have no peers: `/version`, `/health` and `/members`, as etcd's peer port does.
//!
//! Clients' calls are not served here, as in etcd since 3.6.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use quorate_api::{ApiBody, ApiService};
use quorate_member::Member;
use serde_json::json;
use tower_service::Service;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

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
            .map(|member| {
                let mut shown = json!({
                    "id": member.id.0,
                    "peerURLs": member.peer_urls,
                    "name": member.name,
                    "clientURLs": member.client_urls,
                });
                if member.is_learner {
                    shown["isLearner"] = true.into();
                }
                shown
            })
            .collect();
        let body = format!("{}\n", serde_json::Value::from(members));
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
