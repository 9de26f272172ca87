//! Messages between members: they arrive, or Raft is told; streams end and are dialed again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_raft::transport::{PEER_LIMIT_MIN, Transport, TransportConfig, TransportLimits};
use quorate_runtime::clock::timeout;
use quorate_runtime::io::{AsyncReadExt as _, AsyncWriteExt as _};
use quorate_runtime::net::{Address, ListenOptions};
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::MemberId;

use crate::harness::*;

#[test]
fn messages_of_both_streams_arrive_in_order_and_whole() {
    TokioRuntime::run(2, |rt| async move {
        let (one, two) = pair(&rt).await;
        let data = Bytes::from(vec![7; 1000]);
        let appends: Vec<_> = (1..=3000).map(|index| append(&one, &two, index, &data)).collect();
        let answers: Vec<_> = (1..=3000).map(|commit| heartbeat(&two, &one, commit)).collect();
        for (appends, answers) in appends.chunks(100).zip(answers.chunks(100)) {
            one.transport.send(appends.to_vec());
            two.transport.send(answers.to_vec());
        }
        let arrived = two.until("3000 appends", |told| {
            (told.messages.len() >= appends.len()).then(|| std::mem::take(&mut told.messages))
        });
        assert_eq!(arrived.await, appends);
        let arrived = one.until("3000 heartbeats", |told| {
            (told.messages.len() >= answers.len()).then(|| std::mem::take(&mut told.messages))
        });
        assert_eq!(arrived.await, answers);
        assert!(one.transport.active_since(two.id).is_some());
        let status = &one.transport.status()[&two.id];
        assert!(status.sent_bytes > 3_000_000 && status.received_bytes > 30_000, "{status:?}");
        assert_eq!((one.told(|told| told.unreachable.len()), two.told(|told| told.unreachable.len())), (0, 0));
    });
}

#[test]
fn a_large_entry_arrives_whole() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let data: Bytes = (0..20_000_000u32).map(|at| (at % 251) as u8).collect();
        let message = append(&one, &two, 5, &data);
        one.transport.send(vec![message.clone()]);
        let arrived = two.until("the entry", |told| told.messages.pop()).await;
        assert!(arrived == message);
    });
}

#[test]
fn nobody_and_strangers_get_nothing() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let to = |id| raftpb::Message { to: id, ..heartbeat(&one, &two, 1) };
        one.transport.send(vec![to(None), to(Some(0)), to(Some(99)), to(Some(two.id.0))]);
        two.until("its heartbeat", |told| told.messages.pop()).await;
        one.transport
            .send_snapshot(raftpb::Message { to: Some(99), ..snapshot(&one, &two, 1) }, Box::new(Chunks(vec![])));
        assert_eq!(one.told(|told| (told.unreachable.len(), told.sent.clone())), (0, vec![(MemberId(99), false)]));
    });
}

#[test]
fn a_member_that_is_known_one_way_is_answered_by_post() {
    TokioRuntime::run(1, |rt| async move {
        let (leader, joiner) = (Member::start(&rt, 1).await, Member::start(&rt, 2).await);
        // The joiner knows nobody: its answers to the leader's dials are 404, and the leader posts.
        leader.knows(&joiner);
        let sent = append(&leader, &joiner, 7, &Bytes::from_static(b"data"));
        leader.transport.send(vec![sent.clone()]);
        assert_eq!(joiner.until("the post", |told| told.messages.pop()).await, sent);
        let status = joiner.transport.status();
        assert!(!status[&leader.id].is_member);
        assert_eq!(joiner.transport.active_since(leader.id), None);
        let answers: Vec<_> = (1..=20).map(|commit| heartbeat(&joiner, &leader, commit)).collect();
        joiner.transport.send(answers.clone());
        let arrived =
            leader.until("20 answers", |told| (told.messages.len() == 20).then(|| std::mem::take(&mut told.messages)));
        let mut arrived = arrived.await;
        // Posts may overtake each other.
        arrived.sort_by_key(raftpb::Message::commit);
        assert_eq!(arrived, answers);

        // Then it learns who the leader is, and streams take over.
        joiner.knows(&leader);
        joiner.until_read_by(&leader).await;
        leader.until_read_by(&joiner).await;
        assert!(joiner.transport.status()[&leader.id].is_member);
        joiner.transport.send(vec![answers[0].clone()]);
        leader.until("an answer by stream", |told| told.messages.pop()).await;
    });
}

#[test]
fn a_peer_whose_listener_died_is_reported_and_found_again() {
    TokioRuntime::run(1, |rt| async move {
        let (one, mut two) = pair(&rt).await;
        two.serving = None;
        // Its own dials live on; those to it broke, and what it reads goes with them: it dials from another side.
        one.until_status(|status| status[&two.id].active_since.is_none()).await;
        assert!(one.told(|told| told.unreachable.is_empty()), "nothing was lost");
        two.transport.stop();
        one.until_status(|status| !status[&two.id].reads_messages).await;
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        one.until_status(|status| status[&two.id].send_failures == 1).await;
        assert!(one.told(|told| told.unreachable.contains(&two.id)));

        let again = TransportConfig {
            id: two.id,
            cluster_id: CLUSTER,
            peer_urls: vec![two.url.clone()],
            server_version: "3.7.1",
            election_timeout: Duration::from_secs(1),
            snapshot_dir: two.dir.path().to_path_buf(),
            limits: TransportLimits::default(),
        };
        two.transport = Transport::new(rt.clone(), again, two.recorder.clone());
        two.serve().await;
        two.knows(&one);
        one.until_read_by(&two).await;
        one.transport.send(vec![heartbeat(&one, &two, 2)]);
        let arrived = two.until("a heartbeat", |told| told.messages.pop()).await;
        assert_eq!(arrived.commit(), 2);
        one.until_status(|status| status[&two.id].active_since.is_some() && status[&two.id].disconnects > 0).await;
    });
}

#[test]
fn a_second_stream_of_a_kind_replaces_the_first() {
    TokioRuntime::run(1, |rt| async move {
        // Two is known to one, but reads nothing by itself.
        let (one, two) = (Member::start(&rt, 1).await, Member::start(&rt, 0xabc).await);
        one.knows(&two);
        let get = || request(Method::GET, "/raft/stream/message/abc", &two, &one, "");
        let mut first = ask(&rt, &one, get()).await.into_body();
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        let frame = first.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(raftpb::Message::decode(frame.slice(8..)).unwrap().commit(), 1);
        assert_eq!(frame[..8], (frame.len() as u64 - 8).to_be_bytes());

        let mut second = ask(&rt, &one, get()).await.into_body();
        assert!(first.frame().await.is_none(), "the first ends as it should");
        one.transport.send(vec![heartbeat(&one, &two, 2)]);
        let frame = second.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(raftpb::Message::decode(frame.slice(8..)).unwrap().commit(), 2);
        let quiet = second.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&quiet[..], [0, 0, 0, 0, 0, 0, 0, 2, 8, 8]);

        one.transport.remove_peer(two.id);
        assert!(second.frame().await.is_none());
        let (status, _, body) = text(ask(&rt, &one, get()).await).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, "error sender not found\n"));
    });
}

#[test]
fn a_stream_of_garbage_ends_and_is_dialed_again() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        one.transport.add_peer(MemberId(5), vec![format!("http://{}", listener.local_address())]);
        let mut dials = Vec::new();
        while dials.len() < 6 {
            let mut stream = timeout(&*rt, PATIENCE, listener.accept()).await.unwrap().unwrap().into_stream().unwrap();
            dials.push(rt.mono_now());
            rt.spawn(Box::pin(async move {
                let mut head = [0; 2000];
                let _ = stream.read(&mut head).await;
                let answer = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                // A frame of more bytes than there are.
                let _ = stream.write_all(b"9\r\n\x02\xff\xff\xff\xff\xff\xff\xff\xff\r\n").await;
                let _ = stream.read(&mut head).await;
            }));
        }
        // Two streams, three dials each: at least two pauses.
        assert!(dials[5].since(dials[0]) >= Duration::from_millis(190));
        assert!(one.told(|told| told.messages.is_empty()));
    });
}

#[test]
fn a_silent_stream_is_given_up_and_dialed_again() {
    TokioRuntime::run(1, |rt| async move {
        let one = Member::start(&rt, 1).await;
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let mut listener = rt.listen(any, ListenOptions::default()).await.unwrap();
        one.transport.add_peer(MemberId(5), vec![format!("http://{}", listener.local_address())]);
        let mut held = Vec::new();
        let mut accepted_at = Vec::new();
        // Both streams, each twice (and a probe).
        while accepted_at.len() < 5 {
            let mut stream = timeout(&*rt, PATIENCE, listener.accept()).await.unwrap().unwrap().into_stream().unwrap();
            accepted_at.push(rt.mono_now());
            let answer = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            held.push(stream);
        }
        let again_after = accepted_at[3].since(accepted_at[0]);
        assert!(again_after >= PEER_LIMIT_MIN && again_after < 2 * PEER_LIMIT_MIN, "{again_after:?}");
        assert!(one.transport.status()[&MemberId(5)].disconnects > 0);
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_bounded_memory_and_is_reported() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = (Member::start(&rt, 1).await, Member::start(&rt, 0xabc).await);
        one.knows(&two);
        let mut stuck = dial(&rt, &one).await;
        let head = format!(
            "GET /raft/stream/msgapp/abc HTTP/1.1\r\nHost: peer\r\nX-Server-From: abc\r\nX-Server-Version: 3.7.1\r\n\
             X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-Id: {CLUSTER}\r\nX-Raft-To: 1\r\n\r\n"
        );
        stuck.write_all(head.as_bytes()).await.unwrap();
        one.until_status(|status| status[&two.id].reads_appends).await;
        let data = Bytes::from(vec![1; 1 << 20]);
        // 300 MiB, of which 64 may wait.
        for index in 0..300 {
            one.transport.send(vec![append(&one, &two, index, &data)]);
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(one.until("that messages were dropped", |told| told.unreachable.pop()).await, two.id);
        let dropped = one.transport.status()[&two.id].send_failures;
        assert!((100..300).contains(&dropped), "{dropped}");
        // The write limit cuts the connection, and appends go by post again.
        one.until_status(|status| !status[&two.id].reads_appends).await;
        one.transport.send(vec![append(&one, &two, 1, &Bytes::from_static(b"x"))]);
        two.until("an append by post", |told| told.messages.pop()).await;
    });
}

/// A body that is in memory; a `None` is a failing disk.

#[test]
fn nothing_is_left_after_stop() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        one.transport.stop();
        two.until_status(|status| !status[&one.id].reads_messages && !status[&one.id].reads_appends).await;
        one.transport.send(vec![heartbeat(&one, &two, 1)]);
        one.knows(&two);
        assert!(one.transport.status().is_empty());
        let recorder = Arc::downgrade(&one.recorder);
        let Member { transport, recorder: strong, serving, .. } = one;
        drop((transport, strong, serving));
        let waiting = async {
            while recorder.strong_count() > 0 {
                rt.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&*rt, PATIENCE, waiting).await.expect("tasks hold what they were given");
    });
}
