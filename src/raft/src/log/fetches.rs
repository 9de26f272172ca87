//! Entries that a follower needs and that are not in memory: asked for, read in the background, kept until they are sent.
//!
//! raft-rs asks [`raft::Storage::entries`], is told to wait, and asks again when [`raft::RawNode::on_entries_fetched`] gives it
//! back the context it asked with. In between somebody reads a chunk from the log's files. A chunk is more than one message,
//! so most questions after the first are answered at once. A chunk goes when its last entry was handed out; for followers
//! that stop asking there is a limit to how many are kept.

use std::collections::{BTreeMap, VecDeque};

use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use super::within;

/// Chunks kept at most. As many followers can be served side by side without reading anything twice.
const CHUNKS_MAX: usize = 4;

/// Askers that wait for one chunk. Whoever is one too many asks again at its next heartbeat.
const WAITERS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// By the first entry.
    asked: BTreeMap<u64, Asked>,
    /// The newest last. None is empty, and each is contiguous.
    chunks: VecDeque<Vec<Entry>>,
}

#[derive(Debug)]
struct Asked {
    /// Not included.
    high: u64,
    is_under_way: bool,
    waiters: Vec<GetEntriesContext>,
}

impl Fetches {
    /// Entries from `low` on, below `high`, as many as `bytes_max` allows, but one at least; `None` if no chunk has `low`.
    pub(super) fn take(&mut self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let holds_low = |chunk: &Vec<Entry>| chunk[0].index <= low && low < chunk[0].index + chunk.len() as u64;
        let which = self.chunks.iter().position(holds_low)?;
        let chunk = &self.chunks[which];
        let from = usize::try_from(low - chunk[0].index).expect("within the chunk");
        let wanted = chunk[from..].iter().take_while(|entry| entry.index < high);
        let taken: Vec<Entry> = within(bytes_max, wanted).cloned().collect();
        if from + taken.len() == chunk.len() {
            self.chunks.remove(which);
        }
        Some(taken)
    }

    /// Somebody needs the entries from `low` on, below `high`.
    pub(super) fn ask(&mut self, low: u64, high: u64, context: GetEntriesContext) {
        let asked = self.asked.entry(low).or_insert_with(|| Asked { high, is_under_way: false, waiters: Vec::new() });
        if asked.waiters.len() < WAITERS_MAX {
            asked.waiters.push(context);
        }
    }

    /// A range that nobody reads yet: its first index, and the one behind its last.
    pub(super) fn next(&mut self) -> Option<(u64, u64)> {
        let (low, asked) = self.asked.iter_mut().find(|(_, asked)| !asked.is_under_way)?;
        asked.is_under_way = true;
        Some((*low, asked.high))
    }

    /// The range from `low` on was read, or could not be. Returns who waits for it.
    pub(super) fn arrived(&mut self, low: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let Some(asked) = self.asked.remove(&low) else { return Vec::new() };
        if !entries.is_empty() {
            if self.chunks.len() == CHUNKS_MAX {
                self.chunks.pop_front();
            }
            self.chunks.push_back(entries);
        }
        asked.waiters
    }

    /// Entries up to `index` are not to be had any more. Who waits for them asks again.
    pub(super) fn forget_to(&mut self, index: u64) {
        self.asked.retain(|low, _| *low > index);
        self.chunks.retain(|chunk| chunk[0].index > index);
    }

    /// Nobody needs anything any more.
    pub(super) fn clear(&mut self) {
        self.asked.clear();
        self.chunks.clear();
    }
}
