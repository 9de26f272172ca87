//! Ids, as etcd derives them, and ids for requests.
//!
//! Source: etcd `server/etcdserver/api/membership/member.go`, `cluster.go`; `pkg/idutil/id.go`.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_runtime::clock::WallTime;
use quorate_types::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

/// The id of a founding member: the first eight bytes of the SHA-1 of its peer URLs (sorted, run together) and the token.
pub fn founding_member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    MemberId(first_eight(&hash.finalize()))
}

/// The id of a member that is added at `now`: as of a founding one, with the time in seconds in the token's place.
pub fn added_member_id(peer_urls: &[String], now: WallTime) -> MemberId {
    founding_member_id(peer_urls, &(now.unix_millis() / 1000).to_string())
}

/// The id of a cluster: the first eight bytes of the SHA-1 of its founding members' ids, ascending, big-endian.
pub fn cluster_id(founders: &[MemberId]) -> ClusterId {
    let mut ids: Vec<u64> = founders.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    ClusterId(first_eight(&hash.finalize()))
}

fn first_eight(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 has twenty bytes"))
}

/// Ids for requests, unique in the cluster: 16 bits of the member's id, 40 bits of the time of start in milliseconds, 8 bits
/// that count (and carry into the time: 256 a millisecond are far more than a member starts per millisecond of its life).
#[derive(Debug)]
pub struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of `member`, started at `now`.
    pub fn new(member: MemberId, now: WallTime) -> Self {
        let time = (now.unix_millis() & ((1 << 40) - 1)) << 8;
        Self { next: AtomicU64::new((member.0 & 0xffff) << 48 | time) }
    }

    /// The next one; never 0.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn ids_are_those_that_etcd_prints() {
        let localhost = founding_member_id(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(localhost.to_string(), "8e9e05c52164694d");
        assert_eq!(
            founding_member_id(&urls(&["http://10.0.8.4:2380"]), "etcd-cluster").to_string(),
            "a7a710e533cab390"
        );
        assert_eq!(cluster_id(&[localhost]).to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_urls_does_not_matter() {
        let one = founding_member_id(&urls(&["http://b:1", "http://a:1"]), "t");
        assert_eq!(one, founding_member_id(&urls(&["http://a:1", "http://b:1"]), "t"));
    }

    #[test]
    fn request_ids_differ_between_members_and_starts() {
        let ids = RequestIds::new(MemberId(0xacef), WallTime::from_unix_nanos(5_000_000));
        assert_eq!(ids.next(), 0xacef_0000_0000_0501);
        assert_eq!(ids.next(), 0xacef_0000_0000_0502);
        let later = RequestIds::new(MemberId(0xacef), WallTime::from_unix_nanos(6_000_000));
        assert_eq!(later.next(), 0xacef_0000_0000_0601);
    }
}
