//! The runtime on a real machine: tokio's reactors, the kernel's sockets, real files and threads.
//!
//! [`TokioRuntime::run`] is the whole life of a process. It starts N *reactors*, each a thread with an event loop of its
//! own (work is never stolen between them: a connection, and everything that wakes for it, stays on one core), runs the
//! main future on reactor 0, which is the calling thread, and takes everything down once that future is done: first the
//! other reactors drop their tasks, then reactor 0 does, then each [worker](quorate_runtime::spawn::Worker) finishes the
//! jobs that were queued before and its thread ends. So when `run` returns no thread is left that could touch a file.
//!
//! One file for each trait of `quorate_runtime`: `clock`, `disk`, `net`, `random`, `spawn` (with workers).

mod clock;
mod disk;
mod net;
mod random;
mod spawn;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use quorate_runtime::Rt;
use quorate_runtime::sync::oneshot;
use rand_chacha::ChaCha8Rng;
use tokio::runtime::{Builder, Handle, Runtime};

use spawn::Workers;

/// Threads that tokio may start for name look-ups. They come and go; a resolver that hangs must not take hundreds.
const LOOKUP_THREADS_MAX: usize = 16;

/// The world as the operating system shows it.
pub struct TokioRuntime {
    /// Where [`quorate_runtime::clock::MonoTime`] counts from.
    started: Instant,
    random: Mutex<ChaCha8Rng>,
    reactors: Vec<Handle>,
    workers: Workers,
    source: Option<IpAddr>,
}

/// What a runtime is started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// How many reactors; 0: one for each core that this process may use.
    pub reactors: usize,
    /// The address of this machine that TCP connections are made from; `None`: as the kernel likes.
    pub source: Option<IpAddr>,
}

impl TokioRuntime {
    /// Runs `main` on a new runtime of `reactors` reactors (0: one for each core that this process may use) and returns its
    /// result, after all tasks are dropped and all threads have ended.
    ///
    /// # Panics
    /// If the operating system refuses a thread, an event loop or random bytes; see [`TokioRuntime::try_run`].
    pub fn run<T, F: Future<Output = T>>(reactors: usize, main: impl FnOnce(Rt) -> F) -> T {
        let options = RuntimeOptions { reactors, ..RuntimeOptions::default() };
        Self::try_run(options, main).unwrap_or_else(|error| panic!("cannot start the runtime: {error}"))
    }

    /// [`TokioRuntime::run`], but a refusal by the operating system at the start is an error, not a panic.
    pub fn try_run<T, F: Future<Output = T>>(options: RuntimeOptions, main: impl FnOnce(Rt) -> F) -> io::Result<T> {
        let count = match options.reactors {
            0 => thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let loops = (0..count).map(|_| event_loop()).collect::<io::Result<Vec<_>>>()?;
        let world = Arc::new(TokioRuntime {
            started: Instant::now(),
            random: Mutex::new(random::seeded()?),
            reactors: loops.iter().map(|one| one.handle().clone()).collect(),
            workers: Workers::default(),
            source: options.source,
        });

        let mut loops = loops.into_iter();
        let first = loops.next().expect("there is at least one reactor");
        let mut others = Others::default();
        for (number, event_loop) in (1..).zip(loops) {
            others.start(number, event_loop)?;
        }
        let result = first.block_on(main(world.clone()));
        others.stop();
        drop(first);
        world.workers.stop();
        Ok(result)
    }
}

fn event_loop() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUP_THREADS_MAX).build()
}

/// The reactors beside the first: threads that turn an event loop until told to stop.
#[derive(Default)]
struct Others {
    threads: Vec<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Others {
    fn start(&mut self, number: usize, event_loop: Runtime) -> io::Result<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
            // Told to stop, or the one who tells is gone: both mean that it is over. Leaving drops the loop and its tasks.
            let _ = event_loop.block_on(stopped);
        })?;
        self.threads.push((stop, thread));
        Ok(())
    }

    fn stop(&mut self) {
        let threads: Vec<_> = self.threads.drain(..).map(|(stop, thread)| (drop(stop), thread).1).collect();
        for thread in threads {
            // A panic while a task was dropped has been reported by the panic hook; the others still have to end.
            let _ = thread.join();
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.stop();
    }
}
