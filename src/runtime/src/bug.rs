//! Seeded bugs: wrong decisions that are written down where they could be made, to measure the simulator by them.
//!
//! [`bug!`](crate::bug!) asks "is the bug of this name wanted?". The simulator switches at most one on for a run, and must then
//! find that something is wrong. Outside simulation (without the feature `simulation`) the answer is the constant `false`, and
//! nothing remains of it.

/// True if the simulator wants the named wrong decision.
#[macro_export]
macro_rules! bug {
    ($name:literal) => {
        $crate::bug::is_wanted($name)
    };
}

#[cfg(not(feature = "simulation"))]
mod plain {
    /// Never.
    #[inline(always)]
    pub const fn is_wanted(_name: &'static str) -> bool {
        false
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::Cell;

    thread_local! {
        // A simulation lives on one thread, so this is one simulation's bug, and how often it was reached.
        static WANTED: Cell<(Option<&'static str>, u64)> = const { Cell::new((None, 0)) };
    }

    /// Whether it is switched on.
    pub fn is_wanted(name: &'static str) -> bool {
        let (wanted, reached) = WANTED.get();
        let is_wanted = wanted == Some(name);
        if is_wanted {
            WANTED.set((wanted, reached + 1));
        }
        is_wanted
    }

    /// From now on, on this thread, this one (or none) is switched on.
    pub fn switch_to(name: Option<&'static str>) {
        WANTED.set((name, 0));
    }

    /// How often the bug that is switched on was asked for.
    pub fn reached() -> u64 {
        WANTED.get().1
    }
}

#[cfg(not(feature = "simulation"))]
pub use plain::is_wanted;
#[cfg(feature = "simulation")]
pub use simulated::{is_wanted, reached, switch_to};
