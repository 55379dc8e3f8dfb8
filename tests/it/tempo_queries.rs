//! Every query of Drilldown and of the editor's grammar, sent as Grafana sends it: an answer that strict clients decode, or
//! a refusal that names what is not built.

use std::{fs, path::Path};

use futures::StreamExt;
use regex::Regex;

use crate::{frame, tempo_http, tempo_strict};

/// Requests at a time.
const CONCURRENCY: usize = 4;

fn queries(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traceql/valid").join(file);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.starts_with('#'));
    let query = |block: &str| block.split_once("\n----").map(|(query, _)| query.to_owned());
    blocks.filter(|block| !block.is_empty()).filter_map(query).collect()
}

/// The path that Grafana chooses for a query, and its parameters.
fn request(query: &str, metrics: &Regex) -> (&'static str, Vec<(&'static str, String)>) {
    let range = [("start", "1795239000".to_owned()), ("end", "1795239100".to_owned())];
    let (path, more) = match metrics.is_match(query) {
        true => ("/api/metrics/query_range", vec![("step", "10s".to_owned())]),
        false => ("/api/search", vec![("limit", "200".to_owned()), ("spss", "20".to_owned())]),
    };
    (path, [("q", query.to_owned())].into_iter().chain(range).chain(more).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_clients_is_answered_or_refused_by_name() {
    let metrics = r"\|\s*(rate|count_over_time|avg_over_time|sum_over_time|max_over_time|min_over_time|quantile_over_time|histogram_over_time|compare)\s*\(";
    let metrics = Regex::new(metrics).unwrap();
    let data = tempfile::tempdir().unwrap();
    let server = frame::start(&frame::settings(data.path())).await;
    tempo_http::send(&server).await;
    let base = format!("http://{}", server.addresses().tempo);
    let client = reqwest::Client::new();
    let queries: Vec<String> =
        ["drilldown.traceql", "editor_grammar.traceql"].iter().flat_map(|file| queries(file)).collect();
    assert!(queries.len() > 200, "{}", queries.len());
    let ask = |query: &String| {
        let (path, parameters) = request(query, &metrics);
        let url = reqwest::Url::parse_with_params(&format!("{base}{path}"), &parameters).unwrap();
        let (client, query) = (client.clone(), query.clone());
        async move {
            let response = client.get(url).send().await.unwrap();
            let (status, body) = (response.status().as_u16(), response.text().await.unwrap());
            match status {
                200 => tempo_strict::check(path, &body).err().map(|fault| format!("{query}\n  {fault}")),
                400 if body.contains("not supported yet: ") => None,
                _ => Some(format!("{query}\n  {status} {body}")),
            }
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
