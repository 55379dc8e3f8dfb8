//! Senders that export every span by itself: the worst ratio of work and memory to data that is still honest.
//!
//! Through the sockets of a server process, half of them by gRPC and half by HTTP. What the process grows by is compared
//! with what the same spans take in its buffer. `TRACEHOUSE_ONE_SPAN_REQUESTS` sets how many.

use std::env;

use prost::Message;

use crate::support::{process::Server, spans, sql};

const REQUESTS: u64 = 3_000;
const SENDERS: u64 = 16;
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

    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let numbers = (1 + sender..=requests).step_by(SENDERS as usize);
        match sender % 2 {
            0 => senders.spawn(send_grpc(server.otlp_grpc.clone(), numbers)),
            _ => senders.spawn(send_http(server.otlp_http.clone(), numbers)),
        };
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }

    let peak = server.memory_bytes("VmHWM:");
    let buffered = metric(&server.tempo, "tracehouse_buffer_bytes", requests).await;
    assert!(buffered < requests * SPAN_BYTES_MAX, "{buffered} bytes for {requests} spans");
    let grown = peak - idle;
    assert!(grown < WARM_BYTES + RATIO_MAX * buffered, "the process grew by {grown} bytes for {buffered} of spans");

    let ids = sql::query(&server.flight, "SELECT DISTINCT span_id FROM spans").await.unwrap();
    assert_eq!(sql::text_column(&ids, "span_id").len() as u64, requests);
    server.kill();
}

async fn send_grpc(address: String, numbers: impl Iterator<Item = u64> + Send) {
    let mut sender = spans::sender(&address).await.unwrap();
    for number in numbers {
        spans::send(&mut sender, spans::request("one", [number], START_UNIX_NANO)).await.unwrap();
    }
}

async fn send_http(address: String, numbers: impl Iterator<Item = u64> + Send) {
    let (client, url) = (reqwest::Client::new(), format!("http://{address}/v1/traces"));
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
