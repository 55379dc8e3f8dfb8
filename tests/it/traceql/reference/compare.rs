//! `compare({ ... })`: section 8.

use std::collections::BTreeMap;

use tracehouse::traceql::{
    ast::{Attribute, FieldExpr, Scope},
    literal::{Kind, Status},
};

use super::{
    expression::{Subject, keeps},
    label::{self, Labels},
    metrics::Series,
    value::Val,
};
use crate::query::data::START;

/// The series of spans, each with its bucket.
pub(super) fn compare(
    selection: &FieldExpr,
    top: usize,
    range: Option<(i64, i64)>,
    buckets: usize,
    spans: &[(usize, Subject<'_>)],
) -> Vec<Series> {
    let is_selected = |span: &Subject<'_>| {
        let start = START + span.trace.spans[span.index].start;
        let in_range = range.is_none_or(|(from, to)| start >= from && start < to);
        in_range && keeps(selection, span.trace, span.index)
    };
    let mut series = Vec::new();
    for (side, total, selected) in [("baseline", "baseline_total", false), ("selection", "selection_total", true)] {
        // The bucket of every span, by attribute and by value.
        let mut attributes: BTreeMap<String, Vec<(Val, Vec<usize>)>> = BTreeMap::new();
        for (bucket, span) in spans.iter().filter(|(_, span)| is_selected(span) == selected) {
            for (name, value) in attributes_of(span) {
                let values = attributes.entry(name).or_default();
                match values.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, found)) => found.push(*bucket),
                    None => values.push((value, vec![*bucket])),
                }
            }
        }
        for (name, mut values) in attributes {
            let one = |kind: &str, value: Val, found: &[usize]| {
                let labels: Labels = vec![("__meta_type".to_owned(), Val::Str(kind.to_owned())), (name.clone(), value)];
                let count = |bucket: usize| found.iter().filter(|other| **other == bucket).count() as f64;
                Series { labels, samples: (0..buckets).map(|bucket| (bucket, count(bucket))).collect() }
            };
            let all: Vec<usize> = values.iter().flat_map(|(_, found)| found.clone()).collect();
            series.push(one(total, Val::Str("nil".to_owned()), &all));
            values.sort_by_key(|(value, found)| {
                let by_type = label::order(&[(String::new(), value.clone())]);
                (std::cmp::Reverse(found.len()), label::plain(value), by_type)
            });
            values.truncate(top);
            series.extend(values.iter().map(|(value, found)| one(side, value.clone(), found)));
        }
    }
    series
}

fn attributes_of(span: &Subject<'_>) -> Vec<(String, Val)> {
    let span = &span.trace.spans[span.index];
    let texts = [
        ("name", span.name.as_str()),
        ("kind", Kind::ALL[span.kind].name()),
        ("status", Status::ALL[span.status].name()),
        ("statusMessage", &span.message),
        ("instrumentation:name", &span.scope_name),
        ("instrumentation:version", &span.scope_version),
    ];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut all: Vec<(String, Val)> = texts.map(|(name, text)| (name.to_owned(), Val::Str(text.to_owned()))).collect();
    for (scope, attributes) in [(Scope::Span, &span.own), (Scope::Resource, &span.resource)] {
        let name = |key: &str| Attribute { of_parent: false, scope, key: key.to_owned() }.to_string();
        let values = attributes.iter().map(|(key, value)| (name(key), Val::of_attribute(value)));
        all.extend(
            values.filter(|(_, value)| matches!(value, Val::Str(_) | Val::Int(_) | Val::Float(_) | Val::Bool(_))),
        );
    }
    all
}
