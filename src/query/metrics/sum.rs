//! `exact_sum(value)`: a sum of floats that does not depend on the order of the values.
//!
//! Spans come in another order whenever files are merged or threads are scheduled differently, and a plain sum of floats
//! then differs in its last digits. Here a sum is kept as two floats, the second being what the first cannot hold. That
//! is exact for integers, durations among them, and for others right to far more digits than the answer shows.

use std::{mem::size_of, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array},
        datatypes::{DataType, Field, FieldRef, Float64Type},
    },
    common::{Result, ScalarValue, internal_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};

/// The sum of a float expression; 0 of no values.
pub(crate) fn exact_sum(value: Expr) -> Expr {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
    Arc::new(AggregateUDF::from(ExactSum { signature })).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactSum {
    signature: Signature,
}

/// A number as the sum of two floats, of which the second is small.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.merge(Sum { high: value, low: 0.0 });
    }

    fn merge(&mut self, other: Sum) {
        let sum = self.high + other.high;
        if !sum.is_finite() {
            (self.high, self.low) = (sum, 0.0);
            return;
        }
        let part = sum - self.high;
        let lost = (self.high - (sum - part)) + (other.high - part);
        let low = self.low + other.low + lost;
        self.high = sum + low;
        self.low = low - (self.high - sum);
    }

    fn value(self) -> f64 {
        self.high + self.low
    }
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &str {
        "exact_sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneSum::default()))
    }

    fn state_fields(&self, _: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |name: &str| Arc::new(Field::new(name, DataType::Float64, true));
        Ok(vec![field("exact_sum[high]"), field("exact_sum[low]")])
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Sums::default()))
    }
}

#[derive(Debug, Default)]
struct OneSum(Sum);

impl Accumulator for OneSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = values else { return internal_err!("exact_sum() got {} arguments", values.len()) };
        values.as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.0.add(value));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::from(self.0.value()))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::from(self.0.high), ScalarValue::from(self.0.low)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for sum in sums_of(states)? {
            self.0.merge(sum);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

fn sums_of(states: &[ArrayRef]) -> Result<impl Iterator<Item = Sum>> {
    let [high, low] = states else { return internal_err!("exact_sum() got {} states", states.len()) };
    let (high, low) = (high.as_primitive::<Float64Type>(), low.as_primitive::<Float64Type>());
    Ok(high.values().iter().zip(low.values()).map(|(high, low)| Sum { high: *high, low: *low }))
}

#[derive(Debug, Default)]
struct Sums(Vec<Sum>);

impl Sums {
    fn take(&mut self, emit_to: EmitTo) -> Vec<Sum> {
        emit_to.take_needed(&mut self.0)
    }
}

impl GroupsAccumulator for Sums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_total: usize,
    ) -> Result<()> {
        let [values] = values else { return internal_err!("exact_sum() got {} arguments", values.len()) };
        self.0.resize(groups_total, Sum::default());
        let values = values.as_primitive::<Float64Type>();
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                self.0[*group].add(values.value(row));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Float64Array::from_iter_values(self.take(emit_to).into_iter().map(Sum::value))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = self.take(emit_to);
        let high = Float64Array::from_iter_values(sums.iter().map(|sum| sum.high));
        let low = Float64Array::from_iter_values(sums.iter().map(|sum| sum.low));
        Ok(vec![Arc::new(high), Arc::new(low)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_total: usize) -> Result<()> {
        self.0.resize(groups_total, Sum::default());
        for (sum, group) in sums_of(states)?.zip(groups) {
            self.0[*group].merge(sum);
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let [values] = values else { return internal_err!("exact_sum() got {} arguments", values.len()) };
        let values = values.as_primitive::<Float64Type>();
        let counts =
            |row: usize| values.is_valid(row) && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let high = (0..values.len()).map(|row| if counts(row) { values.value(row) } else { 0.0 });
        let high = Float64Array::from_iter_values(high);
        let low = Float64Array::from(vec![0.0; values.len()]);
        Ok(vec![Arc::new(high), Arc::new(low)])
    }

    fn size(&self) -> usize {
        self.0.capacity() * size_of::<Sum>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum.value()
    }

    #[test]
    fn what_one_float_loses_is_kept() {
        assert_eq!(sum([1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum([0.1; 10]), 1.0);
        assert_eq!(sum([f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum([f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(sum([]), 0.0);
    }

    proptest! {
        #[test]
        fn the_order_and_the_parts_of_a_sum_do_not_matter(values in prop::collection::vec(-1e12..1e12_f64, 0..200), cut in 0usize..200) {
            let cut = cut.min(values.len());
            let mut parts = [Sum::default(), Sum::default()];
            values[..cut].iter().for_each(|value| parts[0].add(*value));
            values[cut..].iter().rev().for_each(|value| parts[1].add(*value));
            let [mut whole, rest] = parts;
            whole.merge(rest);
            prop_assert_eq!(whole.value(), sum(values));
        }
    }
}
