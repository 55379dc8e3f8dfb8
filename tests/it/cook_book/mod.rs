//! The examples of `sql/examples`: each runs on an hour of the shop, and finds something. What they find is worked out from
//! the requests that were sent and compared: numbers here, whole answers in [`answers`].

mod answers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::AsArray,
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message;
use tracehouse::{
    demo::{Workload, WorkloadSettings},
    ingest::{WriteRequest, dedup},
    model::{promotion, tenant::TenantId, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
    query::{QueryEngine, QueryRequest},
};

use crate::slt::{House, NOW, engine, open};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/examples")
}

fn example(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.sql"))).unwrap()
}

/// The requests of half an hour of the shop.
fn requests() -> Vec<ExportTraceServiceRequest> {
    let period = Duration::from_secs(1_800);
    let start = NOW as u64 - period.as_nanos() as u64;
    Workload::new(WorkloadSettings::period(7, start, period, 4_000)).collect()
}

async fn filled() -> (House, Arc<QueryEngine>) {
    let house = open(tempfile::tempdir().unwrap()).await;
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    for request in requests() {
        let body = request.encode_to_vec();
        let decoded = decode_protobuf(&body, &promotion::standard(), &rules).unwrap();
        let write = WriteRequest { batch: decoded.batch, digest: dedup::digest(&body), received_unix_nano: NOW };
        house.ingest.write(&TenantId::single(), write).await.unwrap();
    }
    house.ingest.flush().await.unwrap();
    let engine = Arc::new(engine(&house));
    (house, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_and_finds_something() {
    let (_house, engine) = filled().await;
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".sql").map(str::to_owned))
        .collect();
    names.sort();
    let mut faults = Vec::new();
    for name in &names {
        let text = example(name);
        assert!(text.starts_with("-- "), "{name} does not say what it answers");
        let answer = async { engine.execute(QueryRequest::sql(TenantId::single(), text)).await?.collect().await };
        match answer.await {
            Ok((_, stats)) if stats.rows == 0 => {
                faults.push(format!("{name}: found nothing"));
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(names.len() >= 22, "examples are missing");
}

/// A span as it was sent.
struct Sent {
    service: String,
    version: String,
    pod: String,
    span: v1::Span,
}

impl Sent {
    fn duration(&self) -> u64 {
        self.span.end_time_unix_nano - self.span.start_time_unix_nano
    }

    fn is(&self, kind: v1::span::SpanKind) -> bool {
        self.span.kind == kind as i32
    }

    fn has_failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == v1::status::StatusCode::Error as i32)
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(is_true) => Some(is_true.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The type of an attribute, as the catalogue of attributes calls it.
fn kind_of(attribute: &KeyValue) -> &'static str {
    match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(_) => "string",
        Value::IntValue(_) => "int",
        Value::DoubleValue(_) => "double",
        Value::BoolValue(_) => "bool",
        _ => "json",
    }
}

fn sent() -> Vec<Sent> {
    let mut sent = Vec::new();
    for of_resource in requests().into_iter().flat_map(|request| request.resource_spans) {
        let resource = of_resource.resource.unwrap().attributes;
        let text = |key: &str| text_of(&resource, key).unwrap_or_default();
        let (service, version, pod) = (text("service.name"), text("service.version"), text("k8s.pod.name"));
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        let of_resource = |span| Sent { service: service.clone(), version: version.clone(), pod: pod.clone(), span };
        sent.extend(spans.map(of_resource));
    }
    sent
}

/// How often the most frequent of some keys comes up.
fn most<K: Ord>(keys: impl Iterator<Item = K>) -> usize {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts.into_values().max().unwrap_or_default()
}

/// An example, a number made of the rows that it finds, and that number made of the spans that were sent.
type Expected = (&'static str, &'static str, f64);

fn expected(sent: &[Sent]) -> Vec<Expected> {
    use v1::span::SpanKind::{Client, Server};
    let by_id: HashMap<&[u8], &Sent> = sent.iter().map(|sent| (&sent.span.span_id[..], sent)).collect();
    let parent = |sent: &Sent| by_id.get(&sent.span.parent_span_id[..]).copied();
    let servers: Vec<&Sent> = sent.iter().filter(|sent| sent.is(Server)).collect();
    let failed = servers.iter().filter(|sent| sent.has_failed()).count();
    let edges: Vec<(&Sent, &Sent)> = sent
        .iter()
        .filter_map(|callee| Some((parent(callee)?, callee)))
        .filter(|(caller, callee)| caller.service != callee.service)
        .collect();
    let waited = edges.iter().filter(|(caller, callee)| caller.duration() >= callee.duration()).count();
    let of_trace = |(caller, _): &(&Sent, &Sent)| (caller.span.trace_id.clone(), caller.service.clone());
    let callers: BTreeSet<_> = edges.iter().map(of_trace).collect();
    let tokens = |key: &str| -> f64 {
        let calls = sent.iter().filter(|sent| text_of(&sent.span.attributes, "gen_ai.request.model").is_some());
        calls.filter_map(|sent| text_of(&sent.span.attributes, key)?.parse::<f64>().ok()).sum()
    };
    let exceptions = sent.iter().flat_map(|sent| &sent.span.events).filter(|event| event.name == "exception").count();
    let mut traces: HashMap<&[u8], (u64, u64, BTreeSet<&str>)> = HashMap::new();
    for sent in sent {
        let (first, last, services) = traces.entry(&sent.span.trace_id).or_insert((u64::MAX, 0, BTreeSet::new()));
        *first = (*first).min(sent.span.start_time_unix_nano);
        *last = (*last).max(sent.span.end_time_unix_nano);
        services.insert(&sent.service);
    }
    let slowest = traces.values().map(|(first, last, _)| last - first).max().unwrap();
    let lacks = |services: &BTreeSet<&str>| services.contains("order-service") && !services.contains("payment-service");
    let lacking = traces.values().filter(|(_, _, services)| lacks(services)).count().min(20);
    let children = sent.iter().filter(|sent| parent(sent).is_some());
    let repeated = most(children.map(|sent| (&sent.span.parent_span_id, &sent.span.name)));
    let mut tries: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for sent in sent.iter().filter(|sent| sent.is(Client) && !sent.span.parent_span_id.is_empty()) {
        let tried = tries.entry((&sent.service, &sent.span.name, &sent.span.parent_span_id)).or_default();
        *tried = (tried.0 + 1, tried.1 + usize::from(sent.has_failed()));
    }
    let stormy = tries.values().filter(|(tries, errors)| *tries >= 2 && *errors >= 1);
    let keys = sent.iter().flat_map(|sent| sent.span.attributes.iter().map(|attribute| &attribute.key));
    let count = |count: usize| count as f64;
    vec![
        ("error_budget", "sum(requests)", count(servers.len())),
        ("error_budget", "sum(errors)", count(failed)),
        ("red_by_route", "sum(requests_per_second) * 300", count(servers.len())),
        ("red_by_route", "sum(requests_per_second * 300 * error_ratio)", count(failed)),
        ("latency_heat_map", "sum(requests)", count(servers.len())),
        ("percentiles_that_merge", "sum(requests)", count(servers.len())),
        ("service_graph", "sum(calls)", count(edges.len())),
        ("time_in_the_network", "sum(calls)", count(waited)),
        ("fan_out", "sum(traces)", count(callers.len())),
        ("fan_out", "max(most_calls)", count(most(edges.iter().map(of_trace)))),
        ("llm_cost", "sum(input_tokens)", tokens("gen_ai.usage.input_tokens")),
        ("llm_cost", "sum(output_tokens)", tokens("gen_ai.usage.output_tokens")),
        ("exceptions", "sum(occurrences)", count(exceptions)),
        ("slowest_traces", "max(duration_ms) * 1e6", slowest as f64),
        ("traces_that_lack_a_span", "count(*)", count(lacking)),
        ("repeated_calls", "max(calls)", count(repeated)),
        ("retry_storms", "max(most_tries)", count(stormy.clone().map(|(tries, _)| *tries).max().unwrap())),
        ("retry_storms", "sum(failed_calls)", count(stormy.map(|(_, errors)| *errors).sum())),
        ("top_talkers", "max(spans)", count(most(sent.iter().map(|sent| (&sent.service, &sent.pod))))),
        ("cardinality", "max(spans)", count(most(keys))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_examples_count_is_what_was_sent() {
    let (_house, engine) = filled().await;
    let sent = sent();
    assert!(sent.len() >= 4_000);
    let mut faults = Vec::new();
    for (name, number, expected) in expected(&sent) {
        let text = format!("SELECT {number} FROM (\n{}\n)", example(name));
        let answer = engine.execute(QueryRequest::sql(TenantId::single(), text)).await.unwrap();
        let (batches, _) = answer.collect().await.unwrap();
        let found = cast(batches[0].column(0), &DataType::Float64).unwrap();
        let found = found.as_primitive::<Float64Type>().value(0);
        if expected <= 0.0 || (found / expected - 1.0).abs() > 1e-9 {
            faults.push(format!("{number} of {name} is {found}, and {expected} were sent"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_example_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let listed = fs::read_to_string(root.join("README.md")).unwrap();
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(listed.contains(&format!("(examples/{name})")), "sql/README.md does not list {name}");
    }
}
