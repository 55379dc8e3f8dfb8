//! The columns that attributes of one scope grow into: one per promoted key that occurs, and the residual map.
//!
//! Columns are sparse while they grow: one that gets a value in row 900 first learns of the 900 rows before it then,
//! as one run of NULLs, so a key costs nothing in the rows that lack it and an absent key has no column at all.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, MapArray, StringBuilder, StructArray, new_null_array,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field},
    error::ArrowError,
};

use crate::model::{
    attributes::{
        AttributeScope, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR, entry_fields,
        map_type, value_fields,
    },
    promotion::Promotion,
    schema::promoted_field,
};

/// The value of an attribute, in the form that its column stores.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The key is there and has no value.
    Empty,
    /// Text.
    Str(&'a str),
    /// 64-bit signed integer.
    Int(i64),
    /// 64-bit float.
    Float(f64),
    /// Boolean.
    Bool(bool),
    /// Bytes, an array or a key-value list, as the JSON text that [`crate::model::attributes`] describes.
    Json(Cow<'a, str>),
}

impl Value<'_> {
    /// Bytes of text in the value.
    pub fn text_bytes(&self) -> usize {
        match self {
            Value::Str(text) => text.len(),
            Value::Json(text) => text.len(),
            Value::Empty | Value::Int(_) | Value::Float(_) | Value::Bool(_) => 0,
        }
    }

    fn is_of(&self, value_type: AttributeType) -> bool {
        matches!(
            (self, value_type),
            (Value::Str(_), AttributeType::Str)
                | (Value::Int(_), AttributeType::Int)
                | (Value::Float(_), AttributeType::Float)
                | (Value::Bool(_), AttributeType::Bool)
        )
    }
}

/// One attribute, borrowed from whatever it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// The key; may be empty.
    pub key: &'a str,
    /// The value.
    pub value: Value<'a>,
}

/// A column of a promoted attribute.
pub(crate) type PromotedColumn = (Arc<Field>, ArrayRef);

/// Promoted columns and residual map of one scope; a row per resource, scope or span.
#[derive(Debug)]
pub(crate) struct AttributeColumns {
    scope: AttributeScope,
    promotion: Arc<Promotion>,
    /// At the attribute's place in the promotion.
    columns: Vec<Option<SparseColumn>>,
    residual: MapBuilder,
    capacity: usize,
    /// Of the set at hand, per promoted key: one more than the place of its last occurrence, 0 if there is none.
    last_seen: Vec<usize>,
    /// The promoted keys of the set at hand.
    promoted_scratch: Vec<usize>,
    /// Places of the set's other attributes.
    residual_scratch: Vec<usize>,
}

impl AttributeColumns {
    /// No rows, and room for as many in each column that comes to be.
    pub(crate) fn with_capacity(scope: AttributeScope, promotion: &Arc<Promotion>, rows: usize) -> Self {
        let count = promotion.attributes().len();
        Self {
            scope,
            promotion: Arc::clone(promotion),
            columns: (0..count).map(|_| None).collect(),
            residual: MapBuilder::with_capacity(rows),
            capacity: rows,
            last_seen: vec![0; count],
            promoted_scratch: Vec::new(),
            residual_scratch: Vec::new(),
        }
    }

    /// Adds a row. Of several attributes with one key the last counts.
    pub(crate) fn push(&mut self, attributes: &[Attribute<'_>]) {
        let row = self.residual.rows();
        for (place, attribute) in attributes.iter().enumerate() {
            match self.promotion.position(self.scope, attribute.key) {
                None => self.residual_scratch.push(place),
                Some(position) => {
                    if self.last_seen[position] == 0 {
                        self.promoted_scratch.push(position);
                    }
                    self.last_seen[position] = place + 1;
                }
            }
        }
        for position in self.promoted_scratch.drain(..) {
            let place = std::mem::take(&mut self.last_seen[position]) - 1;
            let value_type = self.promotion.attributes()[position].value_type;
            let value = &attributes[place].value;
            if value.is_of(value_type) {
                self.columns[position]
                    .get_or_insert_with(|| SparseColumn::new(value_type, self.capacity))
                    .push(row, value);
            } else {
                self.residual_scratch.push(place);
            }
        }
        self.residual.push(attributes, &mut self.residual_scratch);
        self.residual_scratch.clear();
    }

    /// The residual map, then the promoted columns that occurred with their fields.
    pub(crate) fn finish(self) -> Result<(ArrayRef, Vec<PromotedColumn>), ArrowError> {
        let rows = self.residual.rows();
        let promoted = self
            .columns
            .into_iter()
            .zip(self.promotion.attributes())
            .filter_map(|(column, attribute)| Some((Arc::new(promoted_field(attribute)), column?.finish(rows))))
            .collect();
        Ok((self.residual.finish()?, promoted))
    }
}

/// Builds a map column: per row, keys in ascending order, each once.
#[derive(Debug)]
pub(crate) struct MapBuilder {
    offsets: Vec<i32>,
    keys: StringBuilder,
    entries: usize,
    /// The fields of the value struct, at their place in it.
    values: [Option<SparseColumn>; 5],
}

impl MapBuilder {
    /// No rows, and room for as many; entries make their own.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let keys = StringBuilder::with_capacity(0, 0);
        Self { offsets: first_offset(rows), keys, entries: 0, values: [const { None }; 5] }
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Adds a row with all of a set.
    pub(crate) fn push_all(&mut self, attributes: &[Attribute<'_>], scratch: &mut Vec<usize>) {
        scratch.clear();
        scratch.extend(0..attributes.len());
        self.push(attributes, scratch);
    }

    /// Adds a row with the attributes at `places`; the order of `places` is lost.
    fn push(&mut self, attributes: &[Attribute<'_>], places: &mut [usize]) {
        places.sort_unstable_by(|a, b| attributes[*a].key.cmp(attributes[*b].key).then(a.cmp(b)));
        for (index, place) in places.iter().enumerate() {
            let attribute = &attributes[*place];
            let overwritten = places.get(index + 1).is_some_and(|next| attributes[*next].key == attribute.key);
            if !overwritten {
                self.push_entry(attribute);
            }
        }
        // The builder above bounds what it takes by `i32::MAX`.
        self.offsets.push(self.entries as i32);
    }

    fn push_entry(&mut self, attribute: &Attribute<'_>) {
        self.keys.append_value(attribute.key);
        let (field, value_type) = match &attribute.value {
            Value::Empty => {
                self.entries += 1;
                return;
            }
            Value::Str(_) => (VALUE_STR, AttributeType::Str),
            Value::Int(_) => (VALUE_INT, AttributeType::Int),
            Value::Float(_) => (VALUE_FLOAT, AttributeType::Float),
            Value::Bool(_) => (VALUE_BOOL, AttributeType::Bool),
            Value::Json(_) => (VALUE_JSON, AttributeType::Str),
        };
        let column = self.values[field].get_or_insert_with(|| SparseColumn::new(value_type, 0));
        column.push(self.entries, &attribute.value);
        self.entries += 1;
    }

    pub(crate) fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let fields = value_fields();
        let values = self
            .values
            .into_iter()
            .zip(fields.iter())
            .map(|(column, field)| match column {
                Some(column) => column.finish(self.entries),
                None => new_null_array(field.data_type(), self.entries),
            })
            .collect();
        let values = StructArray::try_new_with_length(fields, values, None, self.entries)?;
        let entries = StructArray::try_new_with_length(
            entry_fields(),
            vec![Arc::new(self.keys.finish()), Arc::new(values)],
            None,
            self.entries,
        )?;
        let DataType::Map(field, sorted) = map_type() else {
            return Err(ArrowError::SchemaError("the type of an attribute map is a map".to_owned()));
        };
        let map = MapArray::try_new(field, OffsetBuffer::new(self.offsets.into()), entries, None, sorted)?;
        Ok(Arc::new(map))
    }
}

/// The offsets of lists of so many rows, before the first row.
pub(super) fn first_offset(rows: usize) -> Vec<i32> {
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0);
    offsets
}

/// A nullable column that knows of a row only once it has a value in it.
#[derive(Debug)]
enum SparseColumn {
    Str(StringBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
}

/// Fills a builder with NULLs up to `rows`.
macro_rules! pad {
    ($builder:expr, $rows:expr) => {{
        use arrow::array::ArrayBuilder as _;
        let missing = $rows - $builder.len();
        if missing > 0 {
            $builder.append_nulls(missing);
        }
    }};
}

impl SparseColumn {
    /// With room for so many rows. How much text they have is not known, as most of them may be NULL.
    fn new(value_type: AttributeType, rows: usize) -> Self {
        match value_type {
            AttributeType::Str => SparseColumn::Str(StringBuilder::with_capacity(rows, rows)),
            AttributeType::Int => SparseColumn::Int(Int64Builder::with_capacity(rows)),
            AttributeType::Float => SparseColumn::Float(Float64Builder::with_capacity(rows)),
            AttributeType::Bool => SparseColumn::Bool(BooleanBuilder::with_capacity(rows)),
        }
    }

    /// Sets the value of `row`, which lies after every row set before. A value of another type leaves it NULL.
    fn push(&mut self, row: usize, value: &Value<'_>) {
        match (self, value) {
            (SparseColumn::Str(builder), Value::Str(text)) => {
                pad!(builder, row);
                builder.append_value(text);
            }
            (SparseColumn::Str(builder), Value::Json(text)) => {
                pad!(builder, row);
                builder.append_value(text);
            }
            (SparseColumn::Int(builder), Value::Int(number)) => {
                pad!(builder, row);
                builder.append_value(*number);
            }
            (SparseColumn::Float(builder), Value::Float(number)) => {
                pad!(builder, row);
                builder.append_value(*number);
            }
            (SparseColumn::Bool(builder), Value::Bool(truth)) => {
                pad!(builder, row);
                builder.append_value(*truth);
            }
            _ => debug_assert!(false, "the caller chose the column by the value's type"),
        }
    }

    fn finish(self, rows: usize) -> ArrayRef {
        match self {
            SparseColumn::Str(mut builder) => {
                pad!(builder, rows);
                Arc::new(builder.finish())
            }
            SparseColumn::Int(mut builder) => {
                pad!(builder, rows);
                Arc::new(builder.finish())
            }
            SparseColumn::Float(mut builder) => {
                pad!(builder, rows);
                Arc::new(builder.finish())
            }
            SparseColumn::Bool(mut builder) => {
                pad!(builder, rows);
                Arc::new(builder.finish())
            }
        }
    }
}
