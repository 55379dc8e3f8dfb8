//! `attr_assemble(residual, 'key', column, ...)`: the whole map of a scope out of what is stored.

use std::{iter::Peekable, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, MapArray, StringArray, StructArray, new_null_array},
    buffer::{NullBuffer, OffsetBuffer},
    compute::interleave,
    datatypes::{DataType, Field},
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use crate::{
    functions::entries::Entries,
    model::attributes::{self, AttributeType},
};

/// Puts promoted values back into a residual map: the answer's entries are in the order of their keys, as they are in the
/// residual. NULL in a promoted column means that the row does not have the key there.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AttrAssemble {
    signature: Signature,
}

impl Default for AttrAssemble {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// A promoted column.
struct Promoted {
    key: String,
    column: ArrayRef,
    value_type: AttributeType,
}

impl Promoted {
    fn try_new(key: &ColumnarValue, column: ArrayRef) -> Result<Self> {
        let key = match key {
            ColumnarValue::Scalar(key) => key.try_as_str().flatten(),
            ColumnarValue::Array(_) => None,
        };
        let Some(key) = key else { return exec_err!("the keys given to attr_assemble() have to be literals") };
        let Some(value_type) = value_type(column.data_type()) else {
            return exec_err!("an attribute column cannot have the type {}", column.data_type());
        };
        Ok(Self { key: key.to_owned(), column, value_type })
    }
}

fn value_type(data_type: &DataType) -> Option<AttributeType> {
    use AttributeType::{Bool, Float, Int, Str};
    [Str, Int, Float, Bool].into_iter().find(|value_type| value_type.data_type() == *data_type)
}

/// One entry of the answer: table 0 is the residual, table `i + 1` the promoted column `i`; then the row of its values.
type Source = (usize, usize);

/// Merges the entries of one row by key.
fn merge_row(
    residual: Range<usize>,
    keys: &StringArray,
    promoted: &[Promoted],
    row: usize,
    mut push: impl FnMut(Source),
) {
    let mut residual: Peekable<Range<usize>> = residual.peekable();
    for (index, attribute) in promoted.iter().enumerate() {
        if attribute.column.is_null(row) {
            continue;
        }
        while let Some(entry) = residual.next_if(|entry| keys.value(*entry) < attribute.key.as_str()) {
            push((0, entry));
        }
        push((index + 1, row));
    }
    residual.for_each(|entry| push((0, entry)));
}

/// The values at these places. Each type of value has a column of its own, and most types do not occur.
fn merged_values(residual: &StructArray, promoted: &[Promoted], sources: &[Source]) -> Result<ArrayRef> {
    let fields = attributes::value_fields();
    let columns = fields.iter().zip(residual.columns()).map(|(field, residual)| {
        let of_type = |attribute: &Promoted| attribute.value_type.value_field() == field.name();
        let has_values = |values: &ArrayRef| values.null_count() < values.len();
        if !has_values(residual)
            && !promoted.iter().any(|attribute| of_type(attribute) && has_values(&attribute.column))
        {
            return Ok(new_null_array(field.data_type(), sources.len()));
        }
        // Where a table has values of other types, its rows are this one.
        let none = new_null_array(field.data_type(), 1);
        let mut tables: Vec<&dyn Array> = vec![residual];
        tables.extend(
            promoted
                .iter()
                .map(|attribute| if of_type(attribute) { &attribute.column } else { &none })
                .map(|table| table as &dyn Array),
        );
        let is_other: Vec<bool> =
            std::iter::once(false).chain(promoted.iter().map(|attribute| !of_type(attribute))).collect();
        let rows: Vec<Source> =
            sources.iter().map(|(table, row)| (*table, if is_other[*table] { 0 } else { *row })).collect();
        Ok(interleave(&tables, &rows)?)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    // A value of the residual can be missing as a whole.
    let nulls = residual
        .nulls()
        .filter(|nulls| nulls.null_count() > 0)
        .map(|nulls| sources.iter().map(|(table, row)| *table > 0 || nulls.is_valid(*row)).collect::<NullBuffer>());
    Ok(Arc::new(StructArray::try_new_with_length(fields, columns, nulls, sources.len())?))
}

impl ScalarUDFImpl for AttrAssemble {
    fn name(&self) -> &str {
        "attr_assemble"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.len().is_multiple_of(2) {
            return plan_err!("attr_assemble() takes a map, then keys and columns in turn");
        }
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(attributes::map_type())
    }

    fn return_field_from_args(&self, args: datafusion::logical_expr::ReturnFieldArgs<'_>) -> Result<Arc<Field>> {
        // As nullable as the map that it stands for.
        let nullable = args.arg_fields.first().is_none_or(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), attributes::map_type(), nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((residual, pairs)) = args.args.split_first() else {
            return exec_err!("attr_assemble() takes a map, then keys and columns in turn");
        };
        let rows = args.number_rows;
        let residual = residual.to_array(rows)?;
        let entries = Entries::try_new(&residual)?;
        let mut promoted = pairs
            .chunks_exact(2)
            .map(|pair| Promoted::try_new(&pair[0], pair[1].to_array(rows)?))
            .collect::<Result<Vec<_>>>()?;
        promoted.sort_by(|a, b| a.key.cmp(&b.key));

        let offsets = entries.offsets();
        let mut sources: Vec<Source> = Vec::with_capacity((offsets[rows] - offsets[0]) as usize + rows);
        let mut ends: Vec<i32> = Vec::with_capacity(rows + 1);
        ends.push(0);
        for row in 0..rows {
            if residual.is_valid(row) {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                merge_row(range, entries.keys, &promoted, row, |source| sources.push(source));
            }
            let Ok(end) = i32::try_from(sources.len()) else {
                return exec_err!("a batch has more than {} attributes", i32::MAX);
            };
            ends.push(end);
        }

        let values = merged_values(entries.values, &promoted, &sources)?;
        let promoted_keys: Vec<StringArray> =
            promoted.iter().map(|attribute| StringArray::from(vec![attribute.key.as_str()])).collect();
        let mut keys: Vec<&dyn Array> = vec![entries.keys];
        keys.extend(promoted_keys.iter().map(|key| key as &dyn Array));
        let key_sources: Vec<Source> =
            sources.iter().map(|(table, row)| (*table, if *table == 0 { *row } else { 0 })).collect();
        let keys = interleave(&keys, &key_sources)?;

        let DataType::Map(field, sorted) = attributes::map_type() else {
            return exec_err!("an attribute map is not a map");
        };
        let merged = StructArray::try_new(attributes::entry_fields(), vec![keys, values], None)?;
        let offsets = OffsetBuffer::new(ends.into());
        let map = MapArray::try_new(field, offsets, merged, residual.nulls().cloned(), sorted)?;
        Ok(ColumnarValue::Array(Arc::new(map)))
    }
}
