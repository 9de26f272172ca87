//! The gateway over WebSockets: what clients see, message by message, and what becomes of those that do it wrong.

mod served;

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use quorate_api::{ServerOptions, serve_each};
use quorate_proto::etcdserverpb::PutRequest;
use quorate_runtime::clock;
use quorate_runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use quorate_runtime::net::{Address, BoxStream, ListenOptions};
use quorate_runtime::spawn::spawn_with_result;
use quorate_runtime::sync::watch;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use served::{Served, plain, with_member};

const SOON: Duration = Duration::from_secs(10);

/// The key of the standard's example, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A WebSocket's client end.
struct Client<'a> {
    served: &'a Served,
    /// What the server agreed with.
    head: String,
    socket: WebSocketStream<BoxStream>,
}

impl Served {
    /// Asks for an upgrade; the connection, and the head of the answer.
    async fn shake_hands(&self, request: &str) -> (BoxStream, String) {
        let mut stream = self.rt.connect(self.address.clone()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(clock::timeout(&*self.rt, SOON, stream.read_u8()).await.expect("an answer").unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }

    async fn websocket(&self, path: &str) -> Client<'_> {
        let (stream, head) = self.shake_hands(&handshake(path, "")).await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
        Client { served: self, head, socket }
    }

    async fn put(&self, key: &str, value: Vec<u8>) {
        let request = PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap();
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        clock::timeout(&*self.rt, SOON, work).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
    }
}

fn handshake(path: &str, further: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{further}\r\n"
    )
}

impl Client<'_> {
    async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    /// The next frame.
    async fn frame(&mut self) -> Option<Message> {
        let served = self.served;
        served.within("a frame", self.socket.next()).await.map(|frame| frame.unwrap())
    }

    /// The next message, which has to be one.
    async fn next(&mut self) -> Value {
        match self.frame().await {
            Some(Message::Text(text)) => serde_json::from_str(text.as_str()).unwrap(),
            other => panic!("no message but {other:?}"),
        }
    }

    /// The server closes with this code, and then the connection.
    async fn expect_close(&mut self, code: CloseCode) {
        match self.frame().await {
            Some(Message::Close(Some(frame))) => assert_eq!(frame.code, code),
            other => panic!("no close but {other:?}"),
        }
        assert!(self.frame().await.is_none(), "the connection has ended");
    }
}

/// The kinds and values of a watch's events.
fn events<'a>(answer: &'a Value) -> Vec<(&'a str, &'a str)> {
    let events = answer["result"]["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let told = |value: &'a Value, otherwise: &'static str| value.as_str().unwrap_or(otherwise);
    events.iter().map(|event| (told(&event["type"], "PUT"), told(&event["kv"]["value"], ""))).collect()
}

#[test]
fn a_call_of_one_message_has_one_answer_and_ends() {
    with_member(plain, 2, async |served| {
        let mut put = served.websocket("/v3/kv/put").await;
        assert!(
            put.head.contains(ACCEPTED) && !put.head.to_ascii_lowercase().contains("access-control"),
            "{}",
            put.head
        );
        put.send(r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        assert_eq!(put.next().await["header"]["revision"], "2");
        put.expect_close(CloseCode::Normal).await;

        let mut range = served.websocket("/v3beta/kv/range").await;
        range.socket.send(Message::binary(&br#"{"key":"Zm9v"}"#[..])).await.unwrap();
        assert_eq!(range.next().await["kvs"][0]["value"], "YmFy");
        range.expect_close(CloseCode::Normal).await;

        let mut empty = served.websocket("/v3/maintenance/status").await;
        empty.send("").await;
        assert_eq!(empty.next().await["version"], "3.7.1");
        empty.expect_close(CloseCode::Normal).await;
    });
}

#[test]
fn errors_are_messages_too() {
    with_member(plain, 1, async |served| {
        for (path, message, expected) in [
            ("/v3/kv/put", "{}", json!({"code": 3, "message": "etcdserver: key is not provided"})),
            ("/v3/watch", "{\"create_request\":7}", json!(3)),
            ("/v3/kv/range", "no JSON", json!(3)),
        ] {
            let mut client = served.websocket(path).await;
            client.send(message).await;
            let answer = client.next().await;
            let error = if answer["error"].is_object() { &answer["error"] } else { &answer };
            assert!(*error == expected || error["code"] == expected, "{path}: {answer}");
            client.expect_close(CloseCode::Normal).await;
        }
        let mut nowhere = served.websocket("/v3/nowhere").await;
        assert_eq!(nowhere.next().await, json!({"code": 5, "message": "Not Found"}));
        nowhere.expect_close(CloseCode::Normal).await;
    });
}

#[test]
fn a_stream_of_watches_goes_both_ways() {
    with_member(plain, 2, async |served| {
        let mut watch = served.websocket("/v3/watch").await;
        // One object in two messages, one of them binary.
        watch.send(r#"{"create_request":{"key":"YQ==","#).await;
        watch.socket.send(Message::binary(&br#""watch_id":"7"}}"#[..])).await.unwrap();
        let created = watch.next().await;
        assert_eq!((&created["result"]["created"], &created["result"]["watch_id"]), (&json!(true), &json!("7")));
        served.put("a", b"1".into()).await;
        assert_eq!(events(&watch.next().await), [("PUT", "MQ==")]);
        // Two in one, and a ping between them and what they cause.
        watch.send(r#"{"create_request":{"key":"Yg=="}}{"create_request":{"key":"Yw=="}}"#).await;
        watch.socket.send(Message::Ping("ping".into())).await.unwrap();
        let (mut pongs, mut created) = (0, 0);
        while (pongs, created) != (1, 2) {
            match watch.frame().await {
                Some(Message::Pong(data)) => {
                    assert_eq!(data, "ping");
                    pongs += 1;
                }
                Some(Message::Text(_)) => created += 1,
                other => panic!("{other:?}"),
            }
        }
        served.put("c", b"2".into()).await;
        assert_eq!(events(&watch.next().await), [("PUT", "Mg==")]);
        watch.send(r#"{"cancel_request":{"watch_id":"7"}}"#).await;
        assert_eq!(watch.next().await["result"]["canceled"], true);
        // The client closes: it gets its close back, and the call is over.
        watch.socket.close(None).await.unwrap();
        assert!(matches!(watch.frame().await, Some(Message::Close(None)) | None));
        assert!(watch.frame().await.is_none());
    });
}

#[test]
fn leases_are_kept_alive() {
    with_member(plain, 1, async |served| {
        let mut grant = served.websocket("/v3/lease/grant").await;
        grant.send(r#"{"TTL":600,"ID":"7"}"#).await;
        assert_eq!(grant.next().await["TTL"], "600");
        let mut alive = served.websocket("/v3/lease/keepalive").await;
        for _ in 0..3 {
            alive.send(r#"{"ID":"7"}"#).await;
            let renewed = alive.next().await;
            assert_eq!((&renewed["result"]["ID"], &renewed["result"]["TTL"]), (&json!("7"), &json!("600")));
        }
    });
}

#[test]
fn who_does_it_wrong_is_told_so() {
    with_member(plain, 1, async |served| {
        // A text without a mask; a text that is no text; a message beyond all limits, of which only the head comes.
        let unmasked: &[u8] = &[0x81, 2, b'{', b'}'];
        let no_text: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28];
        let too_large: &[u8] = &[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0];
        for (frame, code) in [(unmasked, 1002_u16), (no_text, 1007), (too_large, 1009)] {
            for path in ["/v3/watch", "/v3/kv/range"] {
                let (mut stream, _) = served.shake_hands(&handshake(path, "")).await;
                stream.write_all(frame).await.unwrap();
                stream.flush().await.unwrap();
                let mut close = [0; 4];
                served.within("a close", stream.read_exact(&mut close)).await.unwrap();
                let [high, low] = code.to_be_bytes();
                assert_eq!(close, [0x88, 2, high, low], "{path}: {frame:?}");
            }
        }
    });
}

#[test]
fn what_is_no_handshake_is_refused() {
    with_member(plain, 1, async |served| {
        let good = handshake("/v3/watch", "");
        for (request, status) in [
            (good.replace("GET", "POST"), "405 Method Not Allowed"),
            (good.replace("Version: 13", "Version: 8"), "400 Bad Request"),
            (good.replace(KEY, "short"), "400 Bad Request"),
        ] {
            let (_, head) = served.shake_hands(&request).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            assert!(head.to_ascii_lowercase().contains("sec-websocket-version: 13\r\n"), "{head}");
        }
        // Not the gateway's: an upgrade means nothing there.
        let (_, head) = served.shake_hands(&handshake("/version", "")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let (_, head) = served.shake_hands(&handshake("/v3/watch", "Sec-WebSocket-Protocol: Bearer, abc\r\n")).await;
        assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: bearer\r\n"), "{head}");
    });
}

#[test]
fn who_does_not_read_gets_everything_later() {
    const PUTS: usize = 60;
    with_member(plain, 2, async |served| {
        let mut watch = served.websocket("/v3/watch").await;
        watch.send(r#"{"create_request":{"key":"YQ=="}}"#).await;
        watch.next().await;
        // More than sockets, queues and buffers of this one stream may hold.
        for number in 0..PUTS {
            served.put("a", vec![number as u8; 1 << 20]).await;
        }
        let mut seen = 0;
        while seen < PUTS {
            let answer = watch.next().await;
            for (kind, value) in events(&answer) {
                // 1 MiB of one byte: base64's first letters tell which.
                let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                let first = letters[seen >> 2];
                assert_eq!((kind, value.len(), value.as_bytes()[0]), ("PUT", (1_usize << 20).div_ceil(3) * 4, first));
                seen += 1;
            }
        }
    });
}

#[test]
fn a_server_that_drains_closes_them_and_waits_for_that() {
    with_member(plain, 2, async |served| {
        let mut watch = served.websocket("/v3/watch").await;
        watch.send(r#"{"create_request":{"key":"YQ=="}}"#).await;
        watch.next().await;
        let mut silent = served.websocket("/v3/kv/range").await;
        served.service.drain();
        served.shutdown.send_replace(true);
        assert_eq!(watch.next().await["error"]["message"], "etcdserver: server stopped");
        watch.expect_close(CloseCode::Away).await;
        silent.expect_close(CloseCode::Away).await;
    });
}

#[test]
fn a_server_cuts_off_those_that_do_not_end() {
    with_member(plain, 1, async |served| {
        let any_port = Address::Tcp(([127, 0, 0, 1], 0).into());
        let listener = served.rt.listen(any_port, ListenOptions::default()).await.unwrap();
        let address = listener.local_address();
        let (shutdown, asked) = watch::channel(false);
        let service = served.service.clone();
        let options = ServerOptions { grace: Duration::from_millis(200), ..Default::default() };
        let make = move |_: &Address| service.clone();
        let mut ended = spawn_with_result(&*served.rt, serve_each(served.rt.clone(), listener, make, asked, options));
        let mut stream = served.rt.connect(address).await.unwrap();
        stream.write_all(handshake("/v3/watch", "").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut head = vec![0; 12];
        served.within("an answer", stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 101");
        served.rt.sleep(Duration::from_millis(50)).await;
        // Nobody tells the stream to end, as a drain would.
        shutdown.send_replace(true);
        served.rt.sleep(Duration::from_millis(50)).await;
        assert!(ended.try_recv().is_err(), "it counts as a connection");
        served.within("the end of the server", ended).await.unwrap();
        let mut rest = Vec::new();
        served.within("the end of the connection", stream.read_to_end(&mut rest)).await.unwrap();
    });
}
