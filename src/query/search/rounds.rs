//! Running a search with more and more candidates until its answer is final.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray, RecordBatch},
        compute::{concat_batches, filter_record_batch},
        datatypes::{Int64Type, SchemaRef},
    },
    catalog::TableProvider,
    common::Result as DfResult,
    execution::SessionState,
    physical_plan::{ExecutionPlan, collect},
};

use super::{Search, answer_schema, schema};
use crate::model::schema::column;

/// Candidates of the first round: as many as the answer can have, and some for those that turn out older.
const CANDIDATES_PER_TRACE: usize = 2;
/// Least candidates of a round.
const CANDIDATES_MIN: usize = 64;
/// How many times more candidates the next round has.
const GROWTH: usize = 8;
/// Beyond this, a round takes all candidates.
const CANDIDATES_BOUNDED_MAX: usize = 1 << 20;

/// The plans that a query ran, for its statistics.
pub(crate) type RanPlans = Arc<Mutex<Vec<Arc<dyn ExecutionPlan>>>>;

/// A search that is ready to run.
pub(crate) struct Rounds {
    pub(crate) search: Search,
    pub(crate) base: Arc<dyn TableProvider>,
    pub(crate) session: SessionState,
}

/// Candidates of the first round of a search.
pub(crate) fn first_candidates(search: &Search) -> usize {
    search.limit.saturating_mul(CANDIDATES_PER_TRACE).max(CANDIDATES_MIN)
}

impl Rounds {
    /// Runs rounds until the answer is final.
    pub(crate) async fn run(self, ran: RanPlans) -> DfResult<RecordBatch> {
        let mut candidates = Some(first_candidates(&self.search)).filter(|count| *count <= CANDIDATES_BOUNDED_MAX);
        loop {
            let found = self.round(candidates, &ran).await?;
            let final_round = candidates.is_none_or(|most| is_final(&found, self.search.limit, most));
            if final_round {
                return answer(&found, self.search.limit);
            }
            candidates =
                candidates.map(|count| count.saturating_mul(GROWTH)).filter(|count| *count <= CANDIDATES_BOUNDED_MAX);
        }
    }

    async fn round(&self, candidates: Option<usize>, ran: &RanPlans) -> DfResult<RecordBatch> {
        let logical = super::plan(&self.search, &self.base, candidates)?;
        let optimized = self.session.optimize(&logical)?;
        let physical = self.session.query_planner().create_physical_plan(&optimized, &self.session).await?;
        ran.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&physical));
        let schema: SchemaRef = physical.schema();
        let batches = collect(physical, self.session.task_ctx()).await?;
        Ok(concat_batches(&schema, &batches)?)
    }
}

/// Whether no trace that was not a candidate can belong into the answer.
///
/// Those left out have their first match no later than any candidate, and start no later than that.
fn is_final(found: &RecordBatch, limit: usize, candidates: usize) -> bool {
    if found.num_rows() < candidates {
        return true;
    }
    let matched = found["matched"].as_primitive::<Int64Type>();
    let starts = found[column::START_TIME].as_primitive::<Int64Type>();
    let first_matches = found[schema::FIRST_MATCH].as_primitive::<Int64Type>();
    // Rows come by start from late to early.
    let mut starts_of_matched =
        (0..found.num_rows()).filter(|row| matched.value(*row) > 0).map(|row| starts.value(row));
    match (starts_of_matched.nth(limit.saturating_sub(1)), first_matches.values().iter().min()) {
        (Some(last), Some(left_out_at_most)) => last > *left_out_at_most,
        _ => false,
    }
}

/// The rows of the answer. A candidate can have none: the copy of a span that counts need not be the one that matched.
fn answer(found: &RecordBatch, limit: usize) -> DfResult<RecordBatch> {
    let matched: BooleanArray =
        found["matched"].as_primitive::<Int64Type>().iter().map(|matched| Some(matched > Some(0))).collect();
    let found = filter_record_batch(found, &matched)?;
    let schema = answer_schema();
    let columns = schema.fields().iter().map(|field| Arc::clone(&found[field.name().as_str()])).collect();
    let answer = RecordBatch::try_new(schema, columns)?;
    Ok(answer.slice(0, limit.min(answer.num_rows())))
}
