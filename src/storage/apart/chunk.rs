//! The codes of one column in one row group, straight from its pages.

use std::ops::Range;

use bytes::{Buf, Bytes};
use parquet::{
    basic::Encoding,
    column::page::Page,
    errors::{ParquetError, Result},
    file::metadata::ColumnChunkMetaData,
};

use crate::storage::{
    apart::runs,
    chunks::Chunk,
    dictionary_page::CodedValues,
    pages::{Decompressor, Pages},
};

/// Rows of a page that have a value.
#[derive(Clone, Debug)]
pub(crate) enum CodedRows<'a> {
    /// All of its rows, which are these of the row group.
    All(Range<usize>),
    /// Those that are marked, counted from the first row of the page.
    Some { first: usize, marked: &'a [u32] },
}

impl CodedRows<'_> {
    /// How many rows these are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::All(rows) => rows.len(),
            Self::Some { marked, .. } => marked.len(),
        }
    }
}

/// A column of a row group whose values are all codes of a dictionary.
pub(crate) struct CodedChunk {
    values: CodedValues,
    pages: Pages,
    has_levels: bool,
    rows: usize,
    values_max: usize,
}

impl CodedChunk {
    /// Opens a chunk of so many rows out of its bytes; `None` if it has no value.
    pub(super) fn open(
        chunk: &ColumnChunkMetaData,
        part: Chunk,
        rows: usize,
        decompressor: &mut Decompressor,
    ) -> Result<Option<Self>> {
        let mut pages = Pages::of(chunk, part, rows)?;
        let Some(values) = CodedValues::read(chunk, &mut pages, decompressor)? else { return Ok(None) };
        let has_levels = chunk.column_descr().max_def_level() > 0;
        let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt()).unwrap_or(0);
        let values_max = rows.saturating_sub(usize::try_from(nulls)?);
        Ok(Some(Self { values, pages, has_levels, rows, values_max }))
    }

    /// How many rows have a value, at most.
    pub(crate) fn values_max(&self) -> usize {
        self.values_max
    }

    /// What the codes stand for.
    pub(crate) fn values(&self) -> &CodedValues {
        &self.values
    }

    /// Calls `each` with rows that have a value, and their codes, of which all have a value. Pages of rows that are not wanted
    /// are left out.
    ///
    /// # Errors
    /// The pages cannot be read.
    pub(crate) fn for_each(
        &mut self,
        decompressor: &mut Decompressor,
        is_wanted: impl Fn(Range<usize>) -> bool,
        mut each: impl FnMut(CodedRows<'_>, &[u32]),
    ) -> Result<()> {
        let (mut codes, mut marked, mut first) = (Vec::new(), Vec::new(), 0);
        while let Some(page) = self.pages.peek()? {
            let rows = page.num_levels.or(page.num_rows).unwrap_or(0);
            let of_page = first..first + rows;
            first = of_page.end;
            if of_page.end > self.rows {
                return Err(ParquetError::General(format!(
                    "pages have more rows than the {} of their group",
                    self.rows
                )));
            }
            if !is_wanted(of_page.clone()) {
                self.pages.skip()?;
                continue;
            }
            let Some(page) = self.pages.next(decompressor)? else { break };
            marked.clear();
            codes.clear();
            let (levels, coded) = self.parts(&page)?;
            let with_value = match levels {
                Some(levels) => {
                    runs::marked(&levels, rows, &mut marked)?;
                    match marked.len() {
                        0 => continue,
                        all if all == rows => CodedRows::All(of_page),
                        _ => CodedRows::Some { first: of_page.start, marked: &marked },
                    }
                }
                None => CodedRows::All(of_page),
            };
            let values = with_value.len();
            if values == 0 {
                continue;
            }
            let Some((width, coded)) = coded.split_first() else { return Err(torn()) };
            runs::numbers(coded, *width, values, &mut codes)?;
            if codes.iter().copied().max().is_some_and(|largest| largest as usize >= self.values.len()) {
                return Err(ParquetError::General("a code has no value".to_owned()));
            }
            each(with_value, &codes);
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

fn torn() -> ParquetError {
    ParquetError::EOF("a page ends before its values".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use parquet::{
        arrow::ArrowWriter,
        basic::{Compression, ZstdLevel},
        file::{
            metadata::{ParquetMetaData, ParquetMetaDataReader},
            properties::{WriterProperties, WriterVersion},
        },
    };
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;
    use crate::storage::dictionary_page::CodedValue;

    /// A file with one column, in pages of ten rows.
    fn written(column: &ArrayRef, (version, compression): (WriterVersion, Compression)) -> (Bytes, ParquetMetaData) {
        let field = Field::new("k", column.data_type().clone(), column.null_count() > 0);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(column)]).unwrap();
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(compression)
            .set_data_page_row_count_limit(10)
            .set_write_batch_size(1)
            .build();
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let file = Bytes::from(file);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        (file, metadata)
    }

    /// Rows and values that come out of the only column of a file, where these rows are wanted.
    fn read(
        column: &ArrayRef,
        form: (WriterVersion, Compression),
        is_wanted: impl Fn(Range<usize>) -> bool,
    ) -> Vec<(usize, String)> {
        let (file, metadata) = written(column, form);
        let (mut found, mut decompressor) = (Vec::new(), Decompressor::default());
        for group in metadata.row_groups() {
            let chunk = group.column(0);
            let (start, length) = chunk.byte_range();
            let bytes = file.slice(start as usize..(start + length) as usize);
            let opened = CodedChunk::open(chunk, Chunk { start, bytes }, column.len(), &mut decompressor).unwrap();
            let Some(mut opened) = opened else { continue };
            let mut coded = Vec::new();
            opened
                .for_each(&mut decompressor, &is_wanted, |rows, codes| {
                    let rows: Vec<usize> = match rows {
                        CodedRows::All(rows) => rows.collect(),
                        CodedRows::Some { first, marked } => marked.iter().map(|row| first + *row as usize).collect(),
                    };
                    assert_eq!(rows.len(), codes.len());
                    coded.extend(rows.into_iter().zip(codes.to_vec()));
                })
                .unwrap();
            let shown = |value: CodedValue<'_>| match value {
                CodedValue::Text(text) => text.to_owned(),
                CodedValue::Int(int) => int.to_string(),
                CodedValue::Float(float) => float.to_string(),
            };
            let value = |(row, code): (usize, u32)| (row, shown(opened.values().value(code as usize).unwrap()));
            found.extend(coded.into_iter().map(value));
            assert!(opened.values().value(opened.values().len()).is_err());
        }
        found
    }

    proptest! {
        #[test]
        fn codes_stand_for_what_was_written(
            values in vec(option::of(0..20_i64), 1..100), has_nulls in any::<bool>(), is_two in any::<bool>(),
            compression in select(vec![Compression::UNCOMPRESSED, Compression::ZSTD(ZstdLevel::default()), Compression::LZ4_RAW]),
            from in 0..100_usize,
        ) {
            let values: Vec<Option<i64>> = values.into_iter().filter(|value| has_nulls || value.is_some()).collect();
            let version = if is_two { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
            let form = (version, compression);
            let rows = values.iter().enumerate();
            let expected: Vec<(usize, String)> = rows.filter_map(|(row, value)| Some((row, (*value)?.to_string()))).collect();
            let texts = values.iter().map(|value| value.map(|value| value.to_string()));
            let texts: ArrayRef = Arc::new(texts.collect::<StringArray>());
            prop_assert_eq!(&read(&texts, form, |_| true), &expected);
            prop_assert_eq!(&read(&(Arc::new(Int64Array::from(values)) as ArrayRef), form, |_| true), &expected);
            let late = read(&texts, form, |rows| rows.end > from);
            prop_assert!(late.iter().all(|row| expected.contains(row)));
            prop_assert!(expected.iter().filter(|(row, _)| *row >= from).all(|row| late.contains(row)));
        }
    }

    #[test]
    fn pages_with_more_rows_than_their_group_are_refused() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1; 30]));
        let (file, metadata) = written(&column, (WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED));
        let chunk = metadata.row_group(0).column(0);
        let mut decompressor = Decompressor::default();
        let part = Chunk { start: 0, bytes: file };
        let mut opened = CodedChunk::open(chunk, part, 25, &mut decompressor).unwrap().unwrap();
        let mut seen = 0;
        let error = opened.for_each(&mut decompressor, |_| true, |rows, _| seen += rows.len()).unwrap_err();
        assert!(error.to_string().contains("more rows than the 25"), "{error}");
        assert_eq!(seen, 20, "of the pages before");
    }

    #[test]
    fn a_column_without_values_has_no_codes() {
        let nothing: ArrayRef = Arc::new(StringArray::new_null(30));
        assert_eq!(nothing.data_type(), &DataType::Utf8);
        assert!(read(&nothing, (WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED), |_| true).is_empty());
    }
}
