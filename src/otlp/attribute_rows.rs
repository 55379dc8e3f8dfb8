//! Attribute maps of Arrow, row by row, as OTLP's key-values.

use std::ops::Range;

use arrow::{
    array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, MapArray, StringArray},
    datatypes::{Float64Type, Int64Type},
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

use crate::{
    model::attributes::{VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR},
    otlp::{
        json_reader::JsonError,
        json_value::{self},
    },
};

/// A map column that has the type of attribute maps.
#[derive(Debug)]
pub(super) struct AttributeRows<'a> {
    offsets: &'a [i32],
    keys: &'a StringArray,
    str: &'a StringArray,
    int: &'a Int64Array,
    float: &'a Float64Array,
    bool: &'a BooleanArray,
    json: &'a StringArray,
}

impl<'a> AttributeRows<'a> {
    pub(super) fn new(map: &'a MapArray) -> Self {
        let values = map.values().as_struct();
        Self {
            offsets: map.value_offsets(),
            keys: map.keys().as_string(),
            str: values.column(VALUE_STR).as_string(),
            int: values.column(VALUE_INT).as_primitive::<Int64Type>(),
            float: values.column(VALUE_FLOAT).as_primitive::<Float64Type>(),
            bool: values.column(VALUE_BOOL).as_boolean(),
            json: values.column(VALUE_JSON).as_string(),
        }
    }

    /// The attributes of a row.
    pub(super) fn read(&self, row: usize) -> Result<Vec<KeyValue>, JsonError> {
        self.entries(row)
            .map(|entry| {
                let value = Some(AnyValue { value: self.value(entry)? });
                Ok(KeyValue { key: self.keys.value(entry).to_owned(), value, key_strindex: 0 })
            })
            .collect()
    }

    /// Appends bytes that are equal for equal rows, and differ for others.
    pub(super) fn push_identity(&self, out: &mut Vec<u8>, row: usize) {
        for entry in self.entries(row) {
            push_text(out, self.keys.value(entry));
            if self.str.is_valid(entry) {
                out.push(1);
                push_text(out, self.str.value(entry));
            } else if self.int.is_valid(entry) {
                out.push(2);
                out.extend(self.int.value(entry).to_le_bytes());
            } else if self.float.is_valid(entry) {
                out.push(3);
                out.extend(self.float.value(entry).to_bits().to_le_bytes());
            } else if self.bool.is_valid(entry) {
                out.extend([4, u8::from(self.bool.value(entry))]);
            } else if self.json.is_valid(entry) {
                out.push(5);
                push_text(out, self.json.value(entry));
            } else {
                out.push(0);
            }
        }
        // No key is so long.
        out.extend(u32::MAX.to_le_bytes());
    }

    fn entries(&self, row: usize) -> Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    fn value(&self, entry: usize) -> Result<Option<Value>, JsonError> {
        Ok(if self.str.is_valid(entry) {
            Some(Value::StringValue(self.str.value(entry).to_owned()))
        } else if self.int.is_valid(entry) {
            Some(Value::IntValue(self.int.value(entry)))
        } else if self.float.is_valid(entry) {
            Some(Value::DoubleValue(self.float.value(entry)))
        } else if self.bool.is_valid(entry) {
            Some(Value::BoolValue(self.bool.value(entry)))
        } else if self.json.is_valid(entry) {
            json_value::parse(self.json.value(entry))?.value
        } else {
            None
        })
    }
}

/// Appends a text with its length, so that two texts in a row are not taken for two others.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}
