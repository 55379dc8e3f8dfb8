//! The attributes in the maps of a row group, straight from the pages of their columns.
//!
//! Keys, and the values of each type, are columns with equally many levels: one for each entry, and one for a row without any. So
//! what stands at the same place in two of them is of one entry:
//!
//! ```text
//!  rows           {a: 1, b: "x"}   {}   {a: 2}
//!  key            a  b             -    a
//!  value.int      1  -             -    2
//!  value.str      -  x             -    -
//!  place          0  1             2    3
//! ```

use bytes::{Buf, Bytes};
use parquet::{
    basic::{Encoding, Type},
    column::page::Page,
    errors::{ParquetError, Result},
    file::metadata::ColumnChunkMetaData,
};

use crate::{
    model::attributes::AttributeType,
    storage::{
        apart::runs,
        chunks::Chunk,
        dictionary_page::{CodedValue, CodedValues},
        pages::{Decompressor, Pages},
    },
};

/// An entry of a map, with a value of one of the types that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The row of the row group.
    pub(crate) row: usize,
    /// The code of the key.
    pub(crate) key: u32,
    pub(crate) value_type: AttributeType,
    /// The code of the value; of a boolean, 1 if it is true.
    pub(crate) value: u32,
}

/// The entries of the maps of a row group.
#[derive(Debug)]
pub(crate) struct MapEntries {
    keys: Option<CodedValues>,
    values: Vec<(AttributeType, Option<CodedValues>)>,
    entries: Vec<Entry>,
}

impl MapEntries {
    /// Reads the columns of keys and of values, each with its bytes, of so many rows.
    ///
    /// # Errors
    /// The pages cannot be read, or are not of one map.
    pub(super) fn read(
        keys: (&ColumnChunkMetaData, Chunk),
        values: Vec<(AttributeType, &ColumnChunkMetaData, Chunk)>,
        rows: usize,
        decompressor: &mut Decompressor,
    ) -> Result<Self> {
        let (keys, at_keys) = leaf(keys, rows, decompressor)?;
        let (mut known, mut found) = (Vec::new(), vec![None; at_keys.len()]);
        for (value_type, chunk, part) in values {
            let (values, places) = leaf((chunk, part), rows, decompressor)?;
            known.push((value_type, values));
            let mut at = 0;
            for of_value in places {
                at += at_keys[at..].partition_point(|of_key| of_key.place < of_value.place);
                match at_keys.get(at) {
                    Some(of_key) if of_key.place == of_value.place => {
                        found[at] = found[at].or(Some((value_type, of_value.code)));
                    }
                    _ => return Err(ParquetError::General("a map has a value without a key".to_owned())),
                }
            }
        }
        let entry = |(of_key, found): (&Place, Option<(AttributeType, u32)>)| {
            let (value_type, value) = found?;
            Some(Entry { row: of_key.row as usize, key: of_key.code, value_type, value })
        };
        let mut entries: Vec<Entry> = at_keys.iter().zip(found).filter_map(entry).collect();
        entries.shrink_to_fit();
        Ok(Self { keys, values: known, entries })
    }

    /// All entries that have a value of a type that is counted, row by row.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// The key of a code.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn key(&self, code: u32) -> Result<&str> {
        match self.keys.as_ref().map(|keys| keys.value(code as usize)).transpose()? {
            Some(CodedValue::Text(key)) => Ok(key),
            _ => Err(ParquetError::General(format!("no key has the code {code}"))),
        }
    }

    /// The value of an entry; `None` of a boolean, whose code it is.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn value(&self, entry: &Entry) -> Result<Option<CodedValue<'_>>> {
        let values = self.values.iter().find(|(value_type, _)| *value_type == entry.value_type);
        let values = values.and_then(|(_, values)| values.as_ref());
        values.map(|values| values.value(entry.value as usize)).transpose()
    }
}

/// Where a leaf column has a value, and which.
#[derive(Clone, Copy, Debug)]
struct Place {
    place: u32,
    row: u32,
    code: u32,
}

/// The values of a leaf column by their codes, and where it has which.
fn leaf(
    (chunk, part): (&ColumnChunkMetaData, Chunk),
    rows: usize,
    decompressor: &mut Decompressor,
) -> Result<(Option<CodedValues>, Vec<Place>)> {
    let (descriptor, is_bool) = (chunk.column_descr(), chunk.column_type() == Type::BOOLEAN);
    let repetition_width = width_of(descriptor.max_rep_level());
    let (defined, definition_width) = (descriptor.max_def_level() as u32, width_of(descriptor.max_def_level()));
    let mut pages = Pages::of(chunk, part, rows)?;
    let values = if is_bool { None } else { CodedValues::read(chunk, &mut pages, decompressor)? };
    let mut places = Vec::new();
    if !is_bool && values.is_none() {
        return Ok((None, places));
    }
    let values_len = values.as_ref().map_or(2, CodedValues::len);
    let mut left = usize::try_from(chunk.num_values())?;
    let (mut repetitions, mut definitions, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut place, mut rows_before) = (0, 0);
    while let Some(page) = pages.next(decompressor)? {
        let parts = Parts::of(&page, is_bool)?;
        left = left.checked_sub(parts.count).ok_or_else(torn)?;
        repetitions.clear();
        definitions.clear();
        codes.clear();
        runs::numbers(&parts.repetitions, repetition_width, parts.count, &mut repetitions)?;
        runs::numbers(&parts.definitions, definition_width, parts.count, &mut definitions)?;
        let present = definitions.iter().filter(|level| **level == defined).count();
        match is_bool {
            true => runs::packed_bits(&parts.values, present, &mut codes)?,
            false if present > 0 => {
                let (width, coded) = parts.values.split_first().ok_or_else(torn)?;
                runs::numbers(coded, *width, present, &mut codes)?;
            }
            false => {}
        }
        let mut codes = codes.iter();
        for (repetition, definition) in repetitions.iter().zip(&definitions) {
            rows_before += u32::from(*repetition == 0);
            if *definition == defined
                && let Some(code) = codes.next()
            {
                let row = rows_before.checked_sub(1).filter(|row| (*row as usize) < rows).ok_or_else(torn)?;
                if *code as usize >= values_len {
                    return Err(ParquetError::General("a code has no value".to_owned()));
                }
                places.push(Place { place, row, code: *code });
            }
            place += 1;
        }
    }
    Ok((values, places))
}

/// Bits of a level.
fn width_of(level_max: i16) -> u8 {
    (i16::BITS - level_max.leading_zeros()) as u8
}

/// What a page of a nested column consists of.
struct Parts {
    /// Levels.
    count: usize,
    repetitions: Bytes,
    definitions: Bytes,
    values: Bytes,
}

impl Parts {
    fn of(page: &Page, is_bool: bool) -> Result<Self> {
        let is_read = |encoding: &Encoding| match is_bool {
            true => *encoding == Encoding::PLAIN,
            false => matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY),
        };
        match page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. }
                if is_read(encoding)
                    && [def_level_encoding, rep_level_encoding].iter().all(|levels| **levels == Encoding::RLE) =>
            {
                let mut rest = buf.clone();
                let mut levels = || {
                    let length = rest.try_get_u32_le().map_err(|_| torn())? as usize;
                    split_to(&mut rest, length)
                };
                let (repetitions, definitions) = (levels()?, levels()?);
                Ok(Self { count: *num_values as usize, repetitions, definitions, values: rest })
            }
            Page::DataPageV2 { buf, num_values, encoding, rep_levels_byte_len, def_levels_byte_len, .. }
                if is_read(encoding) =>
            {
                let mut rest = buf.clone();
                let repetitions = split_to(&mut rest, *rep_levels_byte_len as usize)?;
                let definitions = split_to(&mut rest, *def_levels_byte_len as usize)?;
                Ok(Self { count: *num_values as usize, repetitions, definitions, values: rest })
            }
            _ => Err(ParquetError::NYI("a page of a map has no codes".to_owned())),
        }
    }
}

fn split_to(rest: &mut Bytes, length: usize) -> Result<Bytes> {
    if length > rest.len() {
        return Err(torn());
    }
    Ok(rest.split_to(length))
}

fn torn() -> ParquetError {
    ParquetError::EOF("a page of a map ends before its values".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            Array, ArrayRef, BooleanArray, Float64Array, Int64Array, MapArray, RecordBatch, StringArray, StructArray,
        },
        buffer::{NullBuffer, OffsetBuffer},
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
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::model::attributes::{entry_fields, map_type, value_fields};
    use crate::storage::apart::MapLeaves;

    /// A value by the type that it is of, in order; 4 has none of those that are counted.
    type Attribute = (u8, (u8, i64));

    fn maps(rows: &[Option<Vec<Attribute>>]) -> ArrayRef {
        let all: Vec<Attribute> = rows.iter().flatten().flatten().copied().collect();
        let of =
            |value_type: u8| all.iter().map(move |(_, (of_type, value))| (*of_type == value_type).then_some(*value));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(of(0).map(|value| value.map(|value| value.to_string())).collect::<StringArray>()),
            Arc::new(of(1).collect::<Int64Array>()),
            Arc::new(of(2).map(|value| value.map(|value| value as f64)).collect::<Float64Array>()),
            Arc::new(of(3).map(|value| value.map(|value| value % 2 == 0)).collect::<BooleanArray>()),
            Arc::new(of(4).map(|value| value.map(|value| format!("[{value}]"))).collect::<StringArray>()),
        ];
        let values = StructArray::try_new(value_fields(), columns, None).unwrap();
        let keys = StringArray::from_iter_values(all.iter().map(|(key, _)| format!("key {key}")));
        let entries = StructArray::try_new(entry_fields(), vec![Arc::new(keys), Arc::new(values)], None).unwrap();
        let DataType::Map(field, is_sorted) = map_type() else { panic!("{}", map_type()) };
        let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
        let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(MapArray::try_new(field, offsets, entries, Some(nulls), is_sorted).unwrap())
    }

    /// A file of maps, in pages of ten rows.
    fn written(
        rows: &[Option<Vec<Attribute>>],
        version: WriterVersion,
        compression: Compression,
    ) -> (Bytes, ParquetMetaData) {
        let maps = maps(rows);
        let schema = Schema::new(vec![Field::new("m", maps.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![maps]).unwrap();
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

    #[test]
    fn maps_with_many_entries_are_left_to_the_scan() {
        let is_apart = |entries: u8| {
            let rows = vec![Some((0..entries).map(|key| (key, (key % 4, 1))).collect()); 40];
            let (_, metadata) = written(&rows, WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED);
            MapLeaves::of(&metadata, "m").is_some()
        };
        assert_eq!([1, 2, 3].map(is_apart), [true, true, false]);
    }

    proptest! {
        #[test]
        fn entries_are_those_of_the_maps(
            rows in vec(option::weighted(0.9, vec((0..4_u8, (0..5_u8, 0..6_i64)), 0..4)), 1..80),
            is_two in any::<bool>(), is_compressed in any::<bool>(),
        ) {
            let version = if is_two { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
            let zstd = Compression::ZSTD(ZstdLevel::default());
            let (file, metadata) = written(&rows, version, if is_compressed { zstd } else { Compression::UNCOMPRESSED });
            let group = metadata.row_group(0);
            let column = |name: &str| {
                let chunk = group.columns().iter().find(|chunk| chunk.column_path().parts().last().unwrap() == name);
                (chunk.unwrap(), Chunk { start: 0, bytes: file.clone() })
            };
            let value = |value_type: AttributeType| {
                let (chunk, part) = column(value_type.value_field());
                (value_type, chunk, part)
            };
            let values = || AttributeType::ALL.into_iter().map(value).collect::<Vec<_>>();
            if is_two {
                // Version 2 encodes booleans in another way, which is refused.
                let has_bool = rows.iter().flatten().flatten().any(|(_, (of_type, _))| *of_type == 3);
                let read = MapEntries::read(column("key"), values(), rows.len(), &mut Decompressor::default());
                prop_assert!(!has_bool || read.is_err());
                return Ok(());
            }
            let found = MapEntries::read(column("key"), values(), rows.len(), &mut Decompressor::default()).unwrap();
            let shown = found.entries().iter().map(|entry| {
                let value = match found.value(entry).unwrap() {
                    Some(CodedValue::Text(text)) => text.to_owned(),
                    Some(CodedValue::Int(int)) => int.to_string(),
                    Some(CodedValue::Float(float)) => float.to_string(),
                    None => (entry.value == 1).to_string(),
                };
                (entry.row, found.key(entry.key).unwrap().to_owned(), entry.value_type, value)
            });
            let of_row = |(row, attributes): (usize, &Option<Vec<Attribute>>)| {
                let counted = attributes.iter().flatten().filter(|(_, (of_type, _))| *of_type < 4);
                let entry = move |(key, (of_type, value)): &Attribute| {
                    let text = if *of_type == 3 { (value % 2 == 0).to_string() } else { value.to_string() };
                    (row, format!("key {key}"), AttributeType::ALL[usize::from(*of_type)], text)
                };
                counted.map(entry).collect::<Vec<_>>()
            };
            let expected: Vec<_> = rows.iter().enumerate().flat_map(of_row).collect();
            prop_assert_eq!(shown.collect::<Vec<_>>(), expected);
            let fewer = MapEntries::read(column("key"), values(), rows.len() - 1, &mut Decompressor::default());
            let is_in_last = rows.last().and_then(Option::as_ref).is_some_and(|last| !last.is_empty());
            prop_assert_eq!(fewer.is_err(), is_in_last);
        }
    }
}
