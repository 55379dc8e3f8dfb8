//! `traceql_item_has(events, 'key')`: whether an event or link of the span has an attribute.

use std::sync::Arc;

use arrow::{array::BooleanArray, datatypes::DataType};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit,
    },
};

use super::rows::Lists;

/// Whether an item of the list column has the key.
pub(super) fn exists(list: &str, key: &str) -> Expr {
    ScalarUDF::from(ItemHas { signature: Signature::any(2, Volatility::Immutable) }).call(vec![col(list), lit(key)])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ItemHas {
    signature: Signature,
}

impl ScalarUDFImpl for ItemHas {
    fn name(&self) -> &str {
        "traceql_item_has"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [lists, ColumnarValue::Scalar(key)] = args.args.as_slice() else {
            return exec_err!("traceql_item_has() takes a list and a key");
        };
        let key = key.try_as_str().flatten().unwrap_or_default();
        let lists = lists.to_array(args.number_rows)?;
        let lists = Lists::try_new(&lists)?;
        let answer: BooleanArray = (0..lists.num_rows()).map(|row| Some(lists.any_has(row, key))).collect();
        Ok(ColumnarValue::Array(Arc::new(answer)))
    }
}
