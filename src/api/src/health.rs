//! `/health`: alarms, then the leader, then a read.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use quorate_proto::etcdserverpb::{AlarmMember, AlarmType, RangeRequest};
use tonic::Status;

use crate::body::ApiBody;
use crate::errors::status;
use crate::plain::{self, query};
use crate::service::Api;

/// The answer of `/health`. `exclude=NOSPACE` (or `CORRUPT`) overlooks an alarm, `serializable=true` asks for this member
/// alone.
pub async fn answer(api: &Api, uri: &Uri) -> Response<ApiBody> {
    let excluded: BTreeSet<String> = query(uri, "exclude").collect();
    let serializable = query(uri, "serializable").next().as_deref() == Some("true");
    match check(api, &excluded, serializable).await {
        Ok(()) => {
            api.metrics.health_success.inc();
            tracing::debug!(status_code = 200, "/health OK");
            plain::respond(StatusCode::OK, plain::TEXT, Bytes::from(json("true", "")))
        }
        Err(reason) => {
            api.metrics.health_failures.inc();
            let output = json("false", &reason);
            tracing::warn!(output, status_code = 503, "/health error");
            plain::error(StatusCode::SERVICE_UNAVAILABLE, &output)
        }
    }
}

async fn check(api: &Api, excluded: &BTreeSet<String>, serializable: bool) -> Result<(), String> {
    if let Some(reason) = alarm_reason(api.member.view().alarms(), excluded) {
        return Err(reason.to_owned());
    }
    if !serializable && api.member.raft_status().leader.is_none() {
        return Err("RAFT NO LEADER".to_owned());
    }
    read(api, serializable).await.map_err(|failure| format!("RANGE ERROR:{}", failure.message()))
}

/// Reads something.
pub async fn read(api: &Api, serializable: bool) -> Result<(), Status> {
    if !serializable {
        api.member.linearize().await.map_err(status)?;
    }
    let first_key = RangeRequest { key: Bytes::from_static(b"\0"), limit: 1, keys_only: true, ..Default::default() };
    api.member.view().range(&first_key).map(drop).map_err(|failure| api.read_failed(failure))
}

/// The first alarm that counts.
fn alarm_reason(alarms: &[AlarmMember], excluded: &BTreeSet<String>) -> Option<&'static str> {
    alarms.iter().find_map(|raised| match AlarmType::try_from(raised.alarm) {
        Ok(known) if excluded.contains(known.as_str_name()) => None,
        Ok(AlarmType::Nospace) => Some("ALARM NOSPACE"),
        Ok(AlarmType::Corrupt) => Some("ALARM CORRUPT"),
        Ok(AlarmType::None) | Err(_) => Some("ALARM UNKNOWN"),
    })
}

fn json(health: &str, reason: &str) -> String {
    format!("{{\"health\":{},\"reason\":{}}}", serde_json::Value::from(health), serde_json::Value::from(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_etcds() {
        assert_eq!(json("true", ""), r#"{"health":"true","reason":""}"#);
        assert_eq!(json("false", "ALARM NOSPACE"), r#"{"health":"false","reason":"ALARM NOSPACE"}"#);
        assert_eq!(json("false", "a \"b\""), r#"{"health":"false","reason":"a \"b\""}"#);
    }

    #[test]
    fn an_excluded_alarm_is_overlooked() {
        let raised = |alarm: i32| AlarmMember { member_id: 1, alarm };
        let alarms = [raised(1), raised(2), raised(9)];
        let excluded = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(alarm_reason(&[], &excluded(&[])), None);
        assert_eq!(alarm_reason(&alarms, &excluded(&[])), Some("ALARM NOSPACE"));
        assert_eq!(alarm_reason(&alarms, &excluded(&["NOSPACE"])), Some("ALARM CORRUPT"));
        assert_eq!(alarm_reason(&alarms, &excluded(&["NOSPACE", "CORRUPT"])), Some("ALARM UNKNOWN"));
        assert_eq!(alarm_reason(&alarms[..2], &excluded(&["NOSPACE", "CORRUPT"])), None);
    }
}
