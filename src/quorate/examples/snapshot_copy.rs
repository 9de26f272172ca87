//! Makes a database of a snapshot, and a snapshot of the database. Prints what the database says, as one JSON object: index,
//! term, revision, compact_revision, membership (the v2 tree), and hashes: for each revision that is kept, what HashKV says.
//!
//! `snapshot_copy SNAPSHOT DATABASE COPY`; neither DATABASE nor COPY may exist. Or `snapshot_copy DATABASE COPY`, where DATABASE
//! is that of a member that does not run; then the hash is that of its newest revision alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use quorate_runtime::Rt;
use quorate_runtime::disk::OpenMode;
use quorate_runtime_tokio::TokioRuntime;
use quorate_store::{Store, StoreOptions, import_snapshot};

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (from, database, to) = match <[PathBuf; 3]>::try_from(args) {
        Ok([from, database, to]) => (Some(from), database, to),
        Err(args) => match <[PathBuf; 2]>::try_from(args) {
            Ok([database, to]) => (None, database, to),
            Err(_) => {
                eprintln!("usage: snapshot_copy [SNAPSHOT] DATABASE COPY");
                return ExitCode::from(2);
            }
        },
    };
    match TokioRuntime::run(1, |rt| async move { copy(&rt, from.as_deref(), &database, &to) }) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn copy(rt: &Rt, from: Option<&Path>, database: &Path, to: &Path) -> anyhow::Result<serde_json::Value> {
    if let Some(from) = from {
        import_snapshot(rt, from, database, &StoreOptions::default())?;
    }
    let store = Store::open(rt, database, StoreOptions::default())?;
    let view = store.reader().view();
    let file = rt.open(to, OpenMode::CreateNew)?;
    let mut export = view.snapshot()?;
    let mut len_bytes = 0;
    while let Some(chunk) = export.next_chunk()? {
        file.write_all_at(&chunk, len_bytes)?;
        len_bytes += chunk.len() as u64;
    }
    anyhow::ensure!(len_bytes == export.len_bytes(), "the snapshot is not as long as it said");
    let first = if from.is_some() { view.compact_revision().0.max(1) } else { view.revision().0 };
    let hashes = (first..=view.revision().0)
        .map(|revision| {
            let hash = view.hash_kv(quorate_types::Revision(revision))?;
            Ok(serde_json::json!({
                "hash": hash.hash, "revision": revision, "compact_revision": hash.compact_revision.0,
            }))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(serde_json::json!({
        "index": export.index().0, "term": export.term().0, "revision": view.revision().0,
        "compact_revision": view.compact_revision().0, "hashes": hashes,
        "membership": String::from_utf8(view.membership_v2_json())?,
    }))
}
