//! What a TraceQL query costs before the first span is read: from text to a checked tree, from there to conditions and
//! stages, and the whole way through the engine over a table without spans, DataFusion's planning included.
//!
//! The queries are those of the corpus (`tests/traceql/valid`, 500 and more) and some at the limits. The report says the
//! median and the slowest of each step in microseconds; a query should be read and planned in less than a millisecond.
//!
//! `cargo bench --bench traceql`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use tracehouse::{
    model::tenant::TenantId,
    query::{MetricsQuery, QueryEngine, QueryKind, QueryRequest, TraceQlQuery, fuzzing::engine_without_spans},
    traceql,
};

/// The allocator of the program, so that work costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs of a step, of which the fastest counts.
const RUNS: usize = 5;

fn main() {
    // `cargo test --benches` runs benchmarks too, to see that they build.
    if env::args().any(|arg| arg == "--test") {
        return;
    }
    let queries = corpus();
    println!("{} queries of the corpus; microseconds", queries.len());
    println!("{:<28} {:>9} {:>9}", "step", "median", "slowest");
    report("read and check", &queries, |text| {
        traceql::compile(text).unwrap();
    });
    let searches: Vec<String> = queries.iter().filter(|text| !traceql::is_metrics(text)).cloned().collect();
    report("read, check and plan", &searches, |text| drop(traceql::search(text)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = engine_without_spans().unwrap();
    report("the whole engine, no spans", &queries, |text| runtime.block_on(answer(&engine, text)));
    for (name, text) in at_the_limits() {
        let fastest = fastest(|| drop(traceql::search(&text)));
        println!("{name:<28} {:>9.0} {:>9}", micros(fastest), format!("{} B", text.len()));
    }
}

/// The valid queries of the corpus.
fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traceql/valid");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let cases = files
        .flat_map(|text| text.split("\n\n").map(|block| block.trim_matches('\n').to_owned()).collect::<Vec<String>>());
    cases
        .filter(|case| !case.starts_with('#'))
        .filter_map(|case| Some(case.split_once("\n----")?.0.to_owned()))
        .collect()
}

/// Queries as large as they may be.
fn at_the_limits() -> Vec<(&'static str, String)> {
    let list = |link: &str, count: usize| vec!["span.a = 1"; count].join(link);
    vec![
        ("450 conditions", format!("{{ {} }}", list(" || ", 450))),
        ("60 brackets deep", format!("{{ {}.a{} }}", "(".repeat(60), ")".repeat(60))),
        ("500 stages", format!("{{}}{}", " | { .a }".repeat(499))),
        ("128 KiB of comment", format!("{{}} /*{}*/", "(".repeat(131_000))),
        ("200 regular expressions", vec!["{ .a =~ `x.*y` }"; 200].join(" | ")),
    ]
}

async fn answer(engine: &QueryEngine, text: &str) {
    let kind = match traceql::is_metrics(text) {
        true => QueryKind::Metrics(MetricsQuery::new(text)),
        false => QueryKind::TraceQl(TraceQlQuery::new(text)),
    };
    // A query that is valid and makes no sense is refused, which takes its time too.
    if let Ok(stream) = engine.execute(QueryRequest::new(TenantId::single(), kind)).await {
        drop(stream.collect().await);
    }
}

fn fastest(work: impl Fn()) -> Duration {
    let once = || {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..RUNS).map(|_| once()).min().unwrap()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn report(step: &str, queries: &[String], work: impl Fn(&str)) {
    let mut times: Vec<(Duration, &String)> = queries.iter().map(|text| (fastest(|| work(text)), text)).collect();
    times.sort();
    let (median, slowest) = (times[times.len() / 2].0, times[times.len() - 1]);
    println!("{step:<28} {:>9.0} {:>9.0}  {}", micros(median), micros(slowest.0), slowest.1.replace('\n', " "));
}
