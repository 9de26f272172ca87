//! Decisions out of bytes.

/// Takes numbers and bytes off the front of an input; when it is used up, everything is zero.
pub struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    /// Decisions from `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// Two bytes as a number.
    pub fn number(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// A number in `0..limit`; 0 if the limit is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = self.number() | self.number() << 16;
        number.checked_rem(limit).unwrap_or(0)
    }

    /// At most `len_bytes` bytes.
    pub fn bytes(&mut self, len_bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len_bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
