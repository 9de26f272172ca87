//! The end of the last segment: a torn tail, or damage to what had been durable?
//!
//! A crash keeps any subset of the sectors that were written and not yet synced. So behind the last good record there can be
//! a hole and, further on, whole records of the same unsynced batches: that is a torn tail, nobody was told of it, and it is
//! cut off. The same picture arises when a durable sector rots, and cutting there would drop what was acknowledged.
//!
//! The state records tell them apart. The state at the end of each batch says up to where the log was durable when that
//! batch was written, and states the checksum chain before itself, so that it can be verified wherever it is found. If
//! any state behind the bad record says that the log had been durable beyond the bad record, then this is damage.
//!
//! What etcd wrote has no such states. There its own test decides: a crash leaves whole sectors of zeros in the bad record
//! (segments are filled with zeros beforehand); a bad record without one is damage.

use bytes::Bytes;

use quorate_runtime::bug;

use super::assemble::{At, parse_state};
use super::reader::SegmentReader;
use super::record::{FRAME_BYTES, Frame, Kind, Record};
use super::segment::is_zero;
use super::{Position, TornTail, WalError};

/// A crash keeps or loses a sector as a whole.
const SECTOR_BYTES: u64 = 512;

/// More than a state record can have: what is longer is not looked at.
const STATE_RECORD_BYTES_MAX: usize = 128;

/// The tail is read in pieces of this size: mostly zeros, 64 MB of them, so the piece should stay in a core's cache.
const CHUNK_BYTES: u64 = 128 << 10;

/// What recovery met at the end of the last segment.
pub(super) struct Ending {
    pub(super) segment_seq: u64,
    /// Why the record at the reader's position is bad; `None` if its length field is zero, or the file ends.
    pub(super) bad: Option<String>,
    /// The last state record before it says what was durable: a Quorate wrote here, not an etcd.
    pub(super) states_position: bool,
}

/// Decides. `None`: the log simply ends here, and all behind is zero.
pub(super) fn judge(reader: &mut SegmentReader, ending: &Ending) -> Result<Option<TornTail>, WalError> {
    let offset_bytes = reader.offset_bytes();
    let rest = look_ahead(reader, ending.segment_seq)?;
    let Some(last_nonzero) = rest.last_nonzero else { return Ok(None) };
    let file = reader.path().to_path_buf();
    let at = At { file: &file, offset_bytes };
    let what = ending.bad.as_deref().unwrap_or("the log ends, but more follows");
    if let Some(proof) = rest.proof.filter(|_| !bug!("any-damage-is-a-torn-tail")) {
        return Err(at.damaged(format!(
            "{what}; this is no torn write: the state record at offset {} says that everything up to offset {} had been \
             durable",
            proof.state_at, proof.durable_offset_bytes
        )));
    }
    let is_whole = ending.bad.is_some() && !ending.states_position && !has_lost_sector(reader)?;
    if is_whole && !bug!("any-damage-is-a-torn-tail") {
        return Err(at.damaged(format!("{what}; this is no torn write: no sector of the record is missing")));
    }
    Ok(Some(TornTail { file, offset_bytes, lost_bytes: last_nonzero + 1 - offset_bytes }))
}

/// A state record behind the bad one, from which follows that the bad one was durable.
struct Proof {
    state_at: u64,
    durable_offset_bytes: u64,
}

struct Rest {
    last_nonzero: Option<u64>,
    proof: Option<Proof>,
}

fn look_ahead(reader: &SegmentReader, segment_seq: u64) -> Result<Rest, WalError> {
    let bad_at = reader.offset_bytes();
    let mut rest = Rest { last_nonzero: None, proof: None };
    let mut buffer = vec![0; CHUNK_BYTES as usize + FRAME_BYTES + STATE_RECORD_BYTES_MAX];
    let mut at = bad_at;
    while at < reader.len_bytes() {
        let left_bytes = reader.len_bytes() - at;
        // Chunks overlap by what a state record can need.
        let chunk_bytes = left_bytes.min(CHUNK_BYTES);
        let overlap_bytes = (left_bytes - chunk_bytes).min((FRAME_BYTES + STATE_RECORD_BYTES_MAX) as u64);
        let chunk = &mut buffer[..(chunk_bytes + overlap_bytes) as usize];
        reader.read_into(chunk, at)?;
        if !is_zero(chunk) {
            let bytes = Bytes::copy_from_slice(chunk);
            rest.last_nonzero = bytes.iter().rposition(|byte| *byte != 0).map(|position| at + position as u64);
            for start in (0..chunk_bytes as usize).step_by(8) {
                if rest.proof.is_some() {
                    break;
                }
                let Some(durable) = verified_state(&bytes, start) else { continue };
                let state_at = at + start as u64;
                // Nothing can be known durable that was written later: such a number is no proof of anything.
                if durable.segment_seq == segment_seq
                    && durable.offset_bytes > bad_at
                    && durable.offset_bytes <= state_at
                {
                    rest.proof = Some(Proof { state_at, durable_offset_bytes: durable.offset_bytes });
                }
            }
        }
        at += chunk_bytes;
    }
    Ok(rest)
}

/// What the state record at `start` says was durable, if there is one and its checksum is right.
fn verified_state(bytes: &Bytes, start: usize) -> Option<Position> {
    let record_at = start + FRAME_BYTES;
    let length_field = u64::from_le_bytes(bytes.get(start..record_at)?.try_into().ok()?);
    let frame = Frame::parse(length_field)?;
    if frame.record_bytes > STATE_RECORD_BYTES_MAX || record_at + frame.record_bytes > bytes.len() {
        return None;
    }
    let record = Record::parse(&bytes.slice(record_at..record_at + frame.record_bytes))?;
    if record.kind != Some(Kind::State) {
        return None;
    }
    let state = parse_state(record.data.clone())?;
    let intact = crc32c::crc32c_append(state.chain_before?, &record.data) == record.crc;
    intact.then_some(Position { segment_seq: state.durable_segment_seq?, offset_bytes: state.durable_offset_bytes? })
}

/// etcd's test: does the record at the reader's position reach beyond the file, or lack a sector?
fn has_lost_sector(reader: &mut SegmentReader) -> Result<bool, WalError> {
    let offset_bytes = reader.offset_bytes();
    let left_bytes = reader.len_bytes() - offset_bytes;
    let length_field = reader.read(offset_bytes, FRAME_BYTES)?;
    let length_field = u64::from_le_bytes(length_field[..].try_into().expect("eight bytes were read"));
    // A length field lies within one sector, so a torn write leaves it whole; an impossible one has rotted.
    let Some(frame) = Frame::parse(length_field) else { return Ok(false) };
    let end = offset_bytes + frame.total_bytes() as u64;
    if frame.total_bytes() as u64 > left_bytes {
        return Ok(true);
    }
    let mut sector_at = offset_bytes + FRAME_BYTES as u64;
    while sector_at < end {
        let sector_end = (sector_at / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let in_record = (sector_end.min(end) - sector_at) as usize;
        if is_zero(&reader.read(sector_at, in_record)?) {
            return Ok(true);
        }
        sector_at = sector_end;
    }
    Ok(false)
}
