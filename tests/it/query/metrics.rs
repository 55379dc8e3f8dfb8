//! TraceQL metrics: series out of spans, against numbers worked out by hand and a walk over all spans.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{Float64Type, Int64Type},
};
use proptest::prelude::*;
use tracehouse::{
    error::Error,
    model::tenant::TenantId,
    query::{AnswerForm, MetricsQuery, QueryEngine, QueryKind, QueryLimits, QueryRequest, QueryStats},
};

use crate::query::data::{START, engine, of_json, plain_span, small_engine, tables};

const SECOND: i64 = 1_000_000_000;

/// A query over the ten seconds from [`START`], in steps of five.
fn query(text: &str) -> MetricsQuery {
    MetricsQuery {
        start_unix_nano: Some(START),
        end_unix_nano: Some(START + 10 * SECOND),
        step_nano: Some(5 * SECOND),
        exemplars: Some(0),
        ..MetricsQuery::new(text)
    }
}

async fn answer(
    engine: &QueryEngine,
    query: MetricsQuery,
    form: AnswerForm,
) -> Result<(Vec<RecordBatch>, QueryStats), Error> {
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::Metrics(query));
    request.form = form;
    let announced = engine.prepare(request.clone()).await?.schema;
    let stream = engine.execute(request).await?;
    assert_eq!(stream.schema(), announced);
    let (batches, stats) = stream.collect().await?;
    assert!(batches.iter().all(|batch| batch.schema() == announced));
    Ok((batches, stats))
}

/// Labels as `key=value`, text in quotes.
fn labels(maps: &ArrayRef, row: usize) -> String {
    let entries = maps.as_map().value(row);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_struct());
    let value = |index: usize| {
        let shown = |column: &ArrayRef| arrow::util::display::array_value_to_string(column, index).unwrap();
        let column = values.columns().iter().find(|column| column.is_valid(index)).unwrap();
        if column.data_type().is_numeric() { shown(column) } else { format!("{:?}", shown(column)) }
    };
    (0..keys.len()).map(|index| format!("{}={}", keys.value(index), value(index))).collect::<Vec<_>>().join(" ")
}

/// Pairs of seconds after [`START`] and values.
fn pairs(items: &ArrayRef) -> String {
    let items = items.as_struct();
    let times = items.column(0).as_primitive::<Int64Type>();
    let values = items.column(1).as_primitive::<Float64Type>();
    let pair = |(time, value): (&i64, &f64)| format!("{}:{value}", (time - START) as f64 / SECOND as f64);
    times.values().iter().zip(values.values()).map(pair).collect::<Vec<_>>().join(" ")
}

/// One line per series: labels, samples, and exemplars where there are some.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let samples = pairs(&batch["samples"].as_list::<i32>().value(row));
            let mut line = format!("{} | {samples}", labels(&batch["labels"], row));
            let exemplars = batch["exemplars"].as_list::<i32>().value(row);
            if !exemplars.is_empty() {
                let spans = exemplars.as_struct().column(2);
                let spans: Vec<String> = (0..spans.len()).map(|row| labels(spans, row)).collect();
                line += &format!(" | {} | {}", pairs(&exemplars), spans.join("; "));
            }
            lines.push(line);
        }
    }
    lines
}

async fn series(query: MetricsQuery) -> Vec<String> {
    match answer(&small_engine(), query, AnswerForm::Typed).await {
        Ok((batches, _)) => lines(&batches),
        Err(error) => vec![format!("error: {}", error.message().lines().next().unwrap_or_default())],
    }
}

async fn check(text: &str, expected: &[&str]) {
    assert_eq!(series(query(text)).await, expected, "{text}");
}

#[tokio::test]
async fn spans_are_counted_per_interval_and_labels() {
    check(
        "{} | count_over_time() by (resource.service.name, span.status)",
        &[
            r#"resource.service.name="gateway" | 0:0 5:0 10:2"#,
            r#"resource.service.name="worker" | 0:0 5:1 10:0"#,
            r#"resource.service.name="cart" span.status=503 | 0:0 5:2 10:0"#,
            r#"resource.service.name="gateway" span.status=200 | 0:1 5:0 10:0"#,
        ],
    )
    .await;
    check("{ status = error } | rate()", &[r#"__name__="rate" | 0:0 5:0.4 10:0"#]).await;
    check("{ name = `nope` } | rate()", &[r#"__name__="rate" | 0:0 5:0 10:0"#]).await;
    check("{ name = `nope` } | rate() by (name)", &[]).await;
    let many = "{ name = `job` } | rate() by (name, kind, status, span.on, span.ratio, .list, event.n, span.none)";
    let expected = r#"name="job" kind="internal" status="ok" span.on="true" span.ratio=0.5 .list="[1,2]" event.n=3 | 0:0 5:0.2 10:0"#;
    check(many, &[expected]).await;
}

#[tokio::test]
async fn numbers_are_reduced_per_interval() {
    check(
        "{} | avg_over_time(duration) by (name)",
        &[
            r#"name="GET /cart" | 0:0.001"#,
            r#"name="cart.get" | 5:0.002"#,
            r#"name="job" | 5:0.003"#,
            r#"name="late" | 10:0.005"#,
            r#"name="orphan" | 10:0.004"#,
        ],
    )
    .await;
    check("{} | max_over_time(span.status)", &[r#"__name__="max_over_time" | 0:200 5:503"#]).await;
    check("{} | min_over_time(duration)", &[r#"__name__="min_over_time" | 0:0.001 5:0.002 10:0.004"#]).await;
    check("{} | sum_over_time(span.status)", &[r#"__name__="sum_over_time" | 0:200 5:1006"#]).await;
    check("{} | sum_over_time(.ratio) by (kind)", &[r#"kind="internal" | 5:0.5"#]).await;
    let refused = &series(query("{} | sum_over_time(name)")).await[0];
    let wanted = "error: invalid TraceQL query: sum_over_time(name) needs numbers: name is of type string";
    assert_eq!(refused.lines().next(), Some(wanted), "{refused}");
}

#[tokio::test]
async fn histograms_and_quantiles_go_by_powers_of_two() {
    check(
        "{} | histogram_over_time(duration)",
        &[
            "__bucket=0.001048576 | 0:1 5:0 10:0",
            "__bucket=0.002097152 | 0:0 5:2 10:0",
            "__bucket=0.004194304 | 0:0 5:1 10:1",
            "__bucket=0.008388608 | 0:0 5:0 10:1",
        ],
    )
    .await;
    check(
        "{} | quantile_over_time(duration, .5, .99)",
        &["p=0.5 | 0:0.001048576 5:0.002097152 10:0.004194304", "p=0.99 | 0:0.001048576 5:0.004194304 10:0.008388608"],
    )
    .await;
    check(
        "{} | quantile_over_time(span.status, 1) by (kind)",
        &[r#"kind="client" p=1.0 | 0:0 5:512 10:0"#, r#"kind="server" p=1.0 | 0:256 5:0 10:0"#],
    )
    .await;
}

#[tokio::test]
async fn series_are_ranked_compared_and_combined() {
    check(
        "{} | count_over_time() by (name) | topk(1)",
        &[r#"name="GET /cart" | 0:1"#, r#"name="cart.get" | 5:2"#, r#"name="late" | 10:1"#],
    )
    .await;
    check("{} | count_over_time() by (name) > 1", &[r#"name="cart.get" | 5:2"#]).await;
    let share = "({ status = error } | count_over_time() by (resource.service.name)) \
                 / ({} | count_over_time() by (resource.service.name)) * 100";
    check(share, &[r#"resource.service.name="cart" | 5:100"#]).await;
    check(
        "({ status = error } | rate()) / ({} | rate())",
        &[r#"__name__="(rate / rate)" | 0:0 5:0.6666666666666667 10:0"#],
    )
    .await;
}

#[tokio::test]
async fn an_instant_is_one_sample_over_the_range() {
    let instant = |text| MetricsQuery { instant: true, exemplars: None, ..query(text) };
    assert_eq!(series(instant("{} | count_over_time()")).await, [r#"__name__="count_over_time" | 10:5"#]);
    assert_eq!(
        series(instant("{} | max_over_time(duration) by (kind) > 4ms")).await,
        [r#"kind="producer" | 10:0.005"#]
    );
}

#[tokio::test]
async fn exemplars_are_spans_behind_the_values() {
    let with = |text| MetricsQuery { exemplars: Some(100), ..query(text) };
    assert_eq!(
        series(with("{ status = error } | rate()")).await,
        [r#"__name__="rate" | 0:0 5:0.4 10:0 | 1:0.4 | trace:id="1" status="error""#,]
    );
    assert_eq!(
        series(with("{ kind = client } | avg_over_time(duration) by (kind)")).await[0],
        r#"kind="client" | 5:0.002 | 1:0.002 | trace:id="1" kind="client" duration="2ms""#,
    );
    assert_eq!(
        series(with("{ kind = internal } | quantile_over_time(duration, .5, .9)")).await,
        [
            r#"p=0.5 | 0:0 5:0.004194304 10:0 | 5:0.003 | trace:id="2" kind="internal" duration="3ms""#,
            "p=0.9 | 0:0 5:0.004194304 10:0",
        ]
    );
    assert_eq!(
        series(with("({ status = error } | rate()) / ({ } | rate())")).await,
        [
            r#"__name__="(rate / rate)" | 0:0 5:0.6666666666666667 10:0 | 1:0.6666666666666667 | trace:id="1" status="error""#,
        ]
    );
    assert_eq!(
        series(with("{ status = error } | rate() with (exemplars = false)")).await,
        [r#"__name__="rate" | 0:0 5:0.4 10:0"#,]
    );
}

#[tokio::test]
async fn compare_counts_values_inside_and_outside_of_a_selection() {
    let all = series(query("{} | compare({ status = error }, 1)")).await;
    let of = |key: &str| all.iter().filter(|line| line.contains(key)).cloned().collect::<Vec<_>>();
    assert_eq!(
        of(" kind="),
        [
            r#"__meta_type="baseline" kind="server" | 0:1 5:0 10:1"#,
            r#"__meta_type="baseline_total" kind="nil" | 0:1 5:1 10:2"#,
            r#"__meta_type="selection" kind="client" | 0:0 5:2 10:0"#,
            r#"__meta_type="selection_total" kind="nil" | 0:0 5:2 10:0"#,
        ]
    );
    assert_eq!(
        of(" span.status="),
        [
            r#"__meta_type="baseline" span.status=200 | 0:1 5:0 10:0"#,
            r#"__meta_type="baseline_total" span.status="nil" | 0:1 5:0 10:0"#,
            r#"__meta_type="selection" span.status=503 | 0:0 5:2 10:0"#,
            r#"__meta_type="selection_total" span.status="nil" | 0:0 5:2 10:0"#,
        ]
    );
    assert!(of("resource.service.name=").len() == 4 && of("span.list").is_empty(), "{all:#?}");
    let (from, to) = (START + 5 * SECOND, START + 8 * SECOND);
    let cut = series(query(&format!("{{}} | compare({{}}, 10, {from}, {to})"))).await;
    assert!(cut.contains(&r#"__meta_type="selection_total" name="nil" | 0:0 5:1 10:1"#.to_owned()), "{cut:#?}");
}

#[tokio::test]
async fn limits_cut_or_refuse_by_name() {
    let limited = async |limits: QueryLimits, query: MetricsQuery| {
        let spans = crate::query::data::spans();
        answer(&engine(tables(vec![spans]), limits, &std::env::temp_dir()), query, AnswerForm::Typed).await
    };
    let few = MetricsQuery { series_max: Some(2), ..query("{} | rate() by (name)") };
    let (batches, stats) = limited(QueryLimits::default(), few).await.unwrap();
    assert_eq!(lines(&batches).len(), 2);
    let message = "Response exceeds maximum series limit of 2, a partial response is returned";
    assert_eq!(stats.partial.as_deref(), Some(message));
    let small = QueryLimits { metrics_samples_max: 10, ..QueryLimits::default() };
    let error = limited(small, query("{} | rate() by (name)")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "5 series of 3 intervals are 15 samples, more than the limit query.metrics_samples_max = 10; use a longer step or fewer labels"
    );
    let search = series(query("{}")).await;
    assert_eq!(search, ["error: not a metrics query"]);
    assert!(series(query("{} | rate(")).await[0].starts_with("error: invalid TraceQL query: parse error at line 1"));
}

#[tokio::test]
async fn plain_answers_have_a_row_per_sample() {
    let (batches, _) = answer(&small_engine(), query("{ kind = client } | rate()"), AnswerForm::Plain).await.unwrap();
    insta::assert_snapshot!(arrow::util::pretty::pretty_format_batches(&batches).unwrap(), @r"
    +------------------+----------------------+-------+
    | labels           | time                 | value |
    +------------------+----------------------+-------+
    | {__name__: rate} | 2026-01-01T00:00:00Z | 0.0   |
    | {__name__: rate} | 2026-01-01T00:00:05Z | 0.4   |
    | {__name__: rate} | 2026-01-01T00:00:10Z | 0.0   |
    +------------------+----------------------+-------+
    ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Which part of the data a span lies in does not matter, and counts are those of a walk over the spans.
    #[test]
    fn any_split_of_the_spans_gives_the_same_series(
        spans in prop::collection::vec((0u32..5, 1u32..9, 0i64..40, 0usize..3, any::<bool>(), 0usize..3), 1..40),
    ) {
        let services = ["a", "b", "c"];
        let line = |(trace, span, at, service, hit, _): &(u32, u32, i64, usize, bool, usize)| {
            plain_span(*trace, *span, false, *at, services[*service], *hit)
        };
        let text: Vec<String> = spans.iter().map(line).collect();
        let whole = vec![of_json(&text.join("\n"))];
        let parts = (0..3).map(|part| {
            let of_part = spans.iter().zip(&text).filter(|(span, _)| span.5 == part).map(|(_, text)| text.clone());
            of_part.collect::<Vec<_>>().join("\n")
        });
        let split: Vec<RecordBatch> = parts.filter(|part| !part.is_empty()).map(|part| of_json(&part)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |batches: &[RecordBatch], text: &str| {
            let engine = engine(tables(batches.to_vec()), QueryLimits::default(), &std::env::temp_dir());
            let query = MetricsQuery {
                start_unix_nano: Some(START + 10),
                end_unix_nano: Some(START + 30),
                step_nano: Some(10),
                ..MetricsQuery::new(text)
            };
            lines(&runtime.block_on(answer(&engine, query, AnswerForm::Typed)).unwrap().0)
        };
        for text in [
            "{ status = error } | rate() by (resource.service.name)",
            "{} | avg_over_time(span.n) by (name)",
            "{} | quantile_over_time(span.n, .5, 1) by (status)",
            "{} | histogram_over_time(span.n)",
            "{} | compare({ status = error })",
        ] {
            prop_assert_eq!(ask(&whole, text), ask(&split, text), "{}", text);
        }
        let mut counts: BTreeMap<&str, [u32; 3]> = BTreeMap::new();
        for (_, _, at, service, _, _) in spans.iter().filter(|span| span.2 > 0 && span.2 <= 30) {
            counts.entry(services[*service]).or_default()[((at - 1) / 10) as usize] += 1;
        }
        let expected: Vec<String> = counts
            .into_iter()
            .map(|(service, [a, b, c])| format!("resource.service.name={service:?} | 0.00000001:{a} 0.00000002:{b} 0.00000003:{c}"))
            .collect();
        prop_assert_eq!(ask(&whole, "{} | count_over_time() by (resource.service.name) with (exemplars = 0)"), expected);
    }
}
