//! hyper's executor and timer on the runtime.
//!
//! hyper counts time in std's `Instant`, which only the operating system can make. [`RtTimer`] takes one of those when it is
//! created and never again: every later `Instant` is that one plus time on the runtime's monotonic clock, and only
//! differences are used. So a simulated connection lives on simulated time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_runtime::clock::MonoTime;
use quorate_runtime::{BoxFuture, Rt};

#[allow(clippy::disallowed_types)]
type Instant = std::time::Instant;

/// Runs hyper's tasks (one for each HTTP/2 stream) on the reactor of their connection.
#[derive(Clone)]
pub struct RtExecutor {
    rt: Rt,
}

impl RtExecutor {
    /// An executor on `rt`.
    pub fn new(rt: Rt) -> Self {
        Self { rt }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for RtExecutor {
    fn execute(&self, task: F) {
        self.rt.spawn(Box::pin(task));
    }
}

/// hyper's view of the runtime's monotonic clock.
#[derive(Clone)]
pub struct RtTimer {
    rt: Rt,
    anchor: Instant,
    anchor_mono: MonoTime,
}

impl RtTimer {
    /// A timer on `rt`'s monotonic clock.
    pub fn new(rt: Rt) -> Self {
        #[allow(clippy::disallowed_methods)]
        let anchor = Instant::now();
        let anchor_mono = rt.mono_now();
        Self { rt, anchor, anchor_mono }
    }
}

impl hyper::rt::Timer for RtTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(RtSleep { future: Mutex::new(self.rt.sleep(duration)) })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        self.anchor + self.rt.mono_now().since(self.anchor_mono)
    }
}

/// A sleep that may be shared between threads, as hyper demands; only ever polled through `&mut`, so the lock is never taken.
struct RtSleep {
    future: Mutex<BoxFuture<'static, ()>>,
}

impl Future for RtSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let future = self.future.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        future.as_mut().poll(context)
    }
}

impl hyper::rt::Sleep for RtSleep {}
