//! `traceql_compute(...)`: the value of an expression on one span, as grouping and aggregates take it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{array::AsArray, datatypes::DataType};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit,
    },
};

use super::{
    inputs::{self, Inputs},
    shown::{ValueBuilder, shows},
};
use crate::{
    model::{attributes::value_fields, schema::column},
    traceql::plan::{Dynamic, Value},
};

/// The value as the struct that attribute values are: status and kind as words, durations as integers. A field of events
/// or links is that of the first one that has it, each field by itself.
pub(crate) fn call(value: &Value) -> Expr {
    let mut fields = Vec::new();
    value.for_each_field(&mut |name| fields.push(name.clone()));
    let mut inputs = Inputs::new(fields);
    let root = inputs.arg(col(column::PARENT_SPAN_ID).is_null());
    let text = value.to_string();
    let mut args = vec![lit(text.as_str())];
    args.extend(inputs.args.iter().cloned());
    let signature = Signature::variadic_any(Volatility::Immutable);
    ScalarUDF::from(Computed { value: value.clone(), text, inputs, root, signature }).call(args)
}

#[derive(Debug)]
struct Computed {
    value: Value,
    /// The value as text, which tells it from others.
    text: String,
    inputs: Inputs,
    /// The argument that says whether a span has no parent.
    root: usize,
    signature: Signature,
}

impl PartialEq for Computed {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Computed {}

impl Hash for Computed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for Computed {
    fn name(&self) -> &str {
        "traceql_compute"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(value_fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = inputs::arrays(&args)?;
        let columns = columns.get(1..).unwrap_or_default();
        let rows = self.inputs.rows(columns)?;
        let Some(roots) = columns.get(self.root).and_then(|column| column.as_boolean_opt()) else {
            return exec_err!("traceql_compute() lacks an argument");
        };
        let mut builder = ValueBuilder::default();
        for row in 0..roots.len() {
            let found = |name: &_| {
                let focus = rows.first(row, |focus| rows.find(name, focus).is_some_and(|found| shows(&found)))?;
                rows.find(name, focus)
            };
            let value =
                self.value.of(&|name| found(name).map_or(Dynamic::Missing, |found| found.value()), roots.value(row));
            let json = match &self.value {
                Value::Field(name) => found(name).and_then(|found| found.json()),
                _ => None,
            };
            builder.append(&value, json);
        }
        Ok(ColumnarValue::Array(Arc::new(builder.finish()?)))
    }
}
