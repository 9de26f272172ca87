//! What this member promises to others in messages of Raft, told to the simulator as they go out (see
//! [`quorate_runtime::witness`]): a vote given, entries confirmed. All of it must still be known after a crash.

use quorate_proto::raftpb;
use quorate_runtime::witness;

/// Tells what `message` promises.
pub fn testify(message: &raftpb::Message) {
    use raftpb::MessageType;
    let (own, term) = (message.from(), message.term());
    match message.r#type() {
        MessageType::MsgVote => witness::votes(own, term, own),
        MessageType::MsgVoteResp if !message.reject() => witness::votes(own, term, message.to()),
        MessageType::MsgAppResp if !message.reject() => witness::confirms(own, term, message.index()),
        _ => {}
    }
}
