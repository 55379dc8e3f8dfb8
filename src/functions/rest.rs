//! `attr_rest(map, 'key', 'type', ...)`: the attributes of a scope but for those that are asked for one by one.

use arrow::datatypes::DataType;
use datafusion::{
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ExpressionPlacement, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use crate::{
    functions::placed_with,
    model::attributes::{self, AttributeType},
};

/// Takes a map, and keys with types of value in turn, all of these literals. Gives the map; whether values that are listed
/// are in it is open, so the caller takes them from `attr_str` and the like and skips them here. A stored batch then need
/// not put its columns of listed attributes back into a map. Where nothing else can be there, it can be NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AttrRest {
    signature: Signature,
}

impl Default for AttrRest {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AttrRest {
    /// What a type of value is called among the arguments.
    pub fn type_name(value_type: AttributeType) -> &'static str {
        value_type.value_field()
    }
}

impl ScalarUDFImpl for AttrRest {
    fn name(&self) -> &str {
        "attr_rest"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.len().is_multiple_of(2) {
            return plan_err!("attr_rest() takes a map, then keys and types in turn");
        }
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(attributes::map_type())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.is_empty() {
            return exec_err!("attr_rest() takes a map");
        }
        Ok(args.args.swap_remove(0))
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args.first())
    }
}
