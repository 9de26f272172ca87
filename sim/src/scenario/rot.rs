//! Damage to a log at rest.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_runtime::disk::{Disk, OpenMode};

use crate::world::clock;
use crate::world::cluster::MemberMachine;
use crate::world::dice::Dice;
use crate::world::disk::Death;

/// So many bytes at the end of what was written are left alone: they may be the last record, which a crash may have torn.
const END_BYTES: usize = 1024;

/// The records that every segment begins with are in its first bytes.
const HEAD_BYTES: usize = 128;

/// Flips a bit of a byte in the newest segment of `machine`'s log that has records after it. No process may run. Says what was
/// done.
pub fn flip_a_bit(machine: &Arc<MemberMachine>, dice: &mut Dice) -> io::Result<String> {
    let disk = machine.disk.begin_process();
    let mut segments: Vec<_> =
        disk.list_dir(&machine.wal_path())?.into_iter().filter(|name| name.ends_with(".wal")).collect();
    segments.sort();
    let mut found: Option<(PathBuf, Vec<usize>)> = None;
    while let Some(name) = segments.pop()
        && found.is_none()
    {
        let path = machine.wal_path().join(name);
        let len_bytes = disk.metadata(&path)?.len_bytes as usize;
        let mut bytes = vec![0; len_bytes];
        disk.open(&path, OpenMode::ReadOnly)?.read_exact_at(&mut bytes, 0)?;
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        // Zeros fill up a record to eight bytes: nobody reads those.
        let candidates: Vec<_> =
            (HEAD_BYTES..end.saturating_sub(END_BYTES)).filter(|&offset| bytes[offset] != 0).collect();
        found = (!candidates.is_empty()).then_some((path, candidates));
    }
    machine.disk.end_process(Death::Exit, clock::now());
    let (path, candidates) = found.ok_or_else(|| io::Error::other("the log is too short"))?;
    let (offset, bit) = (*dice.pick(&candidates) as u64, dice.below(8) as u8);
    machine.disk.rot(&path, offset, bit)?;
    Ok(format!("bit {bit} of byte {offset} of {} on {} flips", path.display(), machine.name))
}
