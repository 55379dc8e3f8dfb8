//! The plain form: nested, of types that every driver knows.

use std::sync::Arc;

use datafusion::arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, MapArray, RecordBatch, RecordBatchOptions,
        StringArray, StringBuilder, StructArray,
    },
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
    error::ArrowError,
};

use crate::{
    functions,
    model::{attributes, ids},
};

/// The plain schema for a schema inside.
pub(super) fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(wire_field).collect::<Vec<_>>()))
}

/// The same rows in the plain form; `schema` is [`plain_schema`] of the planned schema.
pub(super) fn to_plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            let plain = plain_array(column)?;
            // The planner's type and the operator's can differ by what the plain forms do not cover.
            if plain.data_type() == field.data_type() { Ok(plain) } else { cast(&plain, field.data_type()) }
        })
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn wire_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), wire_type(field.data_type()), true))
}

fn wire_type(data_type: &DataType) -> DataType {
    if attributes::is_attribute_map(data_type) {
        return text_map_type();
    }
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::FixedSizeBinary(length) if is_id(*length) => DataType::Utf8,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(wire_field(item)),
        DataType::Union(..) => DataType::Utf8,
        DataType::Struct(fields) if is_attribute_value(fields) => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(wire_entries(entries), *sorted),
        other => other.clone(),
    }
}

pub(super) fn is_id(length: i32) -> bool {
    length as usize == ids::TraceId::LEN || length as usize == ids::SpanId::LEN
}

pub(super) fn is_attribute_value(fields: &Fields) -> bool {
    let ours = attributes::value_fields();
    fields.len() == ours.len()
        && fields.iter().zip(ours.iter()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

fn text_map_type() -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// Entries and keys of a map are never NULL, by the format's definition.
fn wire_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return Arc::clone(entries) };
    let fields: Fields = fields
        .iter()
        .enumerate()
        .map(|(index, field)| Arc::new(Field::new(field.name(), wire_type(field.data_type()), index > 0)))
        .collect();
    Arc::new(Field::new("entries", DataType::Struct(fields), false))
}

pub(super) fn plain_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data_type = array.data_type();
    let wire = wire_type(data_type);
    if attributes::is_attribute_map(data_type) {
        return text_map(array.as_map());
    }
    match data_type {
        _ if *data_type == wire => Ok(Arc::clone(array)),
        DataType::FixedSizeBinary(length) if is_id(*length) => Ok(hex_text(array.as_fixed_size_binary())),
        DataType::Dictionary(_, values) => plain_array(&cast(array, values)?),
        DataType::RunEndEncoded(_, values) => plain_array(&cast(array, values.data_type())?),
        DataType::List(_) => plain_list(array.as_list()),
        DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => plain_list(cast(array, &DataType::List(Arc::clone(item)))?.as_list()),
        DataType::Union(..) => match functions::json_text(array) {
            Some(text) => Ok(Arc::new(text)),
            None => cast(array, &wire),
        },
        DataType::Struct(fields) if is_attribute_value(fields) => value_text(array.as_struct()),
        DataType::Struct(_) => plain_struct(array.as_struct()),
        DataType::Map(..) => plain_map(array.as_map()),
        _ => cast(array, &wire),
    }
}

pub(super) fn hex_text(ids: &FixedSizeBinaryArray) -> ArrayRef {
    let digits = 2 * ids.value_length() as usize;
    let mut text = StringBuilder::with_capacity(ids.len(), ids.len() * digits);
    let mut buffer = [0u8; 2 * ids::TraceId::LEN];
    for id in ids.iter() {
        let hex = id.and_then(|id| {
            hex::encode_to_slice(id, &mut buffer[..digits]).ok()?;
            std::str::from_utf8(&buffer[..digits]).ok()
        });
        text.append_option(hex);
    }
    Arc::new(text.finish())
}

/// Attribute values as text, by the casts of SQL; NULL for an empty value.
fn value_text(values: &StructArray) -> Result<ArrayRef, ArrowError> {
    let mut texts: Vec<StringArray> = Vec::new();
    for part in values.columns() {
        if part.null_count() < part.len() {
            texts.push(cast(part, &DataType::Utf8)?.as_string().clone());
        }
    }
    match texts.as_slice() {
        [one] if values.null_count() == 0 => return Ok(Arc::new(one.clone())),
        _ => {}
    }
    let mut builder = StringBuilder::with_capacity(values.len(), 0);
    for row in 0..values.len() {
        let text = texts.iter().find(|part| values.is_valid(row) && part.is_valid(row));
        builder.append_option(text.map(|part| part.value(row)));
    }
    Ok(Arc::new(builder.finish()))
}

fn plain_list(list: &ListArray) -> Result<ArrayRef, ArrowError> {
    let DataType::List(item) = list.data_type() else { return Ok(Arc::new(list.clone())) };
    let values = plain_array(list.values())?;
    Ok(Arc::new(ListArray::try_new(wire_field(item), list.offsets().clone(), values, list.nulls().cloned())?))
}

fn plain_struct(array: &StructArray) -> Result<ArrayRef, ArrowError> {
    let columns = array.columns().iter().map(plain_array).collect::<Result<Vec<_>, _>>()?;
    let fields: Fields = array.fields().iter().map(wire_field).collect();
    if columns.is_empty() {
        return Ok(Arc::new(array.clone()));
    }
    Ok(Arc::new(StructArray::try_new(fields, columns, array.nulls().cloned())?))
}

fn plain_map(map: &MapArray) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(entries, sorted) = map.data_type() else { return Ok(Arc::new(map.clone())) };
    rebuilt_map(map, wire_entries(entries), *sorted, plain_array(map.values())?)
}

fn text_map(map: &MapArray) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(entries, sorted) = text_map_type() else { return Ok(Arc::new(map.clone())) };
    rebuilt_map(map, entries, sorted, value_text(map.values().as_struct())?)
}

fn rebuilt_map(map: &MapArray, entries: FieldRef, sorted: bool, values: ArrayRef) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(fields) = entries.data_type() else { return Ok(Arc::new(map.clone())) };
    let keys = plain_array(map.keys())?;
    let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    Ok(Arc::new(MapArray::try_new(entries, map.offsets().clone(), pairs, map.nulls().cloned(), sorted)?))
}
