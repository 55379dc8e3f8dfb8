//! Rows of some batches in the flat shape.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch, UInt32Array, new_null_array},
    compute::concat,
    datatypes::{DataType, Field, Float64Type, Int64Type, UInt32Type},
    error::ArrowError,
};

use crate::{
    model::{
        attributes::AttributeType,
        batch::SpanBatch,
        gather::{Place, gather, gather_of_many, gather_texts},
        promotion::{PromotedAttribute, promoted_attribute},
        schema::{CORE_COLUMNS, column},
    },
    storage::writer::{ColumnRange, layout::has_many_values},
};

/// Some rows of batches in the flat shape, column by column. Columns of one name have one type in all batches.
///
/// Each value is copied once, from the batch where it came in to the column that is encoded.
pub(super) struct Gather<'a> {
    batches: &'a [SpanBatch],
    rows: &'a [Place],
    resources: Vec<Place>,
    scopes: Vec<Place>,
}

/// A column where it is now: for each batch its array, if the batch has it, and the rows.
struct Source<'a> {
    arrays: Vec<Option<&'a ArrayRef>>,
    rows: &'a [Place],
    /// Whether it is of a table whose rows many spans share.
    is_shared: bool,
}

impl<'a> Source<'a> {
    /// The arrays and rows of them at which the column has a value.
    fn values(&self) -> impl Iterator<Item = (&'a ArrayRef, usize)> {
        let present = self.rows.iter().filter_map(|(batch, row)| Some((self.arrays[*batch]?, *row)));
        present.filter(|(array, row)| array.is_valid(*row))
    }
}

impl<'a> Gather<'a> {
    pub(super) fn new(batches: &'a [SpanBatch], rows: &'a [Place]) -> Self {
        let indexes = |name: &str| -> Vec<Place> {
            let indexes: Vec<&[u32]> =
                batches.iter().map(|batch| &**batch.spans()[name].as_primitive::<UInt32Type>().values()).collect();
            rows.iter().map(|(batch, row)| (*batch, indexes[*batch][*row] as usize)).collect()
        };
        Self { batches, rows, resources: indexes(column::RESOURCE_INDEX), scopes: indexes(column::SCOPE_INDEX) }
    }

    /// A column and its rows, if a batch has it.
    fn source(&self, name: &str) -> Option<Source<'_>> {
        let of_table = |table: fn(&SpanBatch) -> &RecordBatch, rows, is_shared| {
            let arrays: Vec<_> = self.batches.iter().map(|batch| table(batch).column_by_name(name)).collect();
            arrays.iter().any(Option::is_some).then_some(Source { arrays, rows, is_shared })
        };
        of_table(SpanBatch::spans, self.rows, false)
            .or_else(|| of_table(SpanBatch::resources, &self.resources, true))
            .or_else(|| of_table(SpanBatch::scopes, &self.scopes, true))
    }

    /// The values of a column; texts of resources and scopes as a dictionary.
    pub(super) fn column(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let source = self.source(name);
        let first = source.as_ref().and_then(|source| source.arrays.iter().flatten().next().copied());
        let (Some(source), Some(first)) = (&source, first) else {
            return Err(ArrowError::SchemaError(format!("no span batch has a column {name}")));
        };
        if first.data_type() == &DataType::Utf8 && !source.is_shared {
            let arrays: Vec<_> =
                source.arrays.iter().map(|array| array.map(|array| array.as_string::<i32>())).collect();
            return Ok(Arc::new(gather_texts(&arrays, source.rows)));
        }
        let gathered = |arrays: &[&dyn Array], rows: &[Place]| match source.is_shared {
            true => spread(arrays, rows),
            false => gather_of_many(arrays, rows),
        };
        if source.arrays.iter().all(Option::is_some) {
            let arrays: Vec<&dyn Array> = source.arrays.iter().flatten().map(AsRef::as_ref).collect();
            return gathered(&arrays, source.rows);
        }
        // One NULL stands for all rows of the batches that lack the column.
        let null = new_null_array(first.data_type(), 1);
        let arrays: Vec<&dyn Array> = source.arrays.iter().map(|array| array.map_or(&*null, AsRef::as_ref)).collect();
        let lacks = |batch: usize| source.arrays[batch].is_none();
        let rows: Vec<Place> =
            source.rows.iter().map(|(batch, row)| (*batch, if lacks(*batch) { 0 } else { *row })).collect();
        gathered(&arrays, &rows)
    }

    /// The promoted columns that hold a value in some of the rows, by name.
    pub(super) fn promoted(&self) -> Result<Vec<PromotedAttribute>, ArrowError> {
        let schemas = self.batches.iter().map(SpanBatch::flat_schema);
        let mut fields: BTreeMap<String, Arc<Field>> = BTreeMap::new();
        for schema in schemas {
            for field in schema.fields().iter().skip(CORE_COLUMNS.len()) {
                if !fields.contains_key(field.name()) {
                    fields.insert(field.name().clone(), Arc::clone(field));
                }
            }
        }
        let mut promoted = Vec::new();
        for field in fields.values() {
            if self.source(field.name()).is_some_and(|source| source.values().next().is_some()) {
                promoted.push(promoted_attribute(field).ok_or_else(|| not_promoted(field))?);
            }
        }
        Ok(promoted)
    }

    /// The promoted columns that hold a NaN. Statistics leave it out, and queries take it for the largest number.
    pub(super) fn with_nan<'p>(&self, promoted: &'p [PromotedAttribute]) -> Vec<&'p str> {
        let is_nan = |(array, row): (&ArrayRef, usize)| {
            array.as_primitive_opt::<Float64Type>().is_some_and(|floats| floats.value(row).is_nan())
        };
        let of_type = promoted.iter().filter(|attribute| attribute.value_type == AttributeType::Float);
        let holds_nan = |name: &&str| self.source(name).is_some_and(|source| source.values().any(is_nan));
        of_type.map(|attribute| &*attribute.column).filter(holds_nan).collect()
    }

    /// The promoted columns that get a bloom filter.
    pub(super) fn with_many_values<'p>(&self, promoted: &'p [PromotedAttribute]) -> Vec<&'p str> {
        let many = |attribute: &&PromotedAttribute| {
            let source = self.source(&attribute.column);
            source.is_some_and(|source| has_many_values(attribute, &source.arrays.iter().flatten().copied()))
        };
        promoted.iter().filter(many).map(|attribute| &*attribute.column).collect()
    }

    pub(super) fn range(&self, column: &'static str) -> Result<ColumnRange, ArrowError> {
        let values = self.column(column)?;
        let values = values.as_primitive::<Int64Type>();
        let (min, max) = (arrow::compute::min(values), arrow::compute::max(values));
        Ok(ColumnRange { column, min: min.unwrap_or_default(), max: max.unwrap_or_default() })
    }
}

/// The values of some small arrays at `places`, most of which come many times: texts are not copied for each.
fn spread(arrays: &[&dyn Array], places: &[Place]) -> Result<ArrayRef, ArrowError> {
    let values = concat(arrays)?;
    let mut starts = Vec::with_capacity(arrays.len());
    let mut start = 0;
    for array in arrays {
        starts.push(start);
        start += array.len();
    }
    let row_of = |(array, row): &Place| starts[*array] + row;
    Ok(match values.data_type() {
        // Arrays of more rows than the keys can name do not fit into memory.
        DataType::Utf8 => {
            let keys: Int32Array = places.iter().map(|place| row_of(place) as i32).collect::<Vec<_>>().into();
            Arc::new(DictionaryArray::try_new(keys, values)?)
        }
        _ => {
            let rows: UInt32Array = places.iter().map(|place| row_of(place) as u32).collect::<Vec<_>>().into();
            gather(&values, &rows)?
        }
    })
}

fn not_promoted(field: &Field) -> ArrowError {
    ArrowError::SchemaError(format!("{} of type {} is not an attribute column", field.name(), field.data_type()))
}
