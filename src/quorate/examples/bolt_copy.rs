//! Reads a bbolt file and writes another with the same buckets and pairs, as quorate writes them.
//!
//! `bolt_copy FILE COPY [PAGE_BYTES]`; COPY must not exist.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use quorate_bolt::{PAGE_BYTES, Planner, Reader, Writer};
use quorate_runtime::Rt;
use quorate_runtime::disk::{File, OpenMode};
use quorate_runtime_tokio::TokioRuntime;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (from, to, page_bytes) = match &args[..] {
        [from, to] => (from, to, Ok(PAGE_BYTES)),
        [from, to, page_bytes] => (from, to, page_bytes.parse()),
        _ => {
            eprintln!("usage: bolt_copy FILE COPY [PAGE_BYTES]");
            return ExitCode::from(2);
        }
    };
    let (from, to) = (PathBuf::from(from), PathBuf::from(to));
    match TokioRuntime::run(1, |rt| async move { copy(&rt, &from, &to, page_bytes.context("PAGE_BYTES")?) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn copy(rt: &Rt, from: &Path, to: &Path, page_bytes: usize) -> anyhow::Result<()> {
    let reader = Reader::open(rt.open(from, OpenMode::ReadOnly)?, from)?;
    let mut planner = Planner::new(page_bytes);
    for (name, bucket) in reader.buckets() {
        planner.bucket(name.len());
        for pair in bucket.entries() {
            let (key, value) = pair?;
            planner.pair(key.len(), value.len());
        }
    }
    let mut writer = Writer::new(planner.finish());
    let mut out = Out { file: rt.open(to, OpenMode::CreateNew)?, len_bytes: 0 };
    for (name, bucket) in reader.buckets() {
        writer.bucket(name)?;
        for pair in bucket.entries() {
            let (key, value) = pair?;
            writer.pair(&key, &value)?;
            out.take(&mut writer)?;
        }
    }
    writer.finish()?;
    out.take(&mut writer)?;
    anyhow::ensure!(out.len_bytes == writer.len_bytes(), "the file is not as long as planned");
    Ok(())
}

struct Out {
    file: Box<dyn File>,
    len_bytes: u64,
}

impl Out {
    fn take(&mut self, writer: &mut Writer) -> anyhow::Result<()> {
        while let Some(chunk) = writer.pop_chunk() {
            self.file.write_all_at(&chunk, self.len_bytes)?;
            self.len_bytes += chunk.len() as u64;
        }
        Ok(())
    }
}
