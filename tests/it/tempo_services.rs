//! Routes of Tempo 2 and of our own, defaults that users expect, and the end of a server that is asked for it.

use serde_json::{Value, json};
use tracehouse::{
    clock::{Clock, SystemClock},
    server::Server,
};

use crate::{frame, tempo_http};

async fn get(server: &Server, path: &str, params: &[(&str, &str)]) -> (u16, String) {
    let base = format!("http://{}{path}", server.addresses().tempo);
    let url = reqwest::Url::parse_with_params(&base, params).unwrap();
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn json_of(server: &Server, path: &str, params: &[(&str, &str)]) -> Value {
    let (status, body) = get(server, path, params).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

const GRAPH: &str = "/api/metrics/service_graph";
const SUMMARY: &str = "/api/metrics/summary";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_their_calls_are_counted_from_stored_spans() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    for state in ["buffer", "file"] {
        check_graph(&server, state).await;
        check_summary(&server, state).await;
        assert_eq!(frame::get(&server, "/flush").await.status().as_u16(), 204);
    }
    server.stop().await.unwrap();
}

async fn check_graph(server: &Server, state: &str) {
    let graph = json_of(server, GRAPH, &[("start", "1795239000"), ("end", "1795239100")]).await;
    let edges = graph["edges"].as_array().unwrap();
    let [edge, visit] = edges.as_slice() else { panic!("{state}: {graph}") };
    assert_eq!((&visit["id"], &visit["calls"]), (&json!("virtual:user->frontend-web"), &json!(1)), "{state}");
    // PlaceOrder, which took 133.335593 ms.
    let time = 133.335_593;
    let expected = json!({
        "id": "frontend-web->checkout", "source": "frontend-web", "target": "checkout", "type": "service",
        "calls": 1, "errors": 0, "errorRate": 0.0, "averageMs": time, "p50Ms": time, "p95Ms": time, "p99Ms": time,
    });
    assert_eq!(edge, &expected, "{state}");
    let nodes = graph["nodes"].as_array().unwrap();
    let node = |id: &str| nodes.iter().find(|node| node["id"] == id).unwrap_or_else(|| panic!("{id}: {graph}"));
    // Besides PlaceOrder, what a consumer took from a queue.
    assert_eq!(node("checkout")["calls"], 2, "{state}");
    let web = node("frontend-web");
    assert!(web["calls"].as_i64().unwrap() >= 1 && web["errors"].as_i64().unwrap() >= 1, "{state}: {web}");
    assert!(graph.get("message").is_none(), "{state}");

    assert_eq!(json_of(server, GRAPH, &[]).await["edges"], graph["edges"], "{state}: all of time");
    let none = json_of(server, GRAPH, &[("start", "1795230000"), ("end", "1795230100")]).await;
    assert_eq!(none, json!({"nodes": [], "edges": []}), "{state}");
    let (status, text) = get(server, GRAPH, &[("start", "5")]).await;
    assert_eq!((status, text.starts_with("only one of start and end provided")), (400, true), "{text}");
    let (status, text) = get(server, GRAPH, &[("limit", "20000")]).await;
    assert_eq!((status, text.as_str()), (400, "limit 20000 exceeds max limit 10000"));
}

async fn check_summary(server: &Server, state: &str) {
    let range = [("start", "1795239000"), ("end", "1795239100")];
    let by_service = [("q", "{ true }"), ("groupBy", "resource.service.name,span.http.response.status_code")];
    let answer = json_of(server, SUMMARY, &[by_service.as_slice(), &range].concat()).await;
    let summaries = answer["summaries"].as_array().unwrap();
    let failed = summaries.iter().find(|summary| summary["series"][1]["value"]["n"] == "504").unwrap();
    assert_eq!((&failed["spanCount"], &failed["errorSpanCount"]), (&json!("1"), &json!("1")), "{state}: {failed}");
    let expected = json!([
        {"key": "resource.service.name", "value": {"type": 5, "s": "frontend-web"}},
        {"key": "span.http.response.status_code", "value": {"type": 3, "n": "504"}},
    ]);
    assert_eq!(failed["series"], expected, "{state}");
    let p50: u64 = failed["p50"].as_str().unwrap().parse().unwrap();
    assert!((30_000_000..80_000_000).contains(&p50), "{state}: 39.7 ms, rounded as quantiles are: {p50}");

    let all = json_of(server, SUMMARY, &[("q", "{ status = error }")]).await;
    let [one] = all["summaries"].as_array().unwrap().as_slice() else { panic!("{state}: {all}") };
    assert_eq!((&one["spanCount"], &one["errorSpanCount"], one.get("series")), (&json!("2"), &json!("2"), None));
    assert_eq!(json_of(server, SUMMARY, &[("q", "{ name = `nothing` }")]).await, json!({"summaries": []}));
    for (params, expected) in [
        (vec![], "invalid q: it is missing"),
        (vec![("q", "{} | rate()")], "invalid q: it must be one spanset filter"),
        (vec![("q", "{")], "invalid TraceQL query: parse error"),
        (vec![("q", "{}"), ("groupBy", "nope")], "invalid groupBy: nope"),
    ] {
        let (status, text) = get(server, SUMMARY, &params).await;
        assert!(status == 400 && text.starts_with(expected), "{expected}: {status} {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sends_no_spans_is_a_node_that_others_tell_of() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    let start = 1_795_239_000_000_000_000_u64;
    let span = |number: u64, parent: &str, kind: u8, status: u8, attributes: &[(&str, &str)]| {
        let attribute = |(key, value): &(&str, &str)| json!({"key": key, "value": {"stringValue": value}});
        json!({
            "traceId": format!("{:032x}", 5), "spanId": format!("{number:016x}"), "parentSpanId": parent, "name": "n",
            "kind": kind, "status": {"code": status}, "startTimeUnixNano": start.to_string(),
            "endTimeUnixNano": (start + number * 1_000_000).to_string(),
            "attributes": attributes.iter().map(attribute).collect::<Vec<_>>(),
        })
    };
    let root = format!("{:016x}", 1);
    let spans = [
        span(1, "", 2, 0, &[]),
        span(2, &root, 3, 0, &[("db.system", "postgresql"), ("db.name", "orders")]),
        span(4, &root, 3, 2, &[("db.system", "postgresql"), ("db.name", "orders")]),
        span(6, &root, 3, 0, &[("db.system.name", "redis")]),
        span(8, &root, 3, 0, &[("http.request.method", "GET")]),
        span(10, &root, 3, 2, &[("peer.service", "card-network")]),
        span(12, &root, 4, 0, &[("messaging.system", "kafka"), ("messaging.destination.name", "orders")]),
        // Somebody answers these two.
        span(14, &root, 3, 0, &[("peer.service", "shop-too")]),
        span(16, &format!("{:016x}", 14), 2, 0, &[]),
        span(18, &root, 4, 0, &[("messaging.system", "kafka")]),
        span(20, &format!("{:016x}", 18), 5, 0, &[]),
    ];
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]});
    let body = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).to_string();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);

    let graph = json_of(&server, GRAPH, &[]).await;
    let listed = |name: &str| {
        let items = graph[name].as_array().unwrap().iter();
        items.map(|item| (item["id"].as_str().unwrap(), item["calls"].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let expected = [
        ("shop->database:orders", 2),
        ("shop->database:redis", 1),
        ("shop->messaging:orders", 1),
        ("shop->virtual:card-network", 1),
        ("virtual:user->shop", 1),
    ];
    assert_eq!(listed("edges"), expected, "{graph}");
    let expected = [
        ("database:orders", 2),
        ("database:redis", 1),
        ("messaging:orders", 1),
        ("shop", 3),
        ("virtual:card-network", 1),
        ("virtual:user", 0),
    ];
    assert_eq!(listed("nodes"), expected, "{graph}");
    assert_eq!((&graph["nodes"][4]["errorRate"], &graph["nodes"][4]["type"]), (&json!(1.0), &json!("virtual")));
    assert_eq!((&graph["edges"][4]["averageMs"], &graph["edges"][4]["type"]), (&json!(1.0), &json!("virtual")));
    let orders = &graph["nodes"][0];
    assert_eq!((&orders["name"], &orders["type"]), (&json!("orders"), &json!("database")));
    assert_eq!((&orders["errorRate"], &orders["averageMs"]), (&json!(0.5), &json!(3.0)));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_the_old_search_may_lie_on_different_spans_of_a_trace() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let found = async |tags: &str| {
        let answer = json_of(&server, "/api/search", &[("tags", tags)]).await;
        let traces = answer["traces"].as_array().unwrap();
        traces.iter().map(|trace| trace["traceID"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The status is that of a span of the other service.
    assert_eq!(
        found("service.name=checkout http.response.status_code=504").await,
        ["710ec6be421f317a63a021cfac429c21"]
    );
    assert_eq!(found("name=Place status.code=error").await, ["710ec6be421f317a63a021cfac429c21"]);
    assert!(found("service.name=checkout http.response.status_code=505").await.is_empty());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_without_a_range_says_that_it_covers_everything() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let header = async |path: &str| {
        let response = frame::get(&server, path).await;
        response.headers().get("tracehouse-searched-range").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(header("/api/search?q=%7B%7D").await.as_deref(), Some("all"));
    assert_eq!(header("/api/search?q=%7B%7D&start=1795239000&end=1795239100").await, None);
    let mut client = crate::tempo_grpc::client(server.addresses().tempo).await;
    let request = tracehouse::api::tempo::tempopb::SearchRequest::default();
    let answer = client.search(request).await.unwrap();
    assert_eq!(answer.metadata().get("tracehouse-searched-range").unwrap(), "all");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_the_last_second_are_found_and_counted() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    let now = SystemClock.now_unix_nano();
    let span = json!({
        "traceId": "0000000000000000000000000000abcd", "spanId": "00000000000000ab", "name": "late", "kind": 2,
        "startTimeUnixNano": now.to_string(), "endTimeUnixNano": (now + 1_000).to_string(),
    });
    let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);

    let (start, end) = ((now / 1_000_000_000 - 60).to_string(), (now / 1_000_000_000).to_string());
    for range in [vec![], vec![("since", "1m")], vec![("start", start.as_str()), ("end", end.as_str())]] {
        let with = |more: &[(&'static str, &'static str)]| {
            more.iter().copied().chain(range.iter().copied()).collect::<Vec<(&str, &str)>>()
        };
        let found = json_of(&server, "/api/search", &with(&[("q", "{ name = `late` }")])).await;
        assert_eq!(found["traces"][0]["traceID"], "abcd", "{range:?}: {found}");
        let values = json_of(&server, "/api/v2/search/tag/name/values", &with(&[])).await;
        assert_eq!(values["tagValues"][0]["value"], "late", "{range:?}: {values}");
    }
    let end = (now / 1_000_000_000 + 1).to_string();
    let params = [("q", "{} | count_over_time()"), ("start", start.as_str()), ("end", end.as_str())];
    let counted = json_of(&server, "/api/metrics/query", &params).await;
    assert_eq!(counted["series"][0]["value"], 1, "{counted}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_is_asked_for_by_programs_of_the_same_machine_alone() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let url = format!("http://{}/shutdown", server.addresses().tempo);
    let client = reqwest::Client::new();
    let from_page = client.get(&url).header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(from_page.status().as_u16(), 403);
    let not_asked = tokio::time::timeout(std::time::Duration::from_millis(20), server.asked_to_stop()).await;
    assert!(not_asked.is_err());
    assert_eq!(client.post(&url).send().await.unwrap().status().as_u16(), 204);
    server.asked_to_stop().await;
    // What was buffered is in files by then.
    let tenants = data.path().join("tenants");
    let parquet = walk(&tenants).into_iter().filter(|path| path.ends_with(".parquet")).count();
    assert!(parquet > 0, "no file below {}", tenants.display());
    server.stop().await.unwrap();
}

/// All files below a folder.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path().display().to_string()),
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_stands_before_the_routes_of_tempo_and_no_others() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.server.tempo_prefix = "/team/tempo".to_owned();
    let server = frame::start(&settings).await;
    tempo_http::send(&server).await;
    for (path, expected) in [
        ("/team/tempo/api/echo", 200),
        ("/team/tempo/api/search?q=%7B%7D", 200),
        ("/team/tempo/api/v2/search/tag/span.http.route/values", 200),
        ("/team/tempo/api/v2/traces/710ec6be421f317a63a021cfac429c21", 200),
        ("/team/tempo/api/nothing", 404),
        ("/team/tempo/status/version", 404),
        ("/api/echo", 404),
        ("/api/search?q=%7B%7D", 404),
        ("/status/version", 200),
        ("/metrics", 200),
        ("/ready", 200),
    ] {
        assert_eq!(frame::get(&server, path).await.status().as_u16(), expected, "{path}");
    }
    let routes = frame::get(&server, "/status/endpoints").await.text().await.unwrap();
    assert!(routes.contains("/team/tempo/api/search\n") && routes.contains("\n/api/sql\n"), "{routes}");
    server.stop().await.unwrap();
}
