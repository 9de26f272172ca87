//! One peer: where it is, how it does, and which way a message to it goes.
//!
//! An append takes the stream `msgapp` if the peer reads it; it, and every other message, else takes the stream `message`;
//! what finds neither is posted. A peer that nobody told us of, but that posted to us (a *remote*), reads no streams from us
//! and is not dialed for any: it is only posted to, until it becomes a member that we know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_proto::raftpb;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::{Rt, bug};
use quorate_types::MemberId;

use super::Core;
use super::codec::StreamKind;
use super::outbox::{Budget, Outbox, Pushed};
use super::pipeline::Pipeline;
use super::url::UrlPicker;

/// What is known of a peer, for metrics and health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// False for one that only posted to us.
    pub is_member: bool,
    /// Since when everything sent to it has arrived, as far as we know.
    pub active_since: Option<MonoTime>,
    /// How often it was lost.
    pub disconnects: u64,
    /// It reads our stream of messages.
    pub reads_messages: bool,
    /// It reads our stream of appends.
    pub reads_appends: bool,
    /// Bytes of raft messages written to it.
    pub sent_bytes: u64,
    /// Bytes of raft messages read from it.
    pub received_bytes: u64,
    /// Messages that were dropped or refused on their way to it.
    pub send_failures: u64,
    /// Messages from it that could not be taken.
    pub receive_failures: u64,
    /// Smoothed time of a round trip, from probing.
    pub round_trip: Option<Duration>,
    /// Our clock minus its clock, in nanoseconds, from probing.
    pub clock_difference_ns: Option<i128>,
    /// The last probe was answered.
    pub probe_ok: bool,
}

/// A peer, shared by the tasks that work for it.
pub struct Peer {
    core: Arc<Core>,
    id: MemberId,
    pub(super) urls: UrlPicker,
    message: Outbox,
    msgapp: Outbox,
    pub(super) pipeline: Pipeline,
    activity: Mutex<Activity>,
    /// By our monotonic clock: when the last frame came; see `frames`.
    pub(super) heard_at_ns: AtomicU64,
    pub(super) probed: Mutex<super::probe::Probed>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    send_failures: AtomicU64,
    receive_failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Activity {
    since: Option<MonoTime>,
    disconnects: u64,
}

impl Peer {
    pub(super) fn new(core: Arc<Core>, id: MemberId, urls: &[String]) -> Self {
        let budget = Arc::new(Budget::new(core.config.limits.queued_bytes_max));
        let write_limit = core.config.limits.wait.write;
        Self {
            id,
            urls: UrlPicker::new(urls),
            message: Outbox::new(budget.clone(), write_limit),
            msgapp: Outbox::new(budget.clone(), write_limit),
            pipeline: Pipeline::new(budget),
            activity: Mutex::default(),
            heard_at_ns: AtomicU64::new(0),
            probed: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            send_failures: AtomicU64::new(0),
            receive_failures: AtomicU64::new(0),
            core,
        }
    }

    pub(super) fn id(&self) -> MemberId {
        self.id
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn rt(&self) -> &Rt {
        &self.core.rt
    }

    pub(super) fn outbox(&self, kind: StreamKind) -> &Outbox {
        match kind {
            StreamKind::Message => &self.message,
            StreamKind::MsgApp => &self.msgapp,
        }
    }

    /// Queues `message` on its way. False if something was lost: the message, or what a stuck stream held.
    pub(super) fn push(&self, message: raftpb::Message, now: MonoTime) -> bool {
        let mut whole = true;
        let mut message = message;
        let kinds: &[StreamKind] = match message.r#type() {
            raftpb::MessageType::MsgApp => &[StreamKind::MsgApp, StreamKind::Message],
            _ => &[StreamKind::Message],
        };
        for kind in kinds {
            message = match self.outbox(*kind).push(message, now) {
                Pushed::Queued => return whole,
                Pushed::Full => return self.count_send_failure(),
                Pushed::NotAttached(message) => message,
                Pushed::Stuck(message) => {
                    self.deactivate(kind.name(), "write", "the peer reads nothing");
                    whole = false;
                    message
                }
            };
        }
        match self.pipeline.push(message) {
            true => whole,
            false => self.count_send_failure(),
        }
    }

    /// Wakes what writes, once a batch is pushed.
    pub(super) fn wake(&self) {
        self.message.wake();
        self.msgapp.wake();
    }

    /// No more streams to this peer.
    pub(super) fn close(&self) {
        self.message.close();
        self.msgapp.close();
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something reached the peer.
    pub(super) fn activate(&self) {
        let now = self.rt().mono_now();
        let mut activity = self.activity();
        if activity.since.is_none() {
            activity.since = Some(now);
            drop(activity);
            tracing::info!(peer = %self.id, "peer became active");
        }
    }

    /// Something did not reach it.
    pub(super) fn deactivate(&self, channel: &str, action: &str, reason: impl std::fmt::Display) {
        let mut activity = self.activity();
        if activity.since.take().is_some() {
            activity.disconnects += 1;
            drop(activity);
            tracing::warn!(peer = %self.id, channel, action, %reason, "peer became inactive");
        } else {
            drop(activity);
            tracing::debug!(peer = %self.id, channel, action, %reason, "peer is still inactive");
        }
    }

    pub(super) fn active_since(&self) -> Option<MonoTime> {
        let difference_ns = self.status(true).clock_difference_ns.unwrap_or(0);
        if bug!("another-time-counts-as-ill") && difference_ns.abs() > 1_000_000_000 {
            return None;
        }
        self.activity().since
    }

    pub(super) fn report_unreachable(&self) {
        self.core.inbox.unreachable(self.id);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Always false, for the caller to pass on.
    pub(super) fn count_send_failure(&self) -> bool {
        self.send_failures.fetch_add(1, Ordering::Relaxed);
        false
    }

    pub(super) fn count_receive_failure(&self) {
        self.receive_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn status(&self, is_member: bool) -> PeerStatus {
        let (active_since, disconnects) = {
            let activity = self.activity();
            (activity.since, activity.disconnects)
        };
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        PeerStatus {
            is_member,
            active_since,
            disconnects,
            reads_messages: self.message.is_attached(),
            reads_appends: self.msgapp.is_attached(),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            send_failures: self.send_failures.load(Ordering::Relaxed),
            receive_failures: self.receive_failures.load(Ordering::Relaxed),
            round_trip: probed.smoothed(),
            clock_difference_ns: probed.clock_difference_ns(),
            probe_ok: probed.is_ok(),
        }
    }
}
