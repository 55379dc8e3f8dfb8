//! Planning that ends in time.
//!
//! A plan is made without waiting for anything, so nothing outside of it can stop it: its thread would go on after the
//! caller was told that the time is over. So the planner of statements asks at each relation and operator whether the query
//! still has time and a caller ([`Checkpoints`]), and the rules that a plan goes through, which is where most of the time goes,
//! ask before each step ([`Bounded`]). Where the plan grows while it is made, as
//! conditions do that move through columns named twice, it is bounded by size as well.
//!
//! Rules get no context of the query, hence the task-local one.

use std::{future::Future, sync::Arc, time::Duration};

use datafusion::{
    common::{
        DFSchema, Result as DfResult,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{
        Expr, Filter, LogicalPlan,
        planner::{
            ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr, RelationPlanner, RelationPlannerContext,
            RelationPlanning,
        },
    },
    optimizer::{AnalyzerRule, ApplyOrder, OptimizerConfig, OptimizerRule},
    physical_optimizer::{PhysicalOptimizerContext, PhysicalOptimizerRule},
    physical_plan::ExecutionPlan,
    sql::sqlparser::ast::TableFactor,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, ErrorKind},
    query::stream::timed_out,
};

/// The rules that put what computes a column in the place of the column in a condition.
const INLINING_RULES: [&str; 2] = ["push_down_filter", "eliminate_outer_join"];

/// Most operators, columns and literals of one condition.
const CONDITION_NODES_MAX: usize = 100_000;

tokio::task_local! {
    static PLANNING: Planning;
}

/// How long a query may be planned.
#[derive(Clone, Debug)]
pub(crate) struct Planning {
    pub(crate) deadline: Instant,
    /// The limit, for the error.
    pub(crate) timeout: Duration,
    /// Cancelled when nobody waits for the plan any more.
    pub(crate) caller_left: CancellationToken,
}

impl Planning {
    /// Runs `work` within these bounds.
    pub(crate) fn bound<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        PLANNING.scope(self, work)
    }

    fn check(&self) -> DfResult<()> {
        if Instant::now() >= self.deadline {
            return Err(external(timed_out(self.timeout)));
        }
        if self.caller_left.is_cancelled() {
            return Err(external(Error::new(ErrorKind::Cancelled, "the query was cancelled")));
        }
        Ok(())
    }
}

/// Fails if the query that this task plans has no time or no caller left. Elsewhere it has.
fn check() -> DfResult<()> {
    PLANNING.try_with(Planning::check).unwrap_or(Ok(()))
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Refuses a condition that would be too large once the columns in it are replaced by what they are computed from. Some rules
/// do that for all projections below in one step, so it is counted before and not while it happens.
fn check_size(filter: &Filter) -> DfResult<()> {
    let columns = nodes_of_columns(&filter.input);
    if nodes(&filter.predicate, &filter.input, &columns) <= CONDITION_NODES_MAX {
        return Ok(());
    }
    let message = format!(
        "a condition of the query grows to more than {CONDITION_NODES_MAX} operators when the columns in it are replaced by what they are computed from"
    );
    Err(external(Error::new(ErrorKind::TooLarge, message)))
}

/// For each column of a plan, how many operators, columns and literals compute it.
fn nodes_of_columns(plan: &LogicalPlan) -> Vec<usize> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let columns = nodes_of_columns(&projection.input);
            projection.expr.iter().map(|expr| nodes(expr, &projection.input, &columns)).collect()
        }
        LogicalPlan::SubqueryAlias(alias) => nodes_of_columns(&alias.input),
        LogicalPlan::Filter(filter) => nodes_of_columns(&filter.input),
        LogicalPlan::Sort(sort) => nodes_of_columns(&sort.input),
        LogicalPlan::Limit(limit) => nodes_of_columns(&limit.input),
        _ => vec![1; plan.schema().fields().len()],
    }
}

/// The nodes of an expression over `input`, whose columns stand for so many each.
fn nodes(expr: &Expr, input: &LogicalPlan, columns: &[usize]) -> usize {
    let mut nodes = 0_usize;
    // Nothing in the closure fails.
    let _ = expr.apply(|expr| {
        let of_expr = match expr {
            Expr::Column(column) => {
                let place = input.schema().maybe_index_of_column(column);
                place.and_then(|place| columns.get(place).copied()).unwrap_or(1)
            }
            _ => 1,
        };
        nodes = nodes.saturating_add(of_expr);
        Ok(TreeNodeRecursion::Continue)
    });
    nodes
}

/// What the planner of statements comes by at each relation and operator. It leaves all of them to others.
#[derive(Debug)]
pub(crate) struct Checkpoints;

impl RelationPlanner for Checkpoints {
    fn plan_relation(&self, relation: TableFactor, _: &mut dyn RelationPlannerContext) -> DfResult<RelationPlanning> {
        check()?;
        Ok(RelationPlanning::Original(Box::new(relation)))
    }
}

impl ExprPlanner for Checkpoints {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        check()?;
        Ok(PlannerResult::Original(expr))
    }

    fn plan_field_access(&self, expr: RawFieldAccessExpr, _: &DFSchema) -> DfResult<PlannerResult<RawFieldAccessExpr>> {
        check()?;
        Ok(PlannerResult::Original(expr))
    }

    fn plan_array_literal(&self, exprs: Vec<Expr>, _: &DFSchema) -> DfResult<PlannerResult<Vec<Expr>>> {
        check()?;
        Ok(PlannerResult::Original(exprs))
    }
}

/// A rule that asks before each step whether it may go on.
#[derive(Debug)]
pub(crate) struct Bounded<R: ?Sized>(pub(crate) Arc<R>);

impl OptimizerRule for Bounded<dyn OptimizerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        check()?;
        if let LogicalPlan::Filter(filter) = &plan
            && INLINING_RULES.contains(&self.name())
        {
            check_size(filter)?;
        }
        self.0.rewrite(plan, config)
    }
}

impl AnalyzerRule for Bounded<dyn AnalyzerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DfResult<LogicalPlan> {
        check()?;
        self.0.analyze(plan, config)
    }
}

impl PhysicalOptimizerRule for Bounded<dyn PhysicalOptimizerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize(plan, config)
    }

    fn optimize_with_context(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &dyn PhysicalOptimizerContext,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        check()?;
        self.0.optimize_with_context(plan, context)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        execution::session_state::SessionStateBuilder,
        logical_expr::{LogicalPlanBuilder, col, lit},
        optimizer::{Optimizer, OptimizerContext},
    };

    use super::*;
    use crate::query::{failure, rules};

    /// `x > 1` above as many projections of `x + x AS x`.
    fn doubled(times: usize) -> LogicalPlan {
        let mut plan = LogicalPlanBuilder::values(vec![vec![lit(1_i64)], vec![lit(2_i64)]]).unwrap();
        plan = plan.project([col("column1").alias("x")]).unwrap();
        for _ in 0..times {
            plan = plan.project([(col("x") + col("x")).alias("x")]).unwrap();
        }
        plan.filter(col("x").gt(lit(1_i64))).unwrap().build().unwrap()
    }

    fn optimized(plan: LogicalPlan) -> Result<(), String> {
        let optimizer = Optimizer::with_rules(rules::with_ours(&Optimizer::new().rules));
        let optimized = optimizer.optimize(plan, &OptimizerContext::new(), |_, _| {});
        optimized.map(drop).map_err(|error| failure::from_datafusion(&error).message().to_owned())
    }

    fn planning(left: Duration) -> Planning {
        let deadline = Instant::now() + left;
        Planning { deadline, timeout: Duration::from_secs(7), caller_left: CancellationToken::new() }
    }

    #[tokio::test]
    async fn a_plan_is_given_up_when_its_time_is_over_or_its_caller_has_left() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(planning(hour).bound(async { optimized(doubled(2)) }).await, Ok(()));
        let late = planning(Duration::ZERO).bound(async { optimized(doubled(2)) }).await;
        assert_eq!(late.unwrap_err(), "query took longer than the limit query.timeout = 7s");
        let left = planning(hour);
        left.caller_left.cancel();
        assert_eq!(left.bound(async { optimized(doubled(2)) }).await.unwrap_err(), "the query was cancelled");
    }

    #[tokio::test]
    async fn a_statement_is_given_up_on_the_way_to_its_first_plan() {
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_relation_planners(vec![Arc::new(Checkpoints)])
            .with_expr_planners(vec![Arc::new(Checkpoints)])
            .build();
        for text in ["SELECT * FROM (SELECT 1)", "SELECT 1 + 1", "SELECT [1]", "WITH a AS (SELECT 1) SELECT * FROM a"] {
            let in_time = planning(Duration::from_secs(3_600)).bound(state.create_logical_plan(text)).await;
            let planned = in_time.is_ok() || text.contains('[');
            assert!(planned, "{text}: {in_time:?}");
            let late = planning(Duration::ZERO).bound(state.create_logical_plan(text)).await.unwrap_err();
            let late = failure::from_datafusion(&late);
            assert_eq!(late.message(), "query took longer than the limit query.timeout = 7s", "{text}");
        }
    }

    #[test]
    fn a_condition_that_grows_without_end_is_refused() {
        let error = optimized(doubled(60)).unwrap_err();
        assert!(error.starts_with("a condition of the query grows to more than 100000 operators"), "{error}");
    }
}
