//! hyper's time, from the runtime's monotonic clock.

#![allow(clippy::disallowed_types, reason = "hyper's timer trait speaks of std's Instant")]

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quorate_runtime::clock::MonoTime;
use quorate_runtime::{BoxFuture, Rt};

/// A timer on the runtime's clock. Cheap to clone.
///
/// hyper counts in [`Instant`]s. One pair of points, taken when the timer is made, translates: how far an `Instant` is
/// from the first point is how far the runtime's clock is from the second.
#[derive(Clone)]
pub struct Timer {
    rt: Rt,
    start_instant: Instant,
    start: MonoTime,
}

impl Timer {
    /// A timer over `rt`'s monotonic clock.
    #[allow(
        clippy::disallowed_methods,
        reason = "an Instant can only be made from now; only differences to it are used"
    )]
    pub fn new(rt: Rt) -> Self {
        let start = rt.mono_now();
        Self { rt, start_instant: Instant::now(), start }
    }
}

impl hyper::rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep { sleep: Mutex::new(self.rt.sleep(duration)) })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let deadline = self.start + deadline.saturating_duration_since(self.start_instant);
        Box::pin(Sleep { sleep: Mutex::new(self.rt.sleep_until(deadline)) })
    }

    fn now(&self) -> Instant {
        self.start_instant + self.rt.mono_now().since(self.start)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("start", &self.start).finish_non_exhaustive()
    }
}

/// One wait. The mutex is never locked: it makes the future `Sync`, which hyper asks for and nobody uses.
struct Sleep {
    sleep: Mutex<BoxFuture<'static, ()>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        sleep.as_mut().poll(context)
    }
}

impl hyper::rt::Sleep for Sleep {}
