//! TraceQL searches, against what a walk over all spans gives.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
    util::{
        display::{ArrayFormatter, FormatOptions},
        pretty::pretty_format_batches,
    },
};
use proptest::prelude::*;
use tracehouse::{
    error::Error,
    model::{tenant::TenantId, time::TimeRange},
    query::{
        AnswerForm, DurationBounds, Explain, QueryEngine, QueryKind, QueryLimits, QueryRequest, TraceCursor,
        TraceQlQuery,
    },
};

use crate::query::data::{START, engine, of_json, plain_span, small_engine, tables};

async fn search(engine: &QueryEngine, query: TraceQlQuery, form: AnswerForm) -> Result<Vec<RecordBatch>, Error> {
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::TraceQl(query));
    request.form = form;
    let announced = engine.prepare(request.clone()).await?.schema;
    let stream = engine.execute(request).await?;
    assert_eq!(stream.schema(), announced);
    let (batches, _) = stream.collect().await?;
    assert!(batches.iter().all(|batch| batch.schema() == announced));
    Ok(batches)
}

/// A line per row, its columns between bars.
fn lines(batches: &[RecordBatch]) -> String {
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default()).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" | "));
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn a_search_gives_the_latest_traces_with_their_matches_and_a_summary_of_the_whole() {
    let engine = small_engine();
    let query = TraceQlQuery::new("{ .status >= 200 || name = `late` }");
    let batches = search(&engine, query, AnswerForm::Plain).await.unwrap();
    insta::assert_snapshot!(lines(&batches), @r###"
    00000000000000000000000000000003 |  |  | 1767225607000000000 | 1005000000 | 1 | [{attributes: {}, matched: 1, spans: [{span_id: 0000000000000005, name: late, start_time_unix_nano: 1767225608000000000, duration_nano: 5000000, attributes: {}}]}] | [{service_name: gateway, span_count: 2, error_count: 0}]
    00000000000000000000000000000001 | gateway | GET /cart | 1767225600000000000 | 1002000000 | 2 | [{attributes: {}, matched: 2, spans: [{span_id: 0000000000000001, name: GET /cart, start_time_unix_nano: 1767225600000000000, duration_nano: 1000000, attributes: {status: 200}}, {span_id: 0000000000000002, name: cart.get, start_time_unix_nano: 1767225601000000000, duration_nano: 2000000, attributes: {status: 503}}]}] | [{service_name: cart, span_count: 1, error_count: 1}, {service_name: gateway, span_count: 1, error_count: 0}]
    "###);
}

#[tokio::test]
async fn matches_outside_of_the_range_do_not_find_a_trace_and_its_other_spans_still_count() {
    let engine = small_engine();
    let query =
        TraceQlQuery { range: TimeRange::new(START + 1_000_000_000, START + 5_000_000_000), ..TraceQlQuery::new("{}") };
    let batches = search(&engine, query, AnswerForm::Plain).await.unwrap();
    let shown: Vec<RecordBatch> = batches.iter().map(|batch| batch.project(&[0, 2, 3, 4, 5]).unwrap()).collect();
    insta::assert_snapshot!(pretty_format_batches(&shown).unwrap(), @r###"
    +----------------------------------+-----------+----------------------+---------------+---------+
    | trace_id                         | root_name | start_time_unix_nano | duration_nano | matched |
    +----------------------------------+-----------+----------------------+---------------+---------+
    | 00000000000000000000000000000001 | GET /cart | 1767225600000000000  | 1002000000    | 1       |
    +----------------------------------+-----------+----------------------+---------------+---------+
    "###);
}

/// What each plan of an explained search is for, and the plan.
async fn plans(explain: Explain, text: &str) -> Vec<(String, String)> {
    let query = TraceQlQuery { explain: Some(explain), ..TraceQlQuery::new(text) };
    let batches = search(&small_engine(), query, AnswerForm::Plain).await.unwrap();
    let column = |name: &str| {
        let texts = batches.iter().flat_map(|batch| batch[name].as_string::<i32>().iter().flatten());
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    column("plan_type").into_iter().zip(column("plan")).collect()
}

#[tokio::test]
async fn explain_shows_the_plans_of_a_search() {
    let plans = plans(Explain::Plan, "{ span.status = 503 }").await;
    let [(_, witnesses), (_, of_witnesses), (purpose, traces), (_, of_traces)] = plans.as_slice() else {
        panic!("{plans:?}")
    };
    assert!(witnesses.contains("Projection: ") && witnesses.contains("Filter: "), "{witnesses}");
    assert!(of_witnesses.contains("FilterExec: ") && !of_witnesses.contains("TraceEvalExec"), "{of_witnesses}");
    assert_eq!(purpose, "whole traces with witnesses: logical plan");
    assert!(traces.contains("TraceEval: conditions=[span.status = 503]") && traces.contains("in_traces"), "{traces}");
    assert!(of_traces.contains("TraceEvalExec") && !of_traces.contains("SortExec"), "{of_traces}");
}

#[tokio::test]
async fn explain_analyze_shows_what_the_operators_of_a_search_did() {
    let plans = plans(Explain::Analyze, "{ span.status = 503 }").await;
    let [(first, witnesses), (_, traces), (last, files)] = plans.as_slice() else { panic!("{plans:?}") };
    assert_eq!((first.as_str(), last.as_str()), ("plan 1 with metrics", "Files"));
    assert!(
        files.starts_with("ruled out by the catalogue: 0") && files.ends_with("read: 0"),
        "all is buffered: {files}"
    );
    assert!(witnesses.contains("FilterExec: ") && witnesses.contains("metrics=[output_rows="), "{witnesses}");
    assert!(traces.contains("TraceEvalExec: conditions=") && traces.contains("metrics=[output_rows="), "{traces}");
}

#[tokio::test]
async fn explain_in_sql_shows_the_plan_of_traceql_within_the_statement() {
    let engine = small_engine();
    let text = "SELECT name, count(*) FROM traceql('{ } >> { status = error }') GROUP BY name";
    let plan = crate::query::data::shown(&engine, &format!("EXPLAIN {text}")).await;
    for operator in ["TraceEval: conditions=[true; status = error]", "TraceEvalExec", "AggregateExec"] {
        assert!(plan.contains(operator), "{operator}: {plan}");
    }
    let analyzed = crate::query::data::shown(&engine, &format!("EXPLAIN ANALYZE {text}")).await;
    assert!(analyzed.contains("TraceEvalExec") && analyzed.contains("output_rows=1"), "{analyzed}");
}

#[tokio::test]
async fn what_is_no_search_or_beyond_a_limit_is_refused() {
    let engine = small_engine();
    let message = async |query| search(&engine, query, AnswerForm::Typed).await.unwrap_err().to_string();
    let limit = TraceQlQuery { limit: Some(1_000_000), ..TraceQlQuery::new("{}") };
    assert_eq!(message(limit).await, "limit 1000000 exceeds max limit 262144");
    let spans = TraceQlQuery { spans_per_trace: Some(101), ..TraceQlQuery::new("{}") };
    assert_eq!(message(spans).await, "spans per span set exceeds 100. received 101");
    assert!(message(TraceQlQuery::new("{} | rate()")).await.contains("and rate() makes time series"));
    assert!(message(TraceQlQuery::new("{ 1 }")).await.contains("must resolve to a boolean"));
}

/// A span as the oracle sees it.
#[derive(Clone, Debug)]
struct Span {
    trace: u32,
    span: u32,
    is_root: bool,
    at: i64,
    is_hit: bool,
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    let span = (0u32..12, 1u32..6, any::<bool>(), 0i64..40, any::<bool>());
    prop::collection::vec(span, 1..60).prop_map(|spans| {
        let mut seen = BTreeSet::new();
        let spans =
            spans.into_iter().map(|(trace, span, is_root, at, is_hit)| Span { trace, span, is_root, at, is_hit });
        spans.filter(|span| seen.insert((span.trace, span.span))).collect()
    })
}

/// Trace, start, duration, matched, shown span names, root.
type Row = (u32, i64, i64, i64, Vec<String>, Option<String>);

/// All rows of an answer over these spans: the latest start first.
fn expected(spans: &[Span], range: (i64, i64), extent: i64, spans_max: usize) -> Vec<Row> {
    let mut traces: BTreeMap<u32, Vec<&Span>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.at >= range.0 - extent && span.at < range.1 + extent) {
        traces.entry(span.trace).or_default().push(span);
    }
    let mut rows: Vec<Row> = Vec::new();
    for (trace, mut spans) in traces {
        spans.sort_by_key(|span| (span.at, span.span));
        let hits = spans.iter().filter(|span| span.is_hit && span.at >= range.0 && span.at < range.1);
        let hits: Vec<String> = hits.map(|span| format!("s{}", span.span)).collect();
        if hits.is_empty() {
            continue;
        }
        let start = spans[0].at;
        let end = spans.iter().map(|span| span.at + 10).max().unwrap();
        let root = spans.iter().find(|span| span.is_root).map(|span| format!("s{}", span.span));
        rows.push((trace, start, end - start, hits.len() as i64, hits.into_iter().take(spans_max).collect(), root));
    }
    rows.sort_by_key(|row| (-row.1, row.0));
    rows
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let int = |name: &str, row| batch[name].as_primitive::<Int64Type>().value(row);
        for row in 0..batch.num_rows() {
            let trace = u32::from_str_radix(&batch["trace_id"].as_string::<i32>().value(row)[24..], 16).unwrap();
            let sets = batch["span_sets"].as_list::<i32>().value(row);
            let shown = sets.as_struct()["spans"].as_list::<i32>().value(0);
            let names =
                shown.as_struct()["name"].as_string::<i32>().iter().map(|name| name.unwrap().to_owned()).collect();
            let roots = batch["root_name"].as_string::<i32>();
            let root = roots.is_valid(row).then(|| roots.value(row).to_owned());
            let start = int("start_time_unix_nano", row) - START;
            rows.push((trace, start, int("duration_nano", row), int("matched", row), names, root));
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_division_into_batches_and_any_limit_give_the_answer_of_a_walk_over_all_spans(
        spans in spans(),
        cut in any::<prop::sample::Index>(),
        limit in 1usize..6,
        from in 0i64..40,
        length in 1i64..40,
        extent in 0i64..20,
    ) {
        let line = |span: &Span| plain_span(span.trace, span.span, span.is_root, span.at, "shop", span.is_hit);
        let cut = cut.index(spans.len());
        let parts = [&spans[..cut], &spans[cut..]];
        // The second part comes twice: copies of a span count once.
        let batches = parts.into_iter().chain([&spans[cut..]]).filter(|part| !part.is_empty());
        let batches = batches.map(|part| of_json(&part.iter().map(line).collect::<Vec<_>>().join("\n"))).collect();
        let limits = QueryLimits { trace_extent_max_nano: extent, ..QueryLimits::default() };
        let engine = engine(tables(batches), limits, &std::env::temp_dir());
        let query = TraceQlQuery {
            range: TimeRange::new(START + from, START + from + length),
            limit: Some(limit),
            spans_per_trace: Some(2),
            ..TraceQlQuery::new("{ status = error }")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let batches = runtime.block_on(search(&engine, query, AnswerForm::Plain)).unwrap();
        let mut wanted = expected(&spans, (from, from + length), extent, 2);
        wanted.truncate(limit);
        prop_assert_eq!(rows_of(&batches), wanted);
    }
}

#[tokio::test]
async fn traces_that_begin_long_before_their_first_match_are_ordered_by_their_beginning() {
    // Of 300 candidates, those with the latest matches begin first: one round of candidates is not enough.
    let mut lines = Vec::new();
    for trace in 0..300u32 {
        let late = i64::from(trace);
        lines.push(plain_span(trace, 1, true, 1_000 - late, "shop", false));
        lines.push(plain_span(trace, 2, false, 2_000 + late, "shop", true));
    }
    let engine = engine(tables(vec![of_json(&lines.join("\n"))]), QueryLimits::default(), &std::env::temp_dir());
    let query = TraceQlQuery { limit: Some(3), ..TraceQlQuery::new("{ status = error }") };
    let batches = search(&engine, query, AnswerForm::Plain).await.unwrap();
    let traces: Vec<u32> = rows_of(&batches).into_iter().map(|row| row.0).collect();
    assert_eq!(traces, [0, 1, 2]);
}

#[tokio::test]
async fn pages_together_are_the_whole_answer_and_durations_are_those_of_traces() {
    let mut lines = Vec::new();
    for trace in 1..=40u32 {
        // Some traces begin together; each lasts as many nanoseconds as its number, and ten.
        let start = i64::from(trace / 3) * 100;
        lines.push(plain_span(trace, 1, true, start, "shop", true));
        lines.push(plain_span(trace, 2, false, start + i64::from(trace), "shop", false));
    }
    let engine = engine(tables(vec![of_json(&lines.join("\n"))]), QueryLimits::default(), &std::env::temp_dir());
    let traces = async |query: TraceQlQuery| {
        let batches = search(&engine, query, AnswerForm::Plain).await.unwrap();
        rows_of(&batches).into_iter().map(|row| (row.0, row.1)).collect::<Vec<(u32, i64)>>()
    };
    let query = TraceQlQuery { limit: Some(100), ..TraceQlQuery::new("{ status = error }") };
    let whole = traces(query.clone()).await;
    assert_eq!(whole.len(), 40);
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = traces(TraceQlQuery { limit: Some(7), after, ..query.clone() }).await;
        let Some((trace, start)) = page.last() else { break };
        let trace_id = format!("{trace:x}").parse().unwrap();
        after = Some(TraceCursor { start_unix_nano: START + start, trace_id });
        pages.extend(page);
    }
    assert_eq!(pages, whole);

    let duration = DurationBounds { min_nano: Some(20), max_nano: Some(22) };
    let mut found: Vec<u32> = traces(TraceQlQuery { duration, ..query }).await.into_iter().map(|row| row.0).collect();
    found.sort_unstable();
    assert_eq!(found, [10, 11, 12]);
}
