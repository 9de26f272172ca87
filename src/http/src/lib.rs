//! What hyper asks of the world, given to it from a runtime: byte streams, tasks, time.
//!
//! hyper speaks HTTP and touches nothing by itself: it reads and writes through [`HyperStream`], starts its tasks through
//! [`Executor`], and waits through [`Timer`]. Servers (`quorate-api`) and clients (`quorate-client`) both stand on these
//! three, so the same HTTP code runs over real sockets and inside the simulation.

mod executor;
mod stream;
mod timer;

pub use executor::Executor;
pub use stream::HyperStream;
pub use timer::Timer;
