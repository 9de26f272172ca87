//! The keys of one node, packed: all bytes in one block, so that copying a node copies memory and counts no references,
//! and searching it stays in neighbouring cache lines.

use std::cmp::Ordering;

/// Strings in rising order without repetition (the caller's duty), in one block of bytes.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`; it begins where the one before ends.
    ends: Vec<u32>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.start_of(index)..self.ends[index] as usize]
    }

    pub(super) fn last(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|last| self.get(last))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// `Ok` with the position of `key`, or `Err` with the position where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many keys lie below `key`.
    pub(super) fn below(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|index| index)
    }

    /// How many keys do not lie above `key`.
    pub(super) fn up_to(&self, key: &[u8]) -> usize {
        self.search(key).map_or_else(|index| index, |index| index + 1)
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.insert(self.len(), key);
    }

    pub(super) fn insert(&mut self, index: usize, key: &[u8]) {
        let (start, old_len) = (self.start_of(index), self.bytes.len());
        let added = u32::try_from(key.len()).expect("a key is far smaller than 4 GiB: requests are limited");
        u32::try_from(old_len + key.len()).expect("a node splits long before its keys fill 4 GiB");
        reserve(&mut self.bytes, key.len());
        reserve(&mut self.ends, 1);
        self.bytes.resize(old_len + key.len(), 0);
        self.bytes.copy_within(start..old_len, start + key.len());
        self.bytes[start..start + key.len()].copy_from_slice(key);
        self.ends.insert(index, start as u32);
        for end in &mut self.ends[index..] {
            *end += added;
        }
    }

    pub(super) fn remove(&mut self, index: usize) -> Box<[u8]> {
        let removed: Box<[u8]> = self.bytes.drain(self.start_of(index)..self.ends[index] as usize).collect();
        self.ends.remove(index);
        for end in &mut self.ends[index..] {
            *end -= removed.len() as u32;
        }
        removed
    }

    /// Takes away the keys from position `index` on.
    pub(super) fn split_off(&mut self, index: usize) -> Self {
        let start = self.start_of(index);
        let right = Self {
            bytes: self.bytes[start..].to_vec(),
            ends: self.ends[index..].iter().map(|end| end - start as u32).collect(),
        };
        self.bytes.truncate(start);
        self.ends.truncate(index);
        right
    }

    /// Adds all keys of `right`, which lie above all of these.
    pub(super) fn append(&mut self, right: &Self) {
        let base = u32::try_from(self.bytes.len()).expect("a node splits long before its keys fill 4 GiB");
        reserve(&mut self.bytes, right.bytes.len());
        self.bytes.extend_from_slice(&right.bytes);
        reserve(&mut self.ends, right.ends.len());
        self.ends.extend(right.ends.iter().map(|end| base + end));
    }

    /// The keys at which `keep` is true.
    pub(super) fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self { bytes: Vec::with_capacity(self.bytes.len()), ends: Vec::with_capacity(self.ends.len()) };
        for (index, key) in self.iter().enumerate() {
            if keep(index) {
                kept.push(key);
            }
        }
        kept
    }

    /// The position that has about half of the bytes before it.
    pub(super) fn middle_by_bytes(&self) -> usize {
        self.ends.partition_point(|end| (*end as usize) < self.bytes.len() / 2)
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// A copy with room for `more` typical keys.
    pub(super) fn copy(&self, more: usize) -> Self {
        let typical = self.bytes.len() / self.len().max(1) + 8;
        Self { bytes: copy(&self.bytes, more * typical), ends: copy(&self.ends, more) }
    }
}

/// The shortest separator: above `left`, and not above `right`. `left` must lie below `right`.
pub(super) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    assert!(left < right, "only rising keys have a separator");
    &right[..=common_prefix(left, right)]
}

/// How many leading bytes are the same.
pub(super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// A copy with room for `more`.
pub(super) fn copy<T: Clone>(from: &[T], more: usize) -> Vec<T> {
    let mut to = Vec::with_capacity(from.len() + more);
    to.extend_from_slice(from);
    to
}

/// Makes room in steps of an eighth: doubling would leave half of the index's memory unused.
pub(super) fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more.max(vec.len() / 8));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(keys: &[&str]) -> Keys {
        let mut packed = Keys::default();
        keys.iter().for_each(|key| packed.push(key.as_bytes()));
        packed
    }

    #[test]
    fn separators_are_short() {
        for (left, right, expected) in
            [("a", "b", "b"), ("abc", "abx", "abx"), ("ab", "abcdef", "abc"), ("", "xyz", "x"), ("app9", "b123", "b")]
        {
            let found = separator(left.as_bytes(), right.as_bytes());
            assert_eq!(found, expected.as_bytes());
        }
    }

    #[test]
    fn search_counts_both_ways() {
        let keys = packed(&["b", "d", "f"]);
        for (key, below, up_to) in [("a", 0, 0), ("b", 0, 1), ("c", 1, 1), ("f", 2, 3), ("g", 3, 3)] {
            assert_eq!((keys.below(key.as_bytes()), keys.up_to(key.as_bytes())), (below, up_to), "{key}");
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_vector(steps in prop::collection::vec((any::<prop::sample::Index>(), ".{0,5}", 0..10u8), 1..60)) {
            let (mut packed, mut plain) = (Keys::default(), Vec::<Vec<u8>>::new());
            for (at, key, kind) in steps {
                let index = at.index(plain.len() + 1);
                match kind {
                    0..=5 => {
                        packed.insert(index, key.as_bytes());
                        plain.insert(index, key.into_bytes());
                    }
                    6..=7 if index < plain.len() => {
                        prop_assert_eq!(&*packed.remove(index), &*plain.remove(index));
                    }
                    8 => {
                        let (right, plain_right) = (packed.split_off(index), plain.split_off(index));
                        prop_assert!(right.iter().eq(plain_right.iter().map(Vec::as_slice)));
                        packed.append(&right);
                        plain.extend(plain_right);
                    }
                    _ => {
                        packed = packed.filtered(|at| at != index).copy(2);
                        if index < plain.len() {
                            plain.remove(index);
                        }
                    }
                }
                prop_assert!(packed.iter().eq(plain.iter().map(Vec::as_slice)));
                prop_assert_eq!(packed.last(), plain.last().map(Vec::as_slice));
                prop_assert_eq!(packed.bytes_len(), plain.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
