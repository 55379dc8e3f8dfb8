//! `traceql_value(...)`: the value of a field as answers show it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, StructArray},
    buffer::NullBuffer,
    datatypes::DataType,
};
use datafusion::{common::Result, logical_expr::Expr};

use super::{
    inputs::Focus,
    key_of,
    per_span::{self, PerSpan, Spans},
    rows::Found,
};
use crate::{
    model::attributes::value_fields,
    traceql::{
        ast::FieldName,
        literal::format_duration,
        plan::{Condition, Dynamic},
    },
};

/// The value of a field as the struct that attribute values are: status and kind as words, durations as Go writes them.
/// Of events or links it is that of the first one that has it.
pub(in crate::query) fn value(name: &FieldName) -> Expr {
    per_span::call(ShownValue(name.clone()))
}

/// The same for spans that some of these conditions have chosen: of events or links it is that of the first one for which what
/// a condition says of events and links alone holds, the conditions in order; who looks for an event wants to see that one.
pub(in crate::query) fn value_where(conditions: &[Condition], name: &FieldName) -> Expr {
    let wanted: Vec<Condition> = conditions.iter().filter_map(|condition| on_items(condition, name)).collect();
    match wanted.is_empty() || !may_be_in_lists(name) {
        true => value(name),
        false => per_span::call(WantedValue { name: name.clone(), wanted }),
    }
}

fn may_be_in_lists(name: &FieldName) -> bool {
    name.is_of_event() || name.is_of_link() || name.is_unscoped()
}

/// The parts of a condition, joined by AND, that speak of nothing but events, links, and the attribute `shown` wherever it is.
fn on_items(condition: &Condition, shown: &FieldName) -> Option<Condition> {
    let speaks = |part: &&Condition| {
        let (mut some, mut all) = (false, true);
        part.for_each_field(&mut |name| {
            let here = name.is_of_event() || name.is_of_link() || (name.is_unscoped() && key_of(name) == key_of(shown));
            (some, all) = (some | here, all & here);
        });
        some && all
    };
    let parts = match condition {
        Condition::And(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    let mut parts: Vec<Condition> = parts.iter().filter(speaks).cloned().collect();
    match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(Condition::And(parts)),
    }
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
            builder.append_found(found.and_then(|focus| rows.find(name, focus)), is_duration);
        }
        builder.finish()
    }
}

#[derive(Debug)]
struct WantedValue {
    name: FieldName,
    wanted: Vec<Condition>,
}

impl PerSpan for WantedValue {
    const NAME: &'static str = "traceql_wanted_value";
    const READS_ROOTS: bool = true;

    fn data_type() -> DataType {
        DataType::Struct(value_fields())
    }

    fn text(&self) -> String {
        let wanted: Vec<String> = self.wanted.iter().map(ToString::to_string).collect();
        format!("{} where {}", self.name, wanted.join(" | "))
    }

    fn for_each_field(&self, visit: &mut dyn FnMut(&FieldName)) {
        visit(&self.name);
        self.wanted.iter().for_each(|condition| condition.for_each_field(visit));
    }

    fn values(&self, spans: &Spans<'_>) -> Result<ArrayRef> {
        let (rows, name) = (&spans.rows, &self.name);
        let is_duration = name.is_duration();
        let mut builder = ValueBuilder::default();
        for row in 0..spans.count {
            let is_root = spans.is_root(row);
            let is_there = |focus: Focus| rows.find(name, focus).is_some_and(|found| shows(&found));
            let of = |condition: &Condition| {
                rows.first(row, |focus| is_there(focus) && condition.holds(&|name| rows.get(name, focus), is_root))
            };
            let first = rows.first(row, is_there);
            let wanted = if first.is_some() && rows.has_choice(row) { self.wanted.iter().find_map(of) } else { None };
            let found = wanted.or(first);
            builder.append_found(found.and_then(|focus| rows.find(name, focus)), is_duration);
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
    /// A value as answers show it, `is_duration` if its integers are nanoseconds.
    fn append_found(&mut self, found: Option<Found<'_>>, is_duration: bool) {
        match found {
            Some(Found::Value(Dynamic::Int(nanos))) if is_duration => {
                self.append(&Dynamic::text(&format_duration(nanos)), None);
            }
            Some(found) => {
                let json = found.json();
                self.append(&found.value(), json);
            }
            None => self.append(&Dynamic::Missing, None),
        }
    }

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
