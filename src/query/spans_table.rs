//! The base table of a query: one [`ReadView`], as a table.
//!
//! The catalogue's statistics of files are checked here, when the query is planned, so that a file that cannot hold an
//! answer is not even opened. Everything finer (row groups, pages, bloom filters, rows) is the scan's
//! ([`crate::storage::scan`]).

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, UInt64Array},
        datatypes::{DataType, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{Column, Result, ScalarValue, pruning::PruningStatistics},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    object_store::ObjectStore,
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::ExecutionPlan,
};
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};

use crate::{
    catalog::{LiveFile, StatisticsValue},
    live::ReadView,
    model::schema::logical_schema,
    storage::{
        remote::ReadCounters,
        scan::{self, ScanFile, ScanRequest},
        store::Store,
    },
};

/// What `chrono` counts for 1970-01-01.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// One state of one tenant's spans: files and what is buffered.
#[derive(Debug)]
pub struct SpansTable {
    view: ReadView,
    /// The store of the files, read by way of `reads`; that of the session if `None`.
    objects: Option<Arc<dyn ObjectStore>>,
    reads: Arc<ReadCounters>,
    files_scanned: AtomicU64,
    files_pruned: AtomicU64,
}

impl SpansTable {
    /// The table of a view.
    pub fn new(view: ReadView) -> Self {
        let (files_scanned, files_pruned) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { view, objects: None, reads: Arc::default(), files_scanned, files_pruned }
    }

    /// The same table, with what its scans read of `store` counted.
    pub fn reading(mut self, store: &Store) -> Self {
        self.objects = Some(store.counting(Arc::clone(&self.reads)));
        self
    }

    /// What scans read of a bucket, or of what is kept of it.
    pub(crate) fn reads(&self) -> &ReadCounters {
        &self.reads
    }

    /// Files that scans kept, and those that they ruled out by the catalogue.
    pub(crate) fn file_counts(&self) -> (u64, u64) {
        (self.files_scanned.load(Ordering::Relaxed), self.files_pruned.load(Ordering::Relaxed))
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

    fn plan_scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // The scan's table has the partition column behind the columns of this one.
        let all: Vec<usize> = (0..logical_schema().fields().len()).collect();
        let projection = projection.map_or(all.as_slice(), Vec::as_slice);
        let request = ScanRequest {
            store: Store::url(),
            files: self.files_for(session, filters)?,
            buffered: self.view.buffered().map(|batch| Arc::new(batch.clone())).collect(),
            projection: Some(projection),
            limit,
        };
        match &self.objects {
            Some(objects) => scan::plan_over(session, &request, Some(Arc::clone(objects))),
            None => scan::plan(session, &request),
        }
    }

    fn files_for(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<ScanFile>> {
        let files: Vec<&LiveFile> = self.view.files().map(AsRef::as_ref).collect();
        let keep = kept(session, &files, filters)?;
        let kept: Vec<ScanFile> =
            files.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(file, _)| scan_file(file)).collect();
        self.files_scanned.fetch_add(kept.len() as u64, Ordering::Relaxed);
        self.files_pruned.fetch_add((files.len() - kept.len()) as u64, Ordering::Relaxed);
        Ok(kept)
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

    // What `async_trait` would write, but for the body: planning a scan never waits, and a future that does not hold the
    // filters spares the compiler seconds of proving that expressions can move between threads.
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
        future::ready(self.plan_scan(session, projection, filters, limit)).boxed()
    }
}

/// What a scan needs to know of a file.
pub(crate) fn scan_file(file: &LiveFile) -> ScanFile {
    use chrono::Datelike;
    ScanFile {
        path: file.location.clone(),
        size_bytes: file.size_bytes,
        date: file.date.map_or(0, |date| date.num_days_from_ce() - EPOCH_DAYS_FROM_CE),
        rows: file.rows().and_then(|rows| usize::try_from(rows).ok()),
        start_time_range: file.start_range_unix_nano(),
    }
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
