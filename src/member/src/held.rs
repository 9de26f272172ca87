//! Proposals that Raft cannot take just now.
//!
//! There is no leader, or leadership is being handed over, or a change of members is under way and this is the next: a moment
//! later all is well, mostly, and nobody should notice. So nothing is refused. What is proposed here waits until its time runs
//! out; what other members passed on to us as their leader waits as well, because its proposer hears nothing of a refusal and
//! would wait to the end of its patience.
//!
//! Requests keep their order, and so do changes of members. Between the two there is none, as little as between two clients.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_proto::raftpb;
use quorate_runtime::clock::MonoTime;
use quorate_types::{Error, MemberId, Term};

use crate::shared::{Payload, Proposal, Waiter};

/// Requests in one batch, and their bytes: what one write and one sync carry.
const BATCH_REQUESTS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Messages of other members that are kept, and their bytes. What is beyond is dropped, as Raft allows.
const FORWARDED_MESSAGES_MAX: usize = 4096;
const FORWARDED_BYTES_MAX: usize = 16 << 20;

/// What waits.
#[derive(Debug, Default)]
pub struct Held {
    requests: VecDeque<(Bytes, Waiter)>,
    request_bytes: usize,
    /// Some of the requests may be for one term only.
    has_bound: bool,
    changes: VecDeque<HeldChange>,
    /// Proposals of other members without a change of members, and until when they are of use.
    forwarded: VecDeque<(MonoTime, raftpb::Message)>,
    /// Bytes of all that other members sent.
    forwarded_bytes: usize,
}

/// A change of members that waits for its turn.
#[derive(Debug)]
pub struct HeldChange {
    pub change: Change,
    pub deadline: MonoTime,
}

/// Who wants a change.
#[derive(Debug)]
pub enum Change {
    /// A caller here.
    Ours(Box<raftpb::ConfChange>, Waiter),
    /// Another member, in a message that holds nothing else.
    Forwarded(Box<raftpb::Message>),
}

impl HeldChange {
    /// True if `id` is to be removed.
    pub fn removes(&self, id: MemberId) -> bool {
        let removes = |change: &raftpb::ConfChange| {
            change.r#type() == raftpb::ConfChangeType::ConfChangeRemoveNode && change.node_id() == id.0
        };
        match &self.change {
            Change::Ours(change, _) => removes(change),
            Change::Forwarded(message) => message.entries.iter().filter_map(conf_change).any(|change| removes(&change)),
        }
    }
}

/// True if some entry is a change of members.
pub fn changes_members(message: &raftpb::Message) -> bool {
    message.entries.iter().any(|entry| entry.r#type() == raftpb::EntryType::EntryConfChange)
}

fn conf_change(entry: &raftpb::Entry) -> Option<raftpb::ConfChange> {
    use prost::Message as _;
    let is_change = entry.r#type() == raftpb::EntryType::EntryConfChange;
    is_change.then(|| raftpb::ConfChange::decode(entry.data()).ok()).flatten()
}

fn weight_bytes(message: &raftpb::Message) -> usize {
    size_of::<raftpb::Message>()
        + message.entries.iter().map(|entry| size_of::<raftpb::Entry>() + entry.data().len()).sum::<usize>()
}

impl Held {
    /// A batch is not full yet.
    pub fn has_room(&self) -> bool {
        self.requests.len() < BATCH_REQUESTS_MAX && self.request_bytes < BATCH_BYTES_MAX
    }

    /// Takes a proposal in.
    pub fn hold(&mut self, proposal: Proposal) {
        let Proposal { payload, waiter } = proposal;
        match payload {
            Payload::Request(data) => {
                self.request_bytes += data.len();
                self.has_bound |= waiter.only_in.is_some();
                self.requests.push_back((data, waiter));
            }
            Payload::ConfChange(change) => {
                let deadline = waiter.deadline;
                let change = Change::Ours(change, waiter);
                self.changes.push_back(HeldChange { change, deadline });
            }
        }
    }

    /// Takes in what another member sent to be proposed. Drops it if there is too much already.
    pub fn hold_forwarded(&mut self, message: raftpb::Message, deadline: MonoTime) {
        let bytes = weight_bytes(&message);
        if self.forwarded.len() + self.changes.len() >= FORWARDED_MESSAGES_MAX
            || self.forwarded_bytes + bytes > FORWARDED_BYTES_MAX
        {
            tracing::debug!(from = %MemberId(message.from()), "dropped a proposal that another member passed on: too many wait");
            return;
        }
        self.forwarded_bytes += bytes;
        if changes_members(&message) {
            self.changes.push_back(HeldChange { change: Change::Forwarded(Box::new(message)), deadline });
        } else {
            self.forwarded.push_back((deadline, message));
        }
    }

    /// Refuses what must not be proposed any more: this member leads in this term, or in none.
    pub fn refuse_other_terms(&mut self, leads_in: Option<Term>) {
        if !std::mem::take(&mut self.has_bound) {
            return;
        }
        for (data, waiter) in std::mem::take(&mut self.requests) {
            if waiter.only_in.is_none() || waiter.only_in == leads_in {
                self.has_bound |= waiter.only_in.is_some();
                self.requests.push_back((data, waiter));
            } else {
                self.request_bytes -= data.len();
                fail(waiter, Error::NotLeader);
            }
        }
    }

    /// The requests that wait, in order.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = Bytes> {
        self.requests.iter().map(|(data, _)| data.clone())
    }

    /// They are proposed: only their waiters are still of interest.
    pub fn take_waiters(&mut self) -> Vec<Waiter> {
        self.request_bytes = 0;
        self.requests.drain(..).map(|(_, waiter)| waiter).collect()
    }

    /// The next change of members.
    pub fn next_change(&self) -> Option<&HeldChange> {
        self.changes.front()
    }

    /// It is proposed.
    pub fn take_change(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?.change;
        if let Change::Forwarded(message) = &change {
            self.forwarded_bytes -= weight_bytes(message);
        }
        Some(change)
    }

    /// The next message of another member.
    pub fn take_forwarded(&mut self) -> Option<raftpb::Message> {
        let (_, message) = self.forwarded.pop_front()?;
        self.forwarded_bytes -= weight_bytes(&message);
        Some(message)
    }

    /// Answers those whose time has run out, and counts them.
    pub fn expire(&mut self, now: MonoTime) -> usize {
        let mut count = 0;
        while self.requests.front().is_some_and(|(_, waiter)| waiter.deadline <= now) {
            let (data, waiter) = self.requests.pop_front().expect("just seen");
            self.request_bytes -= data.len();
            count += fail(waiter, Error::ContextDeadlineExceeded);
        }
        while self.changes.front().is_some_and(|held| held.deadline <= now) {
            if let Some(Change::Ours(_, waiter)) = self.take_change() {
                count += fail(waiter, Error::Timeout);
            }
        }
        while self.forwarded.front().is_some_and(|(deadline, _)| *deadline <= now) {
            self.take_forwarded();
        }
        count
    }

    /// Nothing of this will ever be proposed.
    pub fn fail_all(&mut self, error: Error) {
        for waiter in self.take_waiters() {
            fail(waiter, error);
        }
        while let Some(change) = self.take_change() {
            if let Change::Ours(_, waiter) = change {
                fail(waiter, error);
            }
        }
        while self.take_forwarded().is_some() {}
    }
}

fn fail(waiter: Waiter, error: Error) -> usize {
    // A caller that went away does not want its answer.
    let _ = waiter.reply.send(error.into());
    1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use quorate_proto::raftpb::ConfChangeType;
    use quorate_runtime::sync::oneshot;

    use super::*;
    use crate::shared::Answered;

    type Answer = oneshot::Receiver<Answered>;

    fn at(secs: u64) -> MonoTime {
        MonoTime::from_nanos(0) + Duration::from_secs(secs)
    }

    fn proposal(payload: Payload, deadline: MonoTime) -> (Proposal, Answer) {
        let (reply, answer) = oneshot::channel();
        (Proposal { payload, waiter: Waiter { request_id: 1, deadline, only_in: None, reactor: 0, reply } }, answer)
    }

    fn request(bytes: usize, deadline: MonoTime) -> (Proposal, Answer) {
        proposal(Payload::Request(vec![0; bytes].into()), deadline)
    }

    fn removal(id: u64) -> raftpb::ConfChange {
        let change_type = Some(ConfChangeType::ConfChangeRemoveNode as i32);
        raftpb::ConfChange { r#type: change_type, node_id: Some(id), ..Default::default() }
    }

    fn forwarded(data: Bytes, entry_type: raftpb::EntryType) -> raftpb::Message {
        let entry = raftpb::Entry { r#type: Some(entry_type as i32), data: Some(data), ..Default::default() };
        raftpb::Message { from: Some(2), entries: vec![entry], ..Default::default() }
    }

    fn forwarded_request(bytes: usize) -> raftpb::Message {
        forwarded(vec![0; bytes].into(), raftpb::EntryType::EntryNormal)
    }

    #[test]
    fn a_batch_has_limits_and_keeps_its_order() {
        let mut held = Held::default();
        for _ in 0..BATCH_REQUESTS_MAX {
            assert!(held.has_room());
            held.hold(request(1, at(1)).0);
        }
        assert!(!held.has_room());
        assert_eq!(held.take_waiters().len(), BATCH_REQUESTS_MAX);
        assert!(held.has_room() && held.requests().len() == 0);
        held.hold(request(BATCH_BYTES_MAX - 1, at(1)).0);
        assert!(held.has_room());
        held.hold(request(1, at(1)).0);
        assert!(!held.has_room());
        assert_eq!(held.requests().map(|data| data.len()).collect::<Vec<_>>(), [BATCH_BYTES_MAX - 1, 1]);
    }

    #[test]
    fn who_waited_too_long_is_told_and_the_others_stay() {
        let mut held = Held::default();
        let (first, mut first_answer) = request(1, at(1));
        let (second, mut second_answer) = request(2, at(3));
        let (change, mut change_answer) = proposal(Payload::ConfChange(Box::new(removal(7))), at(2));
        held.hold(first);
        held.hold(second);
        held.hold(change);
        held.hold_forwarded(forwarded_request(3), at(2));
        assert_eq!(held.expire(at(2)), 2);
        assert_eq!(first_answer.try_recv(), Ok(Error::ContextDeadlineExceeded.into()));
        assert_eq!(change_answer.try_recv(), Ok(Error::Timeout.into()));
        assert!(second_answer.try_recv().is_err() && held.requests().len() == 1);
        assert!(held.next_change().is_none() && held.take_forwarded().is_none());
        held.fail_all(Error::Stopped);
        assert_eq!(second_answer.try_recv(), Ok(Error::Stopped.into()));
        assert_eq!(held.request_bytes, 0);
    }

    #[test]
    fn what_is_for_one_term_is_not_proposed_in_another() {
        let mut held = Held::default();
        let mut answers = Vec::new();
        for (bytes, only_in) in [(1, None), (2, Some(Term(4))), (3, Some(Term(5)))] {
            let (mut proposal, answer) = request(bytes, at(9));
            proposal.waiter.only_in = only_in;
            held.hold(proposal);
            answers.push(answer);
        }
        held.refuse_other_terms(Some(Term(5)));
        assert_eq!(held.requests().map(|data| data.len()).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(answers[1].try_recv(), Ok(Error::NotLeader.into()));
        held.refuse_other_terms(None);
        assert_eq!(held.requests().map(|data| data.len()).collect::<Vec<_>>(), [1]);
        assert_eq!((held.request_bytes, held.has_bound), (1, false));
    }

    #[test]
    fn what_others_pass_on_is_bounded() {
        let mut held = Held::default();
        let large = || forwarded_request(FORWARDED_BYTES_MAX / 3);
        for _ in 0..4 {
            held.hold_forwarded(large(), at(9));
        }
        let kept = std::iter::from_fn(|| held.take_forwarded()).count();
        assert_eq!((kept, held.forwarded_bytes), (2, 0));
        for _ in 0..=FORWARDED_MESSAGES_MAX {
            held.hold_forwarded(forwarded_request(1), at(9));
        }
        assert_eq!(held.forwarded.len(), FORWARDED_MESSAGES_MAX);
    }

    #[test]
    fn changes_wait_apart_and_say_whom_they_remove() {
        let mut held = Held::default();
        held.hold(proposal(Payload::ConfChange(Box::new(removal(7))), at(9)).0);
        let data = removal(8).encode_to_vec().into();
        held.hold_forwarded(forwarded(data, raftpb::EntryType::EntryConfChange), at(9));
        assert!(held.requests().len() == 0 && held.take_forwarded().is_none());
        for id in [7, 8] {
            let change = held.next_change().unwrap();
            assert!(change.removes(MemberId(id)) && !change.removes(MemberId(15 - id)));
            held.take_change().unwrap();
        }
        assert!(held.next_change().is_none() && held.forwarded_bytes == 0);
    }
}
