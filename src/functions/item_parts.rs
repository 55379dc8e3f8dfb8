//! `item_parts(events, 'value', 'key', ...)`: events or links of which only some parts matter.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Int64Array, ListArray, MapArray, StringArray, StructArray,
        new_null_array,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields},
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        lit,
    },
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::Literal},
};

use crate::functions::placed_with;

/// A part of events or links.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemPart {
    /// A field of their struct, such as the name, but for the attributes.
    Field(String),
    /// Whether they have an attribute.
    Has(String),
    /// The value of an attribute.
    Value(String),
}

impl ItemPart {
    const FIELD: &str = "field";
    const HAS: &str = "has";
    const VALUE: &str = "value";

    fn words(&self) -> [&str; 2] {
        match self {
            Self::Field(name) => [Self::FIELD, name],
            Self::Has(key) => [Self::HAS, key],
            Self::Value(key) => [Self::VALUE, key],
        }
    }

    fn of_words(kind: &str, name: &str) -> Option<Self> {
        match kind {
            Self::FIELD => Some(Self::Field(name.to_owned())),
            Self::HAS => Some(Self::Has(name.to_owned())),
            Self::VALUE => Some(Self::Value(name.to_owned())),
            _ => None,
        }
    }
}

/// Takes a list of structs that have an attribute map, and kinds and names of parts in turn, all of these literals. Gives
/// the list, in which everything else is left open: a stored batch can lack it, and then it reads as NULL, zero or empty
/// here. The items are all there.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ItemParts {
    signature: Signature,
}

impl Default for ItemParts {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ItemParts {
    /// The call of it.
    pub fn of(list: Expr, parts: &[ItemPart]) -> Expr {
        let words = parts.iter().flat_map(ItemPart::words).map(lit);
        ScalarUDF::from(Self::default()).call(std::iter::once(list).chain(words).collect())
    }

    /// The list and the parts of a call; `None` if it is none.
    pub fn called(expr: &dyn PhysicalExpr) -> Option<(&Arc<dyn PhysicalExpr>, Vec<ItemPart>)> {
        let call = ScalarFunctionExpr::try_downcast_func::<Self>(expr)?;
        let (list, words) = call.args().split_first()?;
        let word = |expr: &'_ Arc<dyn PhysicalExpr>| {
            Some(expr.downcast_ref::<Literal>()?.value().try_as_str().flatten()?.to_owned())
        };
        let parts = words.chunks_exact(2).map(|pair| ItemPart::of_words(&word(&pair[0])?, &word(&pair[1])?));
        Some((list, parts.collect::<Option<_>>()?))
    }
}

impl ScalarUDFImpl for ItemParts {
    fn name(&self) -> &str {
        "item_parts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.len().is_multiple_of(2) {
            return plan_err!("item_parts() takes a list, then kinds and names of parts in turn");
        }
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types.first() {
            Some(list) => Ok(list.clone()),
            None => plan_err!("item_parts() takes a list"),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.is_empty() {
            return exec_err!("item_parts() takes a list");
        }
        Ok(match args.args.swap_remove(0) {
            ColumnarValue::Array(list) => ColumnarValue::Array(filled(&list, args.return_field.data_type())?),
            scalar @ ColumnarValue::Scalar(_) => scalar,
        })
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args.first())
    }
}

/// The same values with everything that the type has besides. A map without values comes as the list of its keys.
fn filled(array: &ArrayRef, whole: &DataType) -> Result<ArrayRef> {
    if array.data_type() == whole {
        return Ok(Arc::clone(array));
    }
    Ok(match (array.data_type(), whole) {
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = filled(list.values(), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let parts = array.as_struct();
            let field = |field: &Arc<Field>| match parts.column_by_name(field.name()) {
                Some(column) => filled(column, field.data_type()),
                None => nothing(field, parts.len()),
            };
            let columns = fields.iter().map(field).collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, parts.nulls().cloned(), parts.len())?)
        }
        (DataType::Map(..), DataType::Map(entry, is_sorted)) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let entries = filled(&entries, entry.data_type())?.as_struct().clone();
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries, nulls, *is_sorted)?)
        }
        (DataType::List(_), DataType::Map(entry, is_sorted)) => {
            let (list, fields) = (array.as_list::<i32>(), entry_fields(entry)?);
            let columns = vec![Arc::clone(list.values()), nothing(&fields[1], list.values().len())?];
            let entries = StructArray::try_new(fields.clone(), columns, None)?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries, nulls, *is_sorted)?)
        }
        (part, whole) => return exec_err!("{part} is no part of {whole}"),
    })
}

fn entry_fields(entry: &Field) -> Result<&Fields> {
    match entry.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok(fields),
        other => exec_err!("expected the entries of a map, got {other}"),
    }
}

/// Values of a field that was left out.
fn nothing(field: &Field, rows: usize) -> Result<ArrayRef> {
    if field.is_nullable() {
        return Ok(new_null_array(field.data_type(), rows));
    }
    Ok(match field.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        DataType::Utf8 => Arc::new(StringArray::from(vec![""; rows])),
        DataType::Binary => Arc::new(BinaryArray::from(vec![&b""[..]; rows])),
        DataType::Map(entry, is_sorted) => {
            let columns = entry_fields(entry)?.iter().map(|field| nothing(field, 0)).collect::<Result<Vec<_>>>()?;
            let entries = StructArray::try_new(entry_fields(entry)?.clone(), columns, None)?;
            Arc::new(MapArray::try_new(Arc::clone(entry), OffsetBuffer::new_zeroed(rows), entries, None, *is_sorted)?)
        }
        other => return exec_err!("a field of the type {other} cannot be left out"),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringBuilder};

    use super::*;
    use crate::model::{attributes::map_type, schema::event_fields};

    fn list_of(fields: impl Into<Fields>, columns: Vec<ArrayRef>, lengths: &[usize]) -> ArrayRef {
        let items = StructArray::try_new(fields.into(), columns, None).unwrap();
        let element = Arc::new(Field::new("element", items.data_type().clone(), false));
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::try_new(element, offsets, Arc::new(items), None).unwrap())
    }

    fn whole() -> DataType {
        DataType::List(Arc::new(Field::new("element", DataType::Struct(event_fields()), false)))
    }

    #[test]
    fn what_a_file_was_not_asked_for_is_filled_in_and_what_it_was_asked_for_stays() {
        let mut keys = ListBuilder::new(StringBuilder::new()).with_field(Field::new("key", DataType::Utf8, false));
        keys.append_value([Some("a"), Some("b")]);
        keys.append_value([] as [Option<&str>; 0]);
        keys.append_value([Some("c")]);
        let keys: ArrayRef = Arc::new(keys.finish());
        let names: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
        let only_keys = vec![Field::new("attributes", keys.data_type().clone(), false)];
        let list = filled(&list_of(only_keys, vec![keys], &[0, 2, 1]), &whole()).unwrap();
        assert_eq!(list.data_type(), &whole());
        let items = list.as_list::<i32>().value(1);
        let map = items.as_struct().column_by_name("attributes").unwrap().as_map().clone();
        assert_eq!(map.value_offsets(), [0, 2, 2]);
        assert_eq!(map.keys().as_string::<i32>().iter().flatten().take(2).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((map.values().null_count(), list.as_list::<i32>().value_length(0)), (map.values().len(), 0));
        let only_names = vec![Field::new("name", DataType::Utf8, false)];
        let list = filled(&list_of(only_names, vec![Arc::clone(&names)], &[1, 2]), &whole()).unwrap();
        let items = list.as_list::<i32>().values().as_struct().clone();
        assert_eq!(items.column_by_name("name").unwrap(), &names);
        let attributes = items.column_by_name("attributes").unwrap();
        assert_eq!((attributes.data_type(), attributes.len()), (&map_type(), 3));
        assert!(filled(&names, &whole()).is_err());
    }
}
