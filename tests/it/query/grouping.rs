//! Grouping by ids and by stored text: whatever stands for them inside, the groups are those of the text.

use tracehouse::model::{
    batch::SpanBatch,
    builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
    ids::{SpanId, TraceId},
    promotion,
};

use crate::{maintain::house::House, query::data::START};

const SPANS: u64 = 1_000;

/// Spans with few services, one of which has no name, some routes, and a path of their own each, more than fit in a
/// dictionary. Texts come in another order in each batch.
fn spans(batch: u64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let services = ["cart", "shop", "payment", ""];
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    let resources: Vec<_> = (0..services.len() as u64)
        .map(|number| {
            let name = services[((number + batch) % services.len() as u64) as usize];
            let named = [Attribute { key: "service.name", value: Value::Str(name) }];
            let attributes = if name.is_empty() { &[][..] } else { &named[..] };
            builder.push_resource(&ResourceFields::default(), attributes).unwrap()
        })
        .collect();
    for number in 0..SPANS {
        let route = format!("/route/{}", (number + batch) % 7);
        let path = format!("/a/rather/long/path/of/which/there/are/many/{}", (number * 7 + batch) % SPANS);
        let mut attributes = vec![Attribute { key: "url.path", value: Value::Str(&path) }];
        match number % 5 {
            0 => {}
            // The same key with another type is the same text to a subscript, and none to attr_str.
            1 => attributes.push(Attribute { key: "http.route", value: Value::Int((number % 3) as i64) }),
            _ => attributes.push(Attribute { key: "http.route", value: Value::Str(&route) }),
        }
        let fields = SpanFields {
            trace_id: TraceId::from_bytes(u128::from(number / 4 + 1).to_be_bytes()),
            span_id: SpanId::from_bytes((batch * SPANS + number + 1).to_be_bytes()),
            parent_span_id: (number % 4 > 0).then(|| SpanId::from_bytes((batch * SPANS + number).to_be_bytes())),
            trace_state: "",
            flags: 0,
            name: ["get", "put", "a name that is longer than twelve bytes"][(number % 3) as usize],
            kind: (number % 4) as i32 + 1,
            status_code: (number % 11 == 0) as i32 * 2,
            status_message: "",
            start_time_unix_nano: START + number as i64 * 1_000_000,
            duration_nano: number as i64,
            dropped_attributes_count: 0,
            dropped_events_count: 0,
            dropped_links_count: 0,
        };
        let (events, links) = (std::iter::empty(), std::iter::empty());
        let resource = resources[(number % 4) as usize];
        builder.push_span((resource, scope), &fields, &attributes, events, links).unwrap();
    }
    builder.finish().unwrap()
}

/// Keys of groups.
const KEYS: &[&[&str]] = &[
    &["service_name"],
    &["trace_id"],
    &["parent_span_id"],
    &["kind", "status_code"],
    &["trace_id", "service_name", "duration_nano % 3"],
    &["span_attributes['http.route']"],
    &["attr_str(span_attributes, 'http.route')", "name"],
    &["span_attributes['url.path']", "kind"],
    &["service_name", "name", "kind", "status_code", "span_attributes['http.route']", "scope_name"],
    &["span_attributes['http.route']", "trace_id"],
];

/// What is asked of each group.
const ASKED: &str = "count(*) AS a, count(DISTINCT trace_id) AS b, count(DISTINCT span_id) AS c, sum(duration_nano) AS d, \
                     min(trace_id) AS e, count(parent_span_id) AS f, \
                     approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_nano) >= 0 AS g, \
                     count(*) FILTER (WHERE status_code = 'error' AND duration_nano > 10) AS h, \
                     sum(CASE WHEN service_name IN ('cart', 'shop') THEN 1 ELSE 0 END) AS i, \
                     count(*) FILTER (WHERE attr_str(span_attributes, 'http.route') <> '/route/3') AS j, \
                     count(*) FILTER (WHERE span_attributes['http.route'] = '1') AS k";

async fn check(house: &House) {
    for keys in KEYS {
        let numbers = (1..=keys.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        let named = keys.iter().enumerate().map(|(number, key)| format!("{key} AS key_{number}"));
        let keys = named.collect::<Vec<_>>().join(", ");
        for condition in ["true", "kind = 'server'", "service_name <> 'cart' AND duration_nano > 100", "trace_id > '1'"]
        {
            let grouped = |table: &str| {
                format!("SELECT {keys}, {ASKED} FROM {table} WHERE {condition} GROUP BY {numbers} ORDER BY {numbers}")
            };
            // Text that is computed, and rows from which no rule can tell where text comes from, have no other form inside.
            let plain = "(SELECT * FROM spans UNION ALL SELECT * FROM spans WHERE duration_nano < -1)";
            assert_eq!(
                house.sql(&grouped("spans")).await,
                house.sql(&grouped(plain)).await,
                "{keys} where {condition}"
            );
        }
    }
}

#[tokio::test]
async fn groups_are_the_same_in_memory_in_files_and_in_both() {
    let house = House::open().await;
    house.write(spans(0)).await;
    check(&house).await;
    house.ingest.flush().await.unwrap();
    check(&house).await;
    house.store(spans(1)).await;
    house.write(spans(2)).await;
    check(&house).await;
}

#[tokio::test]
async fn ids_and_stored_text_are_grouped_in_another_form_and_computed_text_is_not() {
    let house = House::open().await;
    house.store(spans(0)).await;
    let plan = house.sql("EXPLAIN SELECT trace_id, service_name, count(*) FROM spans GROUP BY 1, 2").await;
    assert!(plan.contains("id_number("), "{plan}");
    // The scan makes the keys, and reads no text, with a computed key and a condition beside them as well.
    for text in [
        "SELECT service_name, status_code, count(*) FROM spans GROUP BY 1, 2",
        "SELECT service_name, span_attributes['http.route'] AS route, date_bin(INTERVAL '5 minutes', start_time) AS t, \
         count(*) FROM spans WHERE kind = 'server' GROUP BY 1, 2, 3",
        "SELECT name, n FROM (SELECT name, count(*) AS n FROM (SELECT * FROM spans WHERE duration_nano > 3) GROUP BY 1)",
        "SELECT a.name, b.kind, count(*) FROM spans a JOIN spans b ON a.span_id = b.parent_span_id GROUP BY 1, 2",
        "SELECT a.name, count(b.kind) FROM spans a LEFT JOIN spans b ON a.span_id = b.parent_span_id GROUP BY 1",
    ] {
        let plan = house.sql(&format!("EXPLAIN {text}")).await;
        let scans = plan.lines().filter(|line| line.contains("DataSourceExec"));
        assert!(scans.clone().any(|scan| scan.contains("projection=[text_key(")), "{plan}");
        assert!(
            scans.into_iter().all(|scan| !scan.contains("attr_str(") || scan.contains("text_key(attr_str(")),
            "{plan}"
        );
    }
    let plan = house.sql("EXPLAIN SELECT upper(name), count(DISTINCT lower(trace_id)) FROM spans GROUP BY 1").await;
    assert!(!plan.contains("text_key(") && !plan.contains("id_number("), "{plan}");
    let plan = house.sql("EXPLAIN SELECT trace_id, kind, count(*) FROM spans GROUP BY ROLLUP (trace_id, kind)").await;
    assert!(!plan.contains("text_key(") && !plan.contains("id_number("), "{plan}");
}

#[tokio::test]
async fn stored_text_is_compared_where_it_is_read_and_comes_out_of_no_scan_for_it() {
    let house = House::open().await;
    // A file for each of two threads: with one alone, what is computed is computed above what spreads its rows.
    house.store(spans(0)).await;
    house.store(spans(1)).await;
    for text in [
        "SELECT count(*) FROM spans WHERE kind = 'server' AND service_name <> 'cart'",
        "SELECT count(*) FILTER (WHERE status_code = 'error') FROM spans",
        "SELECT duration_nano % 3, sum(CASE WHEN kind = 'server' THEN 1 ELSE 0 END) FROM spans WHERE name LIKE 'g%' GROUP BY 1",
        "SELECT count(*) FILTER (WHERE a.kind = 'client' AND b.kind IN ('server', 'client', 'producer', 'consumer')) \
         FROM spans a JOIN spans b ON a.span_id = b.parent_span_id",
    ] {
        let plan = house.sql(&format!("EXPLAIN {text}")).await;
        let (_, operators) = plan.split_once("physical_plan").unwrap();
        let outputs =
            operators.lines().filter_map(|line| line.split_once("projection=[")?.1.split_once("], file_type"));
        for (outputs, _) in outputs {
            let text = outputs.split(", ").find(|output| ["kind", "name", "status_code"].contains(output));
            assert_eq!(text, None, "text comes out of a scan: {plan}");
        }
        assert!(!operators.contains("FilterExec"), "{plan}");
    }
}

#[tokio::test]
async fn conditions_on_groups_still_choose_what_is_read() {
    let house = House::open().await;
    house.store(spans(0)).await;
    let id = format!("{:032x}", 5);
    let text = format!("SELECT trace_id, service_name, count(*) FROM spans GROUP BY 1, 2 HAVING trace_id = '{id}'");
    let plan = house.sql(&format!("EXPLAIN {text}")).await;
    let scan = plan.lines().find(|line| line.contains("DataSourceExec")).unwrap();
    assert!(scan.contains("predicate=trace_id"), "{plan}");
    assert_eq!(house.count(&format!("SELECT count(*) FROM ({text})")).await, 4);
}
