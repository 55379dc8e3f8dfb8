//! Traces by id in other forms than they were sent in: with summaries of what repeats, and compressed.

use opentelemetry_proto::tonic::{common::v1::any_value, trace::v1::TracesData};
use prost::Message;
use serde_json::{Value, json};
use tracehouse::server::Server;

use crate::{frame, tempo_http, tempo_strict};

const ID: &str = "00000000000000000000000000000abc";
const START: u64 = 1_795_239_000_000_000_000;
const MILLI: u64 = 1_000_000;

/// Sends a trace: a root, `leaves` calls of a store by each of its two handlers, and one call that no other is like.
async fn send(server: &Server, leaves: u64) {
    let mut spans = Vec::new();
    let mut span = |id: u64, parent: Option<u64>, name: &str, millis: u64| {
        spans.push(json!({
            "traceId": ID, "spanId": format!("{id:016x}"), "parentSpanId": parent.map(|id| format!("{id:016x}")),
            "name": name, "kind": 3, "startTimeUnixNano": (START + id * MILLI).to_string(),
            "endTimeUnixNano": (START + (id + millis) * MILLI).to_string(),
            "attributes": [{"key": "db.row", "value": {"intValue": id.to_string()}}],
        }));
    };
    span(1, None, "order", 500);
    for handler in [100, 200] {
        span(handler, Some(1), "load item", 50);
        (1..=leaves).for_each(|leaf| span(handler + leaf, Some(handler), "SELECT stock", leaf));
    }
    span(300, Some(1), "UPDATE stock", 7);
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]});
    let body = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).to_string();
    let url = format!("http://{}/v1/traces", server.addresses().otlp_http);
    let request = reqwest::Client::new().post(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}

async fn get(server: &Server, path: &str) -> Value {
    let answer = frame::get(server, path).await;
    let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{path}: {body}");
    assert_eq!(tempo_strict::check(path.split('?').next().unwrap(), &body), Ok(()), "{path}");
    serde_json::from_str(&body).unwrap()
}

/// The spans of an answer in JSON, by name.
fn spans(list: &Value) -> Vec<Value> {
    let resources = list.as_array().unwrap().iter();
    let scopes = resources.flat_map(|resource| resource["scopeSpans"].as_array().unwrap());
    let mut spans: Vec<Value> = scopes.flat_map(|scope| scope["spans"].as_array().unwrap().clone()).collect();
    spans.sort_by_key(|span| span["name"].as_str().unwrap().to_owned());
    spans
}

fn told<'a>(span: &'a Value, name: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let attribute = attributes.iter().find(|attribute| attribute["key"] == format!("aggregation.{name}"));
    &attribute.unwrap_or_else(|| panic!("{name}: {span}"))["value"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_that_are_alike_are_one_span_for_those_who_ask() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    send(&server, 4).await;
    for state in ["buffer", "file"] {
        check_summaries(&server, state).await;
        assert_eq!(frame::get(&server, "/flush").await.status().as_u16(), 204);
    }
    server.stop().await.unwrap();
}

async fn check_summaries(server: &Server, state: &str) {
    let path = format!("/api/v2/traces/{ID}");
    let whole = get(server, &path).await;
    assert_eq!((spans(&whole["trace"]["resourceSpans"]).len(), &whole["status"]), (12, &Value::Null), "{state}");
    assert_eq!(get(server, &format!("{path}?span_pruning=false")).await, whole, "{state}");
    // The first version has every span whatever is asked.
    let first = get(server, &format!("/api/traces/{ID}?span_pruning=true")).await;
    assert_eq!(spans(&first["batches"]).len(), 12, "{state}");

    let pruned = get(server, &format!("{path}?span_pruning=true")).await;
    let message = "Repeated spans are summarised, span_pruning=false returns all of them";
    assert_eq!((pruned["status"].as_str(), pruned["message"].as_str()), (Some("PARTIAL"), Some(message)), "{state}");
    let left = spans(&pruned["trace"]["resourceSpans"]);
    let [calls, update, handlers, root] = left.as_slice() else { panic!("{state}: {left:?}") };
    assert_eq!((&root["name"], &update["name"]), (&json!("order"), &json!("UPDATE stock")), "{state}");
    assert_eq!(told(handlers, "span_count"), &json!({"intValue": "2"}), "{state}");
    assert_eq!(told(calls, "span_count"), &json!({"intValue": "8"}), "{state}");
    assert_eq!(told(calls, "duration_max_ns"), &json!({"intValue": "4000000"}), "{state}");
    assert_eq!(calls["parentSpanId"], handlers["spanId"], "{state}");
    assert_eq!(handlers["parentSpanId"], root["spanId"], "{state}");
    assert_eq!(calls["startTimeUnixNano"], (START + 101 * MILLI).to_string(), "{state}");

    // In the encoding that Grafana asks for, the same.
    let url = format!("http://{}{path}?span_pruning=true", server.addresses().tempo);
    let request = reqwest::Client::new().get(url).header("accept", "application/protobuf");
    let bytes = request.send().await.unwrap().bytes().await.unwrap();
    let mut bytes = &bytes[..];
    let (tag, length) = (bytes[0], prost::encoding::decode_varint(&mut &bytes[1..]).unwrap());
    assert_eq!(tag, 0x0a, "{state}");
    bytes = &bytes[1 + prost::encoding::encoded_len_varint(length)..][..usize::try_from(length).unwrap()];
    let trace = TracesData::decode(bytes).unwrap();
    let spans = &trace.resource_spans[0].scope_spans[0].spans;
    let is_marked = spans.iter().flat_map(|span| &span.attributes).filter(|attribute| {
        let truth = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        attribute.key == "aggregation.is_summary" && truth == Some(&any_value::Value::BoolValue(true))
    });
    assert_eq!((spans.len(), is_marked.count()), (4, 2), "{state}");
    assert!(spans.iter().all(|span| span.status.is_some()), "{state}");

    // What a request chooses: rows all differ, and parents stay.
    let by_row = get(server, &format!("{path}?span_pruning=true&span_pruning_group_by=db.*")).await;
    assert_eq!(by_row, whole, "{state}");
    let leaves = get(server, &format!("{path}?span_pruning=true&span_pruning_max_parent_depth=0")).await;
    assert_eq!(self::spans(&leaves["trace"]["resourceSpans"]).len(), 5, "{state}");
    // A filter comes first, and the answer says both.
    let query = "q=%7B%20name%20%3D%20%22SELECT%20stock%22%20%7D&keep_hierarchy=true";
    let filtered = get(server, &format!("{path}?span_pruning=true&{query}")).await;
    assert_eq!(self::spans(&filtered["trace"]["resourceSpans"]).len(), 3, "{state}");
    let said = filtered["message"].as_str().unwrap();
    assert!(said.starts_with("Trace filtered, ") && said.ends_with(message), "{state}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_for_clients_that_take_it() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    for path in ["/api/v2/traces/710ec6be421f317a63a021cfac429c21", "/api/search?q=%7B%7D", "/api/v2/search/tags"] {
        let plain = frame::get(&server, path).await;
        assert_eq!(plain.headers().get("content-encoding"), None, "{path}");
        let plain = plain.bytes().await.unwrap();
        let url = format!("http://{}{path}", server.addresses().tempo);
        let packed = reqwest::Client::new().get(url).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(packed.headers()["content-encoding"], "gzip", "{path}");
        assert!(packed.headers()["vary"].to_str().unwrap().contains("accept-encoding"), "{path}");
        let packed = packed.bytes().await.unwrap();
        let mut unpacked = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, plain, "{path}");
    }
    server.stop().await.unwrap();
}
