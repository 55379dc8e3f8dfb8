//! Nested values as JSON text.
//!
//! Attributes keep their types by the rules of [`crate::model::attributes`]; ids are hex text; numbers that JSON does not
//! know, times and all else are text.

use std::io::Write;

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, ListArray, MapArray, StringArray, StringBuilder, StructArray, UInt32Array},
    buffer::{NullBuffer, OffsetBuffer},
    compute::cast,
    datatypes::{DataType, Float64Type},
    error::ArrowError,
};

use crate::{
    functions::json_at,
    query::wire::plain::{is_attribute_value, is_id, plain_array},
};

/// The rows of a nested column as text, NULL where the row is.
pub(super) fn json_text(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let column = Column::of(array)?;
    let mut text = StringBuilder::with_capacity(array.len(), 0);
    let mut buffer = Vec::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            text.append_null();
            continue;
        }
        buffer.clear();
        column.write(row, &mut buffer)?;
        text.append_value(std::str::from_utf8(&buffer)?);
    }
    Ok(std::sync::Arc::new(text.finish()))
}

struct Column {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    /// Text, to be quoted.
    Text(StringArray),
    /// JSON already.
    Json(StringArray),
    Struct(Vec<(String, Column)>),
    List(OffsetBuffer<i32>, Box<Column>),
    Map(OffsetBuffer<i32>, StringArray, Box<Column>),
}

impl Column {
    fn of(array: &ArrayRef) -> Result<Self, ArrowError> {
        let values = match array.data_type() {
            DataType::Struct(fields) if is_attribute_value(fields) => Values::Json(attribute_json(array.as_struct())?),
            DataType::Union(..) => Values::Json(plain_array(array)?.as_string().clone()),
            DataType::Struct(_) => Values::Struct(of_struct(array.as_struct())?),
            DataType::List(_) => of_list(array.as_list())?,
            DataType::LargeList(item)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::FixedSizeList(item, _) => {
                of_list(cast(array, &DataType::List(std::sync::Arc::clone(item)))?.as_list())?
            }
            DataType::Map(..) => of_map(array.as_map())?,
            DataType::Dictionary(_, values) => return Self::of(&cast(array, values)?),
            DataType::RunEndEncoded(_, values) => return Self::of(&cast(array, values.data_type())?),
            DataType::FixedSizeBinary(length) if is_id(*length) => {
                Values::Text(plain_array(array)?.as_string().clone())
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Values::Json(float_json(array)?),
            number if number.is_integer() || *number == DataType::Boolean => Values::Json(text_of(array)?),
            _ => Values::Text(text_of(array)?),
        };
        Ok(Self { nulls: array.logical_nulls(), values })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(out.write_all(b"null")?);
        }
        match &self.values {
            Values::Text(text) => write_text(text.value(row), out)?,
            Values::Json(json) => out.write_all(json.value(row).as_bytes())?,
            Values::Struct(fields) => {
                let named = fields.iter().map(|(name, column)| (name.as_str(), column, row));
                write_object(named, out)?;
            }
            Values::List(offsets, items) => {
                out.write_all(b"[")?;
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.write_all(b",")?;
                    }
                    items.write(item as usize, out)?;
                }
                out.write_all(b"]")?;
            }
            Values::Map(offsets, keys, values) => {
                let entries = offsets[row] as usize..offsets[row + 1] as usize;
                write_object(entries.map(|entry| (keys.value(entry), values.as_ref(), entry)), out)?;
            }
        }
        Ok(())
    }
}

fn write_object<'a>(
    entries: impl Iterator<Item = (&'a str, &'a Column, usize)>,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    let mut separator = b"{";
    for (name, column, row) in entries {
        out.write_all(separator)?;
        separator = b",";
        write_text(name, out)?;
        out.write_all(b":")?;
        column.write(row, out)?;
    }
    if separator == b"{" {
        out.write_all(b"{")?;
    }
    Ok(out.write_all(b"}")?)
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    serde_json::to_writer(out, text).map_err(|error| ArrowError::JsonError(error.to_string()))
}

fn of_struct(array: &StructArray) -> Result<Vec<(String, Column)>, ArrowError> {
    let fields = array.fields().iter().zip(array.columns());
    fields.map(|(field, column)| Ok((field.name().clone(), Column::of(column)?))).collect()
}

fn of_list(list: &ListArray) -> Result<Values, ArrowError> {
    Ok(Values::List(list.offsets().clone(), Box::new(Column::of(list.values())?)))
}

fn of_map(map: &MapArray) -> Result<Values, ArrowError> {
    let values = Column::of(map.values())?;
    Ok(Values::Map(map.offsets().clone(), text_of(map.keys())?, Box::new(values)))
}

fn attribute_json(values: &StructArray) -> Result<StringArray, ArrowError> {
    let positions: UInt32Array = (0..values.len() as u32).collect();
    json_at(values, &positions).map_err(|error| ArrowError::ExternalError(error.into()))
}

fn float_json(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let floats = cast(array, &DataType::Float64)?;
    let text = |value: f64| if value.is_finite() { format!("{value:?}") } else { format!("\"{value}\"") };
    Ok(floats.as_primitive::<Float64Type>().iter().map(|value| value.map(text)).collect())
}

fn text_of(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let text = match array.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = cast(array, &DataType::Binary)?;
            return Ok(bytes.as_binary::<i32>().iter().map(|value| value.map(hex::encode)).collect());
        }
        _ => cast(array, &DataType::Utf8)?,
    };
    Ok(text.as_string::<i32>().clone())
}
