//! Attributes: where they live, how a value keeps its OTLP type in Arrow, and how nested values become JSON text.
//!
//! A value of an attribute column is a struct of five nullable fields, of which at most one is set:
//!
//! ```text
//! value: struct { str: Utf8, int: Int64, float: Float64, bool: Boolean, json: Utf8 }
//! ```
//!
//! All five NULL is OTLP's empty `AnyValue`: the key is there and has no value. Bytes, arrays and key-value lists are
//! JSON text in `json`. It reads naturally and loses nothing:
//!
//! | OTLP | JSON |
//! |---|---|
//! | string, bool, int | string, `true`/`false`, integer |
//! | double | number with a fraction or an exponent; not a number and infinities `{"$double": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | bytes | `{"$bytes": "<base64>"}` |
//! | array | array |
//! | key-value list | object, in the order sent; `{"$map": {...}}` if its first key starts with `$` |
//! | empty | `null` |

use std::{fmt, str::FromStr, sync::LazyLock};

use arrow::datatypes::{DataType, Field, Fields};

/// Where an attribute is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeScope {
    /// The entity that produced the span: service, host, pod.
    Resource,
    /// The instrumentation scope.
    Scope,
    /// The span itself.
    Span,
    /// An event of a span.
    Event,
    /// A link of a span.
    Link,
}

impl AttributeScope {
    /// How many scopes there are.
    pub const COUNT: usize = 5;

    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [Self::Resource, Self::Scope, Self::Span, Self::Event, Self::Link];

    /// The name that TraceQL and promoted columns use as a prefix.
    pub fn prefix(self) -> &'static str {
        match self {
            AttributeScope::Resource => "resource",
            AttributeScope::Scope => "instrumentation",
            AttributeScope::Span => "span",
            AttributeScope::Event => "event",
            AttributeScope::Link => "link",
        }
    }

    /// The map column of the `spans` table that holds attributes of this scope, where there is one: those of events
    /// and links are nested in their lists.
    pub fn map_column(self) -> Option<&'static str> {
        match self {
            AttributeScope::Resource => Some("resource_attributes"),
            AttributeScope::Scope => Some("scope_attributes"),
            AttributeScope::Span => Some("span_attributes"),
            AttributeScope::Event | AttributeScope::Link => None,
        }
    }

    /// The scope whose map column has this name.
    pub fn of_map_column(column: &str) -> Option<Self> {
        [AttributeScope::Resource, AttributeScope::Scope, AttributeScope::Span]
            .into_iter()
            .find(|scope| scope.map_column() == Some(column))
    }
}

impl fmt::Display for AttributeScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

impl FromStr for AttributeScope {
    type Err = ();

    fn from_str(prefix: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.prefix() == prefix).ok_or(())
    }
}

/// The scalar types that an attribute column can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeType {
    /// UTF-8 text.
    Str,
    /// 64-bit signed integer.
    Int,
    /// 64-bit float.
    Float,
    /// Boolean.
    Bool,
}

impl AttributeType {
    /// All of them, in order: at the place of their field in the value struct.
    pub const ALL: [Self; 4] = [Self::Str, Self::Int, Self::Float, Self::Bool];

    /// The Arrow type of a column of such values.
    pub fn data_type(self) -> DataType {
        match self {
            AttributeType::Str => DataType::Utf8,
            AttributeType::Int => DataType::Int64,
            AttributeType::Float => DataType::Float64,
            AttributeType::Bool => DataType::Boolean,
        }
    }

    /// The field of the value struct that holds values of this type.
    pub fn value_field(self) -> &'static str {
        match self {
            AttributeType::Str => "str",
            AttributeType::Int => "int",
            AttributeType::Float => "float",
            AttributeType::Bool => "bool",
        }
    }
}

/// Position of `str` in the value struct.
pub const VALUE_STR: usize = 0;
/// Position of `int` in the value struct.
pub const VALUE_INT: usize = 1;
/// Position of `float` in the value struct.
pub const VALUE_FLOAT: usize = 2;
/// Position of `bool` in the value struct.
pub const VALUE_BOOL: usize = 3;
/// Position of `json` in the value struct.
pub const VALUE_JSON: usize = 4;

static VALUE_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("str", DataType::Utf8, true),
        Field::new("int", DataType::Int64, true),
        Field::new("float", DataType::Float64, true),
        Field::new("bool", DataType::Boolean, true),
        Field::new("json", DataType::Utf8, true),
    ])
});

static ENTRY_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Struct(value_fields()), true),
    ])
});

static MAP_TYPE: LazyLock<DataType> =
    LazyLock::new(|| DataType::Map(Field::new("key_value", DataType::Struct(entry_fields()), false).into(), false));

/// The fields of an attribute value.
pub fn value_fields() -> Fields {
    VALUE_FIELDS.clone()
}

/// The fields of one entry of an attribute map: `key` and `value`.
pub fn entry_fields() -> Fields {
    ENTRY_FIELDS.clone()
}

/// The Arrow type of an attribute map: text to typed value.
pub fn map_type() -> DataType {
    MAP_TYPE.clone()
}

/// Whether a column of this type is an attribute map.
pub fn is_attribute_map(data_type: &DataType) -> bool {
    let DataType::Map(entries, _) = data_type else { return false };
    let DataType::Struct(fields) = entries.data_type() else { return false };
    let [key, value] = fields.as_ref() else { return false };
    let DataType::Struct(value) = value.data_type() else { return false };
    matches!(key.data_type(), DataType::Utf8)
        && value.len() == VALUE_FIELDS.len()
        && value
            .iter()
            .zip(VALUE_FIELDS.iter())
            .all(|(field, ours)| field.name() == ours.name() && field.data_type() == ours.data_type())
}
