//! Messages as they are: the way for an embedder that can hand a value to another member without bytes in between.
//!
//! A transport with a [`Carrier`] opens no streams and posts nothing. What the raft loop sends leaves as a [`Frame`], one for
//! each peer and batch, and what arrives comes in through [`Transport::receive`], which has the checks of a stream's dial: the
//! same cluster, a sender that was not removed, a frame that is for us. Who is refused hears why
//! ([`Transport::on_refused`]).
//!
//! A frame may get lost like any message, and the carrier says so if it knows ([`Transport::on_lost`]). As on a stream a link
//! that has nothing to say sends an empty frame now and then, so a peer that was not heard for [`PeerLimits::read`](super::PeerLimits::read) is not connected.
//!
//! Snapshots, probes and questions take the ordinary way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_proto::raftpb;
use quorate_types::{ClusterId, MemberId};

use super::peer::Peer;
use super::{LINK_HEARTBEAT_INTERVAL, PeerUrl, Transport};

/// What one member hands to another at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The cluster of the sender.
    pub cluster_id: ClusterId,
    /// Who sends.
    pub from: MemberId,
    /// Where the sender can be reached, for who does not know it.
    pub from_urls: Arc<[String]>,
    /// For whom it is.
    pub to: MemberId,
    /// In order; none is a sign of life.
    pub messages: Vec<raftpb::Message>,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It came from another cluster.
    #[error("cluster ID mismatch")]
    OtherCluster,
    /// Its sender was removed from the cluster.
    #[error("the sender was removed from the cluster")]
    Removed,
    /// Another member lives here.
    #[error("it is for another member")]
    NotForUs,
    /// The member stops.
    #[error("the member stops")]
    Stopped,
}

/// Carries frames. Called on reactors, with the transport's list of peers locked: no call may block, or call the transport.
pub trait Carrier: Send + Sync + 'static {
    /// Takes `frame` to the member that advertises `url`. Frames to one member arrive in order, or not at all.
    fn carry(&self, url: &PeerUrl, frame: Frame);
}

/// Sends signs of life to `peer` and looks for its; runs until dropped.
pub(super) async fn keep_in_touch(peer: Arc<Peer>) {
    loop {
        send(&peer, Vec::new());
        peer.rt().sleep(LINK_HEARTBEAT_INTERVAL).await;
        let silent_ns = peer.rt().mono_now().as_nanos().saturating_sub(peer.heard_at_ns.load(Ordering::Relaxed));
        let limit = peer.core().read_limit();
        if u128::from(silent_ns) > limit.as_nanos() {
            peer.deactivate("frames", "read", format_args!("nothing came for {limit:?}"));
        }
    }
}

/// Hands `messages` to the carrier. False if there is no way to the peer.
pub(super) fn send(peer: &Peer, messages: Vec<raftpb::Message>) -> bool {
    let core = peer.core();
    let Some(carrier) = &core.carrier else { return false };
    match peer.urls.pick() {
        Ok(url) => {
            let frame = Frame {
                cluster_id: core.config.cluster_id,
                from: core.config.id,
                from_urls: Arc::clone(&core.own_urls),
                to: peer.id(),
                messages,
            };
            carrier.carry(&url, frame);
            true
        }
        Err(reason) => {
            peer.deactivate("frames", "dial", reason);
            peer.count_send_failure()
        }
    }
}

impl Transport {
    /// A frame has arrived.
    pub fn receive(&self, frame: Frame) -> Result<(), Refusal> {
        let core = &self.core;
        if self.is_stopped() {
            return Err(Refusal::Stopped);
        }
        if frame.cluster_id != core.config.cluster_id {
            return Err(Refusal::OtherCluster);
        }
        if core.inbox.is_removed(frame.from) {
            return Err(Refusal::Removed);
        }
        if frame.to != core.config.id {
            return Err(Refusal::NotForUs);
        }
        // A member that starts before it has the log knows nobody, and must answer all the same.
        let peer = self.peer(frame.from).or_else(|| {
            self.add_remote(frame.from, frame.from_urls.to_vec());
            self.peer(frame.from)
        });
        if let Some(peer) = &peer {
            peer.heard_at_ns.store(core.rt.mono_now().as_nanos(), Ordering::Relaxed);
            peer.activate();
        }
        for message in frame.messages {
            if let Err(reason) = core.deliver(message) {
                tracing::warn!(peer = %frame.from, reason, "messages from the peer are dropped");
                peer.as_ref().inspect(|peer| peer.count_receive_failure());
            }
        }
        Ok(())
    }

    /// A frame of ours was refused by `by`.
    pub fn on_refused(&self, by: MemberId, refusal: Refusal) {
        if refusal == Refusal::Removed {
            self.core.inbox.removed(by);
        }
        if let Some(peer) = self.peer(by) {
            peer.deactivate("frames", "write", refusal);
            peer.report_unreachable();
        }
    }

    /// A frame of ours to `to` got lost.
    pub fn on_lost(&self, to: MemberId) {
        if let Some(peer) = self.peer(to) {
            peer.deactivate("frames", "write", "the way to it is broken");
            peer.count_send_failure();
            peer.report_unreachable();
        }
    }
}
