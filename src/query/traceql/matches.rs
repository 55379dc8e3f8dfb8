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
    all(&[condition])
}

/// Whether all conditions hold for a span, each for an event and a link of its own; never NULL.
pub(super) fn all(conditions: &[&Condition]) -> Expr {
    per_span::call(Matches(conditions.iter().map(|condition| (*condition).clone()).collect()))
}

#[derive(Debug)]
struct Matches(Vec<Condition>);

impl PerSpan for Matches {
    const NAME: &'static str = "traceql_matches";
    const READS_ROOTS: bool = true;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn text(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
    }

    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        self.0.iter().for_each(|condition| condition.for_each_field(visit));
    }

    fn for_each_value(&self, visit: &mut dyn FnMut(&FieldName)) {
        self.0.iter().for_each(|condition| condition.for_each_value(visit));
    }

    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef> {
        let rows = &spans.rows;
        let holds = |row: usize| {
            let is_root = spans.is_root(row);
            let one =
                |condition: &Condition| rows.any(row, |focus| condition.holds(&|name| rows.get(name, focus), is_root));
            self.0.iter().all(one)
        };
        let answer: BooleanArray = (0..spans.count).map(|row| Some(holds(row))).collect();
        Ok(Arc::new(answer))
    }
}
