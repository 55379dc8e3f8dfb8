//! The physical plan that reads spans: files and buffered batches as one source.
//!
//! Both kinds of storage give the same rows for the same spans, whatever is promoted in them; no plan node above can tell
//! them apart. They share one `DataSourceExec` and not a union, because an output expression on an attribute has to reach
//! every batch, and a projection does not pass a union that it does not make narrower.
//!
//! Filters reach the scan by DataFusion's physical filter pushdown, dynamic ones included. It answers exactly for those
//! whose value is known when it starts, whatever the files hold, so that they are gone from the plan above. The filters that
//! a table provider is handed are for choosing files alone ([`supports_filters`]).
//!
//! ```text
//!  buffer_source    buffered batches
//!  parquet_source   files: which predicates choose rows while they are decoded (selective), what becomes of the rest, and
//!                   whether text is read as codes (texts_read)
//!    readers          footers, changed (changed_footer) so that text comes as codes (coded_text), and of events and links
//!                     what is asked of them (items) or, where few rows have some, from memory (sparse_items)
//!    adapter          expressions on logical columns as those on what a file or a batch has; marked says what they are for
//!                     (condition), on_values asks them of a dictionary, nulls are what no row has
//!    morsels          batches as they are decoded: rows that stay (remainder), what their numbers tell (by_row_number)
//!  demand           which attributes were read, for the choice of columns
//! ```

pub mod adapter;
mod buffer_source;
mod by_row_number;
mod changed_footer;
mod coded_text;
mod condition;
pub mod demand;
mod items;
mod marked;
mod morsels;
mod nulls;
mod on_values;
mod parquet_source;
mod readers;
mod remainder;
mod selective;
mod sparse_items;
mod texts_read;

use std::{
    any::Any,
    fmt,
    sync::{Arc, LazyLock},
};

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::{
    catalog::Session,
    common::{
        ColumnStatistics, Result, ScalarValue, Statistics,
        config::{ConfigOptions, TableParquetOptions},
        internal_err,
        stats::Precision,
        tree_node::TreeNodeRecursion,
    },
    datasource::{
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource, parquet::ParquetRowSelection,
        },
        source::{DataSource, DataSourceExec, OpenArgs},
        table_schema::TableSchema,
    },
    execution::{SendableRecordBatchStream, TaskContext, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown},
    object_store::{ObjectMeta, ObjectStore, path::Path},
    physical_expr::{
        EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr, projection::ProjectionExprs,
    },
    physical_plan::{
        DisplayFormatType, ExecutionPlan, SortOrderPushdownResult,
        empty::EmptyExec,
        execution_plan::SchedulingType,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::ExecutionPlanMetricsSet,
    },
    prelude::SessionConfig,
};
use datafusion_datasource::PartitionedFile;
use parquet::arrow::arrow_reader::RowSelection;

pub(crate) use crate::storage::scan::remainder::ROWS_DROPPED;
use crate::{
    model::{
        batch::SpanBatch,
        schema::{self, column},
    },
    storage::{
        scan::{
            adapter::AttributeAdapterFactory,
            buffer_source::BufferSource,
            by_row_number::{FileRuns, Known},
            demand::{KeyDemand, ScanDemand},
            parquet_source::{Reading, SpanFileSource},
            readers::{Form, IndexedReaders, TextForm},
        },
        trace_rows::Runs,
    },
};

/// How much of a file's end is fetched at first, in bytes: the footer of a file of 100 MB fits.
pub(crate) const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// Longest list of values that is compared with the least and greatest of row groups and pages, value by value. Ids are
/// random, so that it would rule nothing out; bloom filters are asked for lists of any length.
const PRUNED_VALUES_MAX: usize = 20;

static TABLE: LazyLock<TableSchema> = LazyLock::new(|| {
    let date = Arc::new(Field::new(column::DATE, DataType::Date32, false));
    TableSchema::builder(schema::logical_schema()).with_table_partition_cols(vec![date]).build()
});

/// The schema of the base table: the logical columns, then `date`.
pub fn table_schema() -> SchemaRef {
    Arc::clone(TABLE.table_schema())
}

/// A file of the table.
#[derive(Clone, Debug)]
pub struct ScanFile {
    /// Where it is in the object store.
    pub path: Path,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its partition: days since the Unix epoch.
    pub date: i32,
    /// Number of spans, where it is known.
    pub rows: Option<usize>,
    /// Smallest and largest start time in Unix nanoseconds, where they are known.
    pub start_time_range: Option<(i64, i64)>,
    /// The only rows that are read, where they are known.
    pub selected: Option<RowSelection>,
    /// Which trace each row belongs to, and which are roots, where that is in memory.
    pub runs: Option<Arc<Runs>>,
}

impl ScanFile {
    pub(crate) fn object_meta(&self) -> ObjectMeta {
        ObjectMeta {
            location: self.path.clone(),
            // Files never change, so their path is all that a cache needs.
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: self.size_bytes,
            e_tag: None,
            version: None,
        }
    }
}

/// How selected rows of files were found, if all files have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// They are the rows of the traces that predicates name.
    Traces,
    /// They are single rows, which predicates judge.
    Single,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct ScanRequest<'a> {
    /// The store that the paths of the files are in.
    pub store: ObjectStoreUrl,
    /// The files.
    pub files: Vec<ScanFile>,
    /// Batches that are in no file yet.
    pub buffered: Vec<Arc<SpanBatch>>,
    /// Indices of columns of [`table_schema`]; all of them if `None`.
    pub projection: Option<&'a [usize]>,
    /// At most this many rows are needed, whichever.
    pub limit: Option<usize>,
    /// Whether few rows of a file are wanted, so that several threads would cost more in opening it than they save.
    pub is_narrow: bool,
    /// What the rows are that files have selected.
    pub selected: Selected,
    /// Where it is noted which attributes are read, if anywhere.
    pub demand: Option<Arc<KeyDemand>>,
}

/// How the filters of a query can be used: all of them for skipping, none of them exactly.
pub fn supports_filters(filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    vec![TableProviderFilterPushDown::Inexact; filters.len()]
}

/// A session's settings with what scans of spans need; [`plan`] refuses a session without it.
///
/// The filter that an aggregate without groups derives from its running minima and maxima is off: with several of them,
/// DataFusion leaves out those that are NULL so far, and so loses the rows that have their first value.
pub fn session_config(mut config: SessionConfig) -> SessionConfig {
    let options = config.options_mut();
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.execution.parquet.max_in_list_size = PRUNED_VALUES_MAX;
    config
}

/// The plan that reads what is asked for.
pub fn plan(session: &dyn Session, request: &ScanRequest<'_>) -> Result<Arc<dyn ExecutionPlan>> {
    let objects = match request.files.is_empty() {
        true => None,
        false => Some(session.runtime_env().object_store(&request.store)?),
    };
    plan_over(session, request, objects)
}

/// The plan that reads what is asked for, with the files read through `objects`, the same store by another way.
pub fn plan_over(
    session: &dyn Session,
    request: &ScanRequest<'_>,
    objects: Option<Arc<dyn ObjectStore>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if session.config_options().optimizer.enable_aggregate_dynamic_filter_pushdown {
        return internal_err!("spans can only be scanned in a session with the settings of storage::scan");
    }
    let table = table_schema();
    let projection = match request.projection {
        Some(projection) => projection.to_vec(),
        None => (0..table.fields().len()).collect(),
    };
    let partitions = session.config().target_partitions();
    let demand = request.demand.as_ref().map(|demand| Arc::new(ScanDemand::new(demand)));
    let buffer = match request.buffered.iter().any(|batch| batch.num_spans() > 0) {
        true => {
            let buffer = BufferSource::try_new(&request.buffered, &projection, partitions, request.limit)?;
            Some(buffer.with_demand(demand.as_ref().map(Arc::clone)))
        }
        false => None,
    };
    let files = match objects.filter(|_| !request.files.is_empty()) {
        None if !request.files.is_empty() => return internal_err!("files can only be scanned in a store"),
        None => None,
        Some(objects) => Some(file_source(session, request, projection.clone(), (objects, demand))?),
    };
    let source: Arc<dyn DataSource> = match (files, buffer) {
        (Some(files), Some(buffer)) => Arc::new(SpanSource { files, buffer: Arc::new(buffer) }),
        (Some(files), None) => files,
        (None, Some(buffer)) => Arc::new(buffer),
        (None, None) => return Ok(Arc::new(EmptyExec::new(Arc::new(table.project(&projection)?)))),
    };
    Ok(Arc::new(DataSourceExec::new(source)))
}

fn file_source(
    session: &dyn Session,
    request: &ScanRequest<'_>,
    projection: Vec<usize>,
    (objects, demand): (Arc<dyn ObjectStore>, Option<Arc<ScanDemand>>),
) -> Result<Arc<dyn DataSource>> {
    let metadata_cache = session.runtime_env().cache_manager.get_file_metadata_cache();
    let form = Form { text: TextForm::Plain, items: Arc::default(), by_row: false, numbers_rows: false, apart: None };
    let readers = Arc::new(IndexedReaders::new(objects, Arc::clone(&metadata_cache), form));
    let options =
        TableParquetOptions { global: session.config_options().execution.parquet.clone(), ..Default::default() };
    let parquet = ParquetSource::new(TABLE.clone())
        .with_table_parquet_options(options)
        .with_metadata_size_hint(FOOTER_BYTES_GUESS)
        .with_parquet_file_reader_factory(Arc::clone(&readers) as Arc<dyn ParquetFileReaderFactory>);
    let files = FileGroup::new(request.files.iter().map(partitioned_file).collect());
    let groups = files.split_files(session.config().target_partitions());
    let is_selected = request.files.iter().all(|file| file.selected.is_some());
    let reading = Reading {
        is_narrow: request.is_narrow,
        has_traces: request.selected == Selected::Traces && is_selected,
        has_rows: request.selected == Selected::Single && is_selected,
        is_limited: request.limit.is_some(),
        known: Known::of(request.files.iter().map(|file| file.runs.as_ref())),
    };
    let source = SpanFileSource::new(parquet, readers, reading);
    let config = FileScanConfigBuilder::new(request.store.clone(), Arc::new(source))
        .with_file_groups(groups)
        .with_projection_indices(Some(projection))?
        .with_limit(request.limit)
        .with_expr_adapter(Some(Arc::new(AttributeAdapterFactory { demand, kept: Some(metadata_cache) })))
        .build();
    Ok(Arc::new(config))
}

fn partitioned_file(file: &ScanFile) -> PartitionedFile {
    let partitioned = PartitionedFile::new_from_meta(file.object_meta())
        .with_partition_values(vec![ScalarValue::Date32(Some(file.date))]);
    let partitioned = match &file.selected {
        Some(rows) => partitioned.with_extension(ParquetRowSelection::new(rows.clone())),
        None => partitioned,
    };
    let partitioned = match &file.runs {
        Some(runs) => partitioned.with_extension(FileRuns(Arc::clone(runs))),
        None => partitioned,
    };
    let Some((min, max)) = file.start_time_range else { return partitioned };
    let mut statistics = Statistics::new_unknown(TABLE.file_schema());
    statistics.num_rows = file.rows.map_or(Precision::Absent, Precision::Exact);
    if let Ok(index) = TABLE.file_schema().index_of(column::START_TIME) {
        statistics.column_statistics[index] = ColumnStatistics {
            null_count: Precision::Exact(0),
            min_value: Precision::Exact(ScalarValue::Int64(Some(min))),
            max_value: Precision::Exact(ScalarValue::Int64(Some(max))),
            ..ColumnStatistics::new_unknown()
        };
    }
    partitioned.with_statistics(Arc::new(statistics))
}

/// Files and buffered batches: first the partitions of the files, then those of the batches.
#[derive(Clone, Debug)]
struct SpanSource {
    files: Arc<dyn DataSource>,
    buffer: Arc<dyn DataSource>,
}

impl SpanSource {
    fn file_partitions(&self) -> usize {
        self.files.output_partitioning().partition_count()
    }

    fn with(&self, files: Option<Arc<dyn DataSource>>, buffer: Option<Arc<dyn DataSource>>) -> Arc<dyn DataSource> {
        let files = files.unwrap_or_else(|| Arc::clone(&self.files));
        let buffer = buffer.unwrap_or_else(|| Arc::clone(&self.buffer));
        Arc::new(Self { files, buffer })
    }
}

impl DataSource for SpanSource {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        match args.partition.checked_sub(self.file_partitions()) {
            Some(partition) => self.buffer.open(partition, args.context),
            None => self.files.open_with_args(args),
        }
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        self.files.create_sibling_state(config)
    }

    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt_as(format, f)?;
        f.write_str("; ")?;
        self.buffer.fmt_as(format, f)
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let files = self.files.repartitioned(target_partitions, repartition_file_min_size, output_ordering)?;
        Ok(files.map(|files| self.with(Some(files), None)))
    }

    fn output_partitioning(&self) -> Partitioning {
        let buffer = self.buffer.output_partitioning().partition_count();
        Partitioning::UnknownPartitioning(self.file_partitions() + buffer)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.buffer.eq_properties()
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        self.buffer.partition_statistics(None)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(self.with(Some(self.files.with_fetch(limit)?), Some(self.buffer.with_fetch(limit)?)))
    }

    fn fetch(&self) -> Option<usize> {
        self.files.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.files.metrics()
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        let files = self.files.try_swapping_with_projection(projection)?;
        let buffer = self.buffer.try_swapping_with_projection(projection)?;
        Ok(match (files, buffer) {
            (Some(files), Some(buffer)) => Some(self.with(Some(files), Some(buffer))),
            _ => None,
        })
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let files = self.files.try_pushdown_filters(filters.clone(), config)?;
        let buffer = self.buffer.try_pushdown_filters(filters, config)?;
        let both = |(files, buffer): (&PushedDown, &PushedDown)| match (files, buffer) {
            (PushedDown::Yes, PushedDown::Yes) => PushedDown::Yes,
            _ => PushedDown::No,
        };
        let results = files.filters.iter().zip(&buffer.filters).map(both).collect();
        let result = FilterPushdownPropagation::with_parent_pushdown_result(results);
        Ok(match (files.updated_node, buffer.updated_node) {
            (None, None) => result,
            (files, buffer) => result.with_updated_node(self.with(files, buffer)),
        })
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        // Files may come in a better order; the whole is never sorted.
        Ok(match self.files.try_pushdown_sort(order)?.into_inner() {
            Some(files) => SortOrderPushdownResult::Inexact { inner: self.with(Some(files), None) },
            None => SortOrderPushdownResult::Unsupported,
        })
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        Some(self.with(Some(self.files.with_preserve_order(preserve_order)?), None))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if self.files.apply_expressions(f)? == TreeNodeRecursion::Stop {
            return Ok(TreeNodeRecursion::Stop);
        }
        self.buffer.apply_expressions(f)
    }
}
