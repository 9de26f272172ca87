//! What needs no running member: flags, variables, checks, and directories that are refused.

use std::fs;
use std::path::Path;

use super::process::{Said, quorate, run};

fn said(arguments: &[&str]) -> Said {
    let dir = tempfile::tempdir().unwrap();
    let said = run(quorate(dir.path()).args(arguments));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{arguments:?} left something behind");
    said
}

#[test]
fn version_begins_with_etcds_four_lines() {
    for flag in ["--version", "-version", "--version=true"] {
        let said = said(&[flag]);
        assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""));
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert_eq!(lines[0], "etcd Version: 3.7.1");
        assert!(lines[1].starts_with("Git SHA: "));
        assert!(lines[2].starts_with("Go Version: "));
        assert!(lines[3].starts_with("Go OS/Arch: linux/"));
        assert_eq!(lines[4..], [format!("Quorate Version: {}", env!("CARGO_PKG_VERSION"))]);
    }
}

#[test]
fn a_wrong_flag_gets_gos_sentence_the_usage_and_status_2() {
    for (arguments, sentence) in [
        (["--discover", "x"].as_slice(), "flag provided but not defined: -discover"),
        (&["--name"], "flag needs an argument: -name"),
        (&["-pre-vote=xx"], "invalid boolean value \"xx\" for -pre-vote: parse error"),
        (&["--heartbeat-interval=-1"], "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
        (&["--initial-cluster-state=bad"], "invalid value \"bad\" for flag -initial-cluster-state: invalid value"),
        (
            &["--listen-client-urls", "foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (&["---x"], "bad flag syntax: ---x"),
    ] {
        let said = said(arguments);
        assert_eq!((said.status.code(), said.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        let (first, rest) = said.stderr.split_once('\n').unwrap();
        assert_eq!(first, sentence);
        assert!(rest.starts_with("Usage:\n"), "{rest}");
    }
}

#[test]
fn help_is_usage_on_stderr_and_flags_on_stdout() {
    for flag in ["-h", "--help"] {
        let said = said(&[flag]);
        assert_eq!(said.status.code(), Some(0));
        assert!(said.stderr.starts_with("Usage:\n"));
        assert!(said.stdout.contains("  --listen-client-urls 'http://localhost:2379'\n"));
    }
}

#[test]
fn a_leftover_word_is_logged_and_ends_with_status_1() {
    let said = said(&["--name=x", "extra"]);
    assert_eq!(said.status.code(), Some(1));
    let line = said.line("failed to verify flags");
    assert_eq!((&line["level"], &line["error"]), (&"warn".into(), &"\"extra\" is not a valid flag".into()));
}

#[test]
fn a_setting_given_by_flag_and_variable_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(quorate(dir.path()).args(["--name", "x"]).env("ETCD_NAME", "x"));
    assert_eq!(said.status.code(), Some(1));
    let line = said.line(
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
    );
    assert_eq!((&line["level"], &line["environment-variable"]), (&"fatal".into(), &"ETCD_NAME".into()));
}

#[test]
fn variables_are_checked_and_strange_ones_are_mentioned() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path());
    command.env("ETCD_NAME", "n").env("ETCD_FOO", "bar").env("ETCD_DATA_DIR", "").env("ETCD_MAX_WALS", "many");
    let said = run(&mut command);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(said.line("recognized and used environment variable")["variable-name"], "ETCD_NAME");
    let unknown: Vec<_> =
        said.log().into_iter().filter(|line| line["msg"] == "unrecognized environment variable").collect();
    assert!(unknown.iter().any(|line| line["environment-variable"] == "ETCD_FOO=bar"), "{unknown:?}");
    assert_eq!(said.line("failed to verify flags")["error"], "invalid value \"many\" for ETCD_MAX_WALS: parse error");
}

#[test]
fn checks_fail_with_etcds_sentence_and_status_1() {
    for (arguments, error) in [
        (
            ["--listen-client-urls=http://127.0.0.1:0"].as_slice(),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--heartbeat-interval=500"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[500ms]",
        ),
        (&["--log-format=xml"], "unknown log format: xml, supported values json, console"),
        (
            &["--trusted-ca-file=ca.pem"],
            "this version of Quorate does not have TLS (--trusted-ca-file): start without these settings",
        ),
    ] {
        let said = said(arguments);
        assert_eq!(said.status.code(), Some(1));
        assert_eq!(said.line("failed to verify flags")["error"], error);
    }
}

#[test]
fn commands_of_etcd_that_are_not_there_are_refused() {
    let said = said(&["grpc-proxy", "start"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("grpc-proxy"));
}

/// All files below `dir` with their contents.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                files.push((path.display().to_string(), Vec::new()));
                files.extend(contents(&path));
            }
            false => files.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_data_directory_of_etcd_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("infra0.etcd");
    fs::create_dir_all(data.join("member/snap")).unwrap();
    fs::create_dir_all(data.join("member/wal")).unwrap();
    let mut database = vec![0; 16384];
    database[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    fs::write(data.join("member/snap/db"), database).unwrap();
    fs::write(data.join("member/wal/0000000000000000-0000000000000000.wal"), [0; 64]).unwrap();
    let before = contents(dir.path());

    let said = run(quorate(dir.path()).args(["--name=infra0"]));
    assert_eq!(said.status.code(), Some(1));
    let line = said.line("cannot use the data directory");
    assert_eq!(line["level"], "fatal");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("infra0.etcd/member/snap/db: this data directory belongs to etcd"), "{error}");
    assert!(error.contains("etcdctl make-mirror"), "{error}");
    assert_eq!(contents(dir.path()), before);
}
