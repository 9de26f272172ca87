//! A promotion that is asked of a member that does not lead.
//!
//! Only the leader knows how far a learner is. So the others pass the question on, as `POST /members/promote/<id>` to one of
//! the leader's peer URLs, and pass on what it says. Nobody knows the leader during an election; then, and when it does not
//! answer, the question is asked again until the request's time is over.
//!
//! Source: etcd `server/etcdserver/server.go` (`PromoteMember`), `cluster_util.go` (`promoteMemberHTTP`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use quorate_runtime::clock::MonoTime;
use quorate_store::Member as StoredMember;
use quorate_types::{Error, MemberId};

use crate::{Member, peer_http};

/// Pause before asking again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The text of a refusal as members tell it to each other, and as the metric of failed promotions counts it: for the
/// membership's own errors another one than clients see.
pub fn refusal_text(error: Error) -> &'static str {
    match error {
        Error::MemberNotFound => "membership: ID not found",
        Error::MemberNotLearner => "membership: can only promote a learner member",
        other => other.message(),
    }
}

impl Member {
    /// Makes a voter of a learner that has caught up. Returns all members.
    ///
    /// # Errors
    /// It is no learner, or not far enough; or as of [`Member::add_member`].
    pub async fn promote_member(&self, id: MemberId) -> Result<Vec<StoredMember>, Error> {
        match self.promote_here(id).await {
            Ok(members) => {
                self.metrics().promotions.inc();
                Ok(members)
            }
            Err(Error::NotLeader) => self.promote_at_leader(id).await,
            Err(error) => {
                self.metrics().promotions_failed.with_label_values(&[refusal_text(error)]).inc();
                Err(error)
            }
        }
    }

    async fn promote_at_leader(&self, id: MemberId) -> Result<Vec<StoredMember>, Error> {
        let rt = self.runtime();
        let deadline = rt.mono_now() + self.config().request_timeout();
        loop {
            if self.is_stopping() {
                return Err(Error::Stopped);
            }
            let leader = self.raft_status().leader;
            let now = rt.mono_now();
            if now >= deadline {
                return Err(if leader.is_some() { Error::Timeout } else { Error::NoLeader });
            }
            let leader_urls = |leader| {
                let view = self.view();
                let member = view.members().iter().find(|member| Some(member.id) == leader);
                member.map(|member| member.peer_urls.clone()).unwrap_or_default()
            };
            match leader {
                // Elected while we asked.
                Some(leader) if leader == self.id() => match self.promote_here(id).await {
                    Err(Error::NotLeader) => {}
                    other => return other,
                },
                leader => {
                    for url in leader_urls(leader) {
                        if let Some(answer) = self.ask_to_promote(&url, id, deadline).await {
                            return answer;
                        }
                    }
                }
            }
            rt.sleep(RETRY_AFTER).await;
        }
    }

    /// `None` if the answer says nothing about the promotion: another try may help.
    async fn ask_to_promote(
        &self,
        url: &str,
        id: MemberId,
        deadline: MonoTime,
    ) -> Option<Result<Vec<StoredMember>, Error>> {
        let rt = self.runtime();
        let path = format!("/members/promote/{}", id.0);
        let limit = deadline - rt.mono_now();
        let answer = peer_http::call(rt, url, Method::POST, &path, HeaderMap::new(), Bytes::new(), limit).await;
        let (status, body) = match answer {
            Ok((status, _, body)) => (status, body),
            Err(error) => {
                tracing::warn!(error = %error, "the leader cannot be asked for a promotion; trying again");
                return None;
            }
        };
        let understood = understand(status, &body);
        if understood.is_none() {
            tracing::warn!(
                address = url,
                status = status.as_u16(),
                answer = %String::from_utf8_lossy(&body).trim(),
                "the leader did not promote; trying again"
            );
        }
        understood
    }
}

fn understand(status: StatusCode, body: &[u8]) -> Option<Result<Vec<StoredMember>, Error>> {
    match status {
        StatusCode::OK => serde_json::from_slice(body).ok().map(Ok),
        StatusCode::NOT_FOUND => Some(Err(Error::MemberNotFound)),
        StatusCode::PRECONDITION_FAILED => {
            let text = String::from_utf8_lossy(body);
            let refusals = [Error::LearnerNotReady, Error::MemberNotLearner];
            refusals.into_iter().find(|error| text.contains(refusal_text(*error))).map(Err)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_leader_are_understood() {
        let error = |status: u16, body: &str| {
            understand(StatusCode::from_u16(status).unwrap(), body.as_bytes()).map(|answer| answer.unwrap_err())
        };
        assert_eq!(error(404, "membership: ID not found\n"), Some(Error::MemberNotFound));
        assert_eq!(error(412, "membership: can only promote a learner member\n"), Some(Error::MemberNotLearner));
        let not_ready = "etcdserver: can only promote a learner member which is in sync with leader\n";
        assert_eq!(error(412, not_ready), Some(Error::LearnerNotReady));
        assert_eq!(error(412, "cluster ID mismatch\n"), None);
        assert_eq!(error(408, ""), None);
        assert_eq!(error(500, "{\"message\":\"Internal Server Error\"}"), None);
        assert_eq!(error(200, "no json"), None);
        let members =
            understand(StatusCode::OK, br#"[{"id":7,"peerURLs":["http://a:1"],"name":"m"}]"#).unwrap().unwrap();
        assert_eq!((members.len(), members[0].id, members[0].is_learner), (1, MemberId(7), false));
    }
}
