//! The Watch service: one call, many watches, until either side has enough.
//!
//! The call is one task, that of the answer's body: it runs when the connection can take more, reads a few requests, hands
//! them to the hub of its reactor ([`quorate_member::WatchStream`]), and sends what waits there. While the connection takes
//! nothing, nothing is read either; the hub then stops to keep events for this stream and lets its watches catch up later. So a
//! client that does not read costs what was queued, and nobody else anything.
//!
//! The end: the client goes away; it asked for a leader and there is none ([`crate::leader_watch`]); the server drains, and the
//! client had better watch elsewhere. A client that has sent its last request still gets events, as in etcd.
//!
//! `encode` makes the bytes.

mod encode;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream;
use http_body::Body;
use quorate_member::WatchStream;
use quorate_proto::etcdserverpb::watch_create_request::FilterType;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use quorate_runtime::clock::MonoTime;
use quorate_runtime::{BoxFuture, select};
use quorate_store::watch::{Answer, NewWatch};
use quorate_types::Error;
use tonic::{Code, Status};

use self::encode::{Encoder, Identity};
use crate::body::{Chunk, Messages};
use crate::errors::status;
use crate::leader_watch::LeaderLost;
use crate::service::{Api, Incoming, end_of_stream};

/// Requests that are read between two answers, while answers wait.
const REQUESTS_PER_TURN: usize = 16;

/// Answers that are taken from the hub at once, and what they may weigh before the last of them.
const ANSWERS_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 64 << 10;

impl Api {
    /// Watch.Watch.
    pub(crate) fn watch<B>(self: Arc<Self>, incoming: Incoming<B>, leader_lost: LeaderLost) -> Messages
    where
        B: Body<Data = Bytes, Error: Display> + Send + 'static,
    {
        let call = Call {
            watches: self.member.open_watch_stream(),
            progress: Progress::begin(&self),
            end: end_of_stream(&self, leader_lost),
            encoder: Encoder::new(self.message_bytes_max),
            taken: Vec::new(),
            is_asking: true,
            incoming,
            api: self,
        };
        Box::pin(stream::try_unfold(call, |mut call| async move {
            let chunk = call.next().await?;
            Ok(Some((chunk, call)))
        }))
    }
}

/// One call.
struct Call<B> {
    api: Arc<Api>,
    watches: WatchStream,
    incoming: Incoming<B>,
    /// The client may still ask.
    is_asking: bool,
    progress: Progress,
    /// Completes when the server ends the call.
    end: BoxFuture<'static, Error>,
    encoder: Encoder,
    taken: Vec<Answer>,
}

/// When those watches are told how far they are that want to know.
struct Progress {
    interval: Duration,
    at: MonoTime,
    timer: BoxFuture<'static, ()>,
}

impl Progress {
    /// Up to a tenth is added, so that streams that began together are not told together.
    fn begin(api: &Api) -> Self {
        let interval = api.watch_progress_interval;
        let spread_nanos = u64::try_from(interval.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
        let interval = interval + Duration::from_nanos(api.rt.random_u64() % spread_nanos);
        let at = api.rt.mono_now() + interval;
        Self { interval, at, timer: api.rt.sleep_until(at) }
    }

    fn again(&mut self, api: &Api) {
        self.at = self.at.max(api.rt.mono_now()) + self.interval;
        self.timer = api.rt.sleep_until(self.at);
    }
}

impl<B> Call<B>
where
    B: Body<Data = Bytes, Error: Display>,
{
    /// What is sent next.
    async fn next(&mut self) -> Result<Chunk, Status> {
        loop {
            if let Some(chunk) = self.encoder.next() {
                return Ok(chunk);
            }
            for _ in 0..REQUESTS_PER_TURN {
                let Some(request) = self.request_now() else { break };
                self.handle(request)?;
            }
            self.watches.take(ANSWERS_PER_TURN, BYTES_PER_TURN, &mut self.taken);
            if !self.taken.is_empty() {
                self.encode();
                continue;
            }
            select! {
                biased;
                error = &mut self.end => return Err(status(error)),
                () = self.watches.news() => {}
                request = self.incoming.next(), if self.is_asking => self.handle(request)?,
                () = &mut self.progress.timer => {
                    let start = self.api.rt.mono_now();
                    self.watches.tell_progress().map_err(|failure| self.api.read_failed(failure))?;
                    self.progress.again(&self.api);
                    self.api.metrics.watch.progress_seconds.observe((self.api.rt.mono_now() - start).as_secs_f64());
                }
            }
        }
    }

    /// The next request, if it is there.
    fn request_now(&mut self) -> Option<Result<Option<WatchRequest>, Status>> {
        if self.is_asking { self.incoming.next().now_or_never() } else { None }
    }

    fn handle(&mut self, request: Result<Option<WatchRequest>, Status>) -> Result<(), Status> {
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => {
                self.is_asking = false;
                return Ok(());
            }
            Err(status) => {
                // That the client is gone is no failure.
                if status.code() != Code::Cancelled {
                    tracing::warn!(error = %status, "failed to receive watch request from gRPC stream");
                    self.api.metrics.watch.receive_failures.inc();
                }
                return Err(status);
            }
        };
        let done = match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.watches.create(new_watch(create)),
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.watches.cancel(cancel.watch_id);
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress(),
            // A request of a kind that a later version may know.
            None => Ok(()),
        };
        done.map_err(|failure| self.api.read_failed(failure))
    }

    fn encode(&mut self) {
        let start = self.api.rt.mono_now();
        let identity = Identity {
            cluster_id: self.api.member.cluster_id().0,
            member_id: self.api.member.id().0,
            raft_term: self.api.member.raft_status().term.0,
        };
        for answer in &self.taken {
            self.encoder.push(answer, identity);
        }
        self.encoder.flush();
        let seconds_each = (self.api.rt.mono_now() - start).as_secs_f64() / self.taken.len() as f64;
        let metrics = &self.api.metrics.watch;
        for answer in self.taken.drain(..) {
            match answer.events() {
                0 => metrics.control_seconds.observe(seconds_each),
                events => {
                    metrics.answer_seconds.observe(seconds_each);
                    metrics.event_seconds.observe(seconds_each / events as f64);
                }
            }
        }
    }
}

/// What the hub is asked for. Filters that this version does not know filter nothing.
fn new_watch(request: WatchCreateRequest) -> NewWatch {
    let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
    NewWatch {
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        start_revision: request.start_revision,
        watch_id: request.watch_id,
        with_previous: request.prev_kv,
        progress_notify: request.progress_notify,
        fragment: request.fragment,
        key: request.key,
        range_end: request.range_end,
    }
}
