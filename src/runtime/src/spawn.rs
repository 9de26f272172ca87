//! Tasks and threads.
//!
//! *Tasks* run on reactors: single-threaded event loops, one a core in production, one in simulation. A task stays on the
//! reactor that it was spawned on, so tasks of one reactor wake each other without a system call.
//!
//! *Workers* make the calls that block: each is a thread of its own in production that runs its jobs in order. In simulation
//! a job runs inline, the disk model adds up how long its operations would have taken, and only after that much simulated
//! time does the caller get the result. So a crash between "written" and "reported" is reachable everywhere.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::BoxFuture;

/// What a finished job still has to do: report. Run only after the job's modelled time has passed.
pub type Report = Box<dyn FnOnce() + Send>;

/// Starts tasks and workers.
pub trait Spawn {
    /// Runs `task` on the reactor that calls this, until it completes or the process ends.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// How many reactors there are; at least one.
    fn reactor_count(&self) -> usize {
        1
    }

    /// The reactor that calls this; 0 for a caller on none. It only says from where a wake is cheap: in simulation, where all
    /// tasks share one thread, it is any.
    fn current_reactor(&self) -> usize {
        0
    }

    /// Runs the task that `start` returns on reactor `reactor` (counted from 0). `start` itself is called there, so that
    /// what it creates (a stream, a timer) belongs to that reactor.
    fn spawn_on(&self, reactor: usize, start: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>);

    /// Lets other tasks of this reactor run, then goes on: for long work in many steps. In simulation others may take their time.
    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(yield_once())
    }

    /// A new worker; `name` is what a thread list shows.
    fn worker(&self, name: &str) -> Arc<dyn Worker>;

    /// A new worker for long work that nobody waits for, and that must not be in the way of others: it gives way to them
    /// wherever the machine can be told so.
    fn background_worker(&self, name: &str) -> Arc<dyn Worker> {
        self.worker(name)
    }
}

/// A thread that runs blocking jobs one after the other.
pub trait Worker: Send + Sync {
    /// Queues `job`. What it returns is called when the job's time has passed.
    fn submit(&self, job: Box<dyn FnOnce() -> Report + Send>);

    /// Takes a job that is over sooner than two threads could hand it to and fro. It may run on the calling thread, which
    /// waits; so nothing else may be queued or running on this worker.
    fn submit_short(&self, job: Box<dyn FnOnce() -> Report + Send>) {
        self.submit(job);
    }
}

/// The worker ended before the job did: the process (or the simulated member) is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerGone;

/// Runs `job` on `worker` and waits for its result.
pub async fn run_on<T: Send + 'static>(
    worker: &dyn Worker,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerGone> {
    let (job, receiver) = reporting(job);
    worker.submit(job);
    receiver.await.map_err(|_| WorkerGone)
}

/// The same for a job as [`Worker::submit_short`] takes it.
pub async fn run_short_on<T: Send + 'static>(
    worker: &dyn Worker,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerGone> {
    let (job, receiver) = reporting(job);
    worker.submit_short(job);
    receiver.await.map_err(|_| WorkerGone)
}

type ReportingJob = Box<dyn FnOnce() -> Report + Send>;

fn reporting<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> (ReportingJob, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    let job = Box::new(move || -> Report {
        let result = job();
        Box::new(move || {
            // A caller that went away does not want the result.
            let _ = sender.send(result);
        })
    });
    (job, receiver)
}

/// Spawns `task` on this reactor; the receiver gets its result, or an error if the task was dropped or panicked.
pub fn spawn_with_result<T: Send + 'static>(
    spawn: &(impl Spawn + ?Sized),
    task: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    spawn.spawn(Box::pin(async move {
        // A caller that went away does not want the result.
        let _ = sender.send(task.await);
    }));
    receiver
}

/// Completes when it is polled again, which is at once: other tasks that are ready come first.
pub async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
