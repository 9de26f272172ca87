//! Renewals and questions at a member that does not count: the leader is asked, at its peer port, as `POST /leases` and `POST
//! /leases/internal`.
//!
//! Nobody knows the leader during an election; then, and when it does not answer, it is tried again until the request's time
//! is over. What the leader says of the lease is the answer.
//!
//! Source: etcd `server/lease/leasehttp/http.go`, `server/etcdserver/v3_server.go`.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prost::Message as _;
use quorate_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest};
use quorate_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use quorate_runtime::mark;
use quorate_types::{Error, LeaseId};

use super::{TimeToLive, pause};
use crate::Member;

/// Where the leader renews.
const RENEW: &str = "/leases";
/// Where it says what is left.
const WHAT_IS_LEFT: &str = "/leases/internal";

/// What the leader answers on its peer port: a status and a text, which members of every version understand alike.
pub struct PeerAnswer;

impl PeerAnswer {
    /// There is no such lease (status 404).
    pub const NOT_FOUND: &'static str = "lease not found";
    /// It has not applied what was committed within [`PeerAnswer::LIMIT`] (408).
    pub const BEHIND: &'static str = "waiting for node to catch up its applied index has timed out";
    /// The time that it has for that.
    pub const LIMIT: Duration = Duration::from_secs(1);
}

impl Member {
    /// Does it `here` if this member leads, or asks the leader `there`, each time for a part of the request's time: one that
    /// is dead must leave some for its successor.
    pub(super) async fn at_leader<T, Here, There>(
        &self,
        mut here: impl FnMut() -> Here,
        mut there: impl FnMut(Duration) -> There,
    ) -> Result<T, Error>
    where
        Here: Future<Output = Result<T, Error>>,
        There: Future<Output = Option<Result<T, Error>>>,
    {
        let rt = self.runtime();
        let deadline = rt.mono_now() + self.config().request_timeout();
        loop {
            if self.is_stopping() {
                return Err(Error::Stopped);
            }
            let leads_in = self.inner.published.leads_in();
            if leads_in.is_some() {
                match here().await {
                    // Deposed while it was asked: the new leader knows.
                    Err(Error::NotPrimary) if self.inner.published.leads_in() != leads_in => {}
                    answer => return answer,
                }
            } else {
                let left = deadline.max(rt.mono_now()) - rt.mono_now();
                if let Some(answer) = there(left.min(self.config().peer_dial_timeout())).await {
                    return answer;
                }
            }
            if rt.mono_now() >= deadline {
                // Nobody could be asked; or who was asked did not answer.
                return Err(if self.raft_status().leader.is_none() { Error::NoLeader } else { Error::Timeout });
            }
            pause(rt).await;
        }
    }

    pub(super) async fn ask_to_renew(&self, id: LeaseId, limit: Duration) -> Option<Result<i64, Error>> {
        let question = LeaseKeepAliveRequest { id: id.0 }.encode_to_vec();
        let answer = self.ask_leader(RENEW, question.into(), limit).await?;
        // 0 is what an answer without a time reads as; no lease has that.
        let ttl = answer.map(|body| LeaseKeepAliveResponse::decode(body).ok().map(|answer| answer.ttl));
        ttl.transpose()
    }

    pub(super) async fn ask_what_is_left(
        &self,
        id: LeaseId,
        keys: bool,
        limit: Duration,
    ) -> Option<Result<TimeToLive, Error>> {
        let question =
            LeaseInternalRequest { lease_time_to_live_request: Some(LeaseTimeToLiveRequest { id: id.0, keys }) };
        let answer = self.ask_leader(WHAT_IS_LEFT, question.encode_to_vec().into(), limit).await?;
        let left = answer.map(|body| {
            let answer = LeaseInternalResponse::decode(body).ok()?.lease_time_to_live_response?;
            Some(TimeToLive { granted_secs: answer.granted_ttl, left_secs: answer.ttl.max(0), keys: answer.keys })
        });
        left.transpose()
    }

    /// `None` if there was no answer that says anything about the lease: another try may help.
    async fn ask_leader(&self, path: &'static str, question: Bytes, limit: Duration) -> Option<Result<Bytes, Error>> {
        let leader = self.raft_status().leader?;
        let view = self.view();
        let leader = view.members().iter().find(|member| member.id == leader)?;
        for url in &leader.peer_urls {
            let asked = self.inner.leader_lines.ask(self.runtime(), url, path, question.clone(), limit);
            match asked.await {
                Ok((StatusCode::OK, body)) => {
                    mark!("leader_asked_about_a_lease");
                    return Some(Ok(body));
                }
                Ok((StatusCode::NOT_FOUND, body)) if says(&body, PeerAnswer::NOT_FOUND) => {
                    return Some(Err(Error::LeaseNotFound));
                }
                Ok((status, body)) => tracing::debug!(
                    address = url,
                    status = status.as_u16(),
                    answer = %String::from_utf8_lossy(&body).trim(),
                    "the leader did not answer about a lease; trying again"
                ),
                Err(error) => {
                    tracing::debug!(address = url, error = %error, "the leader cannot be asked about a lease; trying again")
                }
            }
        }
        None
    }
}

fn says(body: &[u8], text: &str) -> bool {
    body.trim_ascii() == text.as_bytes()
}
