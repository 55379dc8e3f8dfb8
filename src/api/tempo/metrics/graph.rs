//! `/api/metrics/service_graph`: which services there are and which of them call which, out of stored spans.
//!
//! ```text
//!  {"nodes": [{"id": "shop", "name": "shop", "type": "service", "calls": 9, "errors": 1, "errorRate": 0.111,
//!              "averageMs": .., "p50Ms": .., "p95Ms": .., "p99Ms": ..}],
//!   "edges": [{"id": "shop->stock", "source": "shop", "target": "stock", "type": "service", "calls": 4, ...},
//!             {"id": "stock->database:goods", "source": "stock", "target": "database:goods", "type": "database", ...}]}
//! ```
//!
//! The calls of a node are the requests that it served: its spans of kind server and consumer, and those without a parent.
//! The calls of an edge are spans whose parent belongs to another service; times and errors are of the callee. A service
//! without a name is `""`.
//!
//! What sends no spans is a node as far as those tell of it that do. Its calls are theirs:
//!
//! ```text
//!  database   client spans with db.system.name or db.system
//!  virtual    client spans with peer.service that no span answers; and "user", who makes the requests without a parent
//!  messaging  producer spans with a destination whose messages nobody is seen to take in the same trace
//! ```
//!
//! Names of fields are those of Grafana's node graph. Nothing is sampled or stored for this: the numbers are those of the
//! spans that start in the asked range, all of them without one.

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

use super::peers::{self, ASKS_DATABASE, DATABASE};
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

/// What a node is, and an edge leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// It sends spans.
    Service,
    /// A store that clients tell of.
    Database,
    /// A queue or topic that producers tell of.
    Messaging,
    /// Another callee that clients tell of, or whoever sends requests without a parent.
    Virtual,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Service, Self::Database, Self::Messaging, Self::Virtual];

    fn name(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::Database => "database",
            Kind::Messaging => "messaging",
            Kind::Virtual => "virtual",
        }
    }
}

#[derive(Debug, Serialize)]
struct Node {
    id: String,
    name: String,
    #[serde(rename = "type")]
    of: Kind,
    #[serde(flatten)]
    calls: Calls,
}

#[derive(Debug, Serialize)]
struct Edge {
    id: String,
    source: String,
    target: String,
    #[serde(rename = "type")]
    of: Kind,
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
    let request =
        QueryRequest::new(state.tenant(), QueryKind::Sql(statement(range, state.settings.trace_extent_max.as_nanos())));
    let (batches, _) = state.engine.execute(request).await?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            rows.push(read(batch, row).ok_or_else(unexpected)?);
        }
    }
    json(&graph(rows, limit))
}

/// Which spans are requests that their own service served.
const IS_SERVED: &str = "(parent_span_id IS NULL OR kind IN ('server', 'consumer'))";

const FIGURES: &str = "count(*) AS calls, sum(CASE WHEN status_code = 'error' THEN 1 ELSE 0 END) AS errors, \
    avg(duration_nano) / 1e6 AS average, \
    approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p50, \
    approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p95, \
    approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY CAST(duration_nano AS DOUBLE)) / 1e6 AS p99";

/// Which spans begin a trace at a server.
const IS_VISIT: &str = "parent_span_id IS NULL AND kind = 'server'";

/// The statement, with the range that a span has to start in. One statement sees one state of the data.
fn statement(range: TimeRange, extent_nano: i64) -> SqlQuery {
    let mut params = Vec::new();
    let mut bounds_of = |range: TimeRange| {
        let moment = |nanos: i64| ScalarValue::TimestampNanosecond(Some(nanos), Some("UTC".into()));
        let mut bounds = String::from("true");
        if range.start_unix_nano != i64::MIN {
            params.push(moment(range.start_unix_nano));
            bounds.push_str(&format!(" AND start_time >= ${}", params.len()));
        }
        if range.end_unix_nano != i64::MAX {
            params.push(moment(range.end_unix_nano));
            bounds.push_str(&format!(" AND start_time < ${}", params.len()));
        }
        bounds
    };
    let bounds = bounds_of(range);
    let unanswered = format!("({}) AS unanswered", peers::unanswered(&bounds, &bounds_of(range.widened(extent_nano))));
    let part = |(source, source_of): (&str, &str), (target, of): (&str, &str), table: &str, condition: &str| {
        let source = if source == NOBODY { NOBODY.to_owned() } else { format!("coalesce({source}, '')") };
        format!(
            "SELECT {source} AS source, {source_of} AS source_of, coalesce({target}, '') AS target, {of} AS of, {FIGURES} \
             FROM {table} WHERE {condition} AND {bounds} GROUP BY 1, 2, 3, 4"
        )
    };
    let service = "'service'";
    let parts = [
        part((NOBODY, service), ("service_name", service), "spans", IS_SERVED),
        part(("client_service", service), ("server_service", service), "service_edges", "true"),
        part((NOBODY, service), (DATABASE, "'database'"), "spans", ASKS_DATABASE),
        part(("service_name", service), (DATABASE, "'database'"), "spans", ASKS_DATABASE),
        part((NOBODY, service), ("peer", "peer_of"), &unanswered, "true"),
        part(("service_name", service), ("peer", "peer_of"), &unanswered, "true"),
        part((peers::USER, "'virtual'"), ("service_name", service), "spans", IS_VISIT),
    ];
    SqlQuery { text: parts.join(" UNION ALL "), params }
}

/// The source of a row that is about a node.
const NOBODY: &str = "CAST(NULL AS VARCHAR)";

/// The figures of a node, or of an edge.
#[derive(Debug)]
struct Row {
    /// Who calls; nobody for a node.
    source: Option<(String, Kind)>,
    target: String,
    of: Kind,
    calls: Calls,
}

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
    let kind = |name: &str| {
        let name = text(name)??;
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    };
    let source_of = kind("source_of")?;
    Some(Row {
        source: text("source")?.map(|source| (source, source_of)),
        target: text("target")?.unwrap_or_default(),
        of: kind("of")?,
        calls: figures,
    })
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the answer about services has unexpected columns")
}

/// Nodes by id and edges by calls. What an edge names is a node, whether it served a request or not.
fn graph(rows: Vec<Row>, limit: usize) -> Graph {
    // A database with the name of a service is a node of its own, by its kind.
    let mut nodes: BTreeMap<(String, Kind), Calls> = BTreeMap::new();
    let mut edges = Vec::new();
    for Row { source, target, of, calls } in rows {
        match source {
            None => {
                nodes.insert((target, of), calls);
            }
            Some(source) => edges.push((source, (target, of), calls)),
        }
    }
    let named = |edge: ((String, Kind), (String, Kind), Calls)| {
        let (source, target) = (node_id(&edge.0.0, edge.0.1), node_id(&edge.1.0, edge.1.1));
        // What a node that sends no spans asks of a service is as little seen as what a service asks of such a node.
        let of = if edge.0.1 == Kind::Service { edge.1.1 } else { edge.0.1 };
        (Edge { id: format!("{source}->{target}"), source, target, of, calls: edge.2 }, edge.0, edge.1)
    };
    let mut edges: Vec<_> = edges.into_iter().map(named).collect();
    edges.sort_by(|(a, ..), (b, ..)| b.calls.calls.cmp(&a.calls.calls).then_with(|| a.id.cmp(&b.id)));
    let all = edges.len();
    edges.truncate(limit);
    let message = (edges.len() < all).then(|| format!("the {limit} edges with most calls of {all} are returned"));
    let mut shown = Vec::with_capacity(edges.len());
    for (edge, source, target) in edges {
        nodes.entry(source).or_default();
        nodes.entry(target).or_default();
        shown.push(edge);
    }
    let node = |((name, of), calls): ((String, Kind), Calls)| Node { id: node_id(&name, of), name, of, calls };
    let mut nodes: Vec<Node> = nodes.into_iter().map(node).collect();
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    Graph { nodes, edges: shown, message }
}

fn node_id(name: &str, of: Kind) -> String {
    match of {
        Kind::Service => name.to_owned(),
        other => format!("{}:{name}", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_come_by_calls_and_name_nodes_that_are_there() {
        let calls = |calls| Calls { calls, ..Calls::default() };
        let row = |source: Option<&str>, target: &str, of, count| Row {
            source: source.map(|source| (source.to_owned(), Kind::Service)),
            target: target.to_owned(),
            of,
            calls: calls(count),
        };
        let rows = vec![
            row(None, "b", Kind::Service, 7),
            row(Some("a"), "b", Kind::Service, 2),
            row(Some("b"), "c", Kind::Service, 5),
            row(Some("b"), "d", Kind::Service, 1),
            row(Some("b"), "c", Kind::Database, 3),
            row(None, "c", Kind::Database, 3),
            Row { source: Some(("user".to_owned(), Kind::Virtual)), ..row(None, "a", Kind::Service, 4) },
        ];
        let graph = graph(rows, 4);
        let edges: Vec<&str> = graph.edges.iter().map(|edge| edge.id.as_str()).collect();
        assert_eq!(edges, ["b->c", "virtual:user->a", "b->database:c", "a->b"]);
        let nodes: Vec<(&str, i64)> = graph.nodes.iter().map(|node| (node.id.as_str(), node.calls.calls)).collect();
        assert_eq!(nodes, [("a", 0), ("b", 7), ("c", 0), ("database:c", 3), ("virtual:user", 0)]);
        assert_eq!(graph.message.as_deref(), Some("the 4 edges with most calls of 5 are returned"));
    }
}
