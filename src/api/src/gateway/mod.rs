//! etcd's JSON gateway: every gRPC method as a POST of JSON, for who has no gRPC.
//!
//! A request's path is looked up in [`routes`]; its JSON becomes the message of that method ([`json`]), which takes the way of
//! every gRPC call ([`service::dispatch`](crate::service)), and what comes back becomes JSON. So the gateway knows no method by
//! itself, and what it answers is what gRPC answers.
//!
//! A call with many answers gets a line for each, `{"result": …}`, and `{"error": …}` at a bad end ([`streams`]). Where many
//! messages go in, the body holds one JSON object after the other. Both go over a WebSocket, too ([`websocket`]). [`openapi`] describes
//! all of it.
//!
//! Which status belongs to which code, and what the body of an error looks like, is grpc-gateway's business: `runtime/errors.go`
//! of its second version, which etcd uses since 3.6.

mod json;
pub mod openapi;
mod routes;
mod streams;
pub mod websocket;

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use tonic::{Code, Status};

use self::json::Types;
use crate::body::ApiBody;
use crate::grpc::{CONTENT_TYPE_GRPC, PREFIX_BYTES};
use crate::method::Kind;
use crate::plain::{self, JSON};
use crate::service::{self, Api, Asked, Remote};

/// Where the gateway's paths begin.
const PREFIX: &str = "/v3/";
/// How the same paths began in etcd 3.3.
const OLD_PREFIX: &str = "/v3beta/";

/// Tells that the answer came over gRPC.
const METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
/// Headers that begin so go on to gRPC without it.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// JSON may be so many times as long as the message that it tells: base64, names, numbers as text.
const JSON_LENGTH_FACTOR: usize = 4;

/// True for a path that the gateway answers for, if only to say that there is nothing.
pub fn is_its_path(path: &str) -> bool {
    path.starts_with(PREFIX) || path == PREFIX.trim_end_matches('/')
}

/// Answers a request of [such a path](is_its_path).
pub async fn answer<B>(api: Arc<Api>, remote: Remote, parts: Parts, body: B) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    let Some(method) = routes::find(parts.uri.path()) else {
        return refuse(&Status::not_found("Not Found"));
    };
    if parts.method != http::Method::POST {
        return refuse(&Status::unimplemented("Method Not Allowed"));
    }
    let types = Types::of(method);
    let limit_bytes = api.message_bytes_max.saturating_mul(JSON_LENGTH_FACTOR);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.headers_mut() = metadata(&parts.headers);
    if method.kind() == Kind::BidiStream {
        let (frames, failure) = streams::frames(body, types.clone(), limit_bytes);
        let response = service::dispatch(Asked { api, method, remote, request: request.map(|()| frames) }).await;
        return streams::answer(response, types, failure).await;
    }
    let framed = match receive(body, limit_bytes).await.and_then(|text| types.frame(&text)) {
        Ok(framed) => framed,
        Err(status) => return refuse(&status),
    };
    let response = service::dispatch(Asked { api, method, remote, request: request.map(|()| Full::new(framed)) }).await;
    match method.kind() {
        Kind::Unary => told(response, &types),
        _ => streams::answer(response, types, streams::Failure::default()).await,
    }
}

/// Gives a path of etcd 3.3's its present name.
pub fn rename_old_path(parts: &mut Parts) {
    let Some(rest) = parts.uri.path_and_query().and_then(|path| path.as_str().strip_prefix(OLD_PREFIX)) else { return };
    // A part of a path and query is one.
    if let Ok(path) = PathAndQuery::try_from(format!("{PREFIX}{rest}")) {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(path);
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
    }
}

/// All of a request's body.
async fn receive<B>(body: B, limit_bytes: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: Display>,
{
    // The limit's error has the body's inside, which is no `Error`; so it goes as text.
    let limited = Limited::new(Box::pin(body).map_err(|error| error.to_string()), limit_bytes);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::resource_exhausted(format!("the request is larger than {limit_bytes} bytes")))
        }
        Err(error) => Err(Status::invalid_argument(format!("the request broke off: {error}"))),
    }
}

/// What goes on to gRPC of the headers.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(METADATA_PREFIX) {
            Some(rest) => HeaderName::from_bytes(rest.as_bytes()).ok(),
            None => (name == AUTHORIZATION).then_some(AUTHORIZATION),
        };
        if let Some(name) = name {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    metadata
}

/// The one answer of a call.
fn told(response: Response<ApiBody>, types: &Types) -> Response<ApiBody> {
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return refuse(&status);
    }
    let ApiBody::Message(framed) = response.into_body() else {
        return refuse(&Status::internal("a call of one message has another answer"));
    };
    match types.show(framed.slice(PREFIX_BYTES..)) {
        Ok(text) => came_over_grpc(plain::respond(StatusCode::OK, JSON, text.into())),
        Err(status) => refuse(&status),
    }
}

fn came_over_grpc(mut response: Response<ApiBody>) -> Response<ApiBody> {
    response.headers_mut().insert(METADATA_CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

/// An answer that is nothing but an error.
fn refuse(status: &Status) -> Response<ApiBody> {
    let mut response = plain::respond(http_status(status.code()), JSON, json::error(status).to_string().into());
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

/// grpc-gateway's table.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).expect("three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_for_grpc_go_on() {
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_static("token")),
            (HeaderName::from_static("grpc-metadata-hasleader"), HeaderValue::from_static("true")),
            (HeaderName::from_static("accept"), HeaderValue::from_static("*/*")),
            (CONTENT_TYPE, HeaderValue::from_static(JSON)),
        ]);
        let metadata = metadata(&headers);
        let mut names: Vec<_> = metadata.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "content-type", "hasleader"]);
        assert_eq!(metadata[CONTENT_TYPE], "application/grpc");
    }

    #[test]
    fn errors_are_grpc_gateways() {
        let response = refuse(&Status::invalid_argument("etcdserver: key is not provided"));
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let ApiBody::Plain(body) = response.into_body() else { panic!("a plain body") };
        assert_eq!(body, r#"{"code":3,"message":"etcdserver: key is not provided"}"#);
        let refused = refuse(&Status::unauthenticated("etcdserver: invalid auth token"));
        assert_eq!(refused.headers()[WWW_AUTHENTICATE], "etcdserver: invalid auth token");
        assert_eq!(http_status(Code::Cancelled).as_u16(), 499);
    }
}
