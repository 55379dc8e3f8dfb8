//! The page of a column chunk that has each of its values once, and whose places in it are the codes of the pages behind it.

use std::{ops::Range, str};

use bytes::{Buf, Bytes};
use parquet::{
    basic::{Encoding, Type},
    column::page::Page,
    errors::{ParquetError, Result},
    file::metadata::ColumnChunkMetaData,
};

use crate::storage::pages::{Decompressor, Pages};

/// A value of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CodedValue<'a> {
    /// Text.
    Text(&'a str),
    /// An integer.
    Int(i64),
    /// A double.
    Float(f64),
}

/// The values of a dictionary, by their codes.
#[derive(Debug)]
pub(crate) enum CodedValues {
    Texts { bytes: Bytes, places: Vec<Range<usize>> },
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl CodedValues {
    /// Reads the first of the pages of a chunk; `None` if that is no dictionary, and is still next then.
    ///
    /// # Errors
    /// The dictionary is torn, or has values of another type or encoding.
    pub(crate) fn read(
        chunk: &ColumnChunkMetaData,
        pages: &mut Pages,
        decompressor: &mut Decompressor,
    ) -> Result<Option<Self>> {
        if !pages.peek()?.is_some_and(|page| page.is_dict) {
            return Ok(None);
        }
        match pages.next(decompressor)? {
            // Both names stand for plain values in a dictionary.
            Some(Page::DictionaryPage {
                buf,
                num_values,
                encoding: Encoding::PLAIN | Encoding::PLAIN_DICTIONARY,
                ..
            }) => Self::plain(chunk.column_type(), &buf, num_values as usize).map(Some),
            Some(page) => Err(ParquetError::NYI(format!("values of a dictionary are encoded as {}", page.encoding()))),
            None => Ok(None),
        }
    }

    /// Values one after the other.
    fn plain(of_type: Type, buf: &Bytes, count: usize) -> Result<Self> {
        let eight = |place: &[u8]| place.try_into().map_err(|_| torn());
        let fixed = || match buf.get(..count.saturating_mul(8)) {
            Some(bytes) => Ok(bytes.chunks_exact(8)),
            None => Err(torn()),
        };
        Ok(match of_type {
            Type::INT64 => Self::Ints(fixed()?.map(|int| eight(int).map(i64::from_le_bytes)).collect::<Result<_>>()?),
            Type::DOUBLE => {
                Self::Floats(fixed()?.map(|float| eight(float).map(f64::from_le_bytes)).collect::<Result<_>>()?)
            }
            Type::BYTE_ARRAY => {
                let (mut places, mut rest) = (Vec::with_capacity(count.min(buf.len() / 4)), buf.as_ref());
                for _ in 0..count {
                    let length = rest.try_get_u32_le().map_err(|_| torn())? as usize;
                    let start = buf.len() - rest.len();
                    rest = rest.get(length..).ok_or_else(torn)?;
                    places.push(start..start + length);
                }
                Self::Texts { bytes: buf.clone(), places }
            }
            other => return Err(ParquetError::NYI(format!("a dictionary of the type {other}"))),
        })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Texts { places, .. } => places.len(),
            Self::Ints(ints) => ints.len(),
            Self::Floats(floats) => floats.len(),
        }
    }

    /// The value of a code.
    ///
    /// # Errors
    /// There is none, or it is no text.
    pub(crate) fn value(&self, code: usize) -> Result<CodedValue<'_>> {
        let value = match self {
            Self::Texts { bytes, places } => match places.get(code) {
                Some(place) => Some(CodedValue::Text(str::from_utf8(&bytes[place.clone()])?)),
                None => None,
            },
            Self::Ints(ints) => ints.get(code).map(|int| CodedValue::Int(*int)),
            Self::Floats(floats) => floats.get(code).map(|float| CodedValue::Float(*float)),
        };
        value.ok_or_else(|| ParquetError::General(format!("no value has the code {code}")))
    }

    /// All values, code by code.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<CodedValue<'_>>> {
        (0..self.len()).map(|code| self.value(code))
    }
}

fn torn() -> ParquetError {
    ParquetError::EOF("a dictionary ends before its values".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_are_read_and_torn_ones_refused() {
        let all = |of_type: Type, bytes: &[u8], count: usize| {
            let values = CodedValues::plain(of_type, &Bytes::copy_from_slice(bytes), count)?;
            values.iter().map(|value| Ok(format!("{:?}", value?))).collect::<Result<Vec<_>>>()
        };
        let text = [&3_u32.to_le_bytes()[..], b"abc", &0_u32.to_le_bytes()].concat();
        assert_eq!(all(Type::BYTE_ARRAY, &text, 2).unwrap(), ["Text(\"abc\")", "Text(\"\")"]);
        assert_eq!(all(Type::INT64, &7_i64.to_le_bytes(), 1).unwrap(), ["Int(7)"]);
        assert_eq!(all(Type::DOUBLE, &0.5_f64.to_le_bytes(), 1).unwrap(), ["Float(0.5)"]);
        for (of_type, bytes, count, expected) in [
            (Type::BYTE_ARRAY, &text[..6], 1, "ends before"),
            (Type::BYTE_ARRAY, &text[..], 3, "ends before"),
            (Type::INT64, &text[..7], 1, "ends before"),
            (Type::INT64, &text[..], usize::MAX, "ends before"),
            (Type::BYTE_ARRAY, &[1, 0, 0, 0, 0xff], 1, "utf-8"),
            (Type::BOOLEAN, &[1], 1, "BOOLEAN"),
        ] {
            let error = all(of_type, bytes, count).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
