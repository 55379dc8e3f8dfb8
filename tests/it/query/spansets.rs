//! Pipelines on whole traces: what each construct finds in one small trace, however its spans are divided.

use arrow::{
    array::{Array, AsArray, RecordBatch, StructArray},
    datatypes::Int64Type,
};
use tracehouse::{
    model::tenant::TenantId,
    query::{AnswerForm, QueryEngine, QueryKind, QueryLimits, QueryRequest, TraceQlQuery},
};

use crate::query::data::{START, engine, of_json, tables};

/// A span of trace 1 as JSON: `n` is its number, start, and attribute; `parent` 0 makes a root.
fn span(n: u8, parent: u8, name: &str, extra: &str) -> String {
    traced(1, n, parent, name, extra)
}

fn traced(trace: u8, n: u8, parent: u8, name: &str, extra: &str) -> String {
    let parent = if parent == 0 { "null".to_owned() } else { format!("\"{parent:016x}\"") };
    format!(
        r#"{{"trace_id":"{trace:032x}","span_id":"{n:016x}","parent_span_id":{parent},"flags":0,"name":"{name}","kind":"internal","status_code":"unset","start_time_unix_nano":{start},"duration_nano":{duration},"resource_attributes":{{"service.name":{{"str":"s{service}"}}}},"scope_attributes":{{}},"span_attributes":{{"n":{{"int":{n}}}{extra}}},"events":[],"links":[],"dropped_attributes_count":0,"dropped_events_count":0,"dropped_links_count":0,"resource_dropped_attributes_count":0,"scope_dropped_attributes_count":0}}"#,
        start = START + i64::from(n) * 1_000,
        duration = 100 * i64::from(n),
        service = n % 2,
    )
}

/// ```text
///  a1 - b2 - c4        8 is an orphan, of which 9 is a child
///   \       \ c5       10 and 11 are each other's parents, 12 hangs from 10
///    b3 - a6 - c7
/// ```
fn trace() -> Vec<String> {
    vec![
        span(1, 0, "a", ""),
        span(2, 1, "b", r#","x":{"str":"one"}"#),
        span(3, 1, "b", r#","x":{"str":"two"}"#),
        span(4, 2, "c", r#","x":{"str":"one"}"#),
        span(5, 2, "c", ""),
        span(6, 3, "a", ""),
        span(7, 6, "c", r#","x":{"int":1}"#),
        span(8, 99, "o", ""),
        span(9, 8, "c", ""),
        span(10, 11, "r", ""),
        span(11, 10, "r", ""),
        span(12, 10, "c", ""),
    ]
}

/// Engines over the same spans: all in one batch, each in its own, and in three partitions with copies.
fn engines(spans: &[String]) -> Vec<QueryEngine> {
    let whole = vec![of_json(&spans.join("\n"))];
    let single = spans.iter().rev().map(|span| of_json(span)).collect();
    let mut divided: Vec<RecordBatch> = spans.chunks(5).map(|part| of_json(&part.join("\n"))).collect();
    divided.push(of_json(&spans[..spans.len().min(7)].join("\n")));
    let engine_over = |batches| engine(tables(batches), QueryLimits::default(), &std::env::temp_dir());
    [whole, single, divided].into_iter().map(engine_over).collect()
}

fn entries(attributes: &StructArray) -> String {
    let (keys, values) = (attributes.column(0).as_string::<i32>(), attributes.column(1).as_string::<i32>());
    let entries = (0..keys.len()).map(|index| format!("{}={}", keys.value(index), values.value(index)));
    entries.collect::<Vec<_>>().join(" ")
}

/// Trace numbers, each with its spansets: attributes, then span numbers with what is shown of them.
async fn found(engine: &QueryEngine, text: &str) -> Result<String, String> {
    let query = TraceQlQuery { spans_per_trace: Some(100), ..TraceQlQuery::new(text) };
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::TraceQl(query));
    request.form = AnswerForm::Plain;
    let stream = engine.execute(request).await.map_err(|error| error.to_string())?;
    let (batches, _) = stream.collect().await.map_err(|error| error.to_string())?;
    let mut traces = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let id = batch["trace_id"].as_string::<i32>().value(row);
            let sets = batch["span_sets"].as_list::<i32>().value(row);
            let sets = sets.as_struct();
            let mut shown = Vec::new();
            for set in 0..sets.len() {
                let attributes = entries(&sets["attributes"].as_map().value(set));
                let spans = sets["spans"].as_list::<i32>().value(set);
                let spans = spans.as_struct();
                let matched = sets["matched"].as_primitive::<Int64Type>().value(set);
                assert_eq!(matched.min(100), spans.len() as i64);
                let names = (0..spans.len()).map(|span| {
                    let number = i64::from_str_radix(spans["span_id"].as_string::<i32>().value(span), 16).unwrap();
                    let shown = entries(&spans["attributes"].as_map().value(span));
                    if shown.is_empty() { number.to_string() } else { format!("{number}({shown})") }
                });
                let names = names.collect::<Vec<_>>().join(" ");
                shown.push(if attributes.is_empty() { names } else { format!("[{attributes}] {names}") });
            }
            traces.push(format!("{}: {}", id.trim_start_matches('0'), shown.join(" / ")));
        }
    }
    Ok(traces.join("\n"))
}

async fn check(spans: &[String], cases: &[(&str, &str)]) {
    let mut faults = Vec::new();
    for (index, engine) in engines(spans).iter().enumerate() {
        for (query, expected) in cases {
            let answer = found(engine, query).await;
            if answer.as_deref() != Ok(*expected) {
                faults.push(format!("{query}\n  expected {expected}\n  is       {answer:?} (division {index})"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn structural_operators_follow_edges_through_orphans_and_cycles() {
    check(
        &trace(),
        &[
            (r#"{ name = "a" } > { name = "b" }"#, "1: 2 3"),
            (r#"{ name = "a" } >> { name = "c" }"#, "1: 4 5 7"),
            (r#"{ name = "a" } !>> { name = "c" }"#, "1: 9 12"),
            (r#"{ name = "c" } << { name = "b" }"#, "1: 2 3"),
            (r#"{ name = "c" } < { name = "b" }"#, "1: 2"),
            (r#"{ name = "c" } !< { name = "b" }"#, "1: 3"),
            (r#"{ name = "c" } ~ { name = "c" }"#, "1: 4 5"),
            (r#"{ name = "b" } &> { name = "c" }"#, "1: 2 4 5"),
            (r#"{ name = "a" } &>> { name = "c" }"#, "1: 1 4 5 6 7"),
            (r#"{ name = "b" } &~ { name = "b" }"#, "1: 2 3"),
            (r#"{ name = "o" } > { name = "c" }"#, "1: 9"),
            (r#"{ name = "r" } >> { name = "r" }"#, "1: 10 11"),
            (r#"{ name = "c" } << { name = "r" }"#, "1: 10 11"),
            (r#"{ name = "none" } !>> { name = "o" }"#, "1: 8"),
            (r#"{ name = "a" } >> { name = "b" } >> { name = "c" }"#, "1: 4 5 7"),
        ],
    )
    .await;
}

#[tokio::test]
async fn stages_combine_group_and_aggregate() {
    check(
        &trace(),
        &[
            (r#"{ name = "a" } && { name = "o" }"#, "1: 1 6 8"),
            (r#"{ name = "a" } && { name = "none" }"#, ""),
            (r#"{ name = "none" } || { name = "o" }"#, "1: 8"),
            (r#"{ name = "c" } | { name = "c" && .n > 5 }"#, "1: 7(n=7) 9(n=9) 12(n=12)"),
            (r#"{ name = "b" } | count() > 1"#, "1: [count()=2] 2 3"),
            (r#"{ name = "b" } | count() > 2"#, ""),
            (r#"{ name = "b" } | avg(.n) = 2.5"#, "1: [avg(.n)=2.5] 2(n=2) 3(n=3)"),
            (r#"{ name = "b" } | max(duration) >= 300ns"#, "1: [max(duration)=300ns] 2 3"),
            (r#"{ name = "b" } | sum(.n) = 5 | min(.n) = 2"#, "1: [sum(.n)=5 min(.n)=2] 2(n=2) 3(n=3)"),
            (r#"{ name = "b" } | min(.none) > 0"#, ""),
            (
                r#"{ .x != nil } | by(.x)"#,
                "1: [by(.x)=one] 2(x=one) 4(x=one) / [by(.x)=two] 3(x=two) / [by(.x)=1] 7(x=1)",
            ),
            (r#"{ .x != nil } | by(.x) | count() > 1"#, "1: [by(.x)=one count()=2] 2(x=one) 4(x=one)"),
            (
                r#"{ .x != nil } | by(.x) | coalesce() | count() = 4"#,
                "1: [count()=4] 2(x=one) 3(x=two) 4(x=one) 7(x=1)",
            ),
            (r#"({ name = "a" } | count() > 1) >> { name = "c" }"#, "1: 4 5 7"),
            (r#"({ name = "a" } | count() > 2) >> { name = "c" }"#, ""),
            (
                r#"{ name = "b" } | select(span.n, resource.service.name)"#,
                "1: 2(n=2 service.name=s0) 3(n=3 service.name=s1)",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn fields_of_the_whole_trace_are_computed_over_all_of_it() {
    check(
        &trace(),
        &[
            (r#"{ rootName = "a" && name = "o" }"#, "1: 8"),
            (r#"{ rootServiceName = "s1" && name = "o" }"#, "1: 8"),
            ("{ span:childCount >= 2 }", "1: 1(span:childCount=2) 2(span:childCount=2) 10(span:childCount=2)"),
            ("{ trace:duration = 12200ns && nestedSetParent < 0 }", "1: 1(nestedSetParent=-1)"),
            (
                r#"{ name = "a" } | select(nestedSetLeft, nestedSetRight, nestedSetParent)"#,
                "1: 1(nestedSetLeft=1 nestedSetRight=14 nestedSetParent=-1) 6(nestedSetLeft=9 nestedSetRight=12 nestedSetParent=8)",
            ),
            (r#"{ name = "o" } | select(nestedSetLeft)"#, "1: 8(nestedSetLeft=0)"),
            ("{ nestedSetLeft > 9 }", "1: 7(nestedSetLeft=10)"),
            (r#"{ name = "b" } | by(rootName)"#, "1: [by(rootName)=a] 2 3"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_trace_in_which_an_operand_matches_nowhere_is_not_found_and_others_are() {
    let mut spans = trace();
    spans.push(traced(2, 1, 0, "b", ""));
    spans.push(traced(2, 2, 1, "c", ""));
    spans.push(traced(3, 3, 0, "a", ""));
    check(
        &spans,
        &[
            (r#"{ name = "a" } >> { name = "c" }"#, "1: 4 5 7"),
            (r#"{ name = "b" } > { name = "c" }"#, "1: 4 5\n2: 2"),
            (r#"{ name = "b" } !> { name = "a" }"#, "3: 3\n1: 1"),
            (r#"{ name = "c" } || { name = "a" } | count() < 3"#, "3: [count()=1] 3\n2: [count()=1] 2"),
        ],
    )
    .await;
}
