//! What is known of one trace while its spans come in, in any order and number of copies.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

/// What makes two rows copies of one span: its id, and its kind by number, since Zipkin's client and server share an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SpanKey {
    pub(super) id: u64,
    pub(super) kind: u8,
}

/// What counts of a span for its trace. Of several copies the least by this order counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Facts {
    pub(super) start: i64,
    pub(super) duration: i64,
    pub(super) service: Option<Arc<str>>,
    pub(super) is_error: bool,
    pub(super) matches: bool,
}

/// A span without a parent. The least by this order gives the trace its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Root {
    pub(super) start: i64,
    pub(super) key: SpanKey,
    pub(super) service: Option<Arc<str>>,
    pub(super) name: Arc<str>,
}

/// A matching span as it is shown. The least by this order are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    pub(super) start: i64,
    pub(super) key: SpanKey,
    pub(super) duration: i64,
    pub(super) name: Arc<str>,
    /// The shown values, as a row of Arrow's row format.
    pub(super) shown: Box<[u8]>,
}

/// Counts of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceCounts {
    pub(super) spans: i64,
    pub(super) errors: i64,
}

/// One trace. It holds an entry per span, and at most `matches_max` matching spans.
#[derive(Debug)]
pub(super) struct TraceState {
    matches_max: usize,
    spans: HashMap<SpanKey, Facts>,
    root: Option<Root>,
    matches: Vec<Match>,
    texts: HashSet<Arc<str>>,
    text_bytes: usize,
}

impl TraceState {
    pub(super) fn new(matches_max: usize) -> Self {
        Self {
            matches_max,
            spans: HashMap::new(),
            root: None,
            matches: Vec::new(),
            texts: HashSet::new(),
            text_bytes: 0,
        }
    }

    /// The same text, shared with earlier ones.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = Arc::from(text);
        self.text_bytes += text.len() + 2 * size_of::<usize>();
        self.texts.insert(Arc::clone(&text));
        text
    }

    pub(super) fn add_span(&mut self, key: SpanKey, facts: Facts) {
        match self.spans.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(facts);
            }
            Entry::Occupied(mut known) if facts < *known.get() => {
                known.insert(facts);
            }
            Entry::Occupied(_) => {}
        }
    }

    pub(super) fn add_root(&mut self, root: Root) {
        if self.root.as_ref().is_none_or(|known| root < *known) {
            self.root = Some(root);
        }
    }

    /// Whether a matching span with this start and key would be kept.
    pub(super) fn wants(&self, start: i64, key: SpanKey) -> bool {
        self.matches.len() < self.matches_max
            || self.matches.last().is_some_and(|last| (start, key) < (last.start, last.key))
            || self.matches.iter().any(|known| known.key == key && start <= known.start)
    }

    pub(super) fn add_match(&mut self, found: Match) {
        if let Some(index) = self.matches.iter().position(|known| known.key == found.key) {
            if self.matches[index] <= found {
                return;
            }
            self.matches.remove(index);
        }
        let index = self.matches.partition_point(|known| *known < found);
        self.matches.insert(index, found);
        self.matches.truncate(self.matches_max);
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = (&SpanKey, &Facts)> {
        self.spans.iter()
    }

    pub(super) fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// The kept matching spans, in order.
    pub(super) fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// Number of spans that match.
    pub(super) fn matched(&self) -> i64 {
        self.spans.values().filter(|facts| facts.matches).count() as i64
    }

    /// First start and last end; `None` without spans.
    pub(super) fn bounds(&self) -> Option<(i64, i64)> {
        let start = self.spans.values().map(|facts| facts.start).min()?;
        let end = self.spans.values().map(|facts| facts.start.saturating_add(facts.duration.max(0))).max()?;
        Some((start, end))
    }

    /// Counts by service, by name.
    pub(super) fn services(&self) -> BTreeMap<Option<&str>, ServiceCounts> {
        let mut services: BTreeMap<Option<&str>, ServiceCounts> = BTreeMap::new();
        for facts in self.spans.values() {
            let counts = services.entry(facts.service.as_deref()).or_default();
            counts.spans += 1;
            counts.errors += i64::from(facts.is_error);
        }
        services
    }

    /// Bytes of memory, about.
    pub(super) fn size(&self) -> usize {
        let matches: usize = self.matches.iter().map(|found| size_of::<Match>() + found.shown.len()).sum();
        self.spans.capacity() * (size_of::<SpanKey>() + size_of::<Facts>()) + matches + self.text_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(start: i64, id: u64) -> Match {
        let key = SpanKey { id, kind: 0 };
        Match { start, key, duration: 1, name: Arc::from("x"), shown: Box::default() }
    }

    #[test]
    fn the_earliest_matches_are_kept_once_in_any_order_of_arrival() {
        let all = [found(5, 1), found(3, 2), found(9, 3), found(4, 3), found(3, 2), found(7, 4)];
        for rotation in 0..all.len() {
            let mut state = TraceState::new(3);
            for index in 0..all.len() {
                let next = &all[(index + rotation) % all.len()];
                if state.wants(next.start, next.key) {
                    state.add_match(next.clone());
                }
            }
            let kept: Vec<(i64, u64)> = state.matches().iter().map(|found| (found.start, found.key.id)).collect();
            assert_eq!(kept, [(3, 2), (4, 3), (5, 1)], "rotation {rotation}");
        }
    }

    #[test]
    fn copies_count_once_and_the_choice_among_them_is_stable() {
        let facts = |start, is_error| Facts { start, duration: 10, service: None, is_error, matches: true };
        let key = SpanKey { id: 1, kind: 2 };
        for order in [[facts(1, true), facts(2, false)], [facts(2, false), facts(1, true)]] {
            let mut state = TraceState::new(1);
            for copy in order {
                state.add_span(key, copy);
            }
            state.add_span(SpanKey { id: 1, kind: 3 }, facts(5, false));
            assert_eq!((state.matched(), state.bounds()), (2, Some((1, 15))));
            assert_eq!(state.services()[&None], ServiceCounts { spans: 2, errors: 1 });
        }
    }
}
