//! Which traces a pipeline has to look at: a pass over the spans that witness a match, and one that counts the spans of the
//! traces found.
//!
//! Both are plans without joins or groups, whose rows are folded into a map here, partition by partition: spans of a trace
//! come one after the other, so a map is asked once per trace and not once per span.

use std::sync::{Arc, PoisonError};

use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, RecordBatch},
        datatypes::Int64Type,
    },
    catalog::TableProvider,
    common::{Result as DfResult, internal_datafusion_err, runtime::SpawnedTask},
    error::DataFusionError,
    execution::{
        SessionState,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    logical_expr::{LogicalPlan, col, utils::conjunction},
    physical_plan::{ExecutionPlan, execute_stream_partitioned},
};
use futures::StreamExt;

use super::{Candidates, Starts, rounds::RanPlans, starts_of, witnessing};
use crate::{
    model::{ids::TraceId, schema::column, time::TimeRange},
    query::{
        session::scan_base,
        spans_table::SpansTable,
        spansets::{Program, Witness, witnesses},
    },
    storage::trace_set::{ByTrace, TraceSet, count, runs},
};

/// Up to here candidates are written into the plan, so that files are ruled out by their ids.
const IDS_IN_PLAN_MAX: usize = 512;

/// Up to here the spans of candidates are held until all are there; beyond, they are counted first, so that few wait.
const HELD_TRACES_MAX: usize = 8_192;

/// Witnesses that are told apart. Traces that lack one of the others are looked at in vain.
pub(super) const WITNESSES_MAX: usize = 64;

/// What runs the passes of one query.
#[derive(Clone, Debug)]
pub(crate) struct Finder {
    pub(crate) base: Arc<dyn TableProvider>,
    pub(crate) session: SessionState,
    pub(crate) ran: RanPlans,
}

/// The spans of a query: where found ones start, and how far from there others of their traces may start, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) range: TimeRange,
    pub(crate) extent_nano: i64,
}

impl Reach {
    /// Where all spans of the traces start.
    pub(crate) fn wide(self) -> TimeRange {
        self.range.widened(self.extent_nano)
    }
}

/// What was seen of a trace.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Start of the first witness, where starts were read.
    first: i64,
    /// A bit per witness.
    witnesses: u64,
}

/// Traces with witnesses.
#[derive(Debug, Default)]
pub(crate) struct Witnessed {
    traces: ByTrace<Seen>,
}

impl Witnessed {
    fn add(&mut self, number: u128, seen: Seen) {
        let known = self.traces.entry(number).or_insert(seen);
        known.first = known.first.min(seen.first);
        known.witnesses |= seen.witnesses;
    }

    fn merge(&mut self, other: Self) {
        match self.traces.is_empty() {
            true => *self = other,
            false => other.traces.into_iter().for_each(|(number, seen)| self.add(number, seen)),
        }
    }

    /// Takes over the rows of [`witnessing`].
    fn take(&mut self, batch: &RecordBatch) -> DfResult<()> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| internal_datafusion_err!("witnesses come without column {name}"))
        };
        let ids = column(column::TRACE_ID)?.as_fixed_size_binary();
        let starts = batch.column_by_name(column::START_TIME).map(|starts| starts.as_primitive::<Int64Type>().values());
        let has: Vec<&BooleanArray> = batch.columns().iter().filter_map(|column| column.as_boolean_opt()).collect();
        let mut row = 0;
        for (number, end) in runs(ids) {
            let mut seen = Seen { first: i64::MAX, witnesses: u64::from(has.is_empty()) };
            for row in row..end {
                seen.first = starts.map_or(i64::MAX, |starts| seen.first.min(starts[row]));
                for (bit, has) in has.iter().enumerate() {
                    seen.witnesses |= u64::from(has.is_valid(row) && has.value(row)) << bit;
                }
            }
            row = end;
            self.add(number, seen);
        }
        Ok(())
    }

    /// The traces that have all of so many witnesses, with the start of the first: the `most` with the latest, or all. Latest
    /// first, and whether some are left out.
    pub(crate) fn latest(&self, witnesses: usize, most: Option<usize>) -> (Vec<(i64, TraceId)>, bool) {
        let all = match witnesses.clamp(1, WITNESSES_MAX) {
            64 => u64::MAX,
            count => (1 << count) - 1,
        };
        let complete = self.traces.iter().filter(|(_, seen)| seen.witnesses & all == all);
        let mut latest: Vec<(std::cmp::Reverse<i64>, u128)> =
            complete.map(|(number, seen)| (std::cmp::Reverse(seen.first), *number)).collect();
        let cut = most.is_some_and(|most| latest.len() > most);
        if let Some(most) = most.filter(|_| cut) {
            latest.select_nth_unstable(most);
            latest.truncate(most);
        }
        if most.is_some() {
            latest.sort_unstable();
        }
        let id = |(first, number): (std::cmp::Reverse<i64>, u128)| (first.0, TraceId::from_bytes(number.to_be_bytes()));
        (latest.into_iter().map(id).collect(), cut)
    }
}

impl Finder {
    /// Adds the traces of spans that witness a match, start in the reach, and in `window`.
    pub(crate) async fn witnessed(
        &self,
        witnesses: &[Witness],
        reach: Reach,
        (window, starts): (TimeRange, Starts),
        found: &mut Witnessed,
    ) -> DfResult<()> {
        let plan = witnessing(witnesses, &self.base, reach, window, starts)?;
        let parts = self
            .fold(&plan, |part: &mut Witnessed, batch| {
                part.take(batch)?;
                Ok(part.traces.len() * size_of::<(u128, Seen)>() * 2)
            })
            .await?;
        parts.into_iter().for_each(|part| found.merge(part));
        Ok(())
    }

    /// Counts the spans of traces that start within a range; with `only`, of those alone. Also gives how many spans there
    /// are of all traces.
    async fn counted(&self, within: TimeRange, only: Option<Arc<TraceSet>>) -> DfResult<(TraceSet, u64)> {
        if let Some((counts, all)) = self.counted_in_files(within, only.as_deref()).await? {
            return Ok((TraceSet::counted(counts), all));
        }
        let mut spans = scan_base(&self.base)?;
        if let Some(bounds) = conjunction(starts_of(&self.base, within)) {
            spans = spans.filter(bounds)?;
        }
        let plan = spans.project([col(column::TRACE_ID)])?.build()?;
        let parts = self
            .fold(&plan, move |(counts, rows): &mut (ByTrace<u32>, u64), batch| {
                *rows += batch.num_rows() as u64;
                count(batch[column::TRACE_ID].as_fixed_size_binary(), only.as_deref(), counts);
                Ok(counts.len() * TraceSet::ENTRY_BYTES)
            })
            .await?;
        let (mut whole, mut all) = (ByTrace::default(), 0);
        for (part, rows) in parts {
            all += rows;
            match whole.is_empty() {
                true => whole = part,
                false => part.into_iter().for_each(|(number, spans)| *whole.entry(number).or_insert(0) += spans),
            }
        }
        Ok((TraceSet::counted(whole), all))
    }

    /// The same where rows need not be read for it.
    async fn counted_in_files(
        &self,
        within: TimeRange,
        only: Option<&TraceSet>,
    ) -> DfResult<Option<(ByTrace<u32>, u64)>> {
        match SpansTable::of(self.base.as_ref()) {
            Some(table) => table.counted(&self.session, within, only).await,
            None => Ok(None),
        }
    }

    /// How to evaluate every trace with spans in the reach.
    pub(crate) async fn every(&self, reach: Reach) -> DfResult<Candidates> {
        let (set, _) = self.counted(reach.wide(), None).await?;
        Ok(Candidates::Known { set: Arc::new(set), named: None, is_few: false })
    }

    /// How to evaluate these traces.
    pub(crate) async fn these(&self, ids: Vec<TraceId>, reach: Reach) -> DfResult<Candidates> {
        let set = Arc::new(TraceSet::of(ids.iter().copied()));
        if ids.len() <= HELD_TRACES_MAX {
            // A few are in a few files, and the others are not looked at.
            if ids.len() <= IDS_IN_PLAN_MAX {
                return Ok(Candidates::Known { set, named: Some(ids), is_few: true });
            }
            // Traces whose spans are counted need not be held.
            let counted = self.counted_in_files(reach.wide(), Some(&set)).await?;
            let set = counted.map_or(set, |(counts, _)| Arc::new(TraceSet::counted(counts)));
            return Ok(Candidates::Known { set, named: None, is_few: true });
        }
        let (set, all) = self.counted(reach.wide(), Some(set)).await?;
        // Where most spans are wanted, telling them apart before decoding costs more than it saves.
        let is_few = set.spans() * 2 < all;
        Ok(Candidates::Known { set: Arc::new(set), named: None, is_few })
    }

    /// How to evaluate every trace in which the pipeline can find something.
    pub(crate) async fn candidates(&self, program: &Program, reach: Reach) -> DfResult<Candidates> {
        let witnesses = witnesses(program);
        if witnesses.is_empty() {
            return self.every(reach).await;
        }
        let mut found = Witnessed::default();
        self.witnessed(&witnesses, reach, (TimeRange::ALL, Starts::Left), &mut found).await?;
        let (ids, _) = found.latest(witnesses.len(), None);
        self.these(ids.into_iter().map(|(_, id)| id).collect(), reach).await
    }

    /// Folds the rows of each partition of a plan; `add` says how much memory the part holds.
    pub(crate) async fn fold<T: Default + Send + 'static>(
        &self,
        plan: &LogicalPlan,
        add: impl Fn(&mut T, &RecordBatch) -> DfResult<usize> + Send + Sync + 'static,
    ) -> DfResult<Vec<T>> {
        self.fold_planned(self.physical(plan).await?, add).await
    }

    /// Folds the rows of each partition of a plan that is ready to run.
    pub(crate) async fn fold_planned<T: Default + Send + 'static>(
        &self,
        physical: Arc<dyn ExecutionPlan>,
        add: impl Fn(&mut T, &RecordBatch) -> DfResult<usize> + Send + Sync + 'static,
    ) -> DfResult<Vec<T>> {
        let add = Arc::new(add);
        let mut tasks = Vec::new();
        for mut batches in execute_stream_partitioned(physical, self.session.task_ctx())? {
            let (add, memory) = (Arc::clone(&add), self.reservation());
            tasks.push(SpawnedTask::spawn(async move {
                let mut part = T::default();
                while let Some(batch) = batches.next().await {
                    memory.try_resize(add(&mut part, &batch?)?)?;
                }
                Ok::<_, DataFusionError>(part)
            }));
        }
        let mut parts = Vec::with_capacity(tasks.len());
        for task in tasks {
            parts.push(task.join().await.map_err(|lost| DataFusionError::ExecutionJoin(Box::new(lost)))??);
        }
        Ok(parts)
    }

    /// The same with scans of one thread.
    pub(super) fn narrow(&self) -> Self {
        let mut narrow = self.clone();
        narrow.session.config_mut().options_mut().execution.target_partitions = 1;
        narrow
    }

    fn reservation(&self) -> MemoryReservation {
        MemoryConsumer::new("traces found").register(&self.session.runtime_env().memory_pool)
    }

    /// The physical plan, noted as one that runs.
    pub(crate) async fn physical(&self, plan: &LogicalPlan) -> DfResult<Arc<dyn ExecutionPlan>> {
        let physical = self.planned(plan).await?;
        self.note(&physical);
        Ok(physical)
    }

    /// The physical plan.
    pub(crate) async fn planned(&self, plan: &LogicalPlan) -> DfResult<Arc<dyn ExecutionPlan>> {
        let optimized = self.session.optimize(plan)?;
        self.session.query_planner().create_physical_plan(&optimized, &self.session).await
    }

    /// Notes a plan as one that runs.
    pub(crate) fn note(&self, physical: &Arc<dyn ExecutionPlan>) {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(physical));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_with_all_witnesses_come_latest_first_and_by_id() {
        let mut found = Witnessed::default();
        for (number, first, witnesses) in [(1, 50, 1), (2, 70, 3), (3, 60, 3), (1, 40, 2), (4, 60, 3), (5, 90, 1)] {
            found.add(number, Seen { first, witnesses });
        }
        let latest = |witnesses, most| {
            let (ids, cut) = found.latest(witnesses, most);
            (ids.iter().map(|(first, id)| (*first, id.as_bytes()[15])).collect::<Vec<_>>(), cut)
        };
        assert_eq!(latest(2, Some(10)), (vec![(70, 2), (60, 3), (60, 4), (40, 1)], false));
        assert_eq!(latest(2, Some(2)), (vec![(70, 2), (60, 3)], true));
        assert_eq!(latest(1, Some(1)), (vec![(90, 5)], true));
        assert_eq!(latest(2, None).0.len(), 4);
    }
}
