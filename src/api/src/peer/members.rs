//! What members tell each other of who they are, and a promotion that only the leader can make.
//!
//! Source: etcd `server/etcdserver/api/etcdhttp/peer.go`.

use bytes::Bytes;
use http::{Response, StatusCode};
use quorate_member::{Member, refusal_text};
use quorate_store::Member as StoredMember;
use quorate_types::{Error, MemberId};
use serde::Serialize;

use crate::ApiBody;
use crate::plain::{JSON, error, respond};

/// Before the id of whom to promote.
pub const PROMOTE: &str = "/members/promote/";

/// A member in the words of `/members`; what is empty is left out, as in etcd.
#[derive(Serialize)]
struct Shown<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

/// All members, numbers in decimal.
pub fn answer(members: &[StoredMember]) -> Response<ApiBody> {
    let members: Vec<_> = members
        .iter()
        .map(|member| Shown {
            id: member.id.0,
            peer_urls: &member.peer_urls,
            is_learner: member.is_learner,
            name: &member.name,
            client_urls: &member.client_urls,
        })
        .collect();
    let members = serde_json::to_string(&members).expect("plain texts and numbers");
    respond(StatusCode::OK, JSON, Bytes::from(format!("{members}\n")))
}

/// Promotes; `id` is the rest of the path.
pub async fn promote(member: &Member, id: &str) -> Response<ApiBody> {
    // Go's ParseUint takes no sign.
    let Some(id) = id.parse().ok().filter(|_| !id.starts_with('+')).map(MemberId) else {
        return error(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster"));
    };
    let failure = match member.promote_member(id).await {
        Ok(members) => return answer(&members),
        Err(failure) => failure,
    };
    tracing::warn!(member_id = %id, error = %failure, "failed to promote a member");
    match failure {
        Error::MemberNotFound => error(StatusCode::NOT_FOUND, refusal_text(failure)),
        Error::MemberNotLearner | Error::LearnerNotReady => {
            error(StatusCode::PRECONDITION_FAILED, refusal_text(failure))
        }
        _ => {
            let body = br#"{"message":"Internal Server Error"}"#;
            respond(StatusCode::INTERNAL_SERVER_ERROR, JSON, Bytes::from_static(body))
        }
    }
}
