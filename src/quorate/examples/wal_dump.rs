//! Prints the entries of a write-ahead log, one JSON object a line: index, term, type (0 normal, 1 configuration change), data
//! in hex. Reads only; a damaged log is an error.
//!
//! `wal_dump DIR`, where DIR holds the `.wal` files.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use quorate_raft::wal;
use quorate_runtime::Rt;
use quorate_runtime_tokio::TokioRuntime;

fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1) else {
        eprintln!("usage: wal_dump DIR");
        return ExitCode::from(2);
    };
    match TokioRuntime::run(1, |rt| async move { dump(&rt, Path::new(&dir)) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dump(rt: &Rt, dir: &Path) -> anyhow::Result<()> {
    let log = wal::read_all(rt, dir)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for entry in &log.entries {
        let mut data_hex = String::new();
        for byte in entry.data() {
            write!(data_hex, "{byte:02x}").expect("writing into a string");
        }
        let line = serde_json::json!({
            "index": entry.index(), "term": entry.term(), "type": entry.r#type() as i32, "data_hex": data_hex,
        });
        writeln!(out, "{line}").context("cannot write to standard output")?;
    }
    out.flush().context("cannot write to standard output")
}
