//! Who wants to know about a key.
//!
//! Watchers of the same key or range share an *interest*. Interests in one key are found in an ordered map, those in ranges in
//! a tree of intervals, so what a write costs depends on who wants it, not on who watches.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::intervals::{Interval, IntervalTree};
use super::slots::Slots;

/// The keys that a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchedKeys {
    One(Bytes),
    Range(Interval),
}

impl WatchedKeys {
    /// What `key` and `range_end` of a request mean; `None` if that is nothing. No key is the least key, no end that key
    /// alone, an end of one zero byte every key from there on.
    pub(super) fn from_request(key: Bytes, range_end: Bytes) -> Option<Self> {
        let start = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
        match &range_end[..] {
            [] => Some(Self::One(start)),
            [0] => Some(Self::Range(Interval { start, end: None })),
            end if &start[..] >= end => None,
            _ => Some(Self::Range(Interval { start, end: Some(range_end) })),
        }
    }

    /// The same in memory of its own: the request's would keep the buffer alive that it came in.
    pub(super) fn detached(&self) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        match self {
            Self::One(key) => Self::One(copy(key)),
            Self::Range(Interval { start, end }) => {
                Self::Range(Interval { start: copy(start), end: end.as_ref().map(copy) })
            }
        }
    }
}

/// The watchers of one key or range.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) watchers: BTreeSet<usize>,
    /// How many of them want to know what was there before.
    pub(super) with_previous: usize,
}

/// A group of watchers, by what they watch.
#[derive(Debug, Default)]
pub(super) struct Interests {
    interests: Slots<Interest>,
    keys: BTreeMap<Bytes, usize>,
    ranges: IntervalTree,
}

impl Interests {
    pub(super) fn add(&mut self, keys: &WatchedKeys, watcher: usize, with_previous: bool) {
        let slot = self.find(keys).unwrap_or_else(|| {
            let slot = self.interests.insert(Interest { watchers: BTreeSet::new(), with_previous: 0 });
            match keys {
                WatchedKeys::One(key) => {
                    self.keys.insert(key.clone(), slot);
                }
                WatchedKeys::Range(interval) => self.ranges.insert(interval.clone(), slot),
            }
            slot
        });
        let interest = &mut self.interests[slot];
        let is_new = interest.watchers.insert(watcher);
        assert!(is_new, "a watcher is added once");
        interest.with_previous += usize::from(with_previous);
    }

    pub(super) fn remove(&mut self, keys: &WatchedKeys, watcher: usize, with_previous: bool) {
        let slot = self.find(keys).expect("what is removed was added");
        let interest = &mut self.interests[slot];
        let was_there = interest.watchers.remove(&watcher);
        assert!(was_there, "a watcher that is removed was added");
        interest.with_previous -= usize::from(with_previous);
        if interest.watchers.is_empty() {
            self.interests.remove(slot);
            match keys {
                WatchedKeys::One(key) => {
                    self.keys.remove(key);
                }
                WatchedKeys::Range(interval) => self.ranges.remove(interval),
            }
        }
    }

    fn find(&self, keys: &WatchedKeys) -> Option<usize> {
        match keys {
            WatchedKeys::One(key) => self.keys.get(key).copied(),
            WatchedKeys::Range(interval) => self.ranges.get(interval),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interests.len() == 0
    }

    /// Visits the interests in `key`, by number, always in the same order.
    pub(super) fn visit(&self, key: &[u8], mut visit: impl FnMut(usize)) {
        if let Some(slot) = self.keys.get(key) {
            visit(*slot);
        }
        self.ranges.visit(key, &mut visit);
    }

    pub(super) fn interest(&self, slot: usize) -> &Interest {
        &self.interests[slot]
    }

    /// The same, if all its watchers have not left meanwhile.
    pub(super) fn try_interest(&self, slot: usize) -> Option<&Interest> {
        self.interests.get(slot)
    }

    pub(super) fn interest_mut(&mut self, slot: usize) -> &mut Interest {
        &mut self.interests[slot]
    }

    /// Takes all watchers out, in order.
    pub(super) fn drain(&mut self) -> BTreeSet<usize> {
        let all = std::mem::take(self);
        all.interests.iter().flat_map(|(_, interest)| interest.watchers.iter().copied()).collect()
    }

    /// All watchers, in order.
    #[cfg(test)]
    pub(super) fn watchers(&self) -> BTreeSet<usize> {
        self.interests.iter().flat_map(|(_, interest)| interest.watchers.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &'static str, range_end: &'static str) -> Option<WatchedKeys> {
        WatchedKeys::from_request(key.into(), range_end.into())
    }

    fn wanting(interests: &Interests, key: &str) -> Vec<usize> {
        let mut found = Vec::new();
        interests.visit(key.as_bytes(), |slot| found.extend(&interests.interest(slot).watchers));
        found
    }

    #[test]
    fn a_request_names_a_key_a_range_or_nothing() {
        let range = |start: &'static str, end: Option<&'static str>| {
            Some(WatchedKeys::Range(Interval { start: start.into(), end: end.map(Into::into) }))
        };
        assert_eq!(keys("a", ""), Some(WatchedKeys::One("a".into())));
        assert_eq!(keys("", ""), Some(WatchedKeys::One("\0".into())));
        assert_eq!(keys("a", "b"), range("a", Some("b")));
        assert_eq!(keys("", "b"), range("\0", Some("b")));
        assert_eq!(keys("a", "\0"), range("a", None));
        assert_eq!(keys("", "\0"), range("\0", None));
        assert_eq!(keys("a", "\0\0"), None);
        for (key, range_end) in [("b", "a"), ("b", "b"), ("bb", "b")] {
            assert_eq!(keys(key, range_end), None);
        }
    }

    #[test]
    fn watchers_of_the_same_keys_share_and_go_one_by_one() {
        let mut interests = Interests::default();
        let (key, prefix) = (keys("ab", "").unwrap(), keys("a", "b").unwrap());
        interests.add(&prefix, 3, true);
        interests.add(&key, 2, false);
        interests.add(&prefix, 1, false);
        assert_eq!(wanting(&interests, "ab"), [2, 1, 3]);
        assert_eq!(wanting(&interests, "aa"), [1, 3]);
        assert_eq!(wanting(&interests, "b"), [] as [usize; 0]);
        interests.remove(&prefix, 3, true);
        assert_eq!(wanting(&interests, "ab"), [2, 1]);
        interests.remove(&prefix, 1, false);
        interests.remove(&key, 2, false);
        assert!(interests.is_empty());
        assert_eq!(wanting(&interests, "ab"), [] as [usize; 0]);
    }
}
