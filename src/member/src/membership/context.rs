//! The context of a configuration change: a member as etcd's JSON encoder writes it.
//!
//! The bytes are in the log of every member, etcd's among them, so they are etcd's to the letter (`server/etcdserver/api/membership`):
//! the order of fields, what is left out, `null` for a list that was never made, and Go's escapes.

use bytes::Bytes;
use quorate_store::Member;
use quorate_types::MemberId;
use serde::Serialize;

/// A member, or what of it a change speaks of.
#[derive(Debug, Serialize)]
pub struct Context<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<&'a [String]>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    /// Present, and true, only where a learner is promoted.
    #[serde(rename = "isPromote", skip_serializing_if = "std::ops::Not::not")]
    is_promote: bool,
}

impl<'a> Context<'a> {
    fn naming(id: MemberId) -> Self {
        Self { id: id.0, peer_urls: None, is_learner: false, name: "", is_promote: false }
    }

    /// A new member.
    pub fn of(member: &'a Member) -> Self {
        Self {
            peer_urls: Some(&member.peer_urls),
            is_learner: member.is_learner,
            name: &member.name,
            ..Self::naming(member.id)
        }
    }

    /// A member's new peer URLs. None at all are `null`, as Go keeps them when a client's request has none.
    pub fn update(id: MemberId, peer_urls: &'a [String]) -> Self {
        Self { peer_urls: (!peer_urls.is_empty()).then_some(peer_urls), ..Self::naming(id) }
    }

    /// A learner that is to vote.
    pub fn promotion(id: MemberId) -> Self {
        Self { is_promote: true, ..Self::naming(id) }
    }

    /// The bytes.
    pub fn encode(&self) -> Bytes {
        let json = serde_json::to_string(self).expect("plain texts and numbers");
        // Go escapes these within texts, and outside of texts they do not occur.
        let mut escaped = String::with_capacity(json.len());
        for character in json.chars() {
            match character {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                plain => escaped.push(plain),
            }
        }
        escaped.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(context: &Context<'_>) -> String {
        String::from_utf8(context.encode().to_vec()).unwrap()
    }

    #[test]
    fn the_bytes_are_those_that_etcd_writes() {
        let id = MemberId(13_969_042_179_719_793_776);
        let urls = ["http://127.0.0.1:31103".to_owned()];
        let mut member =
            Member { id, peer_urls: urls.to_vec(), is_learner: false, name: String::new(), client_urls: Vec::new() };
        assert_eq!(text(&Context::of(&member)), r#"{"id":13969042179719793776,"peerURLs":["http://127.0.0.1:31103"]}"#);
        member.is_learner = true;
        assert_eq!(
            text(&Context::of(&member)),
            r#"{"id":13969042179719793776,"peerURLs":["http://127.0.0.1:31103"],"isLearner":true}"#
        );
        let promotion = Context::promotion(id);
        assert_eq!(text(&promotion), r#"{"id":13969042179719793776,"peerURLs":null,"isPromote":true}"#);
        let update = Context::update(id, &urls);
        assert_eq!(text(&update), r#"{"id":13969042179719793776,"peerURLs":["http://127.0.0.1:31103"]}"#);
        assert_eq!(text(&Context::update(MemberId(1), &[])), r#"{"id":1,"peerURLs":null}"#);
    }

    #[test]
    fn go_escapes_what_html_would_take_amiss() {
        let urls = ["http://a:1?x=<1>&y=\u{2028}\"".to_owned()];
        let update = Context::update(MemberId(1), &urls);
        assert_eq!(text(&update), r#"{"id":1,"peerURLs":["http://a:1?x=\u003c1\u003e\u0026y=\u2028\""]}"#);
    }
}
