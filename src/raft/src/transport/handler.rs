//! What we answer under `/raft`.
//!
//! | path | method | what |
//! |---|---|---|
//! | `/raft` | POST | one message |
//! | `/raft/snapshot` | POST | one message and a database |
//! | `/raft/stream/message/<reader>`, `/raft/stream/msgapp/<reader>` | GET | our messages to that reader, for ever |
//! | `/raft/probing` | any | our clock |
//!
//! The checks come in etcd's order, and their texts are etcd's, since the other side compares them. A request that is
//! refused costs its connection nothing else.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;

use super::body::ResponseBody;
use super::codec::{Arrived, StreamKind, decode_message};
use super::headers::{self, CLUSTER_ID, SERVER_VERSION};
use super::outbox::StreamBody;
use super::patience::Patience;
use super::{PATH_POST, PATH_PROBING, PATH_SNAPSHOT, PATH_STREAM, Transport, probe, snapshot_receive};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// Answers one request.
pub async fn handle<B>(transport: &Arc<Transport>, request: Request<B>) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let path = request.uri().path();
    match path {
        PATH_POST => post(transport, request).await,
        PATH_SNAPSHOT => snapshot(transport, request).await,
        PATH_PROBING => {
            let mut answer = Response::new(ResponseBody::whole(probe::answer(&transport.core.rt)));
            answer.headers_mut().insert(CONTENT_TYPE, TEXT);
            answer
        }
        _ => match path.strip_prefix(PATH_STREAM).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => stream(transport, &request, rest),
            None => refuse(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

/// A line of text, as Go's HTTP server writes it.
fn refuse(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::whole(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    answer
}

fn wrong_method(allowed: &'static str) -> Response<ResponseBody> {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Registers a sender that we do not know, so that it can be answered.
fn learn_sender(transport: &Arc<Transport>, headers: &HeaderMap) {
    if let Some(from) = headers::text(headers, &headers::FROM).and_then(headers::parse_member_id) {
        learn(transport, headers, from);
    }
}

fn learn(transport: &Arc<Transport>, headers: &HeaderMap, from: quorate_types::MemberId) {
    if let Some(urls) = headers::text(headers, &headers::PEER_URLS).filter(|urls| !urls.is_empty()) {
        transport.add_remote(from, urls.split(',').map(str::to_owned).collect());
    }
}

fn stream<B>(transport: &Arc<Transport>, request: &Request<B>, rest: &str) -> Response<ResponseBody> {
    if request.method() != Method::GET {
        return wrong_method("GET");
    }
    let core = &transport.core;
    let mut answer = match attach(transport, request.headers(), rest) {
        Ok(body) => Response::new(ResponseBody::stream(body)),
        Err((status, text)) => refuse(status, text),
    };
    answer.headers_mut().insert(SERVER_VERSION, core.headers.version());
    answer.headers_mut().insert(CLUSTER_ID, core.headers.cluster());
    answer
}

fn attach(
    transport: &Arc<Transport>,
    headers: &HeaderMap,
    rest: &str,
) -> Result<StreamBody, (StatusCode, &'static str)> {
    let core = &transport.core;
    headers::check_compatible(headers, &core.config).map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
    let invalid_path = (StatusCode::NOT_FOUND, "invalid path");
    let (kind, from) = rest.split_once('/').ok_or(invalid_path)?;
    let kind = [StreamKind::Message, StreamKind::MsgApp].into_iter().find(|known| known.name() == kind);
    let kind = kind.filter(|_| !from.contains('/')).ok_or(invalid_path)?;
    let from = headers::parse_member_id(from).ok_or((StatusCode::NOT_FOUND, "invalid from"))?;
    if core.inbox.is_removed(from) {
        tracing::warn!(%from, "refused a stream to a member that was removed");
        return Err((StatusCode::GONE, "removed member"));
    }
    let not_found = (StatusCode::NOT_FOUND, "error sender not found");
    let Some(peer) = transport.member(from) else {
        learn(transport, headers, from);
        tracing::warn!(%from, cluster = %core.config.cluster_id, "refused a stream to an unknown member");
        return Err(not_found);
    };
    let to = headers::text(headers, &headers::TO).unwrap_or("");
    if to != core.config.id.to_string() {
        tracing::warn!(%from, to, own = %core.config.id, "refused a stream that is meant for another member");
        return Err((StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    StreamBody::attach(peer, kind).ok_or(not_found)
}

async fn post<B>(transport: &Arc<Transport>, request: Request<B>) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    if request.method() != Method::POST {
        return wrong_method("POST");
    }
    let core = &transport.core;
    let result = async {
        headers::check_compatible(request.headers(), &core.config)
            .map_err(|text| (StatusCode::PRECONDITION_FAILED, text))?;
        learn_sender(transport, request.headers());
        let from = headers::text(request.headers(), &headers::FROM).unwrap_or("").to_owned();
        let refused = |error: &dyn fmt::Display, status, text| {
            tracing::warn!(from, %error, "{text}");
            (status, text)
        };
        let encoded = read_whole(transport, request.into_body())
            .await
            .map_err(|error| refused(&error, StatusCode::BAD_REQUEST, "error reading raft message"))?;
        let encoded_bytes = encoded.len();
        let message = decode_message(encoded, &core.config.limits.codec)
            .map_err(|error| refused(&error, StatusCode::BAD_REQUEST, "error unmarshalling raft message"))?;
        if let Some(peer) = transport.peer(quorate_types::MemberId(message.from())) {
            peer.count_received(encoded_bytes);
        }
        let not_processed = (StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message");
        core.check_addressed(&message).map_err(|error| refused(&error, not_processed.0, not_processed.1))?;
        if transport.is_stopped() {
            return Err(not_processed);
        }
        core.deliver(message).map_err(|error| refused(&error, not_processed.0, not_processed.1))
    }
    .await;
    finish_post(transport, result.map_err(|(status, text)| (status, text.to_owned())))
}

async fn snapshot<B>(transport: &Arc<Transport>, request: Request<B>) -> Response<ResponseBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    if request.method() != Method::POST {
        return wrong_method("POST");
    }
    if let Err(text) = headers::check_compatible(request.headers(), &transport.core.config) {
        return finish_post(transport, Err((StatusCode::PRECONDITION_FAILED, text.to_owned())));
    }
    learn_sender(transport, request.headers());
    let result = snapshot_receive::receive(&transport.core, request.into_body()).await;
    finish_post(transport, result.map_err(|refusal| (refusal.status, refusal.text)))
}

fn finish_post(transport: &Transport, result: Result<(), (StatusCode, String)>) -> Response<ResponseBody> {
    let mut answer = match result {
        Ok(()) => {
            let mut answer = Response::new(ResponseBody::whole(Bytes::new()));
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer
        }
        Err((status, text)) => refuse(status, &text),
    };
    answer.headers_mut().insert(CLUSTER_ID, transport.core.headers.cluster());
    answer
}

/// A whole body, if it is not too long and does not falter.
async fn read_whole<B>(transport: &Transport, mut body: B) -> Result<Bytes, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let limit_bytes = transport.core.config.limits.codec.frame_bytes_max;
    let mut arrived = Arrived::default();
    let mut patience = Patience::new(transport.core.rt.clone(), transport.core.read_limit());
    loop {
        let Ok(frame) = patience.wait(body.frame()).await else {
            return Err(format!("nothing came for {:?}", patience.limit()));
        };
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            arrived.push(data);
        }
        if arrived.len_bytes() > limit_bytes {
            return Err(format!("it is longer than {limit_bytes} bytes"));
        }
    }
    let len_bytes = arrived.len_bytes();
    Ok(arrived.take(len_bytes).unwrap_or_default())
}
