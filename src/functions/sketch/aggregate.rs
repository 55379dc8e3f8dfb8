//! `sketch(number)` and `sketch_merge(sketch)`.

use arrow::{
    array::{ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{
        Accumulator, AggregateUDFImpl, Documentation, Signature, Volatility, function::AccumulatorArgs,
        utils::AggregateOrderSensitivity,
    },
};

use super::histogram::Histogram;
use crate::functions::documentation::documentation_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Input {
    Numbers,
    Sketches,
}

/// An aggregate whose answer is a sketch.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SketchOf {
    input: Input,
    signature: Signature,
}

impl SketchOf {
    pub(super) fn all() -> [Self; 2] {
        [Input::Numbers, Input::Sketches]
            .map(|input| Self { input, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

impl AggregateUDFImpl for SketchOf {
    fn name(&self) -> &str {
        match self.input {
            Input::Numbers => "sketch",
            Input::Sketches => "sketch_merge",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        match (self.input, arg_types) {
            (Input::Numbers, [number]) if number.is_numeric() || number.is_null() => Ok(vec![DataType::Float64]),
            (Input::Sketches, [sketch]) if sketch.is_binary() || sketch.is_null() => Ok(vec![DataType::Binary]),
            (Input::Numbers, _) => plan_err!("{name}() takes one number"),
            (Input::Sketches, _) => plan_err!("{name}() takes one sketch, as sketch() makes it"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sketching { input: self.input, histogram: Histogram::default() }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(self.name())
    }
}

#[derive(Debug)]
struct Sketching {
    input: Input,
    histogram: Histogram,
}

impl Sketching {
    fn merge(&mut self, sketches: &ArrayRef) -> Result<()> {
        for bytes in sketches.as_binary::<i32>().iter().flatten() {
            match Histogram::from_bytes(bytes) {
                Some(other) => self.histogram.merge(&other),
                None => return exec_err!("a value given to sketch_merge() is not a sketch"),
            }
        }
        Ok(())
    }
}

impl Accumulator for Sketching {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = values else { return exec_err!("a sketch is made of one argument") };
        match self.input {
            Input::Numbers => {
                let values = cast(values, &DataType::Float64)?;
                let values = values.as_primitive::<Float64Type>();
                values.iter().flatten().for_each(|value| self.histogram.add(value));
                Ok(())
            }
            Input::Sketches => self.merge(&cast(values, &DataType::Binary)?),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let is_empty = self.histogram.count() == 0;
        Ok(ScalarValue::Binary((!is_empty).then(|| self.histogram.to_bytes())))
    }

    fn size(&self) -> usize {
        self.histogram.size_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sketches] = states else { return exec_err!("the state of a sketch is one value") };
        self.merge(sketches)
    }
}
