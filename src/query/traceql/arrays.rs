//! `traceql_array(json)`: whether a comparison holds for an attribute that is an array.
//!
//! Arrays rest as JSON text. Anything else than an array is false here, NULL too, so that the call folds to false for a
//! file that has no nested value under the key.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, BooleanArray},
    buffer::BooleanBuffer,
    datatypes::DataType,
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};

use super::rows::array_of_json;
use crate::traceql::plan::{Condition, Dynamic};

/// Whether `condition`, a comparison of one field with a constant, holds for the array in `json`.
pub(super) fn holds(json: Expr, condition: &Condition) -> Expr {
    let text = condition.to_string();
    let signature = Signature::exact(vec![DataType::Utf8], Volatility::Immutable);
    ScalarUDF::from(ArrayHolds { condition: condition.clone(), text, signature }).call(vec![json])
}

#[derive(Debug)]
struct ArrayHolds {
    condition: Condition,
    /// The condition as text, which tells it from others.
    text: String,
    signature: Signature,
}

impl PartialEq for ArrayHolds {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ArrayHolds {}

impl Hash for ArrayHolds {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for ArrayHolds {
    fn name(&self) -> &str {
        "traceql_array"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let holds = |json: Option<&str>| {
            let array = json.map_or(Dynamic::Opaque, array_of_json);
            matches!(array, Dynamic::Array(_)) && self.condition.holds(&|_| array.clone(), false)
        };
        match args.args.as_slice() {
            [ColumnarValue::Scalar(json)] => {
                Ok(ColumnarValue::Scalar(ScalarValue::from(holds(json.try_as_str().flatten()))))
            }
            [ColumnarValue::Array(json)] => {
                let json = json.as_string::<i32>();
                if json.null_count() == json.len() {
                    let nothing = BooleanArray::new(BooleanBuffer::new_unset(json.len()), None);
                    return Ok(ColumnarValue::Array(Arc::new(nothing)));
                }
                let answer: BooleanArray =
                    (0..json.len()).map(|row| Some(holds(json.is_valid(row).then(|| json.value(row))))).collect();
                Ok(ColumnarValue::Array(Arc::new(answer)))
            }
            _ => exec_err!("traceql_array() takes one argument"),
        }
    }
}
