//! Simulated time, what a machine's clock makes of it, and alarms.
//!
//! There is one true time, [`now`], which nobody in the product sees. A [`MachineClock`] shows it with an offset and at a wrong
//! rate: the monotonic clock only by rate, the wall clock also by an offset that may jump.

use std::cell::OnceCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::time::TimeHandle;
use quorate_runtime::clock::{MonoTime, WallTime};

use crate::world::{lock, wakes};

/// Simulated time since the run began, the same for all machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimTime(u64);

impl SimTime {
    /// Later than any event.
    pub const NEVER: SimTime = SimTime(u64::MAX);

    /// The point `nanos` nanoseconds into the run.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds into the run.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `nanos` nanoseconds later.
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Time since `earlier`; zero if that is later.
    pub const fn since(self, earlier: SimTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::fmt::Display for SimTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

thread_local! {
    // A simulation lives on one thread of its own, and asks for the time more often than for anything else.
    static TIME: OnceCell<TimeHandle> = const { OnceCell::new() };
}

/// The true time; zero outside a simulation.
pub fn now() -> SimTime {
    TIME.with(|known| {
        let time = known.get().or_else(|| {
            let current = TimeHandle::try_current()?;
            Some(known.get_or_init(|| current))
        });
        time.map_or(SimTime(0), |time| SimTime(time.elapsed().as_nanos() as u64))
    })
}

/// Wakes `waker` at `at`, or at once if that has passed. Cannot be taken back: wake something that may be woken in vain.
pub fn wake_at(at: SimTime, waker: &Waker) {
    let time = TimeHandle::current();
    let deadline = time.now_instant() + at.since(now());
    // madsim makes a sleep at least a millisecond long; `reset` does not.
    let mut sleep = pin!(time.sleep_until(deadline));
    sleep.as_mut().reset(deadline);
    if sleep.poll(&mut Context::from_waker(waker)).is_ready() {
        waker.wake_by_ref();
    }
}

/// Sleeps until the true time is `at`.
pub async fn sleep_until(at: SimTime) {
    Sleep { due: Due::True(at), alarm: None }.await;
}

/// Sleeps for `duration` of true time.
pub async fn sleep(duration: Duration) {
    sleep_until(now().plus_nanos(duration.as_nanos() as u64)).await;
}

/// What a timer calls: wakes the task that waits *now*, or nobody. So an abandoned sleep costs no wake-up.
#[derive(Default)]
struct Alarm {
    state: Mutex<AlarmState>,
}

#[derive(Default)]
struct AlarmState {
    waiter: Option<Waker>,
    rung: bool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let waiter = {
            let mut state = lock(&self.state);
            state.rung = true;
            state.waiter.take()
        };
        if let Some(waiter) = waiter {
            wakes::by_timer(waiter);
        }
    }
}

enum Due {
    True(SimTime),
    Machine(Arc<MachineClock>, MonoTime),
}

/// A future that ends at a time, by the true clock or by a machine's.
pub struct Sleep {
    due: Due,
    alarm: Option<Arc<Alarm>>,
}

impl Sleep {
    /// Ends when `clock` shows `deadline` or later.
    pub fn by_machine(clock: Arc<MachineClock>, deadline: MonoTime) -> Self {
        Self { due: Due::Machine(clock, deadline), alarm: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at = match &self.due {
            Due::True(at) => *at,
            Due::Machine(clock, deadline) => clock.when(*deadline),
        };
        if at <= now() {
            return Poll::Ready(());
        }
        let armed = self.alarm.as_ref().is_some_and(|alarm| {
            let mut state = lock(&alarm.state);
            state.waiter = Some(context.waker().clone());
            !state.rung
        });
        if !armed {
            let alarm = Arc::new(Alarm {
                state: Mutex::new(AlarmState { waiter: Some(context.waker().clone()), rung: false }),
            });
            wake_at(at, &Waker::from(Arc::clone(&alarm)));
            self.alarm = Some(alarm);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = &self.alarm {
            lock(&alarm.state).waiter = None;
        }
    }
}

/// How wrong a monotonic clock has been, at the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockErrors {
    /// Away from the true rate, either way.
    pub rate_ppm_max: u64,
    /// It leapt forward.
    pub leapt: bool,
}

impl ClockErrors {
    /// The worse of both.
    pub fn or(self, other: Self) -> Self {
        Self { rate_ppm_max: self.rate_ppm_max.max(other.rate_ppm_max), leapt: self.leapt || other.leapt }
    }
}

/// A machine's two clocks. Rates are in parts per million away from the true rate.
pub struct MachineClock {
    state: Mutex<ClockState>,
}

#[derive(Clone, Copy)]
struct ClockState {
    /// The true time and the shown monotonic time at the last change of rate.
    since: SimTime,
    mono_ns: u64,
    rate_ppm: i64,
    /// Shown wall time minus shown monotonic time.
    wall_minus_mono_ns: i64,
    errors: ClockErrors,
}

/// 2026-01-01T00:00:00Z, when every run begins.
const EPOCH_UNIX_NS: i64 = 1_767_225_600_000_000_000;

impl MachineClock {
    /// A clock that is right, on a machine that booted `uptime` before the run began.
    pub fn new(uptime: Duration) -> Self {
        let mono_ns = uptime.as_nanos() as u64;
        Self {
            state: Mutex::new(ClockState {
                since: SimTime(0),
                mono_ns,
                rate_ppm: 0,
                wall_minus_mono_ns: EPOCH_UNIX_NS - mono_ns as i64,
                errors: ClockErrors::default(),
            }),
        }
    }

    /// What the monotonic clock shows.
    pub fn mono_now(&self) -> MonoTime {
        MonoTime::from_nanos(lock(&self.state).mono_at(now()))
    }

    /// What the wall clock shows.
    pub fn wall_now(&self) -> WallTime {
        let state = lock(&self.state);
        let shown = (state.mono_at(now()) as i64).saturating_add(state.wall_minus_mono_ns);
        WallTime::from_unix_nanos(u64::try_from(shown).unwrap_or(0))
    }

    /// Lets both clocks run `rate_ppm` parts per million too fast (negative: too slow), at most 20 %.
    pub fn set_rate(&self, rate_ppm: i64) {
        assert!(rate_ppm.abs() <= 200_000, "a clock's rate may be wrong by 20 % at most");
        let mut state = lock(&self.state);
        let at = now();
        state.mono_ns = state.mono_at(at);
        state.since = at;
        state.rate_ppm = rate_ppm;
        state.errors = state.errors.or(ClockErrors { rate_ppm_max: rate_ppm.unsigned_abs(), leapt: false });
    }

    /// How wrong it has been so far.
    pub fn errors(&self) -> ClockErrors {
        lock(&self.state).errors
    }

    /// Makes the wall clock jump, either way.
    pub fn jump_wall(&self, by_ns: i64) {
        lock(&self.state).wall_minus_mono_ns += by_ns;
    }

    /// Makes both clocks leap forward, as after a suspend.
    pub fn leap(&self, by: Duration) {
        let mut state = lock(&self.state);
        state.mono_ns += by.as_nanos() as u64;
        state.errors.leapt = true;
    }

    /// The true time at which the monotonic clock will show `deadline`, if its rate stays.
    fn when(&self, deadline: MonoTime) -> SimTime {
        let state = lock(&self.state);
        let wait_ns = deadline.as_nanos().saturating_sub(state.mono_ns);
        if state.rate_ppm == 0 {
            // Most clocks are right, and every poll of a timer asks.
            return SimTime(state.since.0.saturating_add(wait_ns));
        }
        let rate = (1_000_000 + state.rate_ppm) as u128;
        let true_ns = (u128::from(wait_ns) * 1_000_000).div_ceil(rate);
        SimTime(u64::try_from(u128::from(state.since.0) + true_ns).unwrap_or(u64::MAX))
    }
}

impl ClockState {
    fn mono_at(&self, at: SimTime) -> u64 {
        let since_ns = at.0 - self.since.0;
        if self.rate_ppm == 0 {
            return self.mono_ns + since_ns;
        }
        let rate = (1_000_000 + self.rate_ppm) as u128;
        self.mono_ns + (u128::from(since_ns) * rate / 1_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::in_world;

    #[test]
    fn a_sleep_is_as_long_as_asked_below_a_millisecond_too() {
        in_world(1, |_| async {
            let before = now();
            sleep(Duration::from_micros(30)).await;
            let slept = now().since(before);
            assert!(slept >= Duration::from_micros(30) && slept < Duration::from_micros(40), "{slept:?}");
        });
    }

    #[test]
    fn a_fast_clock_ends_its_sleeps_early_and_a_slow_one_late() {
        in_world(1, |_| async {
            for (rate_ppm, expect_ms) in [(100_000, 909), (-100_000, 1111), (0, 1000)] {
                let clock = Arc::new(MachineClock::new(Duration::from_secs(5)));
                clock.set_rate(rate_ppm);
                let (before, shown) = (now(), clock.mono_now());
                Sleep::by_machine(Arc::clone(&clock), shown + Duration::from_secs(1)).await;
                assert_eq!(now().since(before).as_millis(), expect_ms);
                assert!(clock.mono_now().since(shown) >= Duration::from_secs(1));
            }
        });
    }

    #[test]
    fn the_wall_jumps_and_the_monotonic_clock_does_not() {
        in_world(1, |_| async {
            let clock = MachineClock::new(Duration::from_secs(5));
            let (mono, wall) = (clock.mono_now(), clock.wall_now());
            clock.jump_wall(-3_600_000_000_000);
            assert_eq!(clock.mono_now(), mono);
            assert_eq!(wall.unix_secs() - clock.wall_now().unix_secs(), 3600);
            assert_eq!(clock.errors(), ClockErrors::default(), "only the monotonic clock counts");
            clock.leap(Duration::from_secs(9));
            assert_eq!(clock.mono_now().since(mono), Duration::from_secs(9));
            clock.set_rate(-20);
            clock.set_rate(10);
            assert_eq!(clock.errors(), ClockErrors { rate_ppm_max: 20, leapt: true });
        });
    }
}
