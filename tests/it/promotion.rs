//! Promotion never changes an answer: any query over any division of spans into files and buffered batches, whatever each
//! of them promotes, gives what it gives over one table of whole maps.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use arrow::{
    array::{ArrayRef, Date32Array, RecordBatch},
    util::{display::FormatOptions, pretty::pretty_format_batches_with_options},
};
use datafusion::{datasource::MemTable, prelude::SessionContext};
use object_store::{ObjectStore, memory::InMemory};
use proptest::prelude::*;
use tracehouse::{
    model::{
        attributes::{AttributeScope, AttributeType},
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
        ids::{SpanId, TraceId},
        promotion::{PromotedAttribute, Promotion},
        schema::logical_schema,
    },
    storage::{
        order::date_of,
        scan::table_schema,
        stitch::stitch,
        writer::{Origin, WrittenFile, write_files},
    },
};

use crate::span_table::{StoredTable, context, put, store_url, write};

const DAY: i64 = 86_400_000_000_000;

const KEYS: [&str; 8] =
    ["service.name", "service.namespace", "http.route", "http.status_code", "user.id", "it''s", "clé", "rare"];

#[derive(Clone, Debug)]
enum Own {
    Empty,
    Str(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Json(String),
}

type Attributes = BTreeMap<usize, Own>;

#[derive(Clone, Debug)]
struct Span {
    trace: u8,
    parent: Option<u8>,
    start: i64,
    duration: i64,
    kind: i32,
    resource: usize,
    scope: usize,
    attributes: Attributes,
    part: usize,
}

#[derive(Clone, Debug)]
struct Part {
    file: bool,
    /// Scope, key and type of each promoted attribute.
    promoted: Chosen,
    /// The same for the second half of the spans, where they came under another set.
    second: Option<Chosen>,
    /// What all of them are brought under at last, as by a flush.
    target: Option<Chosen>,
    /// Whether the two halves are files first, which are stitched.
    stitched: bool,
}

type Chosen = Vec<(usize, usize, usize)>;

#[derive(Clone, Debug)]
struct World {
    resources: Vec<Attributes>,
    scopes: Vec<Attributes>,
    spans: Vec<Span>,
    parts: Vec<Part>,
    partitions: usize,
    batch_rows: usize,
    queries: Vec<(prop::sample::Index, usize, usize, usize)>,
}

fn value() -> impl Strategy<Value = Own> {
    prop_oneof![
        1 => Just(Own::Empty),
        4 => prop::sample::select(vec!["", "200", "GET", "a", "zürich", "7", "-0", "1.5", "true"]).prop_map(|text| Own::Str(text.into())),
        4 => prop::sample::select(vec![0, 7, -7, 200, 500, i64::MAX, i64::MIN, 9_007_199_254_740_993]).prop_map(Own::Int),
        2 => prop::sample::select(vec![0.0, -0.0, 1.5, 7.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]).prop_map(Own::Float),
        1 => any::<bool>().prop_map(Own::Bool),
        1 => prop::sample::select(vec!["[1,\"a\"]", "{\"b\":null}"]).prop_map(|json| Own::Json(json.into())),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    prop::collection::btree_map(0..KEYS.len() - 1, value(), 0..5)
}

fn span() -> impl Strategy<Value = Span> {
    let ids = (0..6u8, prop::option::of(0..20u8));
    let times = (0..3i64, 0..50i64, -3..500i64);
    (ids, times, 0..6i32, (0..3usize, 0..2usize), attributes(), 0..6usize).prop_map(
        |((trace, parent), (day, offset, duration), kind, (resource, scope), attributes, part)| Span {
            trace,
            parent,
            start: (day - 1) * DAY + offset,
            duration,
            kind,
            resource,
            scope,
            attributes,
            part,
        },
    )
}

fn part() -> impl Strategy<Value = Part> {
    let chosen = || prop::collection::vec((0..3usize, 0..KEYS.len(), 0..4usize), 0..10);
    (any::<bool>(), chosen(), prop::option::of(chosen()), prop::option::of(chosen()), any::<bool>())
        .prop_map(|(file, promoted, second, target, stitched)| Part { file, promoted, second, target, stitched })
}

fn world() -> impl Strategy<Value = World> {
    let data = (
        prop::collection::vec(attributes(), 3),
        prop::collection::vec(attributes(), 2),
        prop::collection::vec(span(), 0..40),
        prop::collection::vec(part(), 6),
    );
    let query = (any::<prop::sample::Index>(), 0..KEYS.len(), 0..KEYS.len(), 0..3usize);
    (data, 1..4usize, 1..9usize, prop::collection::vec(query, 6)).prop_map(
        |((resources, scopes, spans, parts), partitions, batch_rows, queries)| World {
            resources,
            scopes,
            spans,
            parts,
            partitions,
            batch_rows,
            queries,
        },
    )
}

/// Queries on the table `t`. `$k` and `$l` are keys, `$m` is a map column.
const QUERIES: &[&str] = &[
    "SELECT * FROM t",
    "SELECT count(*) FROM t",
    "SELECT span_id, attr_str($m, '$k'), attr_int($m, '$k'), attr_float($m, '$k'), attr_bool($m, '$k') FROM t",
    "SELECT span_id, attr_number($m, '$k'), attr_text($m, '$k'), attr_json($m, '$k'), attr_exists($m, '$k') FROM t",
    "SELECT span_id FROM t WHERE attr_int($m, '$k') = 200",
    "SELECT span_id FROM t WHERE attr_int($m, '$k') >= 200 AND attr_str($m, '$l') IS NULL",
    "SELECT span_id, attr_str($m, '$l') FROM t WHERE attr_str($m, '$k') IN ('200', 'GET')",
    "SELECT span_id FROM t WHERE attr_str($m, '$k') = '200' OR attr_int($m, '$l') = 7",
    "SELECT span_id FROM t WHERE NOT (attr_int($m, '$k') = 200)",
    "SELECT span_id FROM t WHERE attr_int($m, '$k') <> 200 OR attr_str($m, '$k') LIKE 'G%'",
    "SELECT span_id FROM t WHERE attr_float($m, '$k') > 1.0",
    "SELECT span_id FROM t WHERE attr_float($m, '$k') <= 0.0",
    "SELECT span_id FROM t WHERE attr_number($m, '$k') = 7",
    "SELECT span_id FROM t WHERE attr_number($m, '$k') = 9007199254740992",
    "SELECT span_id FROM t WHERE attr_number($m, '$k') BETWEEN 1 AND 300",
    "SELECT span_id FROM t WHERE $m['$k'] = '200'",
    "SELECT span_id FROM t WHERE $m['$k'] <> '7'",
    "SELECT span_id FROM t WHERE '-0' = $m['$k']",
    "SELECT span_id FROM t WHERE $m['$k'] IN ('7', 'true', '1.5', '200', '500')",
    "SELECT span_id FROM t WHERE TRY_CAST($m['$k'] AS BIGINT) > 100",
    "SELECT span_id, TRY_CAST($m['$k'] AS BIGINT) FROM t WHERE TRY_CAST($m['$k'] AS DOUBLE) < 8",
    "SELECT span_id FROM t WHERE attr_bool($m, '$k')",
    "SELECT span_id FROM t WHERE NOT attr_bool($m, '$k')",
    "SELECT span_id FROM t WHERE attr_exists($m, '$k')",
    "SELECT span_id FROM t WHERE NOT attr_exists($m, '$k') AND duration_nano > 100",
    "SELECT span_id FROM t WHERE attr_int($m, '$k') IS NULL",
    "SELECT span_id, attr_nested($m, '$k') FROM t WHERE attr_nested($m, '$l') IS NULL OR attr_int($m, '$l') > 0",
    "SELECT span_id FROM t WHERE attr_nested($m, '$k') LIKE '%a%' OR attr_str($m, '$k') = 'a'",
    "SELECT span_id, $m FROM t WHERE attr_str($m, '$k') = 'GET'",
    "SELECT span_id, attr_map_text(span_attributes), attr_keys(resource_attributes) FROM t WHERE kind = 'server'",
    "SELECT span_id, attr_text($m, lower(CASE WHEN kind = 'server' THEN '$k' ELSE '$l' END)) FROM t",
    "SELECT span_id, attr_text(CASE WHEN kind = 'client' THEN span_attributes ELSE resource_attributes END, '$k') FROM t",
    "SELECT attr_text($m, '$k') AS g, count(*), count(attr_int($m, '$l')) FROM t GROUP BY g",
    "SELECT attr_float($m, '$k') AS g, count(*) FROM t GROUP BY 1",
    "SELECT min(attr_int($m, '$k')), max(attr_int($m, '$k')), min(attr_str($m, '$l')), max(attr_text($m, '$k')) FROM t",
    "SELECT count(DISTINCT attr_json($m, '$k')) FROM t WHERE attr_exists($m, '$k') OR duration_nano < 50",
    "SELECT DISTINCT attr_str($m, '$k'), attr_int($m, '$l') FROM t",
    "SELECT kind, count(*) FILTER (WHERE attr_int($m, '$k') = 7) FROM t GROUP BY kind HAVING count(attr_str($m, '$l')) > 0",
    "SELECT span_id, attr_int($m, '$k') FROM t ORDER BY attr_int($m, '$k') DESC NULLS LAST, span_id LIMIT 3",
    "SELECT span_id FROM t ORDER BY attr_str($m, '$k') NULLS FIRST, attr_number($m, '$l') DESC, span_id LIMIT 5",
    "SELECT span_id, $m FROM t ORDER BY start_time_unix_nano DESC, span_id LIMIT 4",
    "SELECT span_id FROM t WHERE attr_int($m, '$k') > 0 ORDER BY start_time_unix_nano, span_id LIMIT 2",
    "SELECT a.span_id, b.span_id, attr_text(b.$m, '$k') FROM t a LEFT JOIN t b ON a.parent_span_id = b.span_id",
    "SELECT a.span_id, attr_exists(b.$m, '$k'), b.$m FROM t a LEFT JOIN t b ON a.parent_span_id = b.span_id AND attr_int(b.$m, '$l') > 0",
    "SELECT a.span_id FROM t a JOIN t b ON attr_text(a.$m, '$k') = attr_text(b.$m, '$l') AND a.trace_id = b.trace_id",
    "SELECT a.span_id FROM t a JOIN t b ON attr_int(a.$m, '$k') = attr_int(b.$m, '$k')",
    "SELECT span_id FROM t WHERE trace_id IN (SELECT trace_id FROM t WHERE attr_str($m, '$k') = 'GET')",
    "WITH c AS (SELECT *, attr_text($m, '$k') AS k FROM t) SELECT x.span_id, attr_json(x.$m, '$l') FROM c x JOIN c y ON x.k = y.k WHERE y.kind = 'server'",
    "WITH c AS (SELECT span_id, $m AS m FROM t ORDER BY span_id LIMIT 10) SELECT span_id, attr_text(m, '$k'), m FROM c WHERE attr_exists(m, '$l')",
    "SELECT attr_text(m, '$k') FROM (SELECT $m AS m FROM t UNION ALL SELECT resource_attributes FROM t)",
    "SELECT span_id, row_number() OVER (PARTITION BY attr_str($m, '$k') ORDER BY attr_int($m, '$l'), span_id) FROM t",
    "SELECT span_id, lag(attr_text($m, '$k')) OVER (ORDER BY id_hex(span_id)) FROM t",
    "SELECT count(*) FROM (SELECT $m FROM t WHERE date = DATE '1970-01-01' LIMIT 3)",
    "SELECT date, min(start_time_unix_nano), max(duration_nano), count(attr_text($m, '$k')) FROM t GROUP BY date",
    "SELECT span_id, date FROM t WHERE date >= DATE '1970-01-01' AND start_time_unix_nano < 20",
    "SELECT span_id FROM t WHERE date <> DATE '1969-12-31' AND attr_int($m, '$k') = 200",
    "SELECT span_id, attr_text($m, '$k') FROM t WHERE trace_id = trace_id('02')",
    "SELECT id_hex(span_id), $m FROM t WHERE id_hex(trace_id) = '02020202020202020202020202020202' AND attr_number($m, '$k') >= 7",
    "SELECT kind FROM t WHERE id_hex(span_id) IN ('0000000000000001', '0000000000000002', 'x') AND attr_text($m, '$k') IS NOT NULL",
    "SELECT count(attr_int(e.s, 'n')), attr_str($m, '$k') FROM (SELECT $m, $m AS s FROM t) e GROUP BY 2",
    "SELECT CASE WHEN attr_int($m, '$k') > 10 THEN 'big' WHEN attr_exists($m, '$k') THEN 'some' ELSE 'none' END, count(*) FROM t GROUP BY 1",
    "SELECT coalesce(attr_str($m, '$k'), CAST(attr_int($m, '$k') AS VARCHAR)), attr_text($m, '$k') || attr_text($m, '$l') FROM t",
];

fn promotion(chosen: &Chosen) -> Arc<Promotion> {
    use AttributeScope::{Resource, Scope};
    use AttributeType::{Bool, Float, Int, Str};
    let attribute = |(scope, key, value_type): &(usize, usize, usize)| {
        let scope = [Resource, Scope, AttributeScope::Span][*scope];
        PromotedAttribute::new(scope, &key_text(*key), [Str, Int, Float, Bool][*value_type])
    };
    Arc::new(Promotion::new(chosen.iter().map(attribute)))
}

/// Keys are written as they stand in SQL.
fn key_text(key: usize) -> String {
    KEYS[key].replace("''", "'")
}

fn batch(world: &World, spans: &[(usize, &Span)], promotion: &Arc<Promotion>) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(promotion);
    let with = |attributes: &Attributes, push: &mut dyn FnMut(&[Attribute<'_>])| {
        let keys: Vec<String> = attributes.keys().map(|key| key_text(*key)).collect();
        let borrowed: Vec<Attribute<'_>> = keys
            .iter()
            .zip(attributes.values())
            .map(|(key, own)| Attribute {
                key,
                value: match own {
                    Own::Empty => Value::Empty,
                    Own::Str(text) => Value::Str(text),
                    Own::Int(int) => Value::Int(*int),
                    Own::Float(float) => Value::Float(*float),
                    Own::Bool(bool) => Value::Bool(*bool),
                    Own::Json(json) => Value::Json(json.into()),
                },
            })
            .collect();
        push(&borrowed);
    };
    let mut resources = Vec::new();
    for attributes in &world.resources {
        with(attributes, &mut |attributes| {
            resources.push(builder.push_resource(&ResourceFields::default(), attributes).unwrap());
        });
    }
    let mut scopes = Vec::new();
    for (n, attributes) in world.scopes.iter().enumerate() {
        let scope = ScopeFields { name: ["", "lib"][n], ..ScopeFields::default() };
        with(attributes, &mut |attributes| scopes.push(builder.push_scope(&scope, attributes).unwrap()));
    }
    for (id, span) in spans {
        let span_id = |id: usize| SpanId::from_bytes((id as u64 + 1).to_be_bytes());
        let fields = SpanFields {
            trace_id: TraceId::from_bytes([span.trace; 16]),
            span_id: span_id(*id),
            parent_span_id: span.parent.map(|parent| span_id(parent.into())),
            trace_state: "",
            flags: 0,
            name: "op",
            kind: span.kind,
            status_code: 0,
            status_message: "",
            start_time_unix_nano: span.start,
            duration_nano: span.duration,
            dropped_attributes_count: 0,
            dropped_events_count: 0,
            dropped_links_count: 0,
        };
        with(&span.attributes, &mut |attributes| {
            let rows = (resources[span.resource], scopes[span.scope]);
            builder.push_span(rows, &fields, attributes, [].into_iter(), [].into_iter()).unwrap();
        });
    }
    builder.finish().unwrap()
}

/// Spans as they are stored, divided into parts.
async fn stored(world: &World) -> SessionContext {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut table = StoredTable { files: Vec::new(), buffered: Vec::new() };
    for (n, part) in world.parts.iter().enumerate() {
        let spans: Vec<_> = world.spans.iter().enumerate().filter(|(_, span)| span.part == n).collect();
        let (before, after) = spans.split_at(if part.second.is_some() { spans.len() / 2 } else { spans.len() });
        let second = part.second.as_ref().unwrap_or(&part.promoted);
        let origin = if n % 2 == 0 { Origin::Flushed } else { Origin::Merged };
        let batches = [batch(world, before, &promotion(&part.promoted)), batch(world, after, &promotion(second))];
        if part.file && part.stitched {
            let mut days: BTreeMap<i32, Vec<WrittenFile>> = BTreeMap::new();
            for file in batches.iter().flat_map(|batch| write_files(std::slice::from_ref(batch), origin).unwrap()) {
                days.entry(file.date).or_default().push(file);
            }
            // Columns of two types do not come together in one table.
            if let Ok(files) = days.into_values().map(stitch).collect::<Result<Vec<_>, _>>() {
                for file in files {
                    table.files.push(put(store.as_ref(), &format!("part {n}"), file).await);
                }
                continue;
            }
        }
        let mut batch = SpanBatch::concat(&batches).unwrap();
        if let Some(target) = &part.target {
            batch = batch.promoted_as(&promotion(target)).unwrap();
        }
        if !part.file {
            table.buffered.push(Arc::new(batch));
            continue;
        }
        for mut file in write(store.as_ref(), &format!("part {n}"), &batch).await {
            if n % 2 == 0 {
                (file.rows, file.start_time_range) = (None, None);
            }
            table.files.push(file);
        }
    }
    let context = context(world.partitions, world.batch_rows);
    context.register_object_store(store_url().as_ref(), store);
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

/// The same spans in one table without promotion.
fn plain(world: &World) -> SessionContext {
    let spans: Vec<_> = world.spans.iter().enumerate().collect();
    let batch = batch(world, &spans, &Arc::new(Promotion::default()));
    let rows = batch.flatten(&logical_schema()).unwrap();
    let dates = batch.start_times().values().iter().map(|start| date_of(*start));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Date32Array::from_iter_values(dates)) as ArrayRef);
    let rows = RecordBatch::try_new(table_schema(), columns).unwrap();
    let context = context(1, 8192);
    context.register_table("t", Arc::new(MemTable::try_new(table_schema(), vec![vec![rows]]).unwrap())).unwrap();
    context
}

/// The rows of an answer, in order if the query asks for one.
async fn answer(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = match context.sql(sql).await {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    let batches = match batches {
        Ok(batches) => batches,
        Err(error) => return vec![format!("{sql}\n{error}")],
    };
    let table = pretty_format_batches_with_options(&batches, &FormatOptions::default().with_null("NULL")).unwrap();
    let mut rows: Vec<String> = table
        .to_string()
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    if !sql.contains("ORDER BY") || sql.contains("OVER") || sql.starts_with("WITH") {
        rows.sort();
    }
    rows
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn explain(context: &SessionContext, sql: &str) -> String {
    let batches = context.sql(&format!("EXPLAIN {sql}")).await.unwrap().collect().await.unwrap();
    pretty_format_batches_with_options(&batches, &FormatOptions::default()).unwrap().to_string()
}

async fn compare(stored: &SessionContext, plain: &SessionContext, sql: &str) -> Result<(), String> {
    let (actual, expected) = (answer(stored, sql).await, answer(plain, sql).await);
    if actual == expected {
        return Ok(());
    }
    let mut message = String::new();
    write!(message, "{sql}\nstored: {actual:#?}\nplain: {expected:#?}\n{}", explain(stored, sql).await).unwrap();
    Err(message)
}

fn query(template: &str, key: usize, other: usize, map: usize) -> String {
    let map = ["span_attributes", "resource_attributes", "scope_attributes"][map];
    template.replace("$k", KEYS[key]).replace("$l", KEYS[other]).replace("$m", map)
}

/// 64 cases unless `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases: 64, ..config },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn bringing_spans_under_other_sets_loses_nothing_and_leaves_no_wanted_value_in_a_map(world in world()) {
        let spans: Vec<_> = world.spans.iter().enumerate().collect();
        let plain = batch(&world, &spans, &Arc::new(Promotion::default()));
        let mut there = plain.clone();
        for part in &world.parts {
            let target = promotion(part.target.as_ref().unwrap_or(&part.promoted));
            there = there.promoted_as(&target).unwrap();
            for count in tracehouse::model::keys::residual_counts(std::slice::from_ref(&there)) {
                let in_column = target.get(count.scope, &count.key).map(|attribute| attribute.value_type as usize);
                prop_assert!(in_column.is_none_or(|value_type| count.by_type[value_type] == 0), "{count:?}");
            }
            let keys = there.keys();
            for (scope, key, key_use) in plain.keys().iter() {
                prop_assert_eq!(keys.scope(scope).keys[key].types(), key_use.types());
            }
        }
        let back = there.promoted_as(&Promotion::default()).unwrap();
        prop_assert_eq!(back.flatten(&logical_schema()).unwrap(), plain.flatten(&logical_schema()).unwrap());
    }

    #[test]
    fn promotion_never_changes_an_answer(world in world()) {
        runtime().block_on(async {
            let (stored, plain) = (stored(&world).await, plain(&world));
            for (template, key, other, map) in &world.queries {
                let sql = query(QUERIES[template.index(QUERIES.len())], *key, *other, *map);
                if let Err(message) = compare(&stored, &plain, &sql).await {
                    return Err(TestCaseError::fail(message));
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn every_query_of_the_property_runs() {
    let world = World {
        resources: vec![Attributes::from([(0, Own::Str("shop".into()))]); 3],
        scopes: vec![Attributes::new(); 2],
        spans: (0..12)
            .map(|n| Span {
                trace: n % 3,
                parent: (n > 0).then_some(n / 2),
                start: i64::from(n),
                duration: 100,
                kind: 2,
                resource: 0,
                scope: 1,
                attributes: Attributes::from([(2, Own::Str("GET".into())), (3, Own::Int(200))]),
                part: usize::from(n) % 2,
            })
            .collect(),
        parts: vec![
            Part {
                file: true,
                promoted: vec![(2, 2, 0), (2, 3, 1), (0, 0, 0)],
                second: Some(vec![(2, 3, 0)]),
                target: None,
                stitched: true,
            },
            Part {
                file: false,
                promoted: vec![(2, 3, 1)],
                second: None,
                target: Some(vec![(2, 2, 0)]),
                stitched: false,
            },
        ],
        partitions: 2,
        batch_rows: 4,
        queries: Vec::new(),
    };
    runtime().block_on(async {
        let (stored, plain) = (stored(&world).await, plain(&world));
        for template in QUERIES {
            let sql = query(template, 3, 2, 0);
            compare(&stored, &plain, &sql).await.unwrap();
            let rows = answer(&stored, &sql).await;
            assert!(!rows.iter().any(|row| row.contains(&sql)), "{rows:?}");
        }
    });
}
