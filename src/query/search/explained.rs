//! What a search runs, as text: `EXPLAIN` and `EXPLAIN ANALYZE`.
//!
//! A search is several plans, one after the other ([`super::rounds`]). `EXPLAIN` shows each kind of them once, before and after
//! its operators are chosen; `EXPLAIN ANALYZE` runs the search, and shows every plan that ran with what its operators did.

use std::sync::{Arc, LazyLock, PoisonError};

use datafusion::{
    arrow::{
        array::{RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    common::Result as DfResult,
    logical_expr::LogicalPlan,
    physical_plan::display::DisplayableExecutionPlan,
};

use super::{
    Candidates, Starts, answer,
    finder::Finder,
    rounds::{RanPlans, Rounds},
    witnessing,
};
use crate::{model::time::TimeRange, query::spansets::witnesses, storage::trace_set::TraceSet};

static EXPLAINED: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![text("plan_type"), text("plan")]))
});

/// The columns of an explained search: what a plan is for, and the plan.
pub(crate) fn explained_schema() -> SchemaRef {
    Arc::clone(&EXPLAINED)
}

impl Rounds {
    /// The plans of the search, without running it.
    pub(crate) async fn plans(self) -> DfResult<RecordBatch> {
        let Self { search, base, session } = self;
        let program = search.program()?;
        let witnesses = witnesses(&program);
        let mut plans: Vec<(&str, LogicalPlan)> = Vec::new();
        if !witnesses.is_empty() {
            let plan = witnessing(&witnesses, &base, search.reach(), TimeRange::ALL, Starts::Read)?;
            plans.push(("spans that witness a match", plan));
        }
        let found = Candidates::Known { set: Arc::new(TraceSet::default()), named: None, is_few: true };
        plans.push(("whole traces with witnesses", answer(&search, program, &base, found)?));
        let finder = Finder { base, session, ran: RanPlans::default() };
        let mut rows = Vec::new();
        for (purpose, plan) in plans {
            let optimized = finder.session.optimize(&plan)?;
            rows.push((format!("{purpose}: logical plan"), optimized.display_indent().to_string()));
            let physical = finder.physical(&plan).await?;
            let shown = DisplayableExecutionPlan::new(physical.as_ref()).indent(false).to_string();
            rows.push((format!("{purpose}: physical plan"), shown));
        }
        batch(rows)
    }

    /// Runs the search. Gives the plans that ran, in order, with the figures of their operators.
    pub(crate) async fn analyzed(self, ran: RanPlans) -> DfResult<RecordBatch> {
        self.run(Arc::clone(&ran)).await?;
        let plans = ran.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = plans.iter().enumerate().map(|(index, plan)| {
            let plan = DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(false).to_string();
            (format!("plan {} with metrics", index + 1), plan)
        });
        batch(shown.collect())
    }
}

fn batch(rows: Vec<(String, String)>) -> DfResult<RecordBatch> {
    let (purposes, plans): (Vec<String>, Vec<String>) = rows.into_iter().unzip();
    let columns: Vec<_> = [purposes, plans].into_iter().map(|texts| Arc::new(StringArray::from(texts)) as _).collect();
    Ok(RecordBatch::try_new(explained_schema(), columns)?)
}
