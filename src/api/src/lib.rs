//! What clients talk to: gRPC services and plain HTTP on one port, over the runtime's streams.

mod exec;
mod io;
mod server;

pub use exec::{RtExecutor, RtTimer};
pub use io::HyperStream;
pub use server::{BoxError, ServerOptions, serve, serve_with};
