//! Small numbers for the values of a column, so that what is counted by value is counted by position.

use std::hash::Hash;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, StringArray},
        datatypes::{DataType, Float64Type, Int64Type},
    },
    common::{HashMap, Result as DfResult, internal_err},
};

use super::label::LabelValue;

/// Codes of the values seen so far, from 1 on; 0 is NULL.
#[derive(Debug, Default)]
pub(super) struct Codes {
    texts: HashMap<Box<str>, u32>,
    ints: HashMap<i64, u32>,
    floats: HashMap<u64, u32>,
    bools: [u32; 2],
    given: u32,
    bytes: usize,
}

/// Bytes that a value takes besides those of its text, about.
const ENTRY_BYTES: usize = 2 * size_of::<(Box<str>, u32)>();

fn code_of<K: Hash + Eq>(codes: &mut HashMap<K, u32>, value: K, given: &mut u32) -> u32 {
    *codes.entry(value).or_insert_with(|| {
        *given += 1;
        *given
    })
}

impl Codes {
    /// The code of each row of a column of text, integers, floats or booleans.
    pub(super) fn of(&mut self, values: &ArrayRef) -> DfResult<Vec<u32>> {
        Ok(match values.data_type() {
            DataType::Utf8 => self.of_texts(values.as_string()),
            DataType::Int64 => {
                let ints = values.as_primitive::<Int64Type>().iter();
                ints.map(|int| int.map_or(0, |int| self.of_int(int))).collect()
            }
            DataType::Float64 => {
                let floats = values.as_primitive::<Float64Type>().iter();
                floats.map(|float| float.map_or(0, |float| self.of_float(float))).collect()
            }
            DataType::Boolean => {
                values.as_boolean().iter().map(|value| value.map_or(0, |value| self.of_bool(value))).collect()
            }
            other => return internal_err!("values of type {other} are not counted"),
        })
    }

    fn of_texts(&mut self, texts: &StringArray) -> Vec<u32> {
        // Neighbours are of one trace, and often equal.
        let mut last = None;
        let mut code_of_row = |text| match last {
            Some((known, code)) if known == text => code,
            _ => {
                let code = self.of_text(text);
                last = Some((text, code));
                code
            }
        };
        texts.iter().map(|text| text.map_or(0, &mut code_of_row)).collect()
    }

    /// The code of a text.
    pub(super) fn of_text(&mut self, text: &str) -> u32 {
        if let Some(code) = self.texts.get(text) {
            return *code;
        }
        self.bytes += text.len();
        code_of(&mut self.texts, text.into(), &mut self.given)
    }

    /// The code of an integer.
    pub(super) fn of_int(&mut self, int: i64) -> u32 {
        code_of(&mut self.ints, int, &mut self.given)
    }

    /// The code of a float; two are the same value if their bits are.
    pub(super) fn of_float(&mut self, float: f64) -> u32 {
        code_of(&mut self.floats, float.to_bits(), &mut self.given)
    }

    /// The code of a truth value.
    pub(super) fn of_bool(&mut self, value: bool) -> u32 {
        let code = &mut self.bools[usize::from(value)];
        if *code == 0 {
            self.given += 1;
            *code = self.given;
        }
        *code
    }

    /// How many codes there are, that of NULL included.
    pub(super) fn len(&self) -> usize {
        self.given as usize + 1
    }

    /// The values whose codes are wanted, each with its code.
    pub(super) fn values(&self, is_wanted: impl Fn(u32) -> bool + Copy) -> impl Iterator<Item = (LabelValue, u32)> {
        let texts = self.texts.iter().filter(move |(_, code)| is_wanted(**code));
        let texts = texts.map(|(text, code)| (LabelValue::Text(text.to_string()), *code));
        let ints = self.ints.iter().map(|(value, code)| (LabelValue::Int(*value), *code));
        let floats = self.floats.iter().map(|(bits, code)| (LabelValue::Float(f64::from_bits(*bits)), *code));
        let bools = [false, true].into_iter().zip(self.bools).filter(|(_, code)| *code != 0);
        let bools = bools.map(|(value, code)| (LabelValue::Bool(value), code));
        texts.chain(ints.chain(floats).chain(bools).filter(move |(_, code)| is_wanted(*code)))
    }

    /// Gives the values of another a code here, too: by code there, the code here.
    pub(super) fn take_over(&mut self, other: &Self) -> Vec<u32> {
        let mut here = vec![0; other.len()];
        for (text, code) in &other.texts {
            here[*code as usize] = self.of_text(text);
        }
        for (int, code) in &other.ints {
            here[*code as usize] = self.of_int(*int);
        }
        for (bits, code) in &other.floats {
            here[*code as usize] = self.of_float(f64::from_bits(*bits));
        }
        for (value, code) in [false, true].into_iter().zip(other.bools).filter(|(_, code)| *code != 0) {
            here[code as usize] = self.of_bool(value);
        }
        here
    }

    /// Bytes that this takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.given as usize * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_code_whatever_their_column() {
        let texts = |texts: Vec<Option<&str>>| std::sync::Arc::new(StringArray::from(texts)) as ArrayRef;
        let mut here = Codes::default();
        let codes = here.of(&texts(vec![Some("a"), Some("a"), None, Some(""), Some("b"), Some("a")])).unwrap();
        assert_eq!(codes, [1, 1, 0, 2, 3, 1]);
        assert_eq!(here.of(&texts(vec![Some(""), Some("b")])).unwrap(), [2, 3]);
        let mut other = Codes::default();
        assert_eq!([other.of_text("b"), other.of_int(7), other.of_float(7.0), other.of_bool(true)], [1, 2, 3, 4]);
        assert_eq!(here.take_over(&other), [0, 3, 4, 5, 6]);
        let mut values: Vec<(LabelValue, u32)> = here.values(|code| code > 2).collect();
        values.sort();
        let of = |value: LabelValue| values.iter().find(|(known, _)| *known == value).map(|(_, code)| *code);
        assert_eq!(of(LabelValue::Text("b".to_owned())), Some(3));
        assert_eq!(of(LabelValue::Int(7)), Some(4));
        assert_eq!(of(LabelValue::Bool(true)), Some(6));
        assert_eq!(values.len(), 4);
    }
}
