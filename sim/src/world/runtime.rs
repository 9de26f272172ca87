//! The runtime of one simulated process: its machine's clock, disk and network card, and tasks on a node of madsim.
//!
//! A process is one start of a member (or a client). Its tasks live on a madsim node of their own, so that a kill takes them
//! all. A worker is a task that takes jobs in order: the job runs inline, the disk adds up what its calls cost, and only after
//! that time is the job's report made. Where a processor is busy with other things, jobs take longer, and who lets others run has to
//! wait for them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use madsim::runtime::NodeHandle;
use quorate_runtime::BoxFuture;
use quorate_runtime::clock::{Clock, MonoTime, WallTime};
use quorate_runtime::disk::{Disk, File, FileLock, Metadata, OpenMode};
use quorate_runtime::net::{Address, BoxStream, ListenOptions, Listener, Net, SrvRecord};
use quorate_runtime::random::Random;
use quorate_runtime::spawn::{Report, Spawn, Worker, yield_once};

use crate::world::clock::{self, MachineClock, Sleep};
use crate::world::dice::Dice;
use crate::world::disk::{ProcessDisk, SimDisk};
use crate::world::lock;
use crate::world::net::{MachineId, SimNet};
use crate::world::trace::{Event, Trace};
use crate::world::wakes::{self, WakeOrder};
use crate::world::whose;

/// The world as one process sees it.
pub struct SimRuntime {
    /// Its machine.
    pub machine: MachineId,
    /// The madsim node that its tasks live on.
    pub node: NodeHandle,
    /// Its machine's clock.
    pub clock: Arc<MachineClock>,
    /// Its machine's disk.
    pub disk: ProcessDisk,
    /// The network.
    pub net: Arc<SimNet>,
    /// The order in which its tasks are woken.
    pub wakes: Arc<WakeOrder>,
    /// Its random source.
    pub dice: Arc<Mutex<Dice>>,
    /// Where its random draws are noted.
    pub trace: Trace,
    /// How many reactors it believes to have.
    pub reactors: usize,
    /// See [`Limits::busy_percent`](crate::world::cluster::Limits::busy_percent).
    pub busy_percent: u64,
}

/// How long other work keeps the processor now.
fn busy_for(dice: &Mutex<Dice>, busy_percent: u64) -> Duration {
    // Who is never busy draws nothing.
    if busy_percent == 0 {
        return Duration::ZERO;
    }
    let mut dice = lock(dice);
    if !dice.percent(busy_percent) {
        return Duration::ZERO;
    }
    wakes::busy_for(&mut dice)
}

impl Clock for SimRuntime {
    fn mono_now(&self) -> MonoTime {
        self.clock.mono_now()
    }

    fn wall_now(&self) -> WallTime {
        self.clock.wall_now()
    }

    fn sleep_until(&self, deadline: MonoTime) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::by_machine(Arc::clone(&self.clock), deadline))
    }
}

impl Spawn for SimRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.node.spawn(self.wakes.wrap(whose::of(self.machine, task)));
    }

    fn reactor_count(&self) -> usize {
        self.reactors
    }

    fn current_reactor(&self) -> usize {
        lock(&self.dice).below(self.reactors as u64) as usize
    }

    fn spawn_on(&self, reactor: usize, start: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>) {
        assert!(reactor < self.reactors, "reactor {reactor} of {}", self.reactors);
        self.spawn(Box::pin(async move { start().await }));
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        let busy = busy_for(&self.dice, self.busy_percent);
        Box::pin(async move {
            if busy.is_zero() {
                yield_once().await;
            } else {
                clock::sleep(busy).await;
            }
        })
    }

    fn worker(&self, _name: &str) -> Arc<dyn Worker> {
        let queue = Arc::new(Queue::default());
        let (dice, busy_percent) = (Arc::clone(&self.dice), self.busy_percent);
        self.spawn(Box::pin(work(Arc::clone(&queue), Arc::clone(self.disk.machine_disk()), dice, busy_percent)));
        Arc::new(SimWorker { queue })
    }
}

type Job = Box<dyn FnOnce() -> Report + Send>;

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    waiter: Option<Waker>,
    closed: bool,
}

struct SimWorker {
    queue: Arc<Queue>,
}

impl Worker for SimWorker {
    fn submit(&self, job: Job) {
        let mut state = lock(&self.queue.state);
        state.jobs.push_back(job);
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }
}

impl Drop for SimWorker {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        state.closed = true;
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }
}

/// When a killed process's worker is dropped, the jobs that still wait go with it, and so do the channels that they hold.
struct DropJobs(Arc<Queue>);

impl Drop for DropJobs {
    fn drop(&mut self) {
        let jobs = std::mem::take(&mut lock(&self.0.state).jobs);
        drop(jobs);
    }
}

async fn work(queue: Arc<Queue>, disk: Arc<SimDisk>, dice: Arc<Mutex<Dice>>, busy_percent: u64) {
    let queue = DropJobs(queue);
    loop {
        let next = poll_fn(|context| {
            let mut state = lock(&queue.0.state);
            match state.jobs.pop_front() {
                Some(job) => Poll::Ready(Some(job)),
                None if state.closed => Poll::Ready(None),
                None => {
                    state.waiter = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        });
        let Some(job) = next.await else { return };
        disk.begin_job();
        let report = job();
        let takes = disk.end_job() + busy_for(&dice, busy_percent);
        clock::sleep(takes).await;
        report();
    }
}

impl Disk for SimRuntime {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        self.disk.open(path, mode)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn free_space_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_space_bytes(path)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.disk.lock_exclusive(path)
    }
}

impl Net for SimRuntime {
    fn listen(&self, address: Address, options: ListenOptions) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { self.net.listen(self.machine, address, options) })
    }

    fn connect(&self, address: Address) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(Arc::clone(&self.net).connect(self.machine, address))
    }

    fn lookup_host(&self, host: String, port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let addresses = self.net.lookup(&host)?;
            Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
        })
    }

    fn lookup_srv(&self, name: String) -> BoxFuture<'_, io::Result<Vec<SrvRecord>>> {
        Box::pin(async move {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("no service records for {name:?} in this simulation")))
        })
    }
}

impl Random for SimRuntime {
    fn fill_random(&self, buffer: &mut [u8]) {
        lock(&self.dice).fill(buffer);
        self.trace.note(Event::Random, &[self.machine], buffer);
    }
}
