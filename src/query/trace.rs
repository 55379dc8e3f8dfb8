//! All spans of one trace.
//!
//! The plan is a filter on the trace id and a sort, over the base table, so that the catalogue's and the files' own
//! indexes on ids leave a few pages to read. A span that was stored twice, by a sender that tried again, appears once:
//! rows with equal span id and kind collapse to the first.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray, RecordBatch},
        compute::filter_record_batch,
        error::ArrowError,
    },
    catalog::TableProvider,
    common::{Result as DfResult, ScalarValue},
    logical_expr::{LogicalPlan, col, lit},
};

use crate::{
    model::{
        ids::{SpanId, TraceId},
        schema::column,
        time::TimeRange,
    },
    query::{request::TraceByIdQuery, session::scan_base},
};

/// The plan of [`TraceByIdQuery`]: core columns, by start.
pub(crate) fn plan(query: &TraceByIdQuery, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
    let trace_id = ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(query.trace_id.as_bytes().to_vec()));
    let mut filter = col(column::TRACE_ID).eq(lit(trace_id));
    if let Some(TimeRange { start_unix_nano, end_unix_nano }) = query.hint {
        let start = col(column::START_TIME);
        filter = filter.and(start.clone().gt_eq(lit(start_unix_nano))).and(start.lt(lit(end_unix_nano)));
    }
    // After start and identity come columns that tell different copies of a span apart, for a stable choice.
    let order =
        [column::START_TIME, column::SPAN_ID, column::KIND, column::DURATION, column::NAME, column::STATUS_CODE];
    scan_base(base)?.filter(filter)?.sort(order.map(|name| col(name).sort(true, true)))?.build()
}

/// Drops the second and later copies of a span from the batches of one trace.
#[derive(Debug, Default)]
pub(crate) struct Collapse {
    seen: HashSet<([u8; SpanId::LEN], String)>,
}

impl Collapse {
    /// The rows of the next batch that are not copies.
    pub(crate) fn next(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let ids = batch[column::SPAN_ID].as_fixed_size_binary();
        let kinds = batch[column::KIND].as_string::<i32>();
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let id = <[u8; SpanId::LEN]>::try_from(ids.value(row))
                .map_err(|_| ArrowError::SchemaError("span ids have another length".to_owned()))?;
            keep.push(self.seen.insert((id, kinds.value(row).to_owned())));
        }
        if keep.iter().all(|keep| *keep) {
            return Ok(batch.clone());
        }
        filter_record_batch(batch, &BooleanArray::from(keep))
    }
}
