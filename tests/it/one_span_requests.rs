//! Senders that export every span by itself: the worst ratio of work and memory to data that is still honest.
//!
//! Through the sockets of a server process, half of them by gRPC, many at once on each connection, and half by HTTP. What
//! the process grows by is compared with what the same spans take in its buffer. `TRACEHOUSE_ONE_SPAN_REQUESTS` sets how
//! many; 100,000 of them took a debug build 85 s, 33 MB in its buffer, and 76 MB of the process.

use std::{env, time::Instant};

use prost::Message;

use crate::support::{process::Server, spans, sql};

const REQUESTS: u64 = 12_000;
const SENDERS: u64 = 256;
/// Connections that the senders by gRPC share.
const GRPC_CONNECTIONS: u64 = 8;
const START_UNIX_NANO: u64 = 1_795_239_000_000_000_000;

/// Memory that a server takes with its first requests, whatever they hold: threads, connections, the allocator's pages,
/// buffers of the log.
const WARM_BYTES: u64 = 128 << 20;

/// Times the buffered bytes that the process may grow by: merging holds parts and whole for a moment, and the digests
/// of requests are remembered.
const RATIO_MAX: u64 = 4;

/// A buffered span with its share of everything around it, as it is when it comes with many others.
const SPAN_BYTES_MAX: u64 = 1_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_span_take_memory_in_proportion_to_their_spans() {
    let requests = env::var("TRACEHOUSE_ONE_SPAN_REQUESTS").map_or(REQUESTS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    // Nothing is flushed, so that all spans are in memory.
    let settings = &["log.level=warn", "flush.age_max=24h"];
    let mut server = Server::start_with(folder.path(), settings, None).await.unwrap();
    let idle = server.memory_bytes("VmRSS:");

    let started = Instant::now();
    let mut channels = Vec::new();
    for _ in 0..GRPC_CONNECTIONS {
        channels.push(spans::sender(&server.otlp_grpc).await.unwrap());
    }
    let http = reqwest::Client::new();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let numbers = (1 + sender..=requests).step_by(SENDERS as usize);
        match sender % 2 {
            0 => senders.spawn(send_grpc(channels[(sender / 2 % GRPC_CONNECTIONS) as usize].clone(), numbers)),
            _ => senders.spawn(send_http(http.clone(), server.otlp_http.clone(), numbers)),
        };
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }

    let took = started.elapsed();
    let peak = server.memory_bytes("VmHWM:");
    let buffered = metric(&server.tempo, "tracehouse_buffer_bytes", requests).await;
    assert!(buffered < requests * SPAN_BYTES_MAX, "{buffered} bytes for {requests} spans");
    let grown = peak - idle;
    eprintln!("{requests} requests in {took:?}; {buffered} bytes of spans, {grown} bytes grown");
    assert!(grown < WARM_BYTES + RATIO_MAX * buffered, "the process grew by {grown} bytes for {buffered} of spans");

    let ids = sql::query(&server.flight, "SELECT DISTINCT span_id FROM spans").await.unwrap();
    assert_eq!(sql::text_column(&ids, "span_id").len() as u64, requests);
    server.kill();
}

async fn send_grpc(mut sender: spans::Sender, numbers: impl Iterator<Item = u64> + Send) {
    for number in numbers {
        spans::send(&mut sender, spans::request("one", [number], START_UNIX_NANO)).await.unwrap();
    }
}

async fn send_http(client: reqwest::Client, address: String, numbers: impl Iterator<Item = u64> + Send) {
    let url = format!("http://{address}/v1/traces");
    for number in numbers {
        let body = spans::request("one", [number], START_UNIX_NANO).encode_to_vec();
        let request = client.post(&url).header("content-type", "application/x-protobuf").body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.bytes().await.unwrap().is_empty(), "no span is rejected");
    }
}

/// The value of a gauge once the buffer is known to hold `spans`; the gauges are set a few times a second.
async fn metric(tempo: &str, name: &str, spans: u64) -> u64 {
    loop {
        let text = reqwest::get(format!("http://{tempo}/metrics")).await.unwrap().text().await.unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<u64>().ok()).unwrap()
        };
        if value("tracehouse_buffer_spans") == spans {
            return value(name);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
