//! The peer port: everything under `/raft` goes to the member's transport; `/version`, `/health` and `/members` are answered as
//! etcd's peer port does.
//!
//! Clients' calls are not served here, as in etcd since 3.6.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use quorate_member::Member;
use quorate_raft::transport::ResponseBody;
use serde::Serialize;
use tower_service::Service;

use crate::{ApiBody, ApiService};

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

/// The body of an answer to a peer.
pub enum PeerBody {
    /// Of the transport: perhaps a stream of messages without end.
    Raft(ResponseBody),
    /// Of everything else.
    Api(ApiBody),
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            PeerBody::Raft(body) => Pin::new(body).poll_frame(context),
            PeerBody::Api(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            PeerBody::Raft(body) => body.is_end_stream(),
            PeerBody::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            PeerBody::Raft(body) => body.size_hint(),
            PeerBody::Api(body) => body.size_hint(),
        }
    }
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
    B: Body<Data = Bytes, Error: Display> + Send + Unpin + 'static,
{
    type Response = Response<PeerBody>;
    type Error = Infallible;
    type Future = quorate_runtime::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = match (request.uri().path(), request.method()) {
            (path, _) if path == "/raft" || path.starts_with("/raft/") => {
                let transport = self.member.transport().clone();
                return Box::pin(async move { Ok(transport.handle(request).await.map(PeerBody::Raft)) });
            }
            ("/version" | "/health", &Method::GET) => {
                let answer = self.api.call(request);
                return Box::pin(async move { answer.await.map(|response| response.map(PeerBody::Api)) });
            }
            ("/members", &Method::GET) => self.members(),
            ("/version" | "/health" | "/members", _) => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        };
        Box::pin(std::future::ready(Ok(response.map(PeerBody::Api))))
    }
}
