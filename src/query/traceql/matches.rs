//! `traceql_matches(...)`: a condition of TraceQL, evaluated span by span.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray},
    datatypes::DataType,
};
use datafusion::{common::Result, logical_expr::Expr};

use super::per_span::{self, PerSpan, Spans};
use crate::traceql::{ast::FieldName, plan::Condition};

/// Whether the condition holds for a span; never NULL.
pub(super) fn call(condition: &Condition) -> Expr {
    per_span::call(Matches(condition.clone()))
}

#[derive(Debug)]
struct Matches(Condition);

impl PerSpan for Matches {
    const NAME: &'static str = "traceql_matches";
    const READS_ROOTS: bool = true;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn text(&self) -> String {
        self.0.to_string()
    }

    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        self.0.for_each_field(visit);
    }

    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef> {
        let rows = &spans.rows;
        let holds = |row: usize| {
            let is_root = spans.is_root(row);
            rows.any(row, |focus| self.0.holds(&|name| rows.get(name, focus), is_root))
        };
        let answer: BooleanArray = (0..spans.count).map(|row| Some(holds(row))).collect();
        Ok(Arc::new(answer))
    }
}
