//! The answer of a search: section 7.

use std::collections::BTreeMap;

use tracehouse::traceql::ast::Pipeline;

use super::{
    Span, Val,
    shown::Mentioned,
    spansets,
    trace::{self, Trace},
};

/// A trace that a search finds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) trace: u64,
    pub(crate) root_service: Option<String>,
    pub(crate) root_name: Option<String>,
    pub(crate) start: i64,
    pub(crate) duration: i64,
    pub(crate) spansets: Vec<Shown>,
    /// Service, spans, errors.
    pub(crate) services: Vec<(Option<String>, i64, i64)>,
}

/// A spanset of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) attributes: Vec<(String, Val)>,
    pub(crate) spans: Vec<ShownSpan>,
}

/// A span of a spanset.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShownSpan {
    pub(crate) id: u64,
    /// By number.
    pub(crate) kind: usize,
    pub(crate) start: i64,
    pub(crate) duration: i64,
    pub(crate) attributes: Vec<(String, Val)>,
}

/// All traces that a pipeline finds among `rows` with spans in `[range.0, range.1)`.
pub(crate) fn search(pipeline: &Pipeline, rows: &[Span], range: (i64, i64), extent: i64) -> Vec<Found> {
    let mentioned = Mentioned::by(pipeline);
    let find = |trace: &Trace| find(pipeline, &mentioned, trace, range);
    let mut found: Vec<Found> = traces(rows, range, extent).iter().filter_map(find).collect();
    found.sort_by_key(|found| (std::cmp::Reverse(found.start), found.trace));
    found
}

/// The traces as a question about a range sees them.
pub(super) fn traces(rows: &[Span], range: (i64, i64), extent: i64) -> Vec<Trace> {
    let mut traces: BTreeMap<u64, Vec<&Span>> = BTreeMap::new();
    let (from, to) = (range.0.saturating_sub(extent), range.1.saturating_add(extent));
    for row in rows.iter().filter(|row| row.start >= from && row.start < to) {
        traces.entry(row.trace).or_default().push(row);
    }
    traces.into_iter().map(|(id, rows)| Trace::new(id, &rows)).collect()
}

fn find(pipeline: &Pipeline, mentioned: &Mentioned, trace: &Trace, range: (i64, i64)) -> Option<Found> {
    let mut spansets = Vec::new();
    for spanset in spansets::of_trace(pipeline, trace) {
        let spans = spanset.spans.iter().map(|index| (*index, &trace.spans[*index]));
        let spans: Vec<ShownSpan> = spans
            .filter(|(_, span)| span.start >= range.0 && span.start < range.1)
            .map(|(index, span)| ShownSpan {
                id: span.id,
                kind: span.kind,
                start: span.start,
                duration: span.duration,
                attributes: mentioned.of_span(trace, index),
            })
            .collect();
        if !spans.is_empty() {
            spansets.push(Shown { attributes: spanset.attributes, spans });
        }
    }
    if spansets.is_empty() {
        return None;
    }
    let mut services: BTreeMap<Option<String>, (i64, i64)> = BTreeMap::new();
    for span in &trace.spans {
        let counts = services.entry(trace::service(span)).or_default();
        counts.0 += 1;
        counts.1 += i64::from(span.status == 2);
    }
    let text = |value: Val| if let Val::Str(text) = value { Some(text) } else { None };
    Some(Found {
        trace: trace.id,
        root_service: text(trace.root_service()),
        root_name: text(trace.root_name()),
        start: trace.start(),
        duration: trace.duration(),
        spansets,
        services: services.into_iter().map(|(service, (spans, errors))| (service, spans, errors)).collect(),
    })
}
