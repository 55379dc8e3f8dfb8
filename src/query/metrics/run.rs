//! Running a metrics query: its leaves one after the other, then what is computed from them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use datafusion::{
    arrow::array::RecordBatch,
    catalog::TableProvider,
    common::{Result as DfResult, runtime::SpawnedTask, tree_node::TreeNode},
    error::DataFusionError,
    execution::{
        SessionState,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    physical_expr::PhysicalExpr,
    physical_plan::{ExecutionPlan, execute_stream, execute_stream_partitioned, projection::ProjectionExec},
};
use futures::{Stream, StreamExt, TryStreamExt};

use super::{
    answer,
    apart::RowsApart,
    compare::{self, Counted, Tally},
    compile::{Compiled, Function, Leaf},
    exemplars::{self, Moment, Scale},
    groups::Groups,
    interval::Intervals,
    label::compare_labels,
    leaf::Scope,
    part::{Part, PlaceKind},
    series::{Series, SeriesSet},
    told::Told,
};
use crate::{
    error::{Error, Result},
    model::ids::TraceId,
    query::{
        limits::QueryLimits,
        request::{AnswerForm, Explain, MetricsQuery},
        search::{
            Candidates,
            finder::{Finder, Reach},
            rounds::{RanPlans, is_out_of_memory},
        },
        spans_table::SpansTable,
        stats::SharedStats,
    },
    storage::{apart::ColumnsApart, start_set::is_row_in_file},
};

/// A metrics query that is ready to run.
#[derive(Clone, Debug)]
pub(crate) struct MetricsRun {
    compiled: Compiled,
    intervals: Intervals,
    limits: Limits,
    base: Arc<dyn TableProvider>,
    session: SessionState,
    form: AnswerForm,
}

/// The limits of one run.
#[derive(Clone, Copy, Debug)]
struct Limits {
    extent_nano: i64,
    series_max: usize,
    samples_max: usize,
    exemplars_max: usize,
}

impl MetricsRun {
    /// Reads and checks a query.
    ///
    /// # Errors
    /// The query or its range makes no sense, or asks for what is not built.
    pub(crate) fn try_new(
        query: &MetricsQuery,
        now_unix_nano: i64,
        limits: &QueryLimits,
        base: Arc<dyn TableProvider>,
        session: SessionState,
        form: AnswerForm,
    ) -> Result<Self> {
        let compiled = Compiled::of(&query.text)?;
        let intervals = Intervals::of(query, now_unix_nano, limits)?;
        let asked_series = query.series_max.filter(|most| *most > 0).unwrap_or(usize::MAX);
        let asked_exemplars = compiled.exemplars.or(query.exemplars).unwrap_or(usize::MAX);
        let limits = Limits {
            extent_nano: limits.trace_extent_max_nano,
            series_max: limits.metrics_series_max.min(asked_series),
            samples_max: limits.metrics_samples_max,
            // The answer to an instant query has no place for them.
            exemplars_max: if query.instant { 0 } else { asked_exemplars.min(limits.metrics_exemplars_max) },
        };
        Ok(Self { compiled, intervals, limits, base, session, form })
    }

    /// The plan of the first function over spans, explained.
    pub(crate) fn explained(&self, explain: Explain) -> DfResult<LogicalPlan> {
        match self.compiled.leaves.first() {
            Some(leaf) => {
                let scope = Scope { notes_places: false, ..self.scope(None) };
                LogicalPlanBuilder::from(self.plan(leaf, scope)?).explain(false, explain == Explain::Analyze)?.build()
            }
            None => LogicalPlanBuilder::empty(false).build(),
        }
    }

    /// The rows of the answer.
    pub(crate) fn run(self, ran: RanPlans, stats: SharedStats) -> impl Stream<Item = DfResult<RecordBatch>> {
        let (intervals, form) = (self.intervals, self.form);
        futures::stream::once(async move {
            let series = self.series(&ran, &stats).await?;
            Ok::<_, DataFusionError>(futures::stream::iter(answer::batches(series, intervals, form)))
        })
        .try_flatten()
    }

    fn scope<'a>(&'a self, candidates: Option<&'a Candidates>) -> Scope<'a> {
        Scope {
            base: &self.base,
            intervals: self.intervals,
            extent_nano: self.limits.extent_nano,
            candidates,
            notes_places: self.limits.exemplars_max > 0,
        }
    }

    /// The plan of what a leaf computes over spans.
    fn plan(&self, leaf: &Leaf, scope: Scope<'_>) -> DfResult<LogicalPlan> {
        match leaf.function {
            Function::Compare { .. } => compare::plan(leaf, &self.counted(), None, scope),
            _ => leaf.plan(scope),
        }
    }

    fn reach(&self) -> Reach {
        Reach { range: self.intervals.range(), extent_nano: self.limits.extent_nano }
    }

    /// The traces that a leaf looks at, if it looks at whole ones and they fit into memory.
    async fn candidates(&self, leaf: &Leaf, ran: &RanPlans) -> DfResult<Option<Candidates>> {
        let Some(program) = leaf.on_traces(self.scope(None))? else { return Ok(None) };
        match self.finder(ran).candidates(&program, self.reach()).await {
            Err(error) if is_out_of_memory(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn series(&self, ran: &RanPlans, stats: &SharedStats) -> DfResult<Vec<Series>> {
        let mut leaves = Vec::with_capacity(self.compiled.leaves.len());
        let mut sources = Vec::new();
        for leaf in &self.compiled.leaves {
            if let Function::Compare { top, .. } = leaf.function {
                let mut compared = self.compare(leaf, top, ran).await?;
                compared.series.iter_mut().for_each(|series| series.origin.leaf = leaf.position);
                leaves.push(compared);
                continue;
            }
            let mut candidates = self.candidates(leaf, ran).await?;
            let groups = match self.groups(leaf, candidates.as_ref(), ran).await {
                Err(error) if candidates.is_some() && is_out_of_memory(&error) => {
                    candidates = None;
                    self.groups(leaf, None, ran).await?
                }
                groups => groups?,
            };
            leaves.push(groups.series(leaf, self.intervals, self.limits.samples_max).map_err(external)?);
            if self.limits.exemplars_max > 0 {
                sources.push((leaf, groups, candidates));
            }
        }
        let mut series = self.compiled.finish(leaves).series;
        series.sort_by(|a, b| compare_labels(&a.labels, &b.labels));
        let most = self.limits.series_max;
        if series.len() > most {
            series.truncate(most);
            stats.update(|stats| {
                stats.partial =
                    Some(format!("Response exceeds maximum series limit of {most}, a partial response is returned"));
            });
        }
        sources.retain(|(leaf, ..)| series.iter().any(|series| series.origin.leaf == leaf.position));
        let most = self.limits.exemplars_max / sources.len().max(1);
        for (leaf, groups, candidates) in sources {
            self.add_exemplars((leaf, candidates.as_ref()), groups, &mut series, (most, ran)).await?;
        }
        Ok(series)
    }

    async fn groups(&self, leaf: &Leaf, candidates: Option<&Candidates>, ran: &RanPlans) -> DfResult<Groups> {
        let (leaf_of_parts, intervals) = (Arc::new(leaf.clone()), self.intervals);
        let add = move |part: &mut Part, batch: &RecordBatch| {
            part.add(&leaf_of_parts, intervals, batch)?;
            Ok(part.bytes())
        };
        let (finder, scope) = (self.finder(ran), self.scope(candidates));
        let mut physical = finder.planned(&self.plan(leaf, scope)?).await?;
        if asks_for_rows_above_scans(&physical)? {
            physical = finder.planned(&self.plan(leaf, Scope { notes_places: false, ..scope })?).await?;
        }
        finder.note(&physical);
        let parts = finder.fold_planned(physical, add).await?;
        Groups::of(leaf, parts, self.reservation("series"))
    }

    async fn compare(&self, leaf: &Leaf, top: usize, ran: &RanPlans) -> DfResult<SeriesSet> {
        let (counted, finder, scope) = (self.counted(), self.finder(ran), self.scope(None));
        let mut apart = self.apart(leaf, scope)?;
        let mut physical = finder.planned(&compare::plan(leaf, &counted, apart.as_ref(), scope)?).await?;
        if apart.is_some() && asks_for_rows_above_scans(&physical)? {
            apart = None;
            physical = finder.planned(&compare::plan(leaf, &counted, None, scope)?).await?;
        }
        finder.note(&physical);
        let tally = Arc::new(Tally::new(counted, self.intervals, self.reservation("compare")));
        let mut parts = Vec::new();
        for mut batches in execute_stream_partitioned(physical, self.session.task_ctx())? {
            let (tally, mut rows) = (Arc::clone(&tally), apart.as_ref().map(|apart| RowsApart::new(Arc::clone(apart))));
            parts.push(SpawnedTask::spawn(async move {
                while let Some(batch) = batches.next().await {
                    for group in tally.add(&batch?, rows.as_mut())? {
                        tally.add_apart(group).await?;
                    }
                }
                match rows.and_then(RowsApart::finish) {
                    Some(group) => tally.add_apart(group).await,
                    None => Ok::<_, DataFusionError>(()),
                }
            }));
        }
        for part in parts {
            part.join().await.map_err(|lost| DataFusionError::ExecutionJoin(Box::new(lost)))??;
        }
        tally.series(top, self.limits.samples_max).map_err(external)
    }

    /// Columns that are read apart, where spans come straight from files.
    fn apart(&self, leaf: &Leaf, scope: Scope<'_>) -> DfResult<Option<Arc<ColumnsApart>>> {
        let is_straight = leaf.on_traces(scope)?.is_none() && SpansTable::of(self.base.as_ref()).is_some();
        Ok(is_straight.then(Arc::default))
    }

    fn counted(&self) -> Counted {
        let table = SpansTable::of(self.base.as_ref());
        Counted::of(&table.map(SpansTable::promoted).unwrap_or_default())
    }

    async fn add_exemplars(
        &self,
        (leaf, candidates): (&Leaf, Option<&Candidates>),
        groups: Groups,
        series: &mut [Series],
        (most, ran): (usize, &RanPlans),
    ) -> DfResult<()> {
        let chosen = exemplars::choose(leaf, series, &groups, self.intervals, most);
        if chosen.is_empty() {
            return Ok(());
        }
        let mut fetched = exemplars::Fetched::new();
        let left = match Told::of(leaf) {
            Some(told) => {
                let by_row = self.traces_of_rows(&groups, &chosen).await?;
                told.take(&mut fetched, &groups, &chosen, &by_row)
            }
            None => chosen.clone(),
        };
        if !left.is_empty() {
            self.fetch((leaf, candidates), &groups, &left, (&mut fetched, ran)).await?;
        }
        let scale = if self.compiled.is_one_leaf() { Scale::Numbers } else { Scale::Results };
        exemplars::attach(leaf, series, self.intervals, &chosen, fetched, scale);
        Ok(())
    }

    /// The traces of the rows that were noted, as far as they are known.
    async fn traces_of_rows(&self, groups: &Groups, chosen: &[Moment]) -> DfResult<HashMap<u64, TraceId>> {
        match SpansTable::of(self.base.as_ref()).filter(|_| groups.places == PlaceKind::Rows) {
            Some(table) => table.traces_of_rows(&self.session, &exemplars::rows(groups, chosen)).await,
            None => Ok(HashMap::new()),
        }
    }

    /// Reads the spans that start at these moments.
    async fn fetch(
        &self,
        (leaf, candidates): (&Leaf, Option<&Candidates>),
        groups: &Groups,
        moments: &[Moment],
        (fetched, ran): (&mut exemplars::Fetched, &RanPlans),
    ) -> DfResult<()> {
        let few = match candidates {
            Some(_) => Some(self.finder(ran).these(exemplars::traces(groups, moments), self.reach()).await?),
            None => None,
        };
        let physical = self.physical(&exemplars::plan(leaf, self.scope(few.as_ref()), groups, moments)?, ran).await?;
        let mut batches = execute_stream(physical, self.session.task_ctx())?;
        let wanted = HashSet::from_iter(moments.iter().copied());
        while let Some(batch) = batches.next().await {
            exemplars::add(fetched, leaf, groups, &wanted, &batch?)?;
        }
        Ok(())
    }

    fn finder(&self, ran: &RanPlans) -> Finder {
        Finder { base: Arc::clone(&self.base), session: self.session.clone(), ran: Arc::clone(ran) }
    }

    fn reservation(&self, name: &str) -> MemoryReservation {
        MemoryConsumer::new(name).register(&self.session.runtime_env().memory_pool)
    }

    async fn physical(&self, logical: &LogicalPlan, ran: &RanPlans) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.finder(ran).physical(logical).await
    }
}

/// Whether a projection asks for the rows of files. Where it is not taken into the scan, as one that reads a struct twice,
/// there is no answer.
fn asks_for_rows_above_scans(physical: &Arc<dyn ExecutionPlan>) -> DfResult<bool> {
    physical.exists(|node| {
        let Some(projection) = node.downcast_ref::<ProjectionExec>() else { return Ok(false) };
        let asks = |expr: &Arc<dyn PhysicalExpr>| expr.exists(|expr| Ok(is_row_in_file(expr.as_ref())));
        projection.expr().iter().map(|column| asks(&column.expr)).try_fold(false, |any, one| Ok(any || one?))
    })
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
