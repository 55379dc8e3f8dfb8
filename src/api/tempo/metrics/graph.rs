//! `/api/metrics/service_graph`: which services there are and which of them call which, out of stored spans.
//!
//! ```text
//!  {"nodes": [{"id": "shop", "calls": 9, "errors": 1, "errorRate": 0.111, "averageMs": .., "p50Ms": .., "p95Ms": .., "p99Ms": ..}],
//!   "edges": [{"id": "shop->stock", "source": "shop", "target": "stock", "calls": 4, ...}]}
//! ```
//!
//! The calls of a node are the requests that it served: its spans of kind server and consumer, and those without a parent.
//! The calls of an edge are spans whose parent belongs to another service; times and errors are of the callee. A service
//! without a name is `""`. Names of fields are those of Grafana's node graph. Nothing is sampled or stored for this: the
//! numbers are those of the spans that start in the asked range, all of them without one.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Float64Type, Int64Type},
};
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use datafusion::scalar::ScalarValue;
use serde::Serialize;

use crate::{
    api::tempo::{TempoState, params::Params, refusal, tags::json},
    error::{Error, ErrorKind, Result},
    model::time::TimeRange,
    query::{QueryKind, QueryRequest, SqlQuery},
};

/// Edges of an answer where the client names no limit, and most of them.
const EDGES_MAX: usize = 10_000;

#[derive(Debug, Serialize)]
struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// Why there are not all edges.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Serialize)]
struct Node {
    id: String,
    #[serde(flatten)]
    calls: Calls,
}

#[derive(Debug, Serialize)]
struct Edge {
    id: String,
    source: String,
    target: String,
    #[serde(flatten)]
    calls: Calls,
}

/// What calls have in common; times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    calls: i64,
    errors: i64,
    /// Errors per call.
    error_rate: f64,
    average_ms: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

pub(crate) async fn service_graph(State(state): State<TempoState>, RawQuery(query): RawQuery) -> Response {
    answer(&state, query.as_deref()).await.unwrap_or_else(|error| refusal(&error))
}

async fn answer(state: &TempoState, query: Option<&str>) -> Result<Response> {
    let params = Params::of(query);
    let range = params.time_range(state.clock.now_unix_nano())?;
    let limit = params.count("limit")?.unwrap_or(EDGES_MAX);
    if limit > EDGES_MAX {
        return Err(Error::invalid(format!("limit {limit} exceeds max limit {EDGES_MAX}")));
    }
    let request = QueryRequest::new(state.tenant(), QueryKind::Sql(statement(range)));
    let (batches, _) = state.engine.execute(request).await?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            rows.push(read(batch, row).ok_or_else(unexpected)?);
        }
    }
    json(&graph(rows, limit))
}

/// The statement, with the range that a span has to start in. One statement sees one state of the data.
fn statement(range: TimeRange) -> SqlQuery {
    let moment = |nanos: i64| ScalarValue::TimestampNanosecond(Some(nanos), Some("UTC".into()));
    let (mut bounds, mut params) = (Vec::new(), Vec::new());
    if range.start_unix_nano != i64::MIN {
        params.push(moment(range.start_unix_nano));
        bounds.push(format!("start_time >= ${}", params.len()));
    }
    if range.end_unix_nano != i64::MAX {
        params.push(moment(range.end_unix_nano));
        bounds.push(format!("start_time < ${}", params.len()));
    }
    let figures = "count(*) AS calls, sum(CASE WHEN status_code = 'error' THEN 1 ELSE 0 END) AS errors, \
        avg(duration_nano) / 1e6 AS average, \
        approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p50, \
        approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p95, \
        approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p99";
    let within = |condition: &str| {
        let all: Vec<&str> =
            [condition].into_iter().filter(|text| !text.is_empty()).chain(bounds.iter().map(String::as_str)).collect();
        if all.is_empty() { String::new() } else { format!("WHERE {}", all.join(" AND ")) }
    };
    let served = within("(parent_span_id IS NULL OR kind IN ('server', 'consumer'))");
    let text = format!(
        "SELECT CAST(NULL AS VARCHAR) AS source, service_name AS target, {figures} FROM spans {served} GROUP BY service_name \
         UNION ALL \
         SELECT coalesce(client_service, '') AS source, server_service AS target, {figures} FROM service_edges {edges} \
         GROUP BY client_service, server_service",
        edges = within(""),
    );
    SqlQuery { text, params }
}

/// Who calls, nobody for what a service served; who is called; and the figures.
type Row = (Option<String>, String, Calls);

fn read(batch: &RecordBatch, row: usize) -> Option<Row> {
    let text = |name: &str| {
        let values = batch.column_by_name(name)?.as_string_opt::<i32>()?;
        Some(values.is_valid(row).then(|| values.value(row).to_owned()))
    };
    let int = |name: &str| Some(batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?.value(row));
    let float = |name: &str| Some(batch.column_by_name(name)?.as_primitive_opt::<Float64Type>()?.value(row));
    let (calls, errors) = (int("calls")?, int("errors")?);
    let figures = Calls {
        calls,
        errors,
        error_rate: errors as f64 / calls.max(1) as f64,
        average_ms: float("average")?,
        p50_ms: float("p50")?,
        p95_ms: float("p95")?,
        p99_ms: float("p99")?,
    };
    Some((text("source")?, text("target")?.unwrap_or_default(), figures))
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the answer about services has unexpected columns")
}

/// Nodes by name and edges by calls. What an edge names is a node, whether it served a request or not.
fn graph(rows: Vec<Row>, limit: usize) -> Graph {
    let mut nodes: BTreeMap<String, Calls> = BTreeMap::new();
    let mut edges = Vec::new();
    for (source, target, calls) in rows {
        match source {
            None => {
                nodes.insert(target, calls);
            }
            Some(source) => edges.push(Edge { id: format!("{source}->{target}"), source, target, calls }),
        }
    }
    edges.sort_by(|a, b| b.calls.calls.cmp(&a.calls.calls).then_with(|| a.id.cmp(&b.id)));
    let all = edges.len();
    edges.truncate(limit);
    let message = (edges.len() < all).then(|| format!("the {limit} edges with most calls of {all} are returned"));
    for name in edges.iter().flat_map(|edge| [&edge.source, &edge.target]) {
        nodes.entry(name.clone()).or_default();
    }
    Graph { nodes: nodes.into_iter().map(|(id, calls)| Node { id, calls }).collect(), edges, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_come_by_calls_and_name_nodes_that_are_there() {
        let calls = |calls| Calls { calls, ..Calls::default() };
        let row =
            |source: Option<&str>, target: &str, count| (source.map(str::to_owned), target.to_owned(), calls(count));
        let rows = vec![row(None, "b", 7), row(Some("a"), "b", 2), row(Some("b"), "c", 5), row(Some("b"), "d", 1)];
        let graph = graph(rows, 2);
        let edges: Vec<&str> = graph.edges.iter().map(|edge| edge.id.as_str()).collect();
        assert_eq!(edges, ["b->c", "a->b"]);
        let nodes: Vec<(&str, i64)> = graph.nodes.iter().map(|node| (node.id.as_str(), node.calls.calls)).collect();
        assert_eq!(nodes, [("a", 0), ("b", 7), ("c", 0)]);
        assert_eq!(graph.message.as_deref(), Some("the 2 edges with most calls of 3 are returned"));
    }
}
