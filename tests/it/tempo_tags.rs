//! Names and values of attributes are those of the spans in the asked range, whatever files and buffers they lie in, and
//! cost no scan where lists and dictionaries tell them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tracehouse::{
    ingest::WriteRequest,
    model::{
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value as AttributeValue},
        ids::TraceId,
        promotion,
        tenant::TenantId,
        time::TimeRange,
    },
    query::{QueryEngine, QueryKind, QueryRequest, QueryStats, TagNamesQuery, TagValuesQuery},
    server::Server,
    traceql::parse_reference,
};

use crate::{
    frame,
    ingest::{House, NOW, quiet},
    support::spans::plain_span,
};

/// Unix second of the first span; each begins half a second after its own.
const START: u64 = 1_795_239_000;

/// Spans of the data set.
const SPANS: u64 = 48;

/// The attributes of a span by scope: a key that all have, some that few have, one that only this span has, a key with
/// values of several types, and one with arrays.
fn attributes(number: u64) -> BTreeMap<&'static str, Vec<(String, Value)>> {
    let text = |text: String| json!({"stringValue": text});
    let mixed = match number % 4 {
        0 => text(format!("m{}", number % 8)),
        1 => json!({"intValue": number % 6}),
        2 => json!({"doubleValue": (number % 5) as f64 + 0.5}),
        _ => json!({"boolValue": number % 8 == 3}),
    };
    let array = |values: Value| json!({"arrayValue": {"values": values}});
    let list = match number % 6 {
        0 => text(format!("t{}", number % 4)),
        1 => array(json!([])),
        2 => json!({"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "not shown"}}]}}),
        _ => array(json!([
            text(format!("t{}", number % 5)),
            {"intValue": (number % 3).to_string()},
            array(json!([{"boolValue": number.is_multiple_of(4)}, {"doubleValue": 0.25}])),
        ])),
    };
    BTreeMap::from([
        (
            "resource",
            vec![
                ("service.name".to_owned(), text(format!("s{}", number / 16))),
                (format!("zone{}", number % 3), text("z".to_owned())),
            ],
        ),
        ("instrumentation", vec![(format!("lib{}", number % 2), text("l".to_owned()))]),
        (
            "span",
            vec![
                ("all".to_owned(), text(format!("v{}", number % 7))),
                ("code".to_owned(), json!({"intValue": number % 9})),
                (format!("few{}", number % 5), text(number.to_string())),
                (format!("only{number}"), json!({"boolValue": true})),
                ("mixed".to_owned(), mixed),
                ("list".to_owned(), list),
            ],
        ),
        ("event", vec![(format!("event{}", number % 4), text(format!("e{}", number % 10)))]),
        ("link", vec![(format!("link{}", number % 6), json!({"intValue": number % 3}))]),
    ])
}

async fn send(server: &Server, numbers: std::ops::Range<u64>) {
    let list = |pairs: &[(String, Value)]| -> Vec<Value> {
        pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
    };
    let resource_spans = numbers.map(|number| {
        let attributes = attributes(number);
        let start = (START + number) * 1_000_000_000 + 500_000_000;
        let id = format!("{:016x}", number + 1);
        json!({
            "resource": {"attributes": list(&attributes["resource"])},
            "scopeSpans": [{
                "scope": {"name": format!("scope{}", number % 2), "attributes": list(&attributes["instrumentation"])},
                "spans": [{
                    "traceId": format!("{:032x}", number + 1), "spanId": id, "name": format!("n{}", number % 11), "kind": 1,
                    "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000).to_string(),
                    "attributes": list(&attributes["span"]),
                    "events": [{"name": format!("e{}", number % 3), "timeUnixNano": start.to_string(), "attributes": list(&attributes["event"])}],
                    "links": [{"traceId": format!("{:032x}", 1), "spanId": id, "attributes": list(&attributes["link"])}],
                }],
            }],
        })
    });
    let body = json!({"resourceSpans": resource_spans.collect::<Vec<_>>()}).to_string();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}

type Names = BTreeMap<String, BTreeSet<String>>;
type Values = BTreeSet<(String, String)>;

fn expected_names(numbers: impl Iterator<Item = u64>) -> Names {
    let mut names = Names::new();
    for (scope, pairs) in numbers.flat_map(attributes) {
        names.entry(scope.to_owned()).or_default().extend(pairs.into_iter().map(|(key, _)| key));
    }
    names
}

fn expected_values(numbers: impl Iterator<Item = u64>, scope: &str, key: &str) -> Values {
    let all = numbers.flat_map(|number| attributes(number).remove(scope).unwrap());
    all.filter(|(name, _)| name == key).flat_map(|(_, value)| shown(&value)).collect()
}

/// What is listed of a value: of an array, its elements.
fn shown(value: &Value) -> Vec<(String, String)> {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match kind.as_str() {
        "arrayValue" => value["values"].as_array().unwrap().iter().flat_map(shown).collect(),
        "kvlistValue" => Vec::new(),
        "stringValue" => vec![("string".to_owned(), text)],
        "intValue" => vec![("int".to_owned(), text)],
        "doubleValue" => vec![("float".to_owned(), text)],
        _ => vec![("bool".to_owned(), text)],
    }
}

async fn get(server: &Server, path: &str) -> Value {
    let response = frame::get(server, path).await;
    assert_eq!(response.status().as_u16(), 200, "{path}");
    response.json().await.unwrap()
}

async fn names(server: &Server, range: &str) -> Names {
    let answer = get(server, &format!("/api/v2/search/tags{range}")).await;
    let scopes = answer["scopes"].as_array().unwrap().iter().filter(|scope| scope["name"] != "intrinsic");
    let tags =
        |scope: &Value| scope["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
    scopes.map(|scope| (scope["name"].as_str().unwrap().to_owned(), tags(scope))).collect()
}

async fn values(server: &Server, field: &str, range: &str) -> Values {
    let answer = get(server, &format!("/api/v2/search/tag/{field}/values{range}")).await;
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let values = answer["tagValues"].as_array().unwrap();
    values.iter().map(|value| (text(value, "type"), text(value, "value"))).collect()
}

async fn check(server: &Server, state: &str) {
    // All of it, a file as a whole, parts of files and buffers, single spans, nothing.
    for (first, last) in [(0, SPANS - 1), (16, 31), (5, 20), (10, 40), (33, 47), (7, 8), (31, 32), (200, 300)] {
        let range = format!("?start={}&end={}", START + first, START + last);
        // The second of the end is inside.
        let numbers = || first..(last + 1).min(SPANS);
        assert_eq!(names(server, &range).await, expected_names(numbers()), "{state}: {first} to {last}");
        for (scope, key) in [
            ("resource", "service.name"),
            ("span", "all"),
            ("span", "code"),
            ("span", "mixed"),
            ("span", "list"),
            ("span", "few3"),
            ("span", "only17"),
            ("event", "event1"),
            ("link", "link2"),
            ("instrumentation", "lib1"),
        ] {
            let found = values(server, &format!("{scope}.{key}"), &range).await;
            assert_eq!(found, expected_values(numbers(), scope, key), "{state}: {scope}.{key}, {first} to {last}");
        }
        let text = |text: String| ("string".to_owned(), text);
        let found = values(server, "name", &range).await;
        let expected: Values = numbers().map(|number| text(format!("n{}", number % 11))).collect();
        assert_eq!(found, expected, "{state}: name, {first} to {last}");
        let found = values(server, "event:name", &range).await;
        let expected: Values = numbers().map(|number| text(format!("e{}", number % 3))).collect();
        assert_eq!(found, expected, "{state}: event:name, {first} to {last}");
        let found = values(server, ".few3", &range).await;
        assert_eq!(found, expected_values(numbers(), "span", "few3"), "{state}: .few3, {first} to {last}");
        let found = values(server, ".few3", &format!("{range}&q=%7B%20span.code%20%3D%204%20%7D")).await;
        let matching = || numbers().filter(|number| number % 9 == 4);
        let expected = expected_values(matching(), "span", "few3");
        assert_eq!(found, expected, "{state}: .few3 with a filter, {first} to {last}");
        let found = values(server, "span.list", &format!("{range}&q=%7B%20span.code%20%3D%204%20%7D")).await;
        assert_eq!(
            found,
            expected_values(matching(), "span", "list"),
            "{state}: list with a filter, {first} to {last}"
        );
    }
    assert_eq!(names(server, "").await, expected_names(0..SPANS), "{state}: all of time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_values_are_those_of_the_range_in_files_and_buffers() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.promotion.allow = ["span.all", "span.code", "span.mixed"].map(str::to_owned).to_vec();
    let server = frame::start(&settings).await;
    for numbers in [0..16, 16..32] {
        send(&server, numbers).await;
        assert_eq!(frame::get(&server, "/flush").await.status().as_u16(), 204);
    }
    send(&server, 32..SPANS).await;
    check(&server, "two files and a buffer").await;
    assert_eq!(frame::get(&server, "/flush").await.status().as_u16(), 204);
    check(&server, "three files").await;
    let answer = get(&server, "/api/v2/search/tags").await;
    assert!(answer["metrics"].get("inspectedBytes").is_none(), "names cost no scan: {}", answer["metrics"]);
    server.stop().await.unwrap();

    let mut compact = std::process::Command::new(env!("CARGO_BIN_EXE_tracehouse"));
    compact.args(["compact", "--set", "compaction.fan_in=2", "--set", "compaction.settle_age=0s", "--data"]);
    let compacted = compact.arg(data.path()).output().unwrap();
    let report = String::from_utf8_lossy(&compacted.stdout);
    assert!(report.contains("3 files") && report.contains("became 1 file of"), "{report}");
    let server = frame::start(&settings).await;
    check(&server, "one merged file").await;
    server.stop().await.unwrap();
}

const FILES: u64 = 4;
const SPANS_PER_FILE: u64 = 50;

/// The spans of one file, a second apart.
fn batch(file: u64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let service = [Attribute { key: "service.name", value: AttributeValue::Str("order-service") }];
    let resource = builder.push_resource(&ResourceFields::default(), &service).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for number in file * SPANS_PER_FILE + 1..(file + 1) * SPANS_PER_FILE + 1 {
        let span = SpanFields {
            name: "GET /orders",
            ..plain_span(
                TraceId::from_bytes(u128::from(number).to_be_bytes()),
                number,
                NOW + number.cast_signed() * 1_000_000_000,
                1_000_000,
            )
        };
        let note = format!("note {number}");
        let attributes = [
            Attribute { key: "order", value: AttributeValue::Int(number.cast_signed()) },
            Attribute { key: "note", value: AttributeValue::Str(&note) },
        ];
        let (events, links) = (std::iter::empty(), std::iter::empty());
        builder.push_span((resource, scope), &span, &attributes, events, links).unwrap();
    }
    builder.finish().unwrap()
}

async fn run(engine: &QueryEngine, kind: QueryKind) -> (usize, QueryStats) {
    let request = QueryRequest { kind, ..QueryRequest::sql(TenantId::single(), "") };
    let (batches, stats) = engine.execute(request).await.unwrap().collect().await.unwrap();
    (batches.iter().map(|batch| batch.num_rows()).sum(), stats)
}

#[tokio::test]
async fn only_files_at_the_border_of_the_range_are_scanned() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = quiet();
    settings.promotion.allow = vec!["span.order".to_owned()];
    let house = House::open(folder.path(), settings).await;
    for file in 0..FILES {
        let request = WriteRequest { batch: batch(file), digest: file.into(), received_unix_nano: NOW };
        house.ingest.write(&TenantId::single(), request).await.unwrap();
        house.ingest.flush().await.unwrap();
    }
    let engine = house.engine(folder.path());
    let values_of = |field: &str, range| {
        let field = parse_reference(field).unwrap();
        QueryKind::TagValues(TagValuesQuery { field, range, filter: None, limit: 1_000 })
    };
    let values = |range| values_of("span.order", range);
    let all = (FILES * SPANS_PER_FILE) as usize;
    // One has a column, the other is in the maps.
    for field in ["span.order", "span.note", ".note"] {
        let (found, stats) = run(&engine, values_of(field, TimeRange::ALL)).await;
        assert_eq!((found, stats.scanned_rows), (all, 0), "{field}: {stats:?}");
        assert!(stats.scanned_bytes > 0, "{field}: {stats:?}");
    }
    let (found, stats) =
        run(&engine, QueryKind::TagNames(TagNamesQuery { range: TimeRange::ALL, filter: None, scope: None })).await;
    assert!(found > 0 && stats.scanned_rows == 0 && stats.scanned_bytes == 0, "{stats:?}");

    // The first 20 spans of the first file are outside.
    let range = TimeRange::new(NOW + 21 * 1_000_000_000, i64::MAX);
    let (found, stats) = run(&engine, values(range)).await;
    assert_eq!(found, all - 20);
    assert!((1..=SPANS_PER_FILE).contains(&stats.scanned_rows), "{stats:?}");
    // Its names are those of the other files.
    let (_, stats) = run(&engine, QueryKind::TagNames(TagNamesQuery { range, filter: None, scope: None })).await;
    assert_eq!(stats.scanned_rows, 0, "{stats:?}");
    // A filter is asked of every span.
    let field = parse_reference("span.order").unwrap();
    let filter = Some("{ span.order < 11 }".to_owned());
    let filtered = TagValuesQuery { field, range: TimeRange::ALL, filter, limit: 1_000 };
    assert_eq!(run(&engine, QueryKind::TagValues(filtered)).await.0, 10);
    house.ingest.shutdown().await.unwrap();
}
