//! Putting a question to a server, and what it costs it.

use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use serde_json::Value;

use crate::{
    Data,
    asks::Ask,
    measure::process_cpu,
    process::Server,
    sql::{query, text_column},
};

/// A round lasts for this much CPU of the server, so that its clock's ticks of 10 ms do not matter.
const ROUND_CPU: Duration = Duration::from_millis(400);
const ROUND_QUERIES_MAX: u32 = 100;

/// What one question costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) results: usize,
    pub(crate) cpu_ms: f64,
    pub(crate) wall_ms: f64,
    /// What scans gave to operators, and read from files, as the answer says it.
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

/// A server with data.
#[derive(Debug)]
pub(crate) struct Target {
    server: Server,
    client: Client,
    trace_id: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    results: usize,
    rows: Option<u64>,
    bytes: Option<u64>,
}

impl Target {
    /// Starts a server on the data.
    pub(crate) async fn start(data: &Data) -> Self {
        let server = data.serve().await;
        let text = "SELECT trace_id, count(*) AS n FROM spans GROUP BY 1 HAVING n = 40 ORDER BY 1 LIMIT 1";
        let trace_id = text_column(&query(&server.flight, text).await.unwrap(), "trace_id").remove(0);
        Self { server, client: Client::new(), trace_id }
    }

    pub(crate) fn memory_mib(&self) -> f64 {
        self.server.memory_bytes("VmHWM:") as f64 / f64::from(1 << 20)
    }

    /// The least cost of some rounds. The range is in Unix seconds.
    pub(crate) async fn cost(&self, ask: Ask, range: (u64, u64), rounds: usize) -> Cost {
        let answer = self.put(ask, range).await;
        let mut cost = Cost {
            results: answer.results,
            rows: answer.rows,
            bytes: answer.bytes,
            cpu_ms: f64::MAX,
            wall_ms: f64::MAX,
        };
        let cpu = || process_cpu(self.server.pid());
        for _ in 0..rounds {
            let (before, started, mut count) = (cpu(), Instant::now(), 0);
            while cpu() - before < ROUND_CPU && count < ROUND_QUERIES_MAX {
                self.put(ask, range).await;
                count += 1;
            }
            let per_query = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(count);
            cost.cpu_ms = cost.cpu_ms.min(per_query(cpu() - before));
            cost.wall_ms = cost.wall_ms.min(per_query(started.elapsed()));
        }
        cost
    }

    async fn put(&self, ask: Ask, (start, end): (u64, u64)) -> Answer {
        let (start, end) = (start.to_string(), end.to_string());
        match ask {
            Ask::Trace => {
                let body = self.get(&format!("/api/v2/traces/{}", self.trace_id), &[]).await;
                let spans = |scope: &Value| scope["spans"].as_array().map_or(0, Vec::len);
                let resources = body["trace"]["resourceSpans"].as_array().unwrap();
                let scopes = resources.iter().flat_map(|resource| resource["scopeSpans"].as_array().unwrap());
                Answer { results: scopes.map(spans).sum(), ..Answer::default() }
            }
            Ask::Search(text) => self.search(text, "1000000", (&start, &end)).await,
            Ask::First(limit, text) => self.search(text, &limit.to_string(), (&start, &end)).await,
            Ask::Series(text) => {
                let body = [("q", text), ("start", &start), ("end", &end), ("step", "10s")];
                let body = self.get("/api/metrics/query_range", &body).await;
                answer(&body, "series")
            }
            Ask::Values(field) => {
                let path = format!("/api/v2/search/tag/{field}/values");
                let body = self.get(&path, &[("start", &start), ("end", &end), ("limit", "1000000")]).await;
                answer(&body, "tagValues")
            }
            Ask::Sql(text) => {
                let batches = query(&self.server.flight, text).await.unwrap();
                Answer { results: batches.iter().map(|batch| batch.num_rows()).sum(), ..Answer::default() }
            }
        }
    }

    async fn search(&self, text: &str, limit: &str, (start, end): (&str, &str)) -> Answer {
        let params = [("q", text), ("limit", limit), ("start", start), ("end", end)];
        answer(&self.get("/api/search", &params).await, "traces")
    }

    async fn get(&self, path: &str, params: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("http://{}{path}", self.server.tempo), params).unwrap();
        let request = self.client.get(url.clone()).header(reqwest::header::ACCEPT, "application/json");
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        assert!(status.is_success(), "{url}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }
}

fn answer(body: &Value, list: &str) -> Answer {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let metrics = &body["metrics"];
    Answer {
        results: body[list].as_array().map_or(0, Vec::len),
        rows: number(&metrics["inspectedSpans"]),
        bytes: number(&metrics["inspectedBytes"]),
    }
}
