//! `text_like(text, pattern)` and `text_matches(text, regex)`: LIKE and regular expressions, asked of each text of a
//! dictionary once.
//!
//! As operators they would be asked of each row, or, where a filter stays above the scan, of text that is written out for
//! it. These are evaluated by the scan, on the codes that files have ([`crate::storage::scan::adapter`]). Neither can be called
//! in SQL.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, StringArray},
    buffer::BooleanBuffer,
    compute::{like, regexp_is_match_scalar},
    datatypes::{DataType, Int32Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ExpressionPlacement, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction, lit,
    },
};
use memchr::memmem::Finder;
use parking_lot::Mutex;

use crate::functions::{dictionaries::Dictionaries, placed_with, scalar_if};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Like,
    Regex,
}

/// Whether text is like a pattern, or matches a regular expression somewhere.
#[derive(Debug)]
pub struct TextMeets {
    form: Form,
    signature: Signature,
    known: Mutex<Dictionaries<Known>>,
}

/// Which texts of a dictionary meet a pattern.
#[derive(Debug)]
struct Known {
    pattern: String,
    meets: Arc<BooleanArray>,
}

impl TextMeets {
    /// Whether the text is like the pattern, as LIKE has it.
    pub fn like(text: Expr, pattern: String) -> Expr {
        call(Form::Like, text, pattern)
    }

    /// Whether the text matches the regular expression.
    pub fn regex(text: Expr, pattern: String) -> Expr {
        call(Form::Regex, text, pattern)
    }

    fn of_texts(&self, texts: &StringArray, pattern: &str) -> Result<BooleanArray> {
        Ok(match (self.form, part_of(pattern)) {
            (Form::Like, Some(part)) => with_part(texts, part),
            (Form::Like, None) => like(texts, &StringArray::new_scalar(pattern))?,
            (Form::Regex, _) => regexp_is_match_scalar(texts, pattern, None)?,
        })
    }

    fn of_dictionary(&self, texts: &StringArray, pattern: &str) -> Result<Arc<BooleanArray>> {
        if let Some(known) = self.known.lock().of(texts).find(|known| known.pattern == pattern) {
            return Ok(Arc::clone(&known.meets));
        }
        let meets = Arc::new(self.of_texts(texts, pattern)?);
        self.known.lock().keep(texts, Known { pattern: pattern.to_owned(), meets: Arc::clone(&meets) });
        Ok(meets)
    }

    fn meets(&self, texts: &ArrayRef, pattern: &str) -> Result<BooleanArray> {
        if let Some(texts) = texts.as_string_opt() {
            return self.of_texts(texts, pattern);
        }
        let coded = texts.as_dictionary_opt::<Int32Type>();
        let Some((coded, values)) = coded.and_then(|coded| Some((coded, coded.values().as_string_opt()?))) else {
            return exec_err!("{}() takes text, not {}", self.name(), texts.data_type());
        };
        let meets = self.of_dictionary(values, pattern)?;
        let (meets, codes) = (meets.values(), coded.keys().values());
        // Rows without text have any code.
        let holds = |row: usize| usize::try_from(codes[row]).is_ok_and(|code| code < meets.len() && meets.value(code));
        Ok(BooleanArray::new(BooleanBuffer::collect_bool(codes.len(), holds), coded.keys().nulls().cloned()))
    }
}

fn call(form: Form, text: Expr, pattern: String) -> Expr {
    let signature = Signature::exact(vec![DataType::Utf8, DataType::Utf8], Volatility::Immutable);
    let function = TextMeets { form, signature, known: Mutex::default() };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![text, lit(pattern)]))
}

/// What texts like this pattern have in them, if that is all it says.
fn part_of(pattern: &str) -> Option<&str> {
    let part = pattern.strip_prefix('%')?.strip_suffix('%')?;
    (!part.is_empty() && !part.contains(['%', '_', '\\'])).then_some(part)
}

/// Which texts have this part: they lie one after the other, and are searched as one.
fn with_part(texts: &StringArray, part: &str) -> BooleanArray {
    let ends: Vec<usize> = texts.value_offsets().iter().map(|offset| *offset as usize).collect();
    let (finder, bytes) = (Finder::new(part), texts.values().as_slice());
    let mut has_part = BooleanBufferBuilder::new(texts.len());
    has_part.append_n(texts.len(), false);
    let (mut text, mut from) = (0, ends[0]);
    while text < texts.len()
        && let Some(found) = finder.find(&bytes[from..ends[texts.len()]])
    {
        let at = from + found;
        text += ends[text + 1..].partition_point(|end| *end <= at);
        // One that begins in a text and ends in the next is in neither.
        let is_inside = text < texts.len() && at + part.len() <= ends[text + 1];
        from = at + 1;
        if is_inside {
            has_part.set_bit(text, true);
            from = ends[text + 1];
            text += 1;
        }
    }
    BooleanArray::new(has_part.finish(), texts.nulls().cloned())
}

impl PartialEq for TextMeets {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

impl Eq for TextMeets {}

impl Hash for TextMeets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.form.hash(state);
    }
}

impl ScalarUDFImpl for TextMeets {
    fn name(&self) -> &str {
        match self.form {
            Form::Like => "text_like",
            Form::Regex => "text_matches",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        placed_with(args.first())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [texts, ColumnarValue::Scalar(ScalarValue::Utf8(Some(pattern)))] = args.args.as_slice() else {
            return exec_err!("{}() takes text and a pattern", self.name());
        };
        let scalar = matches!(texts, ColumnarValue::Scalar(_));
        let texts = texts.to_array(if scalar { 1 } else { args.number_rows })?;
        scalar_if(scalar, Arc::new(self.meets(&texts, pattern)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::DictionaryArray;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn texts_with_a_part_are_those_that_like_finds(
            texts in vec(option::weighted(0.8, "[ab\u{e9}]{0,5}"), 0..30),
            part in "[ab\u{e9}]{1,3}",
            (start, length) in (0..30_usize, 0..30_usize),
        ) {
            let texts = StringArray::from(texts);
            let start = start.min(texts.len());
            let texts = texts.slice(start, length.min(texts.len() - start));
            let pattern = format!("%{part}%");
            prop_assert_eq!(part_of(&pattern), Some(part.as_str()));
            prop_assert_eq!(with_part(&texts, &part), like(&texts, &StringArray::new_scalar(pattern)).unwrap());
        }
    }

    #[test]
    fn patterns_that_say_more_than_one_part_are_no_parts() {
        for pattern in ["", "%", "%%", "a%", "%a", "%a_b%", "%a%b%", "%100\\%%"] {
            assert_eq!(part_of(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn coded_and_plain_text_meet_patterns_alike() {
        let texts = [Some("GET /a"), None, Some("POST /a"), Some("get"), Some("GET /a"), Some("")];
        let plain: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let coded: ArrayRef = Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>());
        let check = |form: Form, pattern: &str, expected: [Option<bool>; 6]| {
            let function =
                TextMeets { form, signature: Signature::any(2, Volatility::Immutable), known: Mutex::default() };
            for texts in [&plain, &coded, &coded] {
                assert_eq!(function.meets(texts, pattern).unwrap(), BooleanArray::from(expected.to_vec()), "{pattern}");
                let tail = function.meets(&texts.slice(1, 3), pattern).unwrap();
                assert_eq!(tail, BooleanArray::from(expected[1..4].to_vec()), "{pattern}");
            }
        };
        let (yes, no) = (Some(true), Some(false));
        check(Form::Like, "GET%", [yes, None, no, no, yes, no]);
        check(Form::Like, "%", [yes, None, yes, yes, yes, yes]);
        check(Form::Regex, "^(?:[A-Z]+ /a)$", [yes, None, yes, no, yes, no]);
    }
}
