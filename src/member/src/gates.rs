//! How answers get back to the connections: one message for each reactor and batch.
//!
//! Waking a task of one's own reactor costs next to nothing. Waking one of another costs a system call, and what is worse, the
//! other reactor starts at the first wake: it would write each answer out by itself, one system call each, while the rest of
//! the batch trickles in. So the answers for another reactor travel together, to a task there (its *gate*) that wakes
//! everybody at once: then each connection has all its answers when it writes.

use quorate_runtime::Rt;
use quorate_runtime::sync::mpsc;

use crate::shared::{Answered, Reply};

/// An answer, and who gets it.
type Answer = (Reply, Answered);

/// The gates of all reactors, as their user on one of them sees them.
#[derive(Debug)]
pub struct Gates {
    /// By reactor; none for the one that this belongs to.
    gates: Vec<Option<Gate>>,
    /// Answers for the own reactor.
    here: Vec<Answer>,
}

#[derive(Debug)]
struct Gate {
    batches: mpsc::UnboundedSender<Vec<Answer>>,
    next_batch: Vec<Answer>,
}

impl Gates {
    /// Opens a gate on each other reactor. They close when this is dropped.
    pub fn open(rt: &Rt) -> Self {
        let here = rt.current_reactor();
        let gate = |reactor| {
            let (batches, mut arriving) = mpsc::unbounded_channel::<Vec<Answer>>();
            rt.spawn_on(
                reactor,
                Box::new(move || {
                    Box::pin(async move {
                        while let Some(batch) = arriving.recv().await {
                            deliver(batch);
                        }
                    })
                }),
            );
            Gate { batches, next_batch: Vec::new() }
        };
        let gates = (0..rt.reactor_count()).map(|reactor| (reactor != here).then(|| gate(reactor))).collect();
        Self { gates, here: Vec::new() }
    }

    /// Keeps an answer for a task of `reactor` until [`Gates::send_all`].
    pub fn keep(&mut self, reactor: usize, reply: Reply, answered: Answered) {
        match &mut self.gates[reactor] {
            Some(gate) => gate.next_batch.push((reply, answered)),
            None => self.here.push((reply, answered)),
        }
    }

    /// Sends everything that was kept.
    pub fn send_all(&mut self) {
        // The others first: they have the longer way.
        for gate in self.gates.iter_mut().flatten().filter(|gate| !gate.next_batch.is_empty()) {
            let batch = std::mem::take(&mut gate.next_batch);
            gate.next_batch.reserve(batch.len());
            // Fails only when the reactor is gone, and its tasks with it.
            let _ = gate.batches.send(batch);
        }
        deliver(self.here.drain(..));
    }
}

fn deliver(batch: impl IntoIterator<Item = Answer>) {
    for (reply, answered) in batch {
        // A caller that went away does not want its answer.
        let _ = reply.send(answered);
    }
}
