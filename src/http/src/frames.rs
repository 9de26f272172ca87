//! Where the frames of an HTTP/2 connection begin and end, told from the bytes that its client sends.
//!
//! [`FrameWalker`] is shown each byte once, in order, however reads happen to divide them. It knows the preface, the frame
//! headers, and which bytes of a HEADERS or CONTINUATION frame are header block (RFC 9113, sections 4.1, 6.2 and 6.10);
//! everything else it passes over by arithmetic. It judges nothing: a client that breaks the rules is refused by the real
//! parser, which sees the same bytes, and where the walk goes from there no longer matters. A connection that does not open
//! with the preface is not HTTP/2, and the walk over it is one comparison a read.

/// What the client of an HTTP/2 connection sends first (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What stands before the payload of each frame.
pub(crate) const FRAME_HEADER_BYTES: usize = 9;
const PRIORITY_BYTES: u8 = 5;

/// The type of a frame that begins a call, or ends one.
pub(crate) const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct FrameWalker {
    at: At,
    /// A HEADERS frame has come, and no byte of its block yet.
    block_begins: bool,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum At {
    Preface { seen: usize },
    FrameHeader { bytes: [u8; FRAME_HEADER_BYTES], seen: usize },
    PadLength { left: u32, priority: u8 },
    Priority { left: u32, priority: u8, padding: u8 },
    Block { left: u32, padding: u8 },
    Payload { left: u32 },
    NotHttp2,
}

/// What the bytes shown begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// So many bytes are no header block, and the walk has gone past them.
    Passed(usize),
    /// Header block. The walk stands still until [`FrameWalker::pass_block`].
    Block {
        /// These are the first bytes of a new block, not more of the one before.
        begins: bool,
        /// Bytes of the block from here to the end of this frame's share of it; at least one.
        in_frame: usize,
    },
}

impl FrameWalker {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self { at: At::Preface { seen: 0 }, block_begins: false }
    }

    /// Looks at `bytes`, the next of the connection; at least one.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Step {
        assert!(!bytes.is_empty(), "a step needs a byte to stand on");
        let passed = match &mut self.at {
            At::NotHttp2 => bytes.len(),
            At::Payload { left } => {
                let passed = bytes.len().min(*left as usize);
                self.at = payload(*left - passed as u32);
                passed
            }
            At::FrameHeader { bytes: header, seen } => {
                let passed = bytes.len().min(FRAME_HEADER_BYTES - *seen);
                header[*seen..*seen + passed].copy_from_slice(&bytes[..passed]);
                *seen += passed;
                if *seen == FRAME_HEADER_BYTES {
                    let header = *header;
                    self.begin_frame(header);
                }
                passed
            }
            At::PadLength { left, priority } => {
                self.at = lead(*left - 1, *priority, bytes[0]);
                1
            }
            At::Priority { left, priority, padding } => {
                self.at = lead(*left - 1, *priority - 1, *padding);
                1
            }
            At::Block { left, .. } => {
                return Step::Block { begins: std::mem::take(&mut self.block_begins), in_frame: *left as usize };
            }
            At::Preface { seen } => {
                let passed = bytes.len().min(PREFACE.len() - *seen);
                let expected = &PREFACE[*seen..*seen + passed];
                if bytes[..passed] != *expected {
                    self.at = At::NotHttp2;
                } else if *seen + passed == PREFACE.len() {
                    self.at = payload(0);
                } else {
                    *seen += passed;
                }
                passed
            }
        };
        Step::Passed(passed)
    }

    /// Goes past `passed` bytes of header block, after a [`Step::Block`].
    pub(crate) fn pass_block(&mut self, passed: usize) {
        let At::Block { left, padding } = self.at else { panic!("no header block to pass at {:?}", self.at) };
        assert!(passed <= left as usize, "{passed} bytes of a block of which this frame has {left}");
        self.at = block(left - passed as u32, padding);
    }

    fn begin_frame(&mut self, [high, middle, low, kind, flags, ..]: [u8; FRAME_HEADER_BYTES]) {
        let length = u32::from_be_bytes([0, high, middle, low]);
        let priority = if flags & FLAG_PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
        if kind == HEADERS {
            self.block_begins = true;
        }
        self.at = match kind {
            HEADERS if flags & FLAG_PADDED != 0 && length > 0 => At::PadLength { left: length, priority },
            HEADERS => lead(length, priority, 0),
            CONTINUATION => block(length, 0),
            _ => payload(length),
        };
    }
}

/// `left` bytes of a HEADERS frame are still to come: `priority` ones before its block, `padding` ones after it.
fn lead(left: u32, priority: u8, padding: u8) -> At {
    match left.checked_sub(u32::from(priority) + u32::from(padding)) {
        // More padding than frame: malformed, and refused by the parser.
        None => payload(left),
        Some(block_bytes) if priority == 0 => block(block_bytes, padding),
        Some(_) => At::Priority { left, priority, padding },
    }
}

fn block(left: u32, padding: u8) -> At {
    if left == 0 { payload(padding.into()) } else { At::Block { left, padding } }
}

fn payload(left: u32) -> At {
    if left == 0 { At::FrameHeader { bytes: [0; FRAME_HEADER_BYTES], seen: 0 } } else { At::Payload { left } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of header block in `connection`, each block by itself, when it comes in pieces of `piece_bytes`.
    fn blocks(connection: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
        let mut walker = FrameWalker::new();
        let mut blocks = Vec::new();
        for mut piece in connection.chunks(piece_bytes) {
            while !piece.is_empty() {
                let passed = match walker.step(piece) {
                    Step::Passed(passed) => passed,
                    Step::Block { begins, in_frame } => {
                        if begins {
                            blocks.push(Vec::new());
                        }
                        let passed = in_frame.min(piece.len());
                        blocks.last_mut().unwrap().extend_from_slice(&piece[..passed]);
                        walker.pass_block(passed);
                        passed
                    }
                };
                piece = &piece[passed..];
            }
        }
        blocks
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn blocks_are_found_between_everything_else_however_the_bytes_come() {
        /// What it is, its frames, the blocks in them.
        type Case = (&'static str, Vec<Vec<u8>>, &'static [&'static [u8]]);
        let cases: [Case; 8] = [
            ("no block", vec![frame(0x4, 0, &[]), frame(0x6, 0, b"pingping")], &[]),
            ("plain", vec![frame(0x1, 0x4, b"block"), frame(0x0, 0x1, b"data")], &[b"block"]),
            ("padded", vec![frame(0x1, 0x8, b"\x03block..."), frame(0x1, 0x4, b"next")], &[b"block", b"next"]),
            ("priority", vec![frame(0x1, 0x20, b"12345block")], &[b"block"]),
            ("both", vec![frame(0x1, 0x28, b"\x0212345block.."), frame(0x9, 0, b"+more")], &[b"block+more"]),
            ("all in continuations", vec![frame(0x1, 0, b""), frame(0x9, 0, b""), frame(0x9, 0x4, b"b")], &[b"b"]),
            ("more padding than frame", vec![frame(0x1, 0x28, b"\x0712345block"), frame(0x1, 0, b"next")], &[b"next"]),
            ("padded and empty", vec![frame(0x1, 0x8, b""), frame(0x1, 0x8, b"\x00"), frame(0x1, 0, b"n")], &[b"n"]),
        ];
        for (what, frames, expected) in cases {
            let connection = [PREFACE.to_vec(), frames.concat()].concat();
            for piece_bytes in 1..=connection.len() {
                assert_eq!(blocks(&connection, piece_bytes), expected, "{what}, {piece_bytes} bytes a read");
            }
        }
    }

    #[test]
    fn without_the_preface_nothing_is_a_block() {
        let frames = frame(0x1, 0x4, b"block");
        let http1 = [b"PRI /v3/kv HTTP/1.1\r\n\r\n".to_vec(), frames.clone()].concat();
        for piece_bytes in 1..=http1.len() {
            assert!(blocks(&http1, piece_bytes).is_empty());
            assert!(blocks(&frames, piece_bytes).is_empty());
        }
    }
}
