//! A database that is defragmented when its member starts (`--bootstrap-defrag-threshold-megabytes`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::process::{Daemon, FREE_PORTS, quorate, send, serving};

const FLAG: &str = "--bootstrap-defrag-threshold-megabytes";

fn start(dir: &Path, threshold: u32) -> Daemon {
    Daemon::start(quorate(dir).args(FREE_PORTS).arg(format!("{FLAG}={threshold}")))
}

fn end(daemon: Daemon) -> Vec<Value> {
    daemon.signal("-TERM");
    daemon.wait().1
}

fn file_bytes(dir: &Path) -> u64 {
    fs::metadata(dir.join("data/member/snap/quorate.redb")).unwrap().len()
}

#[test]
fn a_start_gives_back_what_compaction_has_freed_if_that_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path(), 1);
    let skipped = daemon.wait_for("Skipping defragmentation");
    let client = serving(&mut daemon);
    assert_eq!(skipped["bootstrap-defrag-threshold-bytes"], 1 << 20);
    assert_eq!(
        (&skipped["bootstrap-defrag-threshold"], &skipped["current-db-size"]),
        (&"1.0 MB".into(), &"16 kB".into())
    );
    assert_eq!(skipped["current-db-size-bytes"], skipped["current-db-size-in-use-bytes"]);
    // 300 kB, sixteen times over the same key.
    let put = format!(r#"{{"key":"YQ==","value":"{}"}}"#, "YWJj".repeat(100_000));
    for _ in 0..16 {
        assert!(send(&client, "POST", "/v3/kv/put", &put).0.starts_with("HTTP/1.1 200"));
    }
    let (head, _) = send(&client, "POST", "/v3/kv/compaction", r#"{"revision":"17","physical":true}"#);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let log = end(daemon);
    let compacted = log.iter().find(|line| line["msg"] == "finished scheduled compaction").unwrap();
    assert_eq!((&compacted["compact-revision"], &compacted["number-of-keys-compacted"]), (&17.into(), &15.into()));
    let before = file_bytes(dir.path());
    assert!(before > 4 << 20, "{before}");

    for (threshold, told) in [(0, None), (1000, Some("Skipping defragmentation"))] {
        let mut daemon = start(dir.path(), threshold);
        serving(&mut daemon);
        let log = end(daemon);
        let lines = log.iter().filter_map(|line| line["msg"].as_str());
        let found: Vec<_> = lines.filter(|message| message.to_lowercase().contains("defrag")).collect();
        assert_eq!(found, Vec::from_iter(told), "{threshold}");
        assert!(file_bytes(dir.path()) > 4 << 20);
    }

    let mut daemon = start(dir.path(), 1);
    let begun = daemon.wait_for("defragmenting");
    let ended = daemon.wait_for("finished defragmenting directory");
    assert!(begun["current-db-size-bytes"].as_u64().unwrap() > 4 << 20, "{begun}");
    assert_eq!(ended["current-db-size-bytes"], ended["current-db-size-in-use-bytes"]);
    end(daemon);
    let after = file_bytes(dir.path());
    assert!(after < before / 2, "{before} bytes became {after}");
}
