//! `system.queries`: the tenant's queries that run, and those that ended lately; all languages and protocols.

use std::sync::Arc;

use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray},
    datatypes::{DataType, Field},
};
use futures::FutureExt;

use super::{SystemTable, column, moment};
use crate::query::{QueryStats, log::Logged};

pub(super) const TABLE: SystemTable = SystemTable {
    name: "queries",
    columns,
    rows: |context, _, schema| {
        let queries = context.process.log.of_tenant(&context.tenant);
        async move {
            let text = |part: fn(&Logged) -> Option<&str>| -> ArrayRef {
                Arc::new(queries.iter().map(part).collect::<StringArray>())
            };
            let count = |part: fn(&QueryStats) -> u64| -> ArrayRef {
                let value = |query: &Logged| i64::try_from(part(&query.stats)).unwrap_or(i64::MAX);
                Arc::new(queries.iter().map(|query| Some(value(query))).collect::<Int64Array>())
            };
            let started = queries.iter().map(|query| Some(query.started_unix_nano));
            let ids = queries.iter().map(|query| i64::try_from(query.id).ok());
            let elapsed = queries.iter().map(|query| i64::try_from(query.elapsed.as_nanos()).ok());
            let columns = vec![
                Arc::new(ids.collect::<Int64Array>()) as ArrayRef,
                text(|query| Some(query.kind)),
                text(|query| Some(&query.text)),
                text(|query| Some(query.state)),
                text(|query| query.error.as_deref()),
                Arc::new(started.collect::<TimestampNanosecondArray>().with_timezone("UTC")),
                Arc::new(elapsed.collect::<Int64Array>()),
                count(|stats| u64::try_from(stats.planning.as_nanos()).unwrap_or(u64::MAX)),
                count(|stats| stats.rows),
                count(|stats| stats.result_bytes),
                count(|stats| stats.scanned_rows),
                count(|stats| stats.scanned_bytes),
                count(|stats| stats.files_scanned),
                count(|stats| stats.files_pruned),
                count(|stats| stats.files_skipped),
                count(|stats| stats.row_groups_scanned),
                count(|stats| stats.row_groups_pruned),
                count(|stats| stats.peak_memory_bytes),
                count(|stats| stats.spilled_bytes),
            ];
            Ok(RecordBatch::try_new(schema, columns)?)
        }
        .boxed()
    },
};

fn columns() -> Vec<Field> {
    let count = |name: &str, comment: &str| column(name, DataType::Int64, comment);
    vec![
        count("id", "number of the query in this process"),
        column("kind", DataType::Utf8, "sql, traceql, traceql_metrics, trace_by_id, tag_names or tag_values"),
        column("query", DataType::Utf8, "its text, cut after 4096 bytes"),
        column("state", DataType::Utf8, "running, ok, refused, limit, timeout, cancelled or failed"),
        column("error", DataType::Utf8, "what the client was told, where it failed"),
        column("start_time", moment(), "when it arrived"),
        count("duration_nano", "nanoseconds from then to its end, or to now"),
        count("planning_nano", "nanoseconds of them before the first operator ran"),
        count("rows", "rows in the answer so far"),
        count("result_bytes", "bytes of Arrow data in the answer so far"),
        count(
            "scanned_rows",
            "spans that scans have read, but for those passed over while decoding; known at the end, as are the next ones",
        ),
        count("scanned_bytes", "bytes read from files"),
        count("files_scanned", "files that were looked into"),
        count("files_pruned", "files that statistics or filters of trace ids ruled out unopened"),
        count("files_skipped", "files, of those looked into, of which the footer ruled out everything"),
        count("row_groups_scanned", "row groups that were read"),
        count("row_groups_pruned", "row groups that were ruled out"),
        count("peak_memory_bytes", "most memory that operators held at a time"),
        count("spilled_bytes", "bytes that operators wrote to disk"),
    ]
}
