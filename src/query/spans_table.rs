//! The base table of a query: one [`ReadView`], as a table.
//!
//! The catalogue's statistics of files are checked here, when the query is planned, and their filters of trace ids where the
//! query names traces, so that a file that cannot hold an answer is not even opened. Everything finer (row groups, pages, bloom filters, rows) is the scan's
//! ([`crate::storage::scan`]).

use std::{
    any::Any,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::{Datelike as _, NaiveDate};
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array},
        datatypes::{DataType, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{Column, Result, ScalarValue, pruning::PruningStatistics},
    logical_expr::{
        BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, expr::InList, utils::conjunction,
    },
    object_store::ObjectStore,
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::ExecutionPlan,
};
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use parquet::arrow::arrow_reader::RowSelection;

use crate::{
    catalog::{LiveFile, StatisticsValue},
    live::ReadView,
    model::{
        batch::SpanBatch,
        ids::TraceId,
        promotion::PromotedAttribute,
        schema::{column, logical_schema},
        time::TimeRange,
    },
    query::{
        stats::QueryStats,
        trace_rows::{ROWS_TRACES_MIN, knows_rows},
    },
    storage::{
        remote::ReadCounters,
        scan::{self, ScanFile, ScanRequest, Selected},
        start_set::{rows_in, rows_of},
        store::Store,
        trace_filters::TraceFilters,
        trace_rows::TraceRows,
        trace_set::{TraceSet, set_of},
    },
};

/// How many footers are read at once.
pub(crate) const FOOTER_READS_MAX: usize = 16;

/// What `chrono` counts for 1970-01-01.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// One state of one tenant's spans: files and what is buffered.
#[derive(Debug)]
pub struct SpansTable {
    view: ReadView,
    /// What is read of it; all of it if `None`.
    only: Option<Parts>,
    /// The store of the files, read by way of `reads`; that of the session if `None`.
    objects: Option<Arc<dyn ObjectStore>>,
    reads: Arc<ReadCounters>,
    files_scanned: AtomicU64,
    files_pruned: AtomicU64,
    files_without_trace: AtomicU64,
    bytes_read: AtomicU64,
}

/// Some of a view's files and buffered batches.
#[derive(Debug)]
struct Parts {
    files: HashSet<Arc<str>>,
    batches: HashSet<usize>,
}

impl SpansTable {
    /// The table of a view.
    pub fn new(view: ReadView) -> Self {
        Self {
            view,
            only: None,
            objects: None,
            reads: Arc::default(),
            files_scanned: AtomicU64::new(0),
            files_pruned: AtomicU64::new(0),
            files_without_trace: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// The same table, with what its scans read of `store` counted.
    pub fn reading(mut self, store: &Store) -> Self {
        self.objects = Some(store.counting(Arc::clone(&self.reads)));
        self
    }

    /// The state that it shows.
    pub(crate) fn view(&self) -> &ReadView {
        &self.view
    }

    /// The base table of a query, if it is stored or buffered spans; tests and fuzzers have others.
    pub(crate) fn of(base: &dyn TableProvider) -> Option<&Self> {
        (base as &dyn Any).downcast_ref()
    }

    /// Adds the files that scans kept and ruled out, and what was read without a scan or of a bucket.
    pub(crate) fn add_to(&self, stats: &mut QueryStats) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.files_scanned += count(&self.files_scanned);
        stats.files_pruned += count(&self.files_pruned);
        stats.files_without_trace += count(&self.files_without_trace);
        stats.scanned_bytes += self.bytes_read();
        stats.add_reads(&self.reads);
    }

    /// How much there is.
    pub(crate) fn size(&self) -> TableSize {
        let mut size = TableSize::default();
        for file in self.view.files() {
            size.files += 1;
            size.file_bytes += file.size_bytes;
            size.spans += file.rows().unwrap_or_default();
            size.see(file.start_range_unix_nano());
        }
        for batch in self.view.buffered() {
            size.spans += batch.num_spans() as u64;
            size.buffered_spans += batch.num_spans() as u64;
            size.see(batch.start_time_range());
        }
        size
    }

    /// The attributes that may have columns of their own in some file or batch.
    pub(crate) fn promoted(&self) -> Vec<PromotedAttribute> {
        let mut promoted = self.view.snapshot().declared().attributes.attributes().to_vec();
        for batch in self.view.buffered() {
            for attribute in batch.promotion().attributes() {
                if !promoted.contains(attribute) {
                    promoted.push(attribute.clone());
                }
            }
        }
        promoted
    }

    /// Whether all spans start in a range, as far as is known without reading them.
    pub(crate) fn is_within(&self, range: TimeRange) -> bool {
        let holds = |starts: Option<(i64, i64)>| starts.is_some_and(|starts| range.holds(starts));
        self.files().all(|file| holds(file.start_range_unix_nano()))
            && self.buffered().all(|batch| batch.num_spans() == 0 || holds(batch.start_time_range()))
    }

    /// How the spans spread over time, file by file and batch by batch, where that is known of all of them; else nothing.
    pub(crate) fn spread(&self) -> Vec<Spread> {
        let files = self.view.snapshot().files().map(|file| {
            let (first, last) = file.start_range_unix_nano()?;
            Some(Spread { first, last, spans: file.rows()? })
        });
        let batches = self.view.buffered().filter(|batch| batch.num_spans() > 0).map(|batch| {
            let (first, last) = batch.start_time_range()?;
            Some(Spread { first, last, spans: batch.num_spans() as u64 })
        });
        files.chain(batches).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The same table with some of its files and buffered batches alone, the former by path, the latter by position.
    pub(crate) fn only(&self, files: HashSet<Arc<str>>, batches: HashSet<usize>) -> Self {
        Self {
            only: Some(Parts { files, batches }),
            objects: self.objects.clone(),
            reads: Arc::clone(&self.reads),
            ..Self::new(self.view.clone())
        }
    }

    /// The store that files are read from, if it is not that of the session.
    pub(crate) fn objects(&self) -> Option<&Arc<dyn ObjectStore>> {
        self.objects.as_ref()
    }

    /// Counts a file of which something was read without a scan.
    pub(crate) fn count_read(&self, bytes: u64) {
        self.files_scanned.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes over what another table counted that was read without a scan.
    pub(crate) fn add_reads_of(&self, other: &Self) {
        self.files_scanned.fetch_add(other.files_scanned.load(Ordering::Relaxed), Ordering::Relaxed);
        self.bytes_read.fetch_add(other.bytes_read(), Ordering::Relaxed);
    }

    /// Bytes that were read of files without a scan.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub(super) fn buffered(&self) -> impl Iterator<Item = &SpanBatch> {
        let batches = self.view.buffered().enumerate();
        let chosen = |at: &usize| self.only.as_ref().is_none_or(|only| only.batches.contains(at));
        batches.filter(move |(at, _)| chosen(at)).map(|(_, batch)| batch)
    }

    fn plan_scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        mut files: Vec<ScanFile>,
        (limit, is_narrow, selected): (Option<usize>, bool, Selected),
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // The scan's table has the partition column behind the columns of this one.
        let table = logical_schema();
        let all: Vec<usize> = (0..table.fields().len()).collect();
        let projection = projection.map_or(all.as_slice(), Vec::as_slice);
        let by_row = [column::TRACE_ID, column::PARENT_SPAN_ID];
        if projection.iter().any(|index| by_row.contains(&table.field(*index).name().as_str()))
            && let Some(rows) = session.config().get_extension::<TraceRows>()
        {
            files.iter_mut().for_each(|file| file.runs = rows.known(file));
        }
        self.files_scanned.fetch_add(files.len() as u64, Ordering::Relaxed);
        let pruned = self.view.files().count() - files.len();
        self.files_pruned.fetch_add(pruned as u64, Ordering::Relaxed);
        let request = ScanRequest {
            store: Store::url(),
            files,
            buffered: self.buffered().map(|batch| Arc::new(batch.clone())).collect(),
            projection: Some(projection),
            limit,
            is_narrow,
            selected,
            demand: Some(Arc::clone(self.view.demand())),
        };
        match &self.objects {
            Some(objects) => scan::plan_over(session, &request, Some(Arc::clone(objects))),
            None => scan::plan(session, &request),
        }
    }

    /// All files of which something is read.
    pub(super) fn files(&self) -> impl Iterator<Item = &LiveFile> {
        let chosen = |file: &&LiveFile| self.only.as_ref().is_none_or(|only| only.files.contains(&file.path));
        self.view.files().map(AsRef::as_ref).filter(chosen)
    }

    /// The files that can hold rows, by the catalogue's statistics.
    fn files_for(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<&LiveFile>> {
        let files: Vec<&LiveFile> = self.files().collect();
        let keep = kept(session, &files, filters)?;
        Ok(files.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file).collect())
    }
}

/// How much a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableSize {
    /// All spans.
    pub(crate) spans: u64,
    /// Those of them that are in no file.
    pub(crate) buffered_spans: u64,
    /// Files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) file_bytes: u64,
    /// First and last start in Unix nanoseconds, of what is known.
    pub(crate) starts: Option<(i64, i64)>,
}

impl TableSize {
    fn see(&mut self, starts: Option<(i64, i64)>) {
        self.starts = match (self.starts, starts) {
            (Some((first, last)), Some((other_first, other_last))) => {
                Some((first.min(other_first), last.max(other_last)))
            }
            (one, other) => one.or(other),
        };
    }
}

/// Spans of one file or batch, and the first and last start of them in Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) spans: u64,
}

impl Spread {
    /// About how many of them start in `[from, end)`, as if they lay evenly.
    pub(crate) fn spans_between(&self, from: i64, end: i64) -> f64 {
        let length = |from: i64, to: i64| (i128::from(to) - i128::from(from)).max(0) as f64;
        let inside = length(self.first.max(from), self.last.saturating_add(1).min(end));
        self.spans as f64 * inside / length(self.first, self.last.saturating_add(1)).max(1.0)
    }
}

impl TableProvider for SpansTable {
    fn schema(&self) -> SchemaRef {
        logical_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(scan::supports_filters(filters))
    }

    // What `async_trait` would write, but for the body: a future that does not hold the filters spares the compiler
    // seconds of proving that expressions can move between threads. Planning waits only for filters of trace ids.
    fn scan<'a, 'b, 'c, 'd, 'future>(
        &'a self,
        session: &'b dyn Session,
        projection: Option<&'c Vec<usize>>,
        filters: &'d [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'future, Result<Arc<dyn ExecutionPlan>>>
    where
        'a: 'future,
        'b: 'future,
        'c: 'future,
        'd: 'future,
        Self: 'future,
    {
        let files = match self.files_for(session, filters) {
            Ok(files) => files,
            Err(error) => return future::ready(Err(error)).boxed(),
        };
        if let Some(rows) = filters.iter().find_map(rows_of) {
            let files = with_single_rows(files.into_iter().map(scan_file).collect(), &rows);
            return future::ready(self.plan_scan(session, projection, files, (limit, true, Selected::Single))).boxed();
        }
        let set = filters.iter().find_map(set_of);
        let Some(ids) = wanted_traces(filters) else {
            let files: Vec<ScanFile> = files.into_iter().map(scan_file).collect();
            let Some(set) = set else {
                return future::ready(self.plan_scan(session, projection, files, (limit, false, Selected::Traces)))
                    .boxed();
            };
            return async move {
                let files = self.with_rows(session, files, &set).await?;
                self.plan_scan(session, projection, files, (limit, false, Selected::Traces))
            }
            .boxed();
        };
        async move {
            let before = files.len();
            let files = with_traces(session, self.objects.as_ref(), files, &ids).await?;
            self.files_without_trace.fetch_add((before - files.len()) as u64, Ordering::Relaxed);
            let mut files: Vec<ScanFile> = files.into_iter().map(scan_file).collect();
            if ids.len() >= ROWS_TRACES_MIN || knows_rows(session, &files) {
                files = self.with_rows(session, files, &TraceSet::of(ids.iter().copied())).await?;
            }
            self.plan_scan(session, projection, files, (limit, true, Selected::Traces))
        }
        .boxed()
    }
}

/// A day as Arrow counts it.
pub(crate) fn days_since_epoch(date: NaiveDate) -> i32 {
    date.num_days_from_ce() - EPOCH_DAYS_FROM_CE
}

/// What a scan needs to know of a file.
pub(crate) fn scan_file(file: &LiveFile) -> ScanFile {
    ScanFile {
        path: file.location.clone(),
        size_bytes: file.size_bytes,
        date: file.date.map_or(0, days_since_epoch),
        rows: file.rows().and_then(|rows| usize::try_from(rows).ok()),
        start_time_range: file.start_range_unix_nano(),
        selected: None,
        runs: None,
    }
}

/// The files with those of the rows that they can have, if all of them tell; without those that have none.
fn with_single_rows(mut files: Vec<ScanFile>, rows: &[(i64, u64)]) -> Vec<ScanFile> {
    let selected: Option<Vec<_>> = files.iter().map(|file| rows_in(rows, file)).collect();
    let Some(selected) = selected else { return files };
    files.iter_mut().zip(selected).for_each(|(file, selected)| file.selected = Some(selected));
    files.retain(|file| file.selected.as_ref().is_some_and(RowSelection::selects_any));
    files
}

/// The traces that a row has to belong to, where the filters name them.
fn wanted_traces(filters: &[Expr]) -> Option<Vec<TraceId>> {
    filters.iter().find_map(traces_of)
}

/// The traces of which a row that passes the filter has one. Short lists come as alternatives.
fn traces_of(filter: &Expr) -> Option<Vec<TraceId>> {
    let id = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::FixedSizeBinary(_, Some(bytes)), _) => {
            <[u8; TraceId::LEN]>::try_from(bytes.as_slice()).ok().map(TraceId::from_bytes)
        }
        _ => None,
    };
    let is_trace = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == column::TRACE_ID);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Eq if is_trace(left) => Some(vec![id(right)?]),
            Operator::Eq if is_trace(right) => Some(vec![id(left)?]),
            Operator::And => traces_of(left).or_else(|| traces_of(right)),
            Operator::Or => Some([traces_of(left)?, traces_of(right)?].concat()),
            _ => None,
        },
        Expr::InList(InList { expr, list, negated: false }) if is_trace(expr) => list.iter().map(id).collect(),
        _ => None,
    }
}

/// Those of the files that can hold one of the traces.
async fn with_traces<'a>(
    session: &dyn Session,
    objects: Option<&Arc<dyn ObjectStore>>,
    files: Vec<&'a LiveFile>,
    ids: &[TraceId],
) -> Result<Vec<&'a LiveFile>> {
    let Some(filters) = session.config().get_extension::<TraceFilters>() else { return Ok(files) };
    // Opening the one file costs no more than looking into its filter.
    if files.len() < 2 {
        return Ok(files);
    }
    let places = files.iter().map(|file| file.trace_filter()).collect();
    let store = match objects {
        Some(objects) => Arc::clone(objects),
        None => session.runtime_env().object_store(Store::url())?,
    };
    let can_hold = filters.can_hold(&store, places, ids).await;
    Ok(files.into_iter().zip(can_hold).filter(|(_, can_hold)| *can_hold).map(|(file, _)| file).collect())
}

/// Which files can hold a row that passes all filters.
fn kept(session: &dyn Session, files: &[&LiveFile], filters: &[Expr]) -> Result<Vec<bool>> {
    let all = vec![true; files.len()];
    let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all) };
    let schema = logical_schema();
    let df_schema = datafusion::common::DFSchema::try_from(Arc::clone(&schema))?;
    // Filters of the plan carry the name that the table has there.
    let filter = unqualified(filter)?;
    let predicate = session.create_physical_expr(filter, &df_schema)?;
    let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&schema)).try_build(predicate)?;
    if predicate.always_true() {
        return Ok(all);
    }
    predicate.prune(&FileFacts { files, schema })
}

fn unqualified(filter: Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    filter
        .transform(|expr| match expr {
            Expr::Column(column) if column.relation.is_some() => {
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name))))
            }
            other => Ok(Transformed::no(other)),
        })
        .map(|transformed| transformed.data)
}

/// The catalogue's statistics, one container per file.
struct FileFacts<'a> {
    files: &'a [&'a LiveFile],
    schema: SchemaRef,
}

impl FileFacts<'_> {
    fn bounds(&self, column: &Column, bound: impl Fn(&LiveFile, &str) -> Option<StatisticsValue>) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let values = self.files.iter().map(|file| bound(file, &column.name));
        Some(match field.data_type() {
            DataType::Int64 => Arc::new(Int64Array::from_iter(values.map(|value| match value {
                Some(StatisticsValue::Int(value)) => Some(value),
                _ => None,
            }))),
            DataType::Float64 => Arc::new(Float64Array::from_iter(values.map(|value| match value {
                Some(StatisticsValue::Float(value)) => Some(value),
                _ => None,
            }))),
            DataType::Utf8 => Arc::new(StringArray::from_iter(values.map(|value| match value {
                Some(StatisticsValue::Text(value)) => Some(value),
                _ => None,
            }))),
            _ => return None,
        })
    }
}

fn statistics<'a>(file: &'a LiveFile, column: &str) -> Option<&'a crate::catalog::ColumnStatistics> {
    file.statistics.as_ref()?.columns.get(column)
}

impl PruningStatistics for FileFacts<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, column| statistics(file, column)?.min.clone())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, column| statistics(file, column)?.max.clone())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let nulls = self.files.iter().map(|file| statistics(file, &column.name).map(|column| column.nulls));
        Some(Arc::new(UInt64Array::from_iter(nulls)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter(self.files.iter().map(|file| file.rows()))))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
