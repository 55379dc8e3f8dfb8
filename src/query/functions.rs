//! Functions that the views use to give events and links the shape that people see.
//!
//! | function | answer |
//! |---|---|
//! | `event_list(events)`, `link_list(links)` | times become timestamps, ids become hex text |
//! | `list_field(list, 'name')` | of a list of structs, the list of one field |

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, ListArray, StringBuilder, StructArray},
        compute::{cast, is_null, nullif},
        datatypes::{DataType, Field, FieldRef, Fields, TimeUnit},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

/// `event_list(events)` and `link_list(links)`: times become timestamps, ids become hex text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Shaped {
    name: &'static str,
    signature: Signature,
}

/// The functions that the views need besides those of [`crate::functions`].
pub(crate) fn view_functions() -> Vec<Arc<ScalarUDF>> {
    ["event_list", "link_list"]
        .into_iter()
        .map(|name| Shaped { name, signature: Signature::any(1, Volatility::Immutable) })
        .map(ScalarUDF::from)
        .chain([ScalarUDF::from(ListField { signature: Signature::any(2, Volatility::Immutable) })])
        .map(Arc::new)
        .collect()
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")))
}

/// The shape of one field of an event or link.
fn shaped_field(field: &FieldRef) -> FieldRef {
    match (field.name().as_str(), field.data_type()) {
        ("time_unix_nano", DataType::Int64) => Arc::new(Field::new("time", time_type(), field.is_nullable())),
        (name, DataType::Binary) => Arc::new(Field::new(name, DataType::Utf8, field.is_nullable())),
        _ => Arc::clone(field),
    }
}

fn shaped_item(item: &FieldRef) -> Option<(FieldRef, Fields)> {
    let DataType::Struct(fields) = item.data_type() else { return None };
    let fields: Fields = fields.iter().map(shaped_field).collect();
    Some((Arc::new(Field::new(item.name(), DataType::Struct(fields.clone()), item.is_nullable())), fields))
}

fn shaped_array(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Int64 => cast(array, &time_type())?,
        DataType::Binary => {
            let ids = array.as_binary::<i32>();
            let mut text = StringBuilder::with_capacity(ids.len(), 2 * ids.value_data().len());
            for id in ids.iter() {
                text.append_option(id.map(hex::encode));
            }
            Arc::new(text.finish())
        }
        _ => Arc::clone(array),
    })
}

impl ScalarUDFImpl for Shaped {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [DataType::List(item)] => match shaped_item(item) {
                Some((item, _)) => Ok(DataType::List(item)),
                None => plan_err!("{}() takes a list of events or links", self.name),
            },
            _ => plan_err!("{}() takes a list of events or links", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list] = args.args.as_slice() else { return exec_err!("{}() takes one argument", self.name) };
        let list = list.to_array(args.number_rows)?;
        let list: &ListArray = list.as_list();
        let DataType::List(item) = list.data_type() else { return exec_err!("{}() takes a list", self.name) };
        let Some((item, fields)) = shaped_item(item) else { return exec_err!("{}() takes structs", self.name) };
        let values = list.values().as_struct();
        let columns = values
            .columns()
            .iter()
            .zip(values.fields())
            .zip(&fields)
            .map(|((column, inside), outside)| match inside.data_type() == outside.data_type() {
                true => Ok(Arc::clone(column)),
                false => shaped_array(column),
            })
            .collect::<Result<Vec<_>>>()?;
        let values = StructArray::try_new(fields, columns, values.nulls().cloned())?;
        let list = ListArray::try_new(item, list.offsets().clone(), Arc::new(values), list.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

/// `list_field(list, 'name')`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ListField {
    signature: Signature,
}

impl ScalarUDFImpl for ListField {
    fn name(&self) -> &str {
        "list_field"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("list_field() takes a list of structs and the name of a field")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = match (args.arg_fields, args.scalar_arguments) {
            ([list, _], [_, Some(name)]) => named_field(list.data_type(), name),
            _ => None,
        };
        match field {
            Some((_, field)) => {
                let item = Field::new("item", field.data_type().clone(), field.is_nullable());
                Ok(Arc::new(Field::new(self.name(), DataType::List(Arc::new(item)), true)))
            }
            None => plan_err!("list_field() takes a list of structs and the name of a field as text"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list, ColumnarValue::Scalar(name)] = args.args.as_slice() else {
            return exec_err!("list_field() takes a list of structs and the name of a field as text");
        };
        let list = list.to_array(args.number_rows)?;
        let Some((index, field)) = named_field(list.data_type(), name) else {
            return exec_err!("list_field() takes a list of structs and the name of a field as text");
        };
        let list: &ListArray = list.as_list();
        let structs = list.values().as_struct();
        let values = match structs.nulls() {
            None => Arc::clone(structs.column(index)),
            // A field of a struct that is NULL is NULL, whatever lies below.
            Some(_) => nullif(structs.column(index), &is_null(structs)?)?,
        };
        let item = Arc::new(Field::new("item", field.data_type().clone(), field.is_nullable()));
        let list = ListArray::try_new(item, list.offsets().clone(), values, list.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

/// Position and field of `name` in the structs of a list.
fn named_field<'a>(list: &'a DataType, name: &ScalarValue) -> Option<(usize, &'a FieldRef)> {
    let DataType::List(item) = list else { return None };
    let DataType::Struct(fields) = item.data_type() else { return None };
    fields.find(name.try_as_str()??)
}
