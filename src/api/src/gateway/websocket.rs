//! WebSockets on the gateway: any of its paths, for who can only speak so, such as a page in a browser.
//!
//! A GET with an upgrade becomes a POST whose body is the client's messages, text or binary, with a newline after each; each line
//! of the answer becomes a text message. So a stream of watches is what it is over HTTP, but goes both ways also for who cannot send a
//! body piece by piece. For a call of one message the first message is all of the body. When the call is over the WebSocket is
//! closed; when the client closes it, the call is over.
//!
//! A page cannot set headers, so a bearer token may come as a subprotocol (`Bearer, TOKEN`) or in the cookie `token`. These, the
//! answer to the handshake and its refusals are those of github.com/tmc/grpc-websocket-proxy, which etcd wraps around its gateway.
//!
//! Nothing piles up: the next message is read when the call has taken the one before, the next line is made when the client's socket
//! has taken the one before. The codec draws no random numbers, as only clients mask.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use bytes::Bytes;
use futures_util::stream::{self, SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::upgrade::OnUpgrade;
use quorate_http::UpgradedStream;
use quorate_runtime::sync::mpsc;
use quorate_runtime::{clock, select};
use sha1::{Digest as _, Sha1};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as SocketError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::{JSON_LENGTH_FACTOR, routes};
use crate::after_http::AfterHttp;
use crate::body::ApiBody;
use crate::method::Kind;
use crate::plain;
use crate::service::{Api, Remote};

/// The one version there is.
const VERSION: &str = "13";
/// What a client's key is hashed with (RFC 6455, 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;
/// As Go reads it: what the last character says beyond the last byte does not matter.
const KEY_ENCODING: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The scheme of the only tokens there are.
const BEARER: &str = "Bearer";
const TOKEN_COOKIE: &str = "token";

/// What a WebSocket reads at once; messages are mostly small.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// So long the other end has to take in the last messages and to close as well.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<UpgradedStream>;

/// True for a request to go on as a WebSocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket")
}

/// Agrees to such a request, and leaves the call for afterwards; or refuses it.
pub fn accept(api: Arc<Api>, remote: Remote, mut parts: Parts) -> Response<ApiBody> {
    if parts.method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !has_token(&parts.headers, &SEC_WEBSOCKET_VERSION, VERSION) {
        return refuse(StatusCode::BAD_REQUEST);
    }
    let Some(accepted) = parts.headers.get(SEC_WEBSOCKET_KEY).and_then(accept_key) else {
        return refuse(StatusCode::BAD_REQUEST);
    };
    let extensions = &mut parts.extensions;
    let (Some(upgrade), Some(after)) = (extensions.remove::<OnUpgrade>(), extensions.remove::<AfterHttp>()) else {
        // A connection that knows of no other protocol.
        return refuse(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut response = Response::new(ApiBody::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    let protocol = parts.headers.get(SEC_WEBSOCKET_PROTOCOL);
    if protocol.is_some_and(|protocol| protocol.as_bytes().starts_with(BEARER.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    after.leave(Box::pin(run(api, remote, post(&parts), upgrade)));
    response
}

/// As gorilla/websocket refuses.
fn refuse(status: StatusCode) -> Response<ApiBody> {
    let mut response = plain::error(status, status.canonical_reason().unwrap_or_default());
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    response
}

/// Looks for a word in lists that are divided by commas.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|list| list.split(',').any(|word| word.trim().eq_ignore_ascii_case(token)))
}

/// What proves that the server has understood; none if the client's key is none.
fn accept_key(key: &HeaderValue) -> Option<HeaderValue> {
    KEY_ENCODING.decode(key).ok().filter(|key| key.len() == KEY_BYTES)?;
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    HeaderValue::try_from(KEY_ENCODING.encode(digest)).ok()
}

/// The head of the call: a POST with what goes on of the handshake's headers.
fn post(asked: &Parts) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = asked.uri.clone();
    if let Some(token) = token(&asked.headers) {
        request.headers_mut().insert(AUTHORIZATION, token);
    }
    request.into_parts().0
}

/// The token, from the cookie or else from the subprotocols: a subprotocol that names none is a token that is empty.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let bearer = |token: &str| HeaderValue::try_from(format!("{BEARER} {token}")).ok();
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    if let Some((_, token)) = cookies.find(|(name, _)| *name == TOKEN_COOKIE) {
        let unquoted = token.strip_prefix('"').and_then(|token| token.strip_suffix('"'));
        return bearer(unquoted.unwrap_or(token));
    }
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok().filter(|protocols| !protocols.is_empty())?;
    match protocols.split_once("Bearer,") {
        Some((_, token)) => bearer(token.trim_matches(' ')),
        None => Some(HeaderValue::from_static("")),
    }
}

/// The WebSocket from its first message to its end.
async fn run(api: Arc<Api>, remote: Remote, parts: Parts, upgrade: OnUpgrade) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => UpgradedStream::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "a WebSocket broke before its first message");
            return;
        }
    };
    let limit_bytes = api.message_bytes_max.saturating_mul(JSON_LENGTH_FACTOR);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(limit_bytes))
        .max_frame_size(Some(limit_bytes));
    let (mut sink, mut incoming) = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await.split();
    let code = serve(&api, remote, parts, &mut sink, &mut incoming).await;
    let end = async {
        if let Some(code) = code {
            sink.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await?;
        }
        // Until the other end has closed as well: what it has sent and nobody reads would make the system drop what we sent.
        while incoming.next().await.transpose()?.is_some() {}
        Ok::<_, SocketError>(())
    };
    match clock::timeout(&*api.rt, CLOSE_WAIT, end).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a WebSocket broke while it was closed"),
        Err(_) => tracing::debug!("the other end of a WebSocket did not close it in time"),
    }
}

/// Makes the call. Returns with what code the WebSocket is to be closed; none if the client has done so, or is gone.
async fn serve(
    api: &Arc<Api>,
    remote: Remote,
    parts: Parts,
    sink: &mut SplitSink<Socket, Message>,
    incoming: &mut SplitStream<Socket>,
) -> Option<CloseCode> {
    // One message: the call takes the one before while the next is read.
    let (sender, messages) = mpsc::channel(1);
    let is_one_message = routes::find(parts.uri.path()).is_some_and(|method| method.kind() != Kind::BidiStream);
    let sender = if is_one_message {
        let first = select! {
            biased;
            () = api.draining() => return Some(CloseCode::Away),
            first = next(incoming) => first,
        };
        match first {
            Ok(message) => sender.try_send(message).expect("nothing was sent before"),
            Err(code) => return code,
        }
        // With it the body ends.
        drop(sender);
        None
    } else {
        Some(sender)
    };
    let body = stream::unfold(messages, |mut messages| async move {
        let message: Bytes = messages.recv().await?;
        Some((stream::iter([message, Bytes::from_static(b"\n")]), messages))
    });
    let body = StreamBody::new(body.flatten().map(|data| Ok::<_, Infallible>(Frame::data(data))));
    let call = async {
        let response = super::answer(Arc::clone(api), remote, parts, body).await;
        send(response.into_body(), sink).await
    };
    select! {
        biased;
        code = receive(incoming, sender) => code,
        sent = call => match sent {
            Ok(()) if api.is_draining() => Some(CloseCode::Away),
            Ok(()) => Some(CloseCode::Normal),
            Err(error) => code_for(&error),
        }
    }
}

/// The client's next message; or what the WebSocket is to be closed with.
async fn next(incoming: &mut SplitStream<Socket>) -> Result<Bytes, Option<CloseCode>> {
    loop {
        match incoming.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.into()),
            Some(Ok(Message::Binary(data))) => return Ok(data),
            // Pings and the client's close are answered by the codec, the latter before the stream ends.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(code_for(&error)),
            None => return Err(None),
        }
    }
}

/// Gives the client's messages to the call until there are no more; what the call does not want is dropped.
async fn receive(incoming: &mut SplitStream<Socket>, mut sender: Option<mpsc::Sender<Bytes>>) -> Option<CloseCode> {
    loop {
        let message = match next(incoming).await {
            Ok(message) => message,
            Err(code) => return code,
        };
        if let Some(call) = &sender
            && call.send(message).await.is_err()
        {
            sender = None;
        }
    }
}

/// Sends each line of `body` as a message. What comes at once is whole lines.
async fn send(mut body: ApiBody, sink: &mut SplitSink<Socket, Message>) -> Result<(), SocketError> {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text =
                Utf8Bytes::try_from(data.slice_ref(line)).map_err(|_| SocketError::Utf8("no text".to_owned()))?;
            sink.send(Message::Text(text)).await?;
        }
    }
    Ok(())
}

/// How to tell the client what it did wrong; none if it can be told nothing any more.
fn code_for(error: &SocketError) -> Option<CloseCode> {
    tracing::debug!(%error, "a WebSocket ends with an error");
    match error {
        SocketError::Capacity(_) => Some(CloseCode::Size),
        SocketError::Utf8(_) => Some(CloseCode::Invalid),
        // Gone without a close.
        SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        SocketError::Protocol(_) => Some(CloseCode::Protocol),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(HeaderName, &'static str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn an_upgrade_is_found_among_other_words() {
        let asked = |connection, upgrade| is_asked_for(&headers(&[(CONNECTION, connection), (UPGRADE, upgrade)]));
        assert!(asked("Upgrade", "websocket") && asked("keep-alive, upgrade", "h2c,WebSocket"));
        assert!(!asked("keep-alive", "websocket") && !asked("upgrade", "h2c") && !asked("upgraded", "websocket"));
        let split = headers(&[(CONNECTION, "keep-alive"), (CONNECTION, "Upgrade"), (UPGRADE, "websocket")]);
        assert!(is_asked_for(&split));
    }

    #[test]
    fn keys_are_answered_as_the_standard_says() {
        let accepted = |key| accept_key(&HeaderValue::from_static(key));
        assert_eq!(accepted("dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accepted("dGhlIHNhbXBsZSBub25jZR==").is_some(), "Go takes it");
        for wrong in ["", "dGhlIHNhbXBsZSBub25jZQ", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZSBsb25n", "no base64 at all=="] {
            assert_eq!(accepted(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_come_from_the_cookie_or_the_subprotocol() {
        let of = |given: &[(HeaderName, &'static str)]| {
            token(&headers(given)).map(|token| token.to_str().unwrap().to_owned())
        };
        assert_eq!(of(&[]), None);
        for protocols in ["Bearer, abc.7", "Bearer,abc.7", "Bearer,  abc.7 "] {
            assert_eq!(of(&[(SEC_WEBSOCKET_PROTOCOL, protocols)]).as_deref(), Some("Bearer abc.7"), "{protocols}");
        }
        assert_eq!(of(&[(SEC_WEBSOCKET_PROTOCOL, "chat")]).as_deref(), Some(""));
        let both = [(SEC_WEBSOCKET_PROTOCOL, "Bearer, abc"), (COOKIE, "a=b; token=\"xyz\"; token=second")];
        assert_eq!(of(&both).as_deref(), Some("Bearer xyz"));
        assert_eq!(of(&[(COOKIE, "tokens=x")]), None);
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let refused = refuse(StatusCode::BAD_REQUEST);
        assert_eq!(refused.headers()[SEC_WEBSOCKET_VERSION], VERSION);
        let ApiBody::Plain(body) = refused.into_body() else { panic!("a plain body") };
        assert_eq!(body, "Bad Request\n");
    }
}
