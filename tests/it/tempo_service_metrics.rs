//! `/metrics/services`: what Prometheus scrapes for the service map.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracehouse::{clock::ManualClock, config::Settings, server::Server};

use crate::frame;

const NOW_SECONDS: i64 = 1_795_239_000;

/// A span of a service: trace, id, parent, name, kind, start and duration in milliseconds from now, more fields.
struct Sent<'a>(&'a str, u64, u64, u64, &'a str, u8, i64, i64, Value);

async fn send(server: &Server, spans: &[Sent<'_>]) {
    let resources: Vec<Value> = spans
        .iter()
        .map(|Sent(service, trace, id, parent, name, kind, start, duration, more)| {
            let at = |millis: i64| (NOW_SECONDS * 1_000_000_000 + millis * 1_000_000).to_string();
            let mut span = json!({
                "traceId": format!("{trace:032x}"), "spanId": format!("{id:016x}"), "name": name, "kind": kind,
                "startTimeUnixNano": at(*start), "endTimeUnixNano": at(start + duration),
            });
            if *parent > 0 {
                span["parentSpanId"] = json!(format!("{parent:016x}"));
            }
            for (key, value) in more.as_object().unwrap() {
                span[key] = value.clone();
            }
            let attributes = json!([{ "key": "service.name", "value": { "stringValue": service } }]);
            json!({ "resource": { "attributes": attributes }, "scopeSpans": [{ "spans": [span] }] })
        })
        .collect();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    let response = request.body(json!({ "resourceSpans": resources }).to_string()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "{}"));
}

/// The counters and the sums of histograms that are there, sorted.
async fn scrape(server: &Server) -> Vec<String> {
    let answer = frame::get(server, "/metrics/services").await;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let lines =
        text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{") && !line.contains("_count{"));
    lines.map(str::to_owned).collect()
}

async fn start(settings: impl FnOnce(&mut Settings)) -> (tempfile::TempDir, Arc<ManualClock>, Server) {
    let data = tempfile::tempdir().unwrap();
    let mut given = frame::settings(data.path());
    settings(&mut given);
    let clock = Arc::new(ManualClock::new(NOW_SECONDS * 1_000_000_000));
    let server = Server::start(&given, Arc::clone(&clock) as _).await.unwrap();
    (data, clock, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_counted_once_after_its_delay() {
    let (_data, clock, server) = start(|_| {}).await;
    let nothing = vec!["tracehouse_service_metrics_left_out_total 0".to_owned()];
    let store = json!({ "attributes": [
        { "key": "db.system.name", "value": { "stringValue": "postgresql" } },
        { "key": "db.namespace", "value": { "stringValue": "stock" } }
    ] });
    let failed = json!({ "status": { "code": 2 } });
    let peer = |key: &str, name: &str| json!({ "attributes": [{ "key": key, "value": { "stringValue": name } }] });
    send(&server, &[Sent("gateway", 1, 1, 0, "before", 2, -60_000, 10, json!({}))]).await;
    assert_eq!(scrape(&server).await, nothing);
    send(
        &server,
        &[
            Sent("gateway", 2, 1, 0, "GET /", 2, 1_000, 500, json!({})),
            Sent("gateway", 2, 2, 1, "call", 3, 1_010, 480, json!({})),
            Sent("orders", 2, 3, 2, "GET /orders", 2, 1_020, 250, failed),
            Sent("orders", 2, 4, 3, "SELECT", 3, 1_030, 125, store),
            Sent("orders", 2, 5, 3, "publish", 4, 1_200, 1, json!({})),
            Sent("mailer", 2, 6, 5, "process", 5, 1_300, 2_000, json!({})),
            Sent("orders", 2, 7, 3, "charge", 3, 1_040, 250, peer("peer.service", "card-network")),
            Sent("orders", 2, 8, 3, "announce", 4, 1_040, 250, peer("messaging.system", "kafka")),
        ],
    )
    .await;
    // They may still be on their way.
    clock.advance(Duration::from_secs(20));
    assert_eq!(scrape(&server).await, nothing);
    clock.advance(Duration::from_secs(20));
    let counted = [
        r#"traces_service_graph_request_client_seconds_sum{client="gateway",connection_type="",server="orders"} 0.48"#,
        r#"traces_service_graph_request_client_seconds_sum{client="orders",connection_type="database",server="stock"} 0.125"#,
        r#"traces_service_graph_request_client_seconds_sum{client="orders",connection_type="messaging_system",server="kafka"} 0.25"#,
        r#"traces_service_graph_request_client_seconds_sum{client="orders",connection_type="messaging_system",server="mailer"} 0.001"#,
        r#"traces_service_graph_request_client_seconds_sum{client="orders",connection_type="virtual_node",server="card-network"} 0.25"#,
        r#"traces_service_graph_request_client_seconds_sum{client="user",connection_type="virtual_node",server="gateway"} 0.5"#,
        r#"traces_service_graph_request_failed_total{client="gateway",connection_type="",server="orders"} 1"#,
        r#"traces_service_graph_request_failed_total{client="orders",connection_type="database",server="stock"} 0"#,
        r#"traces_service_graph_request_failed_total{client="orders",connection_type="messaging_system",server="kafka"} 0"#,
        r#"traces_service_graph_request_failed_total{client="orders",connection_type="messaging_system",server="mailer"} 0"#,
        r#"traces_service_graph_request_failed_total{client="orders",connection_type="virtual_node",server="card-network"} 0"#,
        r#"traces_service_graph_request_failed_total{client="user",connection_type="virtual_node",server="gateway"} 0"#,
        r#"traces_service_graph_request_server_seconds_sum{client="gateway",connection_type="",server="orders"} 0.25"#,
        r#"traces_service_graph_request_server_seconds_sum{client="orders",connection_type="database",server="stock"} 0.125"#,
        r#"traces_service_graph_request_server_seconds_sum{client="orders",connection_type="messaging_system",server="kafka"} 0.25"#,
        r#"traces_service_graph_request_server_seconds_sum{client="orders",connection_type="messaging_system",server="mailer"} 2"#,
        r#"traces_service_graph_request_server_seconds_sum{client="orders",connection_type="virtual_node",server="card-network"} 0.25"#,
        r#"traces_service_graph_request_server_seconds_sum{client="user",connection_type="virtual_node",server="gateway"} 0.5"#,
        r#"traces_service_graph_request_total{client="gateway",connection_type="",server="orders"} 1"#,
        r#"traces_service_graph_request_total{client="orders",connection_type="database",server="stock"} 1"#,
        r#"traces_service_graph_request_total{client="orders",connection_type="messaging_system",server="kafka"} 1"#,
        r#"traces_service_graph_request_total{client="orders",connection_type="messaging_system",server="mailer"} 1"#,
        r#"traces_service_graph_request_total{client="orders",connection_type="virtual_node",server="card-network"} 1"#,
        r#"traces_service_graph_request_total{client="user",connection_type="virtual_node",server="gateway"} 1"#,
        r#"traces_spanmetrics_calls_total{service="gateway",span_kind="SPAN_KIND_SERVER",span_name="GET /",status_code="STATUS_CODE_UNSET"} 1"#,
        r#"traces_spanmetrics_calls_total{service="mailer",span_kind="SPAN_KIND_CONSUMER",span_name="process",status_code="STATUS_CODE_UNSET"} 1"#,
        r#"traces_spanmetrics_calls_total{service="orders",span_kind="SPAN_KIND_SERVER",span_name="GET /orders",status_code="STATUS_CODE_ERROR"} 1"#,
        r#"traces_spanmetrics_latency_sum{service="gateway",span_kind="SPAN_KIND_SERVER",span_name="GET /",status_code="STATUS_CODE_UNSET"} 0.5"#,
        r#"traces_spanmetrics_latency_sum{service="mailer",span_kind="SPAN_KIND_CONSUMER",span_name="process",status_code="STATUS_CODE_UNSET"} 2"#,
        r#"traces_spanmetrics_latency_sum{service="orders",span_kind="SPAN_KIND_SERVER",span_name="GET /orders",status_code="STATUS_CODE_ERROR"} 0.25"#,
    ];
    let mut found = scrape(&server).await;
    assert_eq!(found.remove(0), nothing[0]);
    assert_eq!(found, counted);
    // Nothing is counted again, in files neither.
    frame::get(&server, "/flush").await;
    clock.advance(Duration::from_secs(20));
    let mut found = scrape(&server).await;
    found.remove(0);
    assert_eq!(found, counted);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_series_leaves_out_and_says_so() {
    let (_data, clock, server) = start(|settings| settings.query.service_metrics_series_max = 3).await;
    scrape(&server).await;
    let request = |id: u64, name| Sent("gateway", id, 1, 0, name, 5, 1_000, 5, json!({}));
    let names = ["a", "b", "c", "d", "a", "d"];
    let spans: Vec<Sent<'_>> = (1..).zip(names).map(|(id, name)| request(id, name)).collect();
    send(&server, &spans).await;
    clock.advance(Duration::from_secs(60));
    let found = scrape(&server).await;
    let calls: Vec<&str> = found
        .iter()
        .filter_map(|line| line.strip_prefix("traces_spanmetrics_calls_total{service=\"gateway\","))
        .filter_map(|rest| rest.rsplit_once(' ').map(|(_, value)| value))
        .collect();
    let sum: u64 = calls.iter().map(|value| value.parse::<u64>().unwrap()).sum();
    assert_eq!(calls.len(), 3, "{found:?}");
    let left_out = found[0].strip_prefix("tracehouse_service_metrics_left_out_total ").unwrap();
    assert_eq!(sum + left_out.parse::<u64>().unwrap(), 6, "{found:?}");
    server.stop().await.unwrap();
}
