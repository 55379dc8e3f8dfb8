//! Pairs of a client and a server span with one id, or of a producer and a consumer, as Zipkin's senders make them.
//!
//! ```text
//!  client 7 <- 3            client 7 <- 3
//!  server 7 <- 3     ->     server 8 <- 7
//!  child  9 <- 7            child  9 <- 8
//! ```
//!
//! Viewers draw a tree by id, in which one of the two would be lost. So the half that was called gets an id that nothing else
//! in the trace has, below the caller's; children belong to it, where they were made. Stored spans keep what was sent.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use opentelemetry_proto::tonic::trace::v1::{Span, TracesData, span::SpanKind};

type Id = Vec<u8>;

/// Who is called, and by whom. The first is whose children they are.
const PAIRS: [(SpanKind, SpanKind); 2] =
    [(SpanKind::Server, SpanKind::Client), (SpanKind::Consumer, SpanKind::Producer)];

/// Gives each span that shares the id of its caller one of its own.
pub(super) fn separate(trace: &mut TracesData) {
    let mut kinds: BTreeMap<Id, BTreeSet<i32>> = BTreeMap::new();
    for span in spans(trace) {
        kinds.entry(span.span_id.clone()).or_default().insert(span.kind);
    }
    let mut used: HashSet<Id> = kinds.keys().cloned().collect();
    let mut own: BTreeMap<(Id, i32), Id> = BTreeMap::new();
    for (id, kinds) in &kinds {
        for (called, caller) in PAIRS {
            if kinds.contains(&(called as i32)) && kinds.contains(&(caller as i32)) {
                own.insert((id.clone(), called as i32), fresh(id, &mut used));
            }
        }
    }
    if own.is_empty() {
        return;
    }
    for span in spans(trace) {
        if let Some(own) = own.get(&(span.span_id.clone(), span.kind)) {
            span.parent_span_id = std::mem::replace(&mut span.span_id, own.clone());
            continue;
        }
        let called = PAIRS.iter().find_map(|(called, _)| own.get(&(span.parent_span_id.clone(), *called as i32)));
        if let Some(called) = called {
            span.parent_span_id = called.clone();
        }
    }
}

fn spans(trace: &mut TracesData) -> impl Iterator<Item = &mut Span> {
    let scopes = trace.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans);
    scopes.flat_map(|scope| &mut scope.spans)
}

/// The next id after `id` that is not used, and is now.
fn fresh(id: &[u8], used: &mut HashSet<Id>) -> Id {
    let mut candidate = id.to_vec();
    loop {
        for byte in candidate.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        // An id of zeros stands for none.
        if candidate.iter().any(|byte| *byte != 0) && used.insert(candidate.clone()) {
            return candidate;
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};

    use super::*;

    fn span(kind: SpanKind, id: u8, parent: u8) -> Span {
        let id_of = |id: u8| if id == 0 { Vec::new() } else { vec![0, 0, 0, 0, 0, 0, 0, id] };
        Span { kind: kind as i32, span_id: id_of(id), parent_span_id: id_of(parent), ..Span::default() }
    }

    fn separated(spans: Vec<Span>) -> Vec<(Id, Id)> {
        let scope = ScopeSpans { spans, ..ScopeSpans::default() };
        let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        let mut trace = TracesData { resource_spans: vec![resource] };
        separate(&mut trace);
        super::spans(&mut trace).map(|span| (span.span_id.clone(), span.parent_span_id.clone())).collect()
    }

    #[test]
    fn the_server_of_a_pair_gets_an_id_below_the_client_and_above_the_children() {
        use SpanKind::{Client, Consumer, Internal, Producer, Server};
        let pair =
            [(Server, 3, 0), (Client, 7, 3), (Server, 7, 3), (Internal, 8, 7), (Producer, 255, 8), (Consumer, 255, 8)];
        let ids: Vec<(u8, u8)> = separated(pair.map(|(kind, id, parent)| span(kind, id, parent)).to_vec())
            .iter()
            .map(|(id, parent)| (*id.last().unwrap(), parent.last().copied().unwrap_or(0)))
            .collect();
        // 8 is taken, so 7 becomes 9; 256 ends with a zero.
        assert_eq!(ids, [(3, 0), (7, 3), (9, 7), (8, 9), (255, 8), (0, 255)]);
    }

    #[test]
    fn other_traces_stay_as_they_are() {
        use SpanKind::{Client, Server};
        let plain = vec![span(Server, 1, 0), span(Client, 2, 1), span(Server, 3, 2)];
        let expected: Vec<(Id, Id)> =
            plain.iter().map(|span| (span.span_id.clone(), span.parent_span_id.clone())).collect();
        assert_eq!(separated(plain), expected);
    }
}
