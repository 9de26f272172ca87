//! The pluggable runtime: everything that a member asks of the world, as traits.
//!
//! The same member runs on tokio sockets and real files (`quorate-runtime-tokio`) and inside a deterministic simulation
//! (`quorate-sim`). That holds only if *nothing* else reaches the clock, a timer, a thread, a socket, a file or a random
//! source. So all of it is here, and the deny-list in `src/clippy.toml` refuses the rest:
//!
//! - [`clock`]: wall and monotonic time, apart; sleeping.
//! - [`spawn`]: tasks, and the threads that make blocking calls.
//! - [`disk`]: files, directories, syncing, locks. Synchronous calls, made on a [`spawn::Worker`].
//! - [`net`]: listeners and byte streams, name look-up.
//! - [`random`]: bytes from the runtime's generator.
//! - [`mod@mark`], [`mod@bug`], [`witness`]: rare branches and wrong decisions by name, and what only a member's inside sees,
//!   for the simulator; constants and nothing outside of it.
//!
//! A [`Rt`] is handed down from `main` (or from the simulated world) to whatever needs it. Tokio's harmless parts
//! (channels, I/O traits, `select!`) are re-exported from here, because a crate that lists tokio itself would also see its
//! sockets and timers: cargo unifies features across a workspace.

pub mod bug;
pub mod clock;
pub mod disk;
pub mod mark;
pub mod net;
pub mod random;
pub mod spawn;
pub mod witness;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use tokio::{io, join, pin, select, sync, try_join};

/// A future on the heap that any reactor may run.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A handle on the world, cheap to clone.
pub type Rt = Arc<dyn Runtime>;

/// The world of one member (or client): its clock, tasks, disk, network and dice.
pub trait Runtime:
    clock::Clock + spawn::Spawn + disk::Disk + net::Net + random::Random + Send + Sync + 'static
{
}

impl<T> Runtime for T where
    T: clock::Clock + spawn::Spawn + disk::Disk + net::Net + random::Random + Send + Sync + 'static
{
}
