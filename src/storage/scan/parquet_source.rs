//! Parquet files as a source of spans: DataFusion's, but for what it does with predicates.
//!
//! DataFusion looks at a predicate in terms of the table and finds that it reads a map, which it cannot push into a file,
//! so it drops it, even for pruning. But in a file that promotes the attribute the predicate reads a plain column.
//! [`SpanFileSource`] keeps every predicate, each file's adapter rewrites them, and row groups, pages and bloom filters
//! prune by what can be used. Where a predicate selects few rows, files choose rows while they are decoded. What a file
//! cannot judge then, or need not, is judged on its output ([`remainder`]), so that the scan answers exactly for all
//! predicates but those whose value changes while it runs, and no filter stays above it.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    common::{
        Result,
        config::ConfigOptions,
        exec_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    datasource::{
        physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource},
        table_schema::TableSchema,
    },
    object_store::{ObjectStore, path::Path},
    physical_expr::{
        EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, conjunction_opt,
        expressions::DynamicFilterPhysicalExpr,
        projection::{ProjectionExpr, ProjectionExprs},
    },
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult,
        execution_plan::apply_expression_roots,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder},
    },
};
use datafusion_datasource::{PartitionedFile, file_stream::FileOpener, morsel::Morselizer};

use crate::storage::{
    apart::Apart,
    scan::{
        by_row_number::{Known, Numbered, RootTest, judged, row_number, runs_of, wants_roots},
        condition,
        items::ItemsAsked,
        marked::{Marked, Use},
        morsels::{Batches, FinishedFiles},
        readers::{Form, IndexedReaders, TextForm},
        remainder::{self, ROWS_DROPPED, kept},
        selective::{is_selective, names_traces},
        texts_read::{compared_texts, is_attribute, takes_codes},
    },
    trace_rows::Runs,
};

/// The number of a row, where no output column is named so.
const ROW: &str = "__row";

/// Rows of a batch where nobody says how many.
const ROWS_MAX_DEFAULT: usize = 8192;

/// A [`ParquetSource`] that keeps all predicates.
#[derive(Clone, Debug)]
pub(crate) struct SpanFileSource {
    /// The source of all columns.
    parquet: ParquetSource,
    projection: ProjectionExprs,
    /// What is used for skipping.
    predicates: Vec<Arc<dyn PhysicalExpr>>,
    /// Those of the predicates that all rows meet that come out.
    answered: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether rows are chosen by predicates while files are decoded.
    chooses_rows: bool,
    rows_max: usize,
    /// The readers, in whatever form.
    readers: Arc<IndexedReaders>,
    reading: Reading,
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Whether each file is read by one thread.
    pub(crate) is_narrow: bool,
    /// Whether the rows that are read are those of the traces that predicates name, so that ids need not be looked at.
    pub(crate) has_traces: bool,
    /// Whether the rows that are read are so few that choosing among them before decoding costs more than it saves.
    pub(crate) has_rows: bool,
    /// Whether any rows will do, but no more than some, so that predicates are about those that come out.
    pub(crate) is_limited: bool,
    /// What each file comes with that its rows need not be read for.
    pub(crate) known: Known,
}

impl SpanFileSource {
    pub(crate) fn new(parquet: ParquetSource, readers: Arc<IndexedReaders>, reading: Reading) -> Self {
        let all = parquet.projection().cloned();
        Self {
            projection: all.unwrap_or_else(|| ProjectionExprs::new([])),
            parquet,
            predicates: Vec::new(),
            answered: Vec::new(),
            chooses_rows: false,
            rows_max: ROWS_MAX_DEFAULT,
            readers,
            reading,
        }
    }

    fn with_parquet(&self, source: &dyn FileSource) -> Result<Arc<dyn FileSource>> {
        let Some(parquet) = source.downcast_ref::<ParquetSource>() else {
            return exec_err!("a parquet source turned into another kind");
        };
        Ok(Arc::new(Self { parquet: parquet.clone(), ..self.clone() }))
    }

    /// Whether text is read as codes: they are asked for, or it is compared, and not shown besides.
    fn reads_codes(&self) -> bool {
        let outputs = || self.projection.iter().map(|column| &column.expr);
        if outputs().any(takes_codes) {
            return true;
        }
        let schema = self.table_schema().table_schema();
        let is_shown = |expr: &Arc<dyn PhysicalExpr>| expr.data_type(schema).is_ok_and(|shown| shown == DataType::Utf8);
        let compared: Vec<&Arc<dyn PhysicalExpr>> =
            self.predicates.iter().chain(outputs()).flat_map(compared_texts).collect();
        !compared.is_empty() && outputs().filter(|expr| is_shown(expr)).all(|shown| compared.contains(&shown))
    }

    /// The output columns that are read as numbers of rows.
    fn numbered(&self) -> Numbered {
        Numbered::of(&self.projection, self.reading.known)
    }

    /// In which form the files are read, and whether numbers of rows are asked for.
    fn form(&self, asks_for_rows: bool) -> Form {
        let text = if self.reads_codes() { TextForm::Coded } else { TextForm::Plain };
        let outputs = || self.projection.iter().map(|column| &column.expr);
        let items = ItemsAsked::of(self.predicates.iter().chain(outputs()));
        // Where some rows will do, reading lists of all of them does not pay.
        let reads_many = !self.reading.is_narrow && !self.reading.is_limited;
        let by_row = reads_many && items.in_parts().next().is_some();
        let numbers_rows = asks_for_rows || by_row;
        // Where few rows are wanted, whole columns are not.
        let reads_whole = !self.chooses_rows && !self.reading.has_rows && !self.reading.has_traces && reads_many;
        let apart = outputs().filter(|_| reads_whole).find_map(|output| Apart::of(output.as_ref()));
        let apart = apart.map(|(mark, _)| Arc::clone(&mark.columns));
        Form { text, numbers_rows, by_row, items: Arc::new(items), apart }
    }

    /// The output columns and the conditions to be judged on them, with the number of the row where it is of use.
    fn by_row(&self, form: &Form) -> Result<(ProjectionExprs, Vec<Arc<dyn PhysicalExpr>>)> {
        if !form.by_row {
            return Ok((self.projection.clone(), self.answered.clone()));
        }
        let row = row_number(ROW);
        let answered = self.answered.iter().map(|condition| form.items.by_row(condition, &row));
        let output = self.projection.clone().try_map_exprs(|expr| form.items.by_row(&expr, &row))?;
        Ok((output, answered.collect::<Result<_>>()?))
    }

    /// The source of an output over the columns of the table.
    fn projected(&self, parquet: &ParquetSource, output: &ProjectionExprs) -> Result<Arc<dyn FileSource>> {
        match parquet.try_pushdown_projection(output)? {
            Some(source) => Ok(source),
            None => exec_err!("a parquet source takes no projection"),
        }
    }

    fn with_predicates(&self, predicates: impl Iterator<Item = Arc<dyn PhysicalExpr>>) -> ParquetSource {
        match conjunction_opt(predicates) {
            Some(predicate) => self.parquet.with_predicate(predicate),
            None => self.parquet.clone(),
        }
    }

    /// The condition that it is in memory which rows are roots for, and whether it wants these or the others.
    fn root_test(&self) -> Option<(&Arc<dyn PhysicalExpr>, bool)> {
        let mut tests = self.answered.iter().filter_map(|condition| Some((condition, wants_roots(condition)?)));
        tests.next().filter(|_| self.reading.known.roots)
    }
}

/// What becomes of batches as they are decoded.
#[derive(Debug)]
struct Output {
    /// Whether their last column says which rows are kept.
    is_filtered: bool,
    /// The condition on roots, if the last column is the number of a row.
    root_test: Option<RootTest>,
    /// Columns that are numbers of rows, and become what these tell.
    numbered: Numbered,
    /// Before that.
    decoded: SchemaRef,
    schema: SchemaRef,
    rows_max: usize,
    dropped: Count,
}

impl Output {
    /// The rows of a file that come out; with `runs` where numbers become what these tell.
    fn of(&self, batches: Batches, runs: Option<&Arc<Runs>>, file: &Path) -> Batches {
        let batches = match (self.root_test, runs) {
            (Some(test), Some(runs)) => judged(batches, Arc::clone(runs), test),
            _ => batches,
        };
        let batches = match self.is_filtered {
            true => kept(batches, &self.decoded, self.rows_max, &self.dropped),
            false => batches,
        };
        match self.numbered.is_empty() {
            true => batches,
            false => self.numbered.told(batches, (file.clone(), runs.map(Arc::clone)), Arc::clone(&self.schema)),
        }
    }
}

impl FileSource for SpanFileSource {
    fn create_file_opener(&self, _: Arc<dyn ObjectStore>, _: &FileScanConfig, _: usize) -> Result<Arc<dyn FileOpener>> {
        exec_err!("spans are read by morsel")
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let root_test = self.root_test();
        let is_judged_otherwise =
            |condition: &Arc<dyn PhysicalExpr>| root_test.is_some_and(|(test, _)| test == condition);
        let predicates = self.predicates.iter().filter(|predicate| !is_judged_otherwise(predicate));
        let parquet = self.with_predicates(predicates.map(condition::mark)).with_pushdown_filters(self.chooses_rows);
        let numbered = self.numbered();
        let form = self.form(!numbered.is_empty() || root_test.is_some());
        let (output, answered) = self.by_row(&form)?;
        let parquet = parquet.with_parquet_file_reader_factory(Arc::new(self.readers.reading(form)));
        let shown =
            |column: &ProjectionExpr| match compared_texts(&column.expr).is_empty() && !is_attribute(&column.expr) {
                true => column.clone(),
                false => ProjectionExpr { expr: Marked::mark(&column.expr, Use::Shown), alias: column.alias.clone() },
            };
        let outputs = output.iter().enumerate().map(|(place, column)| match numbered.contains(place) {
            true => ProjectionExpr { expr: row_number(&column.alias), alias: column.alias.clone() },
            false => shown(column),
        });
        let answered = answered.iter().filter(|condition| !is_judged_otherwise(condition));
        let answered = conjunction_opt(answered.map(condition::mark));
        let remainder = answered.map(|answered| remainder::column(&answered, self.chooses_rows));
        let has_remainder = remainder.is_some();
        let is_filtered = has_remainder || root_test.is_some();
        let number = root_test.map(|_| ProjectionExpr { expr: row_number(ROW), alias: ROW.to_owned() });
        let output = ProjectionExprs::new(outputs.chain(remainder).chain(number));
        // A limit is for the rows that are left at last.
        let limit = if is_filtered { None } else { config.limit };
        let config = FileScanConfigBuilder::from(config.clone()).with_limit(limit).build();
        let files = self.projected(&parquet, &output)?.create_morselizer(store, &config, partition)?;
        if !is_filtered && numbered.is_empty() {
            return Ok(files);
        }
        let schema = Arc::new(self.projection.project_schema(self.table_schema().table_schema())?);
        let output = Arc::new(Output {
            is_filtered,
            root_test: root_test.map(|(_, wants_roots)| RootTest { wants_roots, has_remainder }),
            decoded: numbered.decoded(&schema),
            numbered,
            schema,
            rows_max: self.rows_max,
            dropped: MetricBuilder::new(self.metrics()).counter(ROWS_DROPPED, partition),
        });
        Ok(Box::new(FinishedFiles::new(files, move |file| {
            let needs_runs = output.root_test.is_some() || output.numbered.needs_runs();
            let runs = if needs_runs { Some(runs_of(file)?) } else { None };
            let (output, path) = (Arc::clone(&output), file.object_meta.location.clone());
            Ok(Arc::new(move |batches| output.of(batches, runs.as_ref(), &path)))
        })))
    }

    fn table_schema(&self) -> &TableSchema {
        self.parquet.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let source = Self { rows_max: batch_size, ..self.clone() };
        // The conversion cannot fail: a parquet source stays one.
        match source.with_parquet(self.parquet.with_batch_size(batch_size).as_ref()) {
            Ok(source) => source,
            Err(_) => Arc::new(source),
        }
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        conjunction_opt(self.answered.iter().map(Arc::clone))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.parquet.metrics()
    }

    fn file_type(&self) -> &str {
        self.parquet.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_predicates(self.predicates.iter().map(Arc::clone)).fmt_extra(format, f)?;
        self.numbered().describe(f, self.root_test().is_some())
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let mut source = self.clone();
        let mut results = Vec::with_capacity(filters.len());
        // Of several lists of traces it is not known which one the rows were selected by.
        let is_one_list = filters.iter().filter(|filter| names_traces(filter)).count() == 1;
        for filter in filters {
            if self.reading.has_traces && names_traces(&filter) {
                results.push(if is_one_list { PushedDown::Yes } else { PushedDown::No });
                continue;
            }
            if is_volatile(&filter) {
                results.push(PushedDown::No);
                continue;
            }
            let is_dynamic = filter.exists(|node| Ok(node.is::<DynamicFilterPhysicalExpr>()))?;
            let is_answered = !is_dynamic && !self.reading.is_limited;
            results.push(if is_answered { PushedDown::Yes } else { PushedDown::No });
            for (predicates, holds) in [(&mut source.predicates, true), (&mut source.answered, is_answered)] {
                if holds && !predicates.contains(&filter) {
                    predicates.push(Arc::clone(&filter));
                }
            }
        }
        let result = FilterPushdownPropagation::with_parent_pushdown_result(results);
        if source.predicates.len() == self.predicates.len() {
            return Ok(result);
        }
        source.chooses_rows |= !self.reading.has_rows && source.predicates.iter().any(is_selective);
        // The columns of a predicate are decoded for rows that those before it have left.
        source.predicates.sort_by_key(|predicate| !is_selective(predicate));
        Ok(result.with_updated_node(Arc::new(source)))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        self.parquet.try_pushdown_sort(order, properties)?.try_map(|source| self.with_parquet(source.as_ref()))
    }

    fn supports_repartitioning(&self) -> bool {
        !self.reading.is_narrow && self.parquet.supports_repartitioning()
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.parquet.reorder_files(files)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let projection = self.projection.try_merge(projection)?;
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let outputs = self.projection.iter().map(|column| &column.expr);
        apply_expression_roots(self.predicates.iter().chain(outputs), f)
    }
}
