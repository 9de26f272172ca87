//! What hyper asks of the world, given to it from a runtime: byte streams, tasks, time.
//!
//! hyper speaks HTTP and touches nothing by itself: it reads and writes through [`HyperStream`], starts its tasks through
//! [`Executor`], and waits through [`Timer`]. Servers (`quorate-api`) and clients (`quorate-client`) both stand on these
//! three, so the same HTTP code runs over real sockets and inside the simulation. A server reads through an
//! [`AuthorityFilter`] as well, for clients that send what its HTTP parser refuses and etcd takes, and through a [`PingLimit`], for
//! clients that ask too often whether it is there. A connection that goes on with another protocol does so as an
//! [`UpgradedStream`].

mod authority;
mod executor;
mod frames;
mod header_block;
mod ping_limit;
mod stream;
mod timer;
mod upgraded;

pub use authority::AuthorityFilter;
pub use executor::Executor;
pub use ping_limit::PingLimit;
pub use stream::HyperStream;
pub use timer::Timer;
pub use upgraded::UpgradedStream;
