//! Transactions on lists that only grow have an order, and real time agrees with it. An independent judge: it looks at lists
//! alone and at no revision. (The idea is Elle's, by Kingsbury and Alvaro; the names of anomalies are Adya's.)
//!
//! 1. Elements are unique, and whoever appends writes the whole list, so each list that was read must be what its last
//!    appender wrote, and all lists of a key must be prefixes of the longest: nothing is lost, doubled, swapped or made up,
//!    and nothing shows that was refused or lies in the branch not taken (G1a). An append of unknown outcome whose element was
//!    seen has happened, and so has all that its transaction did with it.
//! 2. The longest list is the order of the versions of its key. From it follow dependencies between operations: who wrote the
//!    next version (`ww`), who read a version (`wr`), who read the version before (`rw`).
//! 3. What ended before another began comes before it. (Only what must be linearizable comes *after* something by that.)
//! 4. A cycle in all that means that there is no order: of `ww` alone (G0), with `wr` (G1c), with one `rw` (G-single), with
//!    more (G2), or with real time. Cycles are strongly connected components, found in linear time; the shortest is told.
//!
//! Other workloads may delete a key of a list (they delete ranges). What begins anew has another first element, and is judged
//! as a list of its own; then a missing key tells nothing.

mod graph;
mod lists;
#[cfg(test)]
mod tests;

use super::{Case, Checker, Evidence};
use graph::{Anomaly, Graph};
use lists::Lists;

/// See the module.
pub struct AppendCycles;

impl Checker for AppendCycles {
    fn name(&self) -> &'static str {
        "append_cycles"
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let evidence = case.evidence;
        let mut lists = Lists::collect(&evidence.operations)?;
        if lists.is_empty() {
            return Ok(());
        }
        lists.decide_unknown()?;
        let graph = Graph::new(&lists.histories()?, &lists, &evidence.operations);
        match graph.anomaly() {
            None => Ok(()),
            Some(anomaly) => Err(tell(&anomaly, &lists, evidence)),
        }
    }
}

/// The cycle, one operation a line.
fn tell(anomaly: &Anomaly, lists: &Lists, evidence: &Evidence) -> String {
    let mut text = format!("{}, a cycle of {} operations:", anomaly.name(), anomaly.cycle.len());
    for (operation, edge) in &anomaly.cycle {
        text += &format!("\n  {}\n    {}", evidence.operations[*operation].describe(), edge.tell(lists));
    }
    text + "\n  the first one again"
}
