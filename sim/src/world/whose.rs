//! On whose machine the code runs that is running now: a log line does not say it.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use quorate_runtime::BoxFuture;

use crate::world::net::MachineId;

thread_local! {
    static MACHINE: Cell<Option<MachineId>> = const { Cell::new(None) };
}

/// The machine of the process whose task is polled now.
pub fn machine() -> Option<MachineId> {
    MACHINE.get()
}

/// `task`, known as one of `machine`'s while it is polled.
pub fn of(machine: MachineId, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    Box::pin(Owned { machine, task })
}

struct Owned {
    machine: MachineId,
    task: BoxFuture<'static, ()>,
}

impl Future for Owned {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        MACHINE.set(Some(self.machine));
        let poll = self.task.as_mut().poll(context);
        MACHINE.set(None);
        poll
    }
}
