//! Reads one segment, record by record, through a window.
//!
//! A window is one allocation with many records in it. What is returned are slices of it: a kept entry is never copied, and
//! keeps no more than its window in memory. No length in the file decides an allocation before it was compared with what the
//! file holds.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use quorate_runtime::Rt;
use quorate_runtime::disk::{File, OpenMode};

use super::WalError;
use super::record::{FRAME_BYTES, Frame, Kind, Record};

/// Large enough to cost few reads, small enough that one kept entry does not pin much.
const WINDOW_BYTES: u64 = 256 << 10;

/// What is at the reader's position.
#[derive(Debug)]
pub(super) enum Step {
    /// A record; the reader now stands behind it.
    Record(Record),
    /// No further record: the file ends, or a length field of zero. The reader stays.
    End,
    /// Something that is no record, or not the one that belongs there. The reader stays.
    Bad(String),
}

/// One open segment.
pub(super) struct SegmentReader {
    path: PathBuf,
    file: Box<dyn File>,
    len_bytes: u64,
    offset_bytes: u64,
    window: Bytes,
    window_at: u64,
}

impl SegmentReader {
    pub(super) fn open(rt: &Rt, path: &Path, mode: OpenMode) -> Result<Self, WalError> {
        let file = rt.open(path, mode).map_err(WalError::io("open", path))?;
        let len_bytes = file.len_bytes().map_err(WalError::io("read the length of", path))?;
        Ok(Self { path: path.to_path_buf(), file, len_bytes, offset_bytes: 0, window: Bytes::new(), window_at: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where the next record begins.
    pub(super) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Goes on behind a record that was read before, by another reader.
    pub(super) fn skip_to(&mut self, offset_bytes: u64) {
        assert!(offset_bytes <= self.len_bytes, "a segment is not cut before its last record");
        self.offset_bytes = offset_bytes;
    }

    pub(super) fn into_file(self) -> Box<dyn File> {
        self.file
    }

    /// The next record, if its crc continues `chain`; `chain` then is that crc. A crc record is returned as it is: what it
    /// must state depends on where it stands.
    pub(super) fn step(&mut self, chain: &mut Option<u32>) -> Result<Step, WalError> {
        let left_bytes = self.len_bytes - self.offset_bytes;
        if left_bytes < FRAME_BYTES as u64 {
            return Ok(Step::End);
        }
        let length_field = self.read(self.offset_bytes, FRAME_BYTES)?.get_u64_le();
        if length_field == 0 {
            return Ok(Step::End);
        }
        let Some(frame) = Frame::parse(length_field) else {
            return Ok(Step::Bad(format!("{length_field:#x} is no record length")));
        };
        if frame.total_bytes() as u64 > left_bytes {
            return Ok(Step::Bad(format!(
                "a record of {} bytes does not fit into the {left_bytes} left in the file",
                frame.record_bytes
            )));
        }
        let record_at = self.offset_bytes + FRAME_BYTES as u64;
        let Some(record) = Record::parse(&self.read(record_at, frame.record_bytes)?) else {
            return Ok(Step::Bad("the record's fields are not those of a record".to_owned()));
        };
        if record.kind != Some(Kind::Crc) {
            let Some(before) = *chain else {
                return Ok(Step::Bad("the segment does not begin with a crc record".to_owned()));
            };
            let computed = crc32c::crc32c_append(before, &record.data);
            if computed != record.crc {
                return Ok(Step::Bad(format!("crc mismatch: expected {:08x}, computed {computed:08x}", record.crc)));
            }
            *chain = Some(computed);
        }
        self.offset_bytes += frame.total_bytes() as u64;
        Ok(Step::Record(record))
    }

    /// Fills `buffer` from `at`, past the window: for looking at much and keeping nothing.
    pub(super) fn read_into(&self, buffer: &mut [u8], at: u64) -> Result<(), WalError> {
        self.file.read_exact_at(buffer, at).map_err(WalError::io("read", &self.path))
    }

    /// `len_bytes` bytes at `at`, which the file must have.
    pub(super) fn read(&mut self, at: u64, len_bytes: usize) -> Result<Bytes, WalError> {
        let end = at + len_bytes as u64;
        assert!(end <= self.len_bytes, "lengths are checked against the file");
        if at < self.window_at || end > self.window_at + self.window.len() as u64 {
            let window_bytes = (self.len_bytes - at).min(WINDOW_BYTES.max(len_bytes as u64));
            // Lengths were compared with the file's and fit into memory's address space.
            let mut window = vec![0; window_bytes as usize];
            self.file.read_exact_at(&mut window, at).map_err(WalError::io("read", &self.path))?;
            self.window = Bytes::from(window);
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(self.window.slice(start..start + len_bytes))
    }
}
