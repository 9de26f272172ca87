//! Asking each member how late it is: whether it answers, how long that takes, and what its clock says.
//!
//! Every 4 s a GET of `/raft/probing`, on a connection that is kept (4 s, so that the peer's listener does not find it idle
//! for 5). The time of a round trip is smoothed as TCP does it. The difference of the clocks (ours minus theirs) assumes that
//! the answer took half a round trip; an operator is warned when ours is more than a second ahead. The member whose clock is
//! ahead warns; of two that differ that is always one. Nothing else depends on what is found.

use std::str::FromStr as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use quorate_runtime::clock::WallTime;
use quorate_runtime::{Rt, clock};
use quorate_types::GoDuration;

use super::body::RequestBody;
use super::connection::{CallError, Connection};
use super::headers;
use super::peer::Peer;
use super::pipeline::read_text;

/// Time between two probes.
const INTERVAL: Duration = Duration::from_secs(4);
/// Time until the first look at the result, and between looks while the peer does not answer.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// Time between looks while it does.
const LOOK_LATER: Duration = Duration::from_secs(30);
/// More than this is worth a warning.
const DIFFERENCE_MAX_NS: i128 = 1_000_000_000;

/// What probing has found so far.
#[derive(Debug, Default)]
pub struct Probed {
    smoothed: Option<Duration>,
    clock_difference_ns: Option<i128>,
    error: Option<String>,
}

impl Probed {
    /// Smoothed time of a round trip.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Our clock minus the peer's.
    pub fn clock_difference_ns(&self) -> Option<i128> {
        self.clock_difference_ns
    }

    /// The last probe was answered.
    pub fn is_ok(&self) -> bool {
        self.smoothed.is_some() && self.error.is_none()
    }

    /// An answer came at `received`, saying that it was written at `theirs` (nanoseconds since 1970).
    fn record(&mut self, round_trip: Duration, theirs_ns: i128, received: WallTime) {
        let smoothed = self.smoothed.map_or(round_trip, |before| before * 7 / 8 + round_trip / 8);
        let half_ns = i128::try_from(smoothed.as_nanos() / 2).unwrap_or(i128::MAX);
        self.smoothed = Some(smoothed);
        self.clock_difference_ns = Some(i128::from(received.unix_nanos()) - theirs_ns - half_ns);
        self.error = None;
    }
}

/// Probes one peer; runs until dropped.
pub async fn probe(peer: Arc<Peer>) {
    let mut connection = None;
    let rt = peer.rt().clone();
    let mut next_probe = rt.mono_now() + INTERVAL;
    let mut next_look = rt.mono_now() + LOOK_SOON;
    loop {
        rt.sleep_until(next_probe.min(next_look)).await;
        let now = rt.mono_now();
        if now >= next_look {
            next_look = now + look(&peer);
        }
        if now >= next_probe {
            next_probe = now + INTERVAL;
            let result = ask(&peer, &mut connection).await;
            let mut probed = peer.probed.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(answer) => probed.record(answer.round_trip, answer.theirs_ns, answer.received),
                Err(error) => {
                    connection = None;
                    probed.error = Some(error.to_string());
                }
            }
        }
    }
}

struct Answer {
    round_trip: Duration,
    theirs_ns: i128,
    received: WallTime,
}

async fn ask(peer: &Peer, kept: &mut Option<Connection>) -> Result<Answer, CallError> {
    let rt = peer.rt();
    let url = peer.urls.pick().map_err(CallError::Unusable)?;
    let usable = match kept {
        Some(connection) => *connection.url() == url && connection.ready().await,
        None => false,
    };
    if !usable {
        *kept = None;
    }
    let started = rt.mono_now();
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::dial(rt, url.clone(), peer.core().dial_limit()).await?),
    };
    let request = headers::plain_request(Method::GET, &url, super::PATH_PROBING, RequestBody::Empty);
    let limit = peer.core().read_limit();
    let (head, body) = connection.call(rt, request, limit).await?.into_parts();
    let text = connection.drive(clock::timeout(&**rt, limit, read_text(body))).await;
    let text = text.map_err(|_| CallError::Timeout(limit))??;
    let (received, round_trip) = (rt.wall_now(), rt.mono_now().since(started));
    match (head.status, parse_answer(&text)) {
        (StatusCode::OK, Some(theirs_ns)) => Ok(Answer { round_trip, theirs_ns, received }),
        (status, _) => Err(CallError::Refused(format!("answered {status}: {text}"))),
    }
}

/// Tells the operator what there is to tell; how long until the next look.
fn look(peer: &Peer) -> Duration {
    let probed = peer.probed.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(smoothed) = probed.smoothed {
        peer.core().inbox.probed(peer.id(), smoothed);
    }
    let peer = peer.id();
    let round_trip = GoDuration::from(probed.smoothed.unwrap_or_default()).to_string();
    if let Some(warning) = clock_warning(peer, probed.clock_difference_ns) {
        tracing::warn!(%peer, round_trip, "{warning}");
    }
    if probed.is_ok() {
        return LOOK_LATER;
    }
    let error = probed.error.as_deref().unwrap_or("no answer yet");
    tracing::warn!(%peer, round_trip, error, "prober detected unhealthy status");
    LOOK_SOON
}

/// etcd's words (3.4; later releases say the same in fields).
fn clock_warning(peer: quorate_types::MemberId, difference_ns: Option<i128>) -> Option<String> {
    let difference_ns = difference_ns.filter(|difference| *difference > DIFFERENCE_MAX_NS)?;
    let shown = GoDuration { nanos: i64::try_from(difference_ns).unwrap_or(i64::MAX) };
    Some(format!("the clock difference against peer {peer} is too high [{shown} > 1s]"))
}

/// What we answer when we are asked.
pub fn answer(rt: &Rt) -> String {
    let now = i128::from(rt.wall_now().unix_nanos());
    // u64 nanoseconds end in the year 2554; jiff goes to 9999.
    let now = jiff::Timestamp::from_nanosecond(now).unwrap_or(jiff::Timestamp::MAX);
    format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n")
}

/// The peer's clock in nanoseconds since 1970, if the answer says that all is well.
fn parse_answer(text: &str) -> Option<i128> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    if answer.get("OK")?.as_bool()? {
        let now = jiff::Timestamp::from_str(answer.get("Now")?.as_str()?).ok()?;
        return Some(now.as_nanosecond());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_etcd_are_read() {
        let text = "{\"OK\":true,\"Now\":\"2026-11-21T04:12:29.974321956Z\"}\n";
        assert_eq!(parse_answer(text), Some(1_795_234_349_974_321_956));
        let zoned = "{\"OK\":true,\"Now\":\"2026-11-21T05:12:29.974321956+01:00\"}";
        assert_eq!(parse_answer(zoned), parse_answer(text));
        for bad in ["", "{}", "{\"OK\":false,\"Now\":\"2026-11-21T04:12:29Z\"}", "{\"OK\":true,\"Now\":\"now\"}", "[1]"]
        {
            assert_eq!(parse_answer(bad), None, "{bad}");
        }
    }

    #[test]
    fn round_trips_are_smoothed_and_half_of_one_is_taken_off_the_difference() {
        let mut probed = Probed::default();
        assert!(!probed.is_ok());
        probed.record(Duration::from_millis(80), 1_000_000_000, WallTime::from_unix_nanos(4_000_000_000));
        assert_eq!(probed.smoothed(), Some(Duration::from_millis(80)));
        assert_eq!(probed.clock_difference_ns(), Some(2_960_000_000));
        probed.record(Duration::from_millis(160), 5_000_000_000, WallTime::from_unix_nanos(4_000_000_000));
        assert_eq!(probed.smoothed(), Some(Duration::from_millis(90)));
        assert_eq!(probed.clock_difference_ns(), Some(-1_045_000_000));
        assert!(probed.is_ok());
    }

    #[test]
    fn only_the_member_ahead_warns() {
        let peer = quorate_types::MemberId(0xc922_d397_2831_acef);
        assert_eq!(
            clock_warning(peer, Some(28_802_595_609_129)).as_deref(),
            Some("the clock difference against peer c922d3972831acef is too high [8h0m2.595609129s > 1s]")
        );
        assert_eq!(clock_warning(peer, Some(1_000_000_000)), None);
        assert_eq!(clock_warning(peer, Some(-28_802_595_609_129)), None);
        assert_eq!(clock_warning(peer, None), None);
    }
}
