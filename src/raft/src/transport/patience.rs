//! Waiting for something that should keep coming.

use std::time::Duration;

use quorate_runtime::clock::{Elapsed, MonoTime};
use quorate_runtime::{BoxFuture, Rt, pin, select};

/// Waits for one thing after the other, each for at most a fixed time.
///
/// A stream brings thousands of frames a second, so no timer is made for each: one timer runs, and when it fires it is set
/// again to what is due by then.
pub struct Patience {
    rt: Rt,
    limit: Duration,
    deadline: MonoTime,
    timer: BoxFuture<'static, ()>,
}

impl Patience {
    /// Waits `limit` each time.
    pub fn new(rt: Rt, limit: Duration) -> Self {
        let deadline = rt.mono_now() + limit;
        Self { limit, deadline, timer: rt.sleep_until(deadline), rt }
    }

    /// How long it waits for each.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for `work`.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        self.deadline = self.rt.mono_now() + self.limit;
        pin!(work);
        loop {
            select! {
                biased;
                done = &mut work => return Ok(done),
                () = &mut self.timer => {
                    let is_over = self.rt.mono_now() >= self.deadline;
                    self.timer = self.rt.sleep_until(self.deadline);
                    if is_over {
                        return Err(Elapsed);
                    }
                }
            }
        }
    }
}
