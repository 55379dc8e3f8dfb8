//! Ten thousand statements that mean harm, made from a seed: none may write, read a file, panic, or outgrow its limits.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{AsArray, RecordBatch};
use futures::{StreamExt, TryStreamExt, stream};
use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tracehouse::{
    error::{Error, ErrorKind},
    query::{QueryEngine, QueryLimits},
};

use crate::query::data::{engine, spans, sql, tables};

/// What no answer may contain: the contents of a file beside the data.
const CANARY: &str = "canary-5f2c91";

const STATEMENTS: usize = 10_000;
const TIMEOUT: Duration = Duration::from_millis(500);
const MEMORY_BYTES: usize = 48 << 20;

/// What a statement is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Intent {
    /// Changes something: never runs.
    Write,
    /// Reads a file or an address: never runs.
    Steal,
    /// Calls a function with what it does not expect.
    Call,
    /// A good statement with its words shuffled, doubled or gone.
    Soup,
    /// Asks for more than there is.
    Bomb,
}

struct Seeds {
    functions: Vec<(String, String)>,
    valid: Vec<String>,
    canary: String,
}

fn pick<'a, T: ?Sized>(random: &mut impl Rng, from: &[&'a T]) -> &'a T {
    from.choose(random).unwrap()
}

fn write(random: &mut impl Rng, seeds: &Seeds) -> String {
    let path = &seeds.canary;
    let target = pick(random, &["spans", "traces", "system.files", "information_schema.tables", "x", "\"spans\""]);
    let query =
        pick(random, &["SELECT * FROM spans", "SELECT 1", "VALUES (1)", "WITH a AS (SELECT 1) SELECT * FROM a"]);
    let verbs = [
        format!("DROP TABLE {target}"),
        format!("DROP VIEW IF EXISTS {target} CASCADE"),
        format!("CREATE TABLE {target} AS {query}"),
        format!("CREATE OR REPLACE VIEW {target} AS {query}"),
        format!("CREATE EXTERNAL TABLE y STORED AS CSV LOCATION '{path}'"),
        format!("CREATE UNBOUNDED EXTERNAL TABLE y STORED AS PARQUET LOCATION '{path}'"),
        format!("INSERT INTO {target} {query}"),
        format!("INSERT OVERWRITE {target} {query}"),
        format!("UPDATE {target} SET name = 'x'"),
        format!("DELETE FROM {target} WHERE true"),
        format!("TRUNCATE TABLE {target}"),
        format!("MERGE INTO {target} USING spans ON true WHEN MATCHED THEN DELETE"),
        format!("COPY {target} TO '{path}.parquet'"),
        format!("COPY ({query}) TO '{path}' STORED AS CSV"),
        format!("SELECT * INTO {target} FROM spans"),
        format!("ALTER TABLE {target} ADD COLUMN c INT"),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "SET datafusion.catalog.location = '/'".to_owned(),
        "RESET ALL".to_owned(),
        format!("PREPARE p AS {query}"),
        "EXECUTE p(1)".to_owned(),
        "DEALLOCATE p".to_owned(),
        "BEGIN".to_owned(),
        "COMMIT".to_owned(),
        format!("CREATE FUNCTION f() RETURNS INT LANGUAGE c AS '{path}'"),
        "CALL system.compact()".to_owned(),
        "VACUUM".to_owned(),
        "ATTACH DATABASE 'x' AS y".to_owned(),
        format!("LOAD DATA INPATH '{path}' INTO TABLE spans"),
        "INSTALL httpfs".to_owned(),
        "GRANT ALL ON spans TO public".to_owned(),
        format!("{query}; DROP TABLE {target}"),
        format!("EXPLAIN ANALYZE INSERT INTO {target} {query}"),
        format!("WITH w AS (INSERT INTO {target} {query} RETURNING *) SELECT * FROM w"),
        format!("SELECT * FROM spans WHERE name IN (DELETE FROM {target} RETURNING name)"),
        format!("{query} FOR UPDATE"),
    ];
    let statement = verbs.choose(random).unwrap().clone();
    disguised(random, &statement)
}

fn steal(random: &mut impl Rng, seeds: &Seeds) -> String {
    let path = &seeds.canary;
    let places = [
        path.clone(),
        "/etc/passwd".to_owned(),
        "../../../../etc/passwd".to_owned(),
        format!("file://{path}"),
        "s3://bucket/key.parquet".to_owned(),
        "http://127.0.0.1:1/x.csv".to_owned(),
        "/proc/self/environ".to_owned(),
        format!("{}/*", Path::new(path).parent().unwrap().display()),
        ".".to_owned(),
    ];
    let place = places.choose(random).unwrap();
    let function = pick(
        random,
        &[
            "read_parquet",
            "read_csv",
            "read_json",
            "read_text",
            "read_blob",
            "parquet_scan",
            "glob",
            "parquet_metadata",
            "load_extension",
            "pg_read_file",
            "file",
            "url",
            "s3",
            "delta_scan",
            "iceberg_scan",
            "sniff_csv",
            "readfile",
            "metadata_cache",
            "list_files_cache",
            "statistics_cache",
        ],
    );
    let statements = [
        format!("SELECT * FROM '{place}'"),
        format!("SELECT * FROM \"{place}\""),
        format!("SELECT * FROM `{place}`"),
        format!("SELECT * FROM {function}('{place}')"),
        format!("SELECT {function}('{place}') FROM spans"),
        format!("SELECT * FROM spans JOIN '{place}' ON true"),
        format!("SELECT * FROM spans, LATERAL {function}('{place}')"),
        format!("SELECT (SELECT count(*) FROM '{place}')"),
        format!("SELECT * FROM other.public.{function}"),
        format!("SELECT * FROM TABLE({function}('{place}'))"),
        format!("DESCRIBE '{place}'"),
        format!("SHOW CREATE TABLE \"{place}\""),
        format!("EXPLAIN SELECT * FROM '{place}'"),
        format!("TABLE \"{place}\""),
        "SELECT * FROM physical_spans".to_owned(),
        "SELECT * FROM physical_keys".to_owned(),
        "SELECT * FROM tracehouse.physical_spans".to_owned(),
        format!("WITH x AS (SELECT * FROM '{place}') SELECT * FROM x"),
        format!("SELECT * FROM spans UNION ALL SELECT * FROM \"{place}\""),
    ];
    let statement = statements.choose(random).unwrap().clone();
    disguised(random, &statement)
}

/// The same statement in other letters, with comments and blanks.
fn disguised(random: &mut impl Rng, statement: &str) -> String {
    let mut quoted = None;
    let mut out = String::new();
    for c in statement.chars() {
        match quoted {
            Some(quote) if quote == c => quoted = None,
            None if "'\"`".contains(c) => quoted = Some(c),
            _ => {}
        }
        match c {
            ' ' if quoted.is_none() => out.push_str(pick(random, &[" ", " ", " ", "\n", "\t", "/* ; */", " -- x\n"])),
            _ if quoted.is_none() && random.random_bool(0.3) => out.extend(c.to_lowercase()),
            _ => out.push(c),
        }
    }
    out
}

const VALUES: &[&str] = &[
    "NULL",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775807 - 1",
    "1e308",
    "-1e308",
    "CAST('NaN' AS DOUBLE)",
    "0.5",
    "''",
    "'x'",
    "'%'",
    "'((('",
    "'[a-'",
    "'\\'",
    "'{\"a\": [1, {\"b\": null}]}'",
    "'[[[['",
    "'yyyy'",
    "'P1D'",
    "'/etc/passwd'",
    "'9999999999999999999999'",
    "'\u{1f980}\u{301}'",
    "X'00ff'",
    "true",
    "DATE '0001-01-01'",
    "DATE '9999-12-31'",
    "TIMESTAMP '9999-12-31T23:59:59'",
    "TIMESTAMP '1677-09-21T00:12:44'",
    "INTERVAL '1000000' YEAR",
    "INTERVAL '-1' MONTH",
    "make_array(1, NULL)",
    "make_array()",
    "make_array(make_array('a'))",
    "named_struct('a', 1)",
    "MAP {'a': 1}",
    "span_attributes",
    "resource_attributes",
    "events",
    "links",
    "trace_id",
    "name",
    "duration_nano",
    "start_time",
    "date",
    "CAST(1 AS DECIMAL(38, 10))",
    "arrow_cast('x', 'LargeUtf8')",
    "arrow_cast(1, 'UInt8')",
    "arrow_cast('a', 'Dictionary(Int32, Utf8)')",
    "sketch_count(NULL)",
];

fn call(random: &mut impl Rng, seeds: &Seeds) -> String {
    let (kind, name) = seeds.functions.choose(random).unwrap();
    let arguments: Vec<&str> = (0..random.random_range(0..5)).map(|_| pick(random, VALUES)).collect();
    let arguments = arguments.join(", ");
    match kind.as_str() {
        "aggregate" => format!("SELECT kind, {name}({arguments}) FROM spans GROUP BY kind"),
        "window" => format!("SELECT {name}({arguments}) OVER (PARTITION BY kind ORDER BY start_time) FROM spans"),
        "table" => format!("SELECT * FROM {name}({arguments}) LIMIT 10"),
        _ => format!("SELECT {name}({arguments}) FROM spans LIMIT 3"),
    }
}

fn soup(random: &mut impl Rng, seeds: &Seeds) -> String {
    let mut words: Vec<&str> =
        seeds.valid.choose(random).unwrap().split_inclusive([' ', '(', ')', ',', '\n']).collect();
    let other: Vec<&str> = seeds.valid.choose(random).unwrap().split_inclusive([' ', '(', ')', ',']).collect();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..words.len());
        match random.random_range(0..6) {
            0 => {
                words.remove(at);
            }
            1 => words.insert(at, words[at]),
            2 => words.insert(at, other[random.random_range(0..other.len())]),
            3 => words.swap(at, 0),
            4 => words.insert(at, pick(random, VALUES)),
            _ => words.insert(
                at,
                pick(random, &[")", "(", "'", "\"", ";", "--", "/*", "$1", "?", "\0", "::", "[", "{", "->"]),
            ),
        }
        if words.is_empty() {
            words.push("SELECT");
        }
    }
    words.concat()
}

fn bomb(random: &mut impl Rng) -> String {
    let n = random.random_range(1_000_000u64..1_000_000_000_000);
    let bombs = [
        format!("SELECT repeat('x', {n})"),
        format!("SELECT lpad('x', {})", n.min(2_000_000_000)),
        format!("SELECT count(*) FROM generate_series(1, {n}) a, generate_series(1, {n}) b"),
        format!("SELECT array_agg(value) FROM generate_series(1, {n})"),
        format!("SELECT string_agg(repeat('x', 1000), ',') FROM generate_series(1, {n})"),
        format!("SELECT value, count(*) FROM generate_series(1, {n}) GROUP BY value"),
        format!("SELECT * FROM generate_series(1, {n}) ORDER BY value DESC"),
        "SELECT count(*) FROM spans a, spans b, spans c, spans d, spans e, spans f, spans g, spans h, spans i"
            .to_owned(),
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT * FROM r".to_owned(),
        "WITH RECURSIVE r AS (SELECT 'x' AS x UNION ALL SELECT x || x FROM r) SELECT max(length(x)) FROM r".to_owned(),
        format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1{}", " + 1".repeat(9_000)),
        format!("SELECT duration_nano{} FROM spans", " + 1".repeat(300)),
        format!("SELECT name{} FROM spans", " || name".repeat(200)),
        format!("SELECT {}", "NOT ".repeat(9_000)),
        format!("SELECT {}", vec!["spans.*"; 3_000].join(", ") + " FROM spans"),
        format!("SELECT sum(value) OVER (ORDER BY value) FROM generate_series(1, {n})"),
        "SELECT regexp_replace(repeat('a', 100000), '', repeat('b', 100000), 'g')".to_owned(),
        "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))".to_owned(),
        format!("SELECT regexp_like(repeat('a', 5000), '{}')", "(a*)*".repeat(50)),
        format!("SELECT regexp_like('a', '{}')", "((((a{100}){100}){100}){100})"),
        format!("SELECT sketch(value) FROM generate_series(1, {n})"),
        format!("SELECT approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY value) FROM generate_series(1, {n})"),
        format!("SELECT DISTINCT value FROM generate_series(1, {n})"),
    ];
    bombs.choose(random).unwrap().clone()
}

fn statement(random: &mut ChaCha8Rng, seeds: &Seeds) -> (Intent, String) {
    match random.random_range(0..1_000) {
        0..450 => (Intent::Write, write(random, seeds)),
        450..750 => (Intent::Steal, steal(random, seeds)),
        750..900 => (Intent::Soup, soup(random, seeds)),
        900..994 => (Intent::Call, call(random, seeds)),
        _ => (Intent::Bomb, bomb(random)),
    }
}

/// Whether the error says that code was left in a hurry.
fn is_panic(error: &Error) -> bool {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    source.contains("panicked")
}

/// What is wrong with the outcome of a statement.
async fn fault(engine: &QueryEngine, intent: Intent, statement: &str) -> Option<String> {
    let started = Instant::now();
    let outcome = async {
        let mut stream = engine.execute(sql(statement)).await?;
        let mut batches: Vec<RecordBatch> = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            batches.push(batch);
        }
        Ok::<_, Error>((batches, stream.stats()))
    };
    let outcome = outcome.await;
    let elapsed = started.elapsed();
    // Waiting for a place among the running queries is bounded by the same limit.
    if elapsed > 4 * TIMEOUT + Duration::from_secs(20) {
        return Some(format!("took {elapsed:?}"));
    }
    match outcome {
        Err(error) if is_panic(&error) => {
            Some(format!("panicked: {:?}", std::error::Error::source(&error).unwrap().to_string()))
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => Some(format!("{error}")),
        Err(_) => None,
        Ok(_) if matches!(intent, Intent::Write | Intent::Steal) => Some("ran".to_owned()),
        Ok((batches, stats)) => {
            if stats.peak_memory_bytes > MEMORY_BYTES as u64 {
                return Some(format!("held {} bytes", stats.peak_memory_bytes));
            }
            let shown = arrow::util::pretty::pretty_format_batches(&batches).ok()?.to_string();
            shown.contains(CANARY).then(|| "shows a file".to_owned())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_statements_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let canary = outside.join("canary.csv");
    fs::write(&canary, format!("secret\n{CANARY}\n")).unwrap();
    let spill = folder.path().join("spill");
    fs::create_dir(&spill).unwrap();

    let limits = QueryLimits {
        timeout: TIMEOUT,
        memory_bytes_max: 4 * MEMORY_BYTES,
        query_memory_bytes_max: MEMORY_BYTES,
        query_spill_bytes_max: 64 << 20,
        result_rows_max: 50_000,
        result_bytes_max: 32 << 20,
        ..QueryLimits::default()
    };
    let engine = Arc::new(engine(tables(vec![spans()]), limits, &spill));
    let found = engine.execute(sql("SELECT kind, name FROM system.functions")).await.unwrap();
    let found: Vec<RecordBatch> = found.try_collect().await.unwrap();
    let cell =
        |batch: &RecordBatch, column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
    let functions =
        found.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (cell(batch, 0, row), cell(batch, 1, row))));
    let valid = include_str!("../../sql/valid.txt").split("\n\n").map(str::to_owned).collect();
    let seeds = Seeds { functions: functions.collect(), valid, canary: canary.display().to_string() };
    assert!(seeds.functions.len() > 200);

    let mut random = ChaCha8Rng::seed_from_u64(0x5a17);
    let statements: Vec<(Intent, String)> = (0..STATEMENTS).map(|_| statement(&mut random, &seeds)).collect();
    let mut kinds: BTreeMap<Intent, usize> = BTreeMap::new();
    statements.iter().for_each(|(intent, _)| *kinds.entry(*intent).or_default() += 1);
    assert!(kinds.values().all(|count| *count >= 40), "{kinds:?}");
    let faults: Vec<String> = stream::iter(statements)
        .map(|(intent, statement)| {
            let engine = Arc::clone(&engine);
            async move {
                let fault = fault(&engine, intent, &statement).await?;
                Some(format!("{intent:?} {fault}: {}", statement.chars().take(300).collect::<String>()))
            }
        })
        .buffer_unordered(4)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));

    // The engine is whole, holds nothing, and has left nothing behind.
    let answer = engine.execute(sql("SELECT count(*) FROM spans")).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.1.rows, 1);
    let files_below = |folder: &Path| -> Vec<_> {
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let spilled = || files_below(&spill).into_iter().filter(|left| left.is_file() || !files_below(left).is_empty());
    // What was cancelled may still be on its way out.
    for _ in 0..250 {
        if engine.memory_used_bytes() == 0 && spilled().next().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.memory_used_bytes(), 0);
    assert_eq!(fs::read_to_string(&canary).unwrap(), format!("secret\n{CANARY}\n"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    let left: Vec<_> = spilled().collect();
    assert!(left.is_empty(), "{left:?} is left");
}
