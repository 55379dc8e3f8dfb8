//! Views whose rows come from several spans of a trace.
//!
//! A condition on `start_time` or `date` of such a view chooses rows, but the spans that a row is made of can start
//! elsewhere. So the spans are read as far around the asked range as the trace extent, and the condition is applied again
//! to the rows. A condition on `trace_id` holds for every span of a row and reads that trace only:
//!
//! ```text
//!  traces WHERE start_time >= a AND start_time < b AND span_count > 9
//!     spans that start in [a - extent, b + extent) -> rows of the view -> start_time >= a AND ... AND span_count > 9
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{Column, Result, ScalarValue, internal_err},
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, TableType, col,
        expr::InList, lit, utils::conjunction,
    },
    physical_plan::ExecutionPlan,
};

use super::over;
use crate::{
    functions::scalar_function,
    model::{schema::column, time::TimeRange},
    query::session::BASE_TABLE,
};

const TRACE_ID: &str = "trace_id";
const START_TIME: &str = "start_time";
const DATE: &str = "date";
const DAY_NANO: i64 = 86_400_000_000_000;

/// A view over whole traces, bound to a base table.
#[derive(Debug)]
pub(super) struct WholeTraces {
    plan: LogicalPlan,
    text: &'static str,
    schema: SchemaRef,
    base: Arc<dyn TableProvider>,
    extent_nano: i64,
}

impl WholeTraces {
    pub(super) fn new(plan: LogicalPlan, text: &'static str, base: Arc<dyn TableProvider>, extent_nano: i64) -> Self {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        Self { plan, text, schema, base, extent_nano }
    }

    /// The view's plan over the spans that rows under `filters` can be made of.
    fn over_spans_for(&self, filters: &[Expr]) -> Result<LogicalPlan> {
        let mut range = TimeRange::ALL;
        let mut conditions = Vec::new();
        for filter in filters {
            if let Some(bound) = Bound::of(filter) {
                range = bound.intersect(range);
            } else if let Some(condition) = on_trace_id(filter)? {
                conditions.push(condition);
            }
        }
        let range = range.widened(self.extent_nano);
        let start = col(column::START_TIME);
        if range.start_unix_nano != i64::MIN {
            conditions.push(start.clone().gt_eq(lit(range.start_unix_nano)));
        }
        if range.end_unix_nano != i64::MAX {
            conditions.push(start.lt(lit(range.end_unix_nano)));
        }
        over(&self.plan, BASE_TABLE, &self.base, conjunction(conditions).as_ref())
    }
}

#[async_trait]
impl TableProvider for WholeTraces {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(self.text)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        filters
            .iter()
            .map(|filter| {
                let is_used = Bound::of(filter).is_some() || on_trace_id(filter)?.is_some();
                // Spans around the range are read too, so the rows have to be looked at again.
                Ok(if is_used {
                    TableProviderFilterPushDown::Inexact
                } else {
                    TableProviderFilterPushDown::Unsupported
                })
            })
            .collect()
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut builder = LogicalPlanBuilder::from(self.over_spans_for(filters)?);
        if let Some(projection) = projection {
            let columns = self.plan.schema().columns();
            builder = builder.project(projection.iter().map(|index| Expr::Column(columns[*index].clone())))?;
        }
        if limit.is_some() {
            builder = builder.limit(0, limit)?;
        }
        session.create_physical_plan(&builder.build()?).await
    }
}

/// What a condition says of when a row starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound(TimeRange);

impl Bound {
    /// Reads `start_time <op> literal` and `date <op> literal`, either way round; `None` for anything else.
    fn of(filter: &Expr) -> Option<Self> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
        let (name, op, value) = match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => (column.name(), *op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => (column.name(), op.swap()?, value),
            _ => return None,
        };
        // The instants that are equal to the literal: first, and the first that is greater.
        let (first, next) = match (name, value) {
            (START_TIME, ScalarValue::TimestampNanosecond(Some(instant), _)) => (*instant, instant.checked_add(1)?),
            (DATE, ScalarValue::Date32(Some(day))) => {
                let first = i64::from(*day).checked_mul(DAY_NANO)?;
                (first, first.checked_add(DAY_NANO)?)
            }
            _ => return None,
        };
        let (start_unix_nano, end_unix_nano) = match op {
            Operator::Eq => (first, next),
            Operator::Lt => (i64::MIN, first),
            Operator::LtEq => (i64::MIN, next),
            Operator::Gt => (next, i64::MAX),
            Operator::GtEq => (first, i64::MAX),
            _ => return None,
        };
        Some(Self(TimeRange { start_unix_nano, end_unix_nano }))
    }

    fn intersect(self, other: TimeRange) -> TimeRange {
        TimeRange {
            start_unix_nano: self.0.start_unix_nano.max(other.start_unix_nano),
            end_unix_nano: self.0.end_unix_nano.min(other.end_unix_nano),
        }
    }
}

/// The condition on spans for a condition on the text `trace_id` of a row, if it is one.
fn on_trace_id(filter: &Expr) -> Result<Option<Expr>> {
    let is_id = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name() == TRACE_ID);
    let is_literal = |expr: &Expr| matches!(expr, Expr::Literal(..));
    let is_used = match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            (is_id(left) && is_literal(right)) || (is_literal(left) && is_id(right))
        }
        // What DataFusion makes of a short IN list.
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            return match (on_trace_id(left)?, on_trace_id(right)?) {
                (Some(left), Some(right)) => Ok(Some(left.or(right))),
                _ => Ok(None),
            };
        }
        Expr::InList(InList { expr, list, negated: false }) => is_id(expr) && list.iter().all(is_literal),
        _ => false,
    };
    if !is_used {
        return Ok(None);
    }
    let Some(id_hex) = scalar_function("id_hex") else { return internal_err!("id_hex is not there") };
    let text = id_hex.call(vec![Expr::Column(Column::new_unqualified(column::TRACE_ID))]);
    Ok(Some(match filter.clone() {
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => text.eq(if is_id(&left) { *right } else { *left }),
        Expr::InList(InList { list, .. }) => text.in_list(list, false),
        other => other,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(nano: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(Some(nano), Some("UTC".into())))
    }

    #[test]
    fn conditions_on_start_and_day_are_ranges_of_instants() {
        let range = |filter: &Expr| Bound::of(filter).map(|bound| (bound.0.start_unix_nano, bound.0.end_unix_nano));
        assert_eq!(range(&col("start_time").gt_eq(instant(7))), Some((7, i64::MAX)));
        assert_eq!(range(&col("start_time").gt(instant(7))), Some((8, i64::MAX)));
        assert_eq!(range(&instant(7).gt(col("start_time"))), Some((i64::MIN, 7)));
        assert_eq!(range(&col("start_time").eq(instant(7))), Some((7, 8)));
        let day = lit(ScalarValue::Date32(Some(2)));
        assert_eq!(range(&col("date").eq(day.clone())), Some((2 * DAY_NANO, 3 * DAY_NANO)));
        assert_eq!(range(&col("date").lt_eq(day.clone())), Some((i64::MIN, 3 * DAY_NANO)));
        assert_eq!(range(&col("date").not_eq(day)), None);
        assert_eq!(range(&col("end_time").gt(instant(7))), None);
    }

    #[test]
    fn conditions_on_the_trace_id_hold_for_all_its_spans() {
        let text = |filter: Expr| on_trace_id(&filter).unwrap().map(|condition| condition.to_string());
        assert_eq!(text(col("trace_id").eq(lit("ab"))).unwrap(), "id_hex(trace_id) = Utf8(\"ab\")");
        let either = col("trace_id").eq(lit("a")).or(lit("b").eq(col("trace_id")));
        assert_eq!(text(either).unwrap(), "id_hex(trace_id) = Utf8(\"a\") OR id_hex(trace_id) = Utf8(\"b\")");
        assert_eq!(text(col("trace_id").eq(lit("a")).or(col("span_count").gt(lit(1)))), None);
        assert_eq!(text(col("trace_id").not_eq(lit("ab"))), None);
    }
}
