//! What was asked of the disk and is not durable yet.

use crate::world::clock::SimTime;
use crate::world::dice::Dice;

/// A change with the time that it takes: it had not begun before `start`, and is done from `end` on.
#[derive(Clone, Debug)]
pub struct Pending<C> {
    /// When the call begins.
    pub start: SimTime,
    /// When it returns.
    pub end: SimTime,
    /// What it does.
    pub change: C,
}

/// Which changes are durable by `at`: for each sync that has ended by then, those asked for before it that had ended when it
/// began. (A change that another thread was still making is not covered.) Ended syncs are marked too: they have done their work.
pub fn durable_by<C>(pending: &[Pending<C>], at: SimTime, is_sync: impl Fn(&C) -> bool) -> Vec<bool> {
    // Backwards: the latest begin of an ended sync asked for after this change.
    let mut covered_until = None;
    let mut durable = vec![false; pending.len()];
    for (index, item) in pending.iter().enumerate().rev() {
        if !is_sync(&item.change) {
            durable[index] = covered_until.is_some_and(|until| item.end <= until);
        } else if item.end <= at {
            durable[index] = true;
            covered_until = covered_until.max(Some(item.start));
        }
    }
    durable
}

/// Takes what is durable by `at` out of `pending`, in order, and hands it to `make_durable`.
pub fn take_durable<C>(
    pending: &mut Vec<Pending<C>>,
    at: SimTime,
    is_sync: impl Fn(&C) -> bool,
    mut make_durable: impl FnMut(C),
) {
    let durable = durable_by(pending, at, &is_sync);
    if !durable.contains(&true) {
        return;
    }
    for (item, durable) in std::mem::take(pending).into_iter().zip(durable) {
        match (durable, is_sync(&item.change)) {
            (true, false) => make_durable(item.change),
            (true, true) => {}
            (false, _) => pending.push(item),
        }
    }
}

/// How a crash treats what was not synced; drawn for each file or directory, so that all extremes are met often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Everything reached the disk just in time.
    Keep,
    /// Nothing did.
    Lose,
    /// Any subset: each part is lost with this chance, torn with that one (percent).
    Mix {
        /// Percent of parts that are lost.
        lose: u64,
        /// Percent of the others that are torn.
        tear: u64,
    },
}

impl Mood {
    /// Draws one.
    pub fn draw(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0 => Mood::Keep,
            1 | 2 => Mood::Lose,
            3 => Mood::Mix { lose: 50, tear: 0 },
            _ => Mood::Mix { lose: *dice.pick(&[5, 30, 70]), tear: *dice.pick(&[0, 10, 60]) },
        }
    }
}
