//! `traceql_matches(...)`: a condition of TraceQL, evaluated span by span.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{array::BooleanArray, datatypes::DataType};
use datafusion::{
    common::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit,
    },
};

use super::inputs::{self, Inputs};
use crate::{model::schema::column, traceql::plan::Condition};

/// Whether the condition holds for a span; never NULL.
pub(super) fn call(condition: &Condition) -> Expr {
    let mut fields = Vec::new();
    condition.for_each_field(&mut |name| fields.push(name.clone()));
    let mut inputs = Inputs::new(fields);
    let root = inputs.arg(col(column::PARENT_SPAN_ID).is_null());
    // The text comes first, for whoever reads the plan.
    let mut args = vec![lit(condition.to_string())];
    args.extend(inputs.args.iter().cloned());
    let signature = Signature::variadic_any(Volatility::Immutable);
    let text = condition.to_string();
    ScalarUDF::from(Matches { condition: condition.clone(), text, inputs, root, signature }).call(args)
}

#[derive(Debug)]
struct Matches {
    condition: Condition,
    /// The condition as text, which tells it from others.
    text: String,
    inputs: Inputs,
    /// The argument that says whether a span has no parent.
    root: usize,
    signature: Signature,
}

impl PartialEq for Matches {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Matches {}

impl Hash for Matches {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for Matches {
    fn name(&self) -> &str {
        "traceql_matches"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = inputs::arrays(&args)?;
        let columns = columns.get(1..).unwrap_or_default();
        let rows = self.inputs.rows(columns)?;
        let Some(roots) = columns.get(self.root).and_then(|column| arrow::array::AsArray::as_boolean_opt(column))
        else {
            return datafusion::common::exec_err!("traceql_matches() lacks an argument");
        };
        let holds = |row: usize| {
            let is_root = roots.value(row);
            rows.any(row, |focus| self.condition.holds(&|name| rows.get(name, focus), is_root))
        };
        let answer: BooleanArray = (0..roots.len()).map(|row| Some(holds(row))).collect();
        Ok(ColumnarValue::Array(Arc::new(answer)))
    }
}
