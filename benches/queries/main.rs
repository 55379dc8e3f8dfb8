//! Queries on stored spans: CPU of the server per query, beside Tempo's.
//!
//! Fills a folder with the reference workload over OTLP/gRPC, stops the server, compacts the folder, and puts the questions
//! of [`asks`] to the release binary over HTTP, each several times on a warm page cache with all results rendered. CPU is
//! user and system time of the server's process, the least of some rounds: what other programs do on the machine makes it
//! more, never less. Rows and bytes are what scans of one query read.
//!
//! With `BENCH_STATE=buffered` the same questions go to spans that were just acknowledged: the server that took them is asked, with
//! thresholds of flushes so large that all of them are in its buffer and in its log, and none in a file. A buffer holds some
//! hundred bytes per span.
//!
//! Of the attributes, two are kept out of columns by the settings ([`RESIDUAL`]), so that questions about them read the maps; the
//! others have columns after the third flush.
//!
//! With several sizes, each is the same workload over a longer time, and a last table shows how queries grow: over
//! everything, and over the middle tenth of the time.
//!
//! `cargo bench --bench queries`, with `BENCH_STATE` (`stored`, the default, or `buffered`), `BENCH_SPANS` (default `1000000`; a list such as `1000000,4000000` shows growth),
//! `BENCH_FOLDER` (keeps stored data below this folder, and takes what is there), `BENCH_ONLY` (part of the names of questions)
//! and `BENCH_ROUNDS` (default 3).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

mod asks;
mod growth;
#[expect(dead_code, reason = "another benchmark uses all of it")]
#[path = "../server/measure.rs"]
mod measure;
#[path = "../../tests/it/support/process.rs"]
mod process;
mod put;
#[path = "../server/send.rs"]
mod send;
#[path = "../../tests/it/support/sql.rs"]
mod sql;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use asks::{QUESTIONS, Question};
use measure::{children_cpu, folder_bytes};
use process::Server;
use put::{Cost, Target};
use tracehouse::demo::WorkloadSettings;

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;
/// A million spans start within ten minutes.
const NANOS_PER_SPAN: u64 = 600_000;

const SENDERS: u64 = 2;

/// The attributes that stay in maps: one of a text that few spans have, one of a boolean that many have.
const RESIDUAL: &str = "promotion.deny=span.shop.coupon.code,span.cache.hit";

/// Thresholds that no benchmark reaches.
const BUFFERED: &[&str] =
    &["buffer.bytes_max=64GiB", "flush.bytes_max=32GiB", "flush.age_max=1000h", "wal.bytes_max=256GiB"];

/// What Tempo stores, in bytes per span.
const TEMPO_SPAN_BYTES: f64 = 103.0;

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Where the spans are that questions are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In compacted files.
    Stored,
    /// In the server's buffer.
    Buffered,
}

/// A folder of spans, and how many there are.
#[derive(Debug)]
struct Data {
    folder: PathBuf,
    spans: u64,
    state: State,
}

impl Data {
    /// Takes the folder that is there, or fills it. What is to be in the buffer is sent to the server that is asked.
    async fn of(spans: u64, below: &Path, state: State) -> Self {
        let folder = below.join(match state {
            State::Stored => spans.to_string(),
            State::Buffered => format!("{spans}-buffered"),
        });
        if state == State::Buffered {
            // What an earlier run left would be replayed.
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
        } else if !folder.is_dir() {
            std::fs::create_dir_all(&folder).unwrap();
            let settings = ["log.level=warn", "compaction.enabled=false", RESIDUAL];
            let mut server = Server::start_with(&folder, &settings, None).await.unwrap();
            let data = Self { folder: folder.clone(), spans, state };
            data.send_to(&server).await;
            assert!(server.stop().await.success());
            let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / spans as f64;
            let (taken, flushed) = (children_cpu(), folder_bytes(&folder, "parquet"));
            println!(
                "taken and flushed: {:.1} CPU seconds per million, {:.1} bytes per span",
                per_million(taken),
                flushed as f64 / spans as f64
            );
            data.command(&["compact"]);
            println!("compacted: {:.1} CPU seconds per million", per_million(children_cpu() - taken));
        }
        Self { folder, spans, state }
    }

    /// What a command of the program says about the folder.
    fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracehouse"));
        let output = command.args(arguments).arg("--data").arg(&self.folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Files and bytes of the table, without those that were replaced and wait for their end.
    fn live(&self) -> (u64, u64) {
        let tables = self.command(&["inspect", "--format", "json"]);
        let table: serde_json::Value = serde_json::from_str(tables.lines().next().unwrap()).unwrap();
        let number = |name: &str| table[name].as_u64().unwrap();
        (number("files"), number("bytes"))
    }

    /// Sends the spans, and returns when all are acknowledged.
    async fn send_to(&self, server: &Server) {
        let settings = WorkloadSettings::period(1, START_UNIX_NANO, self.length(), self.spans);
        send::send(&server.otlp_grpc, settings, SENDERS).await;
    }

    /// A server that has the spans where they are asked for.
    async fn serve(&self) -> Server {
        // What many spans need, so that a limit is no answer.
        let mut settings = vec!["log.level=warn", "query.search_limit_max=1000000", "query.memory_bytes_max=4GiB"];
        if self.state == State::Stored {
            return Server::start_with(&self.folder, &settings, None).await.unwrap();
        }
        settings.extend(BUFFERED.iter().chain([&RESIDUAL]));
        let server = Server::start_with(&self.folder, &settings, None).await.unwrap();
        self.send_to(&server).await;
        assert_eq!(folder_bytes(&self.folder, "parquet"), 0, "spans were flushed");
        server
    }

    fn length(&self) -> Duration {
        Duration::from_nanos(NANOS_PER_SPAN * self.spans)
    }

    /// The whole of the time in Unix seconds. Traces that start near its end reach beyond it.
    fn seconds(&self) -> (u64, u64) {
        let (start, length) = (START_UNIX_NANO / 1_000_000_000, self.length().as_secs());
        (start, start + length + 60)
    }

    /// The middle tenth of it.
    fn tenth(&self) -> (u64, u64) {
        let (start, length) = (START_UNIX_NANO / 1_000_000_000, self.length().as_secs());
        (start + length * 45 / 100, start + length * 55 / 100)
    }
}

fn print_row(question: &Question, cost: &Cost) {
    let beside =
        question.tempo_ms.map(|tempo| format!("{tempo:>9.0} {:>7.1}", tempo / cost.cpu_ms)).unwrap_or_default();
    println!(
        "{:<40} {:>8} {:>9.1} {:>9.1} {:>12} {:>10.2}  {beside}",
        question.name,
        cost.results,
        cost.cpu_ms,
        cost.wall_ms,
        cost.rows.map_or_else(String::new, |rows| rows.to_string()),
        cost.bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6),
    );
}

async fn table(data: &Data, only: &str, rounds: usize) {
    println!(
        "\n{:<40} {:>8} {:>9} {:>9} {:>12} {:>10}  {:>9} {:>7}",
        "question", "results", "CPU ms", "wall ms", "rows read", "MB read", "Tempo ms", "times"
    );
    let target = Target::start(data).await;
    let mut ratios = Vec::new();
    for question in QUESTIONS.iter().filter(|question| question.name.contains(only)) {
        let cost = target.cost(question.ask, data.seconds(), rounds).await;
        print_row(question, &cost);
        ratios.extend(question.tempo_ms.map(|tempo| tempo / cost.cpu_ms));
    }
    let reach = |ratio: f64| ratios.iter().filter(|found| **found >= ratio).count();
    let (five, ten) = (reach(5.0), reach(10.0));
    println!("{} rows beside Tempo's: {five} at five times less CPU or better, {ten} at ten", ratios.len());
    println!("memory of the server afterwards: {:.0} MiB", target.memory_mib());
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` runs benchmarks too, to see that they build.
    if env::args().any(|arg| arg == "--test") {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let below = PathBuf::from(setting("BENCH_FOLDER", temporary.path().to_str().unwrap()));
    let (only, rounds) = (setting("BENCH_ONLY", ""), setting("BENCH_ROUNDS", "3").parse().unwrap());
    let state = match setting("BENCH_STATE", "stored").as_str() {
        "stored" => State::Stored,
        "buffered" => State::Buffered,
        other => panic!("BENCH_STATE={other} is neither stored nor buffered"),
    };
    let mut sizes = Vec::new();
    for spans in setting("BENCH_SPANS", "1000000").split(',') {
        let data = Data::of(spans.parse().unwrap(), &below, state).await;
        match state {
            State::Stored => {
                let (files, bytes) = data.live();
                let bytes = bytes as f64 / data.spans as f64;
                println!("{spans} spans in {files} files: {bytes:.1} bytes per span, Tempo {TEMPO_SPAN_BYTES}");
            }
            State::Buffered => println!("{spans} spans just acknowledged; Tempo's figures are of stored ones"),
        }
        sizes.push(data);
    }
    if let [data] = sizes.as_slice() {
        table(data, &only, rounds).await;
    } else {
        growth::report(&sizes, rounds).await;
    }
}
