//! Which rows of one file a filter matches, for whoever deletes or verifies.
//!
//! A filter is a trace id, a TraceQL spanset filter, or a SQL condition on the columns of `spans`. It is decided span by
//! span: conditions that look at other spans, at other rows or at the time of day are refused, because a file is
//! rewritten on its own and at any time.
//!
//! A first pass looks for any match, with everything that prunes; only a file that has one is read to the end, in the order
//! of its rows.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanBufferBuilder},
        buffer::BooleanBuffer,
        datatypes::{DataType, Int64Type, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{
        Result as DfResult, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::{SessionState, session_state::SessionStateBuilder},
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, Volatility, cast, col, lit,
    },
    physical_plan::{ExecutionPlan, collect},
    sql::sqlparser::{dialect::GenericDialect, parser::Parser, tokenizer::Token},
};
use futures::FutureExt;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::LiveFile,
    error::{Error, Result},
    model::{
        batch::SpanBatch,
        ids::TraceId,
        schema::{column, logical_schema},
        time::TimeRange,
    },
    query::{
        QueryEngine, failure,
        limits::QueryLimits,
        sandbox::{CheckedStatement, check_text_length},
        session::{SCHEMA, scan_base},
        spans_table::scan_file,
        traceql::lower,
    },
    storage::{
        scan::{self, ScanRequest, Selected},
        store::Store,
    },
    traceql,
};

/// Longest look at one file.
const FILE_TIMEOUT: Duration = Duration::from_secs(600);

/// The only table that a SQL condition is about.
const TABLE: &str = "spans";

/// Which spans are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanFilter {
    /// All spans of a trace: its id in hexadecimal.
    TraceId(String),
    /// The spans that a TraceQL spanset filter such as `{ span.user.id = "7" }` matches.
    Traceql(String),
    /// The spans for which a SQL condition on the columns of `spans` is true.
    Sql(String),
}

impl QueryEngine {
    /// Checks that a filter can be decided span by span.
    pub async fn check_filter(&self, filter: &SpanFilter) -> Result<()> {
        let rows: Arc<dyn TableProvider> = Arc::new(Rows::default());
        let session = one_partition(self.session_over(&rows)?);
        let (filter, limits) = (filter.clone(), self.limits().clone());
        let checked = async move { Condition::of(&filter, &session, &limits).await.map(|_| ()) };
        self.run_within(FILE_TIMEOUT, checked.boxed()).await
    }

    /// The rows of a file that `filter` matches and that start within `range`; `None` if there are none.
    pub async fn matching_rows(
        &self,
        file: &Arc<LiveFile>,
        filter: &SpanFilter,
        range: TimeRange,
    ) -> Result<Option<BooleanBuffer>> {
        let rows = Rows { file: Some(Arc::clone(file)), batches: Vec::new() };
        let hits = self.hits(rows, filter, range).await?;
        if let (Some(hits), Some(rows)) = (&hits, file.rows())
            && hits.len() as u64 != rows
        {
            let found = hits.len();
            let path = &file.path;
            return Err(failure::internal(&format!("file {path} has {rows} rows and {found} were looked at")));
        }
        Ok(hits)
    }

    /// The spans of a batch that `filter` matches and that start within `range`; `None` if there are none.
    pub async fn matching_spans(
        &self,
        batch: &SpanBatch,
        filter: &SpanFilter,
        range: TimeRange,
    ) -> Result<Option<BooleanBuffer>> {
        let rows = Rows { file: None, batches: vec![Arc::new(batch.clone())] };
        let hits = self.hits(rows, filter, range).await?;
        if let Some(hits) = hits.as_ref().filter(|hits| hits.len() != batch.num_spans()) {
            let (found, spans) = (hits.len(), batch.num_spans());
            return Err(failure::internal(&format!("a batch has {spans} spans and {found} were looked at")));
        }
        Ok(hits)
    }

    /// How many spans of a batch `filter` matches, among those that start within `range`.
    pub async fn count_matches(&self, batch: &SpanBatch, filter: &SpanFilter, range: TimeRange) -> Result<usize> {
        Ok(self.matching_spans(batch, filter, range).await?.map_or(0, |hits| hits.count_set_bits()))
    }

    async fn hits(&self, rows: Rows, filter: &SpanFilter, range: TimeRange) -> Result<Option<BooleanBuffer>> {
        let rows: Arc<dyn TableProvider> = Arc::new(rows);
        let session = one_partition(self.session_over(&rows)?);
        let (filter, limits) = (filter.clone(), self.limits().clone());
        let looked = async move {
            let condition = Condition::of(&filter, &session, &limits).await?;
            condition.hits(&session, &rows, range).await.map_err(|error| failure::from_datafusion(&error))
        };
        self.run_within(FILE_TIMEOUT, looked.boxed()).await
    }
}

/// A session whose scans keep the order of rows.
fn one_partition(session: SessionState) -> SessionState {
    let config = session.config().clone().with_target_partitions(1).with_repartition_file_scans(false);
    SessionStateBuilder::new_from_existing(session).with_config(config).build()
}

/// A filter that has been understood.
enum Condition {
    /// An expression on the base table.
    Base(Expr),
    /// A plan with the columns `hit` and `start`, one row for each row of the base table.
    Plan(LogicalPlan),
}

impl Condition {
    async fn of(filter: &SpanFilter, session: &SessionState, limits: &QueryLimits) -> Result<Self> {
        match filter {
            SpanFilter::TraceId(text) => {
                let id: TraceId = text.parse().map_err(|_| Error::invalid(format!("{text:?} is not a trace id")))?;
                let id = ScalarValue::FixedSizeBinary(TraceId::LEN as i32, Some(id.as_bytes().to_vec()));
                Ok(Condition::Base(col(column::TRACE_ID).eq(lit(id))))
            }
            SpanFilter::Traceql(text) => {
                let spansets = traceql::search(text)?.spansets;
                match spansets.single() {
                    Some(condition) => Ok(Condition::Base(lower::filter(condition))),
                    None => Err(Error::unsupported(
                        "a TraceQL query that looks at more than single spans here; one filter { ... } is allowed",
                    )),
                }
            }
            SpanFilter::Sql(text) => Ok(Condition::Plan(sql_plan(text, session, limits).await?)),
        }
    }

    async fn hits(
        &self,
        session: &SessionState,
        rows: &Arc<dyn TableProvider>,
        range: TimeRange,
    ) -> DfResult<Option<BooleanBuffer>> {
        let all = match self {
            Condition::Base(filter) => {
                let start = col(column::START_TIME);
                scan_base(rows)?.project([filter.clone().is_true().alias("hit"), start.alias("start")])?.build()?
            }
            Condition::Plan(plan) => plan.clone(),
        };
        let in_range = col("start").gt_eq(lit(range.start_unix_nano)).and(col("start").lt(lit(range.end_unix_nano)));
        let any = match self {
            Condition::Base(filter) => {
                let start = col(column::START_TIME);
                let begun = start.clone().gt_eq(lit(range.start_unix_nano));
                let within = begun.and(start.lt(lit(range.end_unix_nano)));
                scan_base(rows)?.filter(filter.clone().and(within))?
            }
            Condition::Plan(plan) => LogicalPlanBuilder::from(plan.clone()).filter(col("hit").and(in_range))?,
        };
        let any = any.limit(0, Some(1))?.project([lit(1).alias("one")])?.build()?;
        let physical = session.create_physical_plan(&any).await?;
        if collect(physical, session.task_ctx()).await?.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(None);
        }
        let physical = session.create_physical_plan(&all).await?;
        let mut hits = BooleanBufferBuilder::new(0);
        for batch in collect(physical, session.task_ctx()).await? {
            let (hit, starts) = (batch["hit"].as_boolean(), batch["start"].as_primitive::<Int64Type>());
            for (row, start) in starts.values().iter().enumerate() {
                let is_in_range = (range.start_unix_nano..range.end_unix_nano).contains(start);
                hits.append(is_in_range && hit.is_valid(row) && hit.value(row));
            }
        }
        Ok(Some(hits.finish()))
    }
}

/// The only expression in a text, as the parser prints it.
fn sql_condition(text: &str) -> Result<String> {
    let invalid = |cause: &dyn std::fmt::Display| Error::invalid(format!("{text:?} is not a SQL condition: {cause}"));
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).map_err(|cause| invalid(&cause))?;
    let condition = parser.parse_expr().map_err(|cause| invalid(&cause))?;
    if parser.peek_token().token != Token::EOF {
        return Err(invalid(&format!("there is more after {condition}")));
    }
    Ok(condition.to_string())
}

/// `SELECT condition, start FROM spans`, if the condition is one.
async fn sql_plan(text: &str, session: &SessionState, limits: &QueryLimits) -> Result<LogicalPlan> {
    check_text_length(text, limits)?;
    let condition = sql_condition(text)?;
    let query = format!("SELECT ({condition}) IS TRUE AS hit, start_time AS start FROM {SCHEMA}.{TABLE}");
    let statement = CheckedStatement::parse(&query, limits, &[])?;
    statement.check_tables(session, &[TABLE])?;
    let planned = session.statement_to_plan(statement.into_inner()).await;
    let plan = planned.map_err(|error| failure::from_datafusion(&error))?;
    check_span_by_span(&plan)?;
    let start = cast(col("start"), DataType::Int64).alias("start");
    LogicalPlanBuilder::from(plan)
        .project([col("hit"), start])
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| failure::from_datafusion(&error))
}

/// Refuses what is not decided by one span alone, or differently at another time.
fn check_span_by_span(plan: &LogicalPlan) -> Result<()> {
    let mut fault = None;
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::TableScan(_) => {}
            _ => fault = Some("a condition must be decided by each span alone, without sub-queries and aggregates"),
        }
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                if let Expr::ScalarFunction(call) = inner
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    fault =
                        Some("a condition must mean the same at any time: use constants instead of now() and the like");
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(if fault.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| failure::from_datafusion(&error))?;
    fault.map_or(Ok(()), |fault| Err(Error::invalid(fault)))
}

/// A file or a batch as a base table.
#[derive(Debug, Default)]
struct Rows {
    file: Option<Arc<LiveFile>>,
    batches: Vec<Arc<SpanBatch>>,
}

#[async_trait]
impl TableProvider for Rows {
    fn schema(&self) -> SchemaRef {
        logical_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(scan::supports_filters(filters))
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        // The scan's table has the partition column behind the columns of this one.
        let all: Vec<usize> = (0..logical_schema().fields().len()).collect();
        let request = ScanRequest {
            store: Store::url(),
            files: self.file.iter().map(|file| scan_file(file)).collect(),
            buffered: self.batches.clone(),
            projection: Some(projection.map_or(all.as_slice(), Vec::as_slice)),
            limit,
            is_narrow: false,
            selected: Selected::Traces,
            demand: None,
        };
        scan::plan(session, &request)
    }
}
