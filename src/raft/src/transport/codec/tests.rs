//! Bytes recorded from running members of etcd 3.7.1 and 3.6, round trips, and what must be refused.

use proptest::prelude::*;

use super::*;

/// Ids of the recorded cluster: m1, m2 (leader), and m3 who joins.
const A: MemberId = MemberId(0xc922_d397_2831_acef);
const B: MemberId = MemberId(0x501f_62c5_b699_a7e7);
const C: MemberId = MemberId(0xc1dc_01d9_eea5_8c70);
const A_VARINT: &str = "efd9c6c1f2f2b491c901";
const B_VARINT: &str = "e7cfe6b4dbd8d88f50";
const C_VARINT: &str = "f09896f59ebb80eec101";

/// Hex with spaces, and names for the ids.
fn bytes(text: &str) -> Vec<u8> {
    let text = text.replace('A', A_VARINT).replace('B', B_VARINT).replace('C', C_VARINT).replace(' ', "");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn message(message_type: raftpb::MessageType, from: MemberId, to: MemberId) -> raftpb::Message {
    raftpb::Message {
        r#type: Some(message_type as i32),
        from: Some(from.0),
        to: Some(to.0),
        term: Some(2),
        ..Default::default()
    }
}

fn entry(term: u64, index: u64, data: &[u8]) -> raftpb::Entry {
    let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
    raftpb::Entry { r#type: None, term: Some(term), index: Some(index), data }
}

fn append(term: u64, log_term: u64, index: u64, entries: Vec<raftpb::Entry>, commit: u64) -> raftpb::Message {
    raftpb::Message {
        term: Some(term),
        log_term: Some(log_term),
        index: Some(index),
        entries,
        commit: Some(commit),
        ..message(raftpb::MessageType::MsgApp, B, A)
    }
}

fn encoded(kind: StreamKind, messages: &[raftpb::Message]) -> Vec<u8> {
    let mut encoder = Encoder::new(kind);
    let mut out = BytesMut::new();
    messages.iter().for_each(|message| encoder.message(message, &mut out));
    out.to_vec()
}

fn limits() -> Limits {
    Limits { frame_bytes_max: 1 << 16, entries_max: 64 }
}

/// Everything in `input`, fed in pieces of at most `piece_bytes`, to m1 from m2.
fn decoded(kind: StreamKind, input: &[u8], piece_bytes: usize) -> Result<Vec<Frame>, CodecError> {
    let mut decoder = Decoder::new(kind, A, B, limits());
    let mut frames = Vec::new();
    for piece in input.chunks(piece_bytes.max(1)) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    decoder.finish()?;
    Ok(frames)
}

/// The recorded frame is what we write for `message`, and reads back as it.
fn check_recorded(kind: StreamKind, recorded: &str, message: raftpb::Message) {
    assert_eq!(encoded(kind, std::slice::from_ref(&message)), bytes(recorded));
    assert_eq!(decoded(kind, &bytes(recorded), 7).unwrap(), [Frame::Message(message)]);
}

#[test]
fn the_message_streams_frames_are_etcds() {
    use raftpb::MessageType as Type;
    let kind = StreamKind::Message;
    let ack = raftpb::Message { index: Some(9), ..message(Type::MsgAppResp, A, B) };
    check_recorded(kind, "000000000000001b 0804 10B 18A 2002 3009", ack);
    let heartbeat = raftpb::Message { commit: Some(6), ..message(Type::MsgHeartbeat, B, A) };
    check_recorded(kind, "000000000000001b 0808 10A 18B 2002 4006", heartbeat);
    check_recorded(kind, "0000000000000019 0809 10B 18A 2002", message(Type::MsgHeartbeatResp, A, B));
    let pre_vote = raftpb::Message { log_term: Some(1), index: Some(2), ..message(Type::MsgPreVote, B, A) };
    check_recorded(kind, "000000000000001d 0811 10A 18B 2002 2801 3002", pre_vote);
    check_recorded(kind, "0000000000000019 0812 10B 18A 2002", message(Type::MsgPreVoteResp, A, B));
    let asked = raftpb::Entry { data: Some(bytes("acefa1fc4dad0302").into()), ..Default::default() };
    let read = raftpb::Message { term: None, entries: vec![asked.clone()], ..message(Type::MsgReadIndex, A, B) };
    check_recorded(kind, "0000000000000023 080f 10B 18A 3a0a 2208 acefa1fc4dad0302", read);
    let answer = raftpb::Message { index: Some(6), entries: vec![asked], ..message(Type::MsgReadIndexResp, B, A) };
    check_recorded(kind, "0000000000000027 0810 10A 18B 2002 3006 3a0a 2208 acefa1fc4dad0302", answer);
}

#[test]
fn posted_messages_are_etcds() {
    let waiting = raftpb::Message {
        commit: Some(0),
        context: Some(bytes("0300000000000000").into()),
        ..message(raftpb::MessageType::MsgHeartbeat, B, C)
    };
    let recorded = bytes("0808 10C 18B 2002 4000 6208 0300000000000000");
    assert_eq!(waiting.encode_to_vec(), recorded);
    assert_eq!(decode_message(recorded.into(), &limits()).unwrap(), waiting);
    let refused = raftpb::Message {
        log_term: Some(0),
        index: Some(8),
        reject: Some(true),
        reject_hint: Some(0),
        ..message(raftpb::MessageType::MsgAppResp, C, B)
    };
    assert_eq!(refused.encode_to_vec(), bytes("0804 10B 18C 2002 2800 3008 5001 5800"));
}

#[test]
fn link_heartbeats_of_both_releases_are_known_and_ours_is_37s() {
    let mut out = BytesMut::new();
    Encoder::new(StreamKind::Message).link_heartbeat(&mut out);
    assert_eq!(out, bytes("0000000000000002 0808"));
    let older = bytes("0000000000000014 0808 1000 1800 2000 2800 3000 4000 5000 5800 6800");
    for recorded in [&out[..], &older] {
        assert_eq!(decoded(StreamKind::Message, recorded, 100).unwrap(), [Frame::LinkHeartbeat]);
    }
    let mut out = BytesMut::new();
    Encoder::new(StreamKind::MsgApp).link_heartbeat(&mut out);
    assert_eq!(&out[..], [0]);
    assert_eq!(decoded(StreamKind::MsgApp, &[0, 0], 100).unwrap(), [Frame::LinkHeartbeat, Frame::LinkHeartbeat]);
}

#[test]
fn a_recorded_msgapp_stream() {
    // A new leader's empty entry 3, its commit, a put as entry 7 that follows 4 to 6.
    let put = bytes("220a0a03666f6f1203626172a2060b088386b4edc4bfe8f7ac01");
    let messages = [
        append(2, 1, 2, vec![entry(2, 3, b"")], 2),
        append(2, 2, 3, vec![], 3),
        append(2, 2, 3, vec![entry(2, 4, b""), entry(2, 5, b""), entry(2, 6, b"")], 3),
        append(2, 2, 6, vec![entry(2, 7, &put)], 6),
    ];
    let recorded = bytes(
        "02 0000000000000025 0803 10A 18B 2002 2801 3002 3a04 10021803 4002 \
         01 0000000000000000 0000000000000003 \
         01 0000000000000003 0000000000000004 10021804 0000000000000004 10021805 0000000000000004 10021806 0000000000000003 \
         01 0000000000000001 0000000000000020 1002 1807 221a 220a0a03666f6f1203626172a2060b088386b4edc4bfe8f7ac01 \
         0000000000000006",
    );
    assert_eq!(encoded(StreamKind::MsgApp, &messages), recorded);
    for piece_bytes in [1, 5, 64, 1000] {
        let frames = decoded(StreamKind::MsgApp, &recorded, piece_bytes).unwrap();
        assert_eq!(frames, messages.clone().map(Frame::Message));
    }
}

#[test]
fn the_position_counts_frames_that_raft_refused() {
    // Entry 101 anchored at 100 is refused by the receiver's Raft; 102 follows all the same.
    let messages =
        [append(2, 2, 100, vec![entry(2, 101, b"x")], 101), append(2, 2, 101, vec![entry(2, 102, b"y")], 102)];
    let written = encoded(StreamKind::MsgApp, &messages);
    let second = written.len() - (1 + 8 + 8 + messages[1].entries[0].encoded_len() + 8);
    assert_eq!((written[0], written[second]), (2, 1));
    assert_eq!(decoded(StreamKind::MsgApp, &written, 3).unwrap(), messages.map(Frame::Message));
}

#[test]
fn what_begins_anew_is_written_in_full() {
    let first_byte = |before: &[raftpb::Message], message: raftpb::Message| {
        let without = encoded(StreamKind::MsgApp, before).len();
        let all: Vec<_> = before.iter().cloned().chain([message]).collect();
        encoded(StreamKind::MsgApp, &all)[without]
    };
    let before = [append(2, 2, 10, vec![entry(2, 11, b"")], 10)];
    assert_eq!(first_byte(&before, append(2, 2, 11, vec![], 11)), 1);
    assert_eq!(first_byte(&before, append(2, 2, 10, vec![], 11)), 2, "a probe further back");
    assert_eq!(first_byte(&before, append(3, 2, 11, vec![], 11)), 2, "another term");
    assert_eq!(first_byte(&before, append(3, 3, 11, vec![], 11)), 2, "another term");
    assert_eq!(first_byte(&[], append(2, 2, 11, vec![], 11)), 2, "a fresh connection");
    let answer =
        raftpb::Message { log_term: Some(2), index: Some(11), ..message(raftpb::MessageType::MsgAppResp, B, A) };
    assert_eq!(first_byte(&before, answer), 2, "no append");
}

#[test]
fn a_size_or_count_above_the_limit_is_refused_before_anything_is_read() {
    let too_large = |size| Err(CodecError::FrameTooLarge { size_bytes: size, limit_bytes: limits().frame_bytes_max });
    for size in [(1 << 16) + 1, u64::MAX] {
        assert_eq!(decoded(StreamKind::Message, &size.to_be_bytes(), 100), too_large(size));
        let full = [&[2][..], &size.to_be_bytes()].concat();
        assert_eq!(decoded(StreamKind::MsgApp, &full, 100), too_large(size));
        let one_entry = [&[1][..], &1u64.to_be_bytes(), &size.to_be_bytes()].concat();
        assert_eq!(decoded(StreamKind::MsgApp, &one_entry, 100), too_large(size));
    }
    let count = [&[1][..], &65u64.to_be_bytes()].concat();
    let too_many = Err(CodecError::TooManyEntries { count: 65, limit: 64 });
    assert_eq!(decoded(StreamKind::MsgApp, &count, 100), too_many);
    // Entries of no bytes, which cost memory all the same.
    let payload = [&[0x3a, 0].repeat(65)[..]].concat();
    let frame = [&(payload.len() as u64).to_be_bytes()[..], &payload].concat();
    assert_eq!(decoded(StreamKind::Message, &frame, 100), too_many);
}

#[test]
fn entries_together_may_not_exceed_a_frame() {
    let size = 40_000u64;
    let zeros = vec![0x22, 0xbd, 0xb8, 2].into_iter().chain(std::iter::repeat_n(0, 39_997)).take(40_000);
    let frame: Vec<u8> = [1].into_iter().chain(2u64.to_be_bytes()).chain(size.to_be_bytes()).chain(zeros).collect();
    let frame = [&frame[..], &size.to_be_bytes()].concat();
    assert!(matches!(
        decoded(StreamKind::MsgApp, &frame, 1 << 20),
        Err(CodecError::FrameTooLarge { size_bytes: 80_000, .. } | CodecError::Garbage(_))
    ));
}

#[test]
fn garbage_has_a_name() {
    assert_eq!(decoded(StreamKind::MsgApp, &[3], 1), Err(CodecError::UnknownFrame(3)));
    let frame = |payload: &[u8]| [&(payload.len() as u64).to_be_bytes()[..], payload].concat();
    for payload in [&[0x0b][..], &[0x08], &[0x3a, 5], &[0xff; 11], &[0x3a, 1, 0x0c], &[0x08; 3]] {
        let result = decoded(StreamKind::Message, &frame(payload), 100);
        assert!(matches!(result, Err(CodecError::Garbage(_))), "{payload:?}: {result:?}");
    }
    // A stream that counts past the last index.
    let at_the_end = append(2, 2, u64::MAX, vec![], 1);
    let mut written = encoded(StreamKind::MsgApp, &[at_the_end]);
    written.extend([&[1][..], &1u64.to_be_bytes(), &0u64.to_be_bytes(), &1u64.to_be_bytes()].concat());
    assert_eq!(decoded(StreamKind::MsgApp, &written, 100), Err(CodecError::IndexOverflow));
}

#[test]
fn what_raft_keeps_pins_no_more_than_its_message() {
    let message = append(2, 1, 2, vec![entry(2, 3, &[7; 1000])], 2);
    let mut decoder = Decoder::new(StreamKind::MsgApp, A, B, limits());
    let buffer: Bytes = [encoded(StreamKind::MsgApp, &[message]), vec![0; 60_000]].concat().into();
    decoder.push(buffer.clone());
    let Some(Frame::Message(decoded)) = decoder.next_frame().unwrap() else { panic!("a whole message was pushed") };
    let data = decoded.entries[0].data.as_ref().unwrap().as_ptr() as usize;
    let range = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
    assert!(!range.contains(&data));
}

fn any_entry() -> impl Strategy<Value = raftpb::Entry> {
    let data = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    (proptest::option::of(0..3i32), any::<u64>(), any::<u64>(), data).prop_map(|(entry_type, term, index, data)| {
        raftpb::Entry { r#type: entry_type, term: Some(term), index: Some(index), data: data.map(Bytes::from) }
    })
}

fn any_message() -> impl Strategy<Value = raftpb::Message> {
    let small = || proptest::option::of(0..4u64);
    let entries = proptest::collection::vec(any_entry(), 0..5);
    (0..24i32, small(), small(), small(), small(), entries, small(), proptest::option::of(any::<bool>())).prop_map(
        |(message_type, term, log_term, index, reject_hint, entries, commit, reject)| raftpb::Message {
            r#type: Some(message_type),
            to: Some(A.0),
            from: Some(B.0),
            term,
            log_term,
            index,
            entries,
            commit,
            reject,
            reject_hint,
            ..Default::default()
        },
    )
}

/// A leader's stream: appends that mostly follow each other.
fn any_appends() -> impl Strategy<Value = Vec<raftpb::Message>> {
    proptest::collection::vec((0..4u64, 0..4usize, proptest::bool::weighted(0.8), 1..3u64), 1..20).prop_map(|steps| {
        let (mut term, mut index) = (1, 0);
        let mut messages = Vec::new();
        for (jump, count, follows, new_term) in steps {
            if !follows {
                index = jump;
            }
            let log_term = term;
            term = term.max(new_term);
            let entries = (0..count as u64).map(|nth| entry(term, index + nth + 1, b"data")).collect();
            messages.push(append(term, log_term, index, entries, index));
            index += count as u64;
        }
        messages
    })
}

/// Absent numbers and zeros are the same to Raft; a msgapp frame of entries turns one into the other.
fn normal(message: &raftpb::Message) -> raftpb::Message {
    raftpb::Message {
        term: Some(message.term()),
        log_term: Some(message.log_term()),
        index: Some(message.index()),
        commit: Some(message.commit()),
        reject: Some(message.reject()),
        reject_hint: Some(message.reject_hint()),
        ..message.clone()
    }
}

fn normal_messages(frames: &[Frame]) -> Vec<raftpb::Message> {
    let messages = frames.iter().map(|frame| match frame {
        Frame::Message(message) => normal(message),
        Frame::LinkHeartbeat => panic!("none was written"),
    });
    messages.collect()
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back(
        messages in proptest::collection::vec(any_message(), 0..8),
        piece_bytes in 1..300usize,
    ) {
        for kind in [StreamKind::Message, StreamKind::MsgApp] {
            let frames = decoded(kind, &encoded(kind, &messages), piece_bytes).unwrap();
            prop_assert_eq!(normal_messages(&frames), messages.iter().map(normal).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_leaders_stream_is_read_back(messages in any_appends(), piece_bytes in 1..50usize) {
        let frames = decoded(StreamKind::MsgApp, &encoded(StreamKind::MsgApp, &messages), piece_bytes).unwrap();
        prop_assert_eq!(normal_messages(&frames), messages.iter().map(normal).collect::<Vec<_>>());
    }

    #[test]
    fn every_truncation_gives_the_frames_before_it_and_is_noticed(messages in any_appends()) {
        for kind in [StreamKind::Message, StreamKind::MsgApp] {
            let ends: Vec<_> = (0..=messages.len()).map(|count| encoded(kind, &messages[..count]).len()).collect();
            let whole = encoded(kind, &messages);
            for cut in 0..whole.len() {
                let mut decoder = Decoder::new(kind, A, B, limits());
                decoder.push(Bytes::copy_from_slice(&whole[..cut]));
                let mut count = 0;
                while decoder.next_frame().unwrap().is_some() {
                    count += 1;
                }
                prop_assert_eq!(count, ends.iter().filter(|end| **end <= cut).count() - 1);
                prop_assert_eq!(decoder.finish().is_ok(), ends.contains(&cut));
            }
        }
    }

    #[test]
    fn garbage_never_panics(input in proptest::collection::vec(any::<u8>(), 0..400), piece_bytes in 1..100usize) {
        for kind in [StreamKind::Message, StreamKind::MsgApp] {
            let _ = decoded(kind, &input, piece_bytes);
        }
        let _ = decode_message(input.into(), &limits());
    }

    #[test]
    fn a_changed_stream_never_panics(messages in any_appends(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for kind in [StreamKind::Message, StreamKind::MsgApp] {
            let mut written = encoded(kind, &messages);
            let at = at.index(written.len());
            written[at] = byte;
            let _ = decoded(kind, &written, 64);
        }
    }
}
