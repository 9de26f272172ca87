//! The keys of one node, packed: all bytes in one block, so that copying a node copies memory and counts no references.
//!
//! What makes a search slow is not comparing but waiting for memory. So beside the bytes each key has a *head*: the
//! four bytes after the beginning that all keys of the node share. Heads lie in the node itself, and few keys of a node
//! have the same. A search goes through the heads in one sweep and then compares one key, seldom more.

use std::cmp::Ordering;

/// Up to `MAX` strings in rising order without repetition (the caller's duty), in one block of bytes.
#[derive(Debug)]
pub(super) struct Keys<const MAX: usize> {
    len: usize,
    /// How many bytes all keys have in common at least: the heads begin there.
    shared: usize,
    heads: [u32; MAX],
    /// Where each key ends in `bytes`; it begins where the one before ends.
    ends: [u32; MAX],
    bytes: Vec<u8>,
}

impl<const MAX: usize> Default for Keys<MAX> {
    fn default() -> Self {
        Self { len: 0, shared: 0, heads: [0; MAX], ends: [0; MAX], bytes: Vec::new() }
    }
}

/// Four bytes from `shared` on. Where a key has fewer, zeros: equal heads say nothing, a lower head says lower key.
fn head(key: &[u8], shared: usize) -> u32 {
    let rest = &key[shared..];
    match rest.first_chunk() {
        Some(head) => u32::from_be_bytes(*head),
        None => rest.iter().chain(&[0; 4]).take(4).fold(0, |head, byte| head << 8 | u32::from(*byte)),
    }
}

impl<const MAX: usize> Keys<MAX> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        assert!(index < self.len, "there is no such key");
        &self.bytes[self.start_of(index)..self.ends[index] as usize]
    }

    pub(super) fn last(&self) -> Option<&[u8]> {
        self.len.checked_sub(1).map(|last| self.get(last))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len).map(|index| self.get(index))
    }

    /// `Ok` with the position of `key`, or `Err` with the position where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let shared = &self.bytes[..self.shared];
        match key[..self.shared.min(key.len())].cmp(shared) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.len),
            Ordering::Equal => {}
        }
        let (wanted, heads) = (head(key, self.shared), &self.heads[..self.len]);
        // Counting them all takes no branches, so that nothing is guessed wrong; the sum is vector code.
        let mut low = heads.iter().map(|head| u32::from(*head < wanted)).sum::<u32>() as usize;
        let mut high = low + heads[low..].partition_point(|head| *head == wanted);
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
        self.insert(self.len, key);
    }

    pub(super) fn insert(&mut self, index: usize, key: &[u8]) {
        assert!(self.len < MAX, "a node that is full was not split");
        let (start, old_len) = (self.start_of(index), self.bytes.len());
        let added = u32::try_from(key.len()).expect("a key is far smaller than 4 GiB: requests are limited");
        u32::try_from(old_len + key.len()).expect("a node splits long before its keys fill 4 GiB");
        reserve(&mut self.bytes, key.len());
        self.bytes.resize(old_len + key.len(), 0);
        self.bytes.copy_within(start..old_len, start + key.len());
        self.bytes[start..start + key.len()].copy_from_slice(key);
        self.ends.copy_within(index..self.len, index + 1);
        self.ends[index] = start as u32;
        self.heads.copy_within(index..self.len, index + 1);
        self.len += 1;
        for end in &mut self.ends[index..self.len] {
            *end += added;
        }
        // Only a new first or last key can have less in common with the others.
        let is_inner = 0 < index && index + 1 < self.len;
        if is_inner || self.len > 1 && common_prefix(self.get(usize::from(index == 0)), key) >= self.shared {
            self.heads[index] = head(key, self.shared);
        } else {
            self.set_heads();
        }
    }

    pub(super) fn remove(&mut self, index: usize) -> Box<[u8]> {
        let removed: Box<[u8]> = self.bytes.drain(self.start_of(index)..self.ends[index] as usize).collect();
        self.ends.copy_within(index + 1..self.len, index);
        self.heads.copy_within(index + 1..self.len, index);
        self.len -= 1;
        for end in &mut self.ends[index..self.len] {
            *end -= removed.len() as u32;
        }
        if self.len == 0 {
            self.shared = 0;
        }
        removed
    }

    /// Takes away the keys from position `index` on.
    pub(super) fn split_off(&mut self, index: usize) -> Self {
        let mut right = Self::default();
        let start = self.start_of(index);
        right.bytes.extend_from_slice(&self.bytes[start..]);
        right.len = self.len - index;
        for (to, end) in right.ends.iter_mut().zip(&self.ends[index..self.len]) {
            *to = end - start as u32;
        }
        self.bytes.truncate(start);
        self.len = index;
        self.set_heads();
        right.set_heads();
        right
    }

    /// Adds all keys of `right`, which lie above all of these.
    pub(super) fn append(&mut self, right: &Self) {
        let base = u32::try_from(self.bytes.len()).expect("a node splits long before its keys fill 4 GiB");
        reserve(&mut self.bytes, right.bytes.len());
        self.bytes.extend_from_slice(&right.bytes);
        let len = self.len + right.len;
        for (to, end) in self.ends[self.len..len].iter_mut().zip(&right.ends) {
            *to = base + end;
        }
        self.len = len;
        self.set_heads();
    }

    /// The keys at which `keep` is true.
    pub(super) fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self::default();
        for (_, key) in self.iter().enumerate().filter(|(index, _)| keep(*index)) {
            kept.bytes.extend_from_slice(key);
            kept.ends[kept.len] = kept.bytes.len() as u32;
            kept.len += 1;
        }
        kept.set_heads();
        kept
    }

    /// Finds again what all keys share, and their heads.
    fn set_heads(&mut self) {
        self.shared = self.last().map_or(0, |last| common_prefix(self.get(0), last));
        for index in 0..self.len {
            self.heads[index] = head(self.get(index), self.shared);
        }
    }

    /// The position that has about half of the bytes before it.
    pub(super) fn middle_by_bytes(&self) -> usize {
        self.ends[..self.len].partition_point(|end| (*end as usize) < self.bytes.len() / 2)
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// A copy with room for `more` typical keys.
    pub(super) fn copy(&self, more: usize) -> Self {
        let typical = self.bytes.len() / self.len.max(1) + 8;
        Self { bytes: copy(&self.bytes, more * typical), ..*self }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.iter().is_sorted_by(|left, right| left < right), "the keys of a node do not rise");
        assert_eq!(self.start_of(self.len), self.bytes.len(), "the keys of a node do not fill its bytes");
        for (index, key) in self.iter().enumerate() {
            assert!(key.starts_with(&self.bytes[..self.shared]), "a key does not begin as the others");
            assert_eq!(self.heads[index], head(key, self.shared), "the head of a key is wrong");
        }
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

    fn packed(keys: &[&str]) -> Keys<8> {
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

    /// Few different bytes, zero among them, so that beginnings are shared, heads are equal and keys end early.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(0), 1 => Just(b'b')], 0..12)
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_vector(steps in prop::collection::vec((key(), 0..10u8), 1..100)) {
            let (mut packed, mut plain) = (Keys::<40>::default(), Vec::<Vec<u8>>::new());
            for (key, kind) in steps {
                let found = plain.binary_search(&key);
                prop_assert_eq!(packed.search(&key), found);
                let index = found.unwrap_or_else(|index| index);
                match kind {
                    0..=6 if found.is_err() && plain.len() < 40 => {
                        packed.insert(index, &key);
                        plain.insert(index, key);
                    }
                    7 if index < plain.len() => {
                        prop_assert_eq!(&*packed.remove(index), &*plain.remove(index));
                    }
                    8 => {
                        let (right, plain_right) = (packed.split_off(index), plain.split_off(index));
                        right.check_invariants();
                        packed.check_invariants();
                        prop_assert!(right.iter().eq(plain_right.iter().map(Vec::as_slice)));
                        packed.append(&right);
                        plain.extend(plain_right);
                    }
                    9 => {
                        packed = packed.filtered(|at| at != index).copy(2);
                        if index < plain.len() {
                            plain.remove(index);
                        }
                    }
                    _ => {}
                }
                packed.check_invariants();
                prop_assert!(packed.iter().eq(plain.iter().map(Vec::as_slice)));
                prop_assert_eq!(packed.last(), plain.last().map(Vec::as_slice));
                prop_assert_eq!(packed.bytes_len(), plain.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
