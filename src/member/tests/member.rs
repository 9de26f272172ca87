//! A member on real files: founding, stopping, going on, and every reason not to start.

#![allow(clippy::disallowed_methods, reason = "tests look at real files")]

use std::fs;
use std::path::Path;

use bytes::Bytes;
use quorate_member::{Member, MemberConfig, StartError, StopReason};
use quorate_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest};
use quorate_runtime::Rt;
use quorate_runtime_tokio::TokioRuntime;
use quorate_store::Response;
use quorate_types::{Error, Revision};

fn config(dir: &Path) -> MemberConfig {
    MemberConfig::single("m1", &dir.join("m1.etcd"), "http://127.0.0.1:2380", "http://127.0.0.1:2379")
}

fn put(key: &'static str, value: &'static str) -> InternalRaftRequest {
    let put = PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        ..PutRequest::default()
    };
    InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() }
}

async fn start(rt: &Rt, config: MemberConfig) -> Result<Member, StartError> {
    let member = Member::start(rt.clone(), config).await?;
    member.ready().await;
    Ok(member)
}

async fn stop(member: &Member) {
    member.stop();
    assert_eq!(member.stopped().await, StopReason::Asked);
}

async fn count(member: &Member) -> i64 {
    member.linearize().await.unwrap();
    let all = RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        count_only: true,
        ..RangeRequest::default()
    };
    member.view().range(&all).unwrap().count
}

/// The text of the refusal. A member that starts fails the test.
async fn refusal(rt: &Rt, config: MemberConfig) -> String {
    match Member::start(rt.clone(), config).await {
        Ok(_) => panic!("started where it must refuse"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_was_put_is_there_after_a_restart_and_ids_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, config(&path)).await.unwrap();
        let response = member.propose(put("a", "1")).await.unwrap();
        let Response::Put(response) = response else { panic!("a put is answered by a put response") };
        assert_eq!(response.header.unwrap().revision, 2);
        member.propose(put("b", "2")).await.unwrap();
        let ids = (member.id(), member.cluster_id());
        assert_eq!(count(&member).await, 2);
        stop(&member).await;
        assert_eq!(member.propose(put("c", "3")).await, Err(Error::Stopped));
        drop(member);

        // The founding flags are not looked at any more.
        let other = MemberConfig { name: "other".to_owned(), ..config(&path) };
        let member = start(&rt, other).await.unwrap();
        assert_eq!((member.id(), member.cluster_id()), ids);
        assert_eq!(count(&member).await, 2);
        assert_eq!(member.view().revision(), Revision(3));
        assert_eq!(member.view().members()[0].name, "other");
        assert_eq!(member.view().cluster_version(), Some("3.7.0"));
        stop(&member).await;
    });
}

#[test]
fn the_log_begins_as_etcds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, config(&path)).await.unwrap();
        stop(&member).await;
        let log = quorate_raft::wal::read_all(&rt, &config(&path).wal_path()).unwrap();
        assert_eq!(log.metadata.node_id, Some(member.id().0));
        assert_eq!(log.metadata.cluster_id, Some(member.cluster_id().0));
        let positions: Vec<_> =
            log.entries.iter().map(|entry| (entry.index(), entry.term(), entry.r#type() as i32)).collect();
        assert_eq!(positions, [(1, 1, 1), (2, 2, 0), (3, 2, 0), (4, 2, 0)]);
        let founding = String::from_utf8_lossy(log.entries[0].data()).into_owned();
        assert!(
            founding
                .contains(&format!(r#"{{"id":{},"peerURLs":["http://127.0.0.1:2380"],"name":"m1"}}"#, member.id().0)),
            "{founding}"
        );
    });
}

#[test]
fn a_directory_serves_one_member_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, config(&path)).await.unwrap();
        assert!(refusal(&rt, config(&path)).await.contains("is locked by another process"));
        assert_eq!(count(&member).await, 0);
        stop(&member).await;
    });
}

#[test]
fn etcds_directory_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let snap = config(&path).snap_dir();
    fs::create_dir_all(&snap).unwrap();
    let mut page = vec![0; 4096];
    page[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    fs::write(snap.join("db"), &page).unwrap();
    let tree = || {
        let mut names: Vec<_> =
            fs::read_dir(config(&path).data_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        (names, fs::read(snap.join("db")).unwrap())
    };
    let before = tree();
    TokioRuntime::run(1, |rt| {
        let path = path.clone();
        async move {
            let text = refusal(&rt, config(&path)).await;
            assert!(text.contains("belongs to etcd") && text.contains("make-mirror"), "{text}");
        }
    });
    assert_eq!(tree(), before);
}

#[test]
fn half_a_members_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, config(&path)).await.unwrap();
        member.propose(put("a", "1")).await.unwrap();
        stop(&member).await;
        drop(member);
        let (database, aside) = (config(&path).database_path(), path.join("aside"));
        fs::rename(&database, &aside).unwrap();
        assert!(refusal(&rt, config(&path)).await.contains("is missing"));
        assert!(!database.exists());
        fs::rename(&aside, &database).unwrap();
        let wal = config(&path).wal_path();
        fs::rename(&wal, &aside).unwrap();
        assert!(refusal(&rt, config(&path)).await.contains("is missing"));
        fs::rename(&aside, &wal).unwrap();
        let member = start(&rt, config(&path)).await.unwrap();
        assert_eq!(count(&member).await, 1);
        stop(&member).await;
    });
}

#[test]
fn a_start_that_was_cut_short_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, config(&path)).await.unwrap();
        stop(&member).await;
        let ids = (member.id(), member.cluster_id());
        drop(member);
        // A database that holds nothing, and no log: killed between the two first steps.
        let fresh = path.join("fresh");
        let halfway = config(&fresh);
        fs::create_dir_all(halfway.snap_dir()).unwrap();
        drop(
            quorate_store::Store::create(&rt, &halfway.database_path(), quorate_store::StoreOptions::default())
                .unwrap(),
        );
        let member = start(&rt, halfway).await.unwrap();
        assert_eq!((member.id(), member.cluster_id()), ids);
        stop(&member).await;
    });
}

#[test]
fn flags_that_do_not_fit_are_refused_in_etcds_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let stranger = MemberConfig { name: "m9".to_owned(), ..config(&path) };
        assert_eq!(
            refusal(&rt, stranger).await,
            "couldn't find local name \"m9\" in the initial cluster configuration"
        );
        let elsewhere = MemberConfig { advertise_peer_urls: vec!["http://127.0.0.1:9".to_owned()], ..config(&path) };
        assert!(refusal(&rt, elsewhere).await.starts_with(
            "--initial-cluster has m1=http://127.0.0.1:2380 but missing from --initial-advertise-peer-urls="
        ));
        assert!(!config(&path).data_dir.exists(), "a refused start creates nothing");
    });
}

#[test]
fn a_request_that_is_too_large_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, MemberConfig { max_request_bytes: 64, ..config(&path) }).await.unwrap();
        let before = member.raft_status().committed;
        let mut large = put("a", "1");
        large.put.as_mut().unwrap().value = Bytes::from(vec![0; 100]);
        assert_eq!(member.propose(large).await, Err(Error::RequestTooLarge));
        assert_eq!(member.raft_status().committed, before);
        stop(&member).await;
    });
}

#[test]
fn the_log_is_marked_and_released_as_the_database_follows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let small = MemberConfig {
        snapshot_count: 10,
        snapshot_catchup_entries: 3,
        wal_segment_bytes: 4096,
        flush_interval: std::time::Duration::from_millis(1),
        ..config(&path)
    };
    TokioRuntime::run(1, |rt| async move {
        let member = start(&rt, small.clone()).await.unwrap();
        let read_log = || quorate_raft::wal::read_all(&rt, &small.wal_path()).unwrap();
        let mut puts = 0;
        // How many puts go into one flush is up to the disk.
        while read_log().entries[0].index() == 1 {
            assert!(puts < 20_000, "the first segment should be gone by now");
            for _ in 0..50 {
                member.propose(put("a", "1")).await.unwrap();
            }
            puts += 50;
        }
        stop(&member).await;
        drop(member);
        let log = read_log();
        let marked = log.snapshots.iter().filter_map(|mark| mark.index).max().unwrap();
        assert!(marked >= log.entries[0].index(), "what was released lies below the mark {marked}");
        let member = start(&rt, small).await.unwrap();
        assert_eq!(member.view().revision(), Revision(1 + puts));
        stop(&member).await;
    });
}
