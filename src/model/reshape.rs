//! Moving attributes between their columns and the residual map of their scope.
//!
//! Rows that were written under one set of promoted attributes are brought under another: values of a promoted attribute
//! go from the map to its column, those of a column that is no longer wanted, or has another type now, go back. A value
//! never changes its type, and no value is in both places.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayBuilder, ArrayRef, AsArray, MapArray, StringArray, StructArray, UInt32Array, UInt32Builder,
        new_null_array,
    },
    buffer::OffsetBuffer,
    compute::{interleave, is_not_null, kernels::zip::zip, take},
    datatypes::DataType,
    error::ArrowError,
};

use crate::model::{
    attributes::{AttributeScope, AttributeType, entry_fields, map_type, value_fields},
    promotion::{PromotedAttribute, Promotion},
};

/// The attributes of one scope, row by row.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumns {
    /// The map of attributes that have no column.
    pub(crate) residual: ArrayRef,
    /// The columns of the others.
    pub(crate) promoted: Vec<(PromotedAttribute, ArrayRef)>,
}

/// Brings rows under `target`: columns that it does not have go, and no value stays in the map that has a column there.
/// Columns without a value are left out.
pub(crate) fn reshape(
    scope: AttributeScope,
    columns: ScopeColumns,
    target: &Promotion,
) -> Result<ScopeColumns, ArrowError> {
    let ScopeColumns { residual, promoted } = columns;
    let rows = residual.len();
    let wanted = |attribute: &PromotedAttribute| target.get(scope, &attribute.key) == Some(attribute);
    let with_values = promoted.into_iter().filter(|(_, column)| column.null_count() < column.len());
    let (mut staying, leaving): (Vec<_>, Vec<_>) = with_values.partition(|(attribute, _)| wanted(attribute));

    let map = residual.as_map_opt().ok_or_else(|| ArrowError::SchemaError("expected an attribute map".to_owned()))?;
    let sorted = Sorted::of(scope, map, target);
    if sorted.taken.iter().all(Option::is_none) && leaving.is_empty() {
        return Ok(ScopeColumns { residual, promoted: staying });
    }
    for (attribute, taken) in target.attributes().iter().zip(sorted.taken) {
        let Some(mut taken) = taken else { continue };
        taken.append_nulls(rows - taken.len());
        let field = attribute.value_type as usize;
        let values = take(map.values().as_struct().column(field), &taken.finish(), None)?;
        match staying.iter_mut().find(|(known, _)| known == attribute) {
            None => staying.push((attribute.clone(), values)),
            Some((_, column)) => *column = zip(&is_not_null(column)?, column, &values)?,
        }
    }
    let residual = match leaving.is_empty() {
        true => kept_entries(map, &sorted.kept, sorted.ends)?,
        false => merged_entries(map, &sorted.kept, &sorted.ends, leaving)?,
    };
    Ok(ScopeColumns { residual, promoted: staying })
}

/// The entries of a map, by where they go.
struct Sorted {
    /// Entries that stay, row after row.
    kept: Vec<u32>,
    /// Start of each row among them, and the end of the last.
    ends: Vec<i32>,
    /// At the place of each attribute of the target: for each row up to the last with a value, the entry that has it.
    taken: Vec<Option<UInt32Builder>>,
}

impl Sorted {
    fn of(scope: AttributeScope, map: &MapArray, target: &Promotion) -> Self {
        let (offsets, keys) = (map.value_offsets(), map.keys().as_string::<i32>());
        let values = map.values().as_struct();
        let mut taken: Vec<Option<UInt32Builder>> = target.attributes().iter().map(|_| None).collect();
        let mut kept = Vec::with_capacity((offsets[map.len()] - offsets[0]) as usize);
        let mut ends = Vec::with_capacity(map.len() + 1);
        ends.push(0);
        for row in 0..map.len() {
            for entry in offsets[row]..offsets[row + 1] {
                let entry = entry as usize;
                let place = target.position(scope, keys.value(entry)).filter(|place| {
                    let field = target.attributes()[*place].value_type as usize;
                    values.column(field).is_valid(entry)
                });
                match place {
                    None => kept.push(entry as u32),
                    Some(place) => {
                        let taken = taken[place].get_or_insert_with(|| UInt32Builder::with_capacity(map.len()));
                        taken.append_nulls(row - taken.len());
                        taken.append_value(entry as u32);
                    }
                }
            }
            ends.push(kept.len() as i32);
        }
        Self { kept, ends, taken }
    }
}

fn kept_entries(map: &MapArray, kept: &[u32], ends: Vec<i32>) -> Result<ArrayRef, ArrowError> {
    let kept = UInt32Array::from(kept.to_vec());
    let keys = take(map.keys(), &kept, None)?;
    let values = take(map.values(), &kept, None)?;
    new_map(keys, values, ends)
}

/// The kept entries with the values of some columns among them, in the order of the keys.
fn merged_entries(
    map: &MapArray,
    kept: &[u32],
    ends: &[i32],
    mut columns: Vec<(PromotedAttribute, ArrayRef)>,
) -> Result<ArrayRef, ArrowError> {
    columns.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
    let keys = map.keys().as_string::<i32>();
    // Table 0 is the map, table `i + 1` the column `i`.
    let mut sources: Vec<(usize, usize)> = Vec::with_capacity(kept.len() + map.len());
    let mut merged_ends = Vec::with_capacity(ends.len());
    merged_ends.push(0);
    for row in 0..map.len() {
        let mut left = kept[ends[row] as usize..ends[row + 1] as usize].iter().map(|entry| *entry as usize).peekable();
        for (index, (attribute, column)) in columns.iter().enumerate() {
            if column.is_null(row) {
                continue;
            }
            while let Some(entry) = left.next_if(|entry| keys.value(*entry) < &*attribute.key) {
                sources.push((0, entry));
            }
            sources.push((index + 1, row));
        }
        sources.extend(left.map(|entry| (0, entry)));
        let end = i32::try_from(sources.len())
            .map_err(|_| ArrowError::InvalidArgumentError(format!("more than {} attributes in a batch", i32::MAX)))?;
        merged_ends.push(end);
    }
    let values = columns.iter().map(|(attribute, column)| as_values(attribute.value_type, column));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let mut value_tables: Vec<&dyn Array> = vec![map.values()];
    value_tables.extend(values.iter().map(|values| values as &dyn Array));
    let values = interleave(&value_tables, &sources)?;

    let column_keys: Vec<StringArray> =
        columns.iter().map(|(attribute, _)| StringArray::from(vec![&*attribute.key])).collect();
    let mut key_tables: Vec<&dyn Array> = vec![map.keys()];
    key_tables.extend(column_keys.iter().map(|key| key as &dyn Array));
    let key_sources: Vec<_> = sources.iter().map(|(table, row)| (*table, if *table == 0 { *row } else { 0 })).collect();
    new_map(interleave(&key_tables, &key_sources)?, values, merged_ends)
}

/// A column as the values of a map.
fn as_values(value_type: AttributeType, column: &ArrayRef) -> Result<StructArray, ArrowError> {
    let fields = value_fields();
    let children = fields
        .iter()
        .enumerate()
        .map(|(index, field)| match index == value_type as usize {
            true => Arc::clone(column),
            false => new_null_array(field.data_type(), column.len()),
        })
        .collect();
    StructArray::try_new(fields, children, None)
}

fn new_map(keys: ArrayRef, values: ArrayRef, ends: Vec<i32>) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(field, sorted) = map_type() else {
        return Err(ArrowError::SchemaError("the type of an attribute map is a map".to_owned()));
    };
    let entries = StructArray::try_new(entry_fields(), vec![keys, values], None)?;
    Ok(Arc::new(MapArray::try_new(field, OffsetBuffer::new(ends.into()), entries, None, sorted)?))
}
