//! Typed messages between members: the peer network of runs in *core* depth.
//!
//! What one member hands to another travels as a value, with no connection, no encoding and no reader in between, over the same
//! links: a frame takes the link's latency, in order; loss is delay; a cut link holds what comes (what is older than a stream would
//! live is dropped when the link works again); a reset loses what is under way, and the sender hears of it. A process has an
//! *office* where its frames arrive; one task of the process, the postman, hands them to its transport, so a paused process
//! hears nothing and a dead one loses what lies there.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use quorate_proto::raftpb;
use quorate_raft::transport::{Carrier, Frame, PeerUrl, Refusal, Transport};
use quorate_types::MemberId;

use super::{MachineId, SimNet, State};
use crate::world::clock::{self, SimTime};
use crate::world::trace::Event;

/// A stream that carries nothing for so long is given up, with what it holds.
const HELD_AT_MOST: Duration = Duration::from_secs(5);

/// The offices of running processes, and what links hold.
#[derive(Default)]
pub(super) struct Frames {
    offices: BTreeMap<MachineId, Office>,
    links: BTreeMap<(MachineId, MachineId), Link>,
    next_parcel: u64,
}

/// Where frames arrive for one process.
struct Office {
    /// In order of arrival.
    parcels: BTreeMap<(SimTime, u64), Parcel>,
    /// When the postman is woken next, if that is still to come.
    rings: SimTime,
    postman: Option<Waker>,
}

#[derive(Default)]
struct Link {
    last_arrival: SimTime,
    /// Since when each waits for the link to work.
    held: Vec<(SimTime, Parcel)>,
}

/// What arrives.
enum Parcel {
    Frame { sender: MachineId, frame: Frame },
    Refused { by: MemberId, refusal: Refusal },
    Lost { to: MemberId },
}

impl Office {
    /// Has the postman woken when the next parcel is there.
    fn arm(&mut self) {
        let (Some((&(next, _), _)), Some(postman)) = (self.parcels.first_key_value(), &self.postman) else { return };
        if next <= clock::now() {
            postman.wake_by_ref();
            self.postman = None;
        } else if self.rings <= clock::now() || self.rings > next {
            self.rings = next;
            clock::wake_at(next, postman);
        }
    }
}

impl State {
    fn send(&mut self, from: MachineId, to: MachineId, parcel: Parcel) {
        let link = (from, to);
        if self.cut.contains_key(&link) {
            let held = (clock::now(), parcel);
            return self.frames.links.entry(link).or_default().held.push(held);
        }
        if self.dice.per_million(self.knobs.reset_per_million) {
            self.counters.resets += 1;
            self.lose_under_way(from, to);
            return self.tell_lost(from, parcel);
        }
        let at = clock::now().plus_nanos(self.travel_ns());
        self.arrive(link, at, parcel);
    }

    fn arrive(&mut self, (from, to): (MachineId, MachineId), earliest: SimTime, parcel: Parcel) {
        let Some(office) = self.frames.offices.get_mut(&to) else {
            // A living machine answers that nobody is there; one without power says nothing.
            if self.machines[&to].powered {
                self.tell_lost(from, parcel);
            }
            return;
        };
        let link = self.frames.links.entry((from, to)).or_default();
        let at = earliest.max(link.last_arrival);
        link.last_arrival = at;
        self.frames.next_parcel += 1;
        office.parcels.insert((at, self.frames.next_parcel), parcel);
        office.arm();
    }

    /// The sender of a lost frame hears of it.
    fn tell_lost(&mut self, sender: MachineId, parcel: Parcel) {
        let Parcel::Frame { frame, .. } = parcel else { return };
        if self.frames.offices.contains_key(&sender) {
            let at = clock::now().plus_nanos(self.knobs.latency.draw(&mut self.dice));
            self.arrive((sender, sender), at, Parcel::Lost { to: frame.to });
        }
    }

    /// What travels from one machine to the other breaks off.
    fn lose_under_way(&mut self, from: MachineId, to: MachineId) {
        let Some(office) = self.frames.offices.get_mut(&to) else { return };
        office.parcels.retain(|_, parcel| !matches!(parcel, Parcel::Frame { sender, .. } if *sender == from));
    }

    /// The link works again.
    pub(super) fn release_frames(&mut self, from: MachineId, to: MachineId, at: SimTime) {
        let Some(link) = self.frames.links.get_mut(&(from, to)) else { return };
        for (since, parcel) in std::mem::take(&mut link.held) {
            if at.since(since) > HELD_AT_MOST {
                self.tell_lost(from, parcel);
            } else {
                self.arrive((from, to), at, parcel);
            }
        }
    }

    /// The process on `machine` is gone, and with it what was on its way to it or held for it.
    pub(super) fn close_office(&mut self, machine: MachineId) {
        let Some(office) = self.frames.offices.remove(&machine) else { return };
        let senders = office.parcels.into_values();
        if self.machines[&machine].powered {
            for parcel in senders {
                if let Parcel::Frame { sender, .. } = parcel {
                    self.tell_lost(sender, parcel);
                }
            }
        }
        self.frames.links.retain(|&(from, to), _| from != machine && to != machine);
    }

    fn machine_at(&self, host: &str) -> Option<MachineId> {
        let address: IpAddr = host.parse().ok().or_else(|| self.names.get(host).copied())?;
        self.machines.iter().find(|(_, machine)| machine.address == address).map(|(&id, _)| id)
    }
}

/// Carries the frames of one process.
pub struct FrameNet {
    net: Arc<SimNet>,
    machine: MachineId,
}

impl FrameNet {
    /// Opens an office for the new process on `machine`.
    pub fn open(net: &Arc<SimNet>, machine: MachineId) -> Arc<Self> {
        let office = Office { parcels: BTreeMap::new(), rings: SimTime::default(), postman: None };
        net.state().frames.offices.insert(machine, office);
        Arc::new(Self { net: Arc::clone(net), machine })
    }

    /// Hands what arrives to `transport`, as long as the process lives. A task of the process must run this.
    pub async fn deliver_to(self: Arc<Self>, transport: Arc<Transport>) {
        loop {
            match self.next_parcel().await {
                Parcel::Frame { sender, frame } => {
                    let by = frame.to;
                    if let Err(refusal) = transport.receive(frame) {
                        self.net.state().send(self.machine, sender, Parcel::Refused { by, refusal });
                    }
                }
                Parcel::Refused { by, refusal } => transport.on_refused(by, refusal),
                Parcel::Lost { to } => transport.on_lost(to),
            }
        }
    }

    async fn next_parcel(&self) -> Parcel {
        poll_fn(|context| {
            let mut state = self.net.state();
            let state = &mut *state;
            // No office: the process is dead, and this task is about to be dropped.
            let Some(office) = state.frames.offices.get_mut(&self.machine) else { return Poll::Pending };
            let due = office.parcels.first_entry().filter(|entry| entry.key().0 <= clock::now());
            let Some(due) = due else {
                office.postman = Some(context.waker().clone());
                office.arm();
                return Poll::Pending;
            };
            let parcel = due.remove();
            if let Parcel::Frame { sender, frame } = &parcel {
                state.counters.deliveries += 1;
                let words = frame.messages.iter().flat_map(words);
                let words: Vec<u64> = [*sender, self.machine].into_iter().chain(words).collect();
                state.trace.note(Event::Delivery, &words, &[]);
            }
            Poll::Ready(parcel)
        })
        .await
    }
}

/// What the trace notes of a message. The bytes of entries are noted when they are written to a disk.
fn words(message: &raftpb::Message) -> [u64; 6] {
    [
        message.r#type() as u64,
        message.term(),
        message.log_term(),
        message.index(),
        message.commit(),
        message.entries.len() as u64,
    ]
}

impl Carrier for FrameNet {
    fn carry(&self, url: &PeerUrl, frame: Frame) {
        let mut state = self.net.state();
        // An unknown host answers nothing.
        let Some(to) = state.machine_at(url.host()) else { return };
        state.send(self.machine, to, Parcel::Frame { sender: self.machine, frame });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use quorate_types::ClusterId;

    use super::super::RETRANSMIT_NS;
    use super::*;
    use crate::run::in_world;
    use crate::world::World;

    /// The offices of machines 1 and 2.
    fn offices(world: &World) -> [Arc<FrameNet>; 2] {
        [1, 2].map(|machine| {
            world.net.add_machine(machine, &format!("m{machine}"), Ipv4Addr::new(10, 0, 0, machine as u8).into());
            FrameNet::open(&world.net, machine)
        })
    }

    fn send(office: &FrameNet, to: u64, term: u64) {
        let url = PeerUrl::parse(&format!("http://10.0.0.{to}:2380")).unwrap();
        let message = raftpb::Message { term: Some(term), ..raftpb::Message::default() };
        office.carry(
            &url,
            Frame {
                cluster_id: ClusterId(1),
                from: MemberId(office.machine),
                from_urls: Arc::new([]),
                to: MemberId(to),
                messages: vec![message],
            },
        );
    }

    /// The term in the next frame; `None` if there is a word of a loss instead.
    async fn next_term(office: &FrameNet) -> Option<u64> {
        match office.next_parcel().await {
            Parcel::Frame { frame, .. } => Some(frame.messages[0].term()),
            Parcel::Lost { .. } => None,
            Parcel::Refused { .. } => panic!("nobody refuses here"),
        }
    }

    async fn silence(office: &FrameNet) {
        let heard = quorate_runtime::select! {
            biased;
            _ = office.next_parcel() => true,
            () = clock::sleep(Duration::from_secs(30)) => false,
        };
        assert!(!heard, "something arrived");
    }

    #[test]
    fn frames_arrive_in_order_and_later_than_sent() {
        in_world(1, |world| async move {
            let [one, two] = offices(&world);
            world.net.tune(|knobs| knobs.loss_per_million = 100_000);
            let before = clock::now();
            (1..=200).for_each(|term| send(&one, 2, term));
            for term in 1..=200 {
                assert_eq!(next_term(&two).await, Some(term));
            }
            assert!(clock::now().since(before) >= Duration::from_nanos(RETRANSMIT_NS), "some were sent again");
        });
    }

    #[test]
    fn a_cut_link_holds_frames_and_gives_up_old_ones() {
        in_world(2, |world| async move {
            let [one, two] = offices(&world);
            world.net.cut(1, 2);
            send(&one, 2, 1);
            send(&two, 1, 9);
            assert_eq!(next_term(&one).await, Some(9), "the other direction works");
            clock::sleep(Duration::from_secs(20)).await;
            send(&one, 2, 2);
            world.net.mend(1, 2);
            assert_eq!(next_term(&two).await, Some(2));
            assert_eq!(next_term(&one).await, None, "its sender hears that the first is lost");
        });
    }

    #[test]
    fn a_reset_loses_what_is_under_way_and_the_sender_hears_of_it() {
        in_world(3, |world| async move {
            let [one, two] = offices(&world);
            send(&one, 2, 1);
            world.net.tune(|knobs| knobs.reset_per_million = 1_000_000);
            send(&one, 2, 2);
            world.net.tune(|knobs| knobs.reset_per_million = 0);
            assert_eq!(next_term(&one).await, None);
            send(&one, 2, 3);
            assert_eq!(next_term(&two).await, Some(3));
            silence(&two).await;
        });
    }

    #[test]
    fn a_living_machine_tells_that_nobody_is_there_and_one_without_power_does_not() {
        in_world(4, |world| async move {
            let [one, two] = offices(&world);
            send(&one, 2, 1);
            world.net.process_died(2);
            assert_eq!(next_term(&one).await, None, "what was under way");
            send(&one, 2, 2);
            assert_eq!(next_term(&one).await, None, "and what came after");
            world.net.power_failed(2);
            send(&one, 2, 3);
            silence(&one).await;
            drop(two);
            world.net.power_returned(2);
            let two = FrameNet::open(&world.net, 2);
            send(&one, 2, 4);
            assert_eq!(next_term(&two).await, Some(4));
        });
    }
}
