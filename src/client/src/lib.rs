//! The client library: connections that tonic's generated clients run on.
//!
//! ```no_run
//! # async fn example(rt: quorate_runtime::Rt) -> Result<(), Box<dyn std::error::Error>> {
//! use quorate_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
//! use quorate_runtime::net::Address;
//!
//! let connection = quorate_client::Connection::connect(&rt, Address::Tcp("127.0.0.1:2379".parse()?)).await?;
//! let mut kv = KvClient::with_origin(connection.clone(), connection.origin());
//! let answer = kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
//! println!("revision {}", answer.into_inner().header.unwrap_or_default().revision);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Connection`] is exactly one HTTP/2 connection: it never reconnects by itself. Whoever calls decides what a broken
//! connection means for a request that may or may not have been executed. A [`WatchStream`] or a [`KeepAliveStream`] is one call
//! on it.

mod connection;
mod keep_alive;
mod watch;

pub use connection::{Answer, ConnectError, Connection};
pub use keep_alive::KeepAliveStream;
pub use watch::WatchStream;
