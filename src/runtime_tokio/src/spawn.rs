//! Tasks on reactors, and workers: threads that make the calls that block.
//!
//! A worker's queue is in order and unbounded; whoever submits bounds what is out. Its thread ends in one of three ways:
//! the last handle is dropped (jobs queued before still run), the runtime ends (same), or a job panics (what is queued is
//! dropped, so that those who wait for it learn that the worker is gone, instead of waiting for ever).

use std::future::Future;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use quorate_runtime::BoxFuture;
use quorate_runtime::spawn::{Report, Spawn, Worker};
use tokio::runtime::Handle;

use crate::TokioRuntime;

type Job = Box<dyn FnOnce() -> Report + Send>;

impl Spawn for TokioRuntime {
    /// A caller on no reactor (a worker's job) gets reactor 0.
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        match Handle::try_current() {
            Ok(here) => here.spawn(task),
            Err(_) => self.reactors[0].spawn(task),
        };
    }

    fn reactor_count(&self) -> usize {
        self.reactors.len()
    }

    fn current_reactor(&self) -> usize {
        let Ok(here) = Handle::try_current() else { return 0 };
        self.reactors.iter().position(|reactor| reactor.id() == here.id()).unwrap_or(0)
    }

    fn spawn_on(&self, reactor: usize, start: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>) {
        self.reactors[reactor].spawn(Started::NotYet(Some(start)));
    }

    fn worker(&self, name: &str) -> Arc<dyn Worker> {
        Arc::new(self.workers.start(name, NICE_NORMAL))
    }

    fn background_worker(&self, name: &str) -> Arc<dyn Worker> {
        Arc::new(self.workers.start(name, NICE_BACKGROUND))
    }
}

/// How nice threads are to others: nobody is kept from the processor by a nice one for long.
const NICE_NORMAL: i32 = 0;
const NICE_BACKGROUND: i32 = 15;

/// Makes the calling thread nicer. Where that is the whole process's property it is left alone.
fn be_nice(nice: i32) {
    #[cfg(target_os = "linux")]
    if nice > NICE_NORMAL {
        // To be nicer is always allowed; and if not, work is done all the same.
        let _ = rustix::process::setpriority_process(None, nice);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// A task that is made on the reactor that polls it.
enum Started {
    NotYet(Option<Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>>),
    Running(BoxFuture<'static, ()>),
}

impl Future for Started {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if let Started::NotYet(start) = &mut *self {
            let start = start.take().expect("a task that panicked while it was made is not polled again");
            *self = Started::Running(start());
        }
        match &mut *self {
            Started::Running(task) => task.as_mut().poll(context),
            Started::NotYet(_) => unreachable!("made above"),
        }
    }
}

enum Message {
    Run(Job),
    /// No more jobs: end the thread.
    End,
}

/// The threads of all workers that were started, so that the runtime can end them and wait.
#[derive(Default)]
pub(crate) struct Workers {
    started: Mutex<Vec<(Sender<Message>, JoinHandle<()>)>>,
}

impl Workers {
    fn start(&self, name: &str, nice: i32) -> Queue {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                be_nice(nice);
                work(receiver);
            })
            .unwrap_or_else(|error| panic!("cannot start the worker thread {name}: {error}"));
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|(_, thread)| !thread.is_finished());
        started.push((sender.clone(), thread));
        Queue { sender }
    }

    /// Lets every worker finish what was queued before this call, and waits for the threads to end.
    pub(crate) fn stop(&self) {
        let started = std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        for (sender, _) in &started {
            // Fails if the thread has ended already.
            let _ = sender.send(Message::End);
        }
        for (_, thread) in started {
            // A job that panicked has been reported by the panic hook, and to those who waited for it.
            let _ = thread.join();
        }
    }
}

fn work(queue: Receiver<Message>) {
    while let Ok(Message::Run(job)) = queue.recv() {
        let report = job();
        report();
    }
}

/// The handle on a worker; dropping the last one ends its thread.
struct Queue {
    sender: Sender<Message>,
}

impl Worker for Queue {
    fn submit(&self, job: Job) {
        // If the thread has ended the job is dropped here, and with it what its caller waits for.
        let _ = self.sender.send(Message::Run(job));
    }

    fn submit_short(&self, job: Job) {
        job()();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = self.sender.send(Message::End);
    }
}
