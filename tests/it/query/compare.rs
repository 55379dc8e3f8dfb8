//! `compare()` over files, buffers and both, and beyond the memory of a query.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{RecordBatch, StringArray, UInt32Array},
    compute::take_record_batch,
    util::pretty::pretty_format_batches,
};
use tracehouse::{
    error::{Error, ErrorKind},
    model::{schema::column, tenant::TenantId},
    query::{AnswerForm, EngineOptions, MetricsQuery, QueryEngine, QueryKind, QueryLimits, QueryRequest, QueryStats},
};

use crate::{
    engines,
    maintain::{
        compact_all,
        house::{House, NOW, SECOND, demo},
    },
    query::data::{START, engine, of_json, plain_span, tables},
};

/// Where the spans of the demo start.
const FIRST: i64 = NOW - 900 * SECOND;

/// The lines of an answer, one per sample.
async fn answer(engine: &QueryEngine, query: MetricsQuery) -> Result<BTreeSet<String>, Error> {
    answer_and_cost(engine, query).await.map(|(lines, _)| lines)
}

async fn answer_and_cost(engine: &QueryEngine, query: MetricsQuery) -> Result<(BTreeSet<String>, QueryStats), Error> {
    let mut request = QueryRequest::new(TenantId::single(), QueryKind::Metrics(query));
    request.form = AnswerForm::Plain;
    let (batches, stats) = engine.execute(request).await?.collect().await?;
    assert_eq!(stats.partial, None);
    // How wide columns are depends on all lines.
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((pretty_format_batches(&batches).unwrap().to_string().lines().map(line).collect(), stats))
}

fn query(text: &str, seconds: (i64, i64), step: i64) -> MetricsQuery {
    MetricsQuery {
        start_unix_nano: Some(FIRST + seconds.0 * SECOND),
        end_unix_nano: Some(FIRST + seconds.1 * SECOND),
        step_nano: Some(step * SECOND),
        ..MetricsQuery::new(text)
    }
}

/// Spans of the demo: in two files, or in one that was made of them, and the rest in the buffer.
async fn stored(spans: u64, is_merged: bool) -> House {
    let house = House::open().await;
    let batches = demo(spans);
    let (files, rest) = batches.split_at(batches.len() * 4 / 5);
    for part in files.chunks(files.len().div_ceil(2)) {
        for batch in part {
            house.write(batch.clone()).await;
        }
        house.ingest.flush().await.unwrap();
    }
    if is_merged {
        compact_all(&house.catalog, &house.shared_clock()).await;
    }
    for batch in rest {
        house.write(batch.clone()).await;
    }
    assert_eq!(house.files().await, if is_merged { 1 } else { 2 });
    house
}

#[tokio::test]
async fn values_are_counted_alike_in_files_and_in_memory() {
    let buffered = House::open().await;
    for batch in demo(6_000) {
        buffered.write(batch).await;
    }
    let houses = [stored(6_000, false).await, stored(6_000, true).await];
    // Where few spans are wanted, or whole traces are looked at, the scan reads the columns.
    for (text, seconds, step, is_apart) in [
        ("{ } | compare({ status = error })", (0, 30), 30, true),
        ("{ } | compare({ duration > 20ms }, 1000)", (0, 30), 1, true),
        ("{ kind = server } | compare({ status = error }, 3)", (5, 12), 2, true),
        ("{ span.http.route != nil } | compare({ }, 5)", (3, 4), 1, false),
        ("{ resource.service.name = `cart-service` } | compare({ status = error })", (0, 30), 7, false),
        ("{ } >> { kind = client } | compare({ status = error })", (0, 30), 7, false),
    ] {
        let (expected, cost) = answer_and_cost(&buffered.engine, query(text, seconds, step)).await.unwrap();
        assert!(expected.len() > 10, "{text}: {expected:#?}");
        assert_eq!(cost.chunks_apart, 0, "nothing is in files");
        for house in &houses {
            let (found, cost) = answer_and_cost(&house.engine, query(text, seconds, step)).await.unwrap();
            assert_eq!(cost.chunks_apart > 40, is_apart, "{text}: {} columns are counted by codes", cost.chunks_apart);
            let missing: Vec<_> = expected.difference(&found).take(5).collect();
            let wrong: Vec<_> = found.difference(&expected).take(5).collect();
            assert!(missing.is_empty() && wrong.is_empty(), "{text}: not {missing:#?} but {wrong:#?}");
        }
    }
}

#[tokio::test]
async fn of_stored_attributes_that_do_not_fit_into_memory_the_totals_are_there() {
    let house = stored(6_000, true).await;
    let ask = async |query_memory_bytes_max: usize| {
        let engine = QueryEngine::try_new(EngineOptions {
            limits: QueryLimits { query_memory_bytes_max, ..QueryLimits::default() },
            ..engines::options(house.ingest.live(), &house.store, house.shared_clock(), house.folder.path())
        });
        answer(&engine.unwrap(), query("{ } | compare({ status = error }, 1000)", (0, 30), 30)).await
    };
    let whole = ask(1 << 30).await.unwrap();
    let totals =
        |lines: &BTreeSet<String>| lines.iter().filter(|line| line.contains("_total")).cloned().collect::<Vec<_>>();
    // With less memory, more values are given up, and nothing else is.
    let mut last = 0;
    for kib in [280, 330, 400, 500, 600] {
        let cut = ask(kib << 10).await.unwrap();
        let (given_up, rest): (Vec<&String>, Vec<&String>) = cut.iter().partition(|line| line.contains("__meta_error"));
        assert!(
            !given_up.is_empty() && given_up.iter().all(|line| line.contains("__too_many_values__")),
            "{given_up:?}"
        );
        let is_of_whole =
            |line: &&String| whole.contains(*line) || line.starts_with(['+', '|']) && !line.contains("__meta");
        assert_eq!(rest.iter().find(|line| !is_of_whole(line)), None);
        assert_eq!(totals(&whole), totals(&cut));
        assert!(last < cut.len() && cut.len() < whole.len(), "{last} {} {}", cut.len(), whole.len());
        last = cut.len();
    }
    let refused = ask(64 << 10).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn of_an_attribute_with_too_many_values_the_spans_that_have_it_are_there() {
    let one = of_json(&plain_span(7, 1, false, 0, "shop", true));
    let rows = |first: usize| {
        let rows = take_record_batch(&one, &UInt32Array::from(vec![0; 8_192])).unwrap();
        let mut columns = rows.columns().to_vec();
        let names = (first..first + rows.num_rows()).map(|row| Some(format!("a name that no other span has: {row}")));
        columns[rows.schema().index_of(column::NAME).unwrap()] = Arc::new(names.collect::<StringArray>());
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    };
    let batches: Vec<RecordBatch> = (0..8).map(|part| rows(part * 8_192)).collect();
    let limits = QueryLimits { query_memory_bytes_max: 2 << 20, ..QueryLimits::default() };
    let engine = engine(tables(batches), limits, &std::env::temp_dir());
    let query = MetricsQuery {
        start_unix_nano: Some(START - SECOND),
        end_unix_nano: Some(START + SECOND),
        instant: true,
        ..MetricsQuery::new("{ } | compare({ status = error })")
    };
    let found = answer(&engine, query).await.unwrap();
    let of = |text: &str| found.iter().filter(|line| line.contains(text)).cloned().collect::<Vec<_>>();
    let names = of("name: nil}");
    assert!(
        names.iter().any(|line| line.contains("__meta_type: selection_total") && line.contains("65536.0")),
        "{names:?}"
    );
    assert!(of("a name that no other").is_empty());
    let kinds = of("kind: server}");
    assert!(kinds.len() == 1 && kinds[0].contains("65536.0"), "{kinds:?}");
}
