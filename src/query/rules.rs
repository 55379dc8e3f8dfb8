//! Rules that bring conditions on what the views show down to what is stored, and the order of all rules.
//!
//! The views compute times, dates and ids from stored integers and bytes. Files are pruned by conditions on the stored
//! columns, so a condition on a computed one has to become one on a stored one, and it has to do so between the rule that
//! moves filters below the view's projection and the one that shares common expressions, which would hide it for good. Joins
//! and groups get their stored form ([`ids`](super::ids), [`text`](super::text)) where their keys are settled.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{
        DataFusionError, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, Operator,
        expr::{InList, ScalarFunction},
        lit,
    },
    optimizer::{
        ApplyOrder, OptimizerConfig, OptimizerRule, extract_leaf_expressions::PushDownLeafProjections,
        push_down_filter::PushDownFilter, simplify_expressions::SimplifyExpressions,
    },
    physical_optimizer::{PhysicalOptimizerRule, ensure_coop::EnsureCooperative},
};

use crate::{
    functions::{IdComparisons, IdFunction},
    query::{
        ids::{GROUPED_IDS, JOINED_IDS},
        planning::Bounded,
        text::{COMPARED_TEXT, GROUPED_TEXT},
        yielding::YieldsWhereRowsMultiply,
    },
};

/// The rules of DataFusion with ours in their places.
pub(crate) fn with_ours(rules: &[Arc<dyn OptimizerRule + Send + Sync>]) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let filters_move = PushDownFilter::new();
    // Joins have the keys that they will have, and what is taken out of maps has found its place: that rule passes columns on
    // under the names that they have below, where the id behind a text has the text's name.
    let maps_are_read = PushDownLeafProjections::new();
    let mut all: Vec<Arc<dyn OptimizerRule + Send + Sync>> = Vec::with_capacity(rules.len() + 7);
    for rule in rules {
        if rule.name() == maps_are_read.name() {
            all.push(Arc::new(WhereItCan(Arc::clone(rule))));
            all.push(Arc::new(JOINED_IDS));
        } else {
            all.push(Arc::clone(rule));
        }
        if rule.name() == filters_move.name() {
            all.push(Arc::new(SimplifyExpressions::new()));
            all.push(Arc::new(IdComparisons));
            all.push(Arc::new(StoredComparisons));
            // Conditions on groups have moved below them by now.
            all.push(Arc::new(GROUPED_IDS));
            all.push(Arc::new(COMPARED_TEXT));
            all.push(Arc::new(GROUPED_TEXT));
        }
    }
    all.into_iter().map(|rule| Arc::new(Bounded(rule)) as _).collect()
}

/// Rules about sub-queries, outer and lateral joins, and conditions that a generator of SQL writes.
const OF_STATEMENTS: [&str; 15] = [
    "rewrite_set_comparison",
    "unions_to_filter",
    "eliminate_join",
    "decorrelate_predicate_subquery",
    "scalar_subquery_to_join",
    "decorrelate_lateral_join",
    "eliminate_duplicated_expr",
    "eliminate_cross_join",
    "propagate_empty_relation",
    "filter_null_join_keys",
    "eliminate_outer_join",
    "single_distinct_aggregation_to_group_by",
    "eliminate_group_by_constant",
    JOINED_IDS.name,
    GROUPED_IDS.name,
];

/// Those of the rules that plans need which are made here, of scans, filters, projections, groups and joins by trace. Each rule
/// walks the whole plan, and plans are most of the work of a search for the latest traces.
pub(crate) fn of_scans(rules: &[Arc<dyn OptimizerRule + Send + Sync>]) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    rules.iter().filter(|rule| !OF_STATEMENTS.contains(&rule.name())).cloned().collect()
}

/// The rules of DataFusion for operators with ours in their places.
pub(crate) fn physical_with_ours(
    rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut all: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = Vec::with_capacity(rules.len() + 1);
    for rule in rules {
        all.push(Arc::clone(rule));
        if rule.name() == EnsureCooperative::new().name() {
            all.push(Arc::new(YieldsWhereRowsMultiply));
        }
    }
    all.into_iter().map(|rule| Arc::new(Bounded(rule)) as _).collect()
}

/// A rule that leaves a node as it is where it would make a wrong plan of it.
///
/// DataFusion's rule that takes values out of maps near the scan merges projections, and where both pass on one shared
/// expression, the merged one would have it twice. Such a plan is right without the rule.
#[derive(Debug)]
struct WhereItCan(Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for WhereItCan {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if !matches!(plan, LogicalPlan::Projection(_)) {
            return self.0.rewrite(plan, config);
        }
        let as_it_is = plan.clone();
        self.0.rewrite(plan, config).or_else(|error| match error.find_root() {
            DataFusionError::SchemaError(..) => Ok(Transformed::no(as_it_is)),
            _ => Err(error),
        })
    }
}

/// Rewrites comparisons of dates to comparisons of instants, and tests of ids for NULL to tests of their bytes.
#[derive(Debug)]
struct StoredComparisons;

impl OptimizerRule for StoredComparisons {
    fn name(&self) -> &str {
        "stored_comparisons"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        // Only conditions: elsewhere the rewritten form could change the name of a column.
        if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::TableScan(_)) {
            return Ok(Transformed::no(plan));
        }
        plan.map_expressions(|expr| {
            expr.transform_up(|expr| match stored(&expr) {
                Some(rewritten) => Ok(Transformed::yes(rewritten)),
                None => Ok(Transformed::no(expr)),
            })
        })
    }
}

fn stored(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::IsNull(inner) => Some(Expr::IsNull(Box::new(id_bytes(inner)?.clone()))),
        Expr::IsNotNull(inner) => Some(Expr::IsNotNull(Box::new(id_bytes(inner)?.clone()))),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (day_of(left), day_of(right)) {
            (Some(instant), None) => compared(instant, *op, right),
            (None, Some(instant)) => compared(instant, op.swap()?, left),
            _ => None,
        },
        Expr::InList(InList { expr, list, negated }) => {
            let instant = day_of(expr)?;
            let each = |op| list.iter().map(move |day| compared(instant, op, day)).collect::<Option<Vec<_>>>();
            match negated {
                false => each(Operator::Eq)?.into_iter().reduce(Expr::or),
                true => each(Operator::NotEq)?.into_iter().reduce(Expr::and),
            }
        }
        _ => None,
    }
}

fn id_bytes(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    func.inner().downcast_ref::<IdFunction>().filter(|function| function.is_id_hex())?;
    args.first()
}

/// The integer instant behind its UTC day.
fn day_of(expr: &Expr) -> Option<&Expr> {
    let Expr::Cast(day) = expr else { return None };
    let Expr::Cast(time) = day.expr.as_ref() else { return None };
    let nanoseconds = matches!(
        time.field.data_type(),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) if zone.as_ref() == "UTC"
    );
    (nanoseconds && day.field.data_type() == &DataType::Date32).then_some(time.expr.as_ref())
}

const DAY_NANO: i64 = 86_400_000_000_000;

fn compared(instant: &Expr, op: Operator, day: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Date32(Some(day)), _) = day else { return None };
    let first = i64::from(*day).checked_mul(DAY_NANO)?;
    let next = lit(first.checked_add(DAY_NANO)?);
    let (first, instant) = (lit(first), instant.clone());
    Some(match op {
        Operator::Eq => instant.clone().gt_eq(first).and(instant.lt(next)),
        Operator::NotEq => instant.clone().lt(first).or(instant.gt_eq(next)),
        Operator::Lt => instant.lt(first),
        Operator::LtEq => instant.lt(next),
        Operator::Gt => instant.gt_eq(next),
        Operator::GtEq => instant.gt_eq(first),
        _ => return None,
    })
}
