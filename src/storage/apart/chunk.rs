//! The codes of one column in one row group, straight from its pages.

use std::{ops::Range, str, sync::Arc};

use bytes::{Buf, Bytes};
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    errors::{ParquetError, Result},
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
};

use crate::storage::{apart::runs, chunks::Chunk};

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

/// The values of a row group, by their codes.
#[derive(Debug)]
enum CodedValues {
    Texts { bytes: Bytes, places: Vec<Range<usize>> },
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

/// A column of a row group whose values are all codes of a dictionary.
pub(crate) struct CodedChunk {
    values: CodedValues,
    pages: SerializedPageReader<Chunk>,
    has_levels: bool,
}

impl CodedChunk {
    /// Opens a chunk of so many rows out of its bytes; `None` if it has no value.
    pub(super) fn open(chunk: &ColumnChunkMetaData, part: Chunk, rows: usize) -> Result<Option<Self>> {
        let mut pages = SerializedPageReader::new(Arc::new(part), chunk, rows, None)?;
        if !pages.peek_next_page()?.is_some_and(|page| page.is_dict) {
            return Ok(None);
        }
        let Some(Page::DictionaryPage { buf, num_values, encoding, .. }) = pages.get_next_page()? else {
            return Ok(None);
        };
        // Both names stand for plain values in a dictionary.
        if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
            return Err(ParquetError::NYI(format!("values of a dictionary are encoded as {encoding}")));
        }
        let values = CodedValues::read(chunk.column_type(), &buf, num_values as usize)?;
        let has_levels = chunk.column_descr().max_def_level() > 0;
        Ok(Some(Self { values, pages, has_levels }))
    }

    /// How many codes there are.
    pub(crate) fn values_len(&self) -> usize {
        match &self.values {
            CodedValues::Texts { places, .. } => places.len(),
            CodedValues::Ints(ints) => ints.len(),
            CodedValues::Floats(floats) => floats.len(),
        }
    }

    /// The value of a code.
    ///
    /// # Errors
    /// There is none, or it is no text.
    pub(crate) fn value(&self, code: usize) -> Result<CodedValue<'_>> {
        let value = match &self.values {
            CodedValues::Texts { bytes, places } => match places.get(code) {
                Some(place) => Some(CodedValue::Text(str::from_utf8(&bytes[place.clone()])?)),
                None => None,
            },
            CodedValues::Ints(ints) => ints.get(code).map(|int| CodedValue::Int(*int)),
            CodedValues::Floats(floats) => floats.get(code).map(|float| CodedValue::Float(*float)),
        };
        value.ok_or_else(|| ParquetError::General(format!("no value has the code {code}")))
    }

    /// Calls `each` with consecutive rows that have a value, and their codes, of which all have a value. Pages of rows that
    /// are not wanted are left out.
    ///
    /// # Errors
    /// The pages cannot be read.
    pub(crate) fn for_each(
        &mut self,
        is_wanted: impl Fn(Range<usize>) -> bool,
        mut each: impl FnMut(Range<usize>, &[u32]),
    ) -> Result<()> {
        let (mut codes, mut ranges, mut first) = (Vec::new(), Vec::new(), 0);
        while let Some(page) = self.pages.peek_next_page()? {
            let rows = page.num_levels.or(page.num_rows).unwrap_or(0);
            let of_page = first..first + rows;
            first = of_page.end;
            if !is_wanted(of_page.clone()) {
                self.pages.skip_next_page()?;
                continue;
            }
            let Some(page) = self.pages.get_next_page()? else { break };
            ranges.clear();
            codes.clear();
            let (levels, coded) = self.parts(&page)?;
            let values = match levels {
                Some(levels) => runs::marked(&levels, rows, &mut ranges)?,
                None => {
                    ranges.push(0..rows);
                    rows
                }
            };
            if values == 0 {
                continue;
            }
            let Some((width, coded)) = coded.split_first() else { return Err(torn()) };
            runs::numbers(coded, *width, values, &mut codes)?;
            if codes.iter().copied().max().is_some_and(|largest| largest as usize >= self.values_len()) {
                return Err(ParquetError::General("a code has no value".to_owned()));
            }
            let mut codes = codes.as_slice();
            for range in &ranges {
                let (of_range, rest) = codes.split_at(range.len());
                codes = rest;
                each(of_page.start + range.start..of_page.start + range.end, of_range);
            }
        }
        Ok(())
    }

    /// Which rows have a value, if not all have, and the codes of those that have.
    fn parts(&self, page: &Page) -> Result<(Option<Bytes>, Bytes)> {
        let is_coded = |encoding: &Encoding| matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
        match page {
            Page::DataPage { buf, encoding, def_level_encoding, .. }
                if is_coded(encoding) && (!self.has_levels || *def_level_encoding == Encoding::RLE) =>
            {
                if !self.has_levels {
                    return Ok((None, buf.clone()));
                }
                let mut rest = buf.clone();
                let length = rest.try_get_u32_le().map_err(|_| torn())? as usize;
                if length > rest.len() {
                    return Err(torn());
                }
                Ok((Some(rest.split_to(length)), rest))
            }
            Page::DataPageV2 { buf, encoding, def_levels_byte_len, rep_levels_byte_len, .. } if is_coded(encoding) => {
                let mut rest = buf.clone();
                let (repeated, length) = (*rep_levels_byte_len as usize, *def_levels_byte_len as usize);
                if repeated.checked_add(length).is_none_or(|levels| levels > rest.len()) {
                    return Err(torn());
                }
                rest.advance(repeated);
                let levels = rest.split_to(length);
                Ok((self.has_levels.then_some(levels), rest))
            }
            _ => Err(ParquetError::NYI("a page of a coded column has no codes".to_owned())),
        }
    }
}

impl CodedValues {
    fn read(of_type: Type, buf: &Bytes, count: usize) -> Result<Self> {
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
}

fn torn() -> ParquetError {
    ParquetError::EOF("a page ends before its values".to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use parquet::{
        arrow::ArrowWriter,
        file::{
            metadata::ParquetMetaDataReader,
            properties::{WriterProperties, WriterVersion},
        },
    };
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    /// Rows and values that come out of the only column of a file, where these rows are wanted.
    fn read(
        column: ArrayRef,
        version: WriterVersion,
        is_wanted: impl Fn(Range<usize>) -> bool,
    ) -> Vec<(usize, String)> {
        let field = Field::new("k", column.data_type().clone(), column.null_count() > 0);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_data_page_row_count_limit(10)
            .set_write_batch_size(1)
            .build();
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let file = Bytes::from(file);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        let mut found = Vec::new();
        for group in metadata.row_groups() {
            let chunk = group.column(0);
            let (start, length) = chunk.byte_range();
            let bytes = file.slice(start as usize..(start + length) as usize);
            let opened = CodedChunk::open(chunk, Chunk { start, bytes }, batch.num_rows()).unwrap();
            let Some(mut opened) = opened else { continue };
            let mut coded = Vec::new();
            opened.for_each(&is_wanted, |rows, codes| coded.extend(rows.zip(codes.to_vec()))).unwrap();
            let shown = |value: CodedValue<'_>| match value {
                CodedValue::Text(text) => text.to_owned(),
                CodedValue::Int(int) => int.to_string(),
                CodedValue::Float(float) => float.to_string(),
            };
            let value = |(row, code): (usize, u32)| (row, shown(opened.value(code as usize).unwrap()));
            found.extend(coded.into_iter().map(value));
            assert!(opened.value(opened.values_len()).is_err());
        }
        found
    }

    proptest! {
        #[test]
        fn codes_stand_for_what_was_written(
            values in vec(option::of(0..20_i64), 1..100), has_nulls in any::<bool>(), is_two in any::<bool>(), from in 0..100_usize,
        ) {
            let values: Vec<Option<i64>> = values.into_iter().filter(|value| has_nulls || value.is_some()).collect();
            let version = if is_two { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
            let rows = values.iter().enumerate();
            let expected: Vec<(usize, String)> = rows.filter_map(|(row, value)| Some((row, (*value)?.to_string()))).collect();
            let texts = values.iter().map(|value| value.map(|value| value.to_string()));
            let texts: ArrayRef = Arc::new(texts.collect::<StringArray>());
            prop_assert_eq!(&read(Arc::clone(&texts), version, |_| true), &expected);
            prop_assert_eq!(&read(Arc::new(Int64Array::from(values)), version, |_| true), &expected);
            let late = read(texts, version, |rows| rows.end > from);
            prop_assert!(late.iter().all(|row| expected.contains(row)));
            prop_assert!(expected.iter().filter(|(row, _)| *row >= from).all(|row| late.contains(row)));
        }
    }

    #[test]
    fn a_column_without_values_has_no_codes() {
        let nothing: ArrayRef = Arc::new(StringArray::new_null(30));
        assert_eq!(nothing.data_type(), &DataType::Utf8);
        assert!(read(nothing, WriterVersion::PARQUET_1_0, |_| true).is_empty());
    }
}
