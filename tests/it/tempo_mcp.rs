//! The Model Context Protocol, message by message, as an assistant's client sends it.

use serde_json::{Value, json};
use tracehouse::server::Server;

use crate::{frame, tempo_http};

async fn post(server: &Server, message: &Value) -> (u16, Value) {
    let url = format!("http://{}/api/mcp", server.addresses().tempo);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    let request = request.header("accept", "application/json, text/event-stream").body(message.to_string());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
}

async fn ask(server: &Server, method: &str, params: Value) -> Value {
    let (status, answer) = post(server, &json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})).await;
    assert_eq!((status, &answer["jsonrpc"], &answer["id"]), (200, &json!("2.0"), &json!(7)), "{method}: {answer}");
    answer
}

/// The text of a tool's result, and whether it is an error.
pub(crate) async fn tool(server: &Server, name: &str, arguments: Value) -> (String, bool) {
    let answer = ask(server, "tools/call", json!({"name": name, "arguments": arguments})).await;
    let result = &answer["result"];
    assert_eq!(result["content"][0]["type"], "text", "{answer}");
    (result["content"][0]["text"].as_str().unwrap().to_owned(), result["isError"] == true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assistants_find_traces_by_the_tools_of_tempo() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let hello =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let hello = ask(&server, "initialize", hello).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(hello["result"]["serverInfo"]["name"], "tempo");
    assert_eq!(post(&server, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await.0, 202);
    let tools = ask(&server, "tools/list", json!({})).await;
    let names: Vec<&str> =
        tools["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let expected = [
        "traceql-search",
        "traceql-metrics-instant",
        "traceql-metrics-range",
        "get-trace",
        "get-attribute-names",
        "get-attribute-values",
        "docs-traceql",
    ];
    assert_eq!(names, expected);

    let (start, end) = ("2026-11-21T05:30:00Z", "2026-11-21T05:32:00Z");
    let ranged = |query: &str| json!({"query": query, "start": start, "end": end});
    let (text, _) = tool(&server, "traceql-search", ranged("{ status = error }")).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["traces"][0]["traceID"], "710ec6be421f317a63a021cfac429c21", "{text}");
    let (text, _) = tool(&server, "traceql-metrics-instant", ranged("{ status = error } | count_over_time()")).await;
    let counted: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(counted["series"][0]["value"], 2, "{text}");
    let (text, _) = tool(&server, "traceql-metrics-range", ranged("{} | rate() by(name)")).await;
    assert!(text.contains("PlaceOrder"), "{text}");
    let (text, _) = tool(&server, "get-trace", json!({"trace_id": "710ec6be421f317a63a021cfac429c21"})).await;
    assert!(text.contains("PlaceOrder") && serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    let (text, _) = tool(&server, "get-attribute-names", json!({"scope": "event"})).await;
    assert_eq!(text, r#"{"scopes":[{"name":"event","tags":["exception.message"]}]}"#);
    let arguments = json!({"name": "span.http.response.status_code", "filter-query": "{ kind = client }"});
    let (text, _) = tool(&server, "get-attribute-values", arguments).await;
    assert_eq!(text, r#"{"tagValues":[{"type":"int","value":"504"}]}"#);
    let (text, _) = tool(&server, "docs-traceql", json!({"name": "structural"})).await;
    assert!(text.starts_with("# TraceQL"), "{text}");
    let resources = ask(&server, "resources/list", json!({})).await;
    let uri = resources["result"]["resources"][0]["uri"].clone();
    let read = ask(&server, "resources/read", json!({"uri": uri})).await;
    assert!(read["result"]["contents"][0]["text"].as_str().unwrap().starts_with("# TraceQL"));
    check_errors(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assistants_hear_of_an_answer_from_a_part_of_a_giant_trace() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    settings.query.trace_spans_max = 1;
    let server = frame::start(&settings).await;
    tempo_http::send(&server).await;
    let arguments =
        json!({"query": "{ } | count() > 0", "start": "2026-11-21T05:30:00Z", "end": "2026-11-21T05:32:00Z"});
    let answer = ask(&server, "tools/call", json!({"name": "traceql-search", "arguments": arguments})).await;
    let content = answer["result"]["content"].as_array().unwrap();
    let why = content[1]["text"].as_str().unwrap();
    assert!(content[0]["text"].as_str().unwrap().starts_with("{\"traces\":[{"), "{answer}");
    assert!(why.starts_with("the answer is partial: ") && why.contains("query.trace_spans_max = 1 "), "{answer}");
    server.stop().await.unwrap();
}

async fn check_errors(server: &Server) {
    for (name, arguments, expected) in [
        ("traceql-search", json!({"query": "{"}), "parse error"),
        ("traceql-search", json!({}), "traceql-search needs the argument query"),
        ("traceql-metrics-range", json!({"query": "{}"}), "not a metrics query"),
        ("get-trace", json!({"trace_id": "abab"}), "no trace has this id"),
        ("get-attribute-names", json!({"scope": "nope"}), "invalid scope: nope"),
        ("docs-traceql", json!({"name": "nope"}), "invalid name: \"nope\" is none of basic, aggregates"),
    ] {
        let (text, is_error) = tool(server, name, arguments).await;
        assert!(is_error && text.contains(expected), "{name}: {text}");
    }
    for (method, params, code) in [
        ("nope", json!({}), -32601),
        ("tools/call", json!({"name": "nope"}), -32602),
        ("resources/read", json!({"uri": "docs://nope"}), -32602),
    ] {
        assert_eq!(ask(server, method, params).await["error"]["code"], code, "{method}");
    }
    let (_, answer) = post(server, &json!({"id": 1})).await;
    assert_eq!(answer["error"]["code"], -32600);
    let url = format!("http://{}/api/mcp", server.addresses().tempo);
    let client = reqwest::Client::new();
    let torn: Value = client.post(&url).body("{").send().await.unwrap().json().await.unwrap();
    assert_eq!(torn["error"]["code"], -32700);
    assert_eq!(client.get(&url).send().await.unwrap().status().as_u16(), 405);
    let foreign = client.post(&url).header("origin", "http://evil.example").body("{}").send().await.unwrap();
    assert_eq!(foreign.status().as_u16(), 403);
}
