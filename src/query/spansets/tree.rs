//! Who is whose parent in a trace, and what follows from it. The rules are in `grammar/README.md`, section 2.
//!
//! Spans are numbered in their order. A parent is found by ids alone, so there can be cycles, and spans without a parent
//! that are no roots. Everything here takes time in proportion to the number of spans.

use std::collections::HashMap;

use crate::model::schema::KINDS;

/// No span.
pub(super) const NONE: u32 = u32::MAX;

/// Which of several spans with one id is the parent of those that name the id, by kind number: the least wins.
const PARENT_RANK: [u8; KINDS.len()] = [3, 2, 0, 4, 5, 1];
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const PRODUCER: u8 = 4;
const CONSUMER: u8 = 5;

/// The identity of one span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) parent_id: Option<u64>,
}

/// The edges of a trace.
#[derive(Debug)]
pub(super) struct Tree {
    /// The parent of each span, or [`NONE`].
    pub(super) parents: Vec<u32>,
    /// All spans, parents before children, except within cycles.
    order: Vec<u32>,
    /// Parts of `order` that are one cycle each, in order.
    cycles: Vec<(usize, usize)>,
    /// What siblings have in common; [`NONE`] for roots.
    families: Vec<u32>,
    family_count: usize,
}

impl Tree {
    /// The tree of distinct spans in order.
    pub(super) fn new(spans: &[Identity]) -> Self {
        let count = spans.len();
        // Most traces are small, and sorting them is faster than hashing.
        let mut by_id: Vec<(u64, u32)> = spans.iter().zip(0..).map(|(span, index)| (span.id, index)).collect();
        by_id.sort_unstable();
        let with_id = |id: u64| {
            let start = by_id.partition_point(|(other, _)| *other < id);
            by_id[start..].iter().take_while(move |(other, _)| *other == id).map(|(_, index)| *index)
        };
        let mut parents = vec![NONE; count];
        let mut families = vec![NONE; count];
        let mut orphans: HashMap<u64, u32> = HashMap::new();
        for (index, span) in spans.iter().enumerate() {
            let Some(parent_id) = span.parent_id else { continue };
            let half = match span.kind {
                SERVER => Some(CLIENT),
                CONSUMER => Some(PRODUCER),
                _ => None,
            };
            let other_half = half.and_then(|half| with_id(span.id).find(|other| spans[*other as usize].kind == half));
            let named = || {
                with_id(parent_id)
                    .filter(|other| *other as usize != index)
                    .min_by_key(|other| PARENT_RANK.get(usize::from(spans[*other as usize].kind)))
            };
            match other_half.or_else(named) {
                Some(parent) => (parents[index], families[index]) = (parent, parent),
                None => {
                    let new = (count + orphans.len()) as u32;
                    families[index] = *orphans.entry(parent_id).or_insert(new);
                }
            }
        }
        let (order, cycles) = ordered(&parents);
        Self { parents, order, cycles, families, family_count: count + orphans.len() }
    }

    /// For each span whether an ancestor of it is marked.
    pub(super) fn below(&self, marked: &[bool]) -> Vec<bool> {
        let mut below = vec![false; marked.len()];
        let mut position = 0;
        for (start, end) in self.cycles.iter().copied().chain([(self.order.len(), self.order.len())]) {
            for span in &self.order[position..start] {
                let parent = self.parents[*span as usize];
                below[*span as usize] = parent != NONE && (marked[parent as usize] || below[parent as usize]);
            }
            let cycle = &self.order[start..end];
            let count = cycle.iter().filter(|span| marked[**span as usize]).count();
            for span in cycle {
                below[*span as usize] = count > usize::from(marked[*span as usize]);
            }
            position = end;
        }
        below
    }

    /// For each span whether a descendant of it is marked.
    pub(super) fn above(&self, marked: &[bool]) -> Vec<bool> {
        let mut above = vec![false; marked.len()];
        let mut position = self.order.len();
        for (start, end) in self.cycles.iter().copied().rev().chain([(0, 0)]) {
            for span in self.order[end..position].iter().rev() {
                let span = *span as usize;
                if self.parents[span] != NONE && (marked[span] || above[span]) {
                    above[self.parents[span] as usize] = true;
                }
            }
            let cycle = &self.order[start..end];
            let hangs = cycle.iter().any(|span| above[*span as usize]);
            let count = cycle.iter().filter(|span| marked[**span as usize]).count();
            for span in cycle {
                above[*span as usize] = hangs || count > usize::from(marked[*span as usize]);
            }
            position = start;
        }
        above
    }

    /// For each span whether its parent is marked.
    pub(super) fn children(&self, marked: &[bool]) -> Vec<bool> {
        self.parents.iter().map(|parent| *parent != NONE && marked[*parent as usize]).collect()
    }

    /// For each span whether a child of it is marked.
    pub(super) fn with_children(&self, marked: &[bool]) -> Vec<bool> {
        let mut found = vec![false; marked.len()];
        for (parent, marked) in self.parents.iter().zip(marked) {
            if *marked && *parent != NONE {
                found[*parent as usize] = true;
            }
        }
        found
    }

    /// For each span whether a sibling of it is marked.
    pub(super) fn siblings(&self, marked: &[bool]) -> Vec<bool> {
        let mut counts = vec![0u32; self.family_count];
        for (family, marked) in self.families.iter().zip(marked) {
            if *marked && *family != NONE {
                counts[*family as usize] += 1;
            }
        }
        let is_sibling =
            |(family, marked): (&u32, &bool)| *family != NONE && counts[*family as usize] > u32::from(*marked);
        self.families.iter().zip(marked).map(is_sibling).collect()
    }

    /// The number of children of each span.
    pub(super) fn child_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.parents.len()];
        for parent in self.parents.iter().filter(|parent| **parent != NONE) {
            counts[*parent as usize] += 1;
        }
        counts
    }

    /// The numbers of the nested-set walk, roots being spans of `is_root`.
    pub(super) fn nested_sets(&self, is_root: impl Fn(u32) -> bool) -> Vec<NestedSet> {
        let count = self.parents.len();
        // The children of a span, in order, are a part of `children`.
        let mut starts = vec![0u32; count + 1];
        for parent in self.parents.iter().filter(|parent| **parent != NONE) {
            starts[*parent as usize + 1] += 1;
        }
        for index in 0..count {
            starts[index + 1] += starts[index];
        }
        let mut children = vec![0u32; starts[count] as usize];
        let mut free = starts.clone();
        for (span, parent) in self.parents.iter().enumerate().filter(|(_, parent)| **parent != NONE) {
            let place = &mut free[*parent as usize];
            children[*place as usize] = span as u32;
            *place += 1;
        }
        let mut sets = vec![NestedSet::default(); count];
        let mut number = 0;
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in (0..count as u32).filter(|span| is_root(*span)) {
            number += 1;
            sets[root as usize] = NestedSet { left: number, right: 0, parent: -1, depth: 0 };
            path.push((root, starts[root as usize]));
            while let Some((span, child)) = path.last_mut() {
                let span = *span as usize;
                number += 1;
                if *child < starts[span + 1] {
                    let next = children[*child as usize];
                    *child += 1;
                    let (parent, depth) = (sets[span].left, sets[span].depth + 1);
                    sets[next as usize] = NestedSet { left: number, right: 0, parent, depth };
                    path.push((next, starts[next as usize]));
                } else {
                    sets[span].right = number;
                    path.pop();
                }
            }
        }
        sets
    }
}

/// The numbers of a span; all zero for one that no root reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NestedSet {
    pub(super) left: i64,
    pub(super) right: i64,
    /// The parent's left number; -1 for a root.
    pub(super) parent: i64,
    /// Spans between it and its root.
    pub(super) depth: i64,
}

fn ordered(parents: &[u32]) -> (Vec<u32>, Vec<(usize, usize)>) {
    const NEW: u8 = 0;
    const ON_PATH: u8 = 1;
    const DONE: u8 = 2;
    let mut state = vec![NEW; parents.len()];
    let (mut order, mut cycles) = (Vec::with_capacity(parents.len()), Vec::new());
    let mut path: Vec<u32> = Vec::new();
    for start in 0..parents.len() as u32 {
        let mut span = start;
        while span != NONE && state[span as usize] == NEW {
            state[span as usize] = ON_PATH;
            path.push(span);
            span = parents[span as usize];
        }
        if span != NONE && state[span as usize] == ON_PATH {
            let length = path.iter().rev().position(|other| *other == span).map_or(0, |position| position + 1);
            cycles.push((order.len(), order.len() + length));
        }
        while let Some(span) = path.pop() {
            state[span as usize] = DONE;
            order.push(span);
        }
    }
    (order, cycles)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans of kind internal by id, each with the id of its parent; 0 for none.
    fn tree(spans: &[(u64, u64)]) -> Tree {
        let identity =
            |(id, parent): &(u64, u64)| Identity { id: *id, kind: 1, parent_id: Some(*parent).filter(|id| *id != 0) };
        Tree::new(&spans.iter().map(identity).collect::<Vec<_>>())
    }

    fn marks(count: usize, marked: &[usize]) -> Vec<bool> {
        (0..count).map(|index| marked.contains(&index)).collect()
    }

    fn found(marks: &[bool]) -> Vec<usize> {
        marks.iter().enumerate().filter(|(_, marked)| **marked).map(|(index, _)| index).collect()
    }

    #[test]
    fn ancestors_and_descendants_follow_edges_whatever_the_order_of_spans() {
        // 4 -> 2 -> 1 (root), 3 -> 1, 5 is an orphan with the child 6.
        let tree = tree(&[(4, 2), (2, 1), (1, 0), (3, 1), (5, 99), (6, 5)]);
        assert_eq!(found(&tree.below(&marks(6, &[2]))), [0, 1, 3]);
        assert_eq!(found(&tree.below(&marks(6, &[4]))), [5]);
        assert_eq!(found(&tree.above(&marks(6, &[0]))), [1, 2]);
        assert_eq!(found(&tree.children(&marks(6, &[2]))), [1, 3]);
        assert_eq!(found(&tree.with_children(&marks(6, &[0, 3]))), [1, 2]);
        assert_eq!(found(&tree.siblings(&marks(6, &[1]))), [3]);
        assert_eq!(tree.child_counts(), [0, 1, 2, 0, 1, 0]);
    }

    #[test]
    fn every_span_of_a_cycle_is_above_and_below_every_other_one() {
        // 1 -> 2 -> 3 -> 1, and 4 hangs from 2.
        let tree = tree(&[(1, 2), (2, 3), (3, 1), (4, 2)]);
        assert_eq!(found(&tree.below(&marks(4, &[0]))), [1, 2, 3]);
        assert_eq!(found(&tree.above(&marks(4, &[0]))), [1, 2]);
        assert_eq!(found(&tree.above(&marks(4, &[3]))), [0, 1, 2]);
        assert_eq!(found(&tree.below(&marks(4, &[3]))), [] as [usize; 0]);
        assert_eq!(tree.nested_sets(|_| false), [NestedSet::default(); 4]);
    }

    #[test]
    fn a_span_is_never_its_own_parent_and_orphans_of_one_parent_are_siblings() {
        let tree = tree(&[(1, 1), (2, 7), (3, 7), (4, 0), (5, 0)]);
        assert_eq!(tree.parents, [NONE; 5]);
        assert_eq!(found(&tree.siblings(&marks(5, &[1]))), [2]);
        assert_eq!(found(&tree.siblings(&marks(5, &[3]))), [] as [usize; 0]);
    }

    #[test]
    fn halves_of_a_call_that_share_an_id_are_parent_and_child() {
        let span = |id, kind, parent_id| Identity { id, kind, parent_id };
        let tree = Tree::new(&[span(1, CLIENT, None), span(1, SERVER, Some(9)), span(2, 1, Some(1))]);
        assert_eq!(tree.parents, [NONE, 0, 1]);
    }

    #[test]
    fn nested_sets_number_what_roots_reach_in_order() {
        let tree = tree(&[(1, 0), (2, 1), (3, 1), (4, 2), (5, 77), (6, 0)]);
        let sets = tree.nested_sets(|span| span == 0 || span == 5);
        let numbers: Vec<(i64, i64, i64)> = sets.iter().map(|set| (set.left, set.right, set.parent)).collect();
        assert_eq!(numbers, [(1, 8, -1), (2, 5, 1), (6, 7, 1), (3, 4, 2), (0, 0, 0), (9, 10, -1)]);
        assert_eq!(sets[3].depth, 2);
    }
}
