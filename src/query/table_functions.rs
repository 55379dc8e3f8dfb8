//! Table functions of SQL: what TraceQL finds, and a trace as a tree.
//!
//! | function | rows |
//! |---|---|
//! | `traceql('{ ... }' [, start [, end]])` | the spans of the final spansets, with the columns of `spans` |
//! | `trace('id')` | the spans of a trace, with the columns of `spans` and their places in the tree |
//!
//! Both are plans over the session's base table, so they join and aggregate with everything else, under the same limits.
//! `start` and `end` are timestamps or Unix nanoseconds; without them all time is meant.

use std::sync::Arc;

use datafusion::{
    arrow::{
        compute::kernels::cast_utils::string_to_timestamp_nanos,
        datatypes::{DataType, TimeUnit},
    },
    catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider},
    common::{DataFusionError, Result as DfResult, ScalarValue, plan_err},
    datasource::ViewTable,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col},
};

use crate::{
    error::{Error, ErrorKind},
    model::{ids::TraceId, time::TimeRange},
    query::{session::BASE_TABLE, spansets, traceql::spans::SpanSource},
    traceql::{self, ast::Body},
};

/// What the functions read, and how the rows look.
#[derive(Clone, Debug)]
pub(crate) struct TableFunctions {
    /// The base table.
    pub(crate) base: Arc<dyn TableProvider>,
    /// The plan of the view `spans`.
    pub(crate) view: LogicalPlan,
    /// How far from the asked range other spans of found traces may start, in nanoseconds.
    pub(crate) extent_nano: i64,
    /// Longest query, in bytes.
    pub(crate) text_bytes_max: usize,
}

impl TableFunctions {
    /// The functions.
    pub(crate) fn all(self) -> Vec<Arc<TableFunction>> {
        let shared = Arc::new(self);
        let function = |name: &str, implementation: Arc<dyn TableFunctionImpl>| {
            Arc::new(TableFunction::new(name.to_owned(), implementation))
        };
        vec![
            function("traceql", Arc::new(TraceQl(Arc::clone(&shared)))),
            function("trace", Arc::new(WholeTrace(shared))),
        ]
    }

    /// The rows of a plan on base columns as `spans` shows them, with some more columns of it.
    fn shaped(&self, rows: LogicalPlan, more: &[&str]) -> DfResult<Arc<dyn TableProvider>> {
        let LogicalPlan::Projection(view) = &self.view else { return plan_err!("the view spans is no projection") };
        let columns = view.expr.iter().cloned().chain(more.iter().map(|name| col(*name)));
        let plan = LogicalPlanBuilder::from(rows).alias(BASE_TABLE)?.project(columns.collect::<Vec<_>>())?.build()?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }
}

fn refused(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

#[derive(Debug)]
struct TraceQl(Arc<TableFunctions>);

impl TableFunctionImpl for TraceQl {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> DfResult<Arc<dyn TableProvider>> {
        let usage = "traceql() takes a TraceQL query as text, and optionally start and end";
        let (text, bounds) = match args.exprs() {
            [text, bounds @ ..] if bounds.len() <= 2 => (text, bounds),
            _ => return Err(refused(Error::invalid(usage))),
        };
        let Some(text) = text_of(text) else { return Err(refused(Error::invalid(usage))) };
        let limit = self.0.text_bytes_max;
        if text.len() > limit {
            let problem = format!(
                "query text has {} bytes, more than the limit query.expression_bytes_max = {limit}",
                text.len()
            );
            return Err(refused(Error::new(ErrorKind::TooLarge, problem)));
        }
        let mut range = TimeRange::ALL;
        for (bound, given) in [&mut range.start_unix_nano, &mut range.end_unix_nano].into_iter().zip(bounds) {
            *bound = moment(given)?.unwrap_or(*bound);
        }
        let query = traceql::compile(text).map_err(|error| refused(error.into()))?;
        let Body::Spansets(pipeline) = &query.body else {
            return Err(refused(Error::invalid("traceql() gives spans; metrics have an interface of their own")));
        };
        let source = SpanSource::compile(pipeline).map_err(|error| refused(error.in_text(text).into()))?;
        self.0.shaped(source.rows(range, self.0.extent_nano, &self.0.base)?, &[])
    }
}

/// Unix nanoseconds; `None` for NULL.
fn moment(expr: &Expr) -> DfResult<Option<i64>> {
    let wrong = || refused(Error::invalid("start and end of traceql() are timestamps or Unix nanoseconds"));
    let Expr::Literal(value, _) = expr else { return Err(wrong()) };
    Ok(match value {
        ScalarValue::Null => None,
        ScalarValue::Int64(nanos) => *nanos,
        ScalarValue::Utf8(text) => {
            let parse = |text: &String| string_to_timestamp_nanos(text);
            text.as_ref().map(parse).transpose()?
        }
        ScalarValue::TimestampNanosecond(..)
        | ScalarValue::TimestampMicrosecond(..)
        | ScalarValue::TimestampMillisecond(..)
        | ScalarValue::TimestampSecond(..)
        | ScalarValue::Date32(_) => {
            let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
            match value.cast_to(&nanos)? {
                ScalarValue::TimestampNanosecond(nanos, _) => nanos,
                _ => return Err(wrong()),
            }
        }
        _ => return Err(wrong()),
    })
}

#[derive(Debug)]
struct WholeTrace(Arc<TableFunctions>);

impl TableFunctionImpl for WholeTrace {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> DfResult<Arc<dyn TableProvider>> {
        let id = match args.exprs() {
            [id] => text_of(id).and_then(|id| id.parse::<TraceId>().ok()),
            _ => None,
        };
        let Some(id) = id else {
            return Err(refused(Error::invalid("trace() takes a trace id, as up to 32 hexadecimal digits")));
        };
        self.0.shaped(spansets::tree_of(id, &self.0.base)?, &spansets::TREE_COLUMNS)
    }
}
