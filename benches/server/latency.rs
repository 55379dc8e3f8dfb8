//! Small requests, as a page of Grafana sends many of: how long each takes for eight clients at once, on a quiet server and
//! while spans arrive at half of the rate that the server has just shown.
//!
//! ```text
//!  fill, as fast as it goes -> the capacity
//!  one client, quiet | eight clients, quiet | eight clients, half of the capacity arrives
//! ```
//!
//! A client has one connection and asks the questions in turn; `tracehouse demo` is the sender. Beside the time that a client
//! waits stands the time that queries spend in the engine, from the server's own histogram; the rest is the network, the
//! decoding and the rendering. One client on a quiet server pays for the work alone, eight for the queue on top.
//!
//! `BENCH_BINARY` names another build of the program to measure.

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tracehouse::clock::{Clock, SystemClock};

use crate::{
    measure::process_cpu,
    millis,
    process::{self, Server},
    sql, table,
};

const CLIENTS: usize = 8;

/// How long each of the states is looked at.
const SECONDS: u64 = 20;

/// Traces that are asked for, in turn.
const TRACES: usize = 500;

/// A question of a client; `{id}` in a path is a trace's.
const QUESTIONS: &[(&str, &str)] = &[
    ("echo", "/api/echo"),
    ("names of tags", "/api/v2/search/tags?limit=5000"),
    ("values of a tag", "/api/v2/search/tag/resource.service.name/values?limit=5000"),
    ("search, limit=20", "/api/search?q=%7B%20status%20%3D%20error%20%7D&limit=20&spss=3"),
    (
        "search in an hour, limit=20",
        "/api/search?q=%7B%20resource.service.name%20%3D%20%22cart-service%22%20%7D&limit=20&spss=3&start={start}&end={end}",
    ),
    ("trace by id", "/api/v2/traces/{id}"),
];

/// Fills a server, and reports the three states.
pub(crate) async fn run(spans: u64) {
    let binary = env::var_os("BENCH_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_tracehouse").into());
    let (binary, folder) = (PathBuf::from(binary), tempfile::tempdir().unwrap());
    let mut command = Command::new(&binary);
    command.args(process::arguments(folder.path(), &["log.level=warn"]));
    let server = Server::start(command).await.unwrap();
    let demo = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        let endpoint = format!("http://{}", server.otlp_grpc);
        command.args(["demo", "--quiet", "--endpoint", &endpoint]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let started = Instant::now();
    let filled = demo(&["--backfill", "10m", "--spans", &spans.to_string()]).output().unwrap();
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    let capacity = spans as f64 / started.elapsed().as_secs_f64();
    let text = format!("SELECT DISTINCT trace_id FROM spans LIMIT {TRACES}");
    let ids = Arc::new(sql::text_column(&sql::query(&server.flight, &text).await.unwrap(), "trace_id"));
    table::title(&format!("small requests, {spans} spans stored or buffered; milliseconds"));
    table::figure("capacity of ingest", capacity / 1e3, "k spans/s", None);
    header();
    measure(&server, "1 client, quiet", 1, &ids).await;
    measure(&server, "8 clients, quiet", CLIENTS, &ids).await;
    let before = accepted(&server.tempo).await;
    let half = format!("{:.0}", capacity / 2.0);
    let sender = Sender(demo(&["--rate", &half]).spawn().unwrap());
    let started = Instant::now();
    measure(&server, "8 clients, half of the capacity arrives", CLIENTS, &ids).await;
    let rate = (accepted(&server.tempo).await - before) / started.elapsed().as_secs_f64();
    drop(sender);
    table::figure("spans that arrived meanwhile", rate / 1e3, "k spans/s", None);
}

/// A process that ends with this value.
struct Sender(Child);

impl Drop for Sender {
    fn drop(&mut self) {
        // Both fail if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Spans that the server has accepted so far.
async fn accepted(address: &str) -> f64 {
    let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with("tracehouse_ingest_spans_total{"));
    let accepted = lines.filter(|line| line.contains("outcome=\"accepted\""));
    accepted.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Asks for a while, and prints a row per question.
async fn measure(server: &Server, state: &str, clients: usize, ids: &Arc<Vec<String>>) {
    let (cpu, engine, started) = (process_cpu(server.pid()), engine_seconds(&server.tempo).await, Instant::now());
    let end = started + Duration::from_secs(SECONDS);
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (address, ids) = (server.tempo.clone(), Arc::clone(ids));
        tasks.spawn(async move { ask(&address, &ids, client, end).await });
    }
    let mut waits: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    while let Some(task) = tasks.join_next().await {
        for (question, wait) in task.unwrap() {
            waits.entry(question).or_default().push(wait);
        }
    }
    let cores = (process_cpu(server.pid()) - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    println!("  {state}: the server runs on {cores:.1} cores");
    for (question, waits) in &mut waits {
        waits.sort_unstable();
        let at = |share: f64| millis(waits[((waits.len() - 1) as f64 * share) as usize]);
        let (p50, p99) = (at(0.5), at(0.99));
        println!("    {:<34} {:>9} {p50:>9.2} {p99:>9.2} {:>9.2}", QUESTIONS[*question].0, waits.len(), at(1.0));
    }
    for (kind, (count, seconds)) in engine_seconds(&server.tempo).await {
        let (count_before, seconds_before) = engine.get(&kind).copied().unwrap_or_default();
        if count > count_before {
            let mean = (seconds - seconds_before) * 1e3 / (count - count_before);
            println!("    in the engine, mean: {kind:<13} {:>9} {mean:>9.2}", count - count_before);
        }
    }
}

fn header() {
    println!("    {:<34} {:>9} {:>9} {:>9} {:>9}", "", "requests", "p50", "p99", "max");
}

async fn ask(address: &str, ids: &[String], client: usize, end: Instant) -> Vec<(usize, Duration)> {
    let (http, mut waits) = (reqwest::Client::new(), Vec::new());
    let now = SystemClock.now_unix_nano() / 1_000_000_000;
    let range = ((now - 3_600).to_string(), (now + 60).to_string());
    let mut turn = client;
    while Instant::now() < end {
        let question = turn % QUESTIONS.len();
        let path = QUESTIONS[question].1.replace("{id}", &ids[turn * 7 % ids.len()]);
        let path = path.replace("{start}", &range.0).replace("{end}", &range.1);
        let started = Instant::now();
        let request = http.get(format!("http://{address}{path}"));
        let request =
            if path.contains("/traces/") { request.header("accept", "application/protobuf") } else { request };
        let body = request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        waits.push((question, started.elapsed()));
        assert!(!body.is_empty());
        turn += 1;
    }
    waits
}

/// Queries so far and the seconds that they took, by kind.
async fn engine_seconds(address: &str) -> BTreeMap<String, (f64, f64)> {
    let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("tracehouse_query_seconds_") else { continue };
        let (Some((labels, value)), Some(kind)) = (rest.rsplit_once(' '), label(rest, "kind")) else { continue };
        let value: f64 = value.parse().unwrap();
        if labels.starts_with("count") {
            sums.entry(kind).or_default().0 += value;
        } else if labels.starts_with("sum") {
            sums.entry(kind).or_default().1 += value;
        }
    }
    sums
}

fn label(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}
