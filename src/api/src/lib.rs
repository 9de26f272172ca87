//! What clients talk to: gRPC services and plain HTTP on one port, over the runtime's streams.

mod server;

pub use server::{BoxError, ServerOptions, serve, serve_with};
