//! Every query of Drilldown and of the editor's grammar, sent as Grafana sends it: an answer that strict clients decode, and
//! of searches the same traces streamed.

use std::{fs, path::Path};

use futures::StreamExt;
use regex::Regex;

use tonic::transport::{Channel, Endpoint};
use tracehouse::api::tempo::tempopb::{SearchRequest, streaming_querier_client::StreamingQuerierClient};

use crate::{frame, tempo_http, tempo_strict};

/// The range that is asked for, in Unix seconds.
const START: u32 = 1_795_239_000;
const END: u32 = 1_795_239_100;

/// Requests at a time.
const CONCURRENCY: usize = 4;

fn queries(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traceql/valid").join(file);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.starts_with('#'));
    let query = |block: &str| block.split_once("\n----").map(|(query, _)| query.to_owned());
    blocks.filter(|block| !block.is_empty()).filter_map(query).collect()
}

/// How Grafana tells metrics from searches.
pub(crate) fn metrics() -> Regex {
    let metrics = r"\|\s*(rate|count_over_time|avg_over_time|sum_over_time|max_over_time|min_over_time|quantile_over_time|histogram_over_time|compare)\s*\(";
    Regex::new(metrics).unwrap()
}

/// The path that Grafana chooses for a query, and its parameters.
fn request(query: &str, metrics: &Regex) -> (&'static str, Vec<(&'static str, String)>) {
    let range = [("start", START.to_string()), ("end", END.to_string())];
    let (path, more) = match metrics.is_match(query) {
        true => ("/api/metrics/query_range", vec![("step", "10s".to_owned())]),
        false => ("/api/search", vec![("limit", "200".to_owned()), ("spss", "20".to_owned())]),
    };
    (path, [("q", query.to_owned())].into_iter().chain(range).chain(more).collect())
}

/// Ids of the traces of an answer.
fn traces(body: &str) -> Vec<String> {
    let answer: serde_json::Value = serde_json::from_str(body).unwrap();
    let traces = answer["traces"].as_array().map(Vec::as_slice).unwrap_or_default();
    traces.iter().map(|trace| trace["traceID"].as_str().unwrap().to_owned()).collect()
}

/// Ids of the traces that a streamed search finds; `None` for what is no search.
async fn streamed(mut client: StreamingQuerierClient<Channel>, path: &str, query: &str) -> Option<Vec<String>> {
    if path != "/api/search" {
        return None;
    }
    let request = SearchRequest {
        query: query.to_owned(),
        start: START,
        end: END,
        limit: 200,
        spans_per_span_set: 20,
        ..SearchRequest::default()
    };
    let messages = client.search(request).await.unwrap().into_inner();
    let traces = messages.map(|message| message.unwrap().traces).concat().await;
    Some(traces.into_iter().map(|trace| trace.trace_id).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_clients_is_answered_and_streamed() {
    let metrics = metrics();
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let base = format!("http://{}", server.addresses().tempo);
    let client = reqwest::Client::new();
    let channel = Endpoint::from_shared(base.clone()).unwrap().connect().await.unwrap();
    let streaming = StreamingQuerierClient::new(channel);
    let queries: Vec<String> =
        ["drilldown.traceql", "editor_grammar.traceql"].iter().flat_map(|file| queries(file)).collect();
    assert!(queries.len() > 200, "{}", queries.len());
    let ask = |query: &String| {
        let (path, parameters) = request(query, &metrics);
        let url = reqwest::Url::parse_with_params(&format!("{base}{path}"), &parameters).unwrap();
        let (client, query, streaming) = (client.clone(), query.clone(), streaming.clone());
        async move {
            let response = client.get(url).send().await.unwrap();
            let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
            let checked = match status {
                200 => tempo_strict::check(path, &body),
                _ => Err(format!("{status} {body}")),
            };
            if let Err(fault) = checked {
                return Some(format!("{query}\n  {fault}"));
            }
            let (found, streamed) = (traces(&body), streamed(streaming, path, &query).await);
            (streamed.is_some_and(|streamed| streamed != found)).then(|| format!("{query}\n  is streamed otherwise"))
        }
    };
    let faults: Vec<String> = futures::stream::iter(queries.iter().map(ask))
        .buffer_unordered(CONCURRENCY)
        .filter_map(async |fault| fault)
        .collect()
        .await;
    assert!(faults.is_empty(), "{} of {} queries:\n{}", faults.len(), queries.len(), faults.join("\n"));
    server.stop().await.unwrap();
}
