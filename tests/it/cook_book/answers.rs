//! Whole answers of examples, worked out from the spans that were sent.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use opentelemetry_proto::tonic::{common::v1::KeyValue, trace::v1::span::SpanKind};
use tracehouse::{
    model::tenant::TenantId,
    query::{QueryEngine, QueryRequest},
};

use super::{Sent, example, filled, kind_of, requests, sent, text_of};

/// The rows of an answer, as texts; those of one column can be read as numbers.
struct Answer {
    columns: Vec<(String, ArrayRef)>,
    rows: usize,
}

impl Answer {
    async fn of(engine: &QueryEngine, text: String) -> Self {
        let answer = engine.execute(QueryRequest::sql(TenantId::single(), text)).await.unwrap();
        let (batches, _) = answer.collect().await.unwrap();
        let all = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let names = all.schema_ref().fields().iter().map(|field| field.name().clone());
        Self { columns: names.zip(all.columns().iter().cloned()).collect(), rows: all.num_rows() }
    }

    async fn of_example(engine: &QueryEngine, name: &str) -> Self {
        Self::of(engine, example(name)).await
    }

    fn column(&self, name: &str) -> &ArrayRef {
        &self.columns.iter().find(|(column, _)| column == name).unwrap().1
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let texts = cast(self.column(name), &DataType::Utf8).unwrap();
        let texts = texts.as_string::<i32>();
        (0..texts.len())
            .map(|row| if texts.is_null(row) { String::new() } else { texts.value(row).to_owned() })
            .collect()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let numbers = cast(self.column(name), &DataType::Float64).unwrap();
        assert_eq!(numbers.null_count(), 0, "{name}");
        numbers.as_primitive::<Float64Type>().values().to_vec()
    }
}

fn is_close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0)
}

/// The children of each span.
fn children(sent: &[Sent]) -> HashMap<&[u8], Vec<&Sent>> {
    let mut children: HashMap<&[u8], Vec<&Sent>> = HashMap::new();
    for sent in sent.iter().filter(|sent| !sent.span.parent_span_id.is_empty()) {
        children.entry(&sent.span.parent_span_id).or_default().push(sent);
    }
    children
}

fn traces(sent: &[Sent]) -> BTreeMap<&[u8], Vec<&Sent>> {
    let mut traces: BTreeMap<&[u8], Vec<&Sent>> = BTreeMap::new();
    sent.iter().for_each(|sent| traces.entry(&sent.span.trace_id).or_default().push(sent));
    traces
}

#[tokio::test(flavor = "multi_thread")]
async fn the_critical_path_goes_to_the_call_that_ended_last() {
    let (_house, engine) = filled().await;
    let sent = sent();
    let length = |spans: &[&Sent]| {
        let first = spans.iter().map(|sent| sent.span.start_time_unix_nano).min().unwrap();
        spans.iter().map(|sent| sent.span.end_time_unix_nano).max().unwrap() - first
    };
    let root = |spans: &[&Sent]| {
        spans.iter().find(|sent| sent.span.parent_span_id.is_empty()).map(|sent| sent.span.span_id.clone())
    };
    let with_root = traces(&sent).into_iter().filter(|(_, spans)| root(spans).is_some());
    let (_, slowest) = with_root.min_by_key(|(id, spans)| (Reverse(length(spans)), *id)).unwrap();
    let children = children(&sent);
    let mut at = slowest.into_iter().find(|sent| sent.span.parent_span_id.is_empty());
    let mut path = Vec::new();
    while let Some(span) = at {
        path.push(span);
        let calls = children.get(&span.span.span_id[..]).into_iter().flatten().copied();
        at = calls.min_by_key(|call| (Reverse(call.span.end_time_unix_nano), call.span.span_id.clone()));
    }
    assert!(path.len() >= 2, "a path of {} spans", path.len());
    let below = path.iter().skip(1).map(|sent| sent.duration() as i64).chain([0]);
    let written = path.iter().zip(below).enumerate().map(|(step, (sent, below))| {
        let (service, name, nano) = (&sent.service, &sent.span.name, sent.duration() as i64);
        format!("({}, '{service}', '{name}', duration_text({nano}), duration_text({}))", step + 1, nano - below)
    });
    let written = format!("VALUES {}", written.collect::<Vec<_>>().join(", "));
    let expected = Answer::of(&engine, written).await;
    let found = Answer::of_example(&engine, "critical_path").await;
    assert_eq!(found.rows, path.len());
    for ((name, _), (place, _)) in found.columns.iter().zip(&expected.columns) {
        assert_eq!(found.texts(name), expected.texts(place), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn self_time_is_what_children_leave() {
    let (_house, engine) = filled().await;
    let sent = sent();
    let children = children(&sent);
    let mut operations: BTreeMap<(&str, &str), (f64, f64, f64)> = BTreeMap::new();
    for sent in &sent {
        let waited: u64 =
            children.get(&sent.span.span_id[..]).into_iter().flatten().map(|child| child.duration()).sum();
        let of = operations.entry((&sent.service, &sent.span.name)).or_default();
        *of = (of.0 + 1.0, of.1 + sent.duration().saturating_sub(waited) as f64, of.2 + sent.duration() as f64);
    }
    let mut expected: Vec<_> = operations.into_iter().collect();
    expected.sort_by(|(_, one), (_, other)| other.1.total_cmp(&one.1));
    expected.truncate(20);
    let found = Answer::of_example(&engine, "self_time").await;
    assert_eq!(found.rows, expected.len());
    let (services, names) = (found.texts("service_name"), found.texts("name"));
    let (spans, own, total) = (found.numbers("spans"), found.numbers("self_ms"), found.numbers("total_ms"));
    for (row, ((service, name), (count, own_nano, nano))) in expected.into_iter().enumerate() {
        assert_eq!((services[row].as_str(), names[row].as_str(), spans[row]), (service, name, count));
        assert!(is_close(own[row] * 1e6, own_nano) && is_close(total[row] * 1e6, nano), "{service} {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_from_order_to_payment_is_that_between_their_starts() {
    let (_house, engine) = filled().await;
    let sent = sent();
    let of =
        |service: &str| sent.iter().filter(move |sent| sent.service == service && sent.is(SpanKind::Server)).collect();
    let (placed, paid): (Vec<&Sent>, Vec<&Sent>) = (of("order-service"), of("payment-service"));
    let mut waits = Vec::new();
    for placed in &placed {
        for paid in paid.iter().filter(|paid| paid.span.trace_id == placed.span.trace_id) {
            let wait = paid.span.start_time_unix_nano.checked_sub(placed.span.start_time_unix_nano);
            waits.extend(wait.map(|wait| (wait, hex::encode(&placed.span.trace_id), placed.span.start_time_unix_nano)));
        }
    }
    waits.sort_by_key(|(wait, ..)| Reverse(*wait));
    waits.truncate(20);
    let found = Answer::of_example(&engine, "time_between_two_spans").await;
    assert!(!waits.is_empty());
    assert_eq!(found.rows, waits.len());
    let (ids, waited) = (found.texts("trace_id"), found.numbers("waited_ms"));
    let placed = cast(found.column("placed_at"), &DataType::Int64).unwrap();
    let placed = placed.as_primitive::<arrow::datatypes::Int64Type>();
    for (row, (wait, id, start)) in waits.iter().enumerate() {
        assert!(is_close(waited[row] * 1e6, *wait as f64), "{} is not {wait}", waited[row]);
        assert_eq!((&ids[row], placed.value(row)), (id, *start as i64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_compared_by_percentiles_of_their_calls() {
    let (_house, engine) = filled().await;
    let sent = sent();
    let mut endpoints: BTreeMap<(&str, &str, &str), Vec<u64>> = BTreeMap::new();
    for sent in sent.iter().filter(|sent| sent.is(SpanKind::Server)) {
        endpoints.entry((&sent.service, &sent.span.name, &sent.version)).or_default().push(sent.duration());
    }
    endpoints.retain(|_, calls| calls.len() >= 10);
    endpoints.values_mut().for_each(|calls| calls.sort_unstable());
    // The percentiles of the example are approximate: they lie between those a little lower and a little higher.
    let bounds = |calls: &[u64]| {
        let at = |share: f64| calls[((calls.len() - 1) as f64 * share) as usize] as f64 / 1e6;
        (at(0.95) * 0.99, at(1.0) * 1.01)
    };
    let found = Answer::of_example(&engine, "p99_between_versions").await;
    let text = |name: &str| found.texts(name);
    let (services, names, befores, afters) =
        (text("service_name"), text("name"), text("before_version"), text("after_version"));
    let (before, after, ratio) =
        (found.numbers("before_p99_ms"), found.numbers("after_p99_ms"), found.numbers("ratio"));
    let mut seen = BTreeSet::new();
    for row in 0..found.rows {
        let (service, name) = (services[row].as_str(), names[row].as_str());
        assert!(befores[row] < afters[row] && after[row] > before[row]);
        assert!(is_close(ratio[row], after[row] / before[row]) && (row == 0 || ratio[row] <= ratio[row - 1]));
        for (version, p99) in [(&befores[row], before[row]), (&afters[row], after[row])] {
            let (least, most) = bounds(&endpoints[&(service, name, version.as_str())]);
            assert!((least..=most).contains(&p99), "{service} {name} {version}: {p99} is not in {least}..{most}");
        }
        seen.insert((service, name, befores[row].as_str(), afters[row].as_str()));
    }
    let mut certain = 0;
    for ((service, name, before), earlier) in &endpoints {
        for ((_, _, after), later) in endpoints.range((*service, *name, *before)..).skip(1) {
            let is_pair = endpoints.get(&(*service, *name, *after)).is_some_and(|calls| std::ptr::eq(calls, later));
            if is_pair && before < after && bounds(later).0 > bounds(earlier).1 {
                certain += 1;
                assert!(found.rows == 20 || seen.contains(&(*service, *name, *before, *after)), "{service} {name}");
            }
        }
    }
    assert!(found.rows > 0 && seen.len() == found.rows, "{certain} pairs certainly got slower");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slow_requests_have_in_common_is_counted_at_one_bound() {
    let (_house, engine) = filled().await;
    let sent = sent();
    let requests: Vec<&Sent> = sent.iter().filter(|sent| sent.is(SpanKind::Server)).collect();
    let mut durations: Vec<u64> = requests.iter().map(|sent| sent.duration()).collect();
    durations.sort_unstable();
    let found = Answer::of_example(&engine, "slow_against_fast").await;
    let (keys, values) = (found.texts("key"), found.texts("value"));
    let (slow, fast, ratio) = (found.numbers("slow"), found.numbers("fast"), found.numbers("slow_ratio"));
    let found: Vec<_> =
        (0..found.rows).map(|row| (keys[row].clone(), values[row].clone(), slow[row], fast[row])).collect();
    for (row, (_, _, slow, fast)) in found.iter().enumerate() {
        assert!(is_close(ratio[row], slow / (slow + fast)));
    }
    let at_bound = |bound: u64| {
        let mut pairs: BTreeMap<(String, String), (f64, f64)> = BTreeMap::new();
        for request in &requests {
            for KeyValue { key, value, .. } in &request.span.attributes {
                // Values that are lists are too different to be among the first.
                let value = text_of(&request.span.attributes, key).unwrap_or_else(|| format!("{value:?}"));
                let (slow, fast) = pairs.entry((key.clone(), value)).or_default();
                *if request.duration() > bound { slow } else { fast } += 1.0;
            }
        }
        pairs.retain(|_, (slow, fast)| *slow + *fast >= 10.0);
        let mut rows: Vec<_> = pairs.into_iter().map(|((key, value), (slow, fast))| (key, value, slow, fast)).collect();
        let order = |slow: f64, fast: f64| (slow / (slow + fast), slow);
        rows.sort_by(|(.., slow, fast), (.., other_slow, other_fast)| {
            order(*other_slow, *other_fast).partial_cmp(&order(*slow, *fast)).unwrap()
        });
        rows.truncate(30);
        rows
    };
    // The bound is approximate: it is one of the durations about there.
    let rank = |share: f64| (durations.len() as f64 * share) as usize;
    let mut bounds = durations[rank(0.94)..rank(0.96)].to_vec();
    bounds.dedup();
    assert!(
        bounds.into_iter().any(|bound| at_bound(bound) == found),
        "at no bound near the 95th percentile: {found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_has_each_attribute_that_was_sent_with_its_types() {
    let (_house, engine) = filled().await;
    let mut expected: BTreeMap<(&str, String), BTreeSet<&str>> = BTreeMap::new();
    let mut add = |scope: &'static str, attributes: &[KeyValue]| {
        for attribute in attributes {
            expected.entry((scope, attribute.key.clone())).or_default().insert(kind_of(attribute));
        }
    };
    for of_resource in requests().into_iter().flat_map(|request| request.resource_spans) {
        add("resource", &of_resource.resource.unwrap().attributes);
        for of_scope in of_resource.scope_spans {
            add("instrumentation", &of_scope.scope.map(|scope| scope.attributes).unwrap_or_default());
            for span in of_scope.spans {
                add("span", &span.attributes);
                span.events.iter().for_each(|event| add("event", &event.attributes));
                span.links.iter().for_each(|link| add("link", &link.attributes));
            }
        }
    }
    let shown = |types: &BTreeSet<&str>| format!("[{}]", types.iter().copied().collect::<Vec<_>>().join(", "));
    let expected: Vec<_> =
        expected.iter().map(|((scope, key), types)| (scope.to_string(), key.clone(), shown(types))).collect();
    let found = Answer::of_example(&engine, "attribute_catalogue").await;
    let (scopes, keys, types) = (found.texts("scope"), found.texts("key"), found.texts("types"));
    let mut found: Vec<_> =
        (0..found.rows).map(|row| (scopes[row].clone(), keys[row].clone(), types[row].clone())).collect();
    found.sort();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn expensive_queries_are_those_that_ran_with_what_they_cost() {
    let (_house, engine) = filled().await;
    let asked = [("SELECT name FROM spans LIMIT 7", "ok", 7.0), ("SELECT max(name) FROM spans", "ok", 1.0)];
    for (text, ..) in asked {
        Answer::of(&engine, text.to_owned()).await;
    }
    let wrong =
        engine.execute(QueryRequest::sql(TenantId::single(), "SELECT no_such_column FROM spans".to_owned())).await;
    assert!(wrong.is_err());
    let found = Answer::of_example(&engine, "expensive_queries").await;
    let (kinds, states, queries, rows) =
        (found.texts("kind"), found.texts("state"), found.texts("query"), found.numbers("rows"));
    let row_of = |text: &str| queries.iter().position(|query| query.trim() == text.trim()).unwrap();
    for (text, state, count) in asked {
        let row = row_of(text);
        assert_eq!((kinds[row].as_str(), states[row].as_str(), rows[row]), ("sql", state, count), "{text}");
        assert!(found.numbers("scanned_mb")[row] > 0.0, "{text}");
    }
    assert_eq!(states[row_of("SELECT no_such_column FROM spans")], "refused");
    assert_eq!(states[row_of(&example("expensive_queries"))], "running");
}
