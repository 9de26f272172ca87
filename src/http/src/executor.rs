//! hyper's tasks, on the reactor that their connection lives on.

use std::fmt;

use quorate_runtime::Rt;

/// Starts hyper's tasks on the calling reactor. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    rt: Rt,
}

impl Executor {
    /// An executor that spawns through `rt`.
    pub fn new(rt: Rt) -> Self {
        Self { rt }
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.rt.spawn(Box::pin(task));
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}
