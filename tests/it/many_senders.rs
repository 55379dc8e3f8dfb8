//! Many who send at once into a buffer that is far too small for what they send: writes are refused and tried again while
//! flushes make room, and in the end each span is there once, with its owner.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use tokio::task::JoinSet;
use tracehouse::{
    clock::{Clock, ManualClock},
    config::{ByteSize, Settings},
    error::ErrorKind,
    ingest::WriteRequest,
    live::Live,
    model::tenant::TenantId,
    query::{QueryEngine, QueryRequest},
};

use crate::{
    frame,
    ingest::{self, House, NOW, quiet},
    maintain,
    support::{spans, sql},
};

const TENANTS: u64 = 8;
const REQUESTS: u64 = 30;
const SPANS: u64 = 40;
const OF_TENANT: u64 = REQUESTS * SPANS;
const BUFFER_BYTES: usize = 256 << 10;

/// Only pressure flushes.
fn small_buffer(settings: Settings) -> Settings {
    let mut settings = settings;
    settings.flush.age_max = quiet().flush.age_max;
    settings.buffer.bytes_max = ByteSize::from_bytes(BUFFER_BYTES as u64);
    settings
}

fn tenant(number: u64) -> TenantId {
    TenantId::parse(&format!("tenant-{number}")).unwrap()
}

/// The numbers of the spans of a tenant's request; no two share one.
fn numbers(tenant: u64, request: u64) -> Range<u64> {
    let first = tenant * 1_000_000 + request * SPANS + 1;
    first..first + SPANS
}

/// Sends what a tenant has to send, each request until it is taken, and some of them once more, as after an answer that was
/// lost. How often it was refused.
async fn send_all(house: Arc<House>, of: u64) -> usize {
    let mut refused = 0;
    for request in 0..REQUESTS {
        let mut times = if request % 5 == 0 { 2 } else { 1 };
        while times > 0 {
            let batch = ingest::batch(numbers(of, request));
            let digest = u128::from(numbers(of, request).start);
            let request = WriteRequest { batch, digest, received_unix_nano: NOW };
            match house.ingest.write(&tenant(of), request).await {
                Ok(_) => times -= 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
    refused
}

/// The most bytes that the buffers hold at any time until `is_over`.
async fn peak(live: Arc<Live>, is_over: Arc<AtomicBool>) -> usize {
    let mut peak = 0;
    while !is_over.load(Ordering::Relaxed) {
        peak = peak.max(live.buffered_bytes());
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    peak
}

/// Demands that a tenant sees its own spans, each once, and no others.
async fn check_tenant(engine: &QueryEngine, of: u64) {
    let numbers = "attr_int(span_attributes, 'order')";
    let text = format!("SELECT count(*), count(DISTINCT span_id), min({numbers}), max({numbers}) FROM spans");
    let stream = engine.execute(QueryRequest::sql(tenant(of), &text)).await.unwrap();
    let (batches, _) = stream.collect().await.unwrap();
    let row: &RecordBatch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
    let value = |column: usize| row.column(column).as_primitive::<Int64Type>().value(0) as u64;
    let (first, last) = (numbers_of(of).start, numbers_of(of).end - 1);
    assert_eq!([0, 1, 2, 3].map(value), [OF_TENANT, OF_TENANT, first, last], "tenant {of}");
}

fn numbers_of(tenant: u64) -> Range<u64> {
    numbers(tenant, 0).start..numbers(tenant, REQUESTS).start
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tenants_that_fill_the_buffer_together_keep_each_span_once_and_to_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let house = Arc::new(House::open(folder.path(), small_buffer(quiet())).await);
    let is_over = Arc::new(AtomicBool::new(false));
    let peak = tokio::spawn(peak(Arc::clone(house.ingest.live()), Arc::clone(&is_over)));
    let mut senders = JoinSet::new();
    (0..TENANTS).for_each(|tenant| drop(senders.spawn(send_all(Arc::clone(&house), tenant))));
    let mut refused = 0;
    while let Some(sender) = senders.join_next().await {
        refused += sender.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let peak = peak.await.unwrap();
    assert!(refused > 0, "the buffer was never full");
    // A request is taken as long as there is room at all, so each sender may have been a request over.
    let request_bytes = ingest::batch(numbers(0, 0)).memory_bytes();
    let limit = BUFFER_BYTES + TENANTS as usize * request_bytes;
    assert!(peak <= limit, "{peak} bytes in the buffer, {limit} at most");
    assert!(peak > BUFFER_BYTES / 2, "{peak} bytes are no pressure");

    for of in 0..TENANTS {
        let view = house.ingest.live().view(&tenant(of)).await.unwrap();
        assert!(view.snapshot().rows() > OF_TENANT / 2, "{} spans of tenant {of} are in files", view.snapshot().rows());
    }
    let engine = house.engine(folder.path());
    for of in 0..TENANTS {
        check_tenant(&engine, of).await;
    }
    drop(engine);

    // The same after a crash, and after the files of each have become few.
    ingest::crash(Arc::into_inner(house).unwrap()).await;
    let house = House::open(folder.path(), small_buffer(quiet())).await;
    let engine = house.engine(folder.path());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    for of in 0..TENANTS {
        check_tenant(&engine, of).await;
        let report = maintain::compact_tenant(house.ingest.live().catalog(), &clock, &tenant(of)).await;
        assert!(report.merges > 0, "{report:?}");
        check_tenant(&engine, of).await;
    }
}

const START_UNIX_NANO: u64 = NOW as u64;

/// Sends by gRPC, each request until it is taken. How often it was refused.
async fn send_grpc(address: String, of: u64) -> usize {
    let mut sender = spans::sender(&address).await.unwrap();
    let mut refused = 0;
    for request in 0..REQUESTS {
        let request = spans::request(&format!("sender-{of}"), numbers(of, request), START_UNIX_NANO);
        while let Err(status) = spans::send(&mut sender, request.clone()).await {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
            refused += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_with_a_small_buffer_refuses_flushes_and_stores_all_that_its_senders_retry() {
    let folder = tempfile::tempdir().unwrap();
    let server = frame::start(&small_buffer(frame::settings(folder.path()))).await;
    let address = server.addresses().otlp_grpc.to_string();
    let mut senders = JoinSet::new();
    (0..TENANTS).for_each(|of| drop(senders.spawn(send_grpc(address.clone(), of))));
    let mut refused = 0;
    while let Some(sender) = senders.join_next().await {
        refused += sender.unwrap();
    }
    assert!(refused > 0, "the buffer was never full");
    let metrics = frame::get(&server, "/metrics").await.text().await.unwrap();
    let metric = |name: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
        value.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"))
    };
    assert_eq!(metric("tracehouse_ingest_in_flight_bytes "), 0);
    assert_eq!(metric("tracehouse_ingest_requests_total{outcome=\"retry\",protocol=\"otlp_grpc\"} "), refused);
    assert!(metric("tracehouse_flush_spans_total ") > (TENANTS * OF_TENANT) as usize / 2, "{metrics}");

    let text =
        "SELECT name || ' ' || count(*) || ' ' || count(DISTINCT span_id) AS line FROM spans GROUP BY name ORDER BY 1";
    let lines = sql::query(&server.addresses().flight.to_string(), text).await.unwrap();
    let expected: Vec<_> = (0..TENANTS).map(|of| format!("sender-{of} {OF_TENANT} {OF_TENANT}")).collect();
    assert_eq!(sql::text_column(&lines, "line"), expected);
    server.stop().await.unwrap();
}
