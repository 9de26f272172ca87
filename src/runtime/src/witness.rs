//! What only the inside of a member sees, told to the simulator as it happens: Raft's safety properties (Raft thesis, figure
//! 3.2) must hold at every step, not only where a client looks.
//!
//! A simulated world has one history of entries and terms. Each member tells what it applies and when it leads; the first to
//! tell fixes the fact, and who tells otherwise later contradicts it. What a member has told others (its vote in a term, the
//! entries that it confirmed) it must still know after a crash. Outside simulation (without the feature `simulation`) nobody
//! listens, and nothing is done.

#[cfg(not(feature = "simulation"))]
mod plain {
    use std::hash::Hash;

    /// Does nothing.
    #[inline(always)]
    pub fn leads(_member: u64, _term: u64) {}

    /// Does nothing.
    #[inline(always)]
    pub fn applies(_member: u64, _index: u64, _term: u64, _payload: &impl Hash) {}

    /// Nothing, and nothing is computed.
    #[inline(always)]
    pub fn note<T>(_what: impl FnOnce() -> T) -> Option<T> {
        None
    }

    /// Does nothing.
    #[inline(always)]
    pub fn makes(_member: u64, _revision: i64, _request: &[u8]) {}

    /// Does nothing.
    #[inline(always)]
    pub fn votes(_member: u64, _term: u64, _candidate: u64) {}

    /// Does nothing.
    #[inline(always)]
    pub fn confirms(_member: u64, _term: u64, _index: u64) {}

    /// Does nothing.
    #[inline(always)]
    pub fn recovers(_member: u64, _term: u64, _vote: u64, _last_index: u64) {}
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::hash::{DefaultHasher, Hash, Hasher};

    #[derive(Default)]
    struct State {
        leaders: BTreeMap<u64, u64>,
        entries: BTreeMap<u64, Entry>,
        made: BTreeMap<i64, Vec<u8>>,
        promises: BTreeMap<u64, Promise>,
        apart: BTreeSet<u64>,
        contradictions: Vec<String>,
    }

    /// What a member has told others in its newest term.
    #[derive(Clone, Copy, Default)]
    struct Promise {
        term: u64,
        candidate: Option<u64>,
        confirmed_index: u64,
    }

    impl State {
        fn promise(&mut self, member: u64, term: u64) -> &mut Promise {
            let promise = self.promises.entry(member).or_default();
            if promise.term < term {
                *promise = Promise { term, ..Promise::default() };
            }
            promise
        }

        fn contradict(&mut self, member: u64, what: String) {
            if !self.apart.contains(&member) {
                self.contradictions.push(what);
            }
        }
    }

    #[derive(PartialEq, Eq)]
    struct Entry {
        term: u64,
        payload_hash: u64,
    }

    thread_local! {
        // A simulation lives on one thread, so this is what was told in one simulation.
        static STATE: RefCell<State> = RefCell::default();
    }

    /// Election safety: a term has one leader.
    pub fn leads(member: u64, term: u64) {
        STATE.with_borrow_mut(|state| {
            if state.apart.contains(&member) {
                return;
            }
            let leader = *state.leaders.entry(term).or_insert(member);
            if leader != member {
                state.contradictions.push(format!("{leader:x} and {member:x} both lead in term {term}"));
            }
        });
    }

    /// State machine safety: nobody applies another entry at an index that somebody has applied.
    pub fn applies(member: u64, index: u64, term: u64, payload: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        let entry = Entry { term, payload_hash: hasher.finish() };
        STATE.with_borrow_mut(|state| match state.entries.get(&index) {
            _ if state.apart.contains(&member) => {}
            Some(known) if *known != entry => state.contradictions.push(format!(
                "{member:x} applies at index {index} an entry of term {term}, and others have applied another one, of term {}",
                known.term
            )),
            Some(_same) => {}
            None => drop(state.entries.insert(index, entry)),
        });
    }

    /// What has to be remembered to tell something later.
    pub fn note<T>(what: impl FnOnce() -> T) -> Option<T> {
        Some(what())
    }

    /// The member makes a revision, by applying that request.
    pub fn makes(member: u64, revision: i64, request: &[u8]) {
        STATE.with_borrow_mut(|state| {
            // Who goes on after a loss makes other revisions than those that were lost.
            if !state.apart.contains(&member) {
                state.made.insert(revision, request.to_vec());
            }
        });
    }

    /// The request, encoded, that has made each revision.
    pub fn requests() -> BTreeMap<i64, Vec<u8>> {
        STATE.with_borrow(|state| state.made.clone())
    }

    /// The member has its vote on its disk, and gives it. A term has one vote of each.
    pub fn votes(member: u64, term: u64, candidate: u64) {
        STATE.with_borrow_mut(|state| {
            let promise = state.promise(member, term);
            if promise.term != term {
                return;
            }
            let given = *promise.candidate.get_or_insert(candidate);
            if given != candidate {
                state
                    .contradict(member, format!("{member:x} votes for {given:x} and for {candidate:x} in term {term}"));
            }
        });
    }

    /// The member tells the leader of the term that it has the leader's log up to `index` on its disk.
    pub fn confirms(member: u64, term: u64, index: u64) {
        STATE.with_borrow_mut(|state| {
            let promise = state.promise(member, term);
            if promise.term == term {
                promise.confirmed_index = promise.confirmed_index.max(index);
            }
        });
    }

    /// The member starts with what its disk has kept: the term, its vote in it (0: none), the last entry. In one term no leader
    /// takes back what it has sent; in a later one, another may.
    pub fn recovers(member: u64, term: u64, vote: u64, last_index: u64) {
        STATE.with_borrow_mut(|state| {
            let Some(&Promise { term: known, candidate, confirmed_index }) = state.promises.get(&member) else {
                return;
            };
            if term < known {
                state.contradict(member, format!("{member:x} starts in term {term}, and has spoken in term {known}"));
            } else if term == known && candidate.is_some_and(|candidate| candidate != vote) {
                state.contradict(member, format!("{member:x} starts with another vote in term {term} than it gave"));
            } else if term == known && last_index < confirmed_index {
                let what =
                    format!("{member:x} starts with entries up to {last_index}, and has confirmed {confirmed_index}");
                state.contradict(member, what);
            }
        });
    }

    /// The member goes another way than the others from now on (`--force-new-cluster` while they live): nobody listens to it.
    pub fn set_apart(member: u64) {
        STATE.with_borrow_mut(|state| {
            state.apart.insert(member);
        });
    }

    /// Forgets what was told, as if the members that tell more were the first: one went on alone with what it had.
    pub fn forget() {
        STATE.with_borrow_mut(|state| {
            state.leaders.clear();
            state.entries.clear();
            state.promises.clear();
            state.contradictions.clear();
        });
    }

    /// Forgets everything, and returns the contradictions that there were.
    pub fn take() -> Vec<String> {
        STATE.take().contradictions
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_second_leader_or_another_entry_contradicts_the_first() {
            leads(1, 5);
            leads(1, 5);
            leads(2, 6);
            applies(1, 9, 5, b"a");
            applies(2, 9, 5, b"a");
            assert_eq!(take(), Vec::<String>::new());
            leads(1, 5);
            leads(2, 5);
            applies(1, 9, 5, b"a");
            applies(2, 9, 5, b"b");
            applies(3, 9, 6, b"a");
            assert_eq!(take().len(), 3);
        }

        #[test]
        fn who_forgets_what_it_has_told_contradicts_itself() {
            votes(1, 5, 2);
            votes(1, 5, 2);
            confirms(1, 5, 9);
            recovers(1, 5, 2, 9);
            recovers(1, 6, 0, 3);
            votes(1, 6, 3);
            assert_eq!(take(), Vec::<String>::new());
            votes(1, 5, 2);
            votes(1, 5, 3);
            confirms(1, 5, 9);
            recovers(1, 4, 2, 9);
            recovers(1, 5, 0, 9);
            recovers(1, 5, 2, 8);
            assert_eq!(take().len(), 4);
        }

        #[test]
        fn requests_are_those_of_who_goes_on() {
            makes(1, 2, b"a");
            makes(2, 2, b"a");
            makes(1, 3, b"b");
            set_apart(2);
            makes(2, 3, b"c");
            forget();
            makes(1, 4, b"d");
            let expected = [(2, b"a".to_vec()), (3, b"b".to_vec()), (4, b"d".to_vec())];
            assert_eq!(requests(), BTreeMap::from(expected));
            take();
        }

        #[test]
        fn who_goes_another_way_contradicts_nobody() {
            applies(1, 9, 5, b"a");
            set_apart(2);
            applies(2, 9, 5, b"b");
            leads(2, 5);
            leads(1, 5);
            assert_eq!(take(), Vec::<String>::new());
            applies(1, 9, 5, b"a");
            forget();
            applies(2, 9, 5, b"b");
            assert_eq!(take(), Vec::<String>::new());
        }
    }
}

#[cfg(not(feature = "simulation"))]
pub use plain::{applies, confirms, leads, makes, note, recovers, votes};
#[cfg(feature = "simulation")]
pub use simulated::{applies, confirms, forget, leads, makes, note, recovers, requests, set_apart, take, votes};
