//! Operators that give way.
//!
//! A task of the runtime is ended, and makes room for others, where it waits. A scan waits often; what stands above it may
//! not: a join makes millions of batches of two, and its condition may leave nothing of millions of pairs. Such a task
//! would go on after the caller was told that the time is over, and nothing else would run beside it. So the batches of
//! operators that multiply rows, and the batches that joins with a condition compare with all rows of the other side, go
//! through [`YieldingExec`].

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    common::{
        Result, Statistics,
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
        execution_plan::{CardinalityEffect, SchedulingType},
        filter_pushdown::{
            ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase,
            FilterPushdownPropagation,
        },
        joins::{
            CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec,
            SymmetricHashJoinExec,
        },
        statistics::{ChildStats, StatisticsArgs},
        unnest::UnnestExec,
    },
};
use futures::{Stream, StreamExt};

/// How long a task works before it lets others run.
const TURN: Duration = Duration::from_millis(10);

/// Rows of the first slice, and of a slice at least; others take about half a turn each. The time of a slice on a busy machine
/// is mostly that of others, so slices do not get smaller and smaller.
const SLICE_ROWS_MIN: usize = 16;

/// The rule that puts [`YieldingExec`] where rows multiply. It follows the rule of DataFusion that does so for scans.
#[derive(Debug)]
pub(crate) struct YieldsWhereRowsMultiply;

impl PhysicalOptimizerRule for YieldsWhereRowsMultiply {
    fn name(&self) -> &'static str {
        "yields_where_rows_multiply"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let yielding = plan.transform_up(|operator| {
            // The plan of a view has been through here alone.
            if let Some(yielding) = operator.downcast_ref::<YieldingExec>() {
                return Ok(Transformed::yes(Arc::clone(&yielding.input)));
            }
            if !multiplies_rows(operator.as_ref()) {
                return Ok(Transformed::no(operator));
            }
            let operator = match operator.children().as_slice() {
                [build, probe] if tries_pairs(operator.as_ref()) => {
                    let probe: Arc<dyn ExecutionPlan> = Arc::new(YieldingExec::new(Arc::clone(probe), Batches::Sliced));
                    let build = Arc::clone(build);
                    operator.replace_children(
                        vec![build, probe],
                        ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
                    )?
                }
                _ => operator,
            };
            Ok(Transformed::yes(Arc::new(YieldingExec::new(operator, Batches::Whole))))
        })?;
        Ok(yielding.data)
    }
}

fn multiplies_rows(operator: &dyn ExecutionPlan) -> bool {
    operator.is::<CrossJoinExec>()
        || operator.is::<HashJoinExec>()
        || operator.is::<NestedLoopJoinExec>()
        || operator.is::<PiecewiseMergeJoinExec>()
        || operator.is::<SortMergeJoinExec>()
        || operator.is::<SymmetricHashJoinExec>()
        || operator.is::<UnnestExec>()
}

/// Whether a join compares each batch of its second input with what may be all rows of the first, and may find none.
fn tries_pairs(operator: &dyn ExecutionPlan) -> bool {
    operator.is::<NestedLoopJoinExec>()
        || operator.downcast_ref::<HashJoinExec>().is_some_and(|join| join.filter().is_some())
}

/// In which pieces batches go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batches {
    /// As they come.
    Whole,
    /// In slices that the operator above takes about half a turn for.
    Sliced,
}

/// Passes batches on, and returns to the runtime after each turn.
#[derive(Clone, Debug)]
struct YieldingExec {
    input: Arc<dyn ExecutionPlan>,
    batches: Batches,
    properties: Arc<PlanProperties>,
}

impl YieldingExec {
    fn new(input: Arc<dyn ExecutionPlan>, batches: Batches) -> Self {
        let properties = PlanProperties::clone(input.properties()).with_scheduling_type(SchedulingType::Cooperative);
        Self { input, batches, properties: Arc::new(properties) }
    }
}

impl DisplayAs for YieldingExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.batches {
            Batches::Whole => write!(f, "YieldingExec"),
            Batches::Sliced => write!(f, "YieldingExec: batches=sliced"),
        }
    }
}

impl ExecutionPlan for YieldingExec {
    fn name(&self) -> &'static str {
        "YieldingExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.batches))),
            _ => internal_err!("YieldingExec has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let slices = (self.batches == Batches::Sliced).then(Slices::new);
        Ok(Box::pin(Yielding { input, turn_began: None, slices }))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, of_inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match of_inputs {
            [of_input] => Ok(Arc::clone(of_input)),
            _ => internal_err!("YieldingExec has one input"),
        }
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        // DataFusion finds the columns of a filter again by name, and a join has some names twice.
        let schema = self.input.schema();
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, field) in schema.fields().iter().enumerate() {
            by_name.entry(field.name()).or_default().push(place);
        }
        let once = by_name.into_values().filter(|places| places.len() == 1).flatten().collect();
        let of_input = ChildFilterDescription::from_child_with_allowed_indices(&parent_filters, once, &self.input)?;
        Ok(FilterDescription::new().with_child(of_input))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        of_child: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(of_child))
    }
}

/// What is left of a batch that goes on in slices.
#[derive(Debug)]
struct Slices {
    rest: Option<RecordBatch>,
    rows: usize,
    /// When the last slice went on, until it is known how long it took.
    since: Option<Instant>,
}

impl Slices {
    fn new() -> Self {
        Self { rest: None, rows: SLICE_ROWS_MIN, since: None }
    }

    /// The operator above asks for more at `now`: the next slice is larger if the last was quickly done.
    fn learn(&mut self, now: Instant) {
        match self.since.take() {
            Some(since) if now - since < TURN / 2 => self.rows = self.rows.saturating_mul(2),
            Some(since) if now - since > TURN => self.rows = (self.rows / 2).max(SLICE_ROWS_MIN),
            _ => {}
        }
    }

    fn next(&mut self, now: Instant) -> Option<RecordBatch> {
        let batch = self.rest.take()?;
        self.since = Some(now);
        // No more than there are, lest a long row of quick slices makes one that takes for ever.
        self.rows = self.rows.min(batch.num_rows().max(SLICE_ROWS_MIN));
        if self.rows >= batch.num_rows() {
            return Some(batch);
        }
        self.rest = Some(batch.slice(self.rows, batch.num_rows() - self.rows));
        Some(batch.slice(0, self.rows))
    }
}

struct Yielding {
    input: SendableRecordBatchStream,
    /// When the task was last here after it had waited.
    turn_began: Option<Instant>,
    slices: Option<Slices>,
}

impl Stream for Yielding {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let now = Instant::now();
        if let Some(slices) = &mut self.slices {
            slices.learn(now);
        }
        if now - *self.turn_began.get_or_insert(now) > TURN {
            self.turn_began = None;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(slice) = self.slices.as_mut().and_then(|slices| slices.next(now)) {
            return Poll::Ready(Some(Ok(slice)));
        }
        let Poll::Ready(next) = self.input.poll_next_unpin(context) else {
            self.turn_began = None;
            return Poll::Pending;
        };
        let batch = match (&mut self.slices, next) {
            (Some(slices), Some(Ok(batch))) => {
                slices.rest = Some(batch);
                slices.next(now)
            }
            (_, next) => return Poll::Ready(next),
        };
        Poll::Ready(batch.map(Ok))
    }
}

impl RecordBatchStream for Yielding {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("row", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef)]).unwrap()
    }

    /// Sizes of the slices of two batches that take so long for each row.
    fn slices(row_time: Duration) -> Vec<usize> {
        let (mut slices, mut now, mut sizes) = (Slices::new(), Instant::now(), Vec::new());
        for _ in 0..2 {
            slices.rest = Some(batch(1_000));
            while let Some(slice) = slices.next(now) {
                sizes.push(slice.num_rows());
                now += row_time * slice.num_rows() as u32;
                slices.learn(now);
            }
        }
        assert_eq!(sizes.iter().sum::<usize>(), 2_000);
        sizes
    }

    #[test]
    fn a_slice_takes_about_half_a_turn() {
        assert_eq!(slices(Duration::from_nanos(1)), [16, 32, 64, 128, 256, 504, 1_000]);
        assert!(slices(Duration::from_micros(50))[3..18].iter().all(|rows| (100..=128).contains(rows)));
        assert!(slices(Duration::from_secs(1)).iter().all(|rows| *rows <= SLICE_ROWS_MIN));
    }
}
