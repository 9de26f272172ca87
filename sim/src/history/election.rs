//! What clients asked of the election service, and were told.

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb::ResponseHeader;
use quorate_proto::v3electionpb as pb;

use super::{Operation, Outcome, Recorded, Request, Service, queue};
use crate::world::clock::SimTime;

/// A call of the election service that has one answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ElectionRequest {
    /// Campaign.
    Campaign(pb::CampaignRequest),
    /// Proclaim.
    Proclaim(pb::ProclaimRequest),
    /// Leader.
    Leader(pb::LeaderRequest),
    /// Resign.
    Resign(pb::ResignRequest),
}

/// What it returned.
#[derive(Clone, Debug, PartialEq)]
pub enum ElectionAnswer {
    /// To a Campaign.
    Campaign(pb::CampaignResponse),
    /// To a Proclaim.
    Proclaim(pb::ProclaimResponse),
    /// To a Leader.
    Leader(pb::LeaderResponse),
    /// To a Resign.
    Resign(pb::ResignResponse),
}

/// Said to who asks for the leader of an election that has none. It promises that nothing was changed, and so does the next.
pub const NO_LEADER: &str = "election: no leader";
/// Said to who proclaims by a key that is gone.
pub const NOT_LEADER: &str = "election: not leader";

/// One call.
pub type ElectionCall = Operation<ElectionRequest, ElectionAnswer>;

impl ElectionCall {
    /// What it may have written, each once at most.
    pub fn writes(&self) -> Vec<Request> {
        if matches!(self.outcome, Outcome::Refused { .. }) {
            return Vec::new();
        }
        match &self.request {
            ElectionRequest::Campaign(asked) => {
                let key = queue::key(&asked.name, asked.lease);
                let mut writes = vec![
                    queue::enter(&key, &asked.value, asked.lease),
                    queue::replace(&key, None, &asked.value, asked.lease),
                ];
                if self.answer().is_none() {
                    writes.push(queue::leave(&key));
                }
                writes
            }
            ElectionRequest::Proclaim(asked) => {
                let put =
                    |leader: &pb::LeaderKey| queue::replace(&leader.key, Some(leader.rev), &asked.value, leader.lease);
                asked.leader.iter().map(put).collect()
            }
            ElectionRequest::Resign(asked) => asked.leader.iter().map(|leader| queue::leave(&leader.key)).collect(),
            ElectionRequest::Leader(_) => Vec::new(),
        }
    }
}

impl ElectionAnswer {
    /// The store's revision as the header tells it; 0 without a header.
    pub fn revision(&self) -> i64 {
        let header = match self {
            ElectionAnswer::Campaign(answer) => &answer.header,
            ElectionAnswer::Proclaim(answer) => &answer.header,
            ElectionAnswer::Leader(answer) => &answer.header,
            ElectionAnswer::Resign(answer) => &answer.header,
        };
        revision(header.as_ref())
    }
}

/// The revision of a header.
pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

impl Service for ElectionRequest {
    type Answer = ElectionAnswer;
    const NUMBER: u64 = 4;

    fn calls(recorded: &mut Recorded) -> &mut Vec<ElectionCall> {
        &mut recorded.elections
    }

    fn encoded(answer: &ElectionAnswer) -> Vec<u8> {
        match answer {
            ElectionAnswer::Campaign(answer) => answer.encode_to_vec(),
            ElectionAnswer::Proclaim(answer) => answer.encode_to_vec(),
            ElectionAnswer::Leader(answer) => answer.encode_to_vec(),
            ElectionAnswer::Resign(answer) => answer.encode_to_vec(),
        }
    }
}

/// A call of Observe.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Who observes.
    pub client: u64,
    /// Which election.
    pub name: Bytes,
    /// Since when.
    pub start: SimTime,
    /// What was told, and when.
    pub told: Vec<(SimTime, pb::LeaderResponse)>,
}
