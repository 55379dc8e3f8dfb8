//! Summaries of repeated spans: one span stands for many calls that are alike, and tells how many there were and how long
//! they took.
//!
//! ```text
//!  orders                        orders
//!   |- load item                  |- load item         aggregation.span_count = 6
//!   |   |- SELECT stock  2 ms     |   |- SELECT stock  aggregation.span_count = 6, aggregation.duration_max_ns = ...
//!   |- load item            ->    |- UPDATE stock
//!   |   |- SELECT stock  9 ms
//!   |   ...
//!   |- UPDATE stock
//! ```
//!
//! Alike are leaves of one service with the same name, kind, status and chosen attributes, below parents of the same name;
//! then parents of which all children are summarised, for so many levels. The slowest of them gives the summary its id, its
//! attributes and its place; the summary lasts from the first start to the last end. The attributes that tell of the others
//! are those of the OpenTelemetry Collector's span pruning, which Grafana draws. What is a summary already, because a
//! collector has made it, stays as it is.

use std::{collections::HashMap, time::Duration};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    trace::v1::{Span, TracesData},
};
use prost::Message;
use regex::Regex;

use super::generations;
use crate::{
    api::tempo::params::Params,
    error::{Error, Result},
    query::Generations,
};

/// Fewest spans that are summarised, unless the request says otherwise.
const SPANS_MIN: usize = 5;

/// Fewest spans of which one can stand for others.
const SPANS_LEAST: usize = 2;

/// Levels of parents that are summarised, unless the request says otherwise.
const PARENT_LEVELS: i64 = 1;

/// What the attributes of a summary begin with.
const PREFIX: &str = "aggregation.";

/// The attribute that marks a summary.
const IS_SUMMARY: &str = "aggregation.is_summary";

/// Upper bounds of the histogram of durations.
const BOUNDS_MILLIS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// Which spans are summarised.
#[derive(Clone, Debug)]
pub(super) struct Repetition {
    /// Keys of attributes that have to agree, if there are any.
    agreeing: Option<Regex>,
    /// Fewest leaves that are summarised.
    spans_min: usize,
    /// How far above the leaves parents are summarised.
    parents: Generations,
}

impl Repetition {
    /// What a request asks for; `None` if it wants every span.
    pub(super) fn read(params: &Params) -> Result<Option<Self>> {
        if !params.flag("span_pruning")? {
            return Ok(None);
        }
        let spans_min = match params.get("span_pruning_min_spans").map(str::parse::<usize>) {
            None => SPANS_MIN,
            Some(Ok(spans)) if spans >= SPANS_LEAST => spans,
            Some(_) => {
                let message = "invalid span_pruning_min_spans: must be a whole number of at least 2";
                return Err(Error::invalid(message));
            }
        };
        let parents = generations(params, "span_pruning_max_parent_depth", PARENT_LEVELS)?;
        let agreeing = params.get("span_pruning_group_by").map(globs).transpose()?;
        Ok(Some(Self { agreeing, spans_min, parents }))
    }

    /// Replaces repeated spans of a trace by summaries, and says whether there were any.
    pub(super) fn summarise(&self, trace: &mut TracesData) -> bool {
        let fates = Tree::of(trace).fates(self);
        let any = fates.iter().any(|fate| !matches!(fate, Fate::Stays));
        if any {
            let mut fates = fates.into_iter();
            for resource in &mut trace.resource_spans {
                for scope in &mut resource.scope_spans {
                    let spans = std::mem::take(&mut scope.spans).into_iter().zip(&mut fates);
                    scope.spans = spans.filter_map(|(span, fate)| fate.of(span)).collect();
                }
                resource.scope_spans.retain(|scope| !scope.spans.is_empty());
            }
            trace.resource_spans.retain(|resource| !resource.scope_spans.is_empty());
        }
        any
    }
}

/// Patterns of keys with commas between them, in which `*` stands for any text and `?` for any character.
fn globs(patterns: &str) -> Result<Regex> {
    let glob = |pattern: &str| regex::escape(pattern.trim()).replace(r"\*", ".*").replace(r"\?", ".");
    let globs: Vec<String> = patterns.split(',').map(glob).collect();
    Regex::new(&format!("^(?s:{})$", globs.join("|")))
        .map_err(|cause| Error::invalid("invalid span_pruning_group_by: the patterns are too long").with_source(cause))
}

/// What becomes of a span.
#[derive(Clone, Debug)]
enum Fate {
    Stays,
    /// Another one stands for it.
    Goes,
    /// It stands for others.
    Becomes(Box<Span>),
}

impl Fate {
    fn of(self, span: Span) -> Option<Span> {
        match self {
            Fate::Stays => Some(span),
            Fate::Goes => None,
            Fate::Becomes(summary) => Some(*summary),
        }
    }
}

/// What spans have to have in common.
#[derive(PartialEq, Eq, Hash)]
struct Likeness<'a> {
    service: Option<&'a str>,
    parent: &'a str,
    name: &'a str,
    kind: i32,
    status: i32,
    attributes: Vec<(&'a str, Vec<u8>)>,
}

/// The spans of a trace in their order, and how they hang together.
struct Tree<'a> {
    spans: Vec<&'a Span>,
    services: Vec<Option<&'a str>>,
    /// Positions of parents that are in the trace.
    parents: Vec<Option<usize>>,
    /// Children that are not summarised.
    children: Vec<usize>,
}

/// Spans that are alike.
struct Group {
    members: Vec<usize>,
    /// The slowest of them.
    slowest: usize,
}

impl<'a> Tree<'a> {
    fn of(trace: &'a TracesData) -> Self {
        let (mut spans, mut services) = (Vec::new(), Vec::new());
        for resource in &trace.resource_spans {
            let mut attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let service = attributes.find(|attribute| attribute.key == "service.name");
            let service = match service.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
                Some(Value::StringValue(name)) => Some(name.as_str()),
                _ => None,
            };
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(span);
                services.push(service);
            }
        }
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(spans.len());
        for (place, span) in spans.iter().enumerate() {
            places.entry(&span.span_id).or_insert(place);
        }
        let parent_of = |(place, span): (usize, &&Span)| {
            places.get(span.parent_span_id.as_slice()).copied().filter(|parent| *parent != place)
        };
        let parents: Vec<Option<usize>> = spans.iter().enumerate().map(parent_of).collect();
        let mut children = vec![0; spans.len()];
        parents.iter().flatten().for_each(|parent| children[*parent] += 1);
        Self { spans, services, parents, children }
    }

    fn fates(mut self, repetition: &Repetition) -> Vec<Fate> {
        let is_leaf = |place: &usize| self.children[*place] == 0;
        let leaves: Vec<usize> = (0..self.spans.len()).filter(is_leaf).collect();
        let mut groups = self.alike(&leaves, repetition.spans_min, repetition.agreeing.as_ref());
        let (mut from, mut level) = (0, 0);
        let is_below_the_highest = |level| match repetition.parents {
            Generations::All => true,
            Generations::UpTo(most) => level < most,
        };
        // Each level is made of parents of the one before.
        while from < groups.len() && is_below_the_highest(level) {
            let mut above = Vec::new();
            for place in groups[from..].iter().flat_map(|group| &group.members) {
                let Some(parent) = self.parents[*place] else { continue };
                self.children[parent] -= 1;
                if self.children[parent] == 0 {
                    above.push(parent);
                }
            }
            above.sort_unstable();
            (from, level) = (groups.len(), level + 1);
            let higher = self.alike(&above, SPANS_LEAST, None);
            groups.extend(higher);
        }
        self.replaced(&groups)
    }

    /// Groups of at least so many of these spans.
    fn alike(&self, places: &[usize], spans_min: usize, agreeing: Option<&Regex>) -> Vec<Group> {
        let mut alike: HashMap<Likeness<'_>, Vec<usize>> = HashMap::new();
        for place in places {
            if let Some(likeness) = self.likeness(*place, agreeing) {
                alike.entry(likeness).or_default().push(*place);
            }
        }
        let groups = alike.into_values().filter(|members| members.len() >= spans_min);
        let group = |members: Vec<usize>| {
            let slowest = members.iter().copied().reduce(|slowest, place| {
                if nanos(self.spans[place]) > nanos(self.spans[slowest]) { place } else { slowest }
            });
            Some(Group { slowest: slowest?, members })
        };
        groups.filter_map(group).collect()
    }

    /// What a span has to have in common with others; `None` if it is not summarised: a root, or a summary.
    fn likeness(&self, place: usize, agreeing: Option<&Regex>) -> Option<Likeness<'a>> {
        let (span, parent) = (self.spans[place], self.parents[place]?);
        if span.attributes.iter().any(|attribute| attribute.key == IS_SUMMARY) {
            return None;
        }
        let agrees = |attribute: &&KeyValue| agreeing.is_some_and(|keys| keys.is_match(&attribute.key));
        let value = |attribute: &'a KeyValue| {
            (attribute.key.as_str(), attribute.value.as_ref().map(Message::encode_to_vec).unwrap_or_default())
        };
        let mut attributes: Vec<_> = span.attributes.iter().filter(agrees).map(value).collect();
        attributes.sort_unstable();
        Some(Likeness {
            service: self.services[place],
            parent: &self.spans[parent].name,
            name: &span.name,
            kind: span.kind,
            status: span.status.as_ref().map_or(0, |status| status.code),
            attributes,
        })
    }

    fn replaced(&self, groups: &[Group]) -> Vec<Fate> {
        let mut fates = vec![Fate::Stays; self.spans.len()];
        let mut stands_for: HashMap<usize, usize> = HashMap::new();
        for group in groups {
            stands_for.extend(group.members.iter().map(|member| (*member, group.slowest)));
        }
        for group in groups {
            group.members.iter().for_each(|member| fates[*member] = Fate::Goes);
            let mut summary = self.summary(group);
            if let Some(parent) = self.parents[group.slowest].and_then(|parent| stands_for.get(&parent)) {
                summary.parent_span_id.clone_from(&self.spans[*parent].span_id);
            }
            fates[group.slowest] = Fate::Becomes(Box::new(summary));
        }
        fates
    }

    fn summary(&self, group: &Group) -> Span {
        let spans = || group.members.iter().map(|member| self.spans[*member]);
        let mut durations: Vec<u64> = spans().map(nanos).collect();
        durations.sort_unstable();
        let total: u64 = durations.iter().fold(0, |total, nanos| total.saturating_add(*nanos));
        let (count, middle) = (durations.len() as u64, durations.len() / 2);
        let median = match durations.len() % 2 {
            0 => durations[middle - 1].midpoint(durations[middle]),
            _ => durations[middle],
        };
        let bounds = BOUNDS_MILLIS.map(Duration::from_millis);
        let seconds = bounds.iter().map(|bound| Value::DoubleValue(bound.as_secs_f64()));
        let up_to = |bound: &Duration| durations.partition_point(|nanos| u128::from(*nanos) <= bound.as_nanos()) as u64;
        let counts = bounds.iter().map(up_to).chain([count]).map(int);
        let told = [
            ("is_summary", Value::BoolValue(true)),
            ("span_count", int(count)),
            ("duration_min_ns", int(durations[0])),
            ("duration_max_ns", int(durations[durations.len() - 1])),
            ("duration_avg_ns", int(total / count)),
            ("duration_median_ns", int(median)),
            ("duration_total_ns", int(total)),
            ("histogram_bucket_bounds_s", list(seconds)),
            ("histogram_bucket_counts", list(counts)),
        ];
        let mut summary = self.spans[group.slowest].clone();
        let first = spans().map(|span| span.start_time_unix_nano).min();
        let last = spans().map(|span| span.end_time_unix_nano).max();
        summary.start_time_unix_nano = first.unwrap_or(summary.start_time_unix_nano);
        summary.end_time_unix_nano = last.unwrap_or(summary.end_time_unix_nano);
        let attributes = told.into_iter().map(|(name, value)| KeyValue {
            key: format!("{PREFIX}{name}"),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
        summary.attributes.extend(attributes);
        summary
    }
}

fn nanos(span: &Span) -> u64 {
    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)
}

fn int(number: u64) -> Value {
    Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    Value::ArrayValue(ArrayValue { values: values.map(|value| AnyValue { value: Some(value) }).collect() })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Status},
    };

    use super::*;

    const MILLI: u64 = 1_000_000;

    fn text(key: &str, value: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    fn span(id: u8, parent: u8, name: &str, millis: u64) -> Span {
        let id_of = |id: u8| if id == 0 { Vec::new() } else { vec![0, 0, 0, 0, 0, 0, 0, id] };
        let start = u64::from(id) * 100 * MILLI;
        Span {
            span_id: id_of(id),
            parent_span_id: id_of(parent),
            name: name.to_owned(),
            start_time_unix_nano: start,
            end_time_unix_nano: start + millis * MILLI,
            ..Span::default()
        }
    }

    fn trace(of_services: Vec<(&str, Vec<Span>)>) -> TracesData {
        let resource_spans = of_services.into_iter().map(|(service, spans)| ResourceSpans {
            resource: Some(Resource { attributes: vec![text("service.name", service)], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        });
        TracesData { resource_spans: resource_spans.collect() }
    }

    fn repetition(query: &str) -> Repetition {
        Repetition::read(&Params::of(Some(&format!("span_pruning=true&{query}")))).unwrap().unwrap()
    }

    /// Id, parent, name and count of what is left, by id.
    fn left(mut trace: TracesData, query: &str) -> Vec<(u8, u8, String, i64)> {
        let any = repetition(query).summarise(&mut trace);
        let spans = trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| {
            assert!(!scope.spans.is_empty());
            &scope.spans
        });
        let mut left: Vec<_> = spans
            .map(|span| {
                let byte = |id: &[u8]| id.last().copied().unwrap_or(0);
                (byte(&span.span_id), byte(&span.parent_span_id), span.name.clone(), counted(span))
            })
            .collect();
        left.sort_unstable();
        assert_eq!(any, left.iter().any(|(.., count)| *count > 0));
        left
    }

    fn counted(span: &Span) -> i64 {
        let count = span.attributes.iter().find(|attribute| attribute.key == "aggregation.span_count");
        match count.and_then(|count| count.value.clone()?.value) {
            Some(Value::IntValue(count)) => count,
            _ => 0,
        }
    }

    fn told<'a>(span: &'a Span, name: &str) -> &'a Value {
        let attribute = span.attributes.iter().find(|attribute| attribute.key.strip_prefix(PREFIX) == Some(name));
        attribute.unwrap().value.as_ref().unwrap().value.as_ref().unwrap()
    }

    #[test]
    fn the_slowest_of_many_stands_for_all_and_tells_of_them() {
        let mut spans = vec![span(1, 0, "root", 900)];
        spans.extend((2..8).map(|id| span(id, 1, "SELECT", if id == 4 { 60 } else { u64::from(id) })));
        spans.push(span(8, 1, "INSERT", 1));
        spans[3].attributes.push(text("db.name", "slow"));
        let mut trace = trace(vec![("shop", spans)]);
        assert!(repetition("").summarise(&mut trace));
        let spans = &trace.resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["root", "SELECT", "INSERT"]);
        let summary = &spans[1];
        assert_eq!((summary.span_id.last(), summary.parent_span_id.last()), (Some(&4), Some(&1)));
        assert_eq!(summary.attributes[0].key, "db.name");
        assert_eq!((summary.start_time_unix_nano, summary.end_time_unix_nano), (200 * MILLI, 707 * MILLI));
        for (name, value) in [
            ("span_count", 6),
            ("duration_min_ns", 2 * MILLI),
            ("duration_max_ns", 60 * MILLI),
            ("duration_avg_ns", 83 * MILLI / 6),
            ("duration_median_ns", 11 * MILLI / 2),
            ("duration_total_ns", 83 * MILLI),
        ] {
            assert_eq!(told(summary, name), &int(value), "{name}");
        }
        assert_eq!(told(summary, "is_summary"), &Value::BoolValue(true));
        let counts = [3, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6];
        assert_eq!(told(summary, "histogram_bucket_counts"), &list(counts.into_iter().map(int)));
        let Value::ArrayValue(bounds) = told(summary, "histogram_bucket_bounds_s") else { panic!("{summary:?}") };
        assert_eq!((bounds.values.len(), &bounds.values[0].value), (11, &Some(Value::DoubleValue(0.005))));
    }

    #[test]
    fn fewer_than_asked_for_stay_and_so_do_roots_and_what_differs() {
        let mut spans = vec![span(1, 0, "root", 900)];
        spans.extend((2..6).map(|id| span(id, 1, "SELECT", 1)));
        spans.push(span(6, 1, "SELECT", 1));
        spans[5].status = Some(Status { code: 2, ..Status::default() });
        spans.push(span(7, 1, "SELECT", 1));
        spans[6].kind = 3;
        // Roots, and spans whose parent is not there.
        spans.extend((8..14).map(|id| span(id, 0, "cron", 1)));
        spans.extend((14..20).map(|id| span(id, 200, "lost", 1)));
        let elsewhere = vec![span(20, 1, "SELECT", 1)];
        let trace = trace(vec![("shop", spans), ("other", elsewhere)]);
        assert_eq!(left(trace.clone(), "").len(), 20);
        let summaries = left(trace, "span_pruning_min_spans=4");
        assert_eq!((summaries.len(), &summaries[1]), (17, &(2, 1, "SELECT".to_owned(), 4)));
    }

    #[test]
    fn chosen_attributes_have_to_agree() {
        let mut spans = vec![span(1, 0, "root", 900)];
        for id in 2..8 {
            let mut leaf = span(id, 1, "query", 1);
            leaf.attributes.push(text("db.system", if id < 5 { "mysql" } else { "postgresql" }));
            leaf.attributes.push(text("row", &id.to_string()));
            spans.push(leaf);
        }
        let trace = trace(vec![("shop", spans)]);
        let counts = |query: &str| left(trace.clone(), query).into_iter().map(|(.., count)| count).collect::<Vec<_>>();
        assert_eq!(counts("span_pruning_min_spans=3"), [0, 6]);
        assert_eq!(counts("span_pruning_min_spans=3&span_pruning_group_by=http.*,+d?.*"), [0, 3, 3]);
        assert_eq!(counts("span_pruning_min_spans=3&span_pruning_group_by=row"), [0; 7]);
        assert_eq!(counts("span_pruning_min_spans=3&span_pruning_group_by=ro"), [0, 6]);
    }

    #[test]
    fn parents_of_summaries_are_summarised_up_to_a_level() {
        // root -> 3 batches -> a step each -> 2 calls each; the last batch also has a call of its own.
        let mut spans = vec![span(1, 0, "root", 900)];
        for batch in [10, 20, 30] {
            spans.push(span(batch, 1, "batch", u64::from(batch)));
            spans.push(span(batch + 1, batch, "step", u64::from(batch)));
            spans.extend((2..4).map(|id| span(batch + id, batch + 1, "call", u64::from(batch))));
        }
        spans.push(span(40, 30, "extra", 1));
        let trace = trace(vec![("shop", spans)]);
        let left = |query: &str| {
            let left = left(trace.clone(), query).into_iter();
            left.map(|(id, parent, name, count)| format!("{id}<{parent} {name} {count}")).collect::<Vec<_>>()
        };
        assert_eq!(left("span_pruning_max_parent_depth=0").len(), 9);
        assert_eq!(left("")[4..], ["31<30 step 3", "32<31 call 6", "40<30 extra 0"]);
        let all = ["1<0 root 0", "20<1 batch 2", "30<1 batch 0", "31<30 step 3", "32<31 call 6", "40<30 extra 0"];
        assert_eq!(left("span_pruning_max_parent_depth=-1"), all);
    }

    #[test]
    fn summaries_of_a_collector_and_circles_stay() {
        let mut spans = vec![span(1, 0, "root", 900)];
        spans.extend((2..9).map(|id| span(id, 1, "SELECT", 1)));
        for summary in &mut spans[1..] {
            summary.attributes.push(text(IS_SUMMARY, "true"));
        }
        spans.extend([span(10, 11, "a", 1), span(11, 10, "b", 1), span(12, 12, "c", 1)]);
        assert_eq!(left(trace(vec![("shop", spans)]), "span_pruning_max_parent_depth=-1").len(), 11);
        assert_eq!(left(TracesData::default(), ""), []);
    }

    #[test]
    fn wrong_parameters_are_named_where_spans_are_summarised() {
        let read = |query: &str| Repetition::read(&Params::of(Some(query)));
        let refused = |query: &str| read(query).unwrap_err().message().to_owned();
        assert!(refused("span_pruning=maybe").starts_with("invalid span_pruning: "));
        for spans in ["1", "-5", "many"] {
            let message = refused(&format!("span_pruning=true&span_pruning_min_spans={spans}"));
            assert_eq!(message, "invalid span_pruning_min_spans: must be a whole number of at least 2", "{spans}");
        }
        let depth = refused("span_pruning=true&span_pruning_max_parent_depth=-2");
        assert_eq!(depth, "invalid span_pruning_max_parent_depth: -2 is none of -1 (all), 0, 1, ...");
        assert!(read("span_pruning=false&span_pruning_min_spans=x").unwrap().is_none());
        assert!(read("").unwrap().is_none());
    }
}
