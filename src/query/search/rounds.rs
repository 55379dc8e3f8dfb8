//! Running a search on more and more candidates until its answer is final.
//!
//! A round looks at witnesses from a moment on, and of the traces they belong to at those with the latest first witness.
//! Where the table knows how its spans spread over time, the first moment leaves few spans to read; each further round
//! looks at more traces, or further back, and reads what no round before it has read. Traces that an earlier round has
//! evaluated are not evaluated again, and a round with fewer traces than the answer can have leaves them to the next.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::{Arc, Mutex},
};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        compute::interleave_record_batch,
        datatypes::Int64Type,
    },
    catalog::TableProvider,
    common::Result as DfResult,
    error::DataFusionError,
    execution::SessionState,
    physical_plan::{ExecutionPlan, collect},
};

use super::{
    Candidates, Search, Starts, answer, answer_schema,
    finder::{Finder, Witnessed},
};
use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::{
        spans_table::{SpansTable, Spread},
        spansets::witnesses,
    },
};

/// Candidates of the first round: as many as the answer can have, and some for those that turn out older.
const CANDIDATES_PER_TRACE: usize = 2;
/// Least candidates of a round.
const CANDIDATES_MIN: usize = 64;
/// How many times more candidates the next round has, and at least how many times more spans it looks through.
const GROWTH: usize = 8;
/// How many times more spans the next round looks through, where so few traces were found that there may be few more.
const GROWTH_MAX: usize = 64;
/// Beyond this, a round takes all candidates.
const CANDIDATES_BOUNDED_MAX: usize = 1 << 16;
/// Spans that the first round looks through for candidates, about.
const SPANS_FIRST: u64 = 1 << 16;
/// Most spans that one thread looks through alone; another one has to open the same files.
const SPANS_NARROW_MAX: u64 = 1 << 17;
/// Spans that the first round looks through per trace of the answer, about.
const SPANS_PER_TRACE: u64 = 256;

/// The plans that a query ran, for its statistics.
pub(crate) type RanPlans = Arc<Mutex<Vec<Arc<dyn ExecutionPlan>>>>;

/// A search that is ready to run.
pub(crate) struct Rounds {
    pub(crate) search: Search,
    pub(crate) base: Arc<dyn TableProvider>,
    pub(crate) session: SessionState,
}

/// Candidates of the first round of a search.
fn first_candidates(search: &Search) -> Option<usize> {
    let most = search.limit.saturating_mul(CANDIDATES_PER_TRACE).max(CANDIDATES_MIN);
    (most <= CANDIDATES_BOUNDED_MAX).then_some(most)
}

impl Rounds {
    /// Runs rounds until the answer is final.
    pub(crate) async fn run(self, ran: RanPlans) -> DfResult<RecordBatch> {
        let Self { search, base, session } = self;
        let table = SpansTable::of(base.as_ref());
        let spread = table.map(SpansTable::spread).unwrap_or_default();
        let running = Running { search, finder: Finder { base, session, ran } };
        running.run(&spread).await
    }
}

struct Running {
    search: Search,
    finder: Finder,
}

impl Running {
    async fn run(&self, spread: &[Spread]) -> DfResult<RecordBatch> {
        let (program, reach) = (self.search.program()?, self.search.reach());
        let witnesses = witnesses(&program);
        let mut most = first_candidates(&self.search);
        if witnesses.is_empty() && most.is_none() {
            // Nothing rules a trace out.
            return self.evaluate(self.finder.every(reach).await?).await;
        }
        let mut look_through = SPANS_FIRST.max(SPANS_PER_TRACE.saturating_mul(self.search.limit as u64));
        let mut found = RecordBatch::new_empty(answer_schema());
        let mut evaluated: HashSet<TraceId> = HashSet::new();
        let (mut witnessed, mut read_from) = (Witnessed::default(), i64::MAX);
        loop {
            let from = match most {
                Some(_) => moment(spread, self.search.range.end_unix_nano, look_through),
                None => i64::MIN,
            };
            if from < read_from {
                let window = TimeRange::new(from, read_from);
                let starts = if most.is_some() { Starts::Read } else { Starts::Left };
                let finder = match from != i64::MIN && look_through <= SPANS_NARROW_MAX {
                    true => &self.finder.narrow(),
                    false => &self.finder,
                };
                finder.witnessed(&witnesses, reach, (window, starts), &mut witnessed).await?;
                read_from = from;
            }
            let (latest, cut) = witnessed.latest(witnesses.len(), most);
            let first = latest.last().map(|(first, _)| *first);
            let fresh: Vec<TraceId> =
                latest.into_iter().map(|(_, id)| id).filter(|id| !evaluated.contains(id)).collect();
            let looked_at_all = read_from == i64::MIN;
            let possible = found.num_rows() + fresh.len();
            // Too few for a whole answer are evaluated with those of the next round.
            let hits = if looked_at_all || possible >= self.search.limit {
                if !fresh.is_empty() {
                    evaluated.extend(fresh.iter().copied());
                    let more = self.evaluate(self.finder.these(fresh, reach).await?).await?;
                    found = merged(&[found, more], self.search.limit)?;
                }
                // The latest that a trace which was left out can start.
                let left_out = [first.filter(|_| cut), (!looked_at_all).then(|| read_from.saturating_sub(1))];
                let Some(left_out) = left_out.into_iter().flatten().max() else { return Ok(found) };
                let starts = found[column::START_TIME].as_primitive::<Int64Type>();
                if found.num_rows() >= self.search.limit && starts.values().last().is_some_and(|last| *last > left_out)
                {
                    return Ok(found);
                }
                found.num_rows()
            } else {
                possible
            };
            if cut {
                most = most.map(|most| most.saturating_mul(GROWTH)).filter(|most| *most <= CANDIDATES_BOUNDED_MAX);
            }
            look_through = look_through.saturating_mul(growth(hits, self.search.limit) as u64);
        }
    }

    /// The answer over these traces.
    async fn evaluate(&self, candidates: Candidates) -> DfResult<RecordBatch> {
        let spilling = candidates.spilling()?;
        let found = match self.found(candidates).await {
            Err(error) if is_out_of_memory(&error) => self.found(spilling).await?,
            found => found?,
        };
        merged(&found, self.search.limit)
    }

    async fn found(&self, candidates: Candidates) -> DfResult<Vec<RecordBatch>> {
        let plan = answer(&self.search, self.search.program()?, &self.finder.base, candidates)?;
        collect(self.finder.physical(&plan).await?, self.finder.session.task_ctx()).await
    }
}

/// How many times more spans to look through after `hits` of `limit` traces: twice what it takes if matches lie evenly.
fn growth(hits: usize, limit: usize) -> usize {
    match hits {
        0 => GROWTH_MAX,
        hits => limit.saturating_mul(2).div_ceil(hits).clamp(GROWTH, GROWTH_MAX),
    }
}

/// Whether the query reached a limit on memory.
pub(crate) fn is_out_of_memory(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// The latest rows of several answers, in the answer's order.
fn merged(parts: &[RecordBatch], limit: usize) -> DfResult<RecordBatch> {
    let parts: Vec<&RecordBatch> = parts.iter().filter(|part| part.num_rows() > 0).collect();
    if parts.is_empty() {
        return Ok(RecordBatch::new_empty(answer_schema()));
    }
    let mut order = Vec::with_capacity(parts.iter().map(|part| part.num_rows()).sum());
    for (index, part) in parts.iter().enumerate() {
        let starts = part[column::START_TIME].as_primitive::<Int64Type>().values();
        let ids = part[column::TRACE_ID].as_fixed_size_binary();
        order.extend(starts.iter().enumerate().map(|(row, start)| (Reverse(*start), ids.value(row), (index, row))));
    }
    order.sort_unstable();
    order.truncate(limit);
    let rows: Vec<(usize, usize)> = order.into_iter().map(|(.., row)| row).collect();
    match parts.as_slice() {
        [only] if only.num_rows() == rows.len() && rows.is_sorted() => Ok((*only).clone()),
        _ => Ok(interleave_record_batch(&parts, &rows)?),
    }
}

/// The moment from which about `spans` spans start, before `end`; the beginning of time where that may be all of them.
fn moment(spread: &[Spread], end: i64, spans: u64) -> i64 {
    let later = |from: i64| -> f64 { spread.iter().map(|part| part.spans_between(from, end)).sum() };
    let (Some(first), Some(last)) =
        (spread.iter().map(|part| part.first).min(), spread.iter().map(|part| part.last).max())
    else {
        return i64::MIN;
    };
    if later(first) <= spans as f64 {
        return i64::MIN;
    }
    let (mut early, mut late) = (first, last.min(end));
    // The spread is a guess, so a microsecond more or less is nothing.
    while late.saturating_sub(early) > 1_000 {
        let middle = early + (late - early) / 2;
        match later(middle) > spans as f64 {
            true => early = middle,
            false => late = middle,
        }
    }
    early
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewer_traces_were_found_the_further_the_next_round_looks() {
        assert_eq!([growth(0, 20), growth(1, 20), growth(4, 20), growth(19, 20)], [64, 40, 10, 8]);
    }

    #[test]
    fn the_moment_leaves_about_as_many_spans_as_wanted() {
        let spread = [
            Spread { first: 0, last: 1_000_000, spans: 1_000 },
            Spread { first: 500_000, last: 1_500_000, spans: 1_000 },
        ];
        assert_eq!(moment(&spread, i64::MAX, 5_000), i64::MIN);
        assert_eq!(moment(&[], i64::MAX, 1), i64::MIN);
        let from = moment(&spread, i64::MAX, 500);
        assert!((995_000..=1_001_000).contains(&from), "{from}");
        let before = moment(&spread, 1_000_000, 500);
        assert!((745_000..=751_000).contains(&before), "{before}");
    }
}
