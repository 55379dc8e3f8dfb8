//! `attr_assemble(residual, 'key', column, ...)`: the whole map of a scope out of what is stored.

use std::{iter::Peekable, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, MapArray, StringArray, StructArray, new_null_array},
    buffer::OffsetBuffer,
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

/// A promoted column as values of attributes.
struct Promoted {
    key: String,
    column: ArrayRef,
    values: StructArray,
}

impl Promoted {
    fn try_new(key: &ColumnarValue, column: ArrayRef) -> Result<Self> {
        let key = match key {
            ColumnarValue::Scalar(key) => key.try_as_str().flatten(),
            ColumnarValue::Array(_) => None,
        };
        let Some(key) = key else { return exec_err!("the keys given to attr_assemble() have to be literals") };
        let fields = attributes::value_fields();
        let Some(value_type) = value_type(column.data_type()) else {
            return exec_err!("an attribute column cannot have the type {}", column.data_type());
        };
        let columns = fields
            .iter()
            .map(|field| match field.name() == value_type.value_field() {
                true => Arc::clone(&column),
                false => new_null_array(field.data_type(), column.len()),
            })
            .collect();
        let values = StructArray::try_new(fields, columns, None)?;
        Ok(Self { key: key.to_owned(), column, values })
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

        let mut values: Vec<&dyn Array> = vec![entries.values];
        values.extend(promoted.iter().map(|attribute| &attribute.values as &dyn Array));
        let values = interleave(&values, &sources)?;
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
