//! Keys of groups in place of text, made where text is still codes of a dictionary.
//!
//! Files hold text such as names of services as dictionaries and codes. To group rows by it, the codes are enough, if those
//! of all files are made the same. `text_key(a, b, ...)` does that: a [`TextCodes`] numbers the different texts of a query
//! as they come up, and a key is the numbers of a row's texts, in twelve bytes or less, which Arrow's views hold in place.
//!
//! ```text
//!  numbered:  | 1 | number of a: u16 | number of b: u16 | ..              at most five texts; 0 is NULL
//!  spelled:   | 2 | length of a: u32 | a | length of b: u32 | b | ..       0xffff_ffff is NULL
//! ```
//!
//! Numbers run out, by count and by bytes of text. A row with a text that came up after that is spelled. A text never gets a
//! number later on, so equal rows have equal keys. `key_text(key, position)` gives the text back. Neither function can be
//! called in SQL.

mod codes;

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryViewArray, StringBuilder, make_view},
    compute::cast,
    datatypes::DataType,
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
        lit,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use self::codes::{SPELLED, TextCodes};
use crate::functions::{placed_with, scalar_if};

/// How many texts a key can be made of.
pub const TEXTS_MAX: usize = 5;

const NUMBERED: u8 = 1;
const SPELLED_KEY: u8 = 2;
const NULL_LENGTH: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    ToKey,
    ToText,
}

/// `text_key(text, ...)`, or `key_text(key, position)`, which undoes it.
#[derive(Debug)]
pub struct TextKey {
    direction: Direction,
    codes: Arc<TextCodes>,
    signature: Signature,
}

impl TextKey {
    /// The key of one to [`TEXTS_MAX`] texts, and what gives each of them back.
    pub fn of(texts: Vec<Expr>) -> (Expr, TextOfKey) {
        let codes = Arc::new(TextCodes::new(texts.len()));
        (call(Direction::ToKey, &codes, texts), TextOfKey(codes))
    }

    /// Whether this makes keys.
    pub(crate) fn makes_keys(&self) -> bool {
        self.direction == Direction::ToKey
    }

    fn key(&self, args: &ScalarFunctionArgs) -> Result<BinaryViewArray> {
        let texts = args.args.iter().map(|text| text.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        // What Arrow calls a view: the length, then the bytes, lowest first. A number of 0 stands for NULL.
        let length = 1 + size_of::<u16>() * texts.len();
        let mut views = vec![length as u128 | u128::from(NUMBERED) << 32; args.number_rows];
        let mut without_number = Vec::new();
        for (position, text) in texts.iter().enumerate() {
            let shift = 40 + 16 * position;
            self.codes.numbers(position, text, |row, number| {
                views[row] |= u128::from(number) << shift;
                if number == SPELLED {
                    without_number.push(row);
                }
            })?;
        }
        let spelled = match without_number.is_empty() {
            true => Vec::new(),
            false => vec![spell(&texts, without_number, &mut views)?.into()],
        };
        Ok(BinaryViewArray::try_new(views.into(), spelled, None)?)
    }

    fn text(&self, keys: &BinaryViewArray, position: usize) -> Result<ArrayRef> {
        let mut texts = StringBuilder::new();
        for key in keys {
            let text = match key.and_then(<[u8]>::split_first) {
                Some((&NUMBERED, numbers)) => {
                    let Some(number) = numbers.chunks_exact(2).nth(position) else { return not_a_key() };
                    match u16::from_le_bytes([number[0], number[1]]) {
                        0 => None,
                        number => Some(self.codes.text(position, number)?),
                    }
                }
                Some((&SPELLED_KEY, spelled)) => spelled_text(spelled, position)?.map(Arc::from),
                _ => return not_a_key(),
            };
            texts.append_option(text);
        }
        Ok(Arc::new(texts.finish()))
    }
}

/// Gives back the texts that keys were made of.
#[derive(Debug)]
pub struct TextOfKey(Arc<TextCodes>);

impl TextOfKey {
    /// The text at a position.
    pub fn text(&self, key: Expr, position: usize) -> Expr {
        call(Direction::ToText, &self.0, vec![key, lit(position as u64)])
    }
}

fn call(direction: Direction, codes: &Arc<TextCodes>, args: Vec<Expr>) -> Expr {
    let signature = match direction {
        Direction::ToKey => Signature::uniform(args.len(), vec![DataType::Utf8], Volatility::Immutable),
        Direction::ToText => Signature::exact(vec![DataType::BinaryView, DataType::UInt64], Volatility::Immutable),
    };
    let function = TextKey { direction, codes: Arc::clone(codes), signature };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), args))
}

fn not_a_key<T>() -> Result<T> {
    exec_err!("a value given to key_text() is not a key")
}

/// Makes the views of rows with a text that has no number, and the bytes that they view.
fn spell(texts: &[ArrayRef], mut rows: Vec<usize>, views: &mut [u128]) -> Result<Vec<u8>> {
    let texts = texts.iter().map(|text| cast(text, &DataType::Utf8)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<_> = texts.iter().map(|text| text.as_string::<i32>()).collect();
    rows.sort_unstable();
    rows.dedup();
    let mut keys = Vec::new();
    for row in rows {
        let from = keys.len();
        keys.push(SPELLED_KEY);
        for text in &texts {
            let text = text.is_valid(row).then(|| text.value(row));
            let length = text.map_or(NULL_LENGTH, |text| text.len() as u32);
            keys.extend(length.to_le_bytes());
            keys.extend(text.unwrap_or_default().as_bytes());
        }
        let Ok(offset) = u32::try_from(from) else { return exec_err!("the texts of a batch take more than 4 GiB") };
        views[row] = make_view(&keys[from..], 0, offset);
    }
    Ok(keys)
}

fn spelled_text(mut spelled: &[u8], position: usize) -> Result<Option<&str>> {
    for at in 0.. {
        let Some((length, rest)) = spelled.split_first_chunk::<4>() else { break };
        let length = u32::from_le_bytes(*length);
        let text = if length == NULL_LENGTH { Some((None, rest)) } else { split_text(rest, length as usize) };
        let Some((text, rest)) = text else { break };
        if at == position {
            return Ok(text);
        }
        spelled = rest;
    }
    not_a_key()
}

fn split_text(bytes: &[u8], length: usize) -> Option<(Option<&str>, &[u8])> {
    let (text, rest) = bytes.split_at_checked(length)?;
    Some((Some(std::str::from_utf8(text).ok()?), rest))
}

impl PartialEq for TextKey {
    fn eq(&self, other: &Self) -> bool {
        self.direction == other.direction && Arc::ptr_eq(&self.codes, &other.codes)
    }
}

impl Eq for TextKey {}

impl Hash for TextKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.direction.hash(state);
        Arc::as_ptr(&self.codes).hash(state);
    }
}

impl ScalarUDFImpl for TextKey {
    fn name(&self) -> &str {
        match self.direction {
            Direction::ToKey => "text_key",
            Direction::ToText => "key_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.direction {
            Direction::ToKey => DataType::BinaryView,
            Direction::ToText => DataType::Utf8,
        })
    }

    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if self.direction == Direction::ToText
            && let [Expr::ScalarFunction(key), Expr::Literal(ScalarValue::UInt64(Some(position)), _)] = args.as_slice()
            && key.func.inner().downcast_ref::<Self>().is_some_and(Self::makes_keys)
            && let Some(text) = key.args.get(*position as usize)
        {
            return Ok(ExprSimplifyResult::Simplified(text.clone()));
        }
        Ok(ExprSimplifyResult::Original(args))
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        match self.direction {
            Direction::ToKey => placed_with(args),
            _ => ExpressionPlacement::KeepInPlace,
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if self.direction == Direction::ToKey {
            return Ok(ColumnarValue::Array(Arc::new(self.key(&args)?)));
        }
        let [keys, ColumnarValue::Scalar(ScalarValue::UInt64(Some(position)))] = args.args.as_slice() else {
            return exec_err!("key_text() takes a key and a position");
        };
        let scalar = matches!(keys, ColumnarValue::Scalar(_));
        let keys = keys.to_array(if scalar { 1 } else { args.number_rows })?;
        let Some(keys) = keys.as_binary_view_opt() else { return not_a_key() };
        scalar_if(scalar, self.text(keys, *position as usize)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{DictionaryArray, StringArray},
        datatypes::Int32Type,
    };
    use datafusion::{arrow::datatypes::Field, common::config::ConfigOptions};

    use super::*;

    fn keys(function: &TextKey, texts: &[ArrayRef]) -> BinaryViewArray {
        let field = |array: &ArrayRef| Arc::new(Field::new("x", array.data_type().clone(), true));
        let args = ScalarFunctionArgs {
            args: texts.iter().map(|text| ColumnarValue::Array(Arc::clone(text))).collect(),
            arg_fields: texts.iter().map(field).collect(),
            number_rows: texts[0].len(),
            return_field: Arc::new(Field::new("x", DataType::BinaryView, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        function.key(&args).unwrap()
    }

    fn check(function: &TextKey, texts: &[ArrayRef]) -> BinaryViewArray {
        let keys = keys(function, texts);
        for (position, text) in texts.iter().enumerate() {
            let plain = cast(text, &DataType::Utf8).unwrap();
            assert_eq!(&function.text(&keys, position).unwrap(), &plain);
        }
        keys
    }

    fn function(codes: TextCodes) -> TextKey {
        let signature = Signature::any(1, Volatility::Immutable);
        TextKey { direction: Direction::ToKey, codes: Arc::new(codes), signature }
    }

    #[test]
    fn equal_texts_have_equal_keys_whatever_array_they_come_in() {
        let function = function(TextCodes::new(2));
        let services: DictionaryArray<Int32Type> =
            vec![Some("cart"), None, Some("shop"), Some("cart")].into_iter().collect();
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("get"), Some("get"), None, Some("get")]));
        let first = check(&function, &[Arc::new(services), Arc::clone(&names)]);
        assert_eq!(first.value(0), first.value(3));
        assert_eq!(first.data_buffers().len(), 0, "keys are in place");
        let plain: ArrayRef = Arc::new(StringArray::from(vec![Some("cart"), None, Some("shop"), Some("cart")]));
        assert_eq!(check(&function, &[plain, names]), first);
    }

    #[test]
    fn texts_without_a_number_are_spelled_for_good() {
        let function = function(TextCodes::with_limits(2, 2, usize::MAX));
        let text = |values: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        let many = [text(&[Some("a"), Some("b"), Some("c"), None]), text(&[Some("x"), None, Some(""), Some("y")])];
        let first = check(&function, &many);
        // They come in another order, and one at a time.
        for row in [2, 3, 0, 1] {
            let one = [many[0].slice(row, 1), many[1].slice(row, 1)];
            assert_eq!(check(&function, &one).value(0), first.value(row));
        }
        assert_eq!(first.value(2)[0], SPELLED_KEY);
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        let function = function(TextCodes::new(1));
        for wrong in [&b""[..], b"\x01", b"\x01\x07\x00", b"\x02\x01", b"\x02\x02\0\0\0a", b"\x02\x01\0\0\0\xff", b"x"]
        {
            assert!(function.text(&BinaryViewArray::from(vec![wrong]), 0).is_err(), "{wrong:?}");
        }
    }
}
