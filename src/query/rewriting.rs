//! A rule of the optimizer that replaces nodes of one kind, from the leaves of a plan to its root.

use datafusion::{
    common::{Result, alias::AliasGenerator, tree_node::Transformed},
    logical_expr::LogicalPlan,
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
};

/// The rule.
#[derive(Debug)]
pub(crate) struct Rewriting {
    /// Its name in explained plans.
    pub(crate) name: &'static str,
    /// What stands for a node, whose inputs have been looked at; `None` leaves it as it is. Names of new columns come from the
    /// generator.
    pub(crate) rewrite: fn(&LogicalPlan, &AliasGenerator) -> Result<Option<LogicalPlan>>,
}

impl OptimizerRule for Rewriting {
    fn name(&self) -> &str {
        self.name
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        Ok(match (self.rewrite)(&plan, config.alias_generator())? {
            Some(rewritten) => Transformed::yes(rewritten),
            None => Transformed::no(plan),
        })
    }
}
