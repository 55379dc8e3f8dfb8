//! Files of spans on the reference workload: bytes per span, column by column, and what writing and reading them costs.
//!
//! The workload is flushed as one batch under several sets of promoted attributes: none, the standard ones, and those that
//! a table arrives at by itself; with these once more in the layout of merged files. For each the report says bytes per span and CPU per million spans of choosing, sorting and
//! writing, and of reading everything back; for the last, the share of each column. A column's bytes are those of its pages;
//! what is left are footer, indexes and filters. A last table says what other layouts of the same columns cost and save.
//!
//! `cargo bench --bench storage`, with `BENCH_SPANS` (default 1,000,000; 200,000 make one flush).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

mod layouts;

use std::{collections::BTreeMap, env, fs, slice, time::Duration};

use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    file::reader::{FileReader, SerializedFileReader},
};
use prost::Message;
use tracehouse::{
    config::PromotionSettings,
    demo::{Workload, WorkloadSettings},
    model::{
        batch::SpanBatch,
        keys::residual_counts,
        promotion::{self, Promotion},
        tenant::TenantId,
        time::TimeRange,
    },
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
    storage::{
        promoter::{Declared, Evidence, FILES_AGREE, Promoter},
        scan::demand::Asked,
        writer::{Origin, WrittenFile, write_files},
    },
};

/// The allocator of the program, so that work costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;
const PERIOD: Duration = Duration::from_secs(600);

/// Spans that a server has in its buffer when it flushes by size.
const FLUSH_SPANS: usize = 200_000;

/// What Tempo stores, in bytes per span.
const TEMPO_SPAN_BYTES: f64 = 103.0;

fn main() {
    // `cargo test --benches` runs benchmarks too, to see that they build.
    if env::args().any(|arg| arg == "--test") {
        return;
    }
    let spans = env::var("BENCH_SPANS").map_or(1_000_000, |text| text.parse().unwrap());
    let flushes = flushes(spans);
    println!("{spans} spans, {} flushes; Tempo stores {TEMPO_SPAN_BYTES} bytes per span", flushes.len());
    println!(
        "{:<12} {:>8} {:>12} {:>14} {:>14} {:>14}",
        "promoted", "columns", "bytes/span", "shape s/1M", "write s/1M", "read s/1M"
    );
    let automatic = automatic(&flushes);
    report("none", &Promotion::default(), &flushes, (Origin::Flushed, spans));
    report("standard", &promotion::standard(), &flushes, (Origin::Flushed, spans));
    report("automatic", &automatic, &flushes, (Origin::Flushed, spans));
    let files = report("to stay", &automatic, &flushes, (Origin::Merged, spans));
    columns(&files, spans);
    layouts::report(&files, spans);
}

/// The workload in batches as a flush takes them.
fn flushes(spans: u64) -> Vec<SpanBatch> {
    let settings = WorkloadSettings::period(1, START_UNIX_NANO, PERIOD, spans);
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    let (mut flushes, mut open) = (Vec::new(), Vec::new());
    for request in Workload::new(settings) {
        let decoded = decode_protobuf(&request.encode_to_vec(), &promotion::standard(), &rules).unwrap();
        open.push(decoded.batch);
        if open.iter().map(SpanBatch::num_spans).sum::<usize>() >= FLUSH_SPANS {
            flushes.push(SpanBatch::concat(&open).unwrap());
            open.clear();
        }
    }
    if !open.is_empty() {
        flushes.push(SpanBatch::concat(&open).unwrap());
    }
    flushes
}

/// What a table promotes after some flushes like these.
fn automatic(flushes: &[SpanBatch]) -> Promotion {
    let promoter = Promoter::new(PromotionSettings::default());
    let mut chosen = Promotion::default();
    for flush in flushes.iter().cycle().take((FILES_AGREE as usize).max(flushes.len())) {
        let counts = residual_counts(slice::from_ref(flush));
        let evidence = Evidence { spans: flush.num_spans(), counts: &counts, asked: &Asked::default() };
        chosen = promoter.choose(&TenantId::single(), &Declared::default(), &evidence);
    }
    chosen
}

fn report(name: &str, set: &Promotion, flushes: &[SpanBatch], (origin, spans): (Origin, u64)) -> Vec<WrittenFile> {
    let started = thread_cpu();
    let shaped: Vec<SpanBatch> = flushes
        .iter()
        .map(|flush| {
            assert!(!residual_counts(slice::from_ref(flush)).is_empty());
            flush.promoted_as(set).unwrap()
        })
        .collect();
    let shape = thread_cpu() - started;
    let started = thread_cpu();
    let files: Vec<WrittenFile> =
        shaped.iter().flat_map(|flush| write_files(slice::from_ref(flush), origin).unwrap()).collect();
    let write = thread_cpu() - started;
    let started = thread_cpu();
    let read: usize = files.iter().map(|file| rows(&file.bytes)).sum();
    let read_cpu = thread_cpu() - started;
    assert_eq!(read as u64, spans);
    let bytes: u64 = files.iter().map(|file| file.bytes.len() as u64).sum();
    let columns = files.iter().map(|file| file.promoted.len()).max().unwrap_or(0);
    let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / spans as f64;
    println!(
        "{name:<12} {columns:>8} {:>12.1} {:>14.2} {:>14.2} {:>14.2}",
        bytes as f64 / spans as f64,
        per_million(shape),
        per_million(write),
        per_million(read_cpu)
    );
    files
}

fn rows(file: &Bytes) -> usize {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().build().unwrap();
    reader.map(|batch| batch.unwrap().num_rows()).sum()
}

/// Prints where the bytes of files are.
fn columns(files: &[WrittenFile], spans: u64) {
    let mut by_column: BTreeMap<String, i64> = BTreeMap::new();
    for file in files {
        let reader = SerializedFileReader::new(file.bytes.clone()).unwrap();
        for group in reader.metadata().row_groups() {
            for column in group.columns() {
                *by_column.entry(column.column_path().string()).or_default() += column.compressed_size();
                let bloom = column.bloom_filter_length().unwrap_or(0);
                *by_column.entry("(bloom filters)".to_owned()).or_default() += i64::from(bloom);
            }
        }
    }
    let traces: u64 = files.iter().filter_map(|file| file.traces.as_ref()).map(|bytes| bytes.end - bytes.start).sum();
    by_column.insert("(filters of trace ids)".to_owned(), traces as i64);
    let all: u64 = files.iter().map(|file| file.bytes.len() as u64).sum();
    let rest = all as i64 - by_column.values().sum::<i64>();
    by_column.insert("(footers and indexes)".to_owned(), rest);
    let mut sorted: Vec<_> = by_column.into_iter().collect();
    sorted.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    println!("\n{:<56} {:>12} {:>8}", "column", "bytes/span", "share");
    for (column, bytes) in sorted.iter().filter(|(_, bytes)| *bytes > 0) {
        let (per_span, share) = (*bytes as f64 / spans as f64, *bytes as f64 * 100.0 / all as f64);
        println!("{column:<56} {per_span:>12.3} {share:>7.1}%");
    }
}

/// Time that this thread has run so far.
fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}
