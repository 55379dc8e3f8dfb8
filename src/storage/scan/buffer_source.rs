//! Buffered batches as a source of spans.
//!
//! The source takes filters and output expressions like one over files does, and rewrites them for each batch by the same
//! adapter. Of a batch it flattens only the columns that these read, a chunk of rows at a time: first those of the filter,
//! then, if a row is left, the others; of few rows that are left, at those alone.

use std::{fmt, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, RecordBatch, RecordBatchOptions, UInt32Array},
    compute::{filter_record_batch, prep_null_mask_filter},
    datatypes::{Field, Schema, SchemaRef},
};
use datafusion::{
    common::{
        Result, ScalarValue, Statistics,
        config::ConfigOptions,
        exec_err, internal_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    datasource::source::DataSource,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, Partitioning, PhysicalExpr, conjunction, conjunction_opt,
        expressions::{Column, lit},
        projection::ProjectionExprs,
        simplifier::PhysicalExprSimplifier,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::{
        DisplayFormatType,
        coop::cooperative,
        execution_plan::SchedulingType,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use datafusion_physical_expr_adapter::PhysicalExprAdapter;

use crate::{
    model::{batch::SpanBatch, schema::column},
    storage::{
        order::date_of,
        scan::{
            adapter::AttributeAdapter,
            condition::{self, is_not_true},
            demand::ScanDemand,
            table_schema,
        },
        start_set::is_row_in_file,
    },
};

/// Rows are picked one by one where at most this part of them is left: one of so many.
const SPARSE: usize = 8;

/// Batches in memory, divided into partitions.
#[derive(Clone)]
pub(crate) struct BufferSource {
    partitions: Arc<Vec<Vec<Arc<SpanBatch>>>>,
    /// What comes out, in terms of the table.
    projection: ProjectionExprs,
    projected_schema: SchemaRef,
    /// Conjuncts in terms of the table.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    fetch: Option<usize>,
    demand: Option<Arc<ScanDemand>>,
    metrics: ExecutionPlanMetricsSet,
}

impl BufferSource {
    /// The columns at these indices of the table, of all batches.
    pub(crate) fn try_new(
        batches: &[Arc<SpanBatch>],
        projection: &[usize],
        partitions: usize,
        fetch: Option<usize>,
    ) -> Result<Self> {
        let projection = ProjectionExprs::from_indices(projection, &table_schema());
        let projected_schema = Arc::new(projection.project_schema(&table_schema())?);
        let partitions = Arc::new(balanced(batches, partitions));
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { partitions, projection, projected_schema, filters: Vec::new(), fetch, demand: None, metrics })
    }

    /// The same, telling which attributes were read.
    pub(crate) fn with_demand(self, demand: Option<Arc<ScanDemand>>) -> Self {
        Self { demand, ..self }
    }

    fn num_batches(&self) -> usize {
        self.partitions.iter().map(Vec::len).sum()
    }

    fn num_spans(&self) -> usize {
        self.partitions.iter().flatten().map(|batch| batch.num_spans()).sum()
    }
}

/// Divides batches into at most this many partitions of about the same number of spans.
fn balanced(batches: &[Arc<SpanBatch>], partitions: usize) -> Vec<Vec<Arc<SpanBatch>>> {
    let partitions = partitions.clamp(1, batches.len().max(1));
    let total: usize = batches.iter().map(|batch| batch.num_spans()).sum();
    let mut divided = vec![Vec::new(); partitions];
    let mut before = 0;
    for batch in batches {
        let place = (before * partitions).checked_div(total).unwrap_or(0).min(partitions - 1);
        divided[place].push(Arc::clone(batch));
        before += batch.num_spans();
    }
    divided
}

/// Whether taking in `outer` would evaluate an expression of `inner` more often than now.
fn would_repeat(inner: &ProjectionExprs, outer: &ProjectionExprs) -> Result<bool> {
    let mut references = vec![0usize; inner.as_ref().len()];
    for projected in outer {
        projected.expr.apply(|node| {
            if let Some(count) = node.downcast_ref::<Column>().and_then(|column| references.get_mut(column.index())) {
                *count += 1;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let costly = |expr: &Arc<dyn PhysicalExpr>| is_volatile(expr) || !expr.placement().should_push_to_leaves();
    Ok(inner.iter().zip(references).any(|(projected, count)| count > 1 && costly(&projected.expr)))
}

impl fmt::Debug for BufferSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferSource").field("batches", &self.num_batches()).field("spans", &self.num_spans()).finish()
    }
}

impl DataSource for BufferSource {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(batches) = self.partitions.get(partition) else {
            return internal_err!("buffered spans have {} partitions, not {partition}", self.partitions.len());
        };
        let chunks = Chunks {
            batches: batches.clone().into_iter(),
            current: None,
            source: self.clone(),
            rows_max: context.session_config().batch_size(),
            left: self.fetch.unwrap_or(usize::MAX),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let schema = Arc::clone(&self.projected_schema);
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(schema, futures::stream::iter(chunks)))))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "buffered_batches={}, spans={}", self.num_batches(), self.num_spans())?;
        let projection: Vec<String> = self.projection.iter().map(ToString::to_string).collect();
        write!(f, ", projection=[{}]", projection.join(", "))?;
        if let Some(filter) = conjunction_opt(self.filters.iter().map(Arc::clone)) {
            write!(f, ", predicate={filter}")?;
        }
        if let Some(fetch) = self.fetch {
            write!(f, ", fetch={fetch}")?;
        }
        Ok(())
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions.len())
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.projected_schema))
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.projected_schema)))
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { fetch, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        if would_repeat(&self.projection, projection)? {
            return Ok(None);
        }
        let projection = self.projection.try_merge(projection)?;
        let projected_schema = Arc::new(projection.project_schema(&table_schema())?);
        Ok(Some(Arc::new(Self { projection, projected_schema, ..self.clone() })))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        // A filter above a limit selects from the limited rows, so it must not move below.
        if self.fetch.is_some() {
            let kept = vec![PushedDown::No; filters.len()];
            return Ok(FilterPushdownPropagation::with_parent_pushdown_result(kept));
        }
        let mut source = self.clone();
        let mut results = Vec::with_capacity(filters.len());
        for filter in filters {
            if is_volatile(&filter) {
                results.push(PushedDown::No);
                continue;
            }
            let filter = reassign_expr_columns(self.projection.unproject_expr(&filter)?, &table_schema())?;
            if !source.filters.contains(&filter) {
                source.filters.push(filter);
            }
            results.push(PushedDown::Yes);
        }
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(results).with_updated_node(Arc::new(source)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expr in self.filters.iter().chain(self.projection.iter().map(|projected| &projected.expr)) {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

/// Expressions on the columns of one batch that they read.
#[derive(Debug)]
struct Evaluation {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    columns: SchemaRef,
}

impl Evaluation {
    fn try_new(exprs: Vec<Arc<dyn PhysicalExpr>>, physical: &Schema) -> Result<Self> {
        let mut indices: Vec<usize> = exprs.iter().flat_map(collect_columns).map(|column| column.index()).collect();
        indices.sort_unstable();
        indices.dedup();
        let columns = Arc::new(physical.project(&indices)?);
        let exprs = exprs.into_iter().map(|expr| reassign_expr_columns(expr, &columns)).collect::<Result<_>>()?;
        Ok(Self { exprs, columns })
    }

    /// The columns of these rows of a batch, or of all.
    fn input(&self, batch: &SpanBatch, rows: Option<&UInt32Array>) -> Result<RecordBatch> {
        let columns =
            self.columns.fields().iter().map(|field| flat_column(batch, field, rows)).collect::<Result<Vec<_>>>()?;
        let count = rows.map_or(batch.num_spans(), UInt32Array::len);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.columns), columns, &options)?)
    }

    fn evaluate(&self, input: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.exprs.iter().map(|expr| expr.evaluate(input)?.into_array(input.num_rows())).collect()
    }
}

fn flat_column(batch: &SpanBatch, field: &Field, rows: Option<&UInt32Array>) -> Result<ArrayRef> {
    if field.name() == column::DATE {
        let starts = batch.start_times().values();
        return Ok(Arc::new(match rows {
            Some(rows) => Date32Array::from_iter_values(rows.values().iter().map(|row| date_of(starts[*row as usize]))),
            None => Date32Array::from_iter_values(starts.iter().map(|start| date_of(*start))),
        }));
    }
    let values = match rows {
        Some(rows) => batch.flat_column_at(field.name(), rows)?,
        None => batch.flat_column(field.name())?,
    };
    match values {
        Some(values) => Ok(values),
        None => exec_err!("span batch has no column {}", field.name()),
    }
}

/// A batch with the source's expressions rewritten for it: the filter at once, the output when a row has passed.
struct OpenBatch {
    batch: Arc<SpanBatch>,
    next_row: usize,
    rewriter: Rewriter,
    filter: Option<Evaluation>,
    output: Option<Evaluation>,
}

/// Rewrites expressions on the table for a batch.
struct Rewriter {
    adapter: AttributeAdapter,
    physical: SchemaRef,
}

impl Rewriter {
    fn of(batch: &SpanBatch, source: &BufferSource) -> Result<Self> {
        let table = table_schema();
        let date = table.field_with_name(column::DATE)?.clone();
        let flat = batch.flat_schema();
        let physical: SchemaRef =
            Arc::new(Schema::new(flat.fields().iter().map(Arc::clone).chain([Arc::new(date)]).collect::<Vec<_>>()));
        let adapter = AttributeAdapter::try_new(table, Arc::clone(&physical), Some(batch.keys()))?
            .with_demand(source.demand.as_ref().map(Arc::clone));
        Ok(Self { adapter, physical })
    }

    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let in_no_file = |node: Arc<dyn PhysicalExpr>| match is_row_in_file(node.as_ref()) {
            true => Ok(Transformed::yes(lit(ScalarValue::Int64(None)))),
            false => Ok(Transformed::no(node)),
        };
        let expr = expr.transform_up(in_no_file).data()?;
        PhysicalExprSimplifier::new(&self.physical).simplify(self.adapter.rewrite(expr)?)
    }
}

impl OpenBatch {
    /// `None` if no row of the batch can pass the filters.
    fn try_new(batch: Arc<SpanBatch>, source: &BufferSource) -> Result<Option<Self>> {
        let rewriter = Rewriter::of(&batch, source)?;
        let filter = match source.filters.is_empty() {
            true => None,
            false => {
                let filter = rewriter.rewrite(conjunction(source.filters.iter().map(condition::mark)))?;
                if is_not_true(&filter) {
                    return Ok(None);
                }
                Some(Evaluation::try_new(vec![filter], &rewriter.physical)?)
            }
        };
        Ok(Some(Self { batch, next_row: 0, rewriter, filter, output: None }))
    }

    /// The rows of this range that pass the filter; `None` if none does.
    fn read(&mut self, rows: Range<usize>, source: &BufferSource) -> Result<Option<RecordBatch>> {
        let batch = self.batch.slice(rows.start, rows.len());
        let selected = match &self.filter {
            Some(filter) => Some(selection(&filter.evaluate(&filter.input(&batch, None)?)?)?),
            None => None,
        };
        if selected.as_ref().is_some_and(|selected| selected.true_count() == 0) {
            return Ok(None);
        }
        let output = match self.output.take() {
            Some(output) => output,
            None => {
                let exprs =
                    source.projection.iter().map(|projected| self.rewriter.rewrite(Arc::clone(&projected.expr)));
                Evaluation::try_new(exprs.collect::<Result<_>>()?, &self.rewriter.physical)?
            }
        };
        let input = match selected.filter(|selected| selected.true_count() < selected.len()) {
            None => output.input(&batch, None)?,
            Some(selected) if selected.true_count() <= selected.len() / SPARSE => {
                let rows = selected.values().set_indices().map(|row| row as u32);
                output.input(&batch, Some(&UInt32Array::from_iter_values(rows)))?
            }
            Some(selected) => filter_record_batch(&output.input(&batch, None)?, &selected)?,
        };
        let columns = output.evaluate(&input)?;
        self.output = Some(output);
        let options = RecordBatchOptions::new().with_row_count(Some(input.num_rows()));
        let schema = Arc::clone(&source.projected_schema);
        Ok(Some(RecordBatch::try_new_with_options(schema, columns, &options)?))
    }
}

/// The rows for which a filter is true.
fn selection(evaluated: &[ArrayRef]) -> Result<BooleanArray> {
    let [filter] = evaluated else { return internal_err!("a filter is one expression") };
    let Some(filter) = filter.as_boolean_opt() else {
        return exec_err!("a filter has the type {}", filter.data_type());
    };
    Ok(if filter.null_count() > 0 { prep_null_mask_filter(filter) } else { filter.clone() })
}

/// The chunks of the batches of one partition.
struct Chunks {
    batches: std::vec::IntoIter<Arc<SpanBatch>>,
    current: Option<OpenBatch>,
    source: BufferSource,
    rows_max: usize,
    left: usize,
    metrics: BaselineMetrics,
}

impl Chunks {
    fn try_next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            let Some(open) = &mut self.current else {
                let Some(batch) = self.batches.next() else { return Ok(None) };
                self.current = OpenBatch::try_new(batch, &self.source)?;
                continue;
            };
            let end = open.batch.num_spans().min(open.next_row + self.rows_max);
            let rows = open.next_row..end;
            open.next_row = end;
            if rows.is_empty() {
                self.current = None;
                continue;
            }
            if let Some(chunk) = open.read(rows, &self.source)? {
                let chunk = chunk.slice(0, chunk.num_rows().min(self.left));
                self.left -= chunk.num_rows();
                self.metrics.record_output(chunk.num_rows());
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

impl Iterator for Chunks {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let timer = self.metrics.elapsed_compute().clone();
        let _timer = timer.timer();
        self.try_next().transpose()
    }
}
