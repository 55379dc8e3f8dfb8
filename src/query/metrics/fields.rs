//! Fields of TraceQL as columns to group by and to reduce, and group keys read back as labels.
//!
//! A label of a field that is always text is one column. Any other has one per type that a value can have, so that a
//! promoted attribute is grouped by its own column, without a detour over values that know their type.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::{DataType, Float64Type, Int32Type, Int64Type},
    },
    common::ScalarValue,
    functions::core::expr_fn::{coalesce, get_field},
    logical_expr::{Expr, cast, col, lit},
};

use super::label::LabelValue;
use crate::{
    functions::{AttrFunction, scalar_function},
    model::{
        attributes::{AttributeScope, value_fields},
        schema::column,
    },
    query::traceql::spans::SpanValue,
    traceql::ast::{Attribute, FieldName, Intrinsic, Scope},
};

/// The columns that a label comes from.
#[derive(Clone, Debug)]
pub(crate) struct LabelColumns {
    /// The text of the field: the label's key.
    pub(crate) key: String,
    /// What to ask of the spans, by column names.
    pub(crate) asked: Vec<(String, SpanValue)>,
    /// What to group by: expressions on what was asked. One, or one per type of value.
    pub(crate) keys: Vec<Expr>,
}

impl LabelColumns {
    /// The columns of the label at `position` among others.
    pub(crate) fn new(field: &FieldName, position: usize) -> Self {
        let name = |suffix: &str| format!("label_{position}{suffix}");
        let key = field.to_string();
        if let Some(text) = text_column(field) {
            return Self { key, asked: vec![(name(""), SpanValue::Text(text))], keys: vec![col(name(""))] };
        }
        if let Some(attribute) = own_attribute(field) {
            let types =
                [AttrFunction::Str, AttrFunction::Int, AttrFunction::Float, AttrFunction::Bool, AttrFunction::Nested];
            let names: Vec<String> = types.iter().map(|get| name(&format!("_{}", get.name()))).collect();
            let value = |get| match get {
                AttrFunction::Str => SpanValue::Text(attribute_expr(get, attribute)),
                _ => SpanValue::Expr(attribute_expr(get, attribute)),
            };
            let asked = names.iter().cloned().zip(types.map(value));
            return Self { key, asked: asked.collect(), keys: names.iter().map(col).collect() };
        }
        let fields = value_fields();
        let parts = fields.iter().map(|part| get_field(col(name("")), part.name().as_str()).alias(name(part.name())));
        Self { key, asked: vec![(name(""), SpanValue::Field(field.clone()))], keys: parts.collect() }
    }

    /// How many columns of a group key are this label's.
    pub(crate) fn width(&self) -> usize {
        self.keys.len()
    }
}

/// The value in one row of the columns that a field has: one per type, or one alone; nothing if it is missing.
pub(crate) fn value_of(columns: &[ArrayRef], row: usize) -> Option<LabelValue> {
    let at = columns.iter().position(|column| column.is_valid(row))?;
    let column = &columns[at];
    match column.data_type() {
        // What is stored as an empty value is there and has none.
        DataType::Dictionary(..) => {
            let coded = column.as_dictionary_opt::<Int32Type>()?;
            let text = coded.values().as_string_opt::<i32>()?.value(coded.key(row)?);
            Some(LabelValue::Text(text.to_owned()))
        }
        DataType::Utf8 if at > 0 && column.as_string::<i32>().value(row) == "null" => None,
        DataType::Utf8 => Some(LabelValue::Text(column.as_string::<i32>().value(row).to_owned())),
        DataType::Int64 => Some(LabelValue::Int(column.as_primitive::<Int64Type>().value(row))),
        DataType::Float64 => Some(LabelValue::Float(column.as_primitive::<Float64Type>().value(row))),
        DataType::Boolean => Some(LabelValue::Bool(column.as_boolean().value(row))),
        _ => None,
    }
}

/// The column of an intrinsic whose values are text that is always there.
fn text_column(field: &FieldName) -> Option<Expr> {
    match field {
        FieldName::Intrinsic(Intrinsic::Name) => Some(col(column::NAME)),
        FieldName::Intrinsic(Intrinsic::Status) => Some(col(column::STATUS_CODE)),
        FieldName::Intrinsic(Intrinsic::Kind) => Some(col(column::KIND)),
        _ => None,
    }
}

/// The attribute of a field that has columns of its own; one without a scope can also be an event's or a link's.
fn own_attribute(field: &FieldName) -> Option<&Attribute> {
    match field {
        FieldName::Attribute(attribute) if !attribute.of_parent => {
            matches!(attribute.scope, Scope::Span | Scope::Resource | Scope::Instrumentation).then_some(attribute)
        }
        _ => None,
    }
}

fn attribute_expr(get: AttrFunction, attribute: &Attribute) -> Expr {
    let scope = match attribute.scope {
        Scope::Resource => AttributeScope::Resource,
        Scope::Instrumentation => AttributeScope::Scope,
        _ => AttributeScope::Span,
    };
    match (scalar_function(get.name()), scope.map_column()) {
        (Some(function), Some(map)) => function.call(vec![col(map), lit(attribute.key.as_str())]),
        _ => lit(ScalarValue::Null),
    }
}

/// The numbers that a function takes of spans.
#[derive(Clone, Debug)]
pub(crate) struct Number {
    /// What to ask of the spans, if their own columns are not enough.
    pub(crate) asked: Option<(String, SpanValue)>,
    /// The number, by what was asked; NULL where there is none.
    pub(crate) value: Expr,
    /// Whether it is a duration in nanoseconds, which is shown in seconds.
    pub(crate) is_duration: bool,
    /// The field whose value is the number, whatever that value is; others also have values that are none.
    shows: Option<FieldName>,
}

/// Name of the column that [`Number`] asks for.
const VALUE: &str = "metric_value";

impl Number {
    /// Numbers of both kinds as floats.
    pub(crate) fn float(field: &FieldName) -> Self {
        Self::new(field, AttrFunction::Number, DataType::Float64)
    }

    /// Integers alone.
    pub(crate) fn int(field: &FieldName) -> Self {
        Self::new(field, AttrFunction::Int, DataType::Int64)
    }

    fn new(field: &FieldName, get: AttrFunction, data_type: DataType) -> Self {
        if *field == FieldName::Intrinsic(Intrinsic::Duration) {
            let value = cast(col(column::DURATION), data_type);
            return Self { asked: None, value, is_duration: true, shows: Some(field.clone()) };
        }
        if let Some(attribute) = own_attribute(field) {
            let asked = (VALUE.to_owned(), SpanValue::Expr(attribute_expr(get, attribute)));
            let shows = (get == AttrFunction::Int).then(|| field.clone());
            return Self { asked: Some(asked), value: col(VALUE), is_duration: false, shows };
        }
        let part = |name: &str| get_field(col(VALUE), name);
        let value = match get {
            AttrFunction::Int => part("int"),
            _ => {
                let int = cast(part("int"), DataType::Float64);
                coalesce(vec![int, part("float")])
            }
        };
        let asked = Some((VALUE.to_owned(), SpanValue::Number(field.clone())));
        Self { asked, value, is_duration: field.is_duration(), shows: None }
    }

    /// Whether the number, where there is one, is what is shown of the field.
    pub(crate) fn shows(&self, field: &FieldName) -> bool {
        self.shows.as_ref() == Some(field)
    }
}
