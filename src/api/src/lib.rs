//! What clients talk to: gRPC services and plain HTTP on one port, over the runtime's streams.
//!
//! The way of a call, file by file:
//!
//! - [`server`](serve): a connection is accepted, given to a reactor, and speaks HTTP/1.1 or HTTP/2; `after_http`: and then, perhaps,
//!   something else.
//! - `service`: its requests find their handlers ([`Api`]); `method` is the table of paths.
//! - `grpc`, `body`: messages in and out of HTTP bodies.
//! - `kv`, `maintenance`, `cluster`: the handlers. `check` says what is wrong with a request before the store is asked,
//!   `errors` how an error looks on the wire.
//! - `concurrency`: locks and elections, as clients of the handlers.
//! - `watch`: streams of watches; `leader_watch` ends those that want a leader when there is none.
//! - `grpc_health`, `reflection`: gRPC's own services.
//! - `plain`, `debug`, `pprof`, `recent_calls`: `/version`, `/metrics` and what else is no gRPC; `health` and `probes`: is the
//!   member well. `gateway`: all of gRPC as JSON. `access`: whose pages may ask. `peer`: the port that other members talk to.
//! - `room`: how much large messages may take in memory.
//! - `metrics`: what is counted on the way; `timed_read`, `request_stats`: what is said of slow calls.
//!
//! Nothing here keeps state of the store: a write goes to [`Member::propose`](quorate_member::Member::propose), a read to a
//! view.

mod access;
mod after_http;
mod body;
mod call_counters;
mod check;
mod cluster;
mod concurrency;
mod debug;
mod descriptors;
mod errors;
mod gateway;
mod grpc;
mod grpc_health;
mod health;
mod kv;
mod leader_watch;
mod lease;
mod maintenance;
mod method;
mod metrics;
mod peer;
mod plain;
mod pprof;
mod probes;
mod recent_calls;
mod reflection;
mod request_stats;
mod room;
mod server;
mod service;
mod snapshot;
mod timed_read;
mod watch;

pub use access::Access;
pub use body::{ApiBody, Messages};
pub use debug::{Process, SetLogLevel, TellVariables};
pub use peer::{PeerBody, PeerPort};
pub use pprof::{CpuSamples, Profiler};
pub use server::{BoxError, ServerOptions, serve, serve_each, serve_peers};
pub use service::{Api, ApiOptions, ApiService, Traffic, service};
