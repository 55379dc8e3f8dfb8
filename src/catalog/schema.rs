//! The schema of a table: Arrow fields to the JSON that Delta keeps, and columns added to it.
//!
//! Delta's types are fewer than Arrow's. Fixed-size ids are declared `binary`, and nanosecond times are kept as `long`
//! by the model; a type without a counterpart is an error, not a guess. Schemas of other writers pass through whole.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    catalog::CatalogError,
    model::{
        attributes::AttributeType,
        promotion::{PromotedAttribute, Promotion, attribute_of_column},
    },
    storage::promoter::Declared,
};

/// The columns of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSchema {
    #[serde(rename = "type")]
    kind: StructKind,
    fields: Vec<Column>,
}

/// A column of a table, or a field within one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name; dots are part of it.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub data_type: ColumnType,
    /// Whether it can be NULL.
    pub nullable: bool,
    /// Annotations of other writers.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A type of Delta.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ColumnType {
    /// `string`, `long`, ...
    Primitive(String),
    /// A struct, list or map.
    Nested(Box<NestedType>),
}

/// A type with parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum NestedType {
    /// Named fields.
    Struct {
        /// In order.
        fields: Vec<Column>,
    },
    /// A list.
    Array {
        /// Of the elements.
        element_type: ColumnType,
        /// Whether elements can be NULL.
        contains_null: bool,
    },
    /// A map.
    Map {
        /// Of the keys.
        key_type: ColumnType,
        /// Of the values.
        value_type: ColumnType,
        /// Whether values can be NULL.
        value_contains_null: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StructKind {
    Struct,
}

impl TableSchema {
    /// A schema of these columns.
    pub fn of_fields<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Result<Self, CatalogError> {
        let fields = fields.into_iter().map(Column::of_field).collect::<Result<_, _>>()?;
        Ok(Self { kind: StructKind::Struct, fields })
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[Column] {
        &self.fields
    }

    /// The column of this name. Names that differ only in case name the same column.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.fields.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The columns as a choice of promoted attributes sees them.
    pub fn declared(&self) -> Declared {
        let attribute = |column: &Column| {
            let ColumnType::Primitive(name) = &column.data_type else { return None };
            let value_type = match name.as_str() {
                "string" => AttributeType::Str,
                "long" => AttributeType::Int,
                "double" => AttributeType::Float,
                "boolean" => AttributeType::Bool,
                _ => return None,
            };
            let (scope, key) = attribute_of_column(&column.name)?;
            Some(PromotedAttribute::new(scope, key, value_type))
        };
        let attributes = Promotion::new(self.fields.iter().filter_map(attribute));
        Declared { attributes, names: self.fields.iter().map(|column| column.name.to_lowercase()).collect() }
    }

    /// Adds a column at the end.
    pub(super) fn push(&mut self, column: Column) {
        self.fields.push(column);
    }
}

impl Column {
    /// The column that holds this Arrow field's values.
    pub fn of_field(field: &Field) -> Result<Self, CatalogError> {
        let forbidden = |c: char| c.is_control() || " ,;{}()=".contains(c);
        if field.name().is_empty() || field.name().contains(forbidden) {
            return Err(CatalogError::ColumnName { column: field.name().clone() });
        }
        Ok(Self {
            name: field.name().clone(),
            data_type: ColumnType::of_field(field)?,
            nullable: field.is_nullable(),
            metadata: Map::new(),
        })
    }
}

impl ColumnType {
    fn of_field(field: &Field) -> Result<Self, CatalogError> {
        let not_storable =
            || CatalogError::ColumnNotStorable { column: field.name().clone(), data_type: field.data_type().clone() };
        let primitive = |name: &str| Ok(ColumnType::Primitive(name.to_owned()));
        let nested = |nested: NestedType| Ok(ColumnType::Nested(Box::new(nested)));
        match field.data_type() {
            DataType::Boolean => primitive("boolean"),
            DataType::Int32 => primitive("integer"),
            DataType::Int64 => primitive("long"),
            DataType::Float64 => primitive("double"),
            DataType::Date32 => primitive("date"),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => primitive("string"),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                primitive("binary")
            }
            DataType::Dictionary(_, values) => {
                Self::of_field(&Field::new(field.name(), values.as_ref().clone(), field.is_nullable()))
            }
            DataType::List(element) | DataType::LargeList(element) => nested(NestedType::Array {
                element_type: Self::of_field(element)?,
                contains_null: element.is_nullable(),
            }),
            DataType::Struct(fields) => nested(NestedType::Struct {
                fields: fields.iter().map(|field| Column::of_field(field)).collect::<Result<_, _>>()?,
            }),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => nested(NestedType::Map {
                    key_type: Self::of_field(&fields[0])?,
                    value_type: Self::of_field(&fields[1])?,
                    value_contains_null: fields[1].is_nullable(),
                }),
                _ => Err(not_storable()),
            },
            _ => Err(not_storable()),
        }
    }
}

impl std::fmt::Display for ColumnType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ColumnType::Primitive(name) => f.write_str(name),
            ColumnType::Nested(nested) => f.write_str(match nested.as_ref() {
                NestedType::Struct { .. } => "struct",
                NestedType::Array { .. } => "array",
                NestedType::Map { .. } => "map",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogSettings;

    fn check(data_type: DataType, expected: &str) {
        let column = Column::of_field(&Field::new("x", data_type, true)).unwrap();
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(serde_json::to_value(&column.data_type).unwrap(), expected);
        assert_eq!(serde_json::from_value::<ColumnType>(expected).unwrap(), column.data_type);
    }

    #[test]
    fn arrow_types_have_their_delta_names() {
        check(DataType::FixedSizeBinary(16), r#""binary""#);
        check(DataType::Int64, r#""long""#);
        let fields = vec![Field::new("s", DataType::Utf8, false)].into();
        check(
            DataType::List(Field::new("element", DataType::Struct(fields), false).into()),
            r#"{"type":"array","containsNull":false,"elementType":{"type":"struct","fields":[
                {"name":"s","type":"string","nullable":false,"metadata":{}}]}}"#,
        );
        let entries =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Float64, true)].into();
        check(
            DataType::Map(Field::new("entries", DataType::Struct(entries), false).into(), false),
            r#"{"type":"map","keyType":"string","valueType":"double","valueContainsNull":true}"#,
        );
    }

    #[test]
    fn the_columns_of_spans_can_be_stored() {
        let settings = CatalogSettings::default();
        let schema = TableSchema::of_fields(settings.columns.fields().iter().map(AsRef::as_ref)).unwrap();
        let json = serde_json::to_string(&schema).unwrap();
        assert!(json.starts_with(r#"{"type":"struct","fields":[{"name":"trace_id","type":"binary""#), "{json}");
        assert_eq!(serde_json::from_str::<TableSchema>(&json).unwrap(), schema);
        assert!(settings.statistics_columns.iter().all(|name| schema.column(name).is_some()));
    }

    #[test]
    fn what_a_table_cannot_hold_is_refused() {
        let unsigned = Field::new("x", DataType::UInt64, true);
        assert!(matches!(Column::of_field(&unsigned), Err(CatalogError::ColumnNotStorable { .. })));
        for name in ["", "a b", "a=b", "a\n", "a;"] {
            let field = Field::new(name, DataType::Int64, true);
            assert!(matches!(Column::of_field(&field), Err(CatalogError::ColumnName { .. })), "{name:?}");
        }
    }
}
