//! Small numbers for the values of a column, so that what is counted by value is counted by position.

use std::hash::Hash;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, DictionaryArray, PrimitiveArray, StringArray},
        datatypes::{ArrowPrimitiveType, DataType, Float64Type, Int32Type, Int64Type},
    },
    common::{HashMap, Result as DfResult, internal_err},
};

use super::{label::LabelValue, texts::Texts};
use crate::functions::{for_each_valid, is_same_dictionary};

/// Codes of the values seen so far, from 1 on; 0 is NULL.
#[derive(Debug, Default)]
pub(super) struct Codes {
    texts: Texts,
    ints: HashMap<i64, u32>,
    floats: HashMap<u64, u32>,
    bools: [u32; 2],
    given: u32,
    dictionary: Dictionary,
}

/// The dictionary that texts came with last.
#[derive(Debug, Default)]
struct Dictionary {
    texts: Option<StringArray>,
    /// What its codes are here; 0 for texts that no row has had.
    here: Vec<u32>,
}

/// Bytes that a number takes, about.
const ENTRY_BYTES: usize = 2 * size_of::<(u64, u32)>();

fn code_of<K: Hash + Eq>(codes: &mut HashMap<K, u32>, value: K, given: &mut u32) -> u32 {
    *codes.entry(value).or_insert_with(|| {
        *given += 1;
        *given
    })
}

/// Numbers that came up last, with their codes. Most rows have one of a few.
const AT_HAND: usize = 256;

/// The codes of numbers, which are told apart by `bits`.
fn of_numbers<T: ArrowPrimitiveType>(
    numbers: &PrimitiveArray<T>,
    bits: impl Fn(T::Native) -> u64,
    mut code: impl FnMut(T::Native) -> u32,
) -> Vec<u32> {
    let mut at_hand = [(0, 0); AT_HAND];
    let values = numbers.values();
    let mut codes = vec![0; values.len()];
    for_each_valid(numbers, |row| {
        let known = bits(values[row]);
        let place = &mut at_hand[(known.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize % AT_HAND];
        // No value has the code 0.
        if place.1 == 0 || place.0 != known {
            *place = (known, code(values[row]));
        }
        codes[row] = place.1;
    });
    codes
}

impl Codes {
    /// The code of each row of a column of text, coded or not, integers, floats or booleans.
    pub(super) fn of(&mut self, values: &ArrayRef) -> DfResult<Vec<u32>> {
        Ok(match values.data_type() {
            DataType::Dictionary(..) => match values.as_dictionary_opt::<Int32Type>() {
                Some(texts) => self.of_coded(texts)?,
                None => return internal_err!("values of type {} are not counted", values.data_type()),
            },
            DataType::Utf8 => self.of_texts(values.as_string()),
            DataType::Int64 => {
                of_numbers(values.as_primitive::<Int64Type>(), i64::cast_unsigned, |int| self.of_int(int))
            }
            DataType::Float64 => {
                of_numbers(values.as_primitive::<Float64Type>(), f64::to_bits, |float| self.of_float(float))
            }
            DataType::Boolean => {
                values.as_boolean().iter().map(|value| value.map_or(0, |value| self.of_bool(value))).collect()
            }
            other => return internal_err!("values of type {other} are not counted"),
        })
    }

    fn of_coded(&mut self, coded: &DictionaryArray<Int32Type>) -> DfResult<Vec<u32>> {
        let mut codes = vec![0; coded.len()];
        self.each_coded(coded, &mut codes, |code| code)?;
        Ok(codes)
    }

    /// Gives the rows of coded text that are not NULL what their codes stand for; the others stay as they are.
    pub(super) fn each_coded<T>(
        &mut self,
        coded: &DictionaryArray<Int32Type>,
        rows: &mut [T],
        mut stands_for: impl FnMut(u32) -> T,
    ) -> DfResult<()> {
        let Some(texts) = coded.values().as_string_opt::<i32>() else {
            return internal_err!("values of type {} are not counted", coded.data_type());
        };
        let mut dictionary = self.take_dictionary(texts);
        // Keys of rows that are not NULL are those of texts.
        let mut code_of = |key: i32| {
            let code = &mut dictionary.here[key as usize];
            if *code == 0 {
                *code = self.of_text(texts.value(key as usize));
            }
            *code
        };
        let keys = coded.keys().values();
        match coded.keys().nulls().filter(|nulls| nulls.null_count() > 0) {
            None => rows.iter_mut().zip(keys).for_each(|(row, key)| *row = stands_for(code_of(*key))),
            Some(nulls) => nulls.valid_indices().for_each(|row| rows[row] = stands_for(code_of(keys[row]))),
        }
        self.dictionary = dictionary;
        Ok(())
    }

    /// The dictionary of these texts, which is given back later.
    fn take_dictionary(&mut self, texts: &StringArray) -> Dictionary {
        let mut dictionary = std::mem::take(&mut self.dictionary);
        if !dictionary.texts.as_ref().is_some_and(|known| is_same_dictionary(known, texts)) {
            dictionary.here.clear();
            dictionary.here.resize(texts.len(), 0);
            dictionary.texts = Some(texts.clone());
        }
        dictionary
    }

    /// The codes of those texts of a dictionary that are wanted, by their keys; 0 for others.
    pub(super) fn of_keys(&mut self, texts: &StringArray, is_wanted: impl Fn(usize) -> bool) -> Vec<u32> {
        let mut dictionary = self.take_dictionary(texts);
        let mut codes = vec![0; texts.len()];
        for key in (0..texts.len()).filter(|key| is_wanted(*key)) {
            if dictionary.here[key] == 0 {
                dictionary.here[key] = self.of_text(texts.value(key));
            }
            codes[key] = dictionary.here[key];
        }
        self.dictionary = dictionary;
        codes
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
        let next = self.given + 1;
        let code = self.texts.code_or(text, next);
        self.given += u32::from(code == next);
        code
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
        let texts = self.texts.iter().filter(move |(_, code)| is_wanted(*code));
        let texts = texts.map(|(text, code)| (LabelValue::Text(text.to_owned()), code));
        let ints = self.ints.iter().map(|(value, code)| (LabelValue::Int(*value), *code));
        let floats = self.floats.iter().map(|(bits, code)| (LabelValue::Float(f64::from_bits(*bits)), *code));
        let bools = [false, true].into_iter().zip(self.bools).filter(|(_, code)| *code != 0);
        let bools = bools.map(|(value, code)| (LabelValue::Bool(value), code));
        texts.chain(ints.chain(floats).chain(bools).filter(move |(_, code)| is_wanted(*code)))
    }

    /// Bytes that this takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.texts.memory_bytes()
            + (self.ints.len() + self.floats.len()) * ENTRY_BYTES
            + self.dictionary.here.len() * size_of::<u32>()
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
        let coded = |codes: Vec<Option<i32>>, values: Vec<&str>| {
            let values: ArrayRef = std::sync::Arc::new(StringArray::from(values));
            let coded = DictionaryArray::<Int32Type>::try_new(codes.into(), values).unwrap();
            std::sync::Arc::new(coded) as ArrayRef
        };
        let again = coded(vec![Some(1), None, Some(2), Some(1)], vec!["x", "b", "a"]);
        assert_eq!(here.of(&again).unwrap(), [3, 0, 1, 3], "by the text, not by the code that it comes with");
        assert_eq!(here.of(&again.slice(2, 2)).unwrap(), [1, 3], "of the same dictionary");
        assert_eq!(here.of(&coded(vec![Some(0)], vec!["a", "b", "x"])).unwrap(), [1], "of another one");
        assert_eq!([here.of_text("b"), here.of_int(7), here.of_float(7.0), here.of_bool(true)], [3, 4, 5, 6]);
        let mut values: Vec<(LabelValue, u32)> = here.values(|code| code > 2).collect();
        values.sort();
        let of = |value: LabelValue| values.iter().find(|(known, _)| *known == value).map(|(_, code)| *code);
        assert_eq!(of(LabelValue::Text("b".to_owned())), Some(3));
        assert_eq!(of(LabelValue::Int(7)), Some(4));
        assert_eq!(of(LabelValue::Bool(true)), Some(6));
        assert_eq!(values.len(), 4);
    }
}
