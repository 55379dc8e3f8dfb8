//! Ids as numbers, for grouping.
//!
//! Rows are grouped by numbers with maps made for them, by bytes of a fixed length with a general one. The number of an id is
//! its bytes as they lie in memory: 16 of them are a 128-bit integer, for which Arrow's decimal stands in, 8 are a 64-bit
//! one. Neither way copies a byte. The numbers mean nothing outside of one plan; neither function can be called in SQL.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Decimal128Array, FixedSizeBinaryArray, Int64Array, PrimitiveArray},
    buffer::{Buffer, ScalarBuffer},
    datatypes::{ArrowNativeType, ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Int64Type},
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use crate::{
    functions::scalar_if,
    model::ids::{SpanId, TraceId},
};

const TRACE_NUMBER: DataType = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0);
const TRACE_ID: DataType = DataType::FixedSizeBinary(TraceId::LEN as i32);
const SPAN_ID: DataType = DataType::FixedSizeBinary(SpanId::LEN as i32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    ToNumber,
    ToId,
}

/// `id_number(id)`, or `number_id(number)`, which undoes it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct IdNumber {
    direction: Direction,
    signature: Signature,
}

impl IdNumber {
    /// The number of an id. `None` if values of this type have none.
    pub fn of_id(id: Expr, data_type: &DataType) -> Option<Expr> {
        [TRACE_ID, SPAN_ID].contains(data_type).then(|| Self::call(Direction::ToNumber, id))
    }

    /// The id that has this number.
    pub fn to_id(number: Expr) -> Expr {
        Self::call(Direction::ToId, number)
    }

    fn call(direction: Direction, argument: Expr) -> Expr {
        let function = Self { direction, signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![argument]))
    }
}

impl ScalarUDFImpl for IdNumber {
    fn name(&self) -> &str {
        match self.direction {
            Direction::ToNumber => "id_number",
            Direction::ToId => "number_id",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let pairs = [(TRACE_ID, TRACE_NUMBER), (SPAN_ID, DataType::Int64)];
        for (id, number) in pairs {
            match self.direction {
                Direction::ToNumber if arg_types == [id.clone()] => return Ok(number),
                Direction::ToId if arg_types == [number] => return Ok(id),
                _ => {}
            }
        }
        plan_err!("{}() does not take {arg_types:?}", self.name())
    }

    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if self.direction == Direction::ToId
            && let [Expr::ScalarFunction(inner)] = args.as_slice()
            && inner.func.inner().downcast_ref::<Self>().is_some_and(|inner| inner.direction == Direction::ToNumber)
            && let [id] = inner.args.as_slice()
        {
            return Ok(ExprSimplifyResult::Simplified(id.clone()));
        }
        Ok(ExprSimplifyResult::Original(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [argument] = args.args.as_slice() else { return exec_err!("{}() takes one argument", self.name()) };
        let scalar = matches!(argument, ColumnarValue::Scalar(_));
        let argument = argument.to_array(if scalar { 1 } else { args.number_rows })?;
        let answer: ArrayRef = match (self.direction, argument.data_type()) {
            (Direction::ToNumber, id) if *id == TRACE_ID => {
                Arc::new(numbers::<Decimal128Type>(argument.as_fixed_size_binary()).with_data_type(TRACE_NUMBER))
            }
            (Direction::ToNumber, id) if *id == SPAN_ID => {
                Arc::new(numbers::<Int64Type>(argument.as_fixed_size_binary()))
            }
            (Direction::ToId, number) if *number == TRACE_NUMBER => {
                let numbers: &Decimal128Array = argument.as_primitive();
                Arc::new(ids(TraceId::LEN, numbers)?)
            }
            (Direction::ToId, DataType::Int64) => {
                let numbers: &Int64Array = argument.as_primitive();
                Arc::new(ids(SpanId::LEN, numbers)?)
            }
            (_, other) => return exec_err!("{}() does not take {other}", self.name()),
        };
        scalar_if(scalar, answer)
    }
}

fn numbers<T: ArrowPrimitiveType>(ids: &FixedSizeBinaryArray) -> PrimitiveArray<T> {
    let bytes = ids.values();
    let is_aligned = bytes.as_ptr().align_offset(align_of::<T::Native>()) == 0;
    let bytes = match is_aligned {
        true => bytes.clone(),
        // What is allocated here is aligned for all types.
        false => Buffer::from(bytes.as_slice()),
    };
    let whole = ids.len() * T::Native::get_byte_width();
    PrimitiveArray::new(ScalarBuffer::from(bytes.slice_with_length(0, whole)), ids.nulls().cloned())
}

fn ids<T: ArrowPrimitiveType>(length: usize, numbers: &PrimitiveArray<T>) -> Result<FixedSizeBinaryArray> {
    let bytes = numbers.values().inner().clone();
    Ok(FixedSizeBinaryArray::try_new(length as i32, bytes, numbers.nulls().cloned())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_it_was_after_being_a_number() {
        let traces = [Some([7_u8; 16]), None, Some([255; 16]), Some([0; 16])];
        let traces = FixedSizeBinaryArray::try_from_sparse_iter_with_size(traces.into_iter(), 16).unwrap();
        // A slice does not begin where memory does.
        for traces in [traces.clone(), traces.slice(1, 3)] {
            let back = ids(16, &numbers::<Decimal128Type>(&traces)).unwrap();
            assert_eq!(back, traces);
        }
        let spans = [Some([1_u8, 2, 3, 4, 5, 6, 7, 8]), Some([255; 8]), None];
        let spans = FixedSizeBinaryArray::try_from_sparse_iter_with_size(spans.into_iter(), 8).unwrap();
        let unaligned = Buffer::from(&b"x12345678abcdefgh"[..]).slice(1);
        let unaligned = FixedSizeBinaryArray::try_new(8, unaligned, None).unwrap();
        for spans in [spans.clone(), spans.slice(1, 2), unaligned] {
            let back = ids(8, &numbers::<Int64Type>(&spans)).unwrap();
            assert_eq!(back, spans);
        }
    }
}
