//! `attr_*`: reading attributes by key, or all of a map at once.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float64Array, ListArray, MapArray, StringArray, StringBuilder, StructArray,
        UInt32Array,
    },
    buffer::OffsetBuffer,
    compute::{cast, take},
    datatypes::{DataType, Field, Fields, Float64Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Documentation, ExpressionPlacement, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
    },
};

use crate::{
    functions::{documentation::documentation_of, entries::Entries, json::json_at, scalar_if},
    model::attributes::{
        self, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR, is_attribute_map,
    },
};

/// What an `attr_*` function with a key gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttrFunction {
    /// Text, if the value is text.
    Str,
    /// Integer, if the value is one.
    Int,
    /// Double, if the value is one.
    Float,
    /// Boolean, if the value is one.
    Bool,
    /// Integer or double, as a double.
    Number,
    /// Any value as text.
    Text,
    /// Any value as JSON.
    Json,
    /// Bytes, an array or a map as JSON, if the value is one.
    Nested,
    /// Whether the key is there.
    Exists,
}

impl AttrFunction {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Str,
        Self::Int,
        Self::Float,
        Self::Bool,
        Self::Number,
        Self::Text,
        Self::Json,
        Self::Nested,
        Self::Exists,
    ];

    /// The function's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "attr_str",
            Self::Int => "attr_int",
            Self::Float => "attr_float",
            Self::Bool => "attr_bool",
            Self::Number => "attr_number",
            Self::Text => "attr_text",
            Self::Json => "attr_json",
            Self::Nested => "attr_nested",
            Self::Exists => "attr_exists",
        }
    }

    /// The type of its answer.
    pub fn return_type(self) -> DataType {
        match self {
            Self::Str | Self::Text | Self::Json | Self::Nested => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float | Self::Number => DataType::Float64,
            Self::Bool | Self::Exists => DataType::Boolean,
        }
    }

    /// The one type of value that it answers with, where it is a typed one.
    pub fn exact_type(self) -> Option<AttributeType> {
        match self {
            Self::Str => Some(AttributeType::Str),
            Self::Int => Some(AttributeType::Int),
            Self::Float => Some(AttributeType::Float),
            Self::Bool => Some(AttributeType::Bool),
            Self::Number | Self::Text | Self::Json | Self::Nested | Self::Exists => None,
        }
    }

    fn evaluate(self, entries: Entries<'_>, positions: &UInt32Array) -> Result<ArrayRef> {
        let child = |index: usize| -> Result<ArrayRef> { Ok(take(entries.values.column(index), positions, None)?) };
        Ok(match self {
            Self::Str => child(VALUE_STR)?,
            Self::Int => child(VALUE_INT)?,
            Self::Float => child(VALUE_FLOAT)?,
            Self::Bool => child(VALUE_BOOL)?,
            Self::Number => Arc::new(number_at(entries.values, positions)?),
            Self::Text => Arc::new(text_at(entries.values, positions)?),
            Self::Json => Arc::new(json_at(entries.values, positions)?),
            Self::Nested => child(VALUE_JSON)?,
            Self::Exists => Arc::new(entries.found(positions)),
        })
    }
}

fn number_at(values: &StructArray, positions: &UInt32Array) -> Result<Float64Array> {
    let floats = take(values.column(VALUE_FLOAT), positions, None)?;
    let ints = take(values.column(VALUE_INT), positions, None)?;
    let floats = floats.as_primitive::<Float64Type>();
    if ints.null_count() == ints.len() {
        return Ok(floats.clone());
    }
    // The same conversion as a cast in SQL, so that a promoted column gives the same doubles.
    let ints = cast(&ints, &DataType::Float64)?;
    Ok(floats.iter().zip(ints.as_primitive::<Float64Type>()).map(|(float, int)| float.or(int)).collect())
}

/// The values at these positions as text, NULL where the position is or the value is empty.
fn text_at(values: &StructArray, positions: &UInt32Array) -> Result<StringArray> {
    let strings = take(values.column(VALUE_STR), positions, None)?;
    if strings.null_count() == positions.null_count() {
        return Ok(strings.as_string().clone());
    }
    let mut parts = vec![strings];
    for index in [VALUE_INT, VALUE_FLOAT, VALUE_BOOL, VALUE_JSON] {
        let part = take(values.column(index), positions, None)?;
        if part.null_count() < part.len() {
            // The same conversion as a cast in SQL, so that a promoted column gives the same text.
            parts.push(cast(&part, &DataType::Utf8)?);
        }
    }
    let parts: Vec<&StringArray> = parts.iter().map(|part| part.as_string()).collect();
    let mut builder = StringBuilder::with_capacity(positions.len(), 0);
    for row in 0..positions.len() {
        match parts.iter().find(|part| part.is_valid(row)) {
            Some(part) => builder.append_value(part.value(row)),
            None => builder.append_null(),
        }
    }
    Ok(builder.finish())
}

/// `attr_*(map, key)`: one attribute.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AttrGet {
    function: AttrFunction,
    signature: Signature,
}

impl AttrGet {
    /// The function's implementation.
    pub fn new(function: AttrFunction) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Which of the functions it is.
    pub fn function(&self) -> AttrFunction {
        self.function
    }
}

impl ScalarUDFImpl for AttrGet {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [map, key] = arg_types else {
            return plan_err!("{name}() takes an attribute map and a key, got {} arguments", arg_types.len());
        };
        if !key.is_string() && !key.is_null() {
            return plan_err!("the key given to {name}() has to be text, got {key}");
        }
        Ok(vec![check_map(name, map)?, DataType::Utf8])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.function.return_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [map, key] = args.args.as_slice() else {
            return exec_err!("{}() takes an attribute map and a key", self.name());
        };
        let all_scalar = matches!((map, key), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let map = map.to_array(rows)?;
        let entries = Entries::try_new(&map)?;
        let answer = match key {
            ColumnarValue::Scalar(key) => match key.try_as_str().flatten() {
                Some(key) => self.function.evaluate(entries, &entries.positions(key))?,
                None => return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(args.return_type())?)),
            },
            ColumnarValue::Array(keys) => {
                let keys = keys.as_string::<i32>();
                let positions = entries.positions_by(|row| keys.is_valid(row).then(|| keys.value(row)));
                self.function.evaluate(entries, &positions)?
            }
        };
        scalar_if(all_scalar, answer)
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        match args {
            [ExpressionPlacement::Column, ExpressionPlacement::Literal] => ExpressionPlacement::MoveTowardsLeafNodes,
            _ => ExpressionPlacement::KeepInPlace,
        }
    }
}

fn check_map(name: &str, data_type: &DataType) -> Result<DataType> {
    if is_attribute_map(data_type) || data_type.is_null() {
        return Ok(attributes::map_type());
    }
    plan_err!("{name}() takes an attribute map such as span_attributes, got {data_type}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whole {
    Keys,
    MapText,
}

/// `attr_keys(map)` and `attr_map_text(map)`: a whole map.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AttrWhole {
    function: Whole,
    signature: Signature,
}

static TEXT_ENTRY: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)])
});

impl AttrWhole {
    pub(crate) fn all() -> [Self; 2] {
        [Whole::Keys, Whole::MapText]
            .map(|function| Self { function, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

fn key_field() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Utf8, false))
}

fn text_entries_field() -> Arc<Field> {
    Arc::new(Field::new("key_value", DataType::Struct(TEXT_ENTRY.clone()), false))
}

impl ScalarUDFImpl for AttrWhole {
    fn name(&self) -> &str {
        match self.function {
            Whole::Keys => "attr_keys",
            Whole::MapText => "attr_map_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [map] = arg_types else {
            return plan_err!("{}() takes an attribute map, got {} arguments", self.name(), arg_types.len());
        };
        Ok(vec![check_map(self.name(), map)?])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            Whole::Keys => DataType::List(key_field()),
            Whole::MapText => DataType::Map(text_entries_field(), false),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [map] = args.args.as_slice() else {
            return exec_err!("{}() takes an attribute map", self.name());
        };
        let scalar = matches!(map, ColumnarValue::Scalar(_));
        let map = map.to_array(if scalar { 1 } else { args.number_rows })?;
        let entries = Entries::try_new(&map)?;
        let offsets = entries.offsets();
        let (start, end) = (offsets[0], offsets[entries.num_rows()]);
        let keys = entries.keys.slice(start as usize, (end - start) as usize);
        let offsets = OffsetBuffer::new(offsets.iter().map(|offset| offset - start).collect());
        let nulls = entries.nulls().cloned();
        let answer: ArrayRef = match self.function {
            Whole::Keys => Arc::new(ListArray::try_new(key_field(), offsets, Arc::new(keys), nulls)?),
            Whole::MapText => {
                let positions: UInt32Array = (start as u32..end as u32).collect();
                let values = text_at(entries.values, &positions)?;
                let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
                let entries = StructArray::try_new(TEXT_ENTRY.clone(), columns, None)?;
                Arc::new(MapArray::try_new(text_entries_field(), offsets, entries, nulls, false)?)
            }
        };
        scalar_if(scalar, answer)
    }
}
