//! A header block (HPACK, RFC 7541), walked for one thing: an `:authority` that begins with a URL's scheme.
//!
//! Clients made with Go's gRPC send the endpoint as it was given to them: etcdctl 3.4 called with
//! `--endpoints http://127.0.0.1:2379` sends `:authority: http://127.0.0.1:2379`. That is no authority, and the HTTP/2
//! parser ends the stream with PROTOCOL_ERROR; etcd's server, and so its users, never knew. [`BlockWalker`] turns the `://`
//! into `B--` before the parser sees it: `httpB--127.0.0.1:2379` is an authority, and nothing here routes by it.
//!
//! Why these characters: `B` has as many bits as `:` in HPACK's Huffman code, and `-` as many as `/`. So the value keeps its
//! length, plain or coded; string lengths, frame lengths and the entry in the parser's dynamic table stay what the client
//! believes them to be, and later requests that only name the entry need no repair.
//!
//! The walk needs no tables. Representations tell their own lengths, and an `:authority` is known by the index 1 of the
//! static table or by its name spelled out. A name taken from the dynamic table is not looked up: an encoder has no reason
//! to, as the static table comes first. The rest of a value (a path, say) is not touched.

/// A value's scheme and `://` lie within so many first bytes: `https://`, uncoded.
pub(crate) const PREFIX_BYTES_MAX: usize = 8;

const AUTHORITY_INDEX: u8 = 1;
const AUTHORITY: &[u8] = b":authority";
/// The same in the Huffman code, with the one padding that is allowed.
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// How a header block is gone through, byte by byte.
#[derive(Debug)]
pub(crate) struct BlockWalker {
    at: At,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum At {
    Representation,
    /// More of an integer whose value does not matter.
    Integer {
        then: Next,
    },
    Length {
        of: Text,
    },
    /// More of the length of a string.
    LengthRest {
        of: Text,
        coded: bool,
        length: u32,
        shift: u32,
    },
    /// A name as long as `:authority`, and equal to it so far.
    Name {
        coded: bool,
        seen: usize,
    },
    /// The first byte of the value of an `:authority`.
    Authority {
        coded: bool,
        length: u32,
    },
    /// A string, or the rest of it, that does not matter.
    Skip {
        left: u32,
        then: Next,
    },
    /// The block is malformed, and refused by the parser.
    Lost,
}

/// What follows on a part that does not matter.
#[derive(Clone, Copy, Debug)]
enum Next {
    Representation,
    Value,
}

/// Which string.
#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value,
    AuthorityValue,
}

impl BlockWalker {
    /// At the start of a block.
    pub(crate) fn new() -> Self {
        Self { at: At::Representation }
    }

    /// Goes over `bytes`, the next of the block, and repairs what there is to repair. Returns how many are done with.
    ///
    /// The others, fewer than [`PREFIX_BYTES_MAX`], must be shown again together with what follows: they may be the first
    /// part of what is to be repaired. `in_frame` says how many bytes of the block the frame has from the first of `bytes`
    /// on. Nobody is ever asked to wait for the next frame, so a prefix divided between two frames is not repaired: the
    /// pseudo-headers come first in a block, and a first frame has room for 16 KiB.
    pub(crate) fn walk(&mut self, bytes: &mut [u8], in_frame: usize) -> usize {
        assert!(bytes.len() <= in_frame, "{} bytes of a block of which the frame has {in_frame}", bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let byte = bytes[done];
            match self.at {
                At::Representation => {
                    self.at = representation(byte);
                    done += 1;
                }
                At::Integer { then } => {
                    if byte & 0x80 == 0 {
                        self.at = then.into();
                    }
                    done += 1;
                }
                At::Length { of } => {
                    let (coded, length) = (byte & 0x80 != 0, u32::from(byte & 0x7f));
                    self.at = match length {
                        0x7f => At::LengthRest { of, coded, length, shift: 0 },
                        _ => text(of, coded, length),
                    };
                    done += 1;
                }
                At::LengthRest { of, coded, length, shift } => {
                    let length = length + (u32::from(byte & 0x7f) << shift);
                    self.at = match (byte & 0x80 != 0, shift) {
                        (false, _) => text(of, coded, length),
                        (true, ..21) => At::LengthRest { of, coded, length, shift: shift + 7 },
                        (true, _) => At::Lost,
                    };
                    done += 1;
                }
                At::Name { coded, seen } => {
                    let name = authority_name(coded);
                    let left = name.len() - seen - 1;
                    self.at = if byte != name[seen] {
                        skip(left as u32, Next::Value)
                    } else if left > 0 {
                        At::Name { coded, seen: seen + 1 }
                    } else {
                        At::Length { of: Text::AuthorityValue }
                    };
                    done += 1;
                }
                At::Authority { coded, length } => {
                    let needed = PREFIX_BYTES_MAX.min(length as usize).min(in_frame - done);
                    let Some(prefix) = bytes[done..].get_mut(..needed) else { return done };
                    repair(prefix, coded);
                    self.at = skip(length, Next::Representation);
                }
                At::Skip { left, then } => {
                    let skipped = (bytes.len() - done).min(left as usize);
                    self.at = skip(left - skipped as u32, then);
                    done += skipped;
                }
                At::Lost => return bytes.len(),
            }
        }
        done
    }
}

impl From<Next> for At {
    fn from(next: Next) -> Self {
        match next {
            Next::Representation => At::Representation,
            Next::Value => At::Length { of: Text::Value },
        }
    }
}

/// What follows on the first byte of a representation (RFC 7541, section 6).
fn representation(byte: u8) -> At {
    let (index, index_max, then) = match byte {
        0x80.. => (byte & 0x7f, 0x7f, Next::Representation), // indexed
        0x40.. => (byte & 0x3f, 0x3f, Next::Value),          // literal, to be indexed
        0x20.. => (byte & 0x1f, 0x1f, Next::Representation), // size of the dynamic table
        _ => (byte & 0x0f, 0x0f, Next::Value),               // literal, not or never to be indexed
    };
    match (then, index) {
        (_, index) if index == index_max => At::Integer { then },
        (Next::Value, 0) => At::Length { of: Text::Name },
        (Next::Value, AUTHORITY_INDEX) => At::Length { of: Text::AuthorityValue },
        _ => then.into(),
    }
}

/// What follows on the length of a string.
fn text(of: Text, coded: bool, length: u32) -> At {
    match of {
        Text::Name if length as usize == authority_name(coded).len() => At::Name { coded, seen: 0 },
        Text::Name => skip(length, Next::Value),
        Text::AuthorityValue if length > 0 => At::Authority { coded, length },
        Text::AuthorityValue | Text::Value => skip(length, Next::Representation),
    }
}

fn skip(left: u32, then: Next) -> At {
    if left == 0 { then.into() } else { At::Skip { left, then } }
}

fn authority_name(coded: bool) -> &'static [u8] {
    if coded { AUTHORITY_CODED } else { AUTHORITY }
}

/// One prefix that is repaired, its bits at the top of the words.
struct Repair {
    bytes: usize,
    mask: u64,
    wrong: u64,
    right: u64,
}

const REPAIRS_PLAIN: [Repair; 2] = [Repair::plain(b"http://", b"httpB--"), Repair::plain(b"https://", b"httpsB--")];
const REPAIRS_CODED: [Repair; 2] = [Repair::coded(b"http://", b"httpB--"), Repair::coded(b"https://", b"httpsB--")];

impl Repair {
    const fn plain(wrong: &[u8], right: &[u8]) -> Self {
        Self::new(pack(wrong, false), pack(right, false))
    }

    const fn coded(wrong: &[u8], right: &[u8]) -> Self {
        Self::new(pack(wrong, true), pack(right, true))
    }

    const fn new((wrong, wrong_bits): (u64, u32), (right, right_bits): (u64, u32)) -> Self {
        assert!(wrong_bits == right_bits, "a repair keeps the length");
        let bytes = wrong_bits.div_ceil(8) as usize;
        assert!(bytes <= PREFIX_BYTES_MAX);
        Self { bytes, mask: u64::MAX << (64 - wrong_bits), wrong, right }
    }
}

/// The bits of `text` at the top of a word, and how many there are.
const fn pack(text: &[u8], coded: bool) -> (u64, u32) {
    let (mut word, mut bits) = (0, 0);
    let mut at = 0;
    while at < text.len() {
        let (code, code_bits) = if coded { huffman_code(text[at]) } else { (text[at] as u64, 8) };
        bits += code_bits;
        word |= code << (64 - bits);
        at += 1;
    }
    (word, bits)
}

/// RFC 7541, appendix B: the characters of the prefixes and of what they become.
const fn huffman_code(character: u8) -> (u64, u32) {
    match character {
        b'h' => (0x27, 6),
        b't' => (0x9, 5),
        b'p' => (0x2b, 6),
        b's' => (0x8, 5),
        b':' => (0x5c, 7),
        b'/' => (0x18, 6),
        b'B' => (0x5d, 7),
        b'-' => (0x16, 6),
        _ => panic!("not a character of a prefix"),
    }
}

/// Repairs the value that begins with `prefix`: all of it, or [`PREFIX_BYTES_MAX`], or what its frame has of it.
fn repair(prefix: &mut [u8], coded: bool) {
    let mut word = [0; PREFIX_BYTES_MAX];
    word[..prefix.len()].copy_from_slice(prefix);
    let word = u64::from_be_bytes(word);
    let repairs = if coded { &REPAIRS_CODED } else { &REPAIRS_PLAIN };
    for Repair { bytes, mask, wrong, right } in repairs {
        if prefix.len() >= *bytes && word & mask == *wrong {
            let repaired = (word & !mask | right).to_be_bytes();
            prefix.copy_from_slice(&repaired[..prefix.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `http://127.0.0.1:40085` as etcdctl sends it, and what it becomes.
    const CODED: &[u8] = b"\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x34\x00\x3c\xdf";
    const CODED_REPAIRED: &[u8] = b"\x90\x9d\x29\xae\xea\xcb\x04\x4e\xae\x05\xc0\xb8\x6e\x34\x00\x3c\xdf";

    fn walked(block: &[u8]) -> Vec<u8> {
        let mut bytes = block.to_vec();
        let in_frame = bytes.len();
        assert_eq!(BlockWalker::new().walk(&mut bytes, in_frame), in_frame);
        bytes
    }

    #[test]
    fn every_form_of_an_authority_is_repaired_and_nothing_else_is() {
        let plain: &[u8] = b"\x0ahttp://a:1";
        let plain_repaired: &[u8] = b"\x0ahttpB--a:1";
        let long = [b"\x7f\x79https://".as_slice(), &[b'x'; 240]].concat();
        let long_repaired = [b"\x7f\x79httpsB--".as_slice(), &[b'x'; 240]].concat();
        let name_coded = [b"\x40\x88".as_slice(), AUTHORITY_CODED].concat();
        /// What it is, what comes before the value, the value, what it becomes.
        type Case<'a> = (&'a str, &'a [u8], &'a [u8], &'a [u8]);
        let cases: [Case<'_>; 22] = [
            ("to be indexed", b"\x41", plain, plain_repaired),
            ("not to be indexed", b"\x01", plain, plain_repaired),
            ("never to be indexed", b"\x11", plain, plain_repaired),
            ("coded", b"\x41", CODED, CODED_REPAIRED),
            ("length of two bytes", b"\x41", &long, &long_repaired),
            ("name spelled out", b"\x00\x0a:authority", plain, plain_repaired),
            ("name spelled out, coded", &name_coded, CODED, CODED_REPAIRED),
            ("after indexed ones", b"\x83\x86\xff\x05", plain, plain),
            ("after indexed ones and a literal's index", b"\x83\x86\xff\x05\x41", plain, plain_repaired),
            ("after a new table size", b"\x3f\xe1\x1f\x20\x41", plain, plain_repaired),
            ("after a literal", b"\x44\x04/a/b\x41", plain, plain_repaired),
            ("after a literal of a large index", b"\x7f\x83\x01\x02xx\x0f\x2f\x01x\x41", plain, plain_repaired),
            ("after a literal with a name", b"\x40\x01n\x01v\x00\x00\x00\x41", plain, plain_repaired),
            ("after a name as long", b"\x40\x0a:authoritx\x01v\x41", plain, plain_repaired),
            ("twice", b"\x41\x07http://\x41", plain, plain_repaired),
            ("another name", b"\x44", plain, plain),
            ("another name as long", b"\x40\x0a:authoritx", plain, plain),
            ("an authority indeed", b"\x41", b"\x0bhttp:80/a/b", b"\x0bhttp:80/a/b"),
            ("a shorter value", b"\x41\x06http:/\x41", plain, plain_repaired),
            ("no value", b"\x41\x00\x41\x80\x41", plain, plain_repaired),
            ("coded, cut in the last character", b"\x41", b"\x85\x9d\x29\xae\xe3\x0c", b"\x85\x9d\x29\xae\xe3\x0c"),
            ("an absurd length", b"\x41\x7f\xff\xff\xff\xff\x01\x41", plain, plain),
        ];
        for (what, before, value, repaired) in cases {
            let before = before.to_vec();
            let found = walked(&[before.as_slice(), value, b"\x83\x84"].concat());
            // "Twice" has another to repair in what comes before.
            let before = if what == "twice" { b"\x41\x07httpB--\x41".to_vec() } else { before };
            assert_eq!(found, [before.as_slice(), repaired, b"\x83\x84"].concat(), "{what}");
        }
    }

    #[test]
    fn what_may_become_a_prefix_is_asked_for_again_but_not_beyond_the_frame() {
        let block = *b"\x83\x41\x09http://a:";
        for shown in 3..11 {
            let mut walker = BlockWalker::new();
            let mut bytes = block;
            let done = walker.walk(&mut bytes[..shown], block.len());
            assert_eq!((done, &bytes), (3, &block), "{shown} bytes shown");
            assert_eq!(walker.walk(&mut bytes[done..], block.len() - done), block.len() - done);
            assert_eq!(&bytes, b"\x83\x41\x09httpB--a:");
        }
        // The frame ends before the prefix does.
        let mut walker = BlockWalker::new();
        let mut bytes = block;
        assert_eq!(walker.walk(&mut bytes[..9], 9), 9);
        assert_eq!(walker.walk(&mut bytes[9..], 3), 3);
        assert_eq!(bytes, block);
    }
}
