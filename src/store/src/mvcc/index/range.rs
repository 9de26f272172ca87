//! Which keys a request means: one key, or everything between two bounds.

/// A set of keys without gaps: `start` is inside, the end is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    start: &'a [u8],
    end: RangeEnd<'a>,
}

/// Where a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeEnd<'a> {
    /// Only the start itself is in the range.
    Single,
    /// Keys below this one; nothing if it does not lie above the start.
    Before(&'a [u8]),
    /// No end.
    Unbounded,
}

impl<'a> KeyRange<'a> {
    /// What `key` and `range_end` of a request mean: no end is that one key, an end of one zero byte is every key from
    /// `key` on, any other end stands outside. An end at or below `key` makes an empty range, which is no error.
    pub fn from_request(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Unbounded,
            end => RangeEnd::Before(end),
        };
        Self { start: key, end }
    }

    /// One key.
    pub fn single(key: &'a [u8]) -> Self {
        Self { start: key, end: RangeEnd::Single }
    }

    /// Every key.
    pub fn all() -> Self {
        Self { start: &[], end: RangeEnd::Unbounded }
    }

    /// The one key of a range that is a single key.
    pub fn as_single(&self) -> Option<&'a [u8]> {
        (self.end == RangeEnd::Single).then_some(self.start)
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            RangeEnd::Single => key == self.start,
            RangeEnd::Before(end) => self.start <= key && key < end,
            RangeEnd::Unbounded => self.start <= key,
        }
    }

    pub(super) fn start(&self) -> &'a [u8] {
        self.start
    }

    pub(super) fn end(&self) -> RangeEnd<'a> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_key_a_range_or_all_from_a_key() {
        type Keys = &'static [&'static str];
        let cases: [(&[u8], &[u8], Keys, Keys); 6] = [
            (b"b", b"", &["b"], &["a", "ba", "c"]),
            (b"b", b"c", &["b", "ba", "bz"], &["a", "c"]),
            (b"b", b"\0", &["b", "ba", "c", "\u{7f}"], &["a", "", "az"]),
            (b"\0", b"\0", &["\0", "a", "z"], &[""]),
            (b"c", b"b", &[], &["b", "bb", "c", "d"]),
            (b"c", b"c", &[], &["c"]),
        ];
        for (key, range_end, inside, outside) in cases {
            let range = KeyRange::from_request(key, range_end);
            assert!(inside.iter().all(|key| range.contains(key.as_bytes())), "{range:?}");
            assert!(!outside.iter().any(|key| range.contains(key.as_bytes())), "{range:?}");
        }
    }
}
