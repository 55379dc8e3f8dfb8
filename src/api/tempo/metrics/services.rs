//! `/metrics/services`: counters of calls between services and of requests, for Prometheus, from which Grafana draws its
//! service map and the table below it.
//!
//! ```text
//!  scrape -> spans that started between the last scrape and now, both less query.service_metrics_delay
//!         -> calls of services, of what sends no spans, and requests by operation -> added to the counters -> text
//! ```
//!
//! Prometheus sets the pace, and a server that nobody scrapes pays nothing. Counters start at zero with the process, as
//! Prometheus expects them to. The delay is for the caller of a call to arrive and for the callee to end: a span that
//! arrives later than that after its start is in every answer of the other routes, and not in these counters. After a
//! pause of the scrapes, at most [`WINDOW_NANO_MAX`] is made up for.
//!
//! The names are those of Tempo's metrics generator, because Grafana asks for them. Senders choose the labels, so there is
//! a limit on the series: calls beyond it are counted in `tracehouse_service_metrics_left_out_total` alone.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use datafusion::scalar::ScalarValue;
use futures::FutureExt;
use http::header;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::sync::Mutex;

use super::peers::{self, ASKS_DATABASE, DATABASE};
use crate::{
    api::tempo::{TempoState, refusal},
    error::{Error, ErrorKind, Result},
    query::{QueryKind, QueryRequest, SqlQuery},
};

/// Longest time that one scrape counts.
const WINDOW_NANO_MAX: i64 = 300_000_000_000;

/// Seconds; from a call within a machine to the timeout of a gateway.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Calls from one service to another. A message between them is a call, too.
const CALLS: &str = "SELECT client_service, server_service, \
    CASE WHEN server_kind = 'consumer' THEN 'messaging_system' ELSE '' END AS connection, status_code, duration_nano, \
    client_duration_nano \
    FROM service_edges WHERE start_time > $1 AND start_time <= $2 \
    AND client_service IS NOT NULL AND server_service IS NOT NULL";

/// Calls of stores, which send no spans of their own.
fn stores() -> String {
    format!(
        "SELECT service_name AS client_service, {DATABASE} AS server_service, 'database' AS connection, status_code, \
         duration_nano, duration_nano AS client_duration_nano \
         FROM spans WHERE {WINDOW} AND service_name IS NOT NULL AND {ASKS_DATABASE}"
    )
}

/// Calls of others that send none. What answers a call begins later, and may do so after the window; as clocks of machines
/// differ, it is looked for from [`CLOCKS_NANO`] before the window on, the third parameter.
fn unanswered() -> String {
    format!(
        "SELECT service_name AS client_service, peer AS server_service, \
         CASE WHEN peer_of = 'messaging' THEN 'messaging_system' ELSE 'virtual_node' END AS connection, \
         status_code, duration_nano, duration_nano AS client_duration_nano \
         FROM ({}) AS unanswered WHERE service_name IS NOT NULL",
        peers::unanswered(WINDOW, "start_time > $3")
    )
}

/// Requests from outside.
fn visits() -> String {
    format!(
        "SELECT {} AS client_service, service_name AS server_service, 'virtual_node' AS connection, status_code, \
         duration_nano, duration_nano AS client_duration_nano \
         FROM spans WHERE {WINDOW} AND service_name IS NOT NULL AND parent_span_id IS NULL AND kind = 'server'",
        peers::USER
    )
}

/// How far the clocks of two machines are thought to be apart at most.
const CLOCKS_NANO: i64 = 60_000_000_000;

/// Spans that are counted by one scrape.
const WINDOW: &str = "start_time > $1 AND start_time <= $2";

/// Requests that services answer.
const REQUESTS: &str = "SELECT service_name, name, kind, status_code, duration_nano \
    FROM spans WHERE start_time > $1 AND start_time <= $2 AND kind IN ('server', 'consumer')";

/// The counters, and the moment up to which spans are in them.
#[derive(Debug)]
pub struct ServiceMetrics {
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    /// Unix nanoseconds; `None` before the first scrape, which counts nothing.
    through: Option<i64>,
    families: Families,
    /// Label values of the series that there are, joined, with their family.
    series: HashSet<String>,
}

#[derive(Debug)]
struct Families {
    registry: Registry,
    calls: IntCounterVec,
    failed_calls: IntCounterVec,
    server_seconds: HistogramVec,
    client_seconds: HistogramVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    left_out: IntCounter,
}

const EDGE: &[&str] = &["client", "server", "connection_type"];
const OPERATION: &[&str] = &["service", "span_name", "span_kind", "status_code"];

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds =
            |name, help, labels| HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels);
        let families = Self {
            registry: Registry::new(),
            calls: counters("traces_service_graph_request_total", "Calls from one service to another", EDGE)?,
            failed_calls: counters("traces_service_graph_request_failed_total", "Those that ended in an error", EDGE)?,
            server_seconds: seconds(
                "traces_service_graph_request_server_seconds",
                "How long calls took, as the callee saw it",
                EDGE,
            )?,
            client_seconds: seconds(
                "traces_service_graph_request_client_seconds",
                "How long calls took, as the caller saw it",
                EDGE,
            )?,
            requests: counters("traces_spanmetrics_calls_total", "Requests by service and operation", OPERATION)?,
            request_seconds: seconds("traces_spanmetrics_latency", "How long requests took", OPERATION)?,
            left_out: IntCounter::new(
                "tracehouse_service_metrics_left_out_total",
                "Calls and requests that are in no series, because there are query.service_metrics_series_max",
            )?,
        };
        let registry = &families.registry;
        registry.register(Box::new(families.calls.clone()))?;
        registry.register(Box::new(families.failed_calls.clone()))?;
        registry.register(Box::new(families.server_seconds.clone()))?;
        registry.register(Box::new(families.client_seconds.clone()))?;
        registry.register(Box::new(families.requests.clone()))?;
        registry.register(Box::new(families.request_seconds.clone()))?;
        registry.register(Box::new(families.left_out.clone()))?;
        Ok(families)
    }
}

impl ServiceMetrics {
    /// Counters at zero.
    ///
    /// # Errors
    /// Only a defect: two families of one name.
    pub fn new() -> Result<Arc<Self>> {
        let families = Families::new().map_err(defect)?;
        Ok(Arc::new(Self { counted: Mutex::new(Counted { through: None, families, series: HashSet::new() }) }))
    }

    /// Counts what came since the last time, and gives all counters as text.
    ///
    /// A failure counts nothing: the next scrape asks for the same spans again.
    async fn scrape(&self, state: &TempoState) -> Result<String> {
        let mut counted = self.counted.lock().await;
        let now = state.clock.now_unix_nano();
        let until = now.saturating_sub(state.settings.service_metrics_delay.as_nanos());
        if let Some(through) = counted.through.filter(|through| *through < until) {
            let from = through.max(until.saturating_sub(WINDOW_NANO_MAX));
            let (stores, unanswered, visits) = (stores(), unanswered(), visits());
            let around = [from, until, from.saturating_sub(CLOCKS_NANO)];
            let within = &around[..2];
            let (calls, stores, unanswered, visits, requests) = futures::try_join!(
                rows(state, CALLS, within).boxed(),
                rows(state, &stores, within).boxed(),
                rows(state, &unanswered, &around).boxed(),
                rows(state, &visits, within).boxed(),
                rows(state, REQUESTS, within).boxed(),
            )?;
            let series_max = state.settings.service_metrics_series_max;
            for batch in calls.iter().chain(&stores).chain(&unanswered).chain(&visits) {
                counted.add_calls(batch, series_max)?;
            }
            for batch in &requests {
                counted.add_requests(batch, series_max)?;
            }
        }
        counted.through = counted.through.max(Some(until));
        TextEncoder::new().encode_to_string(&counted.families.registry.gather()).map_err(defect)
    }
}

impl Counted {
    fn add_calls(&mut self, batch: &RecordBatch, series_max: usize) -> Result<()> {
        let [client, server, connection, status] =
            texts(batch, ["client_service", "server_service", "connection", "status_code"])?;
        let [duration, client_duration] = numbers(batch, ["duration_nano", "client_duration_nano"])?;
        for row in 0..batch.num_rows() {
            let labels = [text(&client, row), text(&server, row), text(&connection, row)];
            if self.is_counted("call", &labels, series_max) {
                self.families.calls.with_label_values(&labels).inc();
                // The series is there before the first failure, so that its rate is known.
                let failed = self.families.failed_calls.with_label_values(&labels);
                failed.inc_by(u64::from(text(&status, row) == "error"));
                self.families.server_seconds.with_label_values(&labels).observe(seconds(&duration, row));
                self.families.client_seconds.with_label_values(&labels).observe(seconds(&client_duration, row));
            }
        }
        Ok(())
    }

    fn add_requests(&mut self, batch: &RecordBatch, series_max: usize) -> Result<()> {
        let [service, name, kind, status] = texts(batch, ["service_name", "name", "kind", "status_code"])?;
        let [duration] = numbers(batch, ["duration_nano"])?;
        for row in 0..batch.num_rows() {
            let kind = format!("SPAN_KIND_{}", text(&kind, row).to_uppercase());
            let status = format!("STATUS_CODE_{}", text(&status, row).to_uppercase());
            let labels = [text(&service, row), text(&name, row), &kind, &status];
            if self.is_counted("request", &labels, series_max) {
                self.families.requests.with_label_values(&labels).inc();
                self.families.request_seconds.with_label_values(&labels).observe(seconds(&duration, row));
            }
        }
        Ok(())
    }

    /// Whether a series is there or may be; if not, that is counted.
    fn is_counted(&mut self, family: &str, labels: &[&str], series_max: usize) -> bool {
        let series = format!("{family}\0{}", labels.join("\0"));
        if self.series.contains(&series) {
            return true;
        }
        if self.series.len() >= series_max {
            self.families.left_out.inc();
            return false;
        }
        self.series.insert(series)
    }
}

/// `/metrics/services`.
pub(crate) async fn scraped(State(state): State<TempoState>) -> Response {
    match state.service_metrics.scrape(&state).await {
        Ok(text) => ([(header::CONTENT_TYPE, TextEncoder::new().format_type().to_owned())], text).into_response(),
        Err(error) => refusal(&error),
    }
}

/// The answer to a statement, whose parameters are moments in Unix nanoseconds.
async fn rows(state: &TempoState, statement: &str, moments: &[i64]) -> Result<Vec<RecordBatch>> {
    let moment = |unix_nano: &i64| ScalarValue::TimestampNanosecond(Some(*unix_nano), Some("UTC".into()));
    let query = SqlQuery { text: statement.to_owned(), params: moments.iter().map(moment).collect() };
    let stream = state.engine.execute(QueryRequest::new(state.tenant(), QueryKind::Sql(query))).await?;
    Ok(stream.collect().await?.0)
}

type Columns<const COUNT: usize> = [arrow::array::ArrayRef; COUNT];

fn columns<const COUNT: usize>(batch: &RecordBatch, names: [&str; COUNT], to: &DataType) -> Result<Columns<COUNT>> {
    let found: Result<Vec<_>> = names
        .iter()
        .map(|name| {
            let column = batch.column_by_name(name).ok_or_else(|| defect(name))?;
            cast(column, to).map_err(defect)
        })
        .collect();
    found?.try_into().map_err(|_| defect("a column is missing"))
}

fn texts<const COUNT: usize>(batch: &RecordBatch, names: [&str; COUNT]) -> Result<Columns<COUNT>> {
    columns(batch, names, &DataType::Utf8)
}

fn numbers<const COUNT: usize>(batch: &RecordBatch, names: [&str; COUNT]) -> Result<Columns<COUNT>> {
    columns(batch, names, &DataType::Int64)
}

fn text(column: &arrow::array::ArrayRef, row: usize) -> &str {
    if column.is_null(row) { "" } else { column.as_string::<i32>().value(row) }
}

fn seconds(column: &arrow::array::ArrayRef, row: usize) -> f64 {
    if column.is_null(row) { 0.0 } else { column.as_primitive::<Int64Type>().value(row) as f64 / 1e9 }
}

fn defect(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("metrics of services: {error}"))
}
