//! Rows of a batch in the flat shape.

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt32Array},
    compute::take,
    datatypes::{Field, Float64Type, Int64Type, UInt32Type},
    error::ArrowError,
};

use crate::{
    model::{
        batch::SpanBatch,
        gather::gather,
        promotion::{PromotedAttribute, promoted_attribute},
        schema::{CORE_COLUMNS, column},
    },
    storage::writer::{ColumnRange, layout::has_many_values},
};

/// Some rows of a batch, in the flat shape, column by column.
pub(super) struct Gather<'a> {
    batch: &'a SpanBatch,
    rows: &'a UInt32Array,
    resources: UInt32Array,
    scopes: UInt32Array,
}

impl<'a> Gather<'a> {
    pub(super) fn new(batch: &'a SpanBatch, rows: &'a UInt32Array) -> Result<Self, ArrowError> {
        let indexes = |name: &str| -> Result<UInt32Array, ArrowError> {
            Ok(take(&batch.spans()[name], rows, None)?.as_primitive::<UInt32Type>().clone())
        };
        let (resources, scopes) = (indexes(column::RESOURCE_INDEX)?, indexes(column::SCOPE_INDEX)?);
        Ok(Self { batch, rows, resources, scopes })
    }

    /// The table with this column, and the rows of it.
    fn source(&self, name: &str) -> Option<(&ArrayRef, &UInt32Array)> {
        [
            (self.batch.spans(), self.rows),
            (self.batch.resources(), &self.resources),
            (self.batch.scopes(), &self.scopes),
        ]
        .into_iter()
        .find_map(|(table, rows)| Some((table.column_by_name(name)?, rows)))
    }

    pub(super) fn column(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let Some((values, rows)) = self.source(name) else {
            return Err(ArrowError::SchemaError(format!("span batch has no column {name}")));
        };
        gather(values, rows)
    }

    /// The promoted columns that hold a value in some of the rows, by name.
    pub(super) fn promoted(&self) -> Result<Vec<PromotedAttribute>, ArrowError> {
        let core = CORE_COLUMNS.len();
        let mut promoted = Vec::new();
        for field in self.batch.flat_schema().fields().iter().skip(core) {
            let Some((values, rows)) = self.source(field.name()) else { continue };
            if rows.values().iter().any(|row| values.is_valid(*row as usize)) {
                promoted.push(promoted_attribute(field).ok_or_else(|| not_promoted(field))?);
            }
        }
        Ok(promoted)
    }

    /// The promoted columns that hold a NaN. Statistics leave it out, and queries take it for the largest number.
    pub(super) fn with_nan<'p>(&self, promoted: &'p [PromotedAttribute]) -> Vec<&'p str> {
        let holds_nan = |name: &str| {
            let Some((values, rows)) = self.source(name) else { return false };
            let Some(floats) = values.as_primitive_opt::<Float64Type>() else { return false };
            rows.values().iter().any(|row| floats.is_valid(*row as usize) && floats.value(*row as usize).is_nan())
        };
        promoted.iter().map(|attribute| &*attribute.column).filter(|name| holds_nan(name)).collect()
    }

    /// The promoted columns that get a bloom filter.
    pub(super) fn with_many_values<'p>(&self, promoted: &'p [PromotedAttribute]) -> Vec<&'p str> {
        let many = |attribute: &&PromotedAttribute| {
            self.source(&attribute.column).is_some_and(|(values, _)| has_many_values(attribute, values))
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

fn not_promoted(field: &Field) -> ArrowError {
    ArrowError::SchemaError(format!("{} of type {} is not an attribute column", field.name(), field.data_type()))
}
