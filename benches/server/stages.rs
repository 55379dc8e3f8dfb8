//! The write path stage by stage, in this process and on one thread: what each costs for the same spans.
//!
//! ```text
//!  OTLP bytes -> decode -> merge -> log record -> append + sync -> buffer -> parquet
//!                                   log record -> replay
//! ```
//!
//! The sum is the floor of what a server spends; its network, its scheduling and its commits come on top.

use std::sync::Arc;

use prost::Message;
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::SystemClock,
    demo::{Workload, WorkloadSettings},
    ingest::record,
    live::Live,
    model::{batch::SpanBatch, promotion, tenant::TenantId, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
    storage::{store::Store, writer},
    wal::{Log, NewRecord, WalSettings},
};

use crate::{
    measure::Timer,
    table::{self, Stage},
};

/// Requests that a server under load commits to its log together.
const GROUP_REQUESTS: usize = 4;

/// Buffered bytes at which a server flushes by default.
const FLUSH_BYTES: usize = 96 << 20;

#[derive(Debug, Default)]
struct Timers {
    decode: Timer,
    merge: Timer,
    record: Timer,
    append: Timer,
    buffer: Timer,
    parquet: Timer,
    replay: Timer,
}

#[derive(Debug, Default)]
struct Bytes {
    otlp: u64,
    decoded: u64,
    merged: u64,
    records: u64,
    log: u64,
    flushed: u64,
    parquet: u64,
}

/// Runs the stages over a workload of so many spans and prints them.
pub(crate) fn run(settings: WorkloadSettings, spans: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(&folder.path().join("wal"), WalSettings::default()).unwrap();
    let store = Store::local(folder.path()).unwrap();
    let catalog = Catalog::open(store, Arc::new(SystemClock), CatalogSettings::default());
    let live = Live::new(log.id(), Arc::new(catalog));
    let (tenant, promotion) = (TenantId::single(), promotion::standard());
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    let (mut timers, mut bytes) = (Timers::default(), Bytes::default());
    let (mut encoder, mut payload) = (record::Encoder::default(), Vec::new());
    let mut requests = Workload::new(settings).map(|request| request.encode_to_vec()).peekable();
    while requests.peek().is_some() {
        let group: Vec<Vec<u8>> = requests.by_ref().take(GROUP_REQUESTS).collect();
        let mut batches = Vec::new();
        for request in &group {
            let decoded = timers.decode.time(|| decode_protobuf(request, &promotion, &rules).unwrap());
            assert!(decoded.rejected.is_empty());
            bytes.otlp += request.len() as u64;
            bytes.decoded += decoded.batch.memory_bytes() as u64;
            batches.push(decoded.batch);
        }
        let batch = timers.merge.time(|| SpanBatch::concat(&batches).unwrap());
        bytes.merged += batch.memory_bytes() as u64;
        timers.record.time(|| {
            payload.clear();
            encoder.encode(&batch, &mut payload).unwrap()
        });
        bytes.records += payload.len() as u64;
        let record = NewRecord { tenant: &tenant, received_unix_nano: 1, digests: &[], payload: &payload };
        let appended = timers.append.time(|| log.append_group(&[record]).unwrap());
        bytes.log += appended.bytes;
        timers.buffer.time(|| {
            drop(batches);
            live.push(&tenant, appended.numbers[0], batch, 1);
        });
        if live.buffered_bytes() >= FLUSH_BYTES || requests.peek().is_none() {
            flush(&live, &tenant, &mut timers, &mut bytes);
        }
    }
    let replayed: u64 = timers
        .replay
        .time(|| log.replay().map(|record| record::decode(&record.unwrap().payload).unwrap().num_spans() as u64).sum());
    assert_eq!(replayed, spans);

    let stage =
        |name, timer: Timer, bytes_in, bytes_out| Stage { name, cpu: timer.cpu, wall: timer.wall, bytes_in, bytes_out };
    let stages = [
        stage("decode OTLP", timers.decode, bytes.otlp, bytes.decoded),
        stage("merge requests of a group", timers.merge, bytes.decoded, bytes.merged),
        stage("encode and compress a log record", timers.record, bytes.merged, bytes.records),
        stage("append to the log, sync", timers.append, bytes.records, bytes.log),
        stage("buffer, merging neighbours", timers.buffer, bytes.merged, bytes.flushed),
        stage("sort and write parquet", timers.parquet, bytes.flushed, bytes.parquet),
    ];
    let total: f64 = stages.iter().map(|stage| stage.per_million(spans)).sum();
    table::title("stages of the write path, one thread in this process; bytes per span");
    table::ingest_header();
    for stage in stages {
        stage.print(spans, total);
    }
    println!("  {:<34} {total:>12.2}", "sum");
    stage("replay the log (after a restart)", timers.replay, bytes.log, bytes.merged).print(spans, total);
}

fn flush(live: &Live, tenant: &TenantId, timers: &mut Timers, bytes: &mut Bytes) {
    let sealed = live.seal(tenant).unwrap();
    let batches: Vec<SpanBatch> = sealed.batches.iter().map(|buffered| buffered.batch.clone()).collect();
    bytes.flushed += batches.iter().map(|batch| batch.memory_bytes() as u64).sum::<u64>();
    let files = timers.parquet.time(|| writer::write_files(&batches, writer::Origin::Flushed).unwrap());
    bytes.parquet += files.iter().map(|file| file.bytes.len() as u64).sum::<u64>();
    live.release(tenant, sealed.through);
}
