//! Which of many key ranges hold a key: a search tree over their starts, each node knowing the greatest end below it.
//!
//! A look-up goes left only where some range ends above the key, and right only where ranges begin at or below it, so it costs
//! O(log n) for each range found. The tree is balanced by height (AVL), whatever the order of insertion: clients choose the
//! ranges. Ranges are found in rising order of start, then end.

use std::cmp::Ordering;

use bytes::Bytes;

/// A range that has more than one key: `start` is inside, the end is not; without an end it goes on for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: Bytes,
    pub(super) end: Option<Bytes>,
}

impl Interval {
    fn order(&self, other: &Self) -> Ordering {
        self.start.cmp(&other.start).then_with(|| order_of_ends(&self.end, &other.end))
    }
}

/// No end lies above every end.
fn order_of_ends(left: &Option<Bytes>, right: &Option<Bytes>) -> Ordering {
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => left.cmp(right),
    }
}

fn lies_before(key: &[u8], end: &Option<Bytes>) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    interval: Interval,
    value: usize,
    /// The greatest end of this node and all below it.
    last_end: Option<Bytes>,
    height: u8,
    left: Link,
    right: Link,
}

/// Intervals, each with a value.
#[derive(Debug, Default)]
pub(super) struct IntervalTree {
    root: Link,
}

impl IntervalTree {
    /// The value of exactly this interval.
    pub(super) fn get(&self, interval: &Interval) -> Option<usize> {
        let mut link = &self.root;
        while let Some(node) = link {
            link = match interval.order(&node.interval) {
                Ordering::Equal => return Some(node.value),
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
            };
        }
        None
    }

    /// Adds an interval that is not there yet.
    pub(super) fn insert(&mut self, interval: Interval, value: usize) {
        self.root = Some(insert(self.root.take(), interval, value));
    }

    /// Removes an interval that is there.
    pub(super) fn remove(&mut self, interval: &Interval) {
        self.root = remove(self.root.take(), interval);
    }

    /// Visits the values of all intervals that hold `key`.
    pub(super) fn visit(&self, key: &[u8], visit: &mut impl FnMut(usize)) {
        visit_below(&self.root, key, visit);
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        if let Some(root) = &self.root {
            root.check_invariants();
        }
    }
}

fn visit_below(link: &Link, key: &[u8], visit: &mut impl FnMut(usize)) {
    let Some(node) = link.as_ref().filter(|node| lies_before(key, &node.last_end)) else { return };
    visit_below(&node.left, key, visit);
    if key >= &node.interval.start[..] {
        if lies_before(key, &node.interval.end) {
            visit(node.value);
        }
        visit_below(&node.right, key, visit);
    }
}

fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

impl Node {
    /// How much higher the left side is.
    fn tilt(&self) -> i16 {
        i16::from(height(&self.left)) - i16::from(height(&self.right))
    }

    /// Takes note of what is below now.
    fn update(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let mut last = &self.interval.end;
        for child in [&self.left, &self.right].into_iter().flatten() {
            if order_of_ends(&child.last_end, last).is_gt() {
                last = &child.last_end;
            }
        }
        self.last_end = last.clone();
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let mut expected = self.interval.end.clone();
        for (child, order) in [(&self.left, Ordering::Less), (&self.right, Ordering::Greater)] {
            if let Some(child) = child {
                child.check_invariants();
                assert_eq!(child.interval.order(&self.interval), order);
                if order_of_ends(&child.last_end, &expected).is_gt() {
                    expected = child.last_end.clone();
                }
            }
        }
        assert_eq!(self.last_end, expected);
        assert_eq!(self.height, 1 + height(&self.left).max(height(&self.right)));
        assert!(self.tilt().abs() <= 1);
    }
}

fn insert(link: Link, interval: Interval, value: usize) -> Box<Node> {
    let Some(mut node) = link else {
        let last_end = interval.end.clone();
        return Box::new(Node { interval, value, last_end, height: 1, left: None, right: None });
    };
    match interval.order(&node.interval) {
        Ordering::Less => node.left = Some(insert(node.left.take(), interval, value)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), interval, value)),
        Ordering::Equal => unreachable!("an interval is inserted once"),
    }
    balance(node)
}

fn remove(link: Link, interval: &Interval) -> Link {
    let mut node = link.expect("the interval is in the tree");
    match interval.order(&node.interval) {
        Ordering::Less => node.left = remove(node.left.take(), interval),
        Ordering::Greater => node.right = remove(node.right.take(), interval),
        Ordering::Equal => {
            let (left, right) = (node.left.take(), node.right.take());
            return match right {
                None => left,
                Some(right) => {
                    let (rest, mut first) = take_first(right);
                    first.left = left;
                    first.right = rest;
                    Some(balance(first))
                }
            };
        }
    }
    Some(balance(node))
}

/// The tree without its first node, and that node.
fn take_first(mut node: Box<Node>) -> (Link, Box<Node>) {
    match node.left.take() {
        None => (node.right.take(), node),
        Some(left) => {
            let (rest, first) = take_first(left);
            node.left = rest;
            (Some(balance(node)), first)
        }
    }
}

/// `node` after one of its sides has changed by one level at most.
fn balance(mut node: Box<Node>) -> Box<Node> {
    let tilt = node.tilt();
    if tilt > 1 {
        let left = node.left.take().expect("the higher side");
        node.left = Some(if left.tilt() < 0 { rotate_left(left) } else { left });
        return rotate_right(node);
    }
    if tilt < -1 {
        let right = node.right.take().expect("the higher side");
        node.right = Some(if right.tilt() > 0 { rotate_right(right) } else { right });
        return rotate_left(node);
    }
    node.update();
    node
}

fn rotate_left(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.right.take().expect("the higher side");
    node.right = top.left.take();
    node.update();
    top.left = Some(node);
    top.update();
    top
}

fn rotate_right(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.left.take().expect("the higher side");
    node.left = top.right.take();
    node.update();
    top.right = Some(node);
    top.update();
    top
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(start: u8, len: u8) -> Interval {
        // Lengths near the top stand for "no end".
        let end = (len < 30).then(|| Bytes::from(vec![start.saturating_add(len).saturating_add(1)]));
        Interval { start: Bytes::from(vec![start]), end }
    }

    fn found(tree: &IntervalTree, key: u8) -> Vec<usize> {
        let mut found = Vec::new();
        tree.visit(&[key], &mut |value| found.push(value));
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..Default::default() })]
        #[test]
        fn finds_what_a_list_finds(steps in prop::collection::vec((any::<bool>(), 0..40u8, 0..32u8), 0..200)) {
            let mut tree = IntervalTree::default();
            let mut list: Vec<(Interval, usize)> = Vec::new();
            for (number, (adds, start, len)) in steps.into_iter().enumerate() {
                let interval = interval(start, len);
                let known = list.iter().position(|(other, _)| *other == interval);
                prop_assert_eq!(tree.get(&interval), known.map(|place| list[place].1));
                match known {
                    Some(place) if !adds => {
                        list.remove(place);
                        tree.remove(&interval);
                    }
                    None if adds => {
                        list.push((interval.clone(), number));
                        tree.insert(interval, number);
                    }
                    _ => {}
                }
                tree.check_invariants();
            }
            list.sort_by(|left, right| left.0.order(&right.0));
            for key in 0..80u8 {
                let expected: Vec<usize> = list
                    .iter()
                    .filter(|(interval, _)| interval.start[..] <= [key][..] && lies_before(&[key], &interval.end))
                    .map(|(_, value)| *value)
                    .collect();
                prop_assert_eq!(found(&tree, key), expected);
            }
        }
    }

    #[test]
    fn rising_starts_make_no_list() {
        let mut tree = IntervalTree::default();
        for number in 0..1000u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            tree.insert(Interval { start, end: None }, number as usize);
        }
        tree.check_invariants();
        assert!(height(&tree.root) <= 14, "{}", height(&tree.root));
    }
}
