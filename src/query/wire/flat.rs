//! The flat form: numbers, booleans, text and timestamps in nanoseconds.

use std::sync::Arc;

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, RecordBatchOptions, StringBuilder},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

use crate::{
    model::attributes,
    query::wire::{
        json,
        plain::{is_attribute_value, is_id, plain_array},
    },
};

/// The flat schema for a schema inside.
pub(super) fn flat_schema(schema: &Schema) -> SchemaRef {
    let flat = |field: &Arc<Field>| Field::new(field.name(), flat_type(field.data_type()), true);
    Arc::new(Schema::new(schema.fields().iter().map(flat).collect::<Vec<_>>()))
}

/// The same rows in the flat form; `schema` is [`flat_schema`] of the planned schema.
pub(super) fn to_flat(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            let flat = flat_array(column)?;
            if flat.data_type() == field.data_type() { Ok(flat) } else { cast(&flat, field.data_type()) }
        })
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn flat_type(data_type: &DataType) -> DataType {
    if attributes::is_attribute_map(data_type) {
        return DataType::Utf8;
    }
    match data_type {
        DataType::Dictionary(_, values) => flat_type(values),
        DataType::RunEndEncoded(_, values) => flat_type(values.data_type()),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64 => data_type.clone(),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            DataType::Float64
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Nanosecond, None)
        }
        DataType::Duration(_) => DataType::Duration(TimeUnit::Nanosecond),
        _ => DataType::Utf8,
    }
}

fn flat_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data_type = array.data_type();
    if attributes::is_attribute_map(data_type) {
        return json::json_text(array);
    }
    match data_type {
        DataType::Dictionary(_, values) => flat_array(&cast(array, values)?),
        DataType::RunEndEncoded(_, values) => flat_array(&cast(array, values.data_type())?),
        DataType::FixedSizeBinary(length) if is_id(*length) => plain_array(array),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Ok(hex_of_bytes(cast(array, &DataType::Binary)?.as_binary()))
        }
        DataType::Struct(fields) if is_attribute_value(fields) => plain_array(array),
        DataType::Union(..) => plain_array(array),
        DataType::Struct(_)
        | DataType::Map(..)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..) => json::json_text(array),
        // Without a zone it is the time of day in UTC, whatever the zone was.
        DataType::Timestamp(_, Some(_)) => {
            let utc = cast(array, &DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())))?;
            cast(&utc, &flat_type(data_type))
        }
        _ => {
            let flat = flat_type(data_type);
            if *data_type == flat { Ok(Arc::clone(array)) } else { cast(array, &flat) }
        }
    }
}

fn hex_of_bytes(bytes: &BinaryArray) -> ArrayRef {
    let mut text = StringBuilder::new();
    for value in bytes {
        text.append_option(value.map(hex::encode));
    }
    Arc::new(text.finish())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::{Date32Array, Int64Array, StringArray, TimestampSecondArray, types::Int32Type},
        array::{ListArray, StructArray},
    };

    use super::*;

    fn shown(array: ArrayRef) -> Vec<String> {
        let batch = RecordBatch::try_from_iter([("x", array)]).unwrap();
        let schema = flat_schema(&batch.schema());
        let flat = to_flat(&batch, &schema).unwrap();
        let text = cast(flat.column(0), &DataType::Utf8).unwrap();
        text.as_string::<i32>().iter().map(|value| value.unwrap_or("NULL").to_owned()).collect()
    }

    #[test]
    fn nested_values_are_json_text() {
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]));
        assert_eq!(shown(Arc::clone(&list)), ["[1,null]", "NULL", "[]"]);
        assert_eq!(shown(list.slice(1, 2)), ["NULL", "[]"]);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a\"b", "\u{1}", "c"]));
        let fields = vec![
            (Arc::new(Field::new("t", DataType::Utf8, true)), text),
            (Arc::new(Field::new("l", list.data_type().clone(), true)), list),
        ];
        let rows = shown(Arc::new(StructArray::from(fields)));
        assert_eq!(rows, [r#"{"t":"a\"b","l":[1,null]}"#, r#"{"t":"\u0001","l":null}"#, r#"{"t":"c","l":[]}"#]);
    }

    #[test]
    fn times_are_nanoseconds_and_bytes_are_hex() {
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1, 2]));
        let flat = flat_array(&seconds).unwrap();
        assert_eq!(flat.data_type(), &DataType::Timestamp(TimeUnit::Nanosecond, None));
        let nanos = cast(&flat, &DataType::Int64).unwrap();
        assert_eq!(nanos.as_ref(), &Int64Array::from(vec![1_000_000_000, 2_000_000_000]));
        let zoned: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1, 2]).with_timezone("+05:00"));
        assert_eq!(&flat_array(&zoned).unwrap(), &flat);
        assert_eq!(shown(Arc::new(Date32Array::from(vec![1]))), ["1970-01-02T00:00:00"]);
        assert_eq!(shown(Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]]))), ["00ff"]);
    }
}
