//! Reading a bbolt file from any bytes.
//!
//! Half of the inputs are pages of arbitrary bytes behind valid metas, helped to look like pages; the others change a valid
//! file: bits, zeroed ranges, truncation, pages copied over others, elements pointed elsewhere. Reading must end, in pairs
//! whose keys rise or in an error, and allocate no more than the file justifies.

use std::path::Path;

use quorate_bolt::testing::Image;
use quorate_bolt::{Planner, Reader, Writer};

use crate::allocation::largest_during;
use crate::source::Source;

const PAGE_BYTES: usize = 512;

/// Read ahead and chunks; everything else is bounded by the file.
const FIXED_BYTES: usize = 1 << 20;

/// One input.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let valid = source.byte().is_multiple_of(2);
    let mut file = valid_file(&mut source);
    if valid {
        change(&mut file, &mut source)
    } else {
        replace(&mut file, &mut source)
    }

    let file_bytes = file.len();
    let (_, largest_bytes) = largest_during(|| read(file));
    let limit_bytes = FIXED_BYTES + 16 * file_bytes;
    assert!(largest_bytes <= limit_bytes, "{largest_bytes} bytes allocated at once for a file of {file_bytes} bytes");
}

fn read(file: Vec<u8>) {
    let pages = file.len() / PAGE_BYTES;
    let Ok(reader) = Reader::open(Box::new(Image(file)), Path::new("snap.db")) else { return };
    let mut last_name: Option<Vec<u8>> = None;
    for (name, bucket) in reader.buckets() {
        assert!(last_name.as_deref().is_none_or(|last| last < name), "names of buckets rise");
        assert!(reader.bucket(name).is_some(), "a bucket is found by its name");
        last_name = Some(name.to_vec());
        let (mut last_key, mut pairs) = (None, 0);
        for pair in bucket.entries() {
            let Ok((key, _value)) = pair else { break };
            assert!(last_key.as_ref().is_none_or(|last| *last < key), "keys rise");
            last_key = Some(key);
            pairs += 1;
        }
        // An element has 16 bytes, and no page is visited twice.
        assert!(pairs <= (pages + 1) * PAGE_BYTES / 16, "{pairs} pairs in {pages} pages");
    }
}

/// A file of a few buckets, one of which is a tree of some levels.
fn valid_file(source: &mut Source<'_>) -> Vec<u8> {
    let buckets: Vec<(u8, Vec<usize>)> = (0..1 + source.byte() % 3)
        .map(|bucket| {
            let count = if bucket == 1 { source.number() % 300 } else { source.number() % 8 };
            (b'a' + bucket, (0..count).map(|_| if source.byte() < 3 { 1500 } else { source.number() % 40 }).collect())
        })
        .collect();
    let mut planner = Planner::new(PAGE_BYTES);
    for (_, lengths) in &buckets {
        planner.bucket(1);
        lengths.iter().for_each(|length| planner.pair(2, *length));
    }
    let mut writer = Writer::new(planner.finish());
    for (name, lengths) in &buckets {
        writer.bucket(&[*name]).expect("names in order");
        for (number, length) in (0u16..).zip(lengths) {
            writer.pair(&number.to_be_bytes(), &vec![*name; *length]).expect("keys in order");
        }
    }
    writer.finish().expect("as planned");
    std::iter::from_fn(|| writer.pop_chunk()).flatten().collect()
}

/// Changes a few places.
fn change(file: &mut Vec<u8>, source: &mut Source<'_>) {
    while !source.is_empty() {
        let start = source.below(file.len());
        let end = (start + source.below(600)).min(file.len());
        let page = start / PAGE_BYTES * PAGE_BYTES;
        match source.byte() % 8 {
            0..=1 if !file.is_empty() => file[start] ^= 1 << (source.byte() % 8),
            2 => file[start..end].fill(0),
            3 if source.byte() < 20 => file.truncate(start),
            // The head of a page, or one of its first elements, is about positions and numbers: small ones fit.
            4..=5 => {
                let at = page + 4 * (source.byte() as usize % 20);
                if let Some(number) = file.get_mut(at..at + 4) {
                    number.copy_from_slice(&[source.byte(), source.byte() % 4, 0, 0]);
                }
            }
            6..=7 => {
                let other = source.below(file.len()) / PAGE_BYTES * PAGE_BYTES;
                if page + PAGE_BYTES <= file.len() && other + PAGE_BYTES <= file.len() {
                    file.copy_within(other..other + PAGE_BYTES, page);
                    // With its own number it is taken for the page that it stands in for.
                    file[page..page + 8].copy_from_slice(&((page / PAGE_BYTES) as u64).to_le_bytes());
                }
            }
            _ => {}
        }
    }
}

/// Keeps the metas and makes pages of arbitrary bytes.
fn replace(file: &mut [u8], source: &mut Source<'_>) {
    for (number, page) in (2u64..).zip(file[2 * PAGE_BYTES..].chunks_mut(PAGE_BYTES)) {
        let head = [1 + source.byte() % 2, 0, source.byte() % 32, 0, source.byte() / 250, 0, 0, 0];
        page[..8].copy_from_slice(&number.to_le_bytes());
        page[8..16].copy_from_slice(&head);
        let bytes = source.bytes(PAGE_BYTES - 16);
        page[16..16 + bytes.len()].copy_from_slice(bytes);
        for element in page[16..].chunks_exact_mut(16) {
            // Numbers that fit are rare among random bytes: help.
            for number in element.chunks_exact_mut(4) {
                number[2] = 0;
                number[3] = 0;
            }
            element[1] &= 1;
        }
    }
}
