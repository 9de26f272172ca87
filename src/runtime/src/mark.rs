//! Names for rare branches, and fault hooks.
//!
//! [`mark!`](crate::mark!) says "this happens sometimes": a simulator sweep collects the names that fired and demands all of
//! them, so that a rare branch cannot silently stop being tested. [`hook!`](crate::hook!) asks "shall this fault happen
//! here?". Outside simulation (without the feature `simulation`) a mark is nothing and a hook is the constant `false`.

/// Notes that the named branch was taken.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {
        $crate::mark::fired($name)
    };
}

/// True if the simulator wants the named fault to happen now.
#[macro_export]
macro_rules! hook {
    ($name:literal) => {
        $crate::mark::wanted($name)
    };
}

#[cfg(not(feature = "simulation"))]
mod plain {
    /// Does nothing.
    #[inline(always)]
    pub fn fired(_name: &'static str) {}

    /// Never.
    #[inline(always)]
    pub const fn wanted(_name: &'static str) -> bool {
        false
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Decides whether a hook fires; called with its name.
    pub type Decide = Box<dyn FnMut(&'static str) -> bool>;

    #[derive(Default)]
    struct State {
        fired: BTreeMap<&'static str, u64>,
        decide: Option<Decide>,
    }

    thread_local! {
        // A simulation lives on one thread, so this is one simulation's state.
        static STATE: RefCell<State> = RefCell::default();
    }

    /// Counts the mark.
    pub fn fired(name: &'static str) {
        STATE.with_borrow_mut(|state| *state.fired.entry(name).or_default() += 1);
    }

    /// How often a mark has fired so far.
    pub fn count(name: &str) -> u64 {
        STATE.with_borrow(|state| state.fired.get(name).copied().unwrap_or(0))
    }

    /// Asks the simulation's decision function.
    pub fn wanted(name: &'static str) -> bool {
        // The function is taken out while it runs, so that it may itself reach code with marks and hooks.
        let Some(mut decide) = STATE.with_borrow_mut(|state| state.decide.take()) else { return false };
        let answer = decide(name);
        STATE.with_borrow_mut(|state| state.decide = Some(decide));
        answer
    }

    /// Starts a simulation on this thread: no marks yet, hooks decided by `decide`.
    pub fn begin(decide: Decide) {
        STATE.with_borrow_mut(|state| *state = State { fired: BTreeMap::new(), decide: Some(decide) });
    }

    /// Ends it: the marks that fired, with how often.
    pub fn end() -> BTreeMap<&'static str, u64> {
        STATE.with_borrow_mut(|state| std::mem::take(state).fired)
    }
}

#[cfg(not(feature = "simulation"))]
pub use plain::{fired, wanted};
#[cfg(feature = "simulation")]
pub use simulated::{Decide, begin, count, end, fired, wanted};
