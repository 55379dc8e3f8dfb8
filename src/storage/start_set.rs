//! "The span starts at one of these moments" as a predicate.
//!
//! A list of literals would do, but for its price: it is compared with the statistics of every page, moment by moment. The
//! predicate goes down to the files instead, where starts are decoded first and the other columns only for rows that pass
//! ([`crate::storage::scan`]).

use std::{hash::Hash, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray},
    buffer::BooleanBuffer,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col},
};

use crate::model::schema::column;

/// The name of the predicate in plans.
pub(crate) const STARTS_AT: &str = "starts_at";

/// Marks by hash, so that most moments are ruled out by one look.
const MARKS: usize = 1 << 14;

/// The predicate that a span starts at one of these moments, in Unix nanoseconds.
pub(crate) fn starts_at(moments: impl IntoIterator<Item = i64>) -> Expr {
    let mut moments: Vec<i64> = moments.into_iter().collect();
    moments.sort_unstable();
    moments.dedup();
    let mut marks = vec![false; MARKS];
    moments.iter().for_each(|moment| marks[mark(*moment)] = true);
    let signature = Signature::exact(vec![DataType::Int64], Volatility::Immutable);
    ScalarUDF::from(StartsAt { moments, marks, signature }).call(vec![col(column::START_TIME)])
}

fn mark(moment: i64) -> usize {
    ((moment as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - MARKS.trailing_zeros())) as usize
}

#[derive(Debug)]
struct StartsAt {
    moments: Vec<i64>,
    marks: Vec<bool>,
    signature: Signature,
}

impl StartsAt {
    fn holds(&self, start: i64) -> bool {
        self.marks[mark(start)] && self.moments.binary_search(&start).is_ok()
    }
}

impl PartialEq for StartsAt {
    fn eq(&self, other: &Self) -> bool {
        self.moments == other.moments
    }
}

impl Eq for StartsAt {}

impl Hash for StartsAt {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.moments.hash(state);
    }
}

impl ScalarUDFImpl for StartsAt {
    fn name(&self) -> &'static str {
        STARTS_AT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(starts)] => {
                let Some(starts) = starts.as_primitive_opt::<Int64Type>() else {
                    return exec_err!("a start has the type {}", starts.data_type());
                };
                let values = starts.values();
                let passes = BooleanBuffer::collect_bool(values.len(), |row| self.holds(values[row]));
                Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(passes, None))))
            }
            [ColumnarValue::Scalar(ScalarValue::Int64(Some(start)))] => {
                Ok(ColumnarValue::Scalar(ScalarValue::from(self.holds(*start))))
            }
            _ => exec_err!("{STARTS_AT} takes one start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_pass_and_no_others() {
        let moments = [i64::MIN, -1, 0, 7, 1_795_239_000_000_000_000, i64::MAX];
        let Expr::ScalarFunction(call) = starts_at(moments) else { panic!("no call") };
        let function = call.func.inner().downcast_ref::<StartsAt>().unwrap();
        assert!(moments.into_iter().all(|moment| function.holds(moment)));
        assert!((1..7).chain(8..100_000).all(|moment| !function.holds(moment)));
    }
}
