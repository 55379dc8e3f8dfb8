//! `item_has(events, 'key')`: whether an event or link of the span has an attribute.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    datatypes::DataType,
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use crate::functions::entries::Entries;

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
}

fn any_has(lists: &ArrayRef, key: &str) -> Result<BooleanArray> {
    let Some(list) = lists.as_list_opt::<i32>() else {
        return exec_err!("expected a list of events or links, got {}", lists.data_type());
    };
    let maps = list.values().as_struct_opt().and_then(|items| items.column_by_name("attributes"));
    let Some(maps) = maps else {
        return exec_err!("expected items with attributes, got {}", list.data_type());
    };
    let entries = Entries::try_new(maps)?;
    let (items, ends) = (list.value_offsets(), entries.offsets());
    let has = |row: usize| {
        // Of a row, the entries of all its items lie together.
        let range = ends[items[row] as usize] as usize..ends[items[row + 1] as usize] as usize;
        list.is_valid(row) && range.into_iter().any(|entry| entries.keys.value(entry) == key)
    };
    Ok((0..list.len()).map(|row| Some(has(row))).collect())
}
