//! What other members ask the leader about leases: to renew one (`/leases`), and what it has left (`/leases/internal`).
//!
//! Source: etcd `server/lease/leasehttp/http.go`.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost::Message;
use quorate_member::{LeasePeerAnswer, Member};
use quorate_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader,
};
use quorate_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use quorate_types::{Error, LeaseId};

use super::QUESTION_BYTES_MAX;
use crate::plain::{error, respond};
use crate::{ApiBody, BoxError};

/// Where a lease is renewed.
pub const RENEW: &str = "/leases";
/// Where it is told what a lease has left.
pub const WHAT_IS_LEFT: &str = "/leases/internal";

const PROTOBUF: &str = "application/protobuf";

/// Answers a question at `path`, which is one of the two.
pub async fn answer<B>(member: &Member, path: &str, request: Request<B>) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if request.method() != Method::POST {
        return error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    }
    let body = match Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(failure) if failure.is::<LengthLimitError>() => {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "error reading body");
        }
        Err(_) => return error(StatusCode::BAD_REQUEST, "error reading body"),
    };
    let answered = if path == RENEW { renew(member, body).await } else { what_is_left(member, body).await };
    match answered {
        Ok(answer) => respond(StatusCode::OK, PROTOBUF, answer.into()),
        Err(refusal) => refusal,
    }
}

async fn renew(member: &Member, question: Bytes) -> Result<Vec<u8>, Response<ApiBody>> {
    let question = LeaseKeepAliveRequest::decode(question).map_err(|_| not_understood())?;
    let renewed = member.renew_lease_here(LeaseId(question.id), LeasePeerAnswer::LIMIT).await;
    let ttl = renewed.map_err(|failure| refuse(failure, StatusCode::BAD_REQUEST))?;
    Ok(LeaseKeepAliveResponse { header: None, id: question.id, ttl }.encode_to_vec())
}

async fn what_is_left(member: &Member, question: Bytes) -> Result<Vec<u8>, Response<ApiBody>> {
    let question = LeaseInternalRequest::decode(question).map_err(|_| not_understood())?;
    let question = question.lease_time_to_live_request.unwrap_or_default();
    let left = member.lease_time_to_live_here(LeaseId(question.id), question.keys, LeasePeerAnswer::LIMIT).await;
    let left = left.map_err(|failure| refuse(failure, StatusCode::INTERNAL_SERVER_ERROR))?;
    let answer = LeaseTimeToLiveResponse {
        header: Some(ResponseHeader::default()),
        id: question.id,
        ttl: left.left_secs,
        granted_ttl: left.granted_secs,
        keys: left.keys,
    };
    Ok(LeaseInternalResponse { lease_time_to_live_response: Some(answer) }.encode_to_vec())
}

fn not_understood() -> Response<ApiBody> {
    error(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

/// `otherwise` is the status of what has none of its own.
fn refuse(failure: Error, otherwise: StatusCode) -> Response<ApiBody> {
    match failure {
        Error::LeaseNotFound => error(StatusCode::NOT_FOUND, LeasePeerAnswer::NOT_FOUND),
        Error::TimeoutWaitAppliedIndex => error(StatusCode::REQUEST_TIMEOUT, LeasePeerAnswer::BEHIND),
        other => error(otherwise, other.message()),
    }
}
