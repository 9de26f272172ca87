//! One run from one seed; many runs.

use std::sync::Arc;

use crate::world::World;

/// Runs `body` in a fresh world, on an operating system thread of its own (madsim keeps its state per thread, and so do the
/// standard library's hash maps). Panics of `body` are panics of the caller.
pub fn in_world<T, F>(seed: u64, body: impl FnOnce(Arc<World>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "outside the simulated world")]
    let thread = std::thread::spawn(move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async move { body(World::new(seed)).await })
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
