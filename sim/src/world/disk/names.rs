//! One directory: the names that readers see, those that the disk holds, and the changes between.

use std::collections::BTreeMap;

use crate::world::clock::{self, SimTime};
use crate::world::dice::Dice;
use crate::world::disk::pending::{Mood, Pending, take_durable};

/// What a name points at.
pub type NodeId = u64;

/// A change to a directory.
#[derive(Clone, Debug)]
pub enum NameChange {
    /// The name points at the node now.
    Link(String, NodeId),
    /// The name is gone.
    Unlink(String),
    /// The node's name changes, in one step.
    Rename {
        /// Old name.
        from: String,
        /// New name; what it pointed at is gone.
        to: String,
        /// The node.
        node: NodeId,
    },
    /// Everything before this becomes durable when it ends.
    Sync,
}

/// A directory with its unsynced changes.
#[derive(Default)]
pub struct CachedDirectory {
    names: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<Pending<NameChange>>,
}

impl CachedDirectory {
    /// What readers see.
    pub fn names(&self) -> &BTreeMap<String, NodeId> {
        &self.names
    }

    /// Every node that a name may still point at after some crash.
    pub fn reachable(&self) -> impl Iterator<Item = NodeId> {
        let pending = self.pending.iter().filter_map(|item| match &item.change {
            NameChange::Link(_, node) | NameChange::Rename { node, .. } => Some(*node),
            NameChange::Unlink(_) | NameChange::Sync => None,
        });
        self.names.values().chain(self.durable.values()).copied().chain(pending)
    }

    /// Applies a change and remembers it.
    pub fn change(&mut self, start: SimTime, end: SimTime, change: NameChange) {
        apply(&mut self.names, &change);
        self.pending.push(Pending { start, end, change });
        if matches!(self.pending.last(), Some(Pending { change: NameChange::Sync, .. })) {
            self.settle(clock::now());
        }
    }

    /// The process died at `at`; the machine lives.
    pub fn process_died(&mut self, at: SimTime) {
        self.settle(at);
        self.pending.retain(|item| item.start <= at && !matches!(item.change, NameChange::Sync));
        self.names = self.durable.clone();
        for item in &self.pending {
            apply(&mut self.names, &item.change);
        }
    }

    /// The power failed at `at`: of the unsynced changes any subset happened. Returns how many were lost.
    pub fn power_failed(&mut self, at: SimTime, dice: &mut Dice) -> u64 {
        self.settle(at);
        let mut lost = 0;
        if !self.pending.is_empty() {
            let mood = Mood::draw(dice);
            for item in std::mem::take(&mut self.pending) {
                if item.start > at || matches!(item.change, NameChange::Sync) {
                    continue;
                }
                let keep = match mood {
                    Mood::Keep => true,
                    Mood::Lose => false,
                    Mood::Mix { lose, .. } => !dice.percent(lose),
                };
                if keep {
                    apply(&mut self.durable, &item.change);
                } else {
                    lost += 1;
                }
            }
        }
        self.names = self.durable.clone();
        lost
    }

    fn settle(&mut self, at: SimTime) {
        let durable = &mut self.durable;
        take_durable(
            &mut self.pending,
            at,
            |change| matches!(change, NameChange::Sync),
            |change| apply(durable, &change),
        );
    }
}

fn apply(names: &mut BTreeMap<String, NodeId>, change: &NameChange) {
    match change {
        NameChange::Link(name, node) => {
            names.insert(name.clone(), *node);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
        NameChange::Rename { from, to, node } => {
            // The old name may never have reached the disk, or belong to another file by now.
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
        NameChange::Sync => {}
    }
}
