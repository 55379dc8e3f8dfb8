//! Values of TraceQL out of Arrow arrays, row by row.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
    },
    datatypes::{DataType, Float64Type, Int64Type},
};
use datafusion::common::{Result, exec_err};

use crate::{
    model::attributes::{VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR, value_fields},
    traceql::plan::Dynamic,
};

/// Attribute values as five arrays, of which at most one holds a value in each row.
#[derive(Clone, Copy, Debug)]
pub(in crate::query) struct Values<'a> {
    strs: &'a StringArray,
    ints: &'a Int64Array,
    floats: &'a Float64Array,
    bools: &'a BooleanArray,
    jsons: &'a StringArray,
}

impl<'a> Values<'a> {
    /// The five children of an attribute value, or five columns of these types.
    pub(in crate::query) fn try_new(columns: &'a [ArrayRef]) -> Result<Self> {
        let types = columns.iter().map(|column| column.data_type());
        let fields = value_fields();
        if columns.len() != fields.len() || !types.eq(fields.iter().map(|field| field.data_type())) {
            return exec_err!("expected the fields of an attribute value");
        }
        Ok(Self {
            strs: columns[VALUE_STR].as_string(),
            ints: columns[VALUE_INT].as_primitive::<Int64Type>(),
            floats: columns[VALUE_FLOAT].as_primitive::<Float64Type>(),
            bools: columns[VALUE_BOOL].as_boolean(),
            jsons: columns[VALUE_JSON].as_string(),
        })
    }

    /// The JSON of a value that is an array, a map or bytes.
    pub(in crate::query) fn json(self, row: usize) -> Option<&'a str> {
        let scalar = self.strs.is_valid(row) || self.ints.is_valid(row);
        let scalar = scalar || self.floats.is_valid(row) || self.bools.is_valid(row);
        (!scalar && self.jsons.is_valid(row)).then(|| self.jsons.value(row)).filter(|json| *json != "null")
    }

    /// The value of an attribute that is there.
    pub(in crate::query) fn get(self, row: usize) -> Dynamic<'a> {
        if self.strs.is_valid(row) {
            Dynamic::text(self.strs.value(row))
        } else if self.ints.is_valid(row) {
            Dynamic::Int(self.ints.value(row))
        } else if self.floats.is_valid(row) {
            Dynamic::Float(self.floats.value(row))
        } else if self.bools.is_valid(row) {
            Dynamic::Bool(self.bools.value(row))
        } else if self.jsons.is_valid(row) {
            array_of_json(self.jsons.value(row))
        } else {
            Dynamic::Opaque
        }
    }
}

/// The value of a field of one span, where it has one.
#[derive(Clone, Debug)]
pub(in crate::query) enum Found<'a> {
    /// An attribute: a row of these.
    Attribute(Values<'a>, usize),
    /// Anything else.
    Value(Dynamic<'a>),
}

impl<'a> Found<'a> {
    /// As conditions take it.
    pub(in crate::query) fn value(self) -> Dynamic<'a> {
        match self {
            Found::Attribute(values, row) => values.get(row),
            Found::Value(value) => value,
        }
    }

    /// The JSON of an array, a map or bytes.
    pub(in crate::query) fn json(&self) -> Option<&'a str> {
        match self {
            Found::Attribute(values, row) => values.json(*row),
            Found::Value(_) => None,
        }
    }
}

/// The elements of a JSON array; anything else is opaque.
pub(in crate::query) fn array_of_json(json: &str) -> Dynamic<'static> {
    if !json.starts_with('[') {
        return Dynamic::Opaque;
    }
    // The parser's own limit on depth bounds what follows.
    serde_json::from_str(json).map_or(Dynamic::Opaque, value_of_json)
}

fn value_of_json(json: serde_json::Value) -> Dynamic<'static> {
    use serde_json::Value;
    match json {
        Value::String(text) => Dynamic::String(text.into()),
        Value::Bool(value) => Dynamic::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Dynamic::Int(int),
            (None, Some(float)) => Dynamic::Float(float),
            (None, None) => Dynamic::Opaque,
        },
        Value::Object(object) => match object.get("$double").and_then(Value::as_str) {
            Some("NaN") => Dynamic::Float(f64::NAN),
            Some("Infinity") => Dynamic::Float(f64::INFINITY),
            Some("-Infinity") => Dynamic::Float(f64::NEG_INFINITY),
            _ => Dynamic::Opaque,
        },
        Value::Array(elements) => Dynamic::Array(elements.into_iter().map(value_of_json).collect()),
        Value::Null => Dynamic::Opaque,
    }
}

/// The events or links of spans.
#[derive(Clone, Copy, Debug)]
pub(in crate::query) struct Lists<'a> {
    list: &'a ListArray,
    items: &'a StructArray,
    attributes: &'a MapArray,
    keys: &'a StringArray,
    values: Values<'a>,
}

impl<'a> Lists<'a> {
    pub(in crate::query) fn try_new(array: &'a ArrayRef) -> Result<Self> {
        let Some(list) = array.as_list_opt::<i32>() else {
            return exec_err!("expected a list of events or links, got {}", array.data_type());
        };
        let Some(items) = list.values().as_struct_opt() else {
            return exec_err!("expected structs in a list, got {}", list.values().data_type());
        };
        let Some(attributes) = items.column_by_name("attributes").and_then(|column| column.as_map_opt()) else {
            return exec_err!("expected attributes in a list, got {}", items.data_type());
        };
        let (Some(keys), Some(values)) = (attributes.keys().as_string_opt(), attributes.values().as_struct_opt())
        else {
            return exec_err!("expected an attribute map, got {}", attributes.data_type());
        };
        Ok(Self { list, items, attributes, keys, values: Values::try_new(values.columns())? })
    }

    /// The items of a row, as positions among all items.
    pub(in crate::query) fn items(self, row: usize) -> std::ops::Range<usize> {
        if self.list.is_null(row) {
            return 0..0;
        }
        let offsets = self.list.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    /// The attribute of an item, if it has the key.
    pub(in crate::query) fn attribute(self, item: usize, key: &str) -> Option<Found<'a>> {
        let offsets = self.attributes.value_offsets();
        let mut entries = offsets[item] as usize..offsets[item + 1] as usize;
        entries.find(|entry| self.keys.value(*entry) == key).map(|entry| Found::Attribute(self.values, entry))
    }

    /// Whether an item of the row has the key.
    pub(in crate::query) fn any_has(self, row: usize, key: &str) -> bool {
        let items = self.items(row);
        if items.is_empty() {
            return false;
        }
        let offsets = self.attributes.value_offsets();
        (offsets[items.start] as usize..offsets[items.end] as usize).any(|entry| self.keys.value(entry) == key)
    }

    pub(in crate::query) fn text(self, item: usize, field: &str) -> Option<&'a str> {
        Some(self.items.column_by_name(field)?.as_string_opt::<i32>()?.value(item))
    }

    pub(in crate::query) fn int(self, item: usize, field: &str) -> Option<i64> {
        Some(self.items.column_by_name(field)?.as_primitive_opt::<Int64Type>()?.value(item))
    }

    pub(in crate::query) fn hex(self, item: usize, field: &str) -> Option<String> {
        let column = self.items.column_by_name(field)?;
        match column.data_type() {
            DataType::Binary => Some(hex::encode(column.as_binary::<i32>().value(item))),
            _ => None,
        }
    }
}
