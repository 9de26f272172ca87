//! The peer port: everything under `/raft` goes to the member's transport; `/version`, `/health`, `/members` and
//! `/members/promote/<id>` (`members`), `/leases` and `/leases/internal` (`leases`), `/members/hashkv` and `/downgrade/enabled` are answered as etcd's peer port does.
//!
//! Clients' calls are not served here, as in etcd since 3.6.

mod leases;
mod members;

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use quorate_member::Member;
use quorate_raft::transport::ResponseBody;
use quorate_store::ReadError;
use quorate_types::Revision;
use serde::{Deserialize, Serialize};
use tower_service::Service;

use crate::plain::{self, error, refuse_method};
use crate::{ApiBody, ApiService, BoxError};

/// Longest question of a peer.
const QUESTION_BYTES_MAX: usize = 64 << 10;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

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

    fn members(&self) -> Response<ApiBody> {
        self.naming_the_cluster(members::answer(self.member.view().members()))
    }

    /// A promotion that another member passes on to us as the leader.
    async fn promote(&self, id: &str) -> Response<ApiBody> {
        self.naming_the_cluster(members::promote(&self.member, id).await)
    }

    fn naming_the_cluster(&self, mut response: Response<ApiBody>) -> Response<ApiBody> {
        response.headers_mut().insert(CLUSTER_ID, cluster_id(&self.member));
        response
    }

    /// Whether the cluster is being downgraded (etcd `server/etcdserver/server.go`, `downgradeEnabledHandler`). Who asks learns
    /// it from a member that is up to date.
    async fn is_downgrading(&self) -> Response<ApiBody> {
        let mut response = match self.member.linearize().await {
            Ok(()) => {
                let answer = self.member.view().downgrade_target().is_some().to_string();
                plain::respond(StatusCode::OK, "text/plain", answer.into())
            }
            Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {failure}")),
        };
        response.headers_mut().insert(CLUSTER_ID, cluster_id(&self.member));
        response
    }
}

fn cluster_id(member: &Member) -> HeaderValue {
    HeaderValue::from_str(&member.cluster_id().to_string()).expect("hexadecimal digits")
}

/// What `/members/hashkv` is asked; Go takes any case of the name.
#[derive(Deserialize)]
struct HashAsked {
    #[serde(default, alias = "Revision")]
    revision: i64,
}

/// What it answers. Go leaves out what is zero.
#[derive(Serialize)]
struct HashAnswer {
    header: HashHeader,
    #[serde(skip_serializing_if = "is_zero")]
    hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Serialize)]
struct HashHeader {
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// The hash over the rows up to a revision (etcd `server/etcdserver/corrupt.go`, `hashKVHandler`).
async fn hash_kv<B>(member: &Member, request: Request<B>) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let own_cluster = cluster_id(member);
    if request.headers().get(CLUSTER_ID).is_some_and(|asked| !asked.is_empty() && *asked != own_cluster) {
        return error(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch");
    }
    let Ok(body) = Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect().await else {
        return error(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Ok(asked) = serde_json::from_slice::<HashAsked>(&body.to_bytes()) else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let hashed = match member.hash_kv(Revision(asked.revision)).await {
        Ok(hashed) => hashed,
        Err(failure) => {
            tracing::warn!(requested_revision = asked.revision, error = %failure, "failed to get hashKV");
            let text = failure.to_string();
            if let ReadError::Damaged(damage) = failure {
                member.fail(format!("a hash found damage: {damage}"));
            }
            // Inside etcd errors have no prefix yet.
            return error(StatusCode::BAD_REQUEST, text.trim_start_matches("etcdserver: "));
        }
    };
    let answer = HashAnswer {
        header: HashHeader { revision: hashed.current_revision.0 },
        hash: hashed.hash,
        compact_revision: hashed.compact_revision.0,
        hash_revision: hashed.hash_revision.0,
    };
    let body = serde_json::to_string(&answer).expect("plain numbers");
    let mut response = plain::respond(StatusCode::OK, plain::JSON, Bytes::from(body));
    response.headers_mut().insert(CLUSTER_ID, own_cluster);
    response
}

impl<B> Service<Request<B>> for PeerPort
where
    B: Body<Data = Bytes, Error: Display + Into<BoxError>> + Send + Unpin + 'static,
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
                let (api, uri) = (self.api.clone(), request.uri().clone());
                return Box::pin(async move { Ok(api.answer_plain(&Method::GET, &uri).await.map(PeerBody::Api)) });
            }
            ("/members", &Method::GET) => self.members(),
            ("/members/hashkv", &Method::GET) => {
                let member = self.member.clone();
                return Box::pin(async move { Ok(hash_kv(&member, request).await.map(PeerBody::Api)) });
            }
            (path @ (leases::RENEW | leases::WHAT_IS_LEFT), _) => {
                let (member, path) = (self.member.clone(), path.to_owned());
                return Box::pin(async move { Ok(leases::answer(&member, &path, request).await.map(PeerBody::Api)) });
            }
            ("/downgrade/enabled", &Method::GET) => {
                let port = self.clone();
                return Box::pin(async move { Ok(port.is_downgrading().await.map(PeerBody::Api)) });
            }
            ("/version" | "/health" | "/members" | "/members/hashkv" | "/downgrade/enabled", _) => refuse_method("GET"),
            (path, method) => match path.strip_prefix(members::PROMOTE) {
                Some(id) if method == Method::POST => {
                    let (port, id) = (self.clone(), id.to_owned());
                    return Box::pin(async move { Ok(port.promote(&id).await.map(PeerBody::Api)) });
                }
                Some(_) => refuse_method("POST"),
                None => error(StatusCode::NOT_FOUND, "404 page not found"),
            },
        };
        Box::pin(std::future::ready(Ok(response.map(PeerBody::Api))))
    }
}
