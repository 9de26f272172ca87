//! Between raft-rs and etcd: the only place that knows both.
//!
//! raft-rs decodes the data of a conf-change entry itself, and its `ConfChangeType` numbers are not etcd's (etcd: UpdateNode 2,
//! AddLearnerNode 3; raft-rs: AddLearnerNode 2, and no update). So inside raft-rs a conf-change entry holds raft-rs's form in
//! `data` and etcd's original bytes in `context`; in the log and on the wire only etcd's bytes exist. An etcd UpdateNode
//! changes nothing that Raft knows of: inside it is AddNode for a voter, AddLearnerNode for a learner, both of which leave the
//! configuration as it is.
//!
//! What raft-rs parses is always encoded here from a message that prost decoded, never bytes that came from a peer:
//! rust-protobuf 2.28 recurses without bound on hostile input (RUSTSEC-2024-0437).

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::raftpb;
use raft::eraftpb;

/// An entry that cannot be put into Raft.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The data of a conf-change entry is not a `raftpb.ConfChange`.
    #[error("entry {index}: its data is not a configuration change: {reason}")]
    BadConfChange {
        /// Index of the entry.
        index: u64,
        /// What the decoder said.
        reason: String,
    },
    /// A message type that never travels, or none that is known.
    #[error("message type {message_type} is not one that peers send")]
    UnsupportedMessage {
        /// The number found.
        message_type: i32,
    },
    /// A message lacks what its type cannot do without.
    #[error("a message of type {message_type} from {from:x} has no {missing}")]
    Incomplete {
        /// Its type.
        message_type: i32,
        /// Who sent it.
        from: u64,
        /// What it lacks.
        missing: &'static str,
    },
    /// An entry type that etcd never writes (a joint configuration change), or none that is known.
    #[error("entry {index}: type {entry_type} is not supported: members change one at a time, by ConfChange")]
    UnsupportedType {
        /// Index of the entry.
        index: u64,
        /// The number found.
        entry_type: i32,
    },
}

/// An entry as raft-rs holds it, from one as etcd writes it. `is_learner` tells whether a node is a learner by now.
pub fn entry_to_raft(entry: raftpb::Entry, is_learner: impl Fn(u64) -> bool) -> Result<eraftpb::Entry, WireError> {
    let mut out = eraftpb::Entry::default();
    out.set_term(entry.term.unwrap_or(0));
    out.set_index(entry.index.unwrap_or(0));
    let data = entry.data.unwrap_or_default();
    match entry.r#type.unwrap_or(0) {
        raft_type if raft_type == raftpb::EntryType::EntryNormal as i32 => out.set_data(data),
        raft_type if raft_type == raftpb::EntryType::EntryConfChange as i32 => {
            let change = raftpb::ConfChange::decode(data.clone())
                .map_err(|error| WireError::BadConfChange { index: out.get_index(), reason: error.to_string() })?;
            out.set_entry_type(eraftpb::EntryType::EntryConfChange);
            out.set_data(encode(&conf_change_to_raft(&change, is_learner)));
            out.set_context(data);
        }
        entry_type => return Err(WireError::UnsupportedType { index: out.get_index(), entry_type }),
    }
    Ok(out)
}

/// An entry as etcd writes it, from one as raft-rs holds it. Normal entries carry no type, as etcd 3.7 has it.
pub fn entry_from_raft(entry: &eraftpb::Entry) -> raftpb::Entry {
    let (entry_type, data) = match entry.get_entry_type() {
        // raft-rs puts an empty normal entry in place of a change that it refuses, and begins a term with one.
        eraftpb::EntryType::EntryNormal => (None, entry.data.clone()),
        eraftpb::EntryType::EntryConfChange => (Some(raftpb::EntryType::EntryConfChange as i32), entry.context.clone()),
        eraftpb::EntryType::EntryConfChangeV2 => {
            unreachable!("no joint configuration change is ever proposed or let in")
        }
    };
    raftpb::Entry {
        r#type: entry_type,
        term: Some(entry.get_term()),
        index: Some(entry.get_index()),
        data: (!data.is_empty()).then_some(data),
    }
}

/// A peer's message as raft-rs takes it. What etcd and raft-rs number differently (field 13 and up) is left out; so is a
/// snapshot's data, which nobody reads.
pub fn message_to_raft(
    message: raftpb::Message,
    is_learner: impl Fn(u64) -> bool + Copy,
) -> Result<eraftpb::Message, WireError> {
    use raftpb::MessageType as Type;
    let message_type = message.r#type.unwrap_or(0);
    let from = message.from.unwrap_or(0);
    let incomplete = |missing| WireError::Incomplete { message_type, from, missing };
    let known = Type::try_from(message_type).ok().and_then(type_to_raft);
    let Some(known) = known else { return Err(WireError::UnsupportedMessage { message_type }) };
    let term = message.term.unwrap_or(0);
    // Requests that are passed on to the leader carry no term. In all others raft-rs takes term 0 for a message of its own.
    let is_forwarded = matches!(known, eraftpb::MessageType::MsgPropose | eraftpb::MessageType::MsgReadIndex);
    if term == 0 && !is_forwarded {
        return Err(incomplete("term"));
    }
    if from == 0 {
        return Err(incomplete("sender"));
    }
    if message.entries.is_empty() && is_forwarded {
        return Err(incomplete("entry"));
    }
    let mut out = eraftpb::Message::default();
    out.set_msg_type(known);
    out.set_to(message.to.unwrap_or(0));
    out.set_from(from);
    out.set_term(term);
    out.set_log_term(message.log_term.unwrap_or(0));
    out.set_index(message.index.unwrap_or(0));
    out.set_commit(message.commit.unwrap_or(0));
    out.set_reject(message.reject.unwrap_or(false));
    out.set_reject_hint(message.reject_hint.unwrap_or(0));
    out.set_context(message.context.unwrap_or_default());
    let entries = message.entries.into_iter().map(|entry| entry_to_raft(entry, is_learner));
    out.set_entries(entries.collect::<Result<Vec<_>, _>>()?.into());
    if known == eraftpb::MessageType::MsgSnapshot {
        let metadata =
            message.snapshot.and_then(|snapshot| snapshot.metadata).ok_or(incomplete("snapshot metadata"))?;
        out.set_snapshot(snapshot_to_raft(&metadata));
    }
    Ok(out)
}

/// A message as etcd's peers take it.
///
/// raft-rs fills in more than etcd sends (commit indexes in votes and their answers, priorities); that is left out, so that nobody
/// builds on it where etcd members are among the peers. Only answers to appends tell what is known to be committed: etcd does not
/// look, and our leaders know that members of etcd do not say it.
pub fn message_from_raft(message: eraftpb::Message) -> raftpb::Message {
    use eraftpb::MessageType as Type;
    let message_type = message.get_msg_type();
    let non_zero = |number: u64| (number != 0).then_some(number);
    let tells_commit = matches!(message_type, Type::MsgAppend | Type::MsgAppendResponse | Type::MsgHeartbeat);
    let snapshot = (message_type == Type::MsgSnapshot).then(|| {
        let metadata = message.get_snapshot().get_metadata();
        raftpb::Snapshot { data: None, metadata: Some(snapshot_from_raft(metadata)) }
    });
    raftpb::Message {
        // The numbers are the same.
        r#type: Some(message_type as i32),
        to: Some(message.to),
        from: Some(message.from),
        term: non_zero(message.term),
        log_term: non_zero(message.log_term),
        index: non_zero(message.index),
        entries: message.entries.iter().map(entry_from_raft).collect(),
        commit: if tells_commit { non_zero(message.commit) } else { None },
        snapshot,
        reject: message.reject.then_some(true),
        reject_hint: non_zero(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
        vote: None,
    }
}

/// The types that peers send each other; the numbers are the same on both sides.
fn type_to_raft(message_type: raftpb::MessageType) -> Option<eraftpb::MessageType> {
    use eraftpb::MessageType as Inside;
    use raftpb::MessageType as Type;
    Some(match message_type {
        Type::MsgProp => Inside::MsgPropose,
        Type::MsgApp => Inside::MsgAppend,
        Type::MsgAppResp => Inside::MsgAppendResponse,
        Type::MsgVote => Inside::MsgRequestVote,
        Type::MsgVoteResp => Inside::MsgRequestVoteResponse,
        Type::MsgSnap => Inside::MsgSnapshot,
        Type::MsgHeartbeat => Inside::MsgHeartbeat,
        Type::MsgHeartbeatResp => Inside::MsgHeartbeatResponse,
        Type::MsgTransferLeader => Inside::MsgTransferLeader,
        Type::MsgTimeoutNow => Inside::MsgTimeoutNow,
        Type::MsgReadIndex => Inside::MsgReadIndex,
        Type::MsgReadIndexResp => Inside::MsgReadIndexResp,
        Type::MsgPreVote => Inside::MsgRequestPreVote,
        Type::MsgPreVoteResp => Inside::MsgRequestPreVoteResponse,
        _ => return None,
    })
}

/// Where a snapshot stands, as raft-rs holds it.
pub fn snapshot_to_raft(metadata: &raftpb::SnapshotMetadata) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    let inside = out.mut_metadata();
    inside.set_index(metadata.index.unwrap_or(0));
    inside.set_term(metadata.term.unwrap_or(0));
    inside.set_conf_state(conf_state_to_raft(&metadata.conf_state.clone().unwrap_or_default()));
    out
}

/// Where a snapshot stands, as etcd writes it.
pub fn snapshot_from_raft(metadata: &eraftpb::SnapshotMetadata) -> raftpb::SnapshotMetadata {
    raftpb::SnapshotMetadata {
        conf_state: Some(conf_state_from_raft(metadata.get_conf_state())),
        index: Some(metadata.index),
        term: Some(metadata.term),
    }
}

/// A configuration change as raft-rs understands it.
pub fn conf_change_to_raft(change: &raftpb::ConfChange, is_learner: impl Fn(u64) -> bool) -> eraftpb::ConfChange {
    let node_id = change.node_id.unwrap_or(0);
    let mut out = eraftpb::ConfChange::default();
    out.set_node_id(node_id);
    out.set_change_type(match change.r#type() {
        raftpb::ConfChangeType::ConfChangeAddNode => eraftpb::ConfChangeType::AddNode,
        raftpb::ConfChangeType::ConfChangeRemoveNode => eraftpb::ConfChangeType::RemoveNode,
        raftpb::ConfChangeType::ConfChangeAddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
        raftpb::ConfChangeType::ConfChangeUpdateNode if is_learner(node_id) => eraftpb::ConfChangeType::AddLearnerNode,
        raftpb::ConfChangeType::ConfChangeUpdateNode => eraftpb::ConfChangeType::AddNode,
    });
    out
}

/// A configuration as etcd writes it.
pub fn conf_state_from_raft(state: &eraftpb::ConfState) -> raftpb::ConfState {
    raftpb::ConfState {
        voters: state.get_voters().to_vec(),
        learners: state.get_learners().to_vec(),
        voters_outgoing: state.get_voters_outgoing().to_vec(),
        learners_next: state.get_learners_next().to_vec(),
        auto_leave: Some(state.get_auto_leave()),
    }
}

/// A configuration as raft-rs holds it.
pub fn conf_state_to_raft(state: &raftpb::ConfState) -> eraftpb::ConfState {
    let mut out = eraftpb::ConfState::default();
    out.set_voters(state.voters.clone());
    out.set_learners(state.learners.clone());
    out.set_voters_outgoing(state.voters_outgoing.clone());
    out.set_learners_next(state.learners_next.clone());
    out.set_auto_leave(state.auto_leave.unwrap_or(false));
    out
}

/// Raft's durable variables as etcd writes them.
pub fn hard_state_from_raft(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState { term: Some(state.term), vote: Some(state.vote), commit: Some(state.commit) }
}

/// Raft's durable variables as raft-rs holds them.
pub fn hard_state_to_raft(state: &raftpb::HardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    out.set_term(state.term.unwrap_or(0));
    out.set_vote(state.vote.unwrap_or(0));
    out.set_commit(state.commit.unwrap_or(0));
    out
}

fn encode(message: &impl protobuf::Message) -> Bytes {
    // The message was built here from plain numbers; encoding into memory cannot fail.
    Bytes::from(message.write_to_bytes().expect("encoding into memory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;

    fn conf_change_entry(change_type: raftpb::ConfChangeType, node_id: u64) -> raftpb::Entry {
        let change = raftpb::ConfChange {
            id: Some(7),
            r#type: Some(change_type as i32),
            node_id: Some(node_id),
            context: Some(Bytes::from_static(b"{\"id\":9}")),
        };
        raftpb::Entry {
            r#type: Some(raftpb::EntryType::EntryConfChange as i32),
            term: Some(2),
            index: Some(5),
            data: Some(change.encode_to_vec().into()),
        }
    }

    fn inside(entry: &eraftpb::Entry) -> eraftpb::ConfChange {
        eraftpb::ConfChange::parse_from_bytes(&entry.data).unwrap()
    }

    #[test]
    fn etcd_bytes_come_back_unchanged() {
        for change_type in [
            raftpb::ConfChangeType::ConfChangeAddNode,
            raftpb::ConfChangeType::ConfChangeRemoveNode,
            raftpb::ConfChangeType::ConfChangeUpdateNode,
            raftpb::ConfChangeType::ConfChangeAddLearnerNode,
        ] {
            let entry = conf_change_entry(change_type, 9);
            let inside = entry_to_raft(entry.clone(), |_| false).unwrap();
            assert_eq!(entry_from_raft(&inside), entry);
        }
        let normal =
            raftpb::Entry { r#type: None, term: Some(2), index: Some(6), data: Some(Bytes::from_static(b"x")) };
        assert_eq!(entry_from_raft(&entry_to_raft(normal.clone(), |_| false).unwrap()), normal);
    }

    #[test]
    fn the_four_types_mean_what_etcd_means() {
        use eraftpb::ConfChangeType as Inside;
        use raftpb::ConfChangeType as Etcd;
        let type_inside = |change_type, is_learner: bool| {
            inside(&entry_to_raft(conf_change_entry(change_type, 9), |_| is_learner).unwrap()).get_change_type()
        };
        assert_eq!(type_inside(Etcd::ConfChangeAddNode, false), Inside::AddNode);
        assert_eq!(type_inside(Etcd::ConfChangeRemoveNode, false), Inside::RemoveNode);
        assert_eq!(type_inside(Etcd::ConfChangeAddLearnerNode, false), Inside::AddLearnerNode);
        assert_eq!(type_inside(Etcd::ConfChangeUpdateNode, false), Inside::AddNode);
        assert_eq!(type_inside(Etcd::ConfChangeUpdateNode, true), Inside::AddLearnerNode);
    }

    #[test]
    fn joint_changes_and_garbage_are_refused() {
        let mut entry = conf_change_entry(raftpb::ConfChangeType::ConfChangeAddNode, 9);
        entry.r#type = Some(raftpb::EntryType::EntryConfChangeV2 as i32);
        assert_eq!(
            entry_to_raft(entry.clone(), |_| false),
            Err(WireError::UnsupportedType { index: 5, entry_type: 2 })
        );
        entry.r#type = Some(raftpb::EntryType::EntryConfChange as i32);
        entry.data = Some(Bytes::from_static(b"\xff\xff"));
        assert!(matches!(entry_to_raft(entry, |_| false), Err(WireError::BadConfChange { index: 5, .. })));
    }

    fn append() -> raftpb::Message {
        raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgApp as i32),
            to: Some(1),
            from: Some(2),
            term: Some(3),
            log_term: Some(2),
            index: Some(4),
            entries: vec![conf_change_entry(raftpb::ConfChangeType::ConfChangeAddLearnerNode, 9)],
            commit: Some(4),
            ..Default::default()
        }
    }

    #[test]
    fn a_message_goes_in_and_comes_out_the_same() {
        let snapshot = raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgSnap as i32),
            entries: Vec::new(),
            log_term: None,
            index: None,
            commit: None,
            snapshot: Some(raftpb::Snapshot {
                data: None,
                metadata: Some(raftpb::SnapshotMetadata {
                    conf_state: Some(raftpb::ConfState {
                        voters: vec![1, 2],
                        auto_leave: Some(false),
                        ..Default::default()
                    }),
                    index: Some(7),
                    term: Some(3),
                }),
            }),
            ..append()
        };
        for message in [append(), snapshot] {
            assert_eq!(message_from_raft(message_to_raft(message.clone(), |_| false).unwrap()), message);
        }
    }

    #[test]
    fn what_no_peer_may_send_is_refused() {
        let refused = |message| message_to_raft(message, |_| false).unwrap_err().to_string();
        for message_type in [0, 1, 10, 12, 19, 99] {
            let message = raftpb::Message { r#type: Some(message_type), ..append() };
            assert_eq!(refused(message), format!("message type {message_type} is not one that peers send"));
        }
        let cases = [
            (raftpb::Message { term: None, ..append() }, "term"),
            (raftpb::Message { from: Some(0), ..append() }, "sender"),
            (raftpb::Message { r#type: Some(2), entries: vec![], ..append() }, "entry"),
            (raftpb::Message { r#type: Some(7), entries: vec![], ..append() }, "snapshot metadata"),
        ];
        for (message, missing) in cases {
            assert!(refused(message).ends_with(&format!("has no {missing}")));
        }
    }

    #[test]
    fn votes_carry_no_commit_index() {
        let mut vote = eraftpb::Message::default();
        vote.set_msg_type(eraftpb::MessageType::MsgRequestVote);
        vote.set_term(5);
        vote.set_commit(9);
        assert_eq!(message_from_raft(vote).commit, None);
    }
}
