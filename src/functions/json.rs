//! Attribute values as JSON text, by the rules of [`crate::model::attributes`].

use std::fmt::Write;

use arrow::array::{Array, AsArray, StringArray, StringBuilder, StructArray, UInt32Array};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::common::{DataFusionError, Result};

use crate::model::attributes::{VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR};

/// The values at these positions, NULL where the position is.
pub(crate) fn json_at(values: &StructArray, positions: &UInt32Array) -> Result<StringArray> {
    let strings = values.column(VALUE_STR).as_string::<i32>();
    let ints = values.column(VALUE_INT).as_primitive::<Int64Type>();
    let floats = values.column(VALUE_FLOAT).as_primitive::<Float64Type>();
    let bools = values.column(VALUE_BOOL).as_boolean();
    let jsons = values.column(VALUE_JSON).as_string::<i32>();
    let mut builder = StringBuilder::with_capacity(positions.len(), 0);
    for position in positions {
        let Some(entry) = position.map(|position| position as usize) else {
            builder.append_null();
            continue;
        };
        let written = if strings.is_valid(entry) {
            let text =
                serde_json::to_string(strings.value(entry)).map_err(|error| DataFusionError::External(error.into()))?;
            builder.write_str(&text)
        } else if ints.is_valid(entry) {
            write!(builder, "{}", ints.value(entry))
        } else if floats.is_valid(entry) {
            write_double(&mut builder, floats.value(entry))
        } else if bools.is_valid(entry) {
            write!(builder, "{}", bools.value(entry))
        } else if jsons.is_valid(entry) {
            builder.write_str(jsons.value(entry))
        } else {
            builder.write_str("null")
        };
        written.map_err(|error| DataFusionError::External(error.into()))?;
        builder.append_value("");
    }
    Ok(builder.finish())
}

fn write_double(out: &mut impl Write, value: f64) -> std::fmt::Result {
    if value.is_nan() {
        out.write_str(r#"{"$double":"NaN"}"#)
    } else if value.is_infinite() {
        let sign = if value < 0.0 { "-" } else { "" };
        write!(out, r#"{{"$double":"{sign}Infinity"}}"#)
    } else {
        // Debug of a float always has a fraction or an exponent, which tells it from an int.
        write!(out, "{value:?}")
    }
}
