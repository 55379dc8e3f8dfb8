//! `tempopb.StreamingQuerier`, asked by a client that was generated from the same file.

use prost::Message;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tracehouse::{
    api::tempo::tempopb::{
        SearchRequest, SearchResponse, SearchTagValuesRequest, SearchTagsRequest,
        streaming_querier_client::StreamingQuerierClient,
    },
    server::Server,
};

use crate::{frame, support::spans::send_json, tempo_http};

pub(crate) type Client = StreamingQuerierClient<Channel>;

pub(crate) async fn client(address: std::net::SocketAddr) -> Client {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    StreamingQuerierClient::new(channel)
}

pub(crate) async fn all<M: Message>(answer: Result<tonic::Response<Streaming<M>>, Status>) -> Result<Vec<M>, Status> {
    let (mut stream, mut messages) = (answer?.into_inner(), Vec::new());
    while let Some(message) = stream.message().await? {
        assert!(message.encoded_len() < 1 << 20);
        messages.push(message);
    }
    Ok(messages)
}

async fn search(client: &mut Client, request: SearchRequest) -> Result<Vec<SearchResponse>, Status> {
    all(client.search(Request::new(request)).await).await
}

fn ids(messages: &[SearchResponse]) -> Vec<String> {
    messages.iter().flat_map(|message| &message.traces).map(|trace| trace.trace_id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_answers_on_the_port_of_http_and_on_its_own() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    for address in [server.addresses().tempo, server.addresses().tempo_grpc] {
        let mut client = client(address).await;
        check_search(&mut client).await;
        check_tags(&mut client).await;
        check_errors(&mut client).await;
    }
    server.stop().await.unwrap();
}

async fn check_search(client: &mut Client) {
    let request = SearchRequest {
        query: "{ status = error }".to_owned(),
        start: 1_795_239_000,
        end: 1_795_239_100,
        ..SearchRequest::default()
    };
    let messages = search(client, request).await.unwrap();
    let progress: Vec<(u32, u32)> = messages
        .iter()
        .map(|message| message.metrics.unwrap())
        .map(|metrics| (metrics.completed_jobs, metrics.total_jobs))
        .collect();
    assert_eq!(progress, [(0, 1), (1, 1)]);
    let [trace] = messages[1].traces.as_slice() else { panic!("{messages:?}") };
    assert_eq!(trace.trace_id, "710ec6be421f317a63a021cfac429c21");
    assert_eq!((trace.root_service_name.as_str(), trace.root_trace_name.as_str()), ("frontend-web", "GET /"));
    assert_eq!((trace.start_time_unix_nano, trace.duration_ms), (1_795_239_054_548_411_537, 256));
    assert_eq!(trace.span_sets.as_slice(), [trace.span_set.clone().unwrap()]);
    assert_eq!(trace.span_sets[0].matched, 2);
    let names: Vec<&str> = trace.span_sets[0].spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET /", "GET"]);
    assert_eq!(trace.service_stats["frontend-web"].error_count, 2);

    // Kiali's health check has no field set at all.
    let everything = search(client, SearchRequest::default()).await.unwrap();
    assert_eq!(ids(&everything), ["1b83652bc97a7b7e", "710ec6be421f317a63a021cfac429c21"]);
    let tags = [("service.name".to_owned(), "frontend-web".to_owned())].into();
    let by_tags = search(client, SearchRequest { tags, ..SearchRequest::default() }).await.unwrap();
    assert_eq!(ids(&by_tags), ["710ec6be421f317a63a021cfac429c21"]);
    assert_eq!(by_tags[1].traces[0].span_set, None);
    let long = SearchRequest { query: "{}".to_owned(), min_duration_ms: 1_000, ..SearchRequest::default() };
    assert_eq!(ids(&search(client, long).await.unwrap()), ["1b83652bc97a7b7e"]);
}

async fn check_tags(client: &mut Client) {
    let request = SearchTagsRequest { scope: "span".to_owned(), ..SearchTagsRequest::default() };
    let names = ["app.score", "app.tags", "app.vip", "http.response.status_code"];
    let v1 = all(client.search_tags(request.clone()).await).await.unwrap();
    assert_eq!(v1[0].tag_names, names);
    let v2 = all(client.search_tags_v2(request).await).await.unwrap();
    let [scope] = v2[0].scopes.as_slice() else { panic!("{v2:?}") };
    assert_eq!((scope.name.as_str(), scope.tags.as_slice()), ("span", names.map(str::to_owned).as_slice()));
    let all_scopes = all(client.search_tags_v2(SearchTagsRequest::default()).await).await.unwrap();
    let scopes: Vec<&str> = all_scopes[0].scopes.iter().map(|scope| scope.name.as_str()).collect();
    assert_eq!(scopes, ["intrinsic", "resource", "span", "event"]);

    let request =
        |name: &str| SearchTagValuesRequest { tag_name: name.to_owned(), ..SearchTagValuesRequest::default() };
    let v1 = all(client.search_tag_values(request("service.name")).await).await.unwrap();
    assert_eq!(v1[0].tag_values, ["checkout", "frontend-web"]);
    let query = "{ kind = client && name = ".to_owned();
    let filtered = SearchTagValuesRequest { query, ..request("span.http.response.status_code") };
    let v2 = all(client.search_tag_values_v2(filtered).await).await.unwrap();
    let values: Vec<(&str, &str)> =
        v2[0].tag_values.iter().map(|value| (value.r#type.as_str(), value.value.as_str())).collect();
    assert_eq!(values, [("int", "504")]);
}

async fn check_errors(client: &mut Client) {
    let refused = |status: Status| (status.code(), status.message().to_owned());
    let wrong = SearchRequest { query: "{ status = }".to_owned(), ..SearchRequest::default() };
    let (code, message) = refused(search(client, wrong).await.unwrap_err());
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("parse error at line 1, col 12"), "{message}");
    let half = SearchRequest { start: 5, ..SearchRequest::default() };
    assert_eq!(refused(search(client, half).await.unwrap_err()).0, Code::InvalidArgument);
    let many = SearchRequest { limit: 300_000, ..SearchRequest::default() };
    let (code, message) = refused(search(client, many).await.unwrap_err());
    assert_eq!((code, message.as_str()), (Code::InvalidArgument, "limit 300000 exceeds max limit 262144"));
    let scope = SearchTagsRequest { scope: "nope".to_owned(), ..SearchTagsRequest::default() };
    let (code, message) = refused(all(client.search_tags_v2(scope).await).await.unwrap_err());
    assert_eq!((code, message.as_str()), (Code::InvalidArgument, "invalid scope: nope"));
    let name = SearchTagValuesRequest { tag_name: "nope".to_owned(), ..SearchTagValuesRequest::default() };
    assert_eq!(all(client.search_tag_values_v2(name).await).await.unwrap_err().code(), Code::InvalidArgument);
}

/// Sends `count` traces of one span each, one per second, each with so many bytes in an attribute.
pub(crate) async fn send_many(server: &Server, count: usize, bytes: usize) {
    let text = "x".repeat(bytes);
    let span = |index: usize| {
        let start = 1_795_239_000_000_000_000 + index * 1_000_000_000;
        format!(
            r#"{{"traceId":"{index:032x}","spanId":"{index:016x}","name":"n","kind":1,"startTimeUnixNano":"{start}","endTimeUnixNano":"{start}","attributes":[{{"key":"text","value":{{"stringValue":"{text}"}}}}]}}"#,
        )
    };
    send_json(server, (1..=count).map(span)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_comes_early_in_order_and_in_small_messages() {
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    send_many(&server, 150, 20_000).await;
    let mut client = client(server.addresses().tempo).await;
    let query = "{ span.text != nil }".to_owned();
    let messages = search(&mut client, SearchRequest { query, limit: 120, ..SearchRequest::default() }).await.unwrap();
    let expected: Vec<String> = (31..=150).rev().map(|index| format!("{index:x}")).collect();
    assert_eq!(ids(&messages), expected);
    // The progress, the first part, and the rest, which is too long for one message.
    assert!(messages.len() > 3, "{}", messages.len());
    let progress: Vec<u32> = messages.iter().map(|message| message.metrics.unwrap().completed_jobs).collect();
    assert_eq!((progress[0], progress[1], *progress.last().unwrap()), (0, 1, 2));
    assert_eq!(messages[1].traces.len(), 20);
    assert!(messages.iter().all(|message| message.metrics.unwrap().total_jobs == 2));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_progress_comes_before_the_search_begins() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = frame::settings(data.path());
    (settings.query.concurrency_max, settings.query.queue_max) = (1, 1);
    let server = frame::start(&settings).await;
    tempo_http::send(&server).await;
    let mut client = client(server.addresses().tempo).await;
    let slow = tempo_http::slow_client(&server, "SELECT value FROM generate_series(1, 100000000000)").await;
    // The search has to wait, and the client knows what for.
    let request = SearchRequest { query: "{}".to_owned(), limit: 200, ..SearchRequest::default() };
    let mut stream = client.search(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let metrics = first.metrics.unwrap();
    assert_eq!((metrics.completed_jobs, metrics.total_jobs, first.traces.len()), (0, 2, 0));
    drop(slow);
    let (mut traces, mut done) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        done.push(message.metrics.unwrap().completed_jobs);
        traces.extend(message.traces);
    }
    assert_eq!(traces.len(), 2);
    // The first part had all there is.
    assert_eq!(done, [2]);
    // What was said of a trace is what HTTP says of it, so nothing has to be corrected later.
    let answer = frame::get(&server, "/api/search?q=%7B%7D&limit=200").await.text().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    for (streamed, whole) in traces.iter().zip(answer["traces"].as_array().unwrap()) {
        assert_eq!(streamed.trace_id, whole["traceID"].as_str().unwrap());
        assert_eq!(streamed.start_time_unix_nano.to_string(), whole["startTimeUnixNano"].as_str().unwrap());
        assert_eq!(Some(u64::from(streamed.duration_ms)), whole["durationMs"].as_u64());
        assert_eq!(streamed.root_trace_name, whole["rootTraceName"].as_str().unwrap());
        let counts = whole["serviceStats"].as_object().unwrap();
        assert_eq!(streamed.service_stats.len(), counts.len());
        for (service, stats) in &streamed.service_stats {
            assert_eq!(Some(u64::from(stats.span_count)), counts[service]["spanCount"].as_u64());
        }
    }
    server.stop().await.unwrap();
}
