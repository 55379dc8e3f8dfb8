//! The whole server on the reference workload, measured from outside as its users pay for it: process CPU and memory.
//!
//! Starts the release binary on an empty folder, sends a fixed workload over OTLP/gRPC, and reads the server's user and
//! system time before and after each step. Prints one table; figures of two builds are to be compared as ratios from one
//! run on one machine.
//!
//! `cargo bench --bench server`, with `BENCH_SPANS` (default 1,000,000) and `BENCH_SENDERS` (default 4).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

#[path = "../tests/it/support/process.rs"]
mod process;
#[path = "../tests/it/support/sql.rs"]
mod sql;

use std::{
    env, fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use process::Server;
use tokio::sync::Mutex;
use tracehouse::demo::{Workload, WorkloadSettings};

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;
const REPEATS: u32 = 5;

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// User and system time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// A line of `/proc/<pid>/status` in MiB.
fn memory_mib(pid: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() / 1024
}

fn folder_bytes(folder: &Path, extension: &str) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => folder_bytes(&path, extension),
            path if path.extension().is_some_and(|found| found == extension) => entry.metadata().unwrap().len(),
            _ => 0,
        })
        .sum()
}

struct Bench {
    server: Server,
    spans: u64,
}

impl Bench {
    fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// CPU of the server while `step` runs.
    async fn cpu_of<T>(&self, step: impl Future<Output = T>) -> (T, Duration, Duration) {
        let (before, started) = (cpu(self.pid()), Instant::now());
        let value = step.await;
        (value, cpu(self.pid()) - before, started.elapsed())
    }

    fn report_ingest(&self, what: &str, cpu: Duration, wall: Duration) {
        let per_million = cpu.as_secs_f64() * 1e6 / self.spans as f64;
        let rate = self.spans as f64 / wall.as_secs_f64();
        println!("{what:<44} {per_million:>8.2} CPU s per million spans, {rate:>9.0} spans/s");
    }

    async fn report_query<F: Future<Output = usize>>(&self, what: &str, run: impl Fn() -> F) {
        let results = run().await;
        let (_, cpu, wall) = self
            .cpu_of(async {
                for _ in 0..REPEATS {
                    run().await;
                }
            })
            .await;
        let (cpu, wall) = (cpu / REPEATS, wall / REPEATS);
        println!("{what:<44} {:>8.1} CPU ms, {:>8.1} ms wall, {results} results", millis(cpu), millis(wall));
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

async fn send(address: &str, spans: u64, senders: u64) {
    let workload = Workload::new(WorkloadSettings::period(1, START_UNIX_NANO, Duration::from_secs(600), spans));
    let requests = Arc::new(Mutex::new(workload));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (address, requests) = (format!("http://{address}"), Arc::clone(&requests));
        tasks.spawn(async move {
            let mut client = TraceServiceClient::connect(address).await.unwrap();
            while let Some(request) = { requests.lock().await.next() } {
                while let Err(status) = client.export(request.clone()).await {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

async fn search(tempo: &str, query: &str, limit: usize) -> usize {
    let url = reqwest::Url::parse_with_params(
        &format!("http://{tempo}/api/search"),
        [("q", query), ("limit", &limit.to_string())],
    );
    let response = reqwest::get(url.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    assert!(status.is_success(), "{query}: {body}");
    serde_json::from_str::<serde_json::Value>(&body).unwrap()["traces"].as_array().unwrap().len()
}

async fn queries(bench: &Bench, state: &str) {
    println!("-- queries, {state}");
    let (tempo, flight) = (bench.server.tempo.clone(), bench.server.flight.clone());
    let ids = sql::query(&flight, "SELECT trace_id FROM spans WHERE duration_nano > 0 LIMIT 1").await.unwrap();
    let id = sql::text_column(&ids, "trace_id").remove(0);
    bench
        .report_query("trace by id", || async {
            let url = format!("http://{tempo}/api/traces/{id}");
            let accept = (reqwest::header::ACCEPT, "application/protobuf");
            let response = reqwest::Client::new().get(url).header(accept.0, accept.1).send().await.unwrap();
            response.error_for_status().unwrap().bytes().await.unwrap().len().min(1)
        })
        .await;
    for (what, query) in [
        ("every trace", "{}"),
        ("one service", "{ resource.service.name = \"payment-service\" }"),
        ("status = error", "{ status = error }"),
        ("duration > 1s", "{ duration > 1s }"),
        ("int attribute >= 500", "{ span.http.response.status_code >= 500 }"),
        ("rare string attribute", "{ span.user.id = \"user-00042\" }"),
    ] {
        bench.report_query(what, || search(&tempo, query, 262_144)).await;
    }
    bench.report_query("status = error, limit 20", || search(&tempo, "{ status = error }", 20)).await;
    bench
        .report_query("sql: count and p99 by service and route", || async {
            let text = "SELECT service_name, span_attributes['http.route'] AS route, count(*) AS n, \
                        approx_percentile_cont(duration_nano, 0.99) AS p99 FROM spans GROUP BY 1, 2 ORDER BY n DESC";
            sql::query(&flight, text).await.unwrap().iter().map(|batch| batch.num_rows()).sum()
        })
        .await;
}

#[tokio::main]
async fn main() {
    let (spans, senders) = (setting("BENCH_SPANS", 1_000_000), setting("BENCH_SENDERS", 4));
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["log.level=warn"], None).await.unwrap();
    let mut bench = Bench { server, spans };
    println!("-- ingest of {spans} spans from {senders} senders");
    let before = cpu(bench.pid());
    let (_, used, wall) = bench.cpu_of(send(&bench.server.otlp_grpc, spans, senders)).await;
    bench.report_ingest("to the last acknowledgement", used, wall);
    println!("{:<44} {:>8} MiB", "peak memory", memory_mib(bench.pid(), "VmHWM:"));
    queries(&bench, "just acknowledged, partly flushed").await;

    let until_stored = cpu(bench.pid());
    println!("{:<44} {:>8.2} CPU s", "of which in queries", (until_stored - before - used).as_secs_f64());
    bench.server.stop().await;
    let stored = folder_bytes(folder.path(), "parquet");
    println!("{:<44} {:>8.1} bytes per span", "stored", stored as f64 / spans as f64);

    bench.server = Server::start_with(folder.path(), &["log.level=warn"], None).await.unwrap();
    println!("{:<44} {:>8} MiB", "memory after a restart, idle", memory_mib(bench.pid(), "VmRSS:"));
    queries(&bench, "all stored").await;
    bench.server.kill();

    // Replay: the same spans, with flushing held off, killed, and started again.
    let folder = tempfile::tempdir().unwrap();
    let settings = &["log.level=warn", "flush.bytes_max=8GiB", "buffer.bytes_max=8GiB", "wal.bytes_max=8GiB"];
    bench.server = Server::start_with(folder.path(), settings, None).await.unwrap();
    send(&bench.server.otlp_grpc, spans, senders).await;
    bench.server.kill();
    let log = folder_bytes(folder.path(), "wal");
    println!("-- replay\n{:<44} {:>8.1} bytes per span", "log", log as f64 / spans as f64);
    let started = Instant::now();
    bench.server = Server::start_with(folder.path(), settings, None).await.unwrap();
    bench.report_ingest("replay", cpu(bench.pid()), started.elapsed());
    bench.server.kill();
}
