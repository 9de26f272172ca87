//! Wakes in an order that the seed decides, whoever woke first.
//!
//! madsim picks the next task by the seed, from a list that is in order of the wakes. That order must be the same in every run,
//! and in one place it is not: `tokio::sync::watch` spreads its waiters over lists by a generator of its own, which starts
//! differently in each thread of a process. So the tasks of simulated processes are not woken on the spot: who is to be
//! woken is collected, and when the poll that wakes them is over they are woken in order of their numbers. Whatever order tokio
//! wakes its waiters in within one poll, madsim sees the same. Whom the harness wakes, which polls its own tasks, one dispatcher
//! wakes. Timers ring one by one, in an order that is the seed's already, and wake on the spot.
//!
//! Where processors are busy with other things, a task that is woken now and then waits for its turn, alone: all others go on. Some
//! tasks are unlucky: they have to wait far more often than others, as long as they live.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use quorate_runtime::BoxFuture;

use crate::world::clock;
use crate::world::dice::Dice;
use crate::world::lock;

/// Collects wakes; shared by all simulated processes of a world.
#[derive(Default)]
pub struct WakeOrder {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_task: u64,
    /// Who is to be woken, by its number; some more than once.
    woken: Vec<(u64, Waker)>,
    dispatcher: Option<Waker>,
    busy: Option<Busy>,
    /// See the module. A number is never used again.
    unlucky: BTreeSet<u64>,
    /// Tasks that wait for their turn. They are woken then.
    stalled: BTreeSet<u64>,
}

/// How often, and how long, a task waits for its turn.
struct Busy {
    dice: Dice,
    per_million: u64,
}

/// Stalls in a million wakes, for each percent that a processor is busy.
const STALLS_PER_MILLION: u64 = 100;

/// So many tasks of a hundred are unlucky.
const UNLUCKY_PERCENT: u64 = 5;

/// So much more often they have to wait, but not oftener than [`UNLUCKY_PER_MILLION_MAX`].
const UNLUCKY_TIMES: u64 = 20;

/// With more the unlucky one would hardly ever do anything.
const UNLUCKY_PER_MILLION_MAX: u64 = 20_000;

/// Longest time that a job loses to other work at once.
const BUSY_MAX: Duration = Duration::from_millis(500);

/// Longest time that a task waits for its turn.
const STALL_MAX: Duration = Duration::from_secs(3);

/// Who may be woken on the spot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// Nobody; the dispatcher does it.
    Harness,
    /// Nobody; who polls a task does it afterwards.
    Task,
    /// Everybody, unless they may have to wait for their turn.
    Timer,
}

thread_local! {
    static WAKES: Cell<Wakes> = const { Cell::new(Wakes::Harness) };
}

/// Does `work` while wakes come from `wakes`.
fn while_wakes_are<T>(wakes: Wakes, work: impl FnOnce() -> T) -> T {
    /// Also when `work` panics, as a member may: its thread goes on with the next run.
    struct Outer(Wakes);
    impl Drop for Outer {
        fn drop(&mut self) {
            WAKES.set(self.0);
        }
    }
    let _outer = Outer(WAKES.replace(wakes));
    work()
}

/// Wakes whom a timer wakes.
pub fn by_timer(waiter: Waker) {
    while_wakes_are(Wakes::Timer, || waiter.wake());
}

/// How long other work keeps a processor.
pub fn busy_for(dice: &mut Dice) -> Duration {
    lost(dice, BUSY_MAX)
}

fn lost(dice: &mut Dice, max: Duration) -> Duration {
    Duration::from_nanos(dice.magnitude(1000, max.as_nanos() as u64))
}

impl WakeOrder {
    /// `task`, to be woken in order.
    pub fn wrap(self: &Arc<Self>, task: BoxFuture<'static, ()>) -> OrderedTask {
        let number = {
            let mut state = lock(&self.state);
            state.next_task += 1;
            let number = state.next_task;
            if state.busy.as_mut().is_some_and(|busy| busy.dice.percent(UNLUCKY_PERCENT)) {
                state.unlucky.insert(number);
            }
            number
        };
        let bell = Arc::new(Bell { number, order: Arc::clone(self), task: Mutex::default() });
        OrderedTask { task, waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// From now on processors are busy with other things.
    pub fn be_busy(&self, dice: Dice, percent: u64) {
        lock(&self.state).busy = Some(Busy { dice, per_million: percent * STALLS_PER_MILLION });
    }

    /// From now on no task waits for its turn. (Jobs of workers take as long as before.)
    pub fn be_idle(&self) {
        lock(&self.state).busy = None;
    }

    /// How long the task has to wait for its turn, if it has to.
    fn stalls(&self, task: u64) -> Option<Duration> {
        let mut state = lock(&self.state);
        let is_unlucky = state.unlucky.contains(&task);
        let Busy { dice, per_million } = state.busy.as_mut()?;
        let mut odds = *per_million;
        if is_unlucky {
            odds = odds.max(UNLUCKY_PER_MILLION_MAX.min(odds * UNLUCKY_TIMES));
        }
        let stall = dice.per_million(odds).then(|| lost(dice, STALL_MAX))?;
        state.stalled.insert(task);
        Some(stall)
    }

    /// Wakes a task, or lets it wait.
    fn pass_on(self: &Arc<Self>, task: u64, waker: Waker) {
        if lock(&self.state).stalled.contains(&task) {
            return;
        }
        let Some(stall) = self.stalls(task) else { return waker.wake() };
        let order = Arc::clone(self);
        madsim::task::spawn(async move {
            clock::sleep(stall).await;
            lock(&order.state).stalled.remove(&task);
            waker.wake();
        });
    }

    /// Wakes whoever was collected, in order, each once.
    fn pass_all_on(self: &Arc<Self>) {
        let mut woken = {
            let mut state = lock(&self.state);
            if state.woken.is_empty() {
                return;
            }
            std::mem::take(&mut state.woken)
        };
        woken.sort_unstable_by_key(|(task, _)| *task);
        woken.dedup_by_key(|(task, _)| *task);
        woken.drain(..).for_each(|(task, waker)| self.pass_on(task, waker));
        let mut state = lock(&self.state);
        if state.woken.is_empty() {
            // Its room is used again.
            state.woken = woken;
        }
    }

    /// Wakes whom the harness wakes, forever. One task must run this.
    pub async fn dispatch(self: Arc<Self>) {
        poll_fn(|context| {
            lock(&self.state).dispatcher = Some(context.waker().clone());
            self.pass_all_on();
            Poll::<()>::Pending
        })
        .await;
    }
}

/// What a task's wakers ring.
struct Bell {
    number: u64,
    order: Arc<WakeOrder>,
    /// The waker that madsim gave at the last poll.
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let Some(task) = lock(&self.task).clone() else { return };
        let wakes = WAKES.get();
        let mut state = lock(&self.order.state);
        if wakes == Wakes::Timer && state.busy.is_none() && state.stalled.is_empty() {
            drop(state);
            return task.wake();
        }
        state.woken.push((self.number, task));
        if wakes != Wakes::Task
            && let Some(dispatcher) = state.dispatcher.take()
        {
            drop(state);
            dispatcher.wake();
        }
    }
}

/// A task that is woken in order.
pub struct OrderedTask {
    task: BoxFuture<'static, ()>,
    waker: Waker,
    bell: Arc<Bell>,
}

impl Future for OrderedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut task = lock(&self.bell.task);
            if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
                *task = Some(context.waker().clone());
            }
        }
        let ordered = &mut *self;
        let mut context = Context::from_waker(&ordered.waker);
        let polled = while_wakes_are(Wakes::Task, || ordered.task.as_mut().poll(&mut context));
        ordered.bell.order.pass_all_on();
        polled
    }
}

impl Drop for OrderedTask {
    fn drop(&mut self) {
        // Wakers of a finished task may live on in queues; the task itself must not.
        *lock(&self.bell.task) = None;
        lock(&self.bell.order.state).unlucky.remove(&self.bell.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_runtime::sync::watch;

    use super::*;
    use crate::run::in_world;
    use crate::world::clock::SimTime;

    #[test]
    fn a_task_that_waits_for_its_turn_waits_alone_and_goes_on() {
        in_world(7, |world| async move {
            world.wakes.be_busy(world.dice("busy"), 10_000);
            let node = world.new_node("tasks");
            let went_on: Arc<Mutex<Vec<(u64, SimTime)>>> = Arc::default();
            let (sender, receiver) = watch::channel(false);
            for number in 0..20 {
                let (mut receiver, went_on) = (receiver.clone(), Arc::clone(&went_on));
                node.spawn(world.wakes.wrap(Box::pin(async move {
                    receiver.wait_for(|asked| *asked).await.expect("the sender lives");
                    lock(&went_on).push((number, clock::now()));
                })));
            }
            clock::sleep(Duration::from_millis(1)).await;
            let woken_at = clock::now();
            sender.send_replace(true);
            clock::sleep(STALL_MAX + Duration::from_millis(1)).await;
            let went_on = lock(&went_on).clone();
            assert_eq!(went_on.len(), 20, "each goes on, once");
            let times: BTreeSet<SimTime> = went_on.iter().map(|(_, at)| *at).collect();
            assert!(times.len() > 15 && times.iter().all(|at| *at > woken_at), "each for itself: {times:?}");
        });
    }

    fn order_of_many_waiters() -> Vec<u64> {
        in_world(5, |world| async move {
            let (sender, receiver) = watch::channel(false);
            let finished: Arc<Mutex<Vec<u64>>> = Arc::default();
            let node = world.new_node("waiters");
            for number in 0..40 {
                let (mut receiver, finished) = (receiver.clone(), Arc::clone(&finished));
                node.spawn(world.wakes.wrap(Box::pin(async move {
                    receiver.wait_for(|asked| *asked).await.expect("the sender lives");
                    lock(&finished).push(number);
                })));
            }
            clock::sleep(Duration::from_millis(1)).await;
            sender.send_replace(true);
            clock::sleep(Duration::from_millis(1)).await;
            lock(&finished).clone()
        })
    }

    #[test]
    fn waiters_of_a_watch_go_on_in_the_same_order_in_every_run_of_a_process() {
        let first = order_of_many_waiters();
        assert_eq!(first.len(), 40);
        assert_ne!(first, (0..40).collect::<Vec<_>>(), "the seed decides, not the numbers");
        for _ in 0..3 {
            assert_eq!(order_of_many_waiters(), first);
        }
    }
}
