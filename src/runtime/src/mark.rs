//! Names for rare branches.
//!
//! [`mark!`](crate::mark!) says "this happens sometimes": a simulator sweep collects the names that fired and demands all of
//! them, so that a rare branch cannot silently stop being tested. Outside simulation (without the feature `simulation`) a mark
//! is nothing.

/// Notes that the named branch was taken.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {
        $crate::mark::fired($name)
    };
}

#[cfg(not(feature = "simulation"))]
mod plain {
    /// Does nothing.
    #[inline(always)]
    pub fn fired(_name: &'static str) {}
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        // A simulation lives on one thread, so these are one simulation's marks.
        static FIRED: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Counts the mark.
    pub fn fired(name: &'static str) {
        FIRED.with_borrow_mut(|fired| *fired.entry(name).or_default() += 1);
    }

    /// How often a mark has fired so far.
    pub fn count(name: &str) -> u64 {
        FIRED.with_borrow(|fired| fired.get(name).copied().unwrap_or(0))
    }

    /// The marks that fired on this thread since it was last asked, with how often.
    pub fn take() -> BTreeMap<&'static str, u64> {
        FIRED.take()
    }
}

#[cfg(not(feature = "simulation"))]
pub use plain::fired;
#[cfg(feature = "simulation")]
pub use simulated::{count, fired, take};
