//! `traceql_value(...)`: the value of a field as answers show it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, StructArray},
    buffer::NullBuffer,
    datatypes::DataType,
};
use datafusion::{common::Result, logical_expr::Expr};

use super::{
    per_span::{self, PerSpan, Spans},
    rows::Found,
};
use crate::{
    model::attributes::value_fields,
    traceql::{ast::FieldName, literal::format_duration, plan::Dynamic},
};

/// The value of a field as the struct that attribute values are: status and kind as words, durations as Go writes them.
/// Of events or links it is that of the first one that has it.
pub(in crate::query) fn value(name: &FieldName) -> Expr {
    per_span::call(ShownValue(name.clone()))
}

#[derive(Debug)]
struct ShownValue(FieldName);

impl PerSpan for ShownValue {
    const NAME: &'static str = "traceql_value";
    const READS_ROOTS: bool = false;

    fn data_type() -> DataType {
        DataType::Struct(value_fields())
    }

    fn text(&self) -> String {
        self.0.to_string()
    }

    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        visit(&self.0);
    }

    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef> {
        let (rows, name) = (&spans.rows, &self.0);
        let is_duration = name.is_duration();
        if let Some(whole) = rows.whole(name) {
            return Ok(whole);
        }
        let mut builder = ValueBuilder::default();
        for row in 0..spans.count {
            let found = rows.first(row, |focus| rows.find(name, focus).is_some_and(|found| shows(&found)));
            match found.and_then(|focus| rows.find(name, focus)) {
                Some(Found::Value(Dynamic::Int(nanos))) if is_duration => {
                    builder.append(&Dynamic::text(&format_duration(nanos)), None);
                }
                Some(found) => {
                    let json = found.json();
                    builder.append(&found.value(), json);
                }
                None => builder.append(&Dynamic::Missing, None),
            }
        }
        builder.finish()
    }
}

pub(in crate::query) fn shows(found: &Found<'_>) -> bool {
    found.json().is_some() || !matches!(found.clone().value(), Dynamic::Missing | Dynamic::Opaque)
}

#[derive(Debug, Default)]
pub(in crate::query) struct ValueBuilder {
    strs: StringBuilder,
    ints: Int64Builder,
    floats: Float64Builder,
    bools: BooleanBuilder,
    jsons: StringBuilder,
    valid: Vec<bool>,
}

impl ValueBuilder {
    pub(in crate::query) fn append(&mut self, value: &Dynamic<'_>, json: Option<&str>) {
        let text = match value {
            Dynamic::String(text) => Some(text.as_ref()),
            Dynamic::Status(status) => Some(status.name()),
            Dynamic::Kind(kind) => Some(kind.name()),
            _ => None,
        };
        self.strs.append_option(text);
        self.ints.append_option(if let Dynamic::Int(value) = value { Some(*value) } else { None });
        self.floats.append_option(if let Dynamic::Float(value) = value { Some(*value) } else { None });
        self.bools.append_option(if let Dynamic::Bool(value) = value { Some(*value) } else { None });
        self.jsons.append_option(json);
        self.valid.push(json.is_some() || !matches!(value, Dynamic::Missing | Dynamic::Opaque));
    }

    pub(in crate::query) fn finish(mut self) -> Result<ArrayRef> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.strs.finish()),
            Arc::new(self.ints.finish()),
            Arc::new(self.floats.finish()),
            Arc::new(self.bools.finish()),
            Arc::new(self.jsons.finish()),
        ];
        Ok(Arc::new(StructArray::try_new(value_fields(), columns, Some(NullBuffer::from(self.valid)))?))
    }
}
