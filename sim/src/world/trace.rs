//! The trace hash: one number over everything that happened, so that two runs can be compared.
//!
//! Every byte delivered, every disk operation, every answer is mixed in with its time. Equal hashes of two runs of one seed
//! show that nothing outside the seed reached behaviour; it costs a few nanoseconds an event.

use std::sync::{Arc, Mutex};

use crate::world::{clock, lock};

/// What kind of event is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A disk operation: machine, operation, file, offset, length.
    Disk = 1,
    /// Bytes handed to a reader: connection, side.
    Delivery = 2,
    /// A connection was made, closed or reset.
    Connection = 3,
    /// A client's operation ended.
    Answer = 4,
    /// A fault, a start, a stop.
    Fault = 5,
    /// Random bytes handed to a member.
    Random = 6,
}

#[derive(Debug)]
struct State {
    hash: u64,
    events: u64,
    /// A line for each event, if wanted: to find where two runs part.
    lines: Option<Vec<String>>,
}

/// The hash of a run; clones share it.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<State>>);

impl Default for Trace {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { hash: 0x517c_c1b7_2722_0a95, events: 0, lines: None })))
    }
}

impl Trace {
    /// Notes an event now.
    pub fn note(&self, event: Event, words: &[u64], bytes: &[u8]) {
        let mut state = lock(&self.0);
        let mut hash = mix(state.hash, clock::now().as_nanos() << 3 | event as u64);
        for &word in words {
            hash = mix(hash, word);
        }
        // Two checksums that differ in their start make 64 bits of the contents.
        let low = crc32c::crc32c(bytes);
        let high = crc32c::crc32c_append(0x9e37_79b9, bytes);
        hash = mix(hash, u64::from(high) << 32 | u64::from(low));
        state.hash = mix(hash, bytes.len() as u64);
        state.events += 1;
        if let Some(lines) = &mut state.lines {
            let preview = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).escape_default().to_string();
            lines.push(format!("{} {event:?} {words:?} {} {low:08x} {preview}", clock::now(), bytes.len()));
        }
    }

    /// From here on keeps a line for each event.
    pub fn keep_lines(&self) {
        lock(&self.0).lines = Some(Vec::new());
    }

    /// The lines kept so far.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0).lines.clone().unwrap_or_default()
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        lock(&self.0).hash
    }

    /// How many events are in it.
    pub fn events(&self) -> u64 {
        lock(&self.0).events
    }
}

/// Mixes a word into a hash (the finalizer of splitmix64, a bijection for each word).
fn mix(hash: u64, word: u64) -> u64 {
    let mut mixed = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(events: &[(&[u64], &[u8])]) -> u64 {
        let trace = Trace::default();
        for (words, bytes) in events {
            trace.note(Event::Disk, words, bytes);
        }
        trace.hash()
    }

    #[test]
    fn one_flipped_byte_one_word_or_the_order_changes_the_hash() {
        let plain = hash_of(&[(&[1, 2], b"value"), (&[3], b"")]);
        assert_eq!(plain, hash_of(&[(&[1, 2], b"value"), (&[3], b"")]));
        assert_ne!(plain, hash_of(&[(&[1, 2], b"valuf"), (&[3], b"")]));
        assert_ne!(plain, hash_of(&[(&[1, 3], b"value"), (&[3], b"")]));
        assert_ne!(plain, hash_of(&[(&[3], b""), (&[1, 2], b"value")]));
    }
}
