//! `is_root(parent_span_id)`: whether a span has no parent.
//!
//! It is what `parent_span_id IS NULL` is, as a call that moves to the scan: where it is in memory which rows of the files are
//! roots ([`crate::storage::trace_rows`]), the scan answers from there, and parents' ids, a tenth of a file, are not decoded. It
//! cannot be called in SQL.

use std::sync::Arc;

use arrow::{compute::is_null, datatypes::DataType};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
    },
    physical_expr::{PhysicalExpr, ScalarFunctionExpr},
};

use crate::functions::placed_with;

/// Whether a span has no parent.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct IsRoot {
    signature: Signature,
}

impl IsRoot {
    /// Whether spans with these ids of parents are roots.
    pub fn of(parent_span_id: Expr) -> Expr {
        let function = Self { signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![parent_span_id]))
    }

    /// The argument, where an expression is a call of this function.
    pub(crate) fn called(expr: &dyn PhysicalExpr) -> Option<&Arc<dyn PhysicalExpr>> {
        ScalarFunctionExpr::try_downcast_func::<Self>(expr)?.args().first()
    }
}

impl ScalarUDFImpl for IsRoot {
    fn name(&self) -> &str {
        "is_root"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(parents)] => Ok(ColumnarValue::Array(Arc::new(is_null(parents)?))),
            [ColumnarValue::Scalar(parent)] => Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(parent.is_null())))),
            _ => exec_err!("is_root() takes one id"),
        }
    }
}
