//! Dependencies between operations, and cycles in them.
//!
//! Nodes are operations, and two kinds of helpers that keep the edges few: a *gate* for each end of an operation, in order of
//! time (whoever begins after it comes after all gates up to there), and a segment tree over keys (who sees a range of keys
//! missing comes before whoever begins each of those lists).

use std::collections::{BTreeMap, VecDeque};

use super::lists::{History, Lists};
use crate::checkers::revisions::is_serializable;
use crate::history::{Operation, Outcome, Request};

/// Why one operation comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It wrote the version before.
    WriteWrite,
    /// The other read what it wrote.
    WriteRead,
    /// It read the version before the other's.
    ReadWrite,
    /// It ended before the other began.
    Time,
}

/// A dependency, and the key that tells it; helpers' edges only lead on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    to: usize,
    kind: Option<Kind>,
    key: usize,
}

impl Edge {
    /// In words.
    pub(super) fn tell(self, lists: &Lists) -> String {
        let key = lists.keys.get(self.key);
        let key = key.map_or_else(String::new, |key| format!(" of {}", String::from_utf8_lossy(key)));
        match self.kind {
            Some(Kind::WriteWrite) => format!("ww: wrote the version{key} before that of"),
            Some(Kind::WriteRead) => format!("wr: wrote the version{key} that was read by"),
            Some(Kind::ReadWrite) => format!("rw: read the version{key} before that of"),
            Some(Kind::Time) | None => "time: ended before the begin of".to_owned(),
        }
    }
}

/// A cycle: each operation, and why it comes before the next.
pub(super) struct Anomaly {
    pub(super) cycle: Vec<(usize, Edge)>,
}

impl Anomaly {
    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        let count = |kind| self.cycle.iter().filter(|(_, edge)| edge.kind == Some(kind)).count();
        match (count(Kind::Time), count(Kind::ReadWrite), count(Kind::WriteRead)) {
            (1.., ..) => "real time is violated",
            (0, 0, 0) => "G0, writes in no order",
            (0, 0, _) => "G1c, circular information",
            (0, 1, _) => "G-single, one read of the past",
            (0, ..) => "G2, anti-dependencies in a circle",
        }
    }
}

/// See the module. Nodes below `operations` are operations.
pub(super) struct Graph {
    edges: Vec<Vec<Edge>>,
    operations: usize,
}

const NO_KEY: usize = usize::MAX;

impl Graph {
    pub(super) fn new(histories: &[History], lists: &Lists, operations: &[Operation]) -> Self {
        let mut graph = Self { edges: vec![Vec::new(); operations.len()], operations: operations.len() };
        let mut involved = vec![false; operations.len()];
        let mut by_last = BTreeMap::new();
        for history in histories {
            for (at, element) in history.elements.iter().enumerate() {
                involved[history.writers[at]] = true;
                by_last.insert(element, (history, at));
                if let Some(&next) = history.writers.get(at + 1) {
                    graph.add(history.writers[at], next, Kind::WriteWrite, history.key);
                }
            }
        }
        for read in &lists.reads {
            involved[read.operation] = true;
            let (history, at) = by_last[read.list.last().expect("a list has elements")];
            graph.add(history.writers[at], read.operation, Kind::WriteRead, read.key);
            if let Some(&next) = history.writers.get(at + 1) {
                graph.add(read.operation, next, Kind::ReadWrite, read.key);
            }
        }
        let tree = graph.add_key_tree(histories, lists);
        for absent in &lists.absents {
            involved[absent.operation] = true;
            graph.add_absence(absent.operation, absent.keys.clone(), tree, lists.keys.len());
        }
        graph.add_time(operations, &involved);
        graph
    }

    fn add(&mut self, from: usize, to: usize, kind: Kind, key: usize) {
        if from != to {
            self.edges[from].push(Edge { to, kind: Some(kind), key });
        }
    }

    fn new_node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    fn lead_on(&mut self, from: usize, to: usize) {
        self.edges[from].push(Edge { to, kind: None, key: NO_KEY });
    }

    /// A tree with a leaf for each key, which leads to whoever began its list. Leaf `i` is node `tree + keys + i`.
    fn add_key_tree(&mut self, histories: &[History], lists: &Lists) -> usize {
        let keys = lists.keys.len();
        let tree = self.edges.len();
        for _ in 0..2 * keys {
            self.new_node();
        }
        for node in 1..keys {
            self.lead_on(tree + node, tree + 2 * node);
            self.lead_on(tree + node, tree + 2 * node + 1);
        }
        for history in histories.iter().filter(|history| !lists.may_be_deleted(history.key)) {
            self.lead_on(tree + keys + history.key, history.writers[0]);
        }
        tree
    }

    fn add_absence(&mut self, operation: usize, absent: std::ops::Range<usize>, tree: usize, keys: usize) {
        let (mut low, mut high) = (absent.start + keys, absent.end + keys);
        while low < high {
            if low % 2 == 1 {
                self.add(operation, tree + low, Kind::ReadWrite, NO_KEY);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.add(operation, tree + high, Kind::ReadWrite, NO_KEY);
            }
            (low, high) = (low / 2, high / 2);
        }
    }

    fn add_time(&mut self, operations: &[Operation], involved: &[bool]) {
        let mut ended: Vec<usize> = (0..operations.len())
            .filter(|&index| involved[index] && matches!(operations[index].outcome, Outcome::Answered(_)))
            .collect();
        ended.sort_by_key(|&index| operations[index].end);
        let first_gate = self.edges.len();
        for (at, &index) in ended.iter().enumerate() {
            let gate = self.new_node();
            self.add(index, gate, Kind::Time, NO_KEY);
            if at > 0 {
                self.lead_on(gate - 1, gate);
            }
        }
        for (index, operation) in operations.iter().enumerate().filter(|(index, _)| involved[*index]) {
            let before = ended.partition_point(|&other| operations[other].end < operation.start);
            if before > 0 && !may_be_old(&operation.request) {
                self.lead_on(first_gate + before - 1, index);
            }
        }
    }

    /// The worst anomaly there is.
    pub(super) fn anomaly(&self) -> Option<Anomaly> {
        let levels = [Kind::WriteWrite, Kind::WriteRead, Kind::ReadWrite, Kind::Time];
        levels.into_iter().find_map(|level| {
            let component = self.component(level)?;
            Some(Anomaly { cycle: self.shortest_cycle(&component, level) })
        })
    }

    /// Edges up to a level; helpers are reached only by edges that are.
    fn edges_up_to(&self, node: usize, level: Kind) -> impl DoubleEndedIterator<Item = &Edge> {
        self.edges[node].iter().filter(move |edge| edge.kind.is_none_or(|kind| kind <= level))
    }

    /// A strongly connected component of more than one node (Tarjan, with a stack of its own instead of recursion).
    fn component(&self, level: Kind) -> Option<Vec<usize>> {
        const NEW: usize = usize::MAX;
        let nodes = self.edges.len();
        let (mut found, mut low, mut open) = (vec![NEW; nodes], vec![0; nodes], vec![false; nodes]);
        let (mut count, mut path) = (0, Vec::new());
        for root in 0..nodes {
            if found[root] != NEW {
                continue;
            }
            // A node, and which of its edges comes next.
            let mut calls = vec![(root, 0)];
            while let Some((node, next)) = calls.last_mut() {
                let node = *node;
                if *next == 0 {
                    (found[node], low[node], open[node]) = (count, count, true);
                    count += 1;
                    path.push(node);
                }
                let edge = self.edges[node].get(*next).copied();
                *next += 1;
                match edge {
                    Some(edge) if edge.kind.is_some_and(|kind| kind > level) => {}
                    Some(edge) if found[edge.to] == NEW => calls.push((edge.to, 0)),
                    Some(edge) if open[edge.to] => low[node] = low[node].min(found[edge.to]),
                    Some(_) => {}
                    None => {
                        calls.pop();
                        if let Some(&(caller, _)) = calls.last() {
                            low[caller] = low[caller].min(low[node]);
                        }
                        if low[node] == found[node] {
                            let from = path.iter().rposition(|&other| other == node).expect("it is on the path");
                            let component = path.split_off(from);
                            component.iter().for_each(|&node| open[node] = false);
                            if component.len() > 1 {
                                return Some(component);
                            }
                        }
                    }
                }
            }
        }
        None
    }

    /// The cycle with the fewest operations, looked for from the first few of the component.
    fn shortest_cycle(&self, component: &[usize], level: Kind) -> Vec<(usize, Edge)> {
        const TRIED_MAX: usize = 500;
        let inside: std::collections::BTreeSet<usize> = component.iter().copied().collect();
        let starts = inside.iter().copied().filter(|&node| node < self.operations).take(TRIED_MAX);
        let cycles = starts.filter_map(|start| self.cycle_from(start, &inside, level));
        cycles.min_by_key(Vec::len).expect("a strongly connected component of more than one node has a cycle")
    }

    /// The cycle through `start` with the fewest operations (breadth first; helpers count nothing).
    fn cycle_from(
        &self,
        start: usize,
        inside: &std::collections::BTreeSet<usize>,
        level: Kind,
    ) -> Option<Vec<(usize, Edge)>> {
        let mut reached: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
        let mut waiting = VecDeque::from([start]);
        let mut last = None;
        while let Some(node) = waiting.pop_front() {
            if let Some(back) = self.edges_up_to(node, level).find(|edge| edge.to == start) {
                last = Some((node, *back));
                break;
            }
            for edge in self.edges_up_to(node, level).filter(|edge| inside.contains(&edge.to)) {
                if let std::collections::btree_map::Entry::Vacant(vacant) = reached.entry(edge.to) {
                    vacant.insert((node, *edge));
                    if edge.to < self.operations { waiting.push_back(edge.to) } else { waiting.push_front(edge.to) }
                }
            }
        }
        // Back to the start; a way through helpers is one step, of the kind with which it began.
        let mut cycle = Vec::new();
        let mut step = last?;
        loop {
            let (node, edge) = step;
            if node < self.operations {
                cycle.push((node, edge));
            }
            if node == start {
                break;
            }
            step = reached[&node];
        }
        cycle.reverse();
        Some(cycle)
    }
}

/// True for what may show an old state: nothing comes before it by time alone.
fn may_be_old(request: &Request) -> bool {
    is_serializable(request) || matches!(request, Request::Range(range) if range.revision > 0)
}
