//! All spans of one trace, or a part of it.
//!
//! The plan is a filter on the trace id and a sort, over the base table, so that the catalogue's and the files' own
//! indexes on ids leave a few pages to read. A span that was stored twice, by a sender that tried again, appears once:
//! rows with equal span id and kind collapse to the first.
//!
//! With a [`TraceFilter`] the plan has a column more, which tells the matching spans; which others stay is decided on the
//! whole trace ([`part`]).

mod part;

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray, RecordBatch},
        compute::filter_record_batch,
        datatypes::{Schema, SchemaRef},
    },
    catalog::TableProvider,
    common::{Result as DfResult, ScalarValue, exec_err},
    execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
    logical_expr::{Expr, LogicalPlan, col, lit},
};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};

use crate::{
    error::{Error, Result},
    model::{
        ids::{SpanId, TraceId},
        schema::{KINDS, column, logical_schema},
    },
    query::{
        request::{TraceByIdQuery, TraceFilter},
        search::starts_in,
        session::scan_base,
        traceql::lower,
    },
    traceql::search,
};

/// The column that tells which spans match the filter.
const MATCHES: &str = "matches";

/// A [`TraceByIdQuery`] whose filter is known to be one.
#[derive(Clone, Debug)]
pub(crate) struct TraceById {
    query: TraceByIdQuery,
    matches: Option<Expr>,
}

impl TraceById {
    /// Reads the filter of a query.
    pub(crate) fn compile(query: &TraceByIdQuery) -> Result<Self> {
        let matches = query.filter.as_ref().map(|filter| condition(&filter.text)).transpose()?;
        Ok(Self { query: query.clone(), matches })
    }

    /// The plan: core columns, by start; with a filter, [`MATCHES`] after them.
    pub(crate) fn plan(&self, base: &Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        let trace_id = self.query.trace_id.as_bytes().to_vec();
        let trace_id = ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(trace_id));
        let filter = col(column::TRACE_ID).eq(lit(trace_id));
        let filter = self.query.hint.into_iter().flat_map(starts_in).fold(filter, Expr::and);
        let mut plan = scan_base(base)?.filter(filter)?;
        if let Some(matches) = &self.matches {
            let columns = logical_schema().fields().iter().map(|field| col(field.name())).collect::<Vec<_>>();
            plan = plan.project(columns.into_iter().chain([matches.clone().is_true().alias(MATCHES)]))?;
        }
        // After start and identity come columns that tell different copies of a span apart, for a stable choice.
        let order =
            [column::START_TIME, column::SPAN_ID, column::KIND, column::DURATION, column::NAME, column::STATUS_CODE];
        plan.sort(order.map(|name| col(name).sort(true, true)))?.build()
    }
}

/// The condition of a query that is one spanset filter on spans alone.
fn condition(text: &str) -> Result<Expr> {
    let search = search(text)?;
    match search.spansets.single() {
        Some(condition) => Ok(lower::filter(condition)),
        None => Err(Error::invalid(
            "the filter of a trace must be one spanset filter on the spans themselves, such as { status = error }",
        )),
    }
}

/// The way from the plan's rows to the answer's.
#[derive(Debug)]
pub(crate) struct Shape {
    filter: Option<TraceFilter>,
}

impl Shape {
    /// The way for a query.
    pub(crate) fn new(query: &TraceByIdQuery) -> Self {
        Self { filter: query.filter.clone() }
    }

    /// The answer's schema for that of the plan.
    pub(crate) fn schema(&self, plan: &SchemaRef) -> SchemaRef {
        let fields = plan.fields().iter().filter(|field| self.filter.is_none() || field.name() != MATCHES);
        Arc::new(Schema::new(fields.map(Arc::clone).collect::<Vec<_>>()))
    }

    /// The answer's batches for those of the plan.
    pub(crate) fn apply<'a>(
        self,
        batches: impl Stream<Item = DfResult<RecordBatch>> + Send + 'a,
        pool: &Arc<dyn MemoryPool>,
    ) -> BoxStream<'a, DfResult<RecordBatch>> {
        let mut collapse = Collapse::new(MemoryConsumer::new("spans of a trace").register(pool));
        let single = batches.map(move |batch| collapse.next(&batch?));
        let Some(filter) = self.filter else { return single.boxed() };
        let memory = MemoryConsumer::new("part of a trace").register(pool);
        let part = async move {
            let mut single = std::pin::pin!(single);
            let mut batches: Vec<RecordBatch> = Vec::new();
            while let Some(batch) = single.try_next().await? {
                memory.try_grow(batch.get_array_memory_size())?;
                batches.push(batch);
            }
            let part: Vec<DfResult<RecordBatch>> = part::of(&batches, MATCHES, &filter)?.into_iter().map(Ok).collect();
            let part: DfResult<_> = Ok(futures::stream::iter(part));
            part
        };
        futures::stream::once(part).try_flatten().boxed()
    }
}

/// Drops the second and later copies of a span from the batches of one trace.
#[derive(Debug)]
struct Collapse {
    /// Span id and position of the kind; kinds beyond the known ones share one.
    seen: HashSet<([u8; SpanId::LEN], u8)>,
    memory: MemoryReservation,
}

impl Collapse {
    /// Bytes of a span that was seen: a set is half empty after it has grown.
    const SEEN_BYTES: usize = 2 * (size_of::<([u8; SpanId::LEN], u8)>() + 1);

    fn new(memory: MemoryReservation) -> Self {
        Self { seen: HashSet::new(), memory }
    }

    /// The rows of the next batch that are not copies.
    fn next(&mut self, batch: &RecordBatch) -> DfResult<RecordBatch> {
        let ids = batch[column::SPAN_ID].as_fixed_size_binary();
        let kinds = batch[column::KIND].as_string::<i32>();
        self.memory.try_grow(batch.num_rows() * Self::SEEN_BYTES)?;
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let Ok(id) = <[u8; SpanId::LEN]>::try_from(ids.value(row)) else {
                return exec_err!("a span id has {} bytes", ids.value(row).len());
            };
            let kind = KINDS.iter().position(|kind| *kind == kinds.value(row)).unwrap_or(KINDS.len());
            keep.push(self.seen.insert((id, kind as u8)));
        }
        if keep.iter().all(|keep| *keep) {
            return Ok(batch.clone());
        }
        Ok(filter_record_batch(batch, &BooleanArray::from(keep))?)
    }
}
