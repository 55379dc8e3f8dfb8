//! The engine against the reference.

use std::{collections::BTreeMap, env, sync::Mutex};

use tokio::runtime::Runtime;
use tracehouse::{
    query::QueryEngine,
    traceql::{self, ast::Body},
};

use super::{
    Random,
    engine::{self, Data, Layout, Question},
    queries,
    series::{self, Times},
    spans,
};
use crate::traceql::reference::{self, Span};

/// Queries about one data set: what takes time is to write it and to open an engine.
const QUERIES: u64 = 25;

/// Worlds in a data set: what takes time in a query is to plan it.
const WORLDS: usize = 10;

/// The same in some data sets, so that there are more traces than a search looks at first.
const WORLDS_MANY: usize = 40;

/// Queries by worlds of a run unless the environment says otherwise.
const CASES: u64 = 2_000;

/// Disagreements after which a run stops.
const FAULTS_MAX: usize = 5;

#[derive(Clone, Debug)]
enum Case {
    Search { text: String, range: (i64, i64), limit: usize, shown: usize },
    Series { text: String, times: Times },
}

/// Worlds, and where their spans lie.
#[derive(Clone, Debug)]
struct DataSet {
    worlds: usize,
    rows: Vec<Span>,
    layout: Layout,
    extent: i64,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Agree {
        found: bool,
    },
    /// The query makes no sense, and the engine says so.
    Refused,
    Disagree(String),
}

fn number_from_env(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn valid(random: &mut Random, query: impl Fn(&mut Random) -> String) -> String {
    loop {
        let text = query(random);
        if traceql::compile(&text).is_ok() {
            return text;
        }
    }
}

fn case(random: &mut Random, range: (i64, i64)) -> Case {
    if random.chance(70) {
        let text = valid(random, queries::query);
        let limit = if random.chance(25) { 1 + random.below(8) } else { 1_000 };
        return Case::Search { text, range, limit, shown: 1 + random.below(4) };
    }
    let start = random.below(900) as i64;
    let step = [50, 100, 333, 1_000][random.below(4)];
    let step = if random.chance(30) { None } else { Some(step) };
    let text = valid(random, queries::metrics);
    Case::Series { text, times: Times { start, end: start + 1 + random.below(800) as i64, step } }
}

impl Case {
    fn text(&self) -> &str {
        match self {
            Case::Search { text, .. } | Case::Series { text, .. } => text,
        }
    }

    /// Whether both find something; else what each of them says.
    async fn compared(&self, engine: &QueryEngine, set: &DataSet) -> Result<Result<bool, [String; 2]>, String> {
        let query = traceql::compile(self.text()).unwrap();
        let rows = set.layout.rows(&set.rows);
        match (self, &query.body) {
            (Case::Search { text, range, limit, shown }, Body::Spansets(pipeline)) => {
                let question = Question { text, range: *range, limit: *limit, shown: *shown };
                let answer = engine::ask(engine, &question).await?;
                let found = reference::search(pipeline, &rows, *range, set.extent);
                let wanted: Vec<String> = found.iter().take(*limit).map(|found| engine::lines(found, *shown)).collect();
                let texts = || [wanted.join("\n"), answer.join("\n")];
                Ok(if answer == wanted { Ok(!wanted.is_empty()) } else { Err(texts()) })
            }
            (Case::Series { text, times }, Body::Metrics(metrics)) => {
                let answer = series::ask(engine, text, *times).await?;
                let wanted = reference::metrics(metrics, &rows, times.buckets(), set.extent);
                let found = wanted.iter().any(|(_, samples)| samples.iter().any(|(_, value)| *value != 0.0));
                let texts = || [series::shown(&wanted), series::shown(&answer)];
                Ok(if series::are_same(&answer, &wanted) { Ok(found) } else { Err(texts()) })
            }
            _ => panic!("{} is of another kind", self.text()),
        }
    }

    async fn outcome(&self, engine: &QueryEngine, set: &DataSet) -> Outcome {
        let makes_no_sense = ["division by zero", "not a finite number"];
        match self.compared(engine, set).await {
            Ok(Ok(found)) => Outcome::Agree { found },
            Ok(Err([wanted, is])) => Outcome::Disagree(format!("expected\n{wanted}\nis\n{is}")),
            Err(error) if makes_no_sense.iter().any(|phrase| error.contains(phrase)) => Outcome::Refused,
            Err(error) => Outcome::Disagree(format!("the engine fails: {error}")),
        }
    }

    /// Leaves out rows as long as the two still disagree: first half of them, then a quarter, and so on.
    fn shrunk(&self, runtime: &Runtime, mut set: DataSet) -> String {
        let disagrees = |set: &DataSet| {
            runtime.block_on(async {
                let data = Data::of(&set.rows, &set.layout, set.extent).await;
                match self.outcome(&data.engine, set).await {
                    Outcome::Disagree(how) => Some(how),
                    _ => None,
                }
            })
        };
        let mut how = disagrees(&set);
        let mut part = set.rows.len() / 2;
        while part > 0 && how.is_some() {
            let mut at = 0;
            while at < set.rows.len() && set.rows.len() > part {
                let mut smaller = set.clone();
                let end = (at + part).min(set.rows.len());
                smaller.rows.drain(at..end);
                smaller.layout.division.drain(at..end);
                match disagrees(&smaller) {
                    Some(still) => (set, how) = (smaller, Some(still)),
                    None => at = end,
                }
            }
            part /= 2;
        }
        let Layout { division, files, merged } = &set.layout;
        let spans = set.rows.iter().zip(division);
        let spans: Vec<String> = spans.map(|(span, part)| format!("  part {part} {span:?}")).collect();
        let how = how.unwrap_or_else(|| "now and then only".to_owned());
        let layout = format!("extent {}, {files} files of which {merged} are merged", set.extent);
        format!("{}\n{self:?} {layout}\n{}\n{how}", self.text(), spans.join("\n"))
    }
}

/// A data set by its seed, the range of its searches, and the numbers that its queries come from.
fn data_set(seed: u64) -> (DataSet, (i64, i64), Random) {
    let mut random = Random::new(seed);
    let worlds = if random.chance(20) { WORLDS_MANY } else { WORLDS };
    let rows: Vec<Span> = (0..worlds).flat_map(|world| spans::rows(&mut random, world)).collect();
    let layout = Layout::random(&mut random, rows.len());
    let extent = [0, 100, 400, 10_000][random.below(4)];
    let range = match random.chance(50) {
        true => (-10_000, 10_000),
        false => {
            let from = random.below(900) as i64;
            (from, from + 1 + random.below(800) as i64)
        }
    };
    (DataSet { worlds, rows, layout, extent }, range, random)
}

#[derive(Debug, Default)]
struct Tally {
    next_seed: u64,
    cases: u64,
    queries: BTreeMap<&'static str, u64>,
    faults: Vec<String>,
}

#[test]
fn the_engine_answers_random_queries_as_the_reference_does() {
    let cases = number_from_env("TRACEHOUSE_TRACEQL_CASES", CASES);
    let next_seed = number_from_env("TRACEHOUSE_TRACEQL_SEED", 1);
    let tally = Mutex::new(Tally { next_seed, ..Tally::default() });
    // The next seed, unless there are enough cases or faults.
    let next = || {
        let mut tally = tally.lock().unwrap();
        let is_done = tally.cases >= cases || tally.faults.len() >= FAULTS_MAX;
        tally.next_seed += 1;
        (!is_done).then_some(tally.next_seed - 1)
    };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        while let Some(seed) = next() {
            let (set, range, mut random) = data_set(seed);
            let data = runtime.block_on(Data::of(&set.rows, &set.layout, set.extent));
            for _ in 0..QUERIES {
                let case = case(&mut random, range);
                let outcome = runtime.block_on(case.outcome(&data.engine, &set));
                let (name, fault) = match outcome {
                    Outcome::Agree { found: true } => ("found", None),
                    Outcome::Agree { found: false } => ("nothing found", None),
                    Outcome::Refused => ("refused", None),
                    Outcome::Disagree(_) => ("disagree", Some(case.shrunk(&runtime, set.clone()))),
                };
                let mut tally = tally.lock().unwrap();
                tally.cases += set.worlds as u64;
                *tally.queries.entry(name).or_default() += 1;
                tally.faults.extend(fault.map(|report| format!("seed {seed}: {report}")));
                if tally.cases >= cases || tally.faults.len() >= FAULTS_MAX {
                    break;
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let Tally { queries, faults, .. } = tally.into_inner().unwrap();
    assert!(faults.is_empty(), "{queries:#?}\n{}", faults.join("\n\n"));
    let found = queries.get("found").copied().unwrap_or_default();
    assert!(found * 3 > queries.values().sum(), "too few queries find something: {queries:#?}");
}
