//! The filter over whole connections, in every division into reads.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What etcdctl 3.4.23 sends for `--endpoints http://127.0.0.1:40085 endpoint status`: preface, SETTINGS, acknowledgement,
/// HEADERS, DATA.
const RECORDED: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\
    \x00\x00\x77\x01\x04\x00\x00\x00\x01\
    \x83\x86\x45\x97\x60\xa9\x24\x88\x2d\x9d\xcb\x65\x71\xaf\xa0\x66\xa9\x25\xa8\x75\x10\xac\x6e\x48\xd3\x6a\x3f\
    \x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x34\x00\x3c\xdf\
    \x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64\x7a\x8b\x9a\xca\xc8\xb4\xc7\x60\x2b\xb2\xca\xec\xff\
    \x40\x02\x74\x65\x86\x4d\x83\x35\x05\xb1\x1f\x40\x89\x9a\xca\xc8\xb2\x4d\x49\x4f\x6a\x7f\x86\x69\xf7\xdc\x7d\xa1\x5b\
    \x40\x8d\x25\x06\x2d\x49\x58\x75\x99\x6e\xe5\xb1\x06\x3d\x5f\x03\x33\x2e\x34\
    \x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00";

/// [`RECORDED`], with the `://` of its authority replaced.
fn recorded_repaired() -> Vec<u8> {
    let (wrong, right) = (b"\x9d\x29\xae\xe3\x0c\x04", b"\x9d\x29\xae\xea\xcb\x04");
    let at = RECORDED.windows(wrong.len()).position(|window| window == wrong).unwrap();
    let mut repaired = RECORDED.to_vec();
    repaired[at..at + right.len()].copy_from_slice(right);
    repaired
}

/// A stream that is read in the pieces that it was given, and then is at its end.
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    /// `bytes` in pieces of the sizes that `sizes` gives in turn.
    fn cut(bytes: &[u8], sizes: &[usize]) -> Self {
        let mut sizes = sizes.iter().copied().cycle();
        let mut pieces = VecDeque::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            pieces.push_back(piece.to_vec());
            rest = after;
        }
        Self(pieces)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Everything that is read through a filter over `pieces`, with buffers of the sizes that `buffer_sizes` gives in turn.
fn read_all(pieces: Pieces, buffer_sizes: &[usize]) -> Vec<u8> {
    let mut context = Context::from_waker(Waker::noop());
    let mut filter = AuthorityFilter::new(pieces);
    let mut all = Vec::new();
    for size in buffer_sizes.iter().cycle() {
        let mut memory = vec![0; size + 1];
        let mut buffer = ReadBuf::new(&mut memory);
        // A reader may have something in its buffer already.
        buffer.put_slice(b"#");
        assert!(matches!(Pin::new(&mut filter).poll_read(&mut context, &mut buffer), Poll::Ready(Ok(()))));
        let read = buffer.filled().strip_prefix(b"#").unwrap();
        if read.is_empty() {
            break;
        }
        all.extend_from_slice(read);
    }
    all
}

#[test]
fn a_recorded_connection_is_repaired_alike_in_every_division_into_reads() {
    let repaired = recorded_repaired();
    for first in 1..=RECORDED.len() {
        let pieces = || Pieces::cut(RECORDED, &[first, RECORDED.len()]);
        assert_eq!(read_all(pieces(), &[4096]), repaired, "cut after {first} bytes");
        assert_eq!(read_all(pieces(), &[first]), repaired, "cut after {first} bytes, buffers as large");
    }
    for size in 1..16 {
        assert_eq!(read_all(Pieces::cut(RECORDED, &[size]), &[4096]), repaired, "{size} bytes a read");
        assert_eq!(read_all(Pieces::cut(RECORDED, &[4096]), &[size]), repaired, "buffers of {size} bytes");
    }
}

#[test]
fn a_stream_that_ends_anywhere_loses_nothing() {
    let repaired = recorded_repaired();
    let authority = RECORDED.windows(2).position(|window| window == b"\x41\x90").unwrap() + 2;
    for end in 0..RECORDED.len() {
        // Ended within the prefix, the authority stays what it was.
        let whole = if end >= authority + PREFIX_BYTES_MAX { &repaired[..] } else { RECORDED };
        assert_eq!(read_all(Pieces::cut(&RECORDED[..end], &[7]), &[64]), whole[..end], "ended after {end} bytes");
    }
}

#[test]
fn a_held_prefix_waits_for_the_stream_and_not_the_stream_for_it() {
    /// Pending when nothing is there.
    struct Waiting(Pieces);
    impl AsyncRead for Waiting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.0.is_empty() { Poll::Pending } else { Pin::new(&mut self.0).poll_read(context, buffer) }
        }
    }
    let mut context = Context::from_waker(Waker::noop());
    let authority = RECORDED.windows(2).position(|window| window == b"\x41\x90").unwrap() + 2;
    let mut filter = AuthorityFilter::new(Waiting(Pieces::cut(&RECORDED[..authority + 3], &[authority, 3])));
    let mut memory = [0; 512];
    let mut buffer = ReadBuf::new(&mut memory);
    assert!(Pin::new(&mut filter).poll_read(&mut context, &mut buffer).is_ready());
    assert!(Pin::new(&mut filter).poll_read(&mut context, &mut buffer).is_pending());
    assert_eq!(buffer.filled(), &RECORDED[..authority]);
    filter.inner.0.0.push_back(RECORDED[authority + 3..].to_vec());
    while Pin::new(&mut filter).poll_read(&mut context, &mut buffer).is_ready() {}
    assert_eq!(buffer.filled(), recorded_repaired());
}

#[test]
fn http1_passes_as_it_is() {
    let request = b"POST /v3/kv/range HTTP/1.1\r\nhost: http://127.0.0.1:2379\r\n\r\n";
    for size in 1..request.len() {
        assert_eq!(read_all(Pieces::cut(request, &[size]), &[32]), request);
    }
}

/// A field of a header block as an encoder may write it.
#[derive(Clone, Debug)]
enum Field {
    Indexed(u8),
    TableSize(u16),
    /// A literal: how it is to be indexed, the index of its name or the name itself, its value.
    Literal {
        form: Form,
        name: Result<u16, Vec<u8>>,
        value: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Indexing,
    Unindexed,
    NeverIndexed,
}

/// An integer behind a prefix of `prefix_bits`, whose byte begins with `top` (RFC 7541, section 5.1).
fn put_integer(block: &mut Vec<u8>, top: u8, prefix_bits: u32, value: usize) {
    let max = (1 << prefix_bits) - 1;
    if value < max {
        block.push(top | value as u8);
        return;
    }
    block.push(top | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// Bytes that a filter is to repair: where they are in a block, and what they become.
type Repaired = (usize, &'static [u8]);

impl Field {
    fn put(&self, block: &mut Vec<u8>, repaired: &mut Vec<Repaired>) {
        match self {
            Field::Indexed(index) => put_integer(block, 0x80, 7, (*index).into()),
            Field::TableSize(size) => put_integer(block, 0x20, 5, (*size).into()),
            Field::Literal { form, name, value } => {
                let (top, prefix_bits) = match form {
                    Form::Indexing => (0x40, 6),
                    Form::Unindexed => (0x00, 4),
                    Form::NeverIndexed => (0x10, 4),
                };
                let authority = match name {
                    Ok(index) => {
                        put_integer(block, top, prefix_bits, (*index).into());
                        *index == 1
                    }
                    Err(name) => {
                        put_integer(block, top, prefix_bits, 0);
                        put_integer(block, 0, 7, name.len());
                        block.extend_from_slice(name);
                        name == b":authority"
                    }
                };
                put_integer(block, 0, 7, value.len());
                if authority {
                    let becomes: &[(&[u8], &[u8])] = &[(b"http://", b"httpB--"), (b"https://", b"httpsB--")];
                    repaired.extend(
                        becomes
                            .iter()
                            .filter(|(wrong, _)| value.starts_with(wrong))
                            .map(|(_, right)| (block.len(), *right)),
                    );
                }
                block.extend_from_slice(value);
            }
        }
    }
}

fn field() -> impl Strategy<Value = Field> {
    let form = prop_oneof![Just(Form::Indexing), Just(Form::Unindexed), Just(Form::NeverIndexed)];
    let name = prop_oneof![
        3 => Just(Ok(1)),
        3 => (1..400u16).prop_map(Ok),
        1 => Just(Err(b":authority".to_vec())),
        1 => Just(Err(b":authoritx".to_vec())),
        2 => vec(any::<u8>(), 0..200).prop_map(Err),
    ];
    let value = prop_oneof![
        "https?://[a-z0-9.:]{0,150}".prop_map(String::into_bytes),
        "https?:?/?[a-z:/]{0,6}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..300),
    ];
    prop_oneof![
        1 => (1..=255u8).prop_map(Field::Indexed),
        1 => (0..9000u16).prop_map(Field::TableSize),
        4 => (form, name, value).prop_map(|(form, name, value)| Field::Literal { form, name, value }),
    ]
}

/// Some frames, and what a filter is to make of them.
type Frames = (Vec<u8>, Vec<u8>);

fn put_frame(frames: &mut Vec<u8>, kind: u8, flags: u8, parts: &[&[u8]]) {
    let payload = parts.concat();
    frames.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    frames.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    frames.extend_from_slice(&payload);
}

/// A block in a HEADERS frame and continuations of `share_bytes` each.
fn header_frames(fields: &[Field], padding: Option<u8>, priority: bool, share_bytes: usize) -> Frames {
    let (mut block, mut repaired) = (Vec::new(), Vec::new());
    for field in fields {
        field.put(&mut block, &mut repaired);
    }
    let mut block_repaired = block.clone();
    for (at, right) in repaired {
        // Not if two frames share it.
        if at / share_bytes == (at + right.len() - 1) / share_bytes {
            block_repaired[at..at + right.len()].copy_from_slice(right);
        }
    }
    let frames = |block: &[u8]| {
        let mut frames = Vec::new();
        let (first, rest) = block.split_at(share_bytes.min(block.len()));
        let ended = if rest.is_empty() { 0x4 } else { 0 };
        let (pad_flag, pad_length, pad) = match padding {
            Some(length) => (0x8, vec![length], vec![0; length.into()]),
            None => (0, Vec::new(), Vec::new()),
        };
        let (priority_flag, priority): (u8, &[u8]) = if priority { (0x20, b"12345") } else { (0, b"") };
        put_frame(&mut frames, 0x1, ended | pad_flag | priority_flag, &[&pad_length, priority, first, &pad]);
        let shares: Vec<_> = rest.chunks(share_bytes).collect();
        for (number, share) in shares.iter().enumerate() {
            put_frame(&mut frames, 0x9, if number + 1 == shares.len() { 0x4 } else { 0 }, &[share]);
        }
        frames
    };
    (frames(&block), frames(&block_repaired))
}

fn frames() -> impl Strategy<Value = Frames> {
    let share_bytes = prop_oneof![Just(1 << 14), 1..60usize];
    let headers = (vec(field(), 0..6), any::<Option<u8>>(), any::<bool>(), share_bytes)
        .prop_map(|(fields, padding, priority, share_bytes)| header_frames(&fields, padding, priority, share_bytes));
    let other_kind = prop_oneof![Just(0), 2..9u8, 10..=255u8];
    let other = (other_kind, any::<u8>(), vec(any::<u8>(), 0..300)).prop_map(|(kind, flags, payload)| {
        let mut frames = Vec::new();
        put_frame(&mut frames, kind, flags, &[&payload]);
        (frames.clone(), frames)
    });
    prop_oneof![2 => headers, 1 => other]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn authorities_are_repaired_and_every_other_byte_passes_unchanged(
        frames in vec(frames(), 0..8),
        sizes in vec(prop_oneof![1..12usize, 1..500usize], 1..8),
        buffer_sizes in vec(prop_oneof![1..12usize, 1..500usize], 1..8),
    ) {
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut expected = sent.clone();
        for (frames, repaired) in frames {
            sent.extend_from_slice(&frames);
            expected.extend_from_slice(&repaired);
        }
        prop_assert_eq!(read_all(Pieces::cut(&sent, &sizes), &buffer_sizes), expected);
    }

    #[test]
    fn no_bytes_make_the_filter_lose_its_head(
        bytes in vec(any::<u8>(), 0..600),
        sizes in vec(1..40usize, 1..4),
        kind in prop_oneof![Just(0x1), Just(0x9), any::<u8>()],
    ) {
        let sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x01", [0, kind].as_slice(), &bytes].concat();
        prop_assert_eq!(read_all(Pieces::cut(&sent, &sizes), &[100]).len(), sent.len());
    }
}
