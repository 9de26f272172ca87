//! What watchers asked for, and every response that they got.

use quorate_proto::etcdserverpb as pb;

use crate::model::contains;
use crate::world::clock::SimTime;

/// One watch, from the request that creates it to the last response that its client listened to. A client that resumes a watch
/// elsewhere has made another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Who watches.
    pub client: u64,
    /// On which stream, by a number that no other stream has; watches of a stream share their ids.
    pub stream: u64,
    /// What was asked for.
    pub request: pb::WatchCreateRequest,
    /// When.
    pub start: SimTime,
    /// Every response with its time. One that speaks for all watches of a stream is there for each that was created.
    pub responses: Vec<(SimTime, pb::WatchResponse)>,
    /// When the client asked for its end.
    pub cancel_asked: Option<SimTime>,
    /// From when on nobody listened: the stream broke, the client turned away, or the run ended.
    pub end: SimTime,
}

/// One byte, zero: the smallest key, and as a range's end "everything from the key on".
pub const ZERO: &[u8] = b"\0";

impl Watch {
    /// True if the watch is for this key. No key at all is the smallest one, as in etcd.
    pub fn covers(&self, name: &[u8]) -> bool {
        contains(self.first_key(), &self.request.range_end, name)
    }

    /// True if it can be for no key at all, which is refused.
    pub fn is_of_nothing(&self) -> bool {
        let end = &self.request.range_end[..];
        !end.is_empty() && end != ZERO && self.first_key() >= end
    }

    fn first_key(&self) -> &[u8] {
        if self.request.key.is_empty() { ZERO } else { &self.request.key }
    }

    /// For a report: who, when, what, in one line, and the newest responses.
    pub fn describe(&self) -> String {
        const SHOWN_MAX: usize = 3;
        let hidden = self.responses.len().saturating_sub(SHOWN_MAX);
        let shown = self.responses[hidden..].iter().map(|(at, response)| format!("\n    {at} {response:?}"));
        let end = if self.end == SimTime::NEVER { String::new() } else { self.end.to_string() };
        format!(
            "client {} stream {} {}..{end} {:?}, {} responses, the last:{}",
            self.client,
            self.stream,
            self.start,
            self.request,
            self.responses.len(),
            shown.collect::<String>()
        )
    }
}

/// What a response without events is.
pub fn is_progress(response: &pb::WatchResponse) -> bool {
    !response.created && !response.canceled && response.events.is_empty() && !response.fragment
}
