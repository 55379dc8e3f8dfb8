//! The operator in logical plans, and how it becomes a physical one.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    common::{DFSchema, DFSchemaRef, Result, internal_err, plan_err},
    execution::context::QueryPlanner,
    logical_expr::{
        Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
        physical_planning_context::PhysicalPlanningContext,
    },
    physical_plan::ExecutionPlan,
    physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner},
};

use super::{exec::TraceEvalExec, program::Program};
use crate::storage::trace_set::TraceSet;

/// Evaluates a pipeline on the whole traces of its input, whose columns are those of [`Program::columns`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TraceEval {
    input: LogicalPlan,
    program: Arc<Program>,
    known: Option<Known>,
    schema: DFSchemaRef,
}

/// The traces that spans belong to. Two sets are the same if they are one.
#[derive(Clone, Debug)]
struct Known(Arc<TraceSet>);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// A plan that evaluates `program` on the spans of `input`. If traces are `known`, spans of others are left out, and the
/// input need not be sorted.
pub(crate) fn trace_eval(program: Program, input: LogicalPlan, known: Option<Arc<TraceSet>>) -> Result<LogicalPlan> {
    let node = TraceEval::try_new(program, input, known.map(Known))?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

impl TraceEval {
    fn try_new(program: Program, input: LogicalPlan, known: Option<Known>) -> Result<Self> {
        let schema = Arc::new(DFSchema::try_from(program.schema())?);
        Ok(Self { input, program: Arc::new(program), known, schema })
    }
}

impl PartialOrd for TraceEval {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.program.to_string().partial_cmp(&other.program.to_string())
    }
}

impl UserDefinedLogicalNodeCore for TraceEval {
    fn name(&self) -> &str {
        "TraceEval"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceEval: {}", self.program)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => {
                let fields = Arc::clone(input.schema());
                let program = self.program.restricted(|name| fields.has_column_with_unqualified_name(name));
                Self::try_new(program, input, self.known.clone())
            }
            _ => plan_err!("TraceEval has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![self.program.needed(output_columns)])
    }
}

/// DataFusion's planner, and the operator.
#[derive(Debug)]
pub(crate) struct TracePlanner;

#[async_trait]
impl QueryPlanner for TracePlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(TraceEvalPlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}

#[derive(Debug)]
struct TraceEvalPlanner;

#[async_trait]
impl ExtensionPlanner for TraceEvalPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<TraceEval>() else { return Ok(None) };
        match inputs {
            [input] => {
                let known = node.known.as_ref().map(|known| Arc::clone(&known.0));
                let operator = TraceEvalExec::try_new(Arc::clone(input), Arc::clone(&node.program), known)?;
                Ok(Some(Arc::new(operator)))
            }
            _ => internal_err!("TraceEval has one input"),
        }
    }
}
