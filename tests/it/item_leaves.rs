//! Of events and links, files are read for what a question asks of them and for nothing else, and the answers are those of
//! whole ones.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::{logical_expr::ScalarUDF, prelude::SessionContext};
use object_store::{ObjectStore, memory::InMemory};
use tracehouse::{
    clock::ManualClock,
    functions::{ItemHas, ItemParts},
    ingest::WriteRequest,
    model::{
        batch::SpanBatch,
        builder::{Attribute, EventFields, LinkFields, ResourceFields, ScopeFields, SpanBatchBuilder, Value},
        ids::TraceId,
        promotion::standard,
        tenant::TenantId,
    },
    query::{EngineOptions, Explain, QueryEngine, QueryKind, TraceQlQuery},
    storage::store::Store,
};

use crate::{
    engines,
    explained_pruning::explained,
    ingest::{House, NOW, quiet},
    span_table::{StoredTable, context, store_url, write},
    support::spans::plain_span,
};

const SPANS: u64 = 2_000;

/// One span in `every` has two events and a link. The messages are what takes room; a code is an int, and text as well from
/// `mixed_from` on.
fn batch(first: u64, mixed_from: u64, every: u64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&standard());
    let service = Attribute { key: "service.name", value: Value::Str("shop") };
    let resource = builder.push_resource(&ResourceFields::default(), &[service]).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for n in first..first + SPANS {
        let span = plain_span(TraceId::from_bytes(u128::from(n + 1).to_be_bytes()), n + 1, NOW + n as i64, 5);
        let message: String = (0..20).map(|word| format!("{:x} ", scrambled(n * 20 + word))).collect();
        let code = if n >= mixed_from && n % 10 == 0 { Value::Str("five") } else { Value::Int(n as i64) };
        let told = [Attribute { key: "code", value: code }, Attribute { key: "message", value: Value::Str(&message) }];
        let kinds = [Attribute { key: "kind", value: Value::Str("timeout") }];
        let event = |name, attributes| EventFields {
            time_unix_nano: NOW as u64 + n + 2,
            name,
            attributes,
            dropped_attributes_count: 0,
        };
        let has = usize::from(n % every == 0);
        let events = [event("told", &told[..]), event("kind", &kinds[..usize::from(n % 100 == 0)])];
        let ids = (u128::from(scrambled(n)).to_be_bytes(), scrambled(n).to_be_bytes());
        let link = LinkFields {
            trace_id: &ids.0,
            span_id: &ids.1,
            trace_state: "",
            flags: 0,
            attributes: &kinds,
            dropped_attributes_count: 0,
        };
        let (events, links) = (events.into_iter().take(2 * has), std::iter::once(link).take(has));
        builder.push_span((resource, scope), &span, &[], events, links).unwrap();
    }
    builder.finish().unwrap()
}

fn scrambled(n: u64) -> u64 {
    let mixed = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// Two files, in the second of which codes are ints and texts; or the same spans in no file; or one of each.
async fn table(in_files: usize, every: u64) -> SessionContext {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (mut files, mut buffered) = (Vec::new(), Vec::new());
    for (index, first) in [0, SPANS].into_iter().enumerate() {
        let batch = batch(first, SPANS, every);
        match index < in_files {
            true => files.extend(write(store.as_ref(), &index.to_string(), &batch).await),
            false => buffered.push(Arc::new(batch)),
        }
    }
    let context = context(1, 1024);
    context.register_object_store(store_url().as_ref(), store);
    context.register_udf(ScalarUDF::from(ItemHas::default()));
    context.register_udf(ScalarUDF::from(ItemParts::default()));
    context.register_table("t", Arc::new(StoredTable { files, buffered })).unwrap();
    context
}

async fn answer(context: &SessionContext, sql: &str) -> String {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

/// The bytes that the scans of a plan read.
fn scanned(plan: &str) -> u64 {
    let number = |text: &str| {
        let mut words = text.split([',', ']']).next().unwrap().split_whitespace();
        let number: f64 = words.next().unwrap().parse().unwrap();
        let unit = match words.next() {
            Some("K") => 1e3,
            Some("M") => 1e6,
            _ => 1.0,
        };
        (number * unit) as u64
    };
    plan.split("bytes_scanned=").skip(1).map(number).sum()
}

/// The same for one output, after a look at how many spans have items.
async fn scanned_by(context: &SessionContext, output: &str) -> u64 {
    let sql = format!("EXPLAIN ANALYZE VERBOSE SELECT {output} FROM t");
    answer(context, &sql).await;
    scanned(&answer(context, &sql).await)
}

#[tokio::test]
async fn files_are_read_for_the_parts_that_are_asked_for() {
    let table = table(2, 5).await;
    let whole = scanned_by(&table, "events").await;
    let keys = scanned_by(&table, "item_has(events, 'kind')").await;
    let names = scanned_by(&table, "item_parts(events, 'field', 'name')").await;
    let kinds = scanned_by(&table, "item_parts(events, 'has', 'message')").await;
    let messages = scanned_by(&table, "item_parts(events, 'value', 'message')").await;
    let codes = scanned_by(&table, "item_parts(events, 'value', 'code')").await;
    assert!(keys * 8 < whole && names * 8 < whole && keys == kinds, "{keys} {names} {kinds} of {whole}");
    assert!(messages < whole && messages > 4 * keys, "{messages} {keys} of {whole}");
    // Codes are text in the second file alone, where the texts of messages are read along with them.
    assert!(codes < whole && keys < codes, "{codes} {keys} of {whole}");
    let first = self::table(1, 5).await;
    let (codes, messages) = (
        scanned_by(&first, "item_parts(events, 'value', 'code')").await,
        scanned_by(&first, "item_parts(events, 'value', 'message')").await,
    );
    assert!(codes * 2 < messages, "{codes} {messages}");
    // Who takes a list as it is gets all of it, whatever else is asked.
    let both = scanned_by(&table, "events, item_has(events, 'kind'), item_parts(links, 'has', 'kind')").await;
    let links = scanned_by(&table, "item_has(links, 'kind')").await;
    // The plan rounds each.
    assert!(both.abs_diff(whole + links) < whole / 100, "{both}, {whole} and {links}");
    assert!(links * 8 < scanned_by(&table, "links").await);
}

#[tokio::test]
async fn parts_are_those_of_whole_lists_wherever_spans_lie() {
    let parts = [
        ("'field', 'name'", "LIST[1]['name'], LIST[2]['name'], cardinality(LIST)"),
        ("'field', 'time_unix_nano'", "LIST[2]['time_unix_nano']"),
        ("'value', 'code'", "attr_json(LIST[1]['attributes'], 'code'), attr_int(LIST[1]['attributes'], 'code')"),
        ("'has', 'kind'", "attr_exists(LIST[2]['attributes'], 'kind'), attr_exists(LIST[1]['attributes'], 'kind')"),
        ("'value', 'kind', 'field', 'name'", "LIST[1]['name'], attr_str(LIST[2]['attributes'], 'kind')"),
        ("'value', 'nowhere'", "attr_exists(LIST[1]['attributes'], 'nowhere'), cardinality(LIST)"),
        ("'value', 'message', 'value', 'code'", "attr_str(LIST[1]['attributes'], 'message')"),
    ];
    let select = |list: &str, shown: &str, more: &str| {
        format!("SELECT id_hex(span_id), {}{more} FROM t ORDER BY span_id", shown.replace("LIST", list))
    };
    // Of few spans' events the items are kept, of many spans' they are not.
    for (every, in_files) in [(5, 0), (5, 1), (5, 2), (40, 1), (40, 2)] {
        let (buffered, table) = (table(0, every).await, table(in_files, every).await);
        for (parts, shown) in parts {
            let whole = answer(&buffered, &select("events", shown, "")).await;
            // Both columns have names of their own, so rows are compared without the head.
            let rows = |text: &str| {
                text.lines()
                    .filter(|line| line.starts_with('|'))
                    .skip(1)
                    .map(|line| line.replace(' ', ""))
                    .collect::<Vec<_>>()
            };
            let list = format!("item_parts(events, {parts})");
            let found = answer(&table, &select(&list, shown, "")).await;
            assert!(rows(&found) == rows(&whole), "{parts}, {in_files} files");
        }
        for condition in ["item_has(events, 'kind')", "NOT item_has(events, 'kind')", "item_has(links, 'kind')"] {
            let sql = format!("SELECT id_hex(span_id) FROM t WHERE {condition} ORDER BY span_id");
            let found = answer(&table, &sql).await;
            assert_eq!(found, answer(&buffered, &sql).await, "{condition}, {in_files} files");
            let sql = format!("SELECT id_hex(span_id), events, links FROM t WHERE {condition} ORDER BY span_id");
            assert_eq!(answer(&table, &sql).await, answer(&buffered, &sql).await, "{condition}, {in_files} files");
        }
    }
}

#[tokio::test]
async fn items_that_few_spans_have_are_read_once() {
    let table = table(2, 40).await;
    let has = "SELECT count(*) AS n FROM t WHERE item_has(events, 'message')";
    let first = scanned(&answer(&table, &format!("EXPLAIN ANALYZE VERBOSE {has}")).await);
    let second = scanned(&answer(&table, &format!("EXPLAIN ANALYZE VERBOSE {has}")).await);
    assert!(second == 0 && first > 0, "{first}, then {second}");
    assert!(answer(&table, has).await.contains(&format!("| {} ", 2 * SPANS / 40)));
    // Conditions that choose rows while a file is decoded stay as they are.
    for also in ["trace_id = trace_id('1')", "name <> 'op'", "kind = 'server' AND start_time_unix_nano > 5"] {
        let sql = format!("{has} AND {also}");
        assert_eq!(answer(&table, &sql).await, answer(&self::table(0, 40).await, &sql).await, "{sql}");
    }
    // A limit reads what it needs.
    let limited = "SELECT count(*) AS n FROM (SELECT events FROM t LIMIT 2500) WHERE item_has(events, 'message')";
    assert!(answer(&table, limited).await.contains("| 6"));
}

#[tokio::test]
async fn traceql_asks_events_and_links_for_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    let request = WriteRequest { batch: batch(0, 0, 5), digest: 1_u64.into(), received_unix_nano: NOW };
    house.ingest.write(&TenantId::single(), request).await.unwrap();
    house.ingest.flush().await.unwrap();
    let store = Store::local(folder.path()).unwrap();
    let clock = Arc::new(ManualClock::new(NOW));
    let options = engines::options(house.ingest.live(), &store, clock, folder.path());
    let engine = QueryEngine::try_new(EngineOptions { threads: 1, ..options }).unwrap();
    let bytes = async |text: &str| {
        let query = TraceQlQuery { explain: Some(Explain::Analyze), ..TraceQlQuery::new(text) };
        let plan = explained(&engine, QueryKind::TraceQl(query)).await;
        let scan = plan.lines().find(|line| line.contains("DataSourceExec")).unwrap();
        // The file is split among no threads; the first scan is the one that looks for witnesses.
        scanned(scan)
    };
    let messages = bytes("{ event.message = `x` }").await;
    for few in [
        "{ event.message != nil }",
        "{ event.message != nil || link.kind != nil }",
        "{ event:name = `x` }",
        "{ event.kind = nil && event:timeSinceStart > 1s }",
        "{ link:spanID = `0000000000000001` }",
        "{ link.kind = `x` }",
    ] {
        let read = bytes(few).await;
        assert!(read * 2 < messages, "{few}: {read} of {messages}");
    }
}
