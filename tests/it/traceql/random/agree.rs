//! The engine against the reference.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::runtime::Runtime;
use tracehouse::traceql::{self, ast::Body};

use super::{
    Random,
    engine::{self, Question},
    queries, spans,
};
use crate::traceql::reference::{self, Span};

/// Queries about one world.
const QUERIES: u64 = 20;

/// Queries of a run unless the environment says otherwise.
const CASES: u64 = 2_000;

/// Disagreements after which a run stops.
const FAULTS_MAX: usize = 5;

#[derive(Clone, Debug)]
struct Case {
    text: String,
    range: (i64, i64),
    extent: i64,
    limit: usize,
    shown: usize,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Agree {
        found: bool,
    },
    /// The engine says that it cannot.
    Skipped(String),
    Disagree(String),
}

fn number_from_env(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn case(random: &mut Random, range: (i64, i64), extent: i64) -> Case {
    let text = loop {
        let text = queries::query(random);
        if traceql::compile(&text).is_ok() {
            break text;
        }
    };
    Case { text, range, extent, limit: 1 + random.below(8), shown: 1 + random.below(4) }
}

fn expected(case: &Case, rows: &[Span]) -> Vec<String> {
    let query = traceql::compile(&case.text).unwrap();
    let Body::Spansets(pipeline) = &query.body else { panic!("{} is no search", case.text) };
    let found = reference::search(pipeline, rows, case.range, case.extent);
    found.iter().take(case.limit).map(|found| engine::lines(found, case.shown)).collect()
}

async fn outcome(engine: &tracehouse::query::QueryEngine, case: &Case, rows: &[Span]) -> Outcome {
    let question = Question { text: &case.text, range: case.range, limit: case.limit, shown: case.shown };
    match engine::ask(engine, &question).await {
        Err(error) if error.starts_with("not supported yet") => {
            Outcome::Skipped(error.lines().next().unwrap_or_default().to_owned())
        }
        Err(error) if error.contains("division by zero") || error.contains("not a finite number") => {
            Outcome::Skipped("constants without a value".to_owned())
        }
        Err(error) => Outcome::Disagree(format!("the engine fails: {error}")),
        Ok(answer) => {
            let wanted = expected(case, rows);
            if answer == wanted {
                Outcome::Agree { found: !wanted.is_empty() }
            } else {
                Outcome::Disagree(format!("expected\n{}\nis\n{}", wanted.join("\n"), answer.join("\n")))
            }
        }
    }
}

/// Leaves out rows as long as the two still disagree.
fn shrunk(runtime: &Runtime, case: &Case, rows: Vec<Span>, division: Vec<usize>) -> String {
    let disagrees = |rows: &[Span], division: &[usize]| {
        runtime.block_on(async {
            let engine = engine::engine(rows, division, case.extent).await;
            match outcome(&engine, case, rows).await {
                Outcome::Disagree(how) => Some(how),
                _ => None,
            }
        })
    };
    let (mut rows, mut division) = (rows, division);
    let mut how = disagrees(&rows, &division);
    let mut index = 0;
    while index < rows.len() && rows.len() > 1 {
        let (mut fewer, mut parts) = (rows.clone(), division.clone());
        fewer.remove(index);
        parts.remove(index);
        match disagrees(&fewer, &parts) {
            Some(still) => (rows, division, how) = (fewer, parts, Some(still)),
            None => index += 1,
        }
    }
    let spans: Vec<String> = rows.iter().zip(&division).map(|(span, part)| format!("  part {part} {span:?}")).collect();
    let Case { text, range, extent, limit, shown } = case;
    let how = how.unwrap_or_else(|| "now and then only".to_owned());
    format!("{text}\nrange {range:?} extent {extent} limit {limit} shown {shown}\n{}\n{how}", spans.join("\n"))
}

#[test]
#[ignore = "minutes in a debug build; run with --ignored"]
fn the_engine_answers_random_queries_as_the_reference_does() {
    let cases = number_from_env("TRACEHOUSE_TRACEQL_CASES", CASES);
    let first = number_from_env("TRACEHOUSE_TRACEQL_SEED", 1);
    let worlds = AtomicU64::new(0);
    let faults = Mutex::new(Vec::new());
    let counts: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        loop {
            let world = worlds.fetch_add(1, Ordering::Relaxed);
            if world >= cases.div_ceil(QUERIES) || faults.lock().unwrap().len() >= FAULTS_MAX {
                return;
            }
            let seed = first + world;
            let mut random = Random::new(seed);
            let rows = spans::rows(&mut random);
            let division = engine::division(&mut random, rows.len());
            let extent = [0, 100, 400, 10_000][random.below(4)];
            let range = if random.chance(50) {
                (-10_000, 10_000)
            } else {
                let from = random.below(900) as i64;
                (from, from + 1 + random.below(800) as i64)
            };
            let engine = runtime.block_on(engine::engine(&rows, &division, extent));
            for _ in 0..QUERIES {
                let case = case(&mut random, range, extent);
                let outcome = runtime.block_on(outcome(&engine, &case, &rows));
                let name = match &outcome {
                    Outcome::Agree { found: true } => "found".to_owned(),
                    Outcome::Agree { found: false } => "nothing found".to_owned(),
                    Outcome::Skipped(why) => why.clone(),
                    Outcome::Disagree(_) => "disagree".to_owned(),
                };
                *counts.lock().unwrap().entry(name).or_default() += 1;
                if let Outcome::Disagree(_) = outcome {
                    let report = shrunk(&runtime, &case, rows.clone(), division.clone());
                    faults.lock().unwrap().push(format!("seed {seed}: {report}"));
                    if faults.lock().unwrap().len() >= FAULTS_MAX {
                        return;
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (faults, counts) = (faults.into_inner().unwrap(), counts.into_inner().unwrap());
    assert!(faults.is_empty(), "{counts:#?}\n{}", faults.join("\n\n"));
    let found = counts.get("found").copied().unwrap_or_default();
    assert!(found * 4 > cases, "too few queries find something: {counts:#?}");
}
