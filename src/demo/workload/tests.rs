use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;

use super::*;

const START: u64 = 1_767_225_600_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn requests(seed: u64, spans: u64) -> impl Iterator<Item = ExportTraceServiceRequest> {
    Workload::new(WorkloadSettings::period(seed, START, Duration::from_secs(600), spans))
}

fn spans(request: &ExportTraceServiceRequest) -> impl Iterator<Item = (&str, &Span)> {
    request.resource_spans.iter().flat_map(|resource| {
        let service = resource.resource.as_ref().unwrap().attributes.iter().find(|a| a.key == "service.name").unwrap();
        let Some(Value::StringValue(service)) = &service.value.as_ref().unwrap().value else { panic!() };
        resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |span| (service.as_str(), span))
    })
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

fn within(what: &str, value: f64, low: f64, high: f64) {
    assert!((low..=high).contains(&value), "{what} is {value}, expected {low} to {high}");
}

#[test]
fn equal_seeds_give_equal_requests_and_others_differ() {
    let first: Vec<_> = requests(7, 3_000).collect();
    assert_eq!(first, requests(7, 3_000).collect::<Vec<_>>());
    assert_ne!(first, requests(8, 3_000).collect::<Vec<_>>());
}

#[test]
fn runs_of_one_seed_that_begin_at_other_times_share_no_trace() {
    let of_start = |start| {
        let settings = WorkloadSettings::period(42, start, Duration::from_secs(600), 3_000);
        Workload::new(settings).flat_map(|r| spans(&r).map(|(_, s)| s.clone()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (first, second) = (of_start(START), of_start(START + 1));
    let ids =
        |spans: &[Span]| spans.iter().flat_map(|s| [s.trace_id.clone(), s.span_id.clone()]).collect::<HashSet<_>>();
    assert!(ids(&first).is_disjoint(&ids(&second)));
    // Links lead to traces of the same run.
    let traces: HashSet<_> = second.iter().map(|span| &span.trace_id).collect();
    assert!(second.iter().flat_map(|span| &span.links).all(|link| traces.contains(&link.trace_id)));
    assert!(second.iter().any(|span| !span.links.is_empty()));
    let names = |spans: &[Span]| spans.iter().map(|span| span.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
}

#[test]
fn a_period_holds_exactly_the_spans_asked_for_in_requests_of_the_size_asked_for() {
    let sizes: Vec<u64> = requests(1, 20_000).map(|request| spans_in(&request)).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 20_000);
    let whole = &sizes[..sizes.len() - NEIGHBOURS];
    assert!(whole.iter().all(|size| (1_000..3_100).contains(size)), "{sizes:?}");
    assert_eq!(requests(1, 1).map(|request| spans_in(&request)).collect::<Vec<_>>(), [1]);
    assert_eq!(requests(1, 0).count(), 0);
}

#[test]
fn children_lie_within_their_parents_unless_a_queue_is_between() {
    let all: Vec<_> = requests(3, 20_000).flat_map(|r| spans(&r).map(|(_, s)| s.clone()).collect::<Vec<_>>()).collect();
    let by_id: HashMap<_, _> = all.iter().map(|span| (&span.span_id, span)).collect();
    assert_eq!(by_id.len(), all.len(), "span ids are unique");
    let mut roots = 0;
    for span in &all {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!((START..START + 660 * SECOND).contains(&span.start_time_unix_nano));
        for event in &span.events {
            assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano));
        }
        if span.parent_span_id.is_empty() {
            roots += 1;
            continue;
        }
        let parent = by_id[&span.parent_span_id];
        assert_eq!(parent.trace_id, span.trace_id);
        if span.kind == 5 {
            assert!(span.start_time_unix_nano >= parent.end_time_unix_nano, "consumers start after producers end");
        } else {
            assert!(span.start_time_unix_nano >= parent.start_time_unix_nano);
            assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{} in {}", span.name, parent.name);
        }
    }
    assert_eq!(roots, all.iter().map(|span| &span.trace_id).collect::<HashSet<_>>().len());
}

#[test]
fn live_traces_end_shortly_before_the_present() {
    let timeline = Timeline::Live { start_unix_nano: START };
    let mut workload = Workload::new(WorkloadSettings { seed: 5, timeline, request_spans: 100 });
    for step in 1..=20 {
        let now = START + step * SECOND;
        workload.advance_to(now);
        let request = workload.next().unwrap();
        for (_, span) in spans(&request) {
            assert!(span.end_time_unix_nano <= now);
        }
        let latest = spans(&request).map(|(_, span)| span.end_time_unix_nano).max().unwrap();
        assert!(now - latest < 4 * SECOND);
    }
}

/// What a run looks like, gathered in one pass.
#[derive(Debug, Default)]
struct Shape {
    spans: u64,
    bytes: u64,
    requests: u64,
    errors: u64,
    slow: u64,
    kinds: BTreeMap<i32, u64>,
    names: BTreeSet<String>,
    services: BTreeSet<String>,
    pods: BTreeSet<String>,
    users: HashSet<String>,
    traces: HashMap<Vec<u8>, TraceShape>,
}

#[derive(Debug, Default)]
struct TraceShape {
    spans: u32,
    error: bool,
    slow: bool,
    exception: bool,
    link: bool,
    server_error: bool,
    requests: BTreeSet<u64>,
}

fn measure(requests: impl Iterator<Item = ExportTraceServiceRequest>) -> Shape {
    let mut shape = Shape::default();
    for request in requests {
        shape.bytes += request.encoded_len() as u64;
        let number = shape.requests;
        shape.requests += 1;
        for resource in &request.resource_spans {
            for attribute in &resource.resource.as_ref().unwrap().attributes {
                if let (true, Some(Value::StringValue(pod))) =
                    (attribute.key == "k8s.pod.name", &attribute.value.as_ref().unwrap().value)
                {
                    shape.pods.insert(pod.clone());
                }
            }
        }
        for (service, span) in spans(&request) {
            shape.add(number, service, span);
        }
    }
    shape
}

impl Shape {
    fn add(&mut self, request: u64, service: &str, span: &Span) {
        self.spans += 1;
        let slow = span.end_time_unix_nano - span.start_time_unix_nano > SECOND;
        self.errors += u64::from(is_error(span));
        self.slow += u64::from(slow);
        let exception = span.events.iter().any(|event| event.name == "exception");
        *self.kinds.entry(span.kind).or_default() += 1;
        self.names.insert(span.name.clone());
        self.services.insert(service.to_owned());
        let trace = self.traces.entry(span.trace_id.clone()).or_default();
        trace.spans += 1;
        trace.error |= is_error(span);
        trace.slow |= slow;
        trace.exception |= exception;
        trace.link |= !span.links.is_empty();
        trace.requests.insert(request);
        for attribute in &span.attributes {
            match (attribute.key.as_str(), &attribute.value.as_ref().unwrap().value) {
                ("user.id", Some(Value::StringValue(user))) => {
                    self.users.insert(user.clone());
                }
                ("http.response.status_code", Some(Value::IntValue(status))) => trace.server_error |= *status >= 500,
                _ => {}
            }
        }
    }

    fn share(&self, of_traces: impl Fn(&TraceShape) -> bool) -> f64 {
        self.traces.values().filter(|trace| of_traces(trace)).count() as f64 / self.traces.len() as f64
    }

    fn sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.traces.values().map(|trace| trace.spans).collect();
        sizes.sort_unstable();
        sizes
    }
}

#[test]
fn the_workload_has_the_measured_shape() {
    let shape = measure(requests(42, 60_000));
    let sizes = shape.sizes();
    let at = |quantile: f64| f64::from(sizes[(sizes.len() as f64 * quantile) as usize]);
    let per_span = |count: u64| count as f64 / shape.spans as f64;
    within("spans per trace", shape.spans as f64 / sizes.len() as f64, 21.5, 25.5);
    within("median of spans per trace", at(0.5), 14.0, 16.0);
    within("p90 of spans per trace", at(0.9), 44.0, 52.0);
    within("p99 of spans per trace", at(0.99), 110.0, 155.0);
    within("bytes per span", per_span(shape.bytes), 390.0, 420.0);
    within("share of failed spans", per_span(shape.errors), 0.016, 0.024);
    within("share of traces with a failed span", shape.share(|t| t.error), 0.15, 0.19);
    within("share of traces with a status of 500 or more", shape.share(|t| t.server_error), 0.09, 0.15);
    within("share of traces with an exception", shape.share(|t| t.exception), 0.065, 0.10);
    within("share of traces with a link", shape.share(|t| t.link), 0.08, 0.12);
    within("share of spans above a second", per_span(shape.slow), 0.0012, 0.003);
    within("share of traces with a span above a second", shape.share(|t| t.slow), 0.015, 0.045);
    within("share of traces with a short id", short_ids(&shape), 0.005, 0.016);
    assert_eq!(shape.traces.values().map(|t| t.requests.len()).max(), Some(3));
    for trace in shape.traces.values() {
        assert!(trace.requests.last().unwrap() - trace.requests.first().unwrap() <= 2, "neighbouring requests");
    }
    assert_eq!(shape.services.len(), 15);
    within("pods", shape.pods.len() as f64, 185.0, 195.0);
    within("span names", shape.names.len() as f64, 116.0, 119.0);
    assert_eq!(shape.kinds.len(), 5, "{:?}", shape.kinds);
    within("users per span with one", shape.users.len() as f64 / shape.traces.len() as f64, 0.55, 0.95);
}

fn short_ids(shape: &Shape) -> f64 {
    shape.traces.keys().filter(|id| id[..8] == [0; 8]).count() as f64 / shape.traces.len() as f64
}
