//! One file: what its readers see, what the disk holds, and what lies between.

use std::collections::BTreeMap;

use crate::world::clock::{self, SimTime};
use crate::world::dice::Dice;
use crate::world::disk::image::{Image, SECTOR_BYTES};
use crate::world::disk::pending::{Mood, Pending, durable_by, take_durable};

/// A change to a file.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes at an offset.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// A new length.
    SetLen(u64),
    /// Everything before this becomes durable when it ends.
    Sync,
}

/// What a crash did to unsynced bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Bytes that differ from what the process had written.
    pub bytes: u64,
    /// Sectors of which a part arrived.
    pub torn_sectors: u64,
}

/// A file with its page cache.
#[derive(Default)]
pub struct CachedFile {
    cache: Image,
    durable: Image,
    pending: Vec<Pending<Change>>,
    /// A sync failed: the cache shows changes that are neither durable nor pending.
    cache_lies: bool,
}

impl CachedFile {
    /// What readers see.
    pub fn cache(&self) -> &Image {
        &self.cache
    }

    /// Applies a change to the cache and remembers it.
    pub fn change(&mut self, start: SimTime, end: SimTime, change: Change) {
        apply(&mut self.cache, &change);
        self.pending.push(Pending { start, end, change });
        if matches!(self.pending.last(), Some(Pending { change: Change::Sync, .. })) {
            // Only syncs shorten the list; doing it here keeps it as short as the work in flight.
            self.settle(clock::now());
        }
    }

    /// A sync that begins at `start` fails: each change that no earlier sync covers may be gone for good, though readers still
    /// see it in the cache.
    pub fn fail_sync(&mut self, start: SimTime, dice: &mut Dice) {
        self.cache_lies = true;
        let mut safe = durable_by(&self.pending, start, |change| matches!(change, Change::Sync)).into_iter();
        self.pending.retain(|_| safe.next() == Some(true) || dice.percent(50));
    }

    /// Flips a bit on the disk and in the cache: the medium rots.
    pub fn rot(&mut self, offset: u64, bit: u8) {
        for image in [&mut self.cache, &mut self.durable] {
            if offset < image.len_bytes() {
                let mut byte = [0];
                image.read(&mut byte, offset);
                image.write(&[byte[0] ^ (1 << bit)], offset);
            }
        }
    }

    /// The process died at `at`, the machine lives: what it had written stays in the cache, what it had not begun never was.
    pub fn process_died(&mut self, at: SimTime) {
        self.settle(at);
        let planned = self.pending.len();
        self.pending.retain(|item| item.start <= at && !matches!(item.change, Change::Sync));
        if self.pending.len() < planned {
            self.cache = self.durable.clone();
            for item in &self.pending {
                apply(&mut self.cache, &item.change);
            }
        }
    }

    /// The power failed at `at`: synced changes stay; of the rest, any subset of sectors.
    pub fn power_failed(&mut self, at: SimTime, dice: &mut Dice) -> Loss {
        self.settle(at);
        if self.pending.is_empty() && !self.cache_lies {
            return Loss::default();
        }
        self.cache_lies = false;
        let begun: Vec<Change> = std::mem::take(&mut self.pending)
            .into_iter()
            .filter(|item| item.start <= at)
            .map(|item| item.change)
            .filter(|change| !matches!(change, Change::Sync))
            .collect();
        let mut wanted = self.durable.clone();
        let loss = if begun.is_empty() {
            Loss::default()
        } else {
            let survived = survive(&self.durable, &begun, Mood::draw(dice), dice);
            begun.iter().for_each(|change| apply(&mut wanted, change));
            let loss = survived.loss_against(&wanted);
            self.durable = survived.image;
            loss
        };
        self.cache = self.durable.clone();
        loss
    }

    fn settle(&mut self, at: SimTime) {
        let durable = &mut self.durable;
        take_durable(&mut self.pending, at, |change| matches!(change, Change::Sync), |change| apply(durable, &change));
    }
}

fn apply(image: &mut Image, change: &Change) {
    match change {
        Change::Write { offset, data } => image.write(data, *offset),
        Change::SetLen(len_bytes) => image.set_len(*len_bytes),
        Change::Sync => {}
    }
}

struct Survived {
    image: Image,
    sectors: Vec<u64>,
    torn_sectors: u64,
}

impl Survived {
    fn loss_against(&self, wanted: &Image) -> Loss {
        let differing = |&sector: &u64| {
            let (left, right) = (self.image.sector(sector), wanted.sector(sector));
            left.iter().zip(&right).filter(|(left, right)| left != right).count() as u64
        };
        Loss { bytes: self.sectors.iter().map(differing).sum(), torn_sectors: self.torn_sectors }
    }
}

/// Draws what a power failure leaves of `begun`, changes on top of `durable`.
///
/// The length is that after some prefix of the changes. Each sector then holds the state after some prefix of the writes to
/// it, perhaps with a part of the next one. A cut (a shrinking `SetLen`) that survived in the length has also happened to the
/// sectors, and one that did not has not.
fn survive(durable: &Image, begun: &[Change], mood: Mood, dice: &mut Dice) -> Survived {
    let mut lens = vec![durable.len_bytes()];
    let mut touching: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut cuts = Vec::new();
    for (index, change) in begun.iter().enumerate() {
        let len_before = lens[index];
        lens.push(match change {
            Change::Write { offset, data } => {
                let end = offset + data.len() as u64;
                for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                    touching.entry(sector).or_default().push(index);
                }
                len_before.max(end)
            }
            Change::SetLen(len) => {
                if *len < len_before {
                    cuts.push((index, *len));
                    for sector in len / SECTOR_BYTES..len_before.div_ceil(SECTOR_BYTES) {
                        touching.entry(sector).or_default().push(index);
                    }
                }
                *len
            }
            Change::Sync => len_before,
        });
    }
    let len_prefix = match mood {
        Mood::Keep => begun.len(),
        Mood::Lose => 0,
        Mood::Mix { .. } => dice.between(0, begun.len() as u64) as usize,
    };
    let mut image = durable.clone();
    let mut torn_sectors = 0;
    let sectors: Vec<u64> = touching.keys().copied().collect();
    for (sector, changes) in &touching {
        let end = (sector + 1) * SECTOR_BYTES;
        let cut_at = |index: usize| cuts.iter().any(|&(cut, len)| cut == index && len < end);
        let low = changes.iter().rposition(|&index| index < len_prefix && cut_at(index)).map_or(0, |at| at + 1);
        let high =
            changes.iter().position(|&index| index >= len_prefix && cut_at(index)).unwrap_or(changes.len()).max(low);
        let (kept, tear) = match mood {
            Mood::Keep => (high, false),
            Mood::Lose => (low, false),
            Mood::Mix { lose, .. } if dice.percent(lose) => (low + dice.below((high - low) as u64) as usize, false),
            Mood::Mix { tear, .. } if high > low && dice.percent(tear) => {
                (low + dice.below((high - low) as u64) as usize, true)
            }
            Mood::Mix { .. } => (high, false),
        };
        for &index in &changes[..kept] {
            apply_within(&mut image, &begun[index], *sector, None);
        }
        if tear && apply_within(&mut image, &begun[changes[kept]], *sector, Some(dice)) {
            torn_sectors += u64::from(sector * SECTOR_BYTES < lens[len_prefix]);
        }
    }
    image.set_len(lens[len_prefix]);
    Survived { image, sectors, torn_sectors }
}

/// Applies the part of `change` that lies in `sector`; with dice, only a piece of that part. True if it really was a piece.
fn apply_within(image: &mut Image, change: &Change, sector: u64, tear: Option<&mut Dice>) -> bool {
    let (low, high) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
    match change {
        Change::Write { offset, data } => {
            let mut from = low.max(*offset);
            let mut to = high.min(offset + data.len() as u64);
            let mut torn = false;
            if let Some(dice) = tear {
                if to - from < 2 {
                    return false;
                }
                let border = dice.between(from + 1, to - 1);
                if dice.percent(50) {
                    to = border
                } else {
                    from = border
                }
                torn = true;
            }
            image.write(&data[(from - offset) as usize..(to - offset) as usize], from);
            torn
        }
        Change::SetLen(len) if tear.is_none() && *len < high && image.len_bytes() > *len => {
            let from = low.max(*len);
            let to = high.min(image.len_bytes());
            if from < to {
                image.write(&vec![0; (to - from) as usize], from);
            }
            false
        }
        Change::SetLen(_) | Change::Sync => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> SimTime = SimTime::from_nanos;

    fn write(file: &mut CachedFile, start: u64, end: u64, offset: u64, byte: u8, len: usize) {
        file.change(T(start), T(end), Change::Write { offset, data: vec![byte; len] });
    }

    fn contents(file: &CachedFile) -> Vec<u8> {
        let mut bytes = vec![0; file.cache().len_bytes() as usize];
        file.cache().read(&mut bytes, 0);
        bytes
    }

    #[test]
    fn what_a_finished_sync_covers_survives_every_crash() {
        for seed in 0..200 {
            let mut file = CachedFile::default();
            write(&mut file, 0, 10, 0, 1, 3000);
            file.change(T(10), T(50), Change::Sync);
            write(&mut file, 50, 60, 1000, 2, 3000);
            file.power_failed(T(55), &mut Dice::new(seed, "crash"));
            let bytes = contents(&file);
            assert!(bytes.len() >= 3000);
            assert!(bytes[..1000].iter().all(|&byte| byte == 1), "seed {seed}");
            assert!(bytes[1000..].iter().all(|&byte| byte <= 2));
        }
    }

    #[test]
    fn a_sync_in_flight_promises_nothing_and_every_outcome_happens() {
        let (mut kept, mut lost, mut torn, mut mixed) = (0, 0, 0, 0);
        for seed in 0..300 {
            let mut file = CachedFile::default();
            write(&mut file, 0, 10, 0, 7, 4096);
            file.change(T(10), T(50), Change::Sync);
            let loss = file.power_failed(T(49), &mut Dice::new(seed, "crash"));
            let arrived = contents(&file).iter().filter(|&&byte| byte == 7).count();
            assert_eq!(loss.bytes, 4096 - arrived as u64);
            torn += u32::from(loss.torn_sectors > 0);
            match arrived {
                4096 => kept += 1,
                0 => lost += 1,
                _ => mixed += 1,
            }
        }
        assert!(kept > 5 && lost > 20 && torn > 20 && mixed > 50, "{kept} {lost} {torn} {mixed}");
    }

    #[test]
    fn what_had_not_begun_never_was() {
        for seed in 0..50 {
            let mut file = CachedFile::default();
            write(&mut file, 0, 10, 0, 1, 100);
            write(&mut file, 100, 110, 0, 2, 100);
            let loss = file.power_failed(T(99), &mut Dice::new(seed, "crash"));
            assert!(contents(&file).iter().all(|&byte| byte != 2));
            assert!(loss.bytes <= 100, "the second write is not a loss");
        }
        let mut file = CachedFile::default();
        write(&mut file, 0, 10, 0, 1, 100);
        write(&mut file, 100, 110, 0, 2, 100);
        file.process_died(T(50));
        assert_eq!(contents(&file), vec![1; 100], "a killed process leaves what it had written");
    }

    #[test]
    fn a_process_kill_loses_nothing_but_a_later_power_failure_may() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut file = CachedFile::default();
            write(&mut file, 0, 10, 0, 1, 100);
            file.process_died(T(20));
            assert_eq!(contents(&file), vec![1; 100]);
            lost += u32::from(file.power_failed(T(30), &mut Dice::new(seed, "crash")).bytes > 0);
        }
        assert!(lost > 10);
    }

    #[test]
    fn a_write_that_another_thread_still_made_is_not_covered_by_a_sync() {
        let mut file = CachedFile::default();
        write(&mut file, 0, 100, 0, 1, 10);
        file.change(T(50), T(60), Change::Sync);
        file.settle(T(1000));
        assert_eq!(file.durable.len_bytes(), 0);
        file.change(T(100), T(120), Change::Sync);
        file.settle(T(1000));
        assert_eq!(file.durable.len_bytes(), 10);
    }

    #[test]
    fn a_cut_file_never_shows_what_was_cut_together_with_its_new_length() {
        for seed in 0..300 {
            let mut file = CachedFile::default();
            write(&mut file, 0, 1, 0, 1, 5000);
            file.change(T(1), T(2), Change::Sync);
            file.change(T(2), T(3), Change::SetLen(700));
            file.change(T(3), T(4), Change::SetLen(5000));
            write(&mut file, 4, 5, 2000, 2, 100);
            file.power_failed(T(10), &mut Dice::new(seed, "crash"));
            let bytes = contents(&file);
            assert!(bytes[..700].iter().all(|&byte| byte == 1));
            assert!(bytes.len() == 700 || bytes.len() == 5000);
            let (old, new) = (bytes[700..].contains(&1), bytes[700..].contains(&2));
            assert!(!(old && new), "seed {seed}: the cut happened before the write");
        }
    }

    #[test]
    fn after_a_failed_sync_the_cache_lies() {
        let mut vanished = 0;
        for seed in 0..50 {
            let mut dice = Dice::new(seed, "crash");
            let mut file = CachedFile::default();
            // All of one job, planned ahead of the true time.
            write(&mut file, 0, 1, 0, 1, 10);
            file.change(T(1), T(2), Change::Sync);
            write(&mut file, 2, 3, 10, 2, 10);
            file.fail_sync(T(3), &mut dice);
            assert_eq!(contents(&file)[10..], [2; 10]);
            file.change(T(4), T(5), Change::Sync);
            file.settle(T(5));
            assert!(file.durable.len_bytes() >= 10, "what an earlier sync made durable is not harmed");
            file.power_failed(T(6), &mut dice);
            assert_eq!(contents(&file).len(), file.durable.len_bytes() as usize, "without power the cache is gone");
            vanished += u32::from(file.durable.len_bytes() == 10);
        }
        assert!(vanished > 10, "a second sync says Ok and the bytes are not there");
    }
}
