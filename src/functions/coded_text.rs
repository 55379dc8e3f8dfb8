//! `coded_text(text)`: text as a dictionary and codes, which is how files mostly have it.
//!
//! Where the scan evaluates it, the dictionary and the codes are those of the file, and no text is copied. Text that comes
//! plain, as that of buffered spans does, is coded here; where most texts differ, a text can have several codes then. It
//! cannot be called in SQL.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, StringArray},
    datatypes::{DataType, Int32Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err, hash_utils::RandomState},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
    },
};

use crate::functions::{dictionaries::for_each_valid, placed_with, text_at_hand::AtHand};

/// What coded text is: a dictionary of different texts, and a code per row.
pub fn coded_text_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Text as a dictionary and codes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CodedText {
    signature: Signature,
}

impl CodedText {
    /// Codes of this text.
    pub fn of(text: Expr) -> Expr {
        let function = Self { signature: Signature::uniform(1, vec![DataType::Utf8], Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![text]))
    }
}

impl ScalarUDFImpl for CodedText {
    fn name(&self) -> &str {
        "coded_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(coded_text_type())
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(texts)] if *texts.data_type() == coded_text_type() => {
                Ok(ColumnarValue::Array(Arc::clone(texts)))
            }
            [ColumnarValue::Array(texts)] => match texts.as_string_opt() {
                Some(texts) => Ok(ColumnarValue::Array(coded(texts)?)),
                None => exec_err!("coded_text() takes text, not {}", texts.data_type()),
            },
            [ColumnarValue::Scalar(text)] => match text.try_as_str() {
                Some(text) => {
                    let text = ScalarValue::Utf8(text.map(str::to_owned));
                    Ok(ColumnarValue::Scalar(ScalarValue::Dictionary(Box::new(DataType::Int32), Box::new(text))))
                }
                None => exec_err!("coded_text() takes text, not {}", text.data_type()),
            },
            _ => exec_err!("coded_text() takes one text"),
        }
    }
}

/// Rows after which it shows whether most texts differ. These are not looked up any more, and have a code each.
const LOOKED_UP_MIN: usize = 1 << 10;

/// A dictionary of texts in the order in which they come up, and codes.
fn coded(texts: &StringArray) -> Result<ArrayRef> {
    let mut known: HashMap<&str, i32, RandomState> = HashMap::default();
    let (mut values, mut codes) = (Vec::new(), vec![0; texts.len()]);
    let mut at_hand = AtHand::default();
    let mut rows = 0;
    for_each_valid(texts, |row| {
        let text = texts.value(row);
        rows += 1;
        let mut new = || {
            values.push(text);
            values.len() as i32 - 1
        };
        codes[row] = match known.len() * 2 > rows.max(LOOKED_UP_MIN) {
            true => new(),
            false => at_hand.get(text, || *known.entry(text).or_insert_with(new)),
        };
    });
    let codes = Int32Array::new(codes.into(), texts.nulls().cloned());
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(codes, Arc::new(StringArray::from(values)))?))
}

#[cfg(test)]
mod tests {
    use datafusion::{arrow::datatypes::Field, common::config::ConfigOptions};
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn codes_of(texts: &ArrayRef) -> ArrayRef {
        let Expr::ScalarFunction(call) = CodedText::of(datafusion::logical_expr::col("x")) else { unreachable!() };
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(Arc::clone(texts))],
            arg_fields: vec![Arc::new(Field::new("x", texts.data_type().clone(), true))],
            number_rows: texts.len(),
            return_field: Arc::new(Field::new("x", coded_text_type(), true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let ColumnarValue::Array(codes) = call.func.inner().invoke_with_args(args).unwrap() else { unreachable!() };
        codes
    }

    proptest! {
        #[test]
        fn codes_stand_for_the_texts_that_they_were_made_of(texts in vec(option::of("[ab]{0,2}"), 0..40)) {
            let texts: ArrayRef = Arc::new(StringArray::from(texts));
            let codes = codes_of(&texts);
            prop_assert_eq!(&arrow::compute::cast(&codes, &DataType::Utf8).unwrap(), &texts);
            let values = codes.as_dictionary::<Int32Type>().values();
            let distinct: std::collections::HashSet<_> = values.as_string::<i32>().iter().collect();
            prop_assert_eq!(distinct.len(), values.len(), "no text has two codes");
            prop_assert_eq!(&codes_of(&codes), &codes, "codes stay as they are");
        }
    }

    #[test]
    fn where_most_texts_differ_they_are_not_looked_up() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..5_000).map(|number| number.to_string())));
        let twice = arrow::compute::concat(&[&texts, &texts]).unwrap();
        let codes = codes_of(&twice);
        assert_eq!(&arrow::compute::cast(&codes, &DataType::Utf8).unwrap(), &twice);
        assert!(codes.as_dictionary::<Int32Type>().values().len() > 5_000);
    }
}
