//! Reactors, workers, clocks and dice of the real runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use quorate_runtime::clock::{Elapsed, timeout};
use quorate_runtime::spawn::{WorkerGone, run_on, spawn_with_result};
use quorate_runtime::sync::{mpsc, oneshot};
use quorate_runtime_tokio::TokioRuntime;

fn thread_name() -> String {
    thread::current().name().unwrap_or("unnamed").to_owned()
}

#[test]
fn run_returns_the_result_of_main() {
    let result = TokioRuntime::run(1, |rt| async move {
        assert_eq!(rt.reactor_count(), 1);
        spawn_with_result(&*rt, async { 41 }).await.unwrap() + 1
    });
    assert_eq!(result, 42);
}

#[test]
fn zero_reactors_means_one_for_each_core() {
    let cores = thread::available_parallelism().unwrap().get();
    assert_eq!(TokioRuntime::run(0, |rt| async move { rt.reactor_count() }), cores);
}

#[test]
fn a_task_stays_on_the_reactor_where_it_was_spawned() {
    let seen = TokioRuntime::run(3, |rt| async move {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for reactor in 0..3 {
            let (rt_there, sender) = (rt.clone(), sender.clone());
            rt.spawn_on(
                reactor,
                Box::new(move || {
                    let made_on = thread_name();
                    Box::pin(async move {
                        let first = thread_name();
                        rt_there.sleep(Duration::from_millis(2)).await;
                        let child = spawn_with_result(&*rt_there, async { thread_name() }).await.unwrap();
                        sender.send([made_on, first, thread_name(), child]).unwrap();
                    })
                }),
            );
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(names) = receiver.recv().await {
            seen.push(names);
        }
        seen
    });
    assert_eq!(seen.len(), 3);
    for names in &seen {
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    }
    let mut reactors: Vec<_> = seen.into_iter().map(|[name, ..]| name).collect();
    reactors.sort();
    reactors.dedup();
    assert_eq!(reactors.len(), 3, "{reactors:?}");
}

#[test]
fn a_worker_runs_jobs_in_order_on_a_thread_of_its_name() {
    TokioRuntime::run(1, |rt| async move {
        let worker = rt.worker("scribe");
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..100 {
            let sender = sender.clone();
            worker.submit(Box::new(move || Box::new(move || sender.send((number, thread_name())).unwrap())));
        }
        for expected in 0..100 {
            assert_eq!(receiver.recv().await, Some((expected, "scribe".to_owned())));
        }
        assert_eq!(run_on(&*worker, || 7).await, Ok(7));
    });
}

#[test]
fn a_job_that_panics_is_reported_to_those_who_wait() {
    TokioRuntime::run(1, |rt| async move {
        let worker = rt.worker("doomed");
        let (failed, queued) = quorate_runtime::join!(
            run_on(&*worker, || if true {
                panic!("as the test wants")
            }),
            run_on(&*worker, || ()),
        );
        assert_eq!((failed, queued), (Err(WorkerGone), Err(WorkerGone)));
        assert_eq!(run_on(&*worker, || ()).await, Err(WorkerGone));
    });
}

#[test]
fn run_ends_only_after_queued_jobs_are_done_and_tasks_are_dropped() {
    struct CountsDrop(Arc<AtomicUsize>);
    impl Drop for CountsDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    let (jobs, drops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let kept = TokioRuntime::run(2, |rt| {
        let (jobs, drops) = (jobs.clone(), drops.clone());
        async move {
            for reactor in 0..2 {
                let held = CountsDrop(drops.clone());
                let (started, running) = oneshot::channel();
                rt.spawn_on(
                    reactor,
                    Box::new(move || {
                        Box::pin(async move {
                            let _held = held;
                            started.send(()).unwrap();
                            std::future::pending::<()>().await;
                        })
                    }),
                );
                running.await.unwrap();
            }
            let worker = rt.worker("slow");
            for _ in 0..5 {
                let jobs = jobs.clone();
                worker.submit(Box::new(move || {
                    thread::sleep(Duration::from_millis(5));
                    jobs.fetch_add(1, Ordering::SeqCst);
                    Box::new(|| {})
                }));
            }
            worker
        }
    });
    assert_eq!((jobs.load(Ordering::SeqCst), drops.load(Ordering::SeqCst)), (5, 2));
    let (sender, receiver) = std::sync::mpsc::channel();
    kept.submit(Box::new(move || Box::new(move || sender.send(()).unwrap())));
    assert!(receiver.recv().is_err(), "a worker outlived its runtime");
}

#[test]
fn sleeping_waits_at_least_as_long_as_asked_and_a_timeout_drops_the_work() {
    TokioRuntime::run(1, |rt| async move {
        let before = rt.mono_now();
        rt.sleep(Duration::from_millis(20)).await;
        let slept = rt.mono_now() - before;
        assert!(slept >= Duration::from_millis(20) && slept < Duration::from_secs(5), "{slept:?}");

        let never = rt.sleep_until(quorate_runtime::clock::MonoTime::from_nanos(u64::MAX));
        assert_eq!(timeout(&*rt, Duration::from_millis(5), never).await, Err(Elapsed));
        assert!(rt.wall_now().unix_secs() > 1_700_000_000);
    });
}

#[test]
fn random_draws_differ_within_and_between_runtimes() {
    let draw = || TokioRuntime::run(1, |rt| async move { (rt.random_u64(), rt.random_u64()) });
    let (first, second) = (draw(), draw());
    let all = std::collections::BTreeSet::from([first.0, first.1, second.0, second.1]);
    assert_eq!(all.len(), 4);
}
