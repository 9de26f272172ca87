//! Snapshots on their way.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use prost::Message as _;
use quorate_proto::raftpb;
use quorate_raft::transport::{SnapshotBody, SnapshotWay, remove_unfinished};
use quorate_runtime::Rt;
use quorate_runtime::clock::timeout;
use quorate_runtime::disk::read_file;
use quorate_runtime::io::AsyncWriteExt as _;
use quorate_runtime::sync::Notify;
use quorate_runtime_tokio::TokioRuntime;

use crate::harness::*;

fn snapshot_chunks() -> Vec<Option<Bytes>> {
    (0..50u8).map(|nth| Some((0..1 << 20).map(|at: u32| (at % 241) as u8 ^ nth).collect())).collect()
}

fn files(rt: &Rt, member: &Member) -> Vec<String> {
    rt.list_dir(&member.dir.path().join("snap")).unwrap_or_default()
}

#[test]
fn a_snapshot_arrives_byte_for_byte() {
    TokioRuntime::run(2, |rt| async move {
        let (one, two) = pair(&rt).await;
        let sent = snapshot(&one, &two, 0x1234);
        one.transport.send_snapshot(sent.clone(), Box::new(Chunks(snapshot_chunks())));
        let received = two.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!(received.message, sent);
        assert_eq!(received.file, two.dir.path().join("snap").join("0000000000001234.snap.db"));
        let contents = read_file(&*rt, &received.file).unwrap();
        assert_eq!(contents.len() as u64, received.size_bytes);
        let saved = received.saved.expect("it was written");
        assert!(saved.sync > Duration::ZERO && saved.total > saved.sync, "{saved:?}");
        let expected: Vec<u8> = snapshot_chunks().into_iter().flatten().flatten().collect();
        assert!(contents == expected);
        assert_eq!(one.until("that it was sent", |told| told.sent.pop()).await, (two.id, true));
        assert_eq!(files(&rt, &two), ["0000000000001234.snap.db"]);

        // The same once more: what is there is kept.
        one.transport.send_snapshot(sent.clone(), Box::new(Chunks(vec![Some(Bytes::from_static(b"other"))])));
        let again = two.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!((again.file, again.size_bytes, again.saved), (received.file, 50 << 20, None));
        assert_eq!(one.until("that it was sent", |told| told.sent.pop()).await, (two.id, true));
        for (member, way, peer) in [(&one, SnapshotWay::Sent, two.id), (&two, SnapshotWay::Received, one.id)] {
            assert_eq!(member.told(|told| told.transfers_begun.clone()), [(way, peer); 2]);
            assert_eq!(member.told(|told| told.transfers_ended.clone()), [(way, peer, true); 2]);
        }
    });
}

#[test]
fn a_snapshot_that_is_cut_leaves_nothing() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        // The sender's disk fails in the middle.
        let mut chunks = snapshot_chunks();
        chunks[20] = None;
        one.transport.send_snapshot(snapshot(&one, &two, 7), Box::new(Chunks(chunks)));
        assert_eq!(one.until("that it failed", |told| told.sent.pop()).await, (two.id, false));

        // The connection breaks inside a chunk, and between two.
        for tail in ["5\r\nabcde\r\n8\r\nabc", "5\r\nabcde\r\n"] {
            let message = snapshot(&one, &two, 8).encode_to_vec();
            let mut stream = dial(&rt, &two).await;
            let head = format!(
                "POST /raft/snapshot HTTP/1.1\r\nHost: peer\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.1\r\n\
                 X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-Id: {CLUSTER}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                message.len() + 8
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&(message.len() as u64).to_be_bytes()).await.unwrap();
            stream.write_all(&message).await.unwrap();
            stream.write_all(format!("\r\n{tail}").as_bytes()).await.unwrap();
            let waiting = async {
                while files(&rt, &two).is_empty() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(&*rt, PATIENCE, waiting).await.unwrap();
            drop(stream);
            let waiting = async {
                while !files(&rt, &two).is_empty() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(&*rt, PATIENCE, waiting).await.unwrap();
        }
        assert!(two.told(|told| told.snapshots.is_empty()));
        let failed = vec![(SnapshotWay::Received, one.id, false); 3];
        two.until("that all three failed", |told| (told.transfers_ended == failed).then_some(())).await;

        // The receiver goes away; the sender is told.
        let started = Arc::new(Notify::new());
        one.transport.send_snapshot(snapshot(&one, &two, 9), Box::new(Endless(started.clone())));
        started.notified().await;
        one.transport.remove_peer(two.id);
        assert_eq!(one.until("that it failed", |told| told.sent.pop()).await, (two.id, false));
    });
}

/// A body without end.
struct Endless(Arc<Notify>);

impl SnapshotBody for Endless {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.0.notify_one();
        Ok(Some(Bytes::from_static(&[0; 4096])))
    }
}

#[test]
fn snapshots_that_make_no_sense_are_refused() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = pair(&rt).await;
        let framed = |message: &raftpb::Message| {
            let encoded = message.encode_to_vec();
            [&(encoded.len() as u64).to_be_bytes()[..], &encoded, b"database"].concat()
        };
        let good = snapshot(&two, &one, 3);
        let unmarked = raftpb::Message { snapshot: Some(raftpb::Snapshot::default()), ..good.clone() };
        let misled = raftpb::Message { to: Some(77), ..good.clone() };
        for (body, status, start) in [
            (vec![0; 4], 400, "failed to decode raft message ("),
            (((64u64 << 20) + 1).to_be_bytes().to_vec(), 400, "failed to decode raft message ("),
            (framed(&good)[..30].to_vec(), 400, "failed to decode raft message ("),
            (framed(&heartbeat(&two, &one, 1)), 400, "wrong raft message type\n"),
            (framed(&unmarked), 400, "failed to decode raft message ("),
            (framed(&misled), 500, "failed to process raft message ("),
        ] {
            let (got, headers, text) =
                text(ask(&rt, &one, request(Method::POST, "/raft/snapshot", &two, &one, body)).await).await;
            assert_eq!(got.as_u16(), status, "{text}");
            assert!(text.starts_with(start), "{text}");
            assert_eq!(headers["x-etcd-cluster-id"], "2d025cca623367cb");
        }
        assert!(one.told(|told| told.snapshots.is_empty()));
        let (status, ..) =
            text(ask(&rt, &one, request(Method::POST, "/raft/snapshot", &two, &one, framed(&good))).await).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let received = one.until("the snapshot", |told| told.snapshots.pop()).await;
        assert_eq!(read_file(&*rt, &received.file).unwrap(), b"database");
    });
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    TokioRuntime::run(1, |rt| async move {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0000000000000007-0.snap.db.tmp", "0000000000000003.snap.db", "db"] {
            rt.open(&dir.path().join(name), quorate_runtime::disk::OpenMode::CreateNew).unwrap();
        }
        assert_eq!(remove_unfinished(&*rt, dir.path()).unwrap(), 1);
        assert_eq!(rt.list_dir(dir.path()).unwrap(), ["0000000000000003.snap.db", "db"]);
        assert_eq!(remove_unfinished(&*rt, Path::new("/nonexistent")).unwrap(), 0);
    });
}
