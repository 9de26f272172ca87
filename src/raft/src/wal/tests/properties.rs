//! Random histories with crashes at any operation, and with rotten bits.
//!
//! The oracle is a plain list of entries. While a batch is not known to be durable, the oracle keeps every state that the log
//! went through since: after a crash the log must be one of them.

use std::fmt;

use proptest::prelude::*;
use quorate_types::LogIndex;

use super::super::test_disk::{Dice, TestDisk, Torn};
use super::super::{newest_mark, read_all};
use super::*;

/// What a log says.
#[derive(Clone, Default, PartialEq)]
struct Model {
    entries: Vec<raftpb::Entry>,
    hard_state: raftpb::HardState,
}

impl Model {
    fn push(&mut self, entry: &raftpb::Entry) {
        self.entries.truncate(entry.index() as usize - 1);
        self.entries.push(entry.clone());
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        self.entries.get((index as usize).wrapping_sub(1)).map_or(0, raftpb::Entry::term)
    }

    /// As recovery gives it: who has an entry of a term is in that term.
    fn recovered(&self) -> Model {
        let mut model = self.clone();
        if let Some(last) = model.entries.last().map(raftpb::Entry::term)
            && last > model.hard_state.term()
        {
            model.hard_state = hard_state(last, 0, model.hard_state.commit());
        }
        model
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.hard_state;
        write!(f, "\nterm {} vote {} commit {}:", state.term(), state.vote(), state.commit())?;
        for entry in &self.entries {
            let data = entry.data.as_deref().unwrap_or_default();
            write!(f, " {}@{} ({} bytes {:08x})", entry.index(), entry.term(), data.len(), crc32c::crc32c(data))?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Appends `sizes`, after taking back up to `rewind` entries in a new term.
    Append {
        sizes: Vec<usize>,
        rewind: u64,
        sync: bool,
        with_state: bool,
    },
    Vote {
        sync: bool,
    },
    Mark {
        back: u64,
    },
    Release {
        back: u64,
    },
    Reopen,
    /// Background work stops, or goes on, to report.
    HoldReports(bool),
    /// The machine goes down in the middle of a change, this many from now.
    CrashAfter {
        changes: u64,
    },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let size = prop_oneof![8 => 0usize..200, 1 => 500usize..1500, 1 => 4000usize..6000];
    let append =
        (prop::collection::vec(size, 0..6), prop_oneof![3 => Just(0u64), 1 => 1u64..4], any::<bool>(), any::<bool>())
            .prop_map(|(sizes, rewind, sync, with_state)| Action::Append { sizes, rewind, sync, with_state });
    let action = prop_oneof![
        24 => append,
        3 => any::<bool>().prop_map(|sync| Action::Vote { sync }),
        2 => (0u64..5).prop_map(|back| Action::Mark { back }),
        2 => (0u64..8).prop_map(|back| Action::Release { back }),
        1 => Just(Action::Reopen),
        1 => any::<bool>().prop_map(Action::HoldReports),
        4 => (0u64..12).prop_map(|changes| Action::CrashAfter { changes }),
    ];
    prop::collection::vec(action, 1..60)
}

/// A log, what it should say, and what it may say after a crash.
struct World {
    disk: TestDisk,
    wal: Option<Wal>,
    now: Model,
    /// From the last state known durable to the present one.
    possible: Vec<Model>,
    marks: Vec<SnapshotMark>,
    options: WalOptions,
    dice: Dice,
    torn: Torn,
    committed: u64,
}

impl World {
    fn new(seed: u64, torn: Torn, options: WalOptions) -> Self {
        let disk = TestDisk::default();
        let wal = create(&disk, options);
        Self {
            disk,
            wal: Some(wal),
            now: Model::default(),
            possible: vec![Model::default()],
            marks: vec![SnapshotMark::START],
            options,
            dice: Dice::new(seed),
            torn,
            committed: 0,
        }
    }

    fn batch(&mut self, action: &Action) -> Batch {
        let mut term = self.now.hard_state.term().max(1);
        let (sizes, rewind, sync, mut with_state): (&[usize], _, _, _) = match action {
            Action::Append { sizes, rewind, sync, with_state } => (sizes, *rewind, *sync, *with_state),
            Action::Vote { sync } => (&[], 0, *sync, true),
            _ => unreachable!("only these two append"),
        };
        // Raft never takes back what it knows to be committed.
        let rewind = rewind.min(self.now.last() - self.now.hard_state.commit());
        if rewind > 0 || self.now.hard_state.term.is_none() || matches!(action, Action::Vote { .. }) {
            term = self.now.hard_state.term() + 1;
            with_state = true;
        }
        let first = self.now.last() - rewind + 1;
        let dice = &mut self.dice;
        let entries: Vec<_> = (first..)
            .zip(sizes)
            .map(|(index, size)| {
                // Zeros too: a sector of them looks like one that was lost.
                let zeros = dice.below(4) == 0;
                let data: Vec<u8> = (0..*size).map(|_| if zeros { 0 } else { dice.next_u64() as u8 }).collect();
                entry(index, term, data)
            })
            .collect();
        let hard_state = with_state.then(|| hard_state(term, dice.next_u64() % 3, first - 1));
        Batch { hard_state, entries, sync }
    }

    /// The records of `batch` one after the other: any prefix of them can survive a crash.
    fn note(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            self.now.push(entry);
            self.possible.push(self.now.clone());
        }
        if let Some(hard_state) = batch.hard_state {
            self.now.hard_state = hard_state;
            self.possible.push(self.now.clone());
        }
    }

    fn note_durable(&mut self) {
        self.possible = vec![self.now.clone()];
        self.committed = self.now.hard_state.commit();
    }

    /// What fails, fails because the machine is down.
    fn run(&mut self, action: &Action) -> Result<(), WalError> {
        match action {
            Action::Append { .. } | Action::Vote { .. } => {
                let batch = self.batch(action);
                self.note(&batch);
                self.wal.as_mut().unwrap().append(&batch)?;
                if batch.sync {
                    self.note_durable();
                }
            }
            Action::Mark { back } => {
                let index = self.now.last().saturating_sub(*back).min(self.committed);
                let snapshot = mark(index, self.now.term_at(index));
                if self.marks.last() != Some(&SnapshotMark::of(&snapshot)) {
                    self.wal.as_mut().unwrap().mark_snapshot(snapshot.clone())?;
                    self.note_durable();
                    self.marks.push(SnapshotMark::of(&snapshot));
                }
            }
            Action::Release { back } => {
                let index = LogIndex(self.committed.saturating_sub(*back));
                self.wal.as_mut().unwrap().release_below(index)?;
            }
            Action::Reopen => {
                self.wal = None;
                self.recover()?;
            }
            Action::HoldReports(hold) => {
                self.disk.hold_reports(*hold);
                self.disk.deliver_reports();
            }
            Action::CrashAfter { changes } => self.disk.fail_after(*changes),
        }
        Ok(())
    }

    /// Opens the log from its newest mark, and compares.
    fn recover(&mut self) -> Result<(), WalError> {
        let consistent = LogIndex(self.possible[0].hard_state.commit());
        let from = newest_mark(&self.disk.rt(), dir(), consistent)?.expect("a mark at or below what is durable");
        assert!(Some(&from) >= self.marks.iter().max(), "a mark that was durable is lost: {from} {:?}", self.marks);
        let listed = read_all(&self.disk.rt(), dir())?;
        let (wal, recovered) = Wal::open(self.disk.rt(), dir(), from, consistent, self.options)?;
        assert_eq!((&listed.torn, listed.hard_state), (&recovered.torn, recovered.hard_state));
        assert!(listed.entries.ends_with(&recovered.entries));
        assert_eq!(recovered.metadata, metadata());
        let skipped = from.index.0 as usize;
        let matching = self.possible.iter().rposition(|model| {
            let model = model.recovered();
            model.hard_state == recovered.hard_state && model.entries.get(skipped..) == Some(&recovered.entries)
        });
        let Some(matching) = matching else {
            let is = Model { entries: recovered.entries, hard_state: recovered.hard_state };
            panic!(
                "the log, read from {from}, is nothing that it has been: {is:?}, torn {:?}; it was {:?}",
                recovered.torn, self.possible
            )
        };
        self.now = self.possible[matching].recovered();
        self.marks.push(from);
        self.note_durable();
        self.wal = Some(wal);
        Ok(())
    }

    fn crash(&mut self) {
        loop {
            self.wal = None;
            self.disk.crash(&mut self.dice, self.torn);
            // Recovery can be interrupted too.
            if self.dice.below(3) == 0 {
                let changes = self.dice.below(6) as u64;
                self.disk.fail_after(changes);
            }
            match self.recover() {
                Ok(()) => break,
                Err(WalError::Io { .. } | WalError::Unsynced { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn tested_options() -> impl Strategy<Value = WalOptions> {
    (600u64..6000).prop_map(|segment_bytes| WalOptions { segment_bytes, unsafe_no_fsync: false })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was synced is there after a crash at any operation; of the rest, a prefix; and no crash is taken for damage.
    #[test]
    fn crashes_lose_nothing_that_was_synced(
        actions in actions(), seed: u64, garbage: bool, options in tested_options()
    ) {
        let torn = if garbage { Torn::Garbage } else { Torn::OldOrNew };
        let mut world = World::new(seed, torn, options);
        for action in &actions {
            match world.run(action) {
                Ok(()) => {}
                Err(WalError::Io { .. } | WalError::Unsynced { .. }) => world.crash(),
                Err(error) => panic!("{error}"),
            }
        }
        world.crash();
    }

    /// One bit of what is durable turns around, then more batches are synced: the log is refused, or says what it said.
    #[test]
    fn a_rotten_bit_is_never_a_different_log(
        before in actions(), after in actions(), seed: u64, options in tested_options()
    ) {
        let mut world = World::new(seed, Torn::OldOrNew, options);
        let runnable = |action: &&Action| {
            !matches!(action, Action::CrashAfter { .. } | Action::Release { .. } | Action::Reopen)
        };
        for action in before.iter().filter(runnable) {
            world.run(action).unwrap();
        }
        world.run(&Action::Vote { sync: true }).unwrap();
        let end = world.wal.as_ref().unwrap().end();
        let segments: Vec<_> =
            world.disk.paths().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "wal")).collect();
        let rotten = &segments[world.dice.below(segments.len())];
        let is_tail = rotten == segments.last().unwrap();
        let bytes = if is_tail { end.offset_bytes as usize } else { world.disk.contents(rotten).unwrap().len() };
        let byte = world.dice.below(bytes);
        world.disk.flip_bit(rotten, byte, (seed % 8) as u32);
        for action in after.iter().filter(runnable) {
            world.run(action).unwrap();
        }
        world.run(&Action::Vote { sync: true }).unwrap();

        world.wal = None;
        if let Ok((_, recovered)) = open(&world.disk, world.options) {
            prop_assert_eq!(&recovered.entries, &world.now.entries);
            prop_assert_eq!(recovered.hard_state, world.now.hard_state);
            prop_assert_eq!(recovered.torn, None);
        }
    }
}
