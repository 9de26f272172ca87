//! Every metric of etcd 3.7 that a member has: its name, its type and its labels, after a start with some work done.

use std::time::{Duration, Instant};

use super::process::{Daemon, FREE_PORTS, PATIENCE, get, quorate, send, serving, start};

/// What one member alone shows: name, type, labels (`-` for none), and of a histogram the first bucket and how many there are, each
/// twice the one before.
const ALONE: &str = "
etcd_cluster_version gauge cluster_version
etcd_debugging_lease_granted_total counter
etcd_debugging_lease_renewed_total counter
etcd_debugging_lease_revoked_total counter
etcd_debugging_lease_ttl_total histogram - 1*24
etcd_debugging_mvcc_compact_revision gauge
etcd_debugging_mvcc_current_revision gauge
etcd_debugging_mvcc_db_compaction_keys_total counter
etcd_debugging_mvcc_db_compaction_last gauge
etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds histogram - 1*13
etcd_debugging_mvcc_db_compaction_total_duration_milliseconds histogram - 100*14
etcd_debugging_mvcc_events_total counter
etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds histogram - 0.5*14
etcd_debugging_mvcc_keys_total gauge
etcd_debugging_mvcc_pending_events_total gauge
etcd_debugging_mvcc_slow_watcher_total gauge
etcd_debugging_mvcc_total_put_size_in_bytes gauge
etcd_debugging_mvcc_watch_stream_total gauge
etcd_debugging_mvcc_watcher_total gauge
etcd_debugging_server_alarms gauge alarm_type,server_id
etcd_debugging_server_lease_expired_total counter
etcd_debugging_server_watch_send_loop_control_stream_duration_seconds histogram - 0.001*14
etcd_debugging_server_watch_send_loop_progress_duration_seconds histogram - 0.001*14
etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds histogram - 0.001*14
etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds histogram - 0.001*14
etcd_disk_backend_commit_duration_seconds histogram - 0.001*14
etcd_disk_backend_defrag_duration_seconds histogram - 0.1*13
etcd_disk_backend_snapshot_duration_seconds histogram - 0.01*17
etcd_disk_defrag_inflight gauge
etcd_disk_wal_fsync_duration_seconds histogram - 0.001*14
etcd_disk_wal_write_bytes_total gauge
etcd_disk_wal_write_duration_seconds histogram - 0.001*14
etcd_mvcc_db_open_read_transactions gauge
etcd_mvcc_db_total_size_in_bytes gauge
etcd_mvcc_db_total_size_in_use_in_bytes gauge
etcd_mvcc_delete_total counter
etcd_mvcc_hash_duration_seconds histogram - 0.01*15
etcd_mvcc_hash_rev_duration_seconds histogram - 0.01*15
etcd_mvcc_put_total counter
etcd_mvcc_range_total counter
etcd_mvcc_txn_total counter
etcd_network_client_grpc_received_bytes_total counter
etcd_network_client_grpc_sent_bytes_total counter
etcd_network_known_peers gauge Local,Remote
etcd_network_server_stream_failures_total counter API,Type
etcd_server_apply_duration_seconds histogram op,success,version 0.0001*20
etcd_server_client_requests_total counter client_api_version,type
etcd_server_feature_enabled gauge name,stage
etcd_server_go_version gauge server_go_version
etcd_server_has_leader gauge
etcd_server_health_failures counter
etcd_server_health_success counter
etcd_server_healthcheck gauge name,type
etcd_server_healthchecks_total counter name,status,type
etcd_server_heartbeat_send_failures_total counter
etcd_server_id gauge server_id
etcd_server_is_leader gauge
etcd_server_is_learner gauge
etcd_server_leader_changes_seen_total counter
etcd_server_learner_promote_failures counter Reason
etcd_server_learner_promote_successes counter
etcd_server_proposals_applied_total gauge
etcd_server_proposals_committed_total gauge
etcd_server_proposals_failed_total counter
etcd_server_proposals_pending gauge
etcd_server_quota_backend_bytes gauge
etcd_server_range_duration_seconds histogram success 0.0001*20
etcd_server_read_indexes_failed_total counter
etcd_server_request_duration_seconds histogram success,type 0.001*14
etcd_server_slow_apply_total counter
etcd_server_slow_read_indexes_total counter
etcd_server_snapshot_apply_in_progress_total gauge
etcd_server_version gauge server_version
etcd_snap_db_fsync_duration_seconds histogram - 0.001*14
etcd_snap_db_save_total_duration_seconds histogram - 0.1*10
os_fd_limit gauge
os_fd_used gauge
grpc_server_started_total counter grpc_method,grpc_service,grpc_type
grpc_server_handled_total counter grpc_code,grpc_method,grpc_service,grpc_type
grpc_server_msg_received_total counter grpc_method,grpc_service,grpc_type
grpc_server_msg_sent_total counter grpc_method,grpc_service,grpc_type
grpc_server_handling_seconds histogram grpc_method,grpc_service,grpc_type
process_cpu_seconds_total counter
process_max_fds gauge
process_network_receive_bytes_total counter
process_network_transmit_bytes_total counter
process_open_fds gauge
process_resident_memory_bytes gauge
process_start_time_seconds gauge
process_virtual_memory_bytes gauge
process_virtual_memory_max_bytes gauge
promhttp_metric_handler_requests_in_flight gauge
promhttp_metric_handler_requests_total counter code
go_gc_duration_seconds summary
go_gc_gogc_percent gauge
go_gc_gomemlimit_bytes gauge
go_goroutines gauge
go_info gauge version
go_memstats_alloc_bytes gauge
go_memstats_alloc_bytes_total counter
go_memstats_buck_hash_sys_bytes gauge
go_memstats_frees_total counter
go_memstats_gc_sys_bytes gauge
go_memstats_heap_alloc_bytes gauge
go_memstats_heap_idle_bytes gauge
go_memstats_heap_inuse_bytes gauge
go_memstats_heap_objects gauge
go_memstats_heap_released_bytes gauge
go_memstats_heap_sys_bytes gauge
go_memstats_last_gc_time_seconds gauge
go_memstats_mallocs_total counter
go_memstats_mcache_inuse_bytes gauge
go_memstats_mcache_sys_bytes gauge
go_memstats_mspan_inuse_bytes gauge
go_memstats_mspan_sys_bytes gauge
go_memstats_next_gc_bytes gauge
go_memstats_other_sys_bytes gauge
go_memstats_stack_inuse_bytes gauge
go_memstats_stack_sys_bytes gauge
go_memstats_sys_bytes gauge
go_sched_gomaxprocs_threads gauge
go_threads gauge
";

/// What a member with others shows besides. What only their answers make (round trips, snapshots under way) is tested in
/// `src/member/src/metrics/peers.rs`.
const WITH_OTHERS: &str = "
etcd_network_active_peers gauge Local,Remote
etcd_network_disconnected_peers_total counter Local,Remote
etcd_network_peer_received_bytes_total counter From
etcd_network_peer_received_failures_total counter From
etcd_network_peer_sent_bytes_total counter To
etcd_network_peer_sent_failures_total counter To
";

/// What `/metrics` has answered.
struct Scrape(String);

impl Scrape {
    fn of(address: &str) -> Self {
        let (head, body) = get(address, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Self(body)
    }

    /// Asks until it shows these lines, or the begin of one: some numbers are read from time to time only.
    fn until(address: &str, wanted: &[&str]) -> Self {
        let start = Instant::now();
        loop {
            let scrape = Self::of(address);
            let is_there = |line: &str| {
                scrape.0.lines().any(|found| found == line || line.ends_with('{') && found.starts_with(line))
            };
            let missing = wanted.iter().find(|line| !is_there(line));
            let Some(missing) = missing else { return scrape };
            assert!(start.elapsed() < PATIENCE, "no {missing} in\n{}", scrape.0);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The upper bounds of a histogram's buckets, but for the last one.
    fn buckets(&self, name: &str) -> Vec<f64> {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{"));
        let bounds = series.filter_map(|labels| labels.split_once("le=\"")?.1.split_once('"')?.0.parse().ok());
        let mut bounds: Vec<f64> = bounds.filter(|bound: &f64| bound.is_finite()).collect();
        bounds.sort_unstable_by(f64::total_cmp);
        bounds.dedup();
        bounds
    }

    /// Type and labels of a metric; without those that its type brings along.
    fn shape(&self, name: &str) -> Option<(&str, String)> {
        let kind =
            self.0.lines().find_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '))?;
        let suffix = if matches!(kind, "histogram" | "summary") { "_count" } else { "" };
        let sample = self.0.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.strip_prefix(suffix)?;
            rest.starts_with(['{', ' ']).then_some(rest)
        })?;
        let labels = sample.strip_prefix('{').map_or("", |labels| labels.rsplit_once("\"}").unwrap().0);
        let mut names: Vec<_> = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        names.sort_unstable();
        Some((kind, names.join(",")))
    }

    fn value(&self, sample: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in\n{}", self.0)).parse().unwrap()
    }

    fn assert_has(&self, table: &str) {
        for row in table.lines().filter(|row| !row.is_empty()) {
            let mut words = row.split(' ');
            let (name, kind, labels) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or("-"));
            let labels = if labels == "-" { "" } else { labels };
            assert_eq!(self.shape(name), Some((kind, labels.to_owned())), "{name} in\n{}", self.0);
            if let Some((first, count)) = words.next().and_then(|buckets| buckets.split_once('*')) {
                let found = self.buckets(name);
                let expected: Vec<f64> = (0..count.parse().unwrap())
                    .map(|power| first.parse::<f64>().unwrap() * 2_f64.powi(power))
                    .collect();
                let is_same = found.len() == expected.len()
                    && found.iter().zip(&expected).all(|(found, expected)| (found / expected - 1.0).abs() < 1e-9);
                assert!(is_same, "{name}: {found:?}, not {expected:?}");
            }
        }
    }
}

fn post(address: &str, path: &str, body: &str) -> String {
    let (head, body) = send(address, "POST", path, body);
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    body
}

fn end(daemon: Daemon) {
    daemon.signal("-TERM");
    assert_eq!(daemon.wait().0, Err(15), "by the signal");
}

#[test]
fn a_member_that_has_worked_shows_all_that_etcd_shows() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(
        quorate(dir.path()).args(FREE_PORTS).args(["--metrics=extensive", "--feature-gates=LeaseCheckpoint=true"]),
    );
    let client = serving(&mut daemon);
    // "a" and "b", three bytes each; a transaction that reads one, puts one and deletes the other.
    for (key, value) in [("YQ==", "b25l"), ("YQ==", "dHdv"), ("Yg==", "c2l4")] {
        post(&client, "/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#));
    }
    post(&client, "/v3/kv/range", r#"{"key":"YQ=="}"#);
    post(
        &client,
        "/v3/kv/txn",
        r#"{"success":[{"requestRange":{"key":"YQ=="}},{"requestPut":{"key":"YQ==","value":"dW5v"}},
            {"requestDeleteRange":{"key":"Yg=="}}]}"#,
    );
    post(&client, "/v3/kv/compaction", r#"{"revision":"5","physical":true}"#);
    post(&client, "/v3/maintenance/hash", "{}");
    // What the compaction has left is known, and not computed again.
    post(&client, "/v3/maintenance/hashkv", r#"{"revision":"5"}"#);
    post(&client, "/v3/maintenance/hashkv", "{}");
    post(&client, "/v3/maintenance/snapshot", "{}");
    post(&client, "/v3/maintenance/defragment", "{}");
    let alarm = |action: &str| format!(r#"{{"action":"{action}","memberID":"171","alarm":"NOSPACE"}}"#);
    post(&client, "/v3/maintenance/alarm", &alarm("ACTIVATE"));
    assert!(send(&client, "POST", "/v3/cluster/member/promote", r#"{"ID":"5"}"#).0.starts_with("HTTP/1.1 404"));
    get(&client, "/health");
    get(&client, "/readyz");

    let alarms = "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"ab\"}";
    let scrape = Scrape::until(
        &client,
        &[
            "etcd_mvcc_put_total 4",
            "etcd_debugging_mvcc_total_put_size_in_bytes 16",
            "etcd_mvcc_delete_total 1",
            "etcd_mvcc_range_total 2",
            "etcd_mvcc_txn_total 1",
            "etcd_debugging_mvcc_keys_total 1",
            "etcd_debugging_mvcc_current_revision 5",
            "etcd_debugging_mvcc_compact_revision 5",
            // The older two of "a", and "b"; its tombstone, written at the revision, stays.
            "etcd_debugging_mvcc_db_compaction_keys_total 3",
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count 1",
            "etcd_mvcc_hash_duration_seconds_count 1",
            "etcd_mvcc_hash_rev_duration_seconds_count 1",
            "etcd_disk_backend_defrag_duration_seconds_count 1",
            "etcd_disk_backend_snapshot_duration_seconds_count 1",
            "etcd_server_heartbeat_send_failures_total 0",
            "etcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 1",
            "etcd_server_feature_enabled{name=\"AllBeta\",stage=\"BETA\"} 0",
            "etcd_server_learner_promote_failures{Reason=\"membership: ID not found\"} 1",
            "promhttp_metric_handler_requests_in_flight 1",
            "promhttp_metric_handler_requests_total{code=\"500\"} 0",
            &format!("{alarms} 1"),
        ],
    );
    scrape.assert_has(ALONE);
    for (sample, least) in [
        ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count", 1.0),
        ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count", 1.0),
        ("etcd_debugging_mvcc_db_compaction_last", 1.7e9),
        ("etcd_disk_wal_write_bytes_total", 500.0),
        ("etcd_disk_wal_write_duration_seconds_count", 5.0),
        ("etcd_disk_wal_fsync_duration_seconds_count", 5.0),
        ("etcd_disk_wal_fsync_duration_seconds_sum", 1e-6),
        ("etcd_mvcc_db_open_read_transactions", 1.0),
    ] {
        assert!(scrape.value(sample) >= least, "{sample} is {}", scrape.value(sample));
    }
    let scrapes = "promhttp_metric_handler_requests_total{code=\"200\"}";
    assert!(Scrape::of(&client).value(scrapes) > scrape.value(scrapes));

    post(&client, "/v3/maintenance/alarm", &alarm("DEACTIVATE"));
    Scrape::until(&client, &[&format!("{alarms} 0")]);
    post(&client, "/v3/maintenance/alarm", &alarm("ACTIVATE"));
    end(daemon);

    let mut again = start(dir.path());
    let client = serving(&mut again);
    Scrape::until(&client, &[&format!("{alarms} 1"), "etcd_debugging_mvcc_db_compaction_last 0"]);
    end(again);
}

#[test]
fn a_member_with_others_shows_what_it_has_of_them() {
    let dir = tempfile::tempdir().unwrap();
    // The others are nobody; so it serves no clients.
    let mut daemon = Daemon::start(quorate(dir.path()).args(FREE_PORTS).args([
        "--initial-cluster=n1=http://localhost:2380,n2=http://127.0.0.1:1,n3=http://127.0.0.1:2",
        "--listen-metrics-urls=http://127.0.0.1:0",
    ]));
    let address = daemon.wait_for("serving metrics")["address"].as_str().unwrap().to_owned();
    let scrape = Scrape::until(&address, &["etcd_network_active_peers{", "etcd_server_has_leader 0"]);
    scrape.assert_has(WITH_OTHERS);
    end(daemon);
}
