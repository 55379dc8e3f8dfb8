//! `traceql_value(...)`: the value of a field as answers show it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, StructArray},
    buffer::NullBuffer,
    datatypes::DataType,
};
use datafusion::{
    common::Result,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit},
};

use super::{
    inputs::{self, Inputs},
    rows::Found,
};
use crate::{
    model::attributes::value_fields,
    traceql::{
        ast::{FieldName, Intrinsic},
        literal::format_duration,
        plan::Dynamic,
    },
};

/// The value of a field as the struct that attribute values are: status and kind as words, durations as Go writes them.
/// Of events or links it is that of the first one that has it.
pub(in crate::query) fn value(name: &FieldName) -> Expr {
    let inputs = Inputs::new([name.clone()]);
    let mut args = vec![lit(name.to_string())];
    args.extend(inputs.args.iter().cloned());
    let signature = Signature::variadic_any(Volatility::Immutable);
    ScalarUDF::from(ShownValue { name: name.clone(), inputs, signature }).call(args)
}

#[derive(Debug)]
struct ShownValue {
    name: FieldName,
    inputs: Inputs,
    signature: Signature,
}

impl PartialEq for ShownValue {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ShownValue {}

impl Hash for ShownValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ShownValue {
    fn name(&self) -> &str {
        "traceql_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(value_fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = inputs::arrays(&args)?;
        let columns = columns.get(1..).unwrap_or_default();
        let rows = self.inputs.rows(columns)?;
        let durations = [Intrinsic::EventTimeSinceStart, Intrinsic::Duration].map(FieldName::Intrinsic);
        let is_duration = durations.contains(&self.name);
        let mut builder = ValueBuilder::default();
        for row in 0..args.number_rows {
            let found = rows.first(row, |focus| rows.find(&self.name, focus).is_some_and(|found| shows(&found)));
            match found.and_then(|focus| rows.find(&self.name, focus)) {
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
        Ok(ColumnarValue::Array(builder.finish()?))
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
