//! Watching: many watches on one stream, from now, from the past and from the future, with every option; resumed on another
//! member when the stream breaks, from the revision after the last one told.
//!
//! A client that watches is a slow client at times: it stops reading for a while. And it is an unruly one: it asks for ids that are
//! in use, for ranges that are none, for revisions that are compacted, and ends watches that it does not have.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_client::WatchStream;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use quorate_runtime::{BoxFuture, select};

use super::{Client, Workload};
use crate::history::WatchTicket;
use crate::history::watch::is_progress;
use crate::world::clock;
use crate::world::dice::Dice;
use crate::world::lock;

/// See the module.
pub struct Watch {
    /// Most watches on a stream.
    watches_max: u64,
    /// So many actions, then another stream.
    actions_max: u64,
    /// Odds, in percent, that an action is to read nothing for a while.
    stalls_percent: u64,
    /// Odds, in percent, that a stream wants a leader.
    leader_percent: u64,
}

impl Watch {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            watches_max: dice.magnitude(1, 40),
            actions_max: dice.magnitude(5, 200),
            stalls_percent: dice.below(20),
            leader_percent: dice.below(100),
        }
    }

    /// A watch of some keys, from somewhere.
    fn request(&self, client: &mut Client) -> pb::WatchCreateRequest {
        let newest = client.newest_revision();
        let start_revision = match client.dice.below(10) {
            0..4 => 0,
            4..7 => (newest - client.dice.magnitude(1, 200) as i64).max(1),
            7 => newest + client.dice.below(20) as i64,
            8 => lock(&client.knowledge).compacted.max(1),
            _ => client.dice.below(3) as i64 - 1,
        };
        let key = client.key();
        let range_end = match client.dice.below(6) {
            0..2 => Bytes::new(),
            2 => client.key(),
            _ => Bytes::from_static(b"\0"),
        };
        let filters = [pb::watch_create_request::FilterType::Noput, pb::watch_create_request::FilterType::Nodelete];
        let filters = filters.into_iter().filter(|_| client.dice.percent(10)).map(|filter| filter as i32).collect();
        pb::WatchCreateRequest {
            key: if client.dice.percent(20) { Bytes::new() } else { key },
            range_end,
            start_revision,
            progress_notify: client.dice.percent(30),
            filters,
            prev_kv: client.dice.percent(40),
            watch_id: if client.dice.percent(20) { client.dice.below(8) as i64 } else { 0 },
            fragment: client.dice.percent(30),
        }
    }

    /// Watches on one stream until it breaks, or for long enough. Returns what is to be resumed.
    async fn one_stream(
        &self,
        client: &mut Client,
        number: u64,
        resumed: Vec<pb::WatchCreateRequest>,
    ) -> Vec<pb::WatchCreateRequest> {
        let wants_leader = client.dice.percent(self.leader_percent);
        let Some(stream) = client.watch_stream(wants_leader).await else { return resumed };
        let mut open = Open { stream, number, asked: VecDeque::new(), watches: BTreeMap::new() };
        for request in resumed {
            open.ask(client, request);
        }
        for _ in 0..self.actions_max {
            if !client.goes_on() {
                break;
            }
            match client.dice.below(100) {
                draw if draw < self.stalls_percent => {
                    let pause = client.dice.between(50, 3000);
                    clock::sleep(Duration::from_millis(pause)).await;
                }
                _ if client.dice.percent(40) && (open.count() as u64) < self.watches_max => {
                    let request = self.request(client);
                    open.ask(client, request);
                }
                _ if client.dice.percent(20) => open.cancel(client),
                _ if client.dice.percent(50) => open.stream.request_progress(),
                _ => {
                    let key = client.key();
                    client.put(key).await;
                }
            }
            let mean = client.options.think;
            let pause = Duration::from_nanos(client.dice.between(1, mean.as_nanos() as u64 * 2));
            if !open.listen(client, pause).await {
                break;
            }
        }
        open.close(client)
    }
}

impl Workload for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut resumed = Vec::new();
            let mut streams = 0;
            while client.goes_on() {
                streams += 1;
                let number = client.number << 32 | streams;
                resumed = self.one_stream(client, number, resumed).await;
                client.think().await;
            }
        })
    }
}

/// An open stream.
struct Open {
    stream: WatchStream,
    number: u64,
    /// Asked for and not yet created, in order.
    asked: VecDeque<Asked>,
    /// By id; ended ones stay until the server has confirmed a cancellation.
    watches: BTreeMap<i64, Watching>,
}

struct Asked {
    ticket: WatchTicket,
    request: pb::WatchCreateRequest,
    /// Which ids were cancelled since. One that the server had ended by itself, before it heard of that, may be this one's.
    cancelled_ids: Vec<i64>,
}

struct Watching {
    ticket: WatchTicket,
    request: pb::WatchCreateRequest,
    /// The first revision that it has not been told of; 0 while that is not known.
    next_revision: i64,
    ended: bool,
}

impl Open {
    fn count(&self) -> usize {
        self.asked.len() + self.watches.len()
    }

    fn ask(&mut self, client: &Client, request: pb::WatchCreateRequest) {
        let ticket = client.recorder.begin_watch(client.number, self.number, request.clone());
        self.stream.create(request.clone());
        self.asked.push_back(Asked { ticket, request, cancelled_ids: Vec::new() });
    }

    /// Ends some watch, or none.
    fn cancel(&mut self, client: &mut Client) {
        let ids: Vec<i64> = self.watches.keys().copied().chain([99]).collect();
        let id = *client.dice.pick(&ids);
        if let Some(watching) = self.watches.get(&id) {
            client.recorder.cancel_watch(watching.ticket);
        }
        self.asked.iter_mut().for_each(|asked| asked.cancelled_ids.push(id));
        self.stream.cancel(id);
    }

    /// Reads what comes for a while; false if the stream broke.
    async fn listen(&mut self, client: &Client, time: Duration) -> bool {
        let until = clock::sleep(time);
        quorate_runtime::pin!(until);
        loop {
            select! {
                biased;
                response = self.stream.next() => match response {
                    Ok(Some(response)) => self.take(client, response),
                    Ok(None) | Err(_) => return false,
                },
                () = &mut until => return true,
            }
        }
    }

    fn take(&mut self, client: &Client, response: pb::WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        {
            let mut knowledge = lock(&client.knowledge);
            knowledge.revision = knowledge.revision.max(revision);
        }
        if response.created {
            let Some(Asked { ticket, request, cancelled_ids }) = self.asked.pop_front() else { return };
            client.recorder.watched(ticket, response.clone());
            if cancelled_ids.contains(&response.watch_id) {
                client.recorder.cancel_watch(ticket);
            }
            if response.canceled {
                client.recorder.end_watch(ticket);
            } else {
                let next_revision = if request.start_revision > 0 { request.start_revision } else { revision + 1 };
                self.watches.insert(response.watch_id, Watching { ticket, request, next_revision, ended: false });
            }
            return;
        }
        if response.watch_id == -1 && is_progress(&response) {
            for watching in self.watches.values_mut().filter(|watching| !watching.ended) {
                client.recorder.watched(watching.ticket, response.clone());
                watching.next_revision = watching.next_revision.max(revision + 1);
            }
            return;
        }
        let Some(watching) = self.watches.get_mut(&response.watch_id) else { return };
        if !watching.ended {
            client.recorder.watched(watching.ticket, response.clone());
        }
        if response.canceled {
            client.recorder.end_watch(watching.ticket);
            watching.ended = true;
            if response.compact_revision == 0 {
                self.watches.remove(&response.watch_id);
            }
            return;
        }
        let last = response.events.last().and_then(|event| KeyValue::decode(event.kv.clone()).ok());
        // What ends with a fragment may go on in the next one, with the same revision.
        match last {
            Some(last) if response.fragment => watching.next_revision = watching.next_revision.max(last.mod_revision),
            Some(last) => watching.next_revision = watching.next_revision.max(last.mod_revision + 1),
            None => watching.next_revision = watching.next_revision.max(revision + 1),
        }
    }

    /// Nobody listens any more. Returns what would be asked for to go on.
    fn close(self, client: &Client) -> Vec<pb::WatchCreateRequest> {
        let mut resumed = Vec::new();
        for Asked { ticket, request, .. } in self.asked {
            client.recorder.end_watch(ticket);
            resumed.push(request);
        }
        for watching in self.watches.into_values().filter(|watching| !watching.ended) {
            client.recorder.end_watch(watching.ticket);
            resumed.push(pb::WatchCreateRequest { start_revision: watching.next_revision, ..watching.request });
        }
        resumed
    }
}
