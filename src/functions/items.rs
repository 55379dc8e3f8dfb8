//! `item_has(events, 'key')`: whether an event or link of the span has an attribute.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, StringArray},
    datatypes::DataType,
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ExpressionPlacement, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

/// Takes a list of structs that have an attribute map, and a literal key. False for a row without items. A file of which it
/// is known that none of its items has the key is not read for it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ItemHas {
    signature: Signature,
}

impl Default for ItemHas {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ItemHas {
    fn name(&self) -> &str {
        "item_has"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [lists, ColumnarValue::Scalar(key)] = args.args.as_slice() else {
            return exec_err!("item_has() takes a list and a literal key");
        };
        let key = key.try_as_str().flatten().unwrap_or_default();
        let lists = lists.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(Arc::new(any_has(&lists, key)?)))
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        match args {
            [ExpressionPlacement::Column, ExpressionPlacement::Literal] => ExpressionPlacement::MoveTowardsLeafNodes,
            _ => ExpressionPlacement::KeepInPlace,
        }
    }
}

fn any_has(lists: &ArrayRef, key: &str) -> Result<BooleanArray> {
    let Some(list) = lists.as_list_opt::<i32>() else {
        return exec_err!("expected a list of events or links, got {}", lists.data_type());
    };
    let maps = list.values().as_struct_opt().and_then(|items| items.column_by_name("attributes"));
    let Some(maps) = maps else {
        return exec_err!("expected items with attributes, got {}", list.data_type());
    };
    let (ends, keys) = keys_of(maps)?;
    let (items, bytes) = (list.value_offsets(), keys.value_offsets());
    let is_key = |entry: usize| {
        let (start, end) = (bytes[entry] as usize, bytes[entry + 1] as usize);
        &keys.value_data()[start..end] == key.as_bytes()
    };
    let mut found = BooleanBufferBuilder::new(list.len());
    found.append_n(list.len(), false);
    for (row, ends_of_row) in items.windows(2).enumerate() {
        // Most spans have no item. Of a row, the entries of all its items lie together.
        let [start, end] = *ends_of_row else { continue };
        if start < end && list.is_valid(row) {
            let mut entries = ends[start as usize] as usize..ends[end as usize] as usize;
            found.set_bit(row, entries.any(is_key));
        }
    }
    Ok(BooleanArray::from(found.finish()))
}

/// Where the keys of each map start, and those of all maps. A map of which nothing but keys was read is a list of them.
fn keys_of(maps: &ArrayRef) -> Result<(&[i32], &StringArray)> {
    let (offsets, keys) = match maps.data_type() {
        DataType::Map(..) => (maps.as_map().value_offsets(), maps.as_map().keys()),
        DataType::List(_) => (maps.as_list::<i32>().value_offsets(), maps.as_list::<i32>().values()),
        other => return exec_err!("expected attributes, got {other}"),
    };
    match keys.as_string_opt() {
        Some(keys) => Ok((offsets, keys)),
        None => exec_err!("expected keys of attributes, got {}", keys.data_type()),
    }
}
