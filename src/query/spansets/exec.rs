//! The physical operator: whole traces one after another.
//!
//! Spans come in one of two ways. Where nothing is known of their traces, the input comes hashed and ordered by trace id,
//! so that all spans of a trace follow each other in one partition. A batch is evaluated as soon as the traces in it are
//! complete; what is left of the last one waits for the next batch, within the bounds of [`super::gather`].
//!
//! Where the traces are known, the input comes as it is read, and [`Gathering`] puts traces together whose spans lie apart.

use std::{collections::VecDeque, fmt, ops::Range, sync::Arc};

use datafusion::{
    arrow::array::RecordBatch,
    common::{Result, internal_datafusion_err, internal_err, tree_node::TreeNodeRecursion},
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryPool},
    },
    physical_expr::{
        Distribution, EquivalenceProperties, LexRequirement, OrderingRequirements, Partitioning, PhysicalExpr,
        PhysicalSortRequirement, expressions::col,
    },
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements,
        PlanProperties, ReplaceChildrenOptions,
        execution_plan::{Boundedness, EmissionType},
        metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, stream};

use super::{
    answer::{SpanRows, TraceRows},
    gather::{Gathered, TraceBounds, Whole},
    known::{Gathering, WholeTraces, trace_ids},
    program::{Output, Program},
    stages,
    trace::{Columns, TraceSpans, late_inputs},
};
use crate::{
    model::schema::column,
    storage::trace_set::{TraceSet, runs},
};

/// The operator's count of traces that were too large to be looked at as a whole.
pub(crate) const TRACES_CUT: &str = "traces_cut";

/// Evaluates a pipeline on whole traces.
#[derive(Debug)]
pub(super) struct TraceEvalExec {
    input: Arc<dyn ExecutionPlan>,
    program: Arc<Program>,
    /// The traces, where they are known; their spans come in any order then.
    known: Option<Arc<TraceSet>>,
    gathering: Option<Arc<Gathering>>,
    trace_id: Arc<dyn PhysicalExpr>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TraceEvalExec {
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        program: Arc<Program>,
        known: Option<Arc<TraceSet>>,
    ) -> Result<Self> {
        let trace_id = col(column::TRACE_ID, &input.schema())?;
        let partitions = input.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(program.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let gathering = known.as_ref().map(|set| Arc::new(Gathering::new(Arc::clone(set), partitions)));
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { input, program, known, gathering, trace_id, properties: Arc::new(properties), metrics })
    }
}

impl DisplayAs for TraceEvalExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceEvalExec: {}", self.program)?;
        match &self.known {
            Some(set) => write!(f, ", known={} traces", set.len()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for TraceEvalExec {
    fn name(&self) -> &'static str {
        "TraceEvalExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![match self.known {
            Some(_) => Distribution::UnspecifiedDistribution,
            None => Distribution::KeyPartitioned(vec![Arc::clone(&self.trace_id)]),
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        if self.known.is_some() {
            return vec![None];
        }
        let requirement = PhysicalSortRequirement::new(Arc::clone(&self.trace_id), None);
        vec![LexRequirement::new([requirement]).map(OrderingRequirements::new)]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.trace_id)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => {
                let known = self.known.as_ref().map(Arc::clone);
                Ok(Arc::new(Self::try_new(input, Arc::clone(&self.program), known)?))
            }
            _ => internal_err!("TraceEvalExec has one child"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let bounds = context.session_config().get_extension::<TraceBounds>();
        let bounds = *bounds.ok_or_else(|| internal_datafusion_err!("the session has no bounds on traces"))?;
        let reservation = MemoryConsumer::new("trace evaluation").register(context.memory_pool());
        let evaluation = Evaluation {
            input,
            program: Arc::clone(&self.program),
            gathering: self.gathering.as_ref().map(Arc::clone),
            pool: Arc::clone(context.memory_pool()),
            spans_max: bounds.spans_max,
            gathered: Gathered::new(bounds, reservation),
            ready: VecDeque::new(),
            ended: false,
            traces_cut: MetricBuilder::new(&self.metrics).counter(TRACES_CUT, partition),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let batches = stream::unfold(evaluation, |mut evaluation| async move {
            let next = evaluation.next().await.transpose()?;
            Some((next, evaluation))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Evaluation {
    input: SendableRecordBatchStream,
    program: Arc<Program>,
    gathering: Option<Arc<Gathering>>,
    pool: Arc<dyn MemoryPool>,
    /// Parts of one trace that may not be complete.
    gathered: Gathered,
    spans_max: usize,
    ready: VecDeque<RecordBatch>,
    ended: bool,
    traces_cut: Count,
    metrics: BaselineMetrics,
}

impl Evaluation {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            let next = self.input.next().await.transpose();
            let elapsed = self.metrics.elapsed_compute().clone();
            let _timer = elapsed.timer();
            match next {
                Ok(Some(batch)) => match &self.gathering {
                    Some(gathering) => {
                        let memory = || MemoryConsumer::new("parts of traces").register(&self.pool);
                        let whole = gathering.add(&batch, self.spans_max, memory)?;
                        self.evaluate_all(&whole)?;
                    }
                    None => self.take(&batch)?,
                },
                Ok(None) => {
                    self.ended = true;
                    match self.gathering.take() {
                        Some(gathering) => {
                            let whole = gathering.end()?;
                            self.evaluate_all(&whole)?;
                            if !whole.is_empty() {
                                gathering.clear();
                            }
                        }
                        None => self.complete()?,
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let traces = traces_in(batch)?;
        let Some(first) = traces.first() else { return Ok(()) };
        let mut from = 0;
        if let Some(part) = self.gathered.some_part() {
            let same = id_at(part, 0)? == id_at(batch, 0)?;
            if same {
                from = first.end;
                self.gathered.add(batch.slice(0, first.end))?;
            }
            if !same || traces.len() > 1 {
                self.complete()?;
            }
        }
        let Some(last) = traces.last().filter(|last| last.start >= from) else { return Ok(()) };
        let complete = traces.iter().filter(|trace| trace.start >= from && trace.end <= last.start).cloned();
        let (small, large): (Vec<_>, Vec<_>) = complete.partition(|trace| trace.len() <= self.spans_max);
        if !small.is_empty() {
            self.evaluate(batch, &small)?;
        }
        for trace in large {
            self.gathered.add(batch.slice(trace.start, trace.len()))?;
            self.complete()?;
        }
        self.gathered.add(batch.slice(last.start, last.len()))
    }

    /// Evaluates the trace whose parts are gathered.
    fn complete(&mut self) -> Result<()> {
        let Some(Whole { spans, was_cut }) = self.gathered.take()? else { return Ok(()) };
        self.traces_cut.add(usize::from(was_cut));
        self.evaluate(&spans, std::slice::from_ref(&(0..spans.num_rows())))?;
        self.gathered.release();
        Ok(())
    }

    fn evaluate_all(&mut self, whole: &[WholeTraces]) -> Result<()> {
        whole.iter().try_for_each(|(batch, traces)| self.evaluate(batch, traces))
    }

    fn evaluate(&mut self, batch: &RecordBatch, traces: &[Range<usize>]) -> Result<()> {
        let answer = evaluate(&self.program, batch, traces)?;
        if answer.num_rows() > 0 {
            self.ready.push_back(answer);
        }
        Ok(())
    }
}

fn id_at(batch: &RecordBatch, row: usize) -> Result<&[u8]> {
    Ok(trace_ids(batch)?.value(row))
}

/// The rows of each trace.
fn traces_in(batch: &RecordBatch) -> Result<Vec<Range<usize>>> {
    let mut start = 0;
    let ends = runs(trace_ids(batch)?).map(|(_, end)| std::mem::replace(&mut start, end)..end);
    Ok(ends.collect())
}

/// The answer over some whole traces of a batch.
pub(super) fn evaluate(program: &Program, batch: &RecordBatch, traces: &[Range<usize>]) -> Result<RecordBatch> {
    let inputs = late_inputs(program, batch)?;
    let columns = Columns::try_new(program, batch, &inputs)?;
    let found = |rows: &Range<usize>| {
        let trace = TraceSpans::new(program, &columns, rows.clone());
        let mut spansets = stages::run(&trace, &program.plan.stages);
        for spanset in &mut spansets {
            spanset.spans.retain(|span| program.range.contains(columns.starts[trace.row(*span)]));
        }
        spansets.retain(|spanset| !spanset.spans.is_empty());
        (trace, spansets)
    };
    match &program.output {
        Output::Traces { spans_max } => {
            let mut rows = TraceRows::try_new(program, batch, *spans_max)?;
            for trace in traces {
                let (trace, spansets) = found(trace);
                if !spansets.is_empty() {
                    rows.add(&columns, &trace, &spansets)?;
                }
            }
            rows.finish()
        }
        Output::Spans(span_columns) => {
            let mut rows = SpanRows::new(program, batch, span_columns);
            for trace in traces {
                let (trace, spansets) = found(trace);
                rows.add(&trace, &spansets);
            }
            rows.finish()
        }
    }
}

impl fmt::Debug for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evaluation").field("gathered", &self.gathered).finish_non_exhaustive()
    }
}
