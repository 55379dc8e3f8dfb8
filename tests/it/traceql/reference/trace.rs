//! A trace: its spans without copies, in order, and how they hang together. Section 2.

use super::{Span, value::Val};

/// What a span hangs on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Parent {
    Root,
    /// The id of the parent that is not there.
    Orphan(u64),
    /// The index of the parent.
    Span(usize),
}

#[derive(Debug)]
pub(crate) struct Trace {
    pub(super) id: u64,
    pub(super) spans: Vec<Span>,
    pub(super) parents: Vec<Parent>,
    /// Left, right, parent.
    pub(super) nested: Vec<[i64; 3]>,
}

const SERVER: usize = 2;
const CLIENT: usize = 3;
const PRODUCER: usize = 4;
const CONSUMER: usize = 5;

/// Kinds that share an id, in the order in which children prefer them as parents.
const PARENT_KINDS: [usize; 6] = [SERVER, CONSUMER, 1, 0, CLIENT, PRODUCER];

impl Trace {
    /// The trace of these rows, all of one trace id.
    pub(super) fn new(id: u64, rows: &[&Span]) -> Self {
        let mut rows: Vec<&Span> = rows.to_vec();
        rows.sort_by_key(|span| (span.start, span.duration));
        let mut spans: Vec<Span> = Vec::new();
        for row in rows {
            if !spans.iter().any(|span| (span.id, span.kind) == (row.id, row.kind)) {
                spans.push(row.clone());
            }
        }
        spans.sort_by_key(|span| (span.start, span.id, span.kind));
        let parents = (0..spans.len()).map(|index| parent(&spans, index)).collect();
        let nested = vec![[0; 3]; spans.len()];
        let mut trace = Self { id, spans, parents, nested };
        let mut next = 1;
        for index in 0..trace.spans.len() {
            if trace.parents[index] == Parent::Root {
                trace.number(index, -1, &mut next);
            }
        }
        trace
    }

    fn number(&mut self, index: usize, parent: i64, next: &mut i64) {
        let left = *next;
        *next += 1;
        for child in self.children(index) {
            self.number(child, left, next);
        }
        self.nested[index] = [left, *next, parent];
        *next += 1;
    }

    pub(super) fn children(&self, index: usize) -> Vec<usize> {
        (0..self.spans.len()).filter(|child| self.parents[*child] == Parent::Span(index)).collect()
    }

    /// The parent, its parent and so on, without the span itself.
    pub(super) fn ancestors(&self, index: usize) -> Vec<usize> {
        let mut chain = Vec::new();
        let mut at = index;
        while let Parent::Span(parent) = self.parents[at] {
            if parent == index || chain.contains(&parent) {
                break;
            }
            chain.push(parent);
            at = parent;
        }
        chain
    }

    pub(super) fn are_siblings(&self, a: usize, b: usize) -> bool {
        a != b && self.parents[a] == self.parents[b] && self.parents[a] != Parent::Root
    }

    pub(super) fn start(&self) -> i64 {
        self.spans.iter().map(|span| span.start).min().unwrap()
    }

    pub(super) fn duration(&self) -> i64 {
        self.spans.iter().map(|span| span.start + span.duration.max(0)).max().unwrap() - self.start()
    }

    fn root(&self) -> Option<&Span> {
        let index = self.parents.iter().position(|parent| *parent == Parent::Root)?;
        Some(&self.spans[index])
    }

    pub(super) fn root_name(&self) -> Val {
        self.root().map_or(Val::Missing, |root| Val::Str(root.name.clone()))
    }

    pub(super) fn root_service(&self) -> Val {
        match self.root().map(service) {
            Some(Some(service)) => Val::Str(service),
            _ => Val::Missing,
        }
    }
}

/// The service's name, if it is text.
pub(super) fn service(span: &Span) -> Option<String> {
    match span.resource.get("service.name") {
        Some(super::Attr::Str(name)) => Some(name.clone()),
        _ => None,
    }
}

fn parent(spans: &[Span], index: usize) -> Parent {
    let span = &spans[index];
    let Some(id) = span.parent else { return Parent::Root };
    let with = |id: u64, kind: usize| {
        (0..spans.len()).find(|other| *other != index && spans[*other].id == id && spans[*other].kind == kind)
    };
    let half = match span.kind {
        SERVER => with(span.id, CLIENT),
        CONSUMER => with(span.id, PRODUCER),
        _ => None,
    };
    match half.or_else(|| PARENT_KINDS.iter().find_map(|kind| with(id, *kind))) {
        Some(parent) => Parent::Span(parent),
        None => Parent::Orphan(id),
    }
}
