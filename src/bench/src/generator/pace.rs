//! When operations start.
//!
//! *Closed loop:* a client starts its next operation when the last one is answered.
//!
//! *Open loop:* operations start at fixed times, `rate` a second, whatever the server does. If all clients still wait for
//! answers, an operation starts late, and what it waited belongs to its latency: a server that stalls for a second shows
//! up in as many operations as were due in that second, not in one a client ("coordinated omission").

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// The start of every operation, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    rate_hz: Option<f64>,
}

impl Pace {
    /// From `start` on, `rate_hz` operations a second; `None` for a closed loop.
    pub fn new(start: Instant, rate_hz: Option<f64>) -> Self {
        Self { start, rate_hz }
    }

    /// When operation `turn` is due; `None` as soon as its client is free.
    pub fn due(&self, turn: u64) -> Option<Instant> {
        let rate_hz = self.rate_hz?;
        // Exact to the nanosecond for the first 2^53 / rate seconds.
        Some(self.start + Duration::from_secs_f64(turn as f64 / rate_hz))
    }
}

/// A timer finer than the reactor's, which counts in milliseconds.
pub struct FineTimer {
    timer: AsyncFd<OwnedFd>,
}

impl FineTimer {
    /// A timer on the calling reactor.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` owns its descriptor, and nothing takes or replaces it while the `AsyncFd` holds it.
        let timer = unsafe { AsyncFd::register(timer) }?;
        Ok(Self { timer })
    }

    /// Waits until `deadline`; returns at once if it has passed.
    pub async fn sleep_until(&mut self, deadline: Instant) -> io::Result<()> {
        let wait = deadline.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?,
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?)) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_due_at_their_turn() {
        let start = Instant::now();
        assert_eq!(Pace::new(start, None).due(5), None);
        assert_eq!(Pace::new(start, Some(1000.0)).due(2500), Some(start + Duration::from_millis(2500)));
    }

    #[test]
    fn a_fine_timer_waits_as_long_as_asked() {
        let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        reactor.block_on(async {
            let mut timer = FineTimer::new().unwrap();
            for micros in [0, 200, 3000] {
                let deadline = Instant::now() + Duration::from_micros(micros);
                timer.sleep_until(deadline).await.unwrap();
                assert!(Instant::now() >= deadline);
            }
        });
    }
}
