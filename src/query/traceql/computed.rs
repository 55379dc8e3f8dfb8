//! `traceql_compute(...)`: the value of an expression on one span, as grouping and aggregates take it.

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion::{common::Result, logical_expr::Expr};

use super::{
    per_span::{self, PerSpan, Spans},
    shown::ValueBuilder,
};
use crate::{
    model::attributes::value_fields,
    traceql::{
        ast::FieldName,
        plan::{Dynamic, Value},
    },
};

/// The value as the struct that attribute values are: status and kind as words, durations as integers. A field of events
/// or links is that of the first one that has it, each field by itself.
pub(crate) fn call(value: &Value) -> Expr {
    per_span::call(Computed(value.clone()))
}

#[derive(Debug)]
struct Computed(Value);

impl PerSpan for Computed {
    const NAME: &'static str = "traceql_compute";
    const READS_ROOTS: bool = true;

    fn data_type() -> DataType {
        DataType::Struct(value_fields())
    }

    fn text(&self) -> String {
        self.0.to_string()
    }

    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        self.0.for_each_field(visit);
    }

    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef> {
        let rows = &spans.rows;
        if let Value::Field(name) = &self.0
            && let Some(whole) = rows.whole_int(name).or_else(|| rows.whole(name))
        {
            return Ok(whole);
        }
        let mut builder = ValueBuilder::default();
        for row in 0..spans.count {
            let found = |name: &_| rows.shown(name, row);
            let value =
                self.0.of(&|name| found(name).map_or(Dynamic::Missing, |found| found.value()), spans.is_root(row));
            let json = match &self.0 {
                Value::Field(name) => found(name).and_then(|found| found.json()),
                _ => None,
            };
            builder.append(&value, json);
        }
        builder.finish()
    }
}
