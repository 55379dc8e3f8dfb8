//! `sketch_quantile(sketch, q)` and `sketch_count(sketch)`.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int64Array},
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    common::{Result, exec_datafusion_err, exec_err, plan_err},
    logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::histogram::Histogram;
use crate::functions::{documentation::documentation_of, scalar_if};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Read {
    Quantile,
    Count,
}

/// A function that reads sketches.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SketchRead {
    read: Read,
    signature: Signature,
}

impl SketchRead {
    pub(super) fn all() -> [Self; 2] {
        [Read::Quantile, Read::Count]
            .map(|read| Self { read, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for SketchRead {
    fn name(&self) -> &str {
        match self.read {
            Read::Quantile => "sketch_quantile",
            Read::Count => "sketch_count",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let is_sketch = |given: &DataType| given.is_binary() || given.is_null();
        let is_number = |given: &DataType| given.is_numeric() || given.is_null();
        match (self.read, arg_types) {
            (Read::Quantile, [sketch, q]) if is_sketch(sketch) && is_number(q) => {
                Ok(vec![DataType::Binary, DataType::Float64])
            }
            (Read::Count, [sketch]) if is_sketch(sketch) => Ok(vec![DataType::Binary]),
            (Read::Quantile, _) => plan_err!("sketch_quantile() takes a sketch and a number from 0 to 1"),
            (Read::Count, _) => plan_err!("sketch_count() takes a sketch"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.read {
            Read::Quantile => DataType::Float64,
            Read::Count => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = self.name();
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let Some(sketches) = arrays.first() else { return exec_err!("{name}() takes a sketch") };
        let sketches = sketches.as_binary::<i32>();
        let read = |row: usize| -> Result<Option<Histogram>> {
            if sketches.is_null(row) {
                return Ok(None);
            }
            let sketch = Histogram::from_bytes(sketches.value(row));
            sketch.map(Some).ok_or_else(|| exec_datafusion_err!("a value given to {name}() is not a sketch"))
        };
        let answer: ArrayRef = match (self.read, arrays.get(1)) {
            (Read::Quantile, Some(shares)) => {
                let shares = shares.as_primitive::<Float64Type>();
                let quantile = |row: usize| -> Result<Option<f64>> {
                    let share = shares.is_valid(row).then(|| shares.value(row));
                    if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                        return exec_err!("sketch_quantile() takes a number from 0 to 1, got {share}");
                    }
                    Ok(read(row)?.zip(share).and_then(|(sketch, share)| sketch.quantile(share)))
                };
                Arc::new((0..rows).map(quantile).collect::<Result<Float64Array>>()?)
            }
            _ => {
                let count = |row: usize| -> Result<Option<i64>> {
                    Ok(read(row)?.map(|sketch| i64::try_from(sketch.count()).unwrap_or(i64::MAX)))
                };
                Arc::new((0..rows).map(count).collect::<Result<Int64Array>>()?)
            }
        };
        scalar_if(all_scalar, answer)
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }
}
