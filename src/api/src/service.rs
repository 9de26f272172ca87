//! One service for everything that a client's port answers: a path to a handler, and what all gRPC calls have in common.
//!
//! A gRPC call: headers say gRPC → the path is looked up in [`Method`] → the message is received and decoded → the call is
//! counted → a learner, or a member without a leader whose client asks for one, refuses → the handler → the answer is
//! encoded and leaves. Everything else is plain HTTP ([`crate::plain`]) or the gateway's ([`crate::gateway`]).
//!
//! [`Api`] holds the handlers as ordinary methods, so that they can also be called without HTTP.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri};
use http_body::Body;
use prometheus::Registry;
use prost::Message;
use quorate_member::Member;
use quorate_proto::etcdserverpb::{InternalRaftRequest, RangeResponse, ResponseHeader, TxnResponse};
use quorate_runtime::net::Address;
use quorate_runtime::sync::watch;
use quorate_runtime::{BoxFuture, Rt, select};
use quorate_store::ReadError;
use quorate_types::Error;
use tonic::{Code, Status};

use crate::access::{self, Access};
use crate::body::{ApiBody, Messages};
use crate::debug::{self, Process};
use crate::gateway::websocket;
use crate::grpc::Requests;
use crate::leader_watch::{LeaderLost, LeaderWatch};
use crate::method::{Method, knows_service};
use crate::metrics::{Metrics, Received, Running};
use crate::recent_calls::{self, RecentCalls};
use crate::request_stats::Watched;
use crate::room::{Hold, Room, Roomy};
use crate::{errors, gateway, grpc, plain, pprof};

/// Clients that want an error instead of waiting for a leader send this with the value `true`.
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
/// The version of the client library; only checked to be text.
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");

/// What a gRPC message may have beyond `max_request_bytes`: etcd's allowance for everything around a value.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// What the API needs beside the member.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Further metrics that `/metrics` shows, such as those of the process.
    pub registries: Vec<Registry>,
    /// A watch that wants to know is told how far it is after so long without an event, and up to a tenth more.
    pub watch_progress_interval: Duration,
    /// gRPC is served as JSON, too (`--enable-grpc-gateway`).
    pub has_gateway: bool,
    /// Who may ask over plain HTTP.
    pub access: Access,
    /// While the database is defragmented gRPC's health service says that nothing is served, so that balancers send requests
    /// elsewhere (gate `StopGRPCServiceOnDefrag`).
    pub unwell_in_defragmentation: bool,
    /// A call of one answer that takes longer gets a line in the log (`--warning-unary-request-duration`).
    pub slow_after: Duration,
    /// Metrics tell how long gRPC's calls take (`--metrics=extensive`).
    pub has_latencies: bool,
    /// `/debug/requests` shows the last calls.
    pub has_recent_calls: bool,
    /// The process around the member.
    pub process: Process,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// Everything.
    #[default]
    Both,
    /// gRPC alone, where plain HTTP has listeners of its own.
    Grpc,
    /// Plain HTTP and the gateway alone.
    Http,
    /// Metrics and health, for who shall see nothing else.
    Metrics,
}

impl Traffic {
    /// As etcd's log names it.
    pub fn name(self) -> &'static str {
        match self {
            Traffic::Both => "grpc+http",
            Traffic::Grpc => "grpc",
            Traffic::Http => "http",
            Traffic::Metrics => "metrics",
        }
    }
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            registries: Vec::new(),
            watch_progress_interval: Duration::from_secs(10 * 60),
            has_gateway: true,
            access: Access::default(),
            unwell_in_defragmentation: false,
            slow_after: Duration::from_millis(300),
            has_latencies: false,
            has_recent_calls: false,
            process: Process::default(),
        }
    }
}

/// The handlers, on one member.
pub struct Api {
    pub(crate) rt: Rt,
    pub(crate) member: Member,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registries: Vec<Registry>,
    pub(crate) watch_progress_interval: Duration,
    /// The largest request, with what is allowed around it.
    pub(crate) message_bytes_max: usize,
    pub(crate) has_gateway: bool,
    /// How many things are going on during which gRPC's health service says that nothing is served.
    pub(crate) unwell: Arc<watch::Sender<usize>>,
    pub(crate) unwell_in_defragmentation: bool,
    pub(crate) process: Process,
    recent_calls: Option<Arc<RecentCalls>>,
    slow_after: Duration,
    /// Room for what comes in, and for what goes out.
    requests: Room,
    pub(crate) answers: Room,
    access: Access,
    leader_watch: LeaderWatch,
    /// True once streams had better go elsewhere.
    drain: watch::Sender<bool>,
}

impl Api {
    /// The API of `member`.
    pub fn new(rt: Rt, member: Member, options: ApiOptions) -> Arc<Self> {
        let registry = Registry::new();
        let clock = options.has_latencies.then(|| Rt::clone(&rt));
        let recent_calls = options.has_recent_calls.then(|| RecentCalls::new(Rt::clone(&rt)));
        let metrics =
            Metrics::register(&registry, clock, recent_calls.clone()).expect("an empty registry takes distinct names");
        let message_bytes_max = member.config().max_request_bytes + MESSAGE_OVERHEAD_BYTES;
        let mut registries = options.registries;
        registries.push(registry);
        registries.push(member.metrics().registry().clone());
        let leader_watch = LeaderWatch::start(&rt, &member);
        let room = || Room::new(Rt::clone(&rt), member.config().inflight_bytes_max, member.config().request_timeout());
        let (requests, answers) = (room(), room());
        Arc::new(Self {
            rt,
            member,
            metrics: Arc::new(metrics),
            registries,
            watch_progress_interval: options.watch_progress_interval,
            message_bytes_max,
            has_gateway: options.has_gateway,
            unwell: Arc::new(watch::Sender::new(0)),
            unwell_in_defragmentation: options.unwell_in_defragmentation,
            process: options.process,
            recent_calls,
            slow_after: options.slow_after,
            requests,
            answers,
            access: options.access,
            leader_watch,
            drain: watch::Sender::new(false),
        })
    }

    /// Completes once streams that would go on for ever have to end.
    pub(crate) async fn draining(&self) {
        // The sender is ours.
        let _ = self.drain.subscribe().wait_for(|asked| *asked).await;
    }

    /// True once [`draining`](Self::draining) completes.
    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Proposes `request` and waits until it is applied here.
    pub(crate) async fn propose(&self, request: InternalRaftRequest) -> Result<quorate_store::Response, Status> {
        self.member.propose(request).await.map_err(errors::status)
    }

    /// The status of a read that failed. Damage stops the member, and is told as it is: no error of etcd's names the file.
    pub(crate) fn read_failed(&self, failure: ReadError) -> Status {
        match failure {
            ReadError::Refused(error) => errors::status(error),
            ReadError::Closed(_) => errors::status(Error::Stopped),
            ReadError::Damaged(damage) => {
                self.member.fail(format!("a read found damage: {damage}"));
                Status::data_loss(damage.to_string())
            }
        }
    }

    /// Completes the header of an answer: who answers, in which term, and at which revision if the handler left it open.
    pub(crate) fn fill(&self, header: &mut Option<ResponseHeader>) {
        let header = header.get_or_insert_default();
        self.fill_without_revision(header);
        if header.revision == 0 {
            header.revision = self.member.view().revision().0;
        }
    }

    /// The same for answers whose revision may be missing.
    pub(crate) fn fill_without_revision(&self, header: &mut ResponseHeader) {
        header.cluster_id = self.member.cluster_id().0;
        header.member_id = self.member.id().0;
        header.raft_term = self.member.raft_status().term.0;
    }

    /// Refuses what this member must not answer now, for who calls a handler himself. `learner_may`: a learner may answer it.
    pub fn admit_call(&self, learner_may: bool) -> Result<(), Status> {
        self.admit(&HeaderMap::new(), learner_may).map_err(errors::status)
    }

    /// The same, for a call with these headers.
    fn admit(&self, headers: &HeaderMap, learner_may: bool) -> Result<(), Error> {
        if !learner_may && self.member.raft_status().is_learner {
            return Err(Error::NotSupportedForLearner);
        }
        if headers.get(&CLIENT_API_VERSION).is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
            return Err(Error::InvalidClientApiVersion);
        }
        if wants_leader(headers) && self.member.raft_status().leader.is_none() {
            return Err(Error::NoLeader);
        }
        Ok(())
    }
}

/// The client would rather be refused than wait for a leader.
fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get(&HAS_LEADER).is_some_and(|value| value == "true")
}

/// [`Api`] as a tower service over HTTP requests. Cheap to clone.
#[derive(Clone)]
pub struct ApiService {
    api: Arc<Api>,
    traffic: Traffic,
    remote: Remote,
}

/// Who asks, where that is known.
pub(crate) type Remote = Option<Arc<Address>>;

/// A call of a gRPC method.
pub(crate) struct Asked<B> {
    pub(crate) api: Arc<Api>,
    pub(crate) method: Method,
    pub(crate) remote: Remote,
    pub(crate) request: Request<B>,
}

impl ApiService {
    /// Serves `api`.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api, traffic: Traffic::Both, remote: None }
    }

    /// The same for a listener of other traffic.
    pub fn for_traffic(&self, traffic: Traffic) -> Self {
        Self { traffic, ..self.clone() }
    }

    /// The same for the connection of `remote`.
    pub fn for_remote(&self, remote: &Address) -> Self {
        Self { remote: Some(Arc::new(remote.clone())), ..self.clone() }
    }

    /// Answers what is asked over plain HTTP, whoever asks.
    pub(crate) async fn answer_plain(&self, method: &http::Method, uri: &Uri) -> Response<ApiBody> {
        plain::answer(&self.api, method, uri).await
    }

    /// Ends the streams that would go on for ever: their clients find another member. To be called when a server begins to
    /// shut down, which otherwise would wait for them.
    pub fn drain(&self) {
        self.api.drain.send_replace(true);
    }
}

/// gRPC and plain HTTP for `member`.
pub fn service(rt: Rt, member: Member, options: ApiOptions) -> ApiService {
    ApiService::new(Api::new(rt, member, options))
}

type Answer = BoxFuture<'static, Result<Response<ApiBody>, Infallible>>;

impl<B> tower_service::Service<Request<B>> for ApiService
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let (api, remote) = (self.api.clone(), self.remote.clone());
        match self.traffic {
            Traffic::Both if !grpc::is_grpc(request.headers()) => Box::pin(answer_http(api, remote, request)),
            Traffic::Both => answer_grpc(api, remote, request),
            Traffic::Grpc if !grpc::is_grpc(request.headers()) => now(grpc::refuse_content_type(request.headers())),
            Traffic::Grpc => answer_grpc(api, remote, request),
            Traffic::Http => Box::pin(answer_http(api, remote, request)),
            Traffic::Metrics => {
                Box::pin(async move { Ok(plain::answer_monitoring(&api, request.method(), request.uri()).await) })
            }
        }
    }
}

/// Everything that is no gRPC.
async fn answer_http<B>(api: Arc<Api>, remote: Remote, request: Request<B>) -> Result<Response<ApiBody>, Infallible>
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    if let Some(refused) = api.access.refuse_host(&parts) {
        return Ok(refused);
    }
    gateway::rename_old_path(&mut parts);
    let origin = access::origin(&parts);
    let mut response = if parts.method == http::Method::OPTIONS {
        // Whatever the path: a browser asks so whether a page may ask.
        Response::new(ApiBody::Empty)
    } else if api.has_gateway && gateway::is_its_path(parts.uri.path()) {
        if websocket::is_asked_for(&parts.headers) {
            websocket::accept(api.clone(), remote, parts)
        } else {
            gateway::answer(api.clone(), remote, parts, body).await
        }
    } else if parts.uri.path() == debug::LOG_LEVEL {
        debug::set_log_level(&api, &parts.method, body).await
    } else if let Some(profiler) = &api.process.profiler
        && parts.uri.path().starts_with(pprof::PREFIX)
    {
        pprof::answer(&api, Arc::clone(profiler), &parts, body).await
    } else if let Some(calls) = &api.recent_calls
        && parts.uri.path() == recent_calls::PATH
    {
        calls.answer(&parts.uri)
    } else {
        plain::answer(&api, &parts.method, &parts.uri).await
    };
    // What begins there is no page's to read, or not to read.
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        api.access.tell_origin(origin.as_ref(), response.headers_mut());
    }
    Ok(response)
}

/// A gRPC call, by its path.
fn answer_grpc<B>(api: Arc<Api>, remote: Remote, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    if request.method() != http::Method::POST {
        return now(grpc::refuse_method(request.method()));
    }
    let path = request.uri().path();
    match Method::from_path(path) {
        Some(method) => answer_method(Asked { api, method, remote, request }),
        None => now(grpc::refuse_path(path, knows_service)),
    }
}

/// A call of `method` that does not come from a listener.
pub(crate) async fn dispatch<B>(asked: Asked<B>) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    match answer_method(asked).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn answer_method<B>(asked: Asked<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    match asked.method {
        Method::Range => unary::<_, _, _, RangeResponse, _>(asked, |range| range.serializable, Api::range_with_room),
        Method::RangeStream => server_stream(asked, never, Api::range_stream),
        Method::Put => unary(asked, never, Api::put),
        Method::DeleteRange => unary(asked, never, Api::delete_range),
        Method::Txn => unary::<_, _, _, TxnResponse, _>(asked, never, Api::txn_with_room),
        Method::Compact => unary(asked, never, Api::compact),
        Method::Watch => bidi(asked, Api::watch),
        Method::LeaseGrant => unary(asked, never, Api::lease_grant),
        Method::LeaseRevoke => unary(asked, never, Api::lease_revoke),
        Method::LeaseKeepAlive => bidi(asked, Api::lease_keep_alive),
        Method::LeaseTimeToLive => unary(asked, never, Api::lease_time_to_live),
        Method::LeaseLeases => unary(asked, never, Api::lease_leases),
        Method::MemberAdd => unary(asked, never, Api::member_add),
        Method::MemberRemove => unary(asked, never, Api::member_remove),
        Method::MemberUpdate => unary(asked, never, Api::member_update),
        Method::MemberList => unary(asked, never, Api::member_list),
        Method::MemberPromote => unary(asked, never, Api::member_promote),
        Method::Alarm => unary(asked, never, Api::alarm),
        Method::Status => unary(asked, |_| true, Api::status),
        Method::MoveLeader => unary(asked, never, Api::move_leader),
        Method::HashKv => unary(asked, never, Api::hash_kv),
        Method::Hash => unary(asked, never, Api::hash),
        Method::Snapshot => server_stream(asked, |_| true, Api::snapshot),
        Method::Defragment => unary(asked, never, Api::defragment),
        Method::Downgrade => unary(asked, never, Api::downgrade),
        Method::Lock => unary(asked, never, Api::lock),
        Method::Unlock => unary(asked, never, Api::unlock),
        Method::Campaign => unary(asked, never, Api::campaign),
        Method::Proclaim => unary(asked, never, Api::proclaim),
        Method::Leader => unary(asked, never, Api::leader),
        Method::Observe => server_stream(asked, never, Api::observe),
        Method::Resign => unary(asked, never, Api::resign),
        Method::HealthCheck => unary(asked, never, Api::health_check),
        Method::HealthList => unary(asked, never, Api::health_list),
        Method::HealthWatch => server_stream(asked, never, Api::health_watch),
        Method::Reflection | Method::ReflectionAlpha => bidi(asked, Api::reflection),
    }
}

/// No learner answers this.
fn never<Q>(_: &Q) -> bool {
    false
}

fn now(response: Response<ApiBody>) -> Answer {
    Box::pin(std::future::ready(Ok(response)))
}

/// One message there, one back.
fn unary<B, Q, A, M, F>(asked: Asked<B>, learner_may: fn(&Q) -> bool, handler: fn(Arc<Api>, Q) -> F) -> Answer
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
    Q: Message + Default + 'static,
    A: Into<Roomy<M>> + Send,
    M: Message,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    Box::pin(async move {
        let Asked { api, method, remote, request } = asked;
        let Accepted { request, encoded, mut running, hold: _hold } =
            match accept(&api, method, request, learner_may).await {
                Ok(accepted) => accepted,
                Err(status) => return Ok(grpc::refuse(status)),
            };
        let watched = Watched::begin(&api.rt, method, encoded);
        let answered = handler(Arc::clone(&api), request).await.and_then(|answer| api.answers.encode(answer.into()));
        let told = answered.as_ref().ok().map(|message| &message[grpc::PREFIX_BYTES..]);
        watched.end(&api.rt, api.slow_after, remote.as_deref(), told);
        Ok(match answered {
            Ok(message) => {
                running.sent(message.len() - grpc::PREFIX_BYTES);
                running.finish(Code::Ok);
                grpc::answer(ApiBody::Message(message))
            }
            Err(status) => {
                running.finish(status.code());
                grpc::refuse(status)
            }
        })
    })
}

/// One message there, many back.
fn server_stream<B, Q>(
    asked: Asked<B>,
    learner_may: fn(&Q) -> bool,
    handler: fn(Arc<Api>, Q) -> Result<Messages, Status>,
) -> Answer
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
    Q: Message + Default + 'static,
{
    Box::pin(async move {
        let Asked { api, method, request, .. } = asked;
        let leader_lost = api.leader_watch.lost(wants_leader(request.headers()));
        let Accepted { request, mut running, .. } = match accept(&api, method, request, learner_may).await {
            Ok(accepted) => accepted,
            Err(status) => return Ok(grpc::refuse(status)),
        };
        Ok(match handler(api, request) {
            Ok(messages) => grpc::answer(ApiBody::stream(until_lost(messages, leader_lost), running)),
            Err(status) => {
                running.finish(status.code());
                grpc::refuse(status)
            }
        })
    })
}

/// The same messages, until there is no leader for a client that wants one.
fn until_lost(messages: Messages, leader_lost: LeaderLost) -> Messages {
    Box::pin(stream::try_unfold((messages, leader_lost), |(mut messages, mut leader_lost)| async move {
        select! {
            biased;
            () = leader_lost.told() => Err(errors::status(Error::NoLeader)),
            chunk = messages.next() => Ok(chunk.transpose()?.map(|chunk| (chunk, (messages, leader_lost)))),
        }
    }))
}

/// Many messages each way. No learner streams.
fn bidi<B>(asked: Asked<B>, handler: fn(Arc<Api>, Incoming<B>, LeaderLost) -> Messages) -> Answer
where
    B: Body<Data = Bytes, Error: Display> + Send + 'static,
{
    let Asked { api, method, request, .. } = asked;
    let (parts, body) = request.into_parts();
    if let Err(status) = grpc::check_encoding(&parts.headers) {
        return now(grpc::refuse(status));
    }
    let mut running = api.metrics.begin_stream(method, &parts.headers);
    if let Err(error) = api.admit(&parts.headers, false) {
        let status = errors::status(error);
        running.finish(status.code());
        return now(grpc::refuse(status));
    }
    let incoming =
        Incoming { requests: Requests::new(body, api.message_bytes_max), counted: running.received_counter() };
    let leader_lost = api.leader_watch.lost(wants_leader(&parts.headers));
    now(grpc::answer(ApiBody::stream(handler(api, incoming, leader_lost), running)))
}

/// Completes when the server ends a call of many messages, with the reason.
pub(crate) fn end_of_stream(api: &Arc<Api>, mut leader_lost: LeaderLost) -> BoxFuture<'static, Error> {
    let api = Arc::clone(api);
    Box::pin(async move {
        select! {
            biased;
            () = api.draining() => Error::Stopped,
            () = api.member.stopping() => Error::Stopped,
            () = leader_lost.told() => Error::NoLeader,
        }
    })
}

/// What a call of many messages gets.
pub(crate) struct Incoming<B> {
    requests: Requests<B>,
    counted: Received,
}

impl<B> Incoming<B>
where
    B: Body<Data = Bytes, Error: Display>,
{
    /// The next message; `None` once the client has sent its last.
    pub(crate) async fn next<Q: Message + Default>(&mut self) -> Result<Option<Q>, Status> {
        let Some(message) = self.requests.next().await? else { return Ok(None) };
        self.counted.add(message.len());
        grpc::decode(message).map(Some)
    }
}

/// A call that this member answers.
struct Accepted<Q> {
    request: Q,
    /// As it came.
    encoded: Bytes,
    running: Running,
    /// The room that its message takes.
    hold: Hold,
}

/// How every call begins: its message is received and decoded, the call is counted, and this member may answer it now.
async fn accept<B, Q>(
    api: &Api,
    method: Method,
    request: Request<B>,
    learner_may: fn(&Q) -> bool,
) -> Result<Accepted<Q>, Status>
where
    B: Body<Data = Bytes, Error: Display>,
    Q: Message + Default,
{
    let (parts, body) = request.into_parts();
    grpc::check_encoding(&parts.headers)?;
    let (message, hold) = grpc::receive(body, api.message_bytes_max, &api.requests).await?;
    let request: Q = grpc::decode(message.clone())?;
    let mut running = api.metrics.begin(method, &parts.headers, message.len());
    if let Err(error) = api.admit(&parts.headers, learner_may(&request)) {
        let status = errors::status(error);
        running.finish(status.code());
        return Err(status);
    }
    Ok(Accepted { request, encoded: message, running, hold })
}
