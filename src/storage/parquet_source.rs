//! Parquet files as a source of spans: DataFusion's, but for what it does with predicates.
//!
//! DataFusion looks at a predicate in terms of the table and finds that it reads a map, which it cannot push into a file,
//! so it drops it, even for pruning. But in a file that promotes the attribute the predicate reads a plain column.
//! [`SpanFileSource`] keeps every predicate, each file's adapter rewrites them, and row groups, pages and bloom filters
//! prune by what can be used. The filter above the scan always stays: what a file cannot evaluate while decoding is skipped
//! there silently.

use std::{fmt, sync::Arc};

use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Result,
        config::ConfigOptions,
        exec_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    datasource::{
        physical_plan::{FileScanConfig, FileSource, ParquetSource},
        table_schema::TableSchema,
    },
    logical_expr::Operator,
    object_store::ObjectStore,
    physical_expr::{
        EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr, conjunction,
        expressions::{BinaryExpr, Column, InListExpr, Literal},
        projection::ProjectionExprs,
    },
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::ExecutionPlanMetricsSet,
    },
};
use datafusion_datasource::{PartitionedFile, file_stream::FileOpener, morsel::Morselizer};

use crate::{
    functions::{AttrGet, CodedText, TextKey, TextMeets},
    model::schema::column,
    storage::{condition::Condition, readers::IndexedReaders, start_set::STARTS_AT, trace_set::IN_TRACES},
};

/// What stands beside comparisons of TraceQL: for arrays, and for events and links that have the key.
const BESIDE_OTHERS: [&str; 2] = ["traceql_array", "item_has"];

/// A [`ParquetSource`] that keeps all predicates.
#[derive(Clone, Debug)]
pub(crate) struct SpanFileSource {
    parquet: ParquetSource,
    predicates: Vec<Arc<dyn PhysicalExpr>>,
    /// The readers for when text is read as codes.
    coded_readers: Arc<IndexedReaders>,
    reading: Reading,
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Whether each file is read by one thread.
    pub(crate) is_narrow: bool,
    /// Whether the rows that are read are those of the traces that predicates name, so that ids need not be looked at.
    pub(crate) has_traces: bool,
}

impl SpanFileSource {
    pub(crate) fn new(parquet: ParquetSource, coded_readers: Arc<IndexedReaders>, reading: Reading) -> Self {
        Self { parquet, predicates: Vec::new(), coded_readers, reading }
    }

    fn with_parquet(&self, source: &dyn FileSource) -> Result<Arc<dyn FileSource>> {
        let Some(parquet) = source.downcast_ref::<ParquetSource>() else {
            return exec_err!("a parquet source turned into another kind");
        };
        Ok(Arc::new(Self { parquet: parquet.clone(), ..self.clone() }))
    }

    /// Whether text is read as codes: they are asked for, or it is compared while rows are chosen, and not shown besides.
    fn reads_codes(&self) -> bool {
        let Some(projection) = self.parquet.projection() else { return false };
        if projection.iter().any(|column| takes_codes(&column.expr)) {
            return true;
        }
        if !self.predicates.iter().any(is_selective) {
            return false;
        }
        let schema = self.table_schema().table_schema();
        let compared: Vec<&Column> = self.predicates.iter().flat_map(compared_texts).collect();
        let is_text = |expr: &Arc<dyn PhysicalExpr>| expr.data_type(schema).is_ok_and(|shown| shown == DataType::Utf8);
        let is_compared = |expr: &Arc<dyn PhysicalExpr>| {
            expr.downcast_ref::<Column>().is_some_and(|column| compared.contains(&column))
        };
        let mut texts = projection.iter().map(|column| &column.expr).filter(|expr| is_text(expr)).peekable();
        texts.peek().is_some() && texts.all(is_compared)
    }

    fn with_predicate(&self, each: impl Fn(&Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr>) -> ParquetSource {
        if self.predicates.is_empty() {
            return self.parquet.clone();
        }
        self.parquet.with_predicate(conjunction(self.predicates.iter().map(each)))
    }
}

/// Whether an output column is made of codes of text: it is coded text, a key for grouping by text, or whether text meets a
/// pattern.
fn takes_codes(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let is_taken = |node: &Arc<dyn PhysicalExpr>| {
        let key = ScalarFunctionExpr::try_downcast_func::<TextKey>(node.as_ref());
        key.and_then(|call| call.fun().inner().downcast_ref::<TextKey>()).is_some_and(TextKey::makes_keys)
            || ScalarFunctionExpr::try_downcast_func::<CodedText>(node.as_ref()).is_some()
            || ScalarFunctionExpr::try_downcast_func::<TextMeets>(node.as_ref()).is_some()
    };
    expr.exists(|node| Ok(is_taken(node))).unwrap_or(false)
}

/// The columns whose text a predicate compares with a literal.
fn compared_texts(predicate: &Arc<dyn PhysicalExpr>) -> Vec<&Column> {
    let Some(binary) = predicate.downcast_ref::<BinaryExpr>() else { return Vec::new() };
    match (binary.op(), binary.left().downcast_ref::<Column>(), binary.right().is::<Literal>()) {
        (Operator::And | Operator::Or, ..) => [compared_texts(binary.left()), compared_texts(binary.right())].concat(),
        (Operator::Eq, Some(column), true) => vec![column],
        _ => Vec::new(),
    }
}

/// How many rows meet a predicate, by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    /// Few: equality on an id, a start, an attribute, or text, or one of the traces that a query has found.
    Few,
    /// Next to none, beside another predicate that decides.
    None,
    /// Perhaps many.
    Many,
}

/// Whether few rows meet a predicate, so that it pays to decode its columns first. For predicates that many rows meet, such
/// as comparisons, decoding twice costs more than it saves.
fn is_selective(predicate: &Arc<dyn PhysicalExpr>) -> bool {
    share(predicate) == Share::Few
}

/// Whether a predicate is a list of traces.
fn names_traces(predicate: &Arc<dyn PhysicalExpr>) -> bool {
    let is_trace = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Column>().is_some_and(|column| column.name() == column::TRACE_ID)
    };
    if let Some(list) = predicate.downcast_ref::<InListExpr>() {
        return !list.negated() && is_trace(list.expr());
    }
    predicate.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| call.name() == IN_TRACES)
}

fn share(predicate: &Arc<dyn PhysicalExpr>) -> Share {
    let few_if = |is_few| if is_few { Share::Few } else { Share::Many };
    let is_rare = |expr: &Arc<dyn PhysicalExpr>| {
        let rare = [column::TRACE_ID, column::SPAN_ID, column::START_TIME];
        let is_column = expr.downcast_ref::<Column>().is_some_and(|column| rare.contains(&column.name()));
        is_column || ScalarFunctionExpr::try_downcast_func::<AttrGet>(expr.as_ref()).is_some()
    };
    let is_text = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Literal>().is_some_and(|literal| literal.value().try_as_str().flatten().is_some())
    };
    if let Some(list) = predicate.downcast_ref::<InListExpr>() {
        return few_if(!list.negated() && is_rare(list.expr()));
    }
    if let Some(call) = predicate.downcast_ref::<ScalarFunctionExpr>() {
        return match call.name() {
            name if BESIDE_OTHERS.contains(&name) => Share::None,
            name => few_if([IN_TRACES, STARTS_AT].contains(&name)),
        };
    }
    let Some(binary) = predicate.downcast_ref::<BinaryExpr>() else { return Share::Many };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => share(left).min(share(right)),
        Operator::Or => match (share(left), share(right)) {
            (Share::Many, _) | (_, Share::Many) => Share::Many,
            (one, other) => one.min(other),
        },
        Operator::Eq => few_if(
            is_text(left)
                || is_text(right)
                || (is_rare(left) && right.is::<Literal>())
                || (is_rare(right) && left.is::<Literal>()),
        ),
        _ => Share::Many,
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
        let mut parquet = self.with_predicate(Condition::mark);
        if self.reads_codes() {
            let readers: Arc<IndexedReaders> = Arc::clone(&self.coded_readers);
            parquet = parquet.with_parquet_file_reader_factory(readers);
        }
        parquet.create_morselizer(store, config, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.parquet.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        // The conversion cannot fail: a parquet source stays one.
        match self.with_parquet(self.parquet.with_batch_size(batch_size).as_ref()) {
            Ok(source) => source,
            Err(_) => Arc::new(self.clone()),
        }
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.parquet.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.parquet.metrics()
    }

    fn file_type(&self) -> &str {
        self.parquet.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_predicate(Arc::clone).fmt_extra(format, f)
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let kept = FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; filters.len()]);
        let mut source = self.clone();
        for filter in filters {
            let is_done = self.reading.has_traces && names_traces(&filter);
            if !is_done && !is_volatile(&filter) && !source.predicates.contains(&filter) {
                source.predicates.push(filter);
            }
        }
        if source.predicates.len() == self.predicates.len() {
            return Ok(kept);
        }
        if source.predicates.iter().any(is_selective) {
            source.parquet = source.parquet.with_pushdown_filters(true);
        }
        Ok(kept.with_updated_node(Arc::new(source)))
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
        let source = self.parquet.try_pushdown_projection(projection)?;
        source.map(|source| self.with_parquet(source.as_ref())).transpose()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.with_predicate(Arc::clone).apply_expressions(f)
    }
}
