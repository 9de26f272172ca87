//! Transports whose messages are carried as they are.

use std::sync::{Arc, Mutex};

use quorate_proto::raftpb::{self, MessageType};
use quorate_raft::transport::{Carrier, Frame, PeerUrl, Refusal, Transport, TransportConfig, TransportLimits};
use quorate_runtime_tokio::TokioRuntime;
use quorate_types::{ClusterId, MemberId};

use crate::harness::{CLUSTER, Recorder};

/// Keeps what it is to carry, with the URL that it is for.
#[derive(Default)]
struct Bag(Mutex<Vec<(String, Frame)>>);

impl Carrier for Bag {
    fn carry(&self, url: &PeerUrl, frame: Frame) {
        self.0.lock().unwrap().push((url.as_str().to_owned(), frame));
    }
}

impl Bag {
    /// The frames that have messages in them; the others are signs of life.
    fn take(&self) -> Vec<(String, Frame)> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap());
        all.retain(|(_, frame)| !frame.messages.is_empty());
        all
    }
}

struct Member {
    id: MemberId,
    bag: Arc<Bag>,
    recorder: Arc<Recorder>,
    transport: Arc<Transport>,
}

impl Member {
    fn start(rt: &quorate_runtime::Rt, id: u64) -> Self {
        let (bag, recorder) = (Arc::new(Bag::default()), Arc::new(Recorder::default()));
        let config = TransportConfig {
            id: MemberId(id),
            cluster_id: CLUSTER,
            peer_urls: vec![url(id)],
            server_version: "3.7.1",
            election_timeout: std::time::Duration::from_secs(1),
            snapshot_dir: "/nowhere".into(),
            limits: TransportLimits::default(),
        };
        let carrier = Some(bag.clone() as Arc<dyn Carrier>);
        let transport = Transport::with_carrier(rt.clone(), config, recorder.clone(), carrier);
        Self { id: MemberId(id), bag, recorder, transport }
    }

    fn terms(&self) -> Vec<u64> {
        self.recorder.told.lock().unwrap().messages.iter().map(raftpb::Message::term).collect()
    }
}

/// Nobody listens there.
fn url(id: u64) -> String {
    format!("http://127.0.0.1:{id}")
}

fn message(to: MemberId, kind: MessageType, term: u64) -> raftpb::Message {
    raftpb::Message { r#type: Some(kind as i32), to: Some(to.0), term: Some(term), ..raftpb::Message::default() }
}

#[test]
fn a_batch_is_a_frame_for_each_peer_in_order_and_who_is_unknown_can_be_answered() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = (Member::start(&rt, 1), Member::start(&rt, 2));
        one.transport.add_peer(two.id, vec![url(2)]);
        one.transport.add_peer(MemberId(3), vec![url(3)]);
        let to = [two.id, MemberId(3), two.id, MemberId(4)];
        let messages = to.iter().zip(1..).map(|(to, term)| message(*to, MessageType::MsgApp, term));
        one.transport.send(messages.collect());
        let carried = one.bag.take();
        assert_eq!(carried.iter().map(|(url, _)| url.clone()).collect::<Vec<_>>(), [url(2), url(3)]);
        let (_, frame) = carried.into_iter().next().unwrap();
        assert_eq!((frame.from, frame.to, frame.cluster_id), (one.id, two.id, CLUSTER));

        assert_eq!(two.transport.receive(frame), Ok(()));
        assert_eq!(two.terms(), [1, 3]);
        // It had not heard of the sender before.
        two.transport.send(vec![message(one.id, MessageType::MsgAppResp, 7)]);
        let (back, frame) = two.bag.take().pop().unwrap();
        assert_eq!(back, url(1));
        assert_eq!(one.transport.receive(frame), Ok(()));
        assert_eq!(one.terms(), [7]);
        assert!(one.transport.active_since(two.id).is_some(), "a frame is a sign of life");
    });
}

#[test]
fn what_a_dial_would_refuse_is_refused_and_the_sender_learns_why() {
    TokioRuntime::run(1, |rt| async move {
        let (one, two) = (Member::start(&rt, 1), Member::start(&rt, 2));
        one.transport.add_peer(two.id, vec![url(2)]);
        one.transport.send(vec![message(two.id, MessageType::MsgHeartbeat, 1)]);
        let (_, frame) = one.bag.take().pop().unwrap();
        let foreign = Frame { cluster_id: ClusterId(9), ..frame.clone() };
        assert_eq!(two.transport.receive(foreign), Err(Refusal::OtherCluster));
        let misplaced = Frame { to: MemberId(3), ..frame.clone() };
        assert_eq!(two.transport.receive(misplaced), Err(Refusal::NotForUs));
        two.recorder.removed.lock().unwrap().insert(one.id);
        assert_eq!(two.transport.receive(frame.clone()), Err(Refusal::Removed));
        two.transport.stop();
        assert_eq!(two.transport.receive(frame), Err(Refusal::Stopped));
        assert_eq!(two.terms(), Vec::<u64>::new());

        one.transport.on_refused(two.id, Refusal::NotForUs);
        one.transport.on_lost(two.id);
        one.transport.on_refused(two.id, Refusal::Removed);
        let told = one.recorder.told.lock().unwrap();
        assert_eq!(told.removed_by, [two.id]);
        assert_eq!(told.unreachable, [two.id; 3]);
    });
}
