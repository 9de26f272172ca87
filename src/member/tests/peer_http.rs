//! Questions to a peer port, over real sockets: what goes out, what comes back, and what each failure is called.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use quorate_member::peer_http::{self, Cause, PeerHttpError};
use quorate_raft::transport::CallError;
use quorate_runtime::Rt;
use quorate_runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime::sync::oneshot;
use quorate_runtime_tokio::TokioRuntime;

const LIMIT: Duration = Duration::from_secs(10);

/// Accepts one connection, reads until `ends_with`, answers with `answer`, and hands out what it read.
async fn serve_once(rt: &Rt, ends_with: &'static str, answer: Vec<u8>) -> (String, oneshot::Receiver<String>) {
    let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
    let url = format!("http://{}", listener.local_address());
    let (read_out, read) = oneshot::channel();
    rt.spawn(Box::pin(async move {
        let mut stream = listener.accept().await.unwrap().into_stream().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(ends_with.as_bytes()) {
            let mut buffer = [0; 512];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the connection ended after {request:?}");
            request.extend_from_slice(&buffer[..count]);
        }
        // The caller may refuse an answer and hang up before it is written.
        let _ = stream.write_all(&answer).await;
        let _ = read_out.send(String::from_utf8(request).unwrap());
        // Kept open: the answer ends where it says, not with the connection.
        let mut end = [0; 1];
        let _ = stream.read(&mut end).await;
    }));
    (url, read)
}

async fn get(rt: &Rt, url: &str, path: &str, limit: Duration) -> Result<(StatusCode, HeaderMap, Bytes), PeerHttpError> {
    peer_http::call(rt, url, Method::GET, path, HeaderMap::new(), Bytes::new(), limit).await
}

#[test]
fn a_question_is_asked_as_it_was_put_and_answered_whole() {
    TokioRuntime::run(1, |rt| async move {
        let answer =
            b"HTTP/1.1 412 Precondition Failed\r\nX-Etcd-Cluster-Id: abc\r\nContent-Length: 14\r\n\r\nnot\nfor you..\n";
        let (url, asked) = serve_once(&rt, "12345", answer.to_vec()).await;
        let headers = HeaderMap::from_iter([("x-etcd-cluster-id".parse().unwrap(), HeaderValue::from_static("dead"))]);
        let body = Bytes::from_static(b"12345");
        let (status, headers, answer) =
            peer_http::call(&rt, &url, Method::POST, "/members/promote/7?a=b", headers, body, LIMIT).await.unwrap();
        assert_eq!(status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(headers["x-etcd-cluster-id"], "abc");
        assert_eq!(answer, "not\nfor you..\n");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /members/promote/7?a=b HTTP/1.1\r\n"), "{asked}");
        let host = url.strip_prefix("http://").unwrap();
        for line in [format!("host: {host}"), "x-etcd-cluster-id: dead".to_owned(), "content-length: 5".to_owned()] {
            assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line} in {asked}");
        }
    });
}

#[test]
fn an_answer_in_pieces_is_put_together() {
    TokioRuntime::run(1, |rt| async move {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
        let (url, asked) = serve_once(&rt, "\r\n\r\n", answer.to_vec()).await;
        let (status, _, answer) = get(&rt, &url, "/members", LIMIT).await.unwrap();
        assert_eq!((status, answer), (StatusCode::OK, Bytes::from_static(b"abcdefg")));
        assert!(asked.await.unwrap().starts_with("GET /members HTTP/1.1\r\n"));
    });
}

#[test]
fn failures_say_what_was_asked_and_where() {
    TokioRuntime::run(1, |rt| async move {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        let url = format!("http://{}", listener.local_address());

        // It accepts (the kernel does), and never answers.
        let error = get(&rt, &url, "/version", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Call(CallError::Timeout(_))), "{error:?}");
        assert_eq!(error.to_string(), format!("GET {url}/version: no answer within 50ms"));

        drop(listener);
        let error = get(&rt, &url, "/version", LIMIT).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("GET {url}/version: cannot connect to {url}: ")), "{error}");

        let error = get(&rt, "unix://a:1", "/version", LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("must have the form http://host:port"), "{error}");
        let error = get(&rt, &url, "/a b", LIMIT).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Path(_)), "{error:?}");

        let (url, _asked) =
            serve_once(&rt, "\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec()).await;
        let error = get(&rt, &url, "/members", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Call(CallError::Timeout(_))), "{error:?}");

        let (url, _asked) = serve_once(&rt, "\r\n\r\n", b"SSH-2.0-OpenSSH\r\n".to_vec()).await;
        let error = get(&rt, &url, "/members", LIMIT).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Call(CallError::Http(_))), "{error:?}");

        let mut long = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n".to_vec();
        long.resize(long.len() + 5_000_000, b'x');
        let (url, _asked) = serve_once(&rt, "\r\n\r\n", long).await;
        let error = get(&rt, &url, "/members", LIMIT).await.unwrap_err();
        assert!(matches!(error.cause, Cause::AnswerTooLong), "{error:?}");
    });
}
