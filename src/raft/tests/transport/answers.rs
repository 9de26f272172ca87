//! What is checked before anybody is answered, in etcd's order and words.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::{ClusterId, MemberId};

use crate::harness::*;

#[test]
fn streams_are_checked_in_etcds_order() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let stranger = Member::start(&rt, 3).await;
        let gone = Member::start(&rt, 4).await;
        one.recorder.removed.lock().unwrap().insert(gone.id);
        let own = "/raft/stream/message/abc";
        let get = |path: &str, change: &dyn Fn(&mut HeaderMap)| {
            let mut request = request(Method::GET, path, &two, &one, "");
            change(request.headers_mut());
            request
        };
        let set = |name: &'static str, value: &'static str| {
            move |headers: &mut HeaderMap| {
                headers.insert(name, value.parse().unwrap());
            }
        };
        let unset = |name: &'static str| {
            move |headers: &mut HeaderMap| {
                headers.remove(name);
            }
        };
        let unchanged = |_: &mut HeaderMap| {};
        for (request, status, body) in [
            (get(own, &set("x-server-version", "2.3.8")), 412, "incompatible version\n"),
            (get(own, &unset("x-server-version")), 412, "incompatible version\n"),
            (get(own, &set("x-server-version", "new")), 412, "incompatible version\n"),
            (get(own, &set("x-min-cluster-version", "3.8.0")), 412, "incompatible version\n"),
            (get(own, &set("x-etcd-cluster-id", "1")), 412, "cluster ID mismatch\n"),
            (get(own, &unset("x-etcd-cluster-id")), 412, "cluster ID mismatch\n"),
            (get("/raft/stream/nothing/abc", &unchanged), 404, "invalid path\n"),
            (get("/raft/stream/message/a/bc", &unchanged), 404, "invalid path\n"),
            (get("/raft/stream/message/xyz", &unchanged), 404, "invalid from\n"),
            (get("/raft/stream/msgapp/4", &unchanged), 410, "removed member\n"),
            (get("/raft/stream/msgapp/3", &unset("x-peerurls")), 404, "error sender not found\n"),
            (get(own, &set("x-raft-to", "2")), 412, "to field mismatch\n"),
            (get(own, &unset("x-raft-to")), 412, "to field mismatch\n"),
        ] {
            let (got, headers, text) = text(ask(&rt, &one, request).await).await;
            assert_eq!((got.as_u16(), text.as_str()), (status, body));
            assert_eq!(headers["x-server-version"], "3.7.1");
            assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
            assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        }
        let (status, headers, body) = text(ask(&rt, &one, request(Method::POST, own, &two, &one, "")).await).await;
        assert_eq!((status.as_u16(), headers["allow"].as_bytes(), &*body), (405, &b"GET"[..], "Method Not Allowed\n"));
        assert!(headers.get("x-server-version").is_none());
        // A newer release that still works with 3.0 is welcome.
        let newer = ask(&rt, &one, get(own, &set("x-server-version", "3.9.0"))).await;
        assert_eq!(
            (newer.status(), newer.headers()["transfer-encoding"].as_bytes()),
            (StatusCode::OK, &b"chunked"[..])
        );
        drop(stranger);
    });
}

#[test]
fn posts_are_checked_and_refused_as_etcd_does() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let post = |message: &raftpb::Message| request(Method::POST, "/raft", &two, &one, message.encode_to_vec());
        let good = heartbeat(&two, &one, 1);
        let (status, headers, body) = text(ask(&rt, &one, post(&good)).await).await;
        assert_eq!((status, body.as_str()), (StatusCode::NO_CONTENT, ""));
        assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
        assert!(headers.get("x-server-version").is_none());
        assert_eq!(one.until("the message", |told| told.messages.pop()).await, good);

        one.recorder.removed.lock().unwrap().insert(MemberId(9));
        let other_cluster = {
            let mut request = post(&good);
            request.headers_mut().insert("x-etcd-cluster-id", "2d025cca623367c".parse().unwrap());
            request
        };
        for (request, status, body) in [
            (other_cluster, 412, "cluster ID mismatch\n"),
            (request(Method::POST, "/raft", &two, &one, "\x0b"), 400, "error unmarshalling raft message\n"),
            (post(&raftpb::Message { from: Some(9), ..good.clone() }), 500, "error processing raft message\n"),
            (post(&raftpb::Message { to: Some(9), ..good.clone() }), 500, "error processing raft message\n"),
            (post(&snapshot(&two, &one, 3)), 500, "error processing raft message\n"),
            (request(Method::GET, "/raft", &two, &one, ""), 405, "Method Not Allowed\n"),
            (request(Method::GET, "/raft/snapshot", &two, &one, ""), 405, "Method Not Allowed\n"),
            (request(Method::GET, "/raft/else", &two, &one, ""), 404, "404 page not found\n"),
        ] {
            let (got, _, text) = text(ask(&rt, &one, request).await).await;
            assert_eq!((got.as_u16(), text.as_str()), (status, body));
        }
        // What only a member itself may say to its Raft is taken, and goes nowhere.
        let (status, ..) = text(ask(&rt, &one, post(&raftpb::Message { r#type: Some(0), ..good.clone() })).await).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert!(one.told(|told| told.messages.is_empty()));
        one.recorder.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
        let (status, ..) = text(ask(&rt, &one, post(&good)).await).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    });
}

#[test]
fn probing_tells_the_time() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let (status, headers, body) =
            text(ask(&rt, &one, request(Method::GET, "/raft/probing", &two, &one, "")).await).await;
        assert_eq!((status, headers["content-type"].as_bytes()), (StatusCode::OK, &b"text/plain; charset=utf-8"[..]));
        assert!(body.starts_with("{\"OK\":true,\"Now\":\"2") && body.ends_with("Z\"}\n"), "{body}");
        one.until_status(|status| status[&two.id].probe_ok).await;
        let probed = one.until("of a round trip", |told| told.probed.pop()).await;
        assert_eq!((probed.0, probed.1 < Duration::from_secs(5)), (two.id, true));
        let status = &one.transport.status()[&two.id];
        assert!(status.round_trip.is_some_and(|time| time < Duration::from_secs(5)), "{status:?}");
        assert!(status.clock_difference_ns.is_some_and(|difference| difference.abs() < 1_000_000_000), "{status:?}");
    });
}

#[test]
fn a_removed_member_is_told_so() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        one.recorder.removed.lock().unwrap().insert(two.id);
        one.transport.remove_peer(two.id);
        assert_eq!(two.until("that it was removed", |told| told.removed_by.pop()).await, one.id);
        assert!(one.told(|told| told.removed_by.is_empty()));
    });
}

#[test]
fn members_of_two_clusters_do_not_talk() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let other = Member::start_in(&rt, 2, ClusterId(7)).await;
        one.knows(&other);
        other.knows(&one);
        one.transport.send(vec![heartbeat(&one, &other, 1)]);
        assert_eq!(one.until("that the message was lost", |told| told.unreachable.pop()).await, other.id);
        rt.sleep(Duration::from_millis(300)).await;
        assert!(!one.transport.status()[&other.id].reads_messages);
        assert!(other.told(|told| told.messages.is_empty()));
    });
}
