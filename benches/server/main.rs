//! The server on the reference workload: each stage of the write path by itself, and the whole of it from outside as its
//! users pay for it, in process CPU and memory.
//!
//! Sends a fixed workload over OTLP/gRPC to the release binary on an empty folder, and reads the server's user and system
//! time before and after each step. Prints tables, with the figures of Tempo 3.1 beside ours: one binary on local disk,
//! the same spans, two cores, all results rendered. Wall times depend on the machine; figures of two builds are to be
//! compared as ratios from one run on one machine.
//!
//! `cargo bench --bench server`, with `BENCH_SPANS` (default 1,000,000), `BENCH_SENDERS` (default 4) and `BENCH_PARTS`
//! (default `stages,server,replay`; also `latency`).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

mod latency;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod measure;
#[expect(dead_code, reason = "tests use all of it")]
#[path = "../../tests/it/support/process.rs"]
mod process;
mod send;
#[path = "../../tests/it/support/sql.rs"]
mod sql;
mod stages;
mod table;

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use measure::{folder_bytes, has_ended, process_cpu};
use process::Server;
use tracehouse::demo::WorkloadSettings;

/// The allocator of the program, so that the stages cost here what they cost there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;
const PERIOD: Duration = Duration::from_secs(600);
const REPEATS: u32 = 5;

/// What Tempo takes: CPU seconds per million spans until the last reply and until stored, peak MiB, bytes per span.
const TEMPO_ACKNOWLEDGED: f64 = 24.0;
const TEMPO_STORED: f64 = 45.0;
const TEMPO_PEAK_MIB: f64 = 4.1 * 1024.0;
const TEMPO_SPAN_BYTES: f64 = 103.0;

/// Searches with all results, and what Tempo takes for them on a million stored spans, in CPU milliseconds.
const SEARCHES: &[(&str, &str, f64)] = &[
    ("every trace", "{}", 4_490.0),
    ("one service", "{ resource.service.name = \"payment-service\" }", 1_735.0),
    ("status = error", "{ status = error }", 1_065.0),
    ("duration > 1s", "{ duration > 1s }", 265.0),
    ("int attribute >= 500", "{ span.http.response.status_code >= 500 }", 650.0),
    ("rare string attribute", "{ span.user.id = \"user-00042\" }", 330.0),
];

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

struct Bench {
    server: Server,
    spans: u64,
}

impl Bench {
    fn cpu(&self) -> Duration {
        process_cpu(self.server.pid())
    }

    fn per_million(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.spans as f64
    }

    fn memory_mib(&self, line: &str) -> f64 {
        self.server.memory_bytes(line) as f64 / f64::from(1 << 20)
    }

    async fn report_query<F: Future<Output = usize>>(&self, what: &str, reference: Option<f64>, run: impl Fn() -> F) {
        let results = run().await;
        let (before, started) = (self.cpu(), Instant::now());
        for _ in 0..REPEATS {
            run().await;
        }
        let (cpu, wall) = ((self.cpu() - before) / REPEATS, started.elapsed() / REPEATS);
        let name = format!("{what} ({results} results, {:.0} ms wall)", millis(wall));
        table::figure(&name, millis(cpu), "CPU ms", reference);
    }

    /// The queries; those on stored data stand beside the reference, which was measured on stored data.
    async fn queries(&self, state: &str, has_reference: bool) {
        table::title(&format!("queries, {state}"));
        let (tempo, flight) = (&self.server.tempo, &self.server.flight);
        let reference = |value: f64| has_reference.then_some(value);
        let ids = sql::query(flight, "SELECT trace_id FROM spans WHERE duration_nano > 0 LIMIT 1").await.unwrap();
        let id = sql::text_column(&ids, "trace_id").remove(0);
        let by_id = || async {
            let url = format!("http://{tempo}/api/traces/{id}");
            let accept = (reqwest::header::ACCEPT, "application/protobuf");
            let response = reqwest::Client::new().get(url).header(accept.0, accept.1).send().await.unwrap();
            response.error_for_status().unwrap().bytes().await.unwrap().len().min(1)
        };
        self.report_query("trace by id", Some(if has_reference { 97.0 } else { 160.0 }), by_id).await;
        for (what, query, tempo_millis) in SEARCHES {
            self.report_query(what, reference(*tempo_millis), || search(tempo, query, 262_144)).await;
        }
        self.report_query("status = error, limit 20", None, || search(tempo, "{ status = error }", 20)).await;
        let grouped = || async {
            let text = "SELECT service_name, span_attributes['http.route'] AS route, count(*) AS n, \
                        approx_percentile_cont(duration_nano, 0.99) AS p99 FROM spans GROUP BY 1, 2 ORDER BY n DESC";
            sql::query(flight, text).await.unwrap().iter().map(|batch| batch.num_rows()).sum()
        };
        self.report_query("sql: count and p99 by service and route", None, grouped).await;
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn workload(spans: u64) -> WorkloadSettings {
    WorkloadSettings::period(1, START_UNIX_NANO, PERIOD, spans)
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

/// Stops the server in order, and returns its CPU time up to its end.
async fn stop(server: &mut Server) -> Duration {
    let pid = server.pid();
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
    // A process that has ended can be asked as long as nobody has waited for it.
    while !has_ended(pid) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cpu = process_cpu(pid);
    server.kill();
    cpu
}

/// Until the last acknowledgement, until everything is stored, and queries on both states.
async fn whole(spans: u64, senders: u64) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["log.level=warn"], None).await.unwrap();
    let mut bench = Bench { server, spans };
    table::title(&format!("server, {spans} spans from {senders} senders over OTLP/gRPC"));
    table::figure("idle memory", bench.memory_mib("VmRSS:"), "MiB", Some(95.0));
    let (before, started) = (bench.cpu(), Instant::now());
    send::send(&bench.server.otlp_grpc, workload(spans), senders).await;
    let (acknowledged, wall) = (bench.cpu() - before, started.elapsed());
    let rate = format!("to the last acknowledgement ({:.0} k spans/s)", spans as f64 / wall.as_secs_f64() / 1e3);
    table::figure(&rate, bench.per_million(acknowledged), "CPU s / 1 M spans", Some(TEMPO_ACKNOWLEDGED));
    table::figure("peak memory", bench.memory_mib("VmHWM:"), "MiB", Some(TEMPO_PEAK_MIB));
    bench.queries("just acknowledged, partly flushed", false).await;

    // What is left in the buffer is flushed by the stop.
    let before_stop = bench.cpu();
    let stored = acknowledged + stop(&mut bench.server).await - before_stop;
    table::title("server, stored");
    table::figure("until everything is stored", bench.per_million(stored), "CPU s / 1 M spans", Some(TEMPO_STORED));
    let bytes = folder_bytes(folder.path(), "parquet") as f64 / spans as f64;
    table::figure("stored", bytes, "bytes per span", Some(TEMPO_SPAN_BYTES));

    bench.server = Server::start_with(folder.path(), &["log.level=warn"], None).await.unwrap();
    table::figure("memory after a restart, idle", bench.memory_mib("VmRSS:"), "MiB", Some(95.0));
    bench.queries("all stored", true).await;
    bench.server.kill();
}

/// The same spans with flushing held off, killed, and started again.
async fn replay(spans: u64, senders: u64) {
    let folder = tempfile::tempdir().unwrap();
    let settings = &["log.level=warn", "flush.bytes_max=8GiB", "buffer.bytes_max=8GiB", "wal.bytes_max=8GiB"];
    let server = Server::start_with(folder.path(), settings, None).await.unwrap();
    let mut bench = Bench { server, spans };
    send::send(&bench.server.otlp_grpc, workload(spans), senders).await;
    bench.server.kill();
    table::title("replay of everything after SIGKILL");
    let log = folder_bytes(folder.path(), "wal") as f64 / spans as f64;
    table::figure("log", log, "bytes per span", None);
    let started = Instant::now();
    bench.server = Server::start_with(folder.path(), settings, None).await.unwrap();
    let name = format!("replay ({:.1} s wall)", started.elapsed().as_secs_f64());
    table::figure(&name, bench.per_million(bench.cpu()), "CPU s / 1 M spans", None);
    table::figure("memory with all in the buffer", bench.memory_mib("VmHWM:"), "MiB", None);
    bench.server.kill();
}

#[tokio::main]
async fn main() {
    let (spans, senders) = (setting("BENCH_SPANS", 1_000_000), setting("BENCH_SENDERS", 4));
    let parts = env::var("BENCH_PARTS").unwrap_or_else(|_| "stages,server,replay".to_owned());
    for part in parts.split(',') {
        match part {
            "stages" => stages::run(workload(spans), spans),
            "server" => whole(spans, senders).await,
            "replay" => replay(spans, senders).await,
            "latency" => latency::run(spans).await,
            other => panic!("BENCH_PARTS has {other:?}, known are stages, server, replay, latency"),
        }
    }
}
