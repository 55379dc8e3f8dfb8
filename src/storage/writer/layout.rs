//! Schema and Parquet properties of a file.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    datatypes::{DataType, Schema, SchemaRef},
};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use crate::{
    model::{
        attributes::{AttributeScope, AttributeType},
        promotion::PromotedAttribute,
        schema::{CORE_COLUMNS, column, promoted_field},
    },
    storage::{
        footer::{SORT_METADATA, VERSION_METADATA},
        order::SORT_ORDER,
        writer::{FORMAT_VERSION, Origin, ROW_GROUP_ROWS_MAX, WriteError},
    },
};

const PAGE_ROWS_MAX: usize = 8_192;

/// Files of fewer rows are compressed lightly, however they came to be: each page costs zstd a start of its own, and they
/// are merged again.
const ZSTD_ROWS_MIN: usize = 16_384;

/// How many values of a column are looked at to find out whether most of them differ.
const SAMPLE_VALUES: usize = 1_024;

/// What the properties of a file depend on.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The promoted columns.
    pub(super) promoted: &'a [PromotedAttribute],
    /// Those with a double that is not a number. Statistics leave it out, and queries take it for the largest number.
    pub(super) with_nan: &'a [&'a str],
    /// Those that get a bloom filter, by [`has_many_values`].
    pub(super) with_bloom: &'a [&'a str],
    /// Rows of the file.
    pub(super) rows: usize,
    /// How it comes to be.
    pub(super) origin: Origin,
}

pub(super) fn file_schema(promoted: &[PromotedAttribute]) -> SchemaRef {
    let core = CORE_COLUMNS.iter().map(|core| Arc::clone(&core.field));
    let promoted = promoted.iter().map(|attribute| Arc::new(promoted_field(attribute)));
    Arc::new(Schema::new(core.chain(promoted).collect::<Vec<_>>()))
}

/// Whether a column has so many different texts that its least and greatest value and its dictionary do not prune, and a
/// bloom filter does. Told from some values that are spread over it.
pub(super) fn has_many_values<'a>(
    attribute: &PromotedAttribute,
    arrays: &(impl Iterator<Item = &'a ArrayRef> + Clone),
) -> bool {
    // Values of resources repeat from span to span.
    if attribute.value_type != AttributeType::Str || attribute.scope != AttributeScope::Span {
        return false;
    }
    let texts = arrays.clone().filter_map(|array| array.as_string_opt::<i32>());
    let count: usize = texts.clone().map(|texts| texts.len() - texts.null_count()).sum();
    let sample = every(count.div_ceil(SAMPLE_VALUES).max(1), texts);
    let distinct: HashSet<&str> = sample.iter().copied().collect();
    sample.len() >= 16 && distinct.len() * 4 > sample.len()
}

/// Each `step`-th value, without a look at arrays and, where none is NULL, values in between.
fn every<'a>(step: usize, arrays: impl Iterator<Item = &'a StringArray>) -> Vec<&'a str> {
    let mut sample = Vec::new();
    let (mut start, mut next) = (0, 0);
    for texts in arrays {
        let end = start + texts.len() - texts.null_count();
        match texts.nulls() {
            _ if next >= end => {}
            None => {
                sample.extend((next - start..texts.len()).step_by(step).map(|row| texts.value(row)));
                next += (end - next).div_ceil(step) * step;
            }
            Some(nulls) => {
                for (value, row) in (start..).zip(nulls.valid_indices()) {
                    if value == next {
                        sample.push(texts.value(row));
                        next += step;
                    }
                }
            }
        }
        start = end;
    }
    sample
}

impl Layout<'_> {
    pub(super) fn properties(&self) -> Result<WriterProperties, WriteError> {
        let path = |name: &str| ColumnPath::new(vec![name.to_owned()]);
        let metadata = vec![
            KeyValue::new(VERSION_METADATA.to_owned(), FORMAT_VERSION.to_string()),
            KeyValue::new(SORT_METADATA.to_owned(), SORT_ORDER.to_owned()),
        ];
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("tracehouse ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(metadata))
            .set_compression(self.compression()?)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_data_page_row_count_limit(PAGE_ROWS_MAX)
            .set_statistics_enabled(EnabledStatistics::None);
        let core = CORE_COLUMNS.iter().filter(|core| !core.field.data_type().is_nested());
        let core = core.map(|core| core.field.name().as_str());
        for name in core.chain(self.promoted.iter().map(|attribute| &*attribute.column)) {
            let statistics = match name {
                column::TRACE_ID | column::SPAN_ID | column::PARENT_SPAN_ID => EnabledStatistics::None,
                // Texts rarely rule out a row group that has a bit of everything, and finding out their ranges is a tenth of
                // the work of writing it. No page of it is ruled out by them, and what all pages have is kept in memory
                // with the footers.
                _ if self.is_text(name) && self.origin == Origin::Flushed => EnabledStatistics::None,
                _ if self.is_text(name) => EnabledStatistics::Chunk,
                _ if self.with_nan.contains(&name) => EnabledStatistics::None,
                _ => EnabledStatistics::Page,
            };
            properties = properties.set_column_statistics_enabled(path(name), statistics);
        }
        for id in [column::TRACE_ID, column::SPAN_ID, column::PARENT_SPAN_ID] {
            properties = properties
                .set_column_dictionary_enabled(path(id), false)
                .set_column_encoding(path(id), Encoding::PLAIN);
        }
        // Random ids, and packed starts and durations, hardly get smaller, and nearly every query reads one of them. The codes
        // of short texts that every search shows or counts get smaller by half a byte per span, which it would undo each time,
        // for as long as a file stays.
        let random = [column::SPAN_ID, column::START_TIME, column::DURATION];
        let read_by_all = [column::NAME, column::KIND, column::STATUS_CODE, column::SERVICE_NAME];
        let read_by_all = read_by_all.into_iter().filter(|_| self.origin == Origin::Merged);
        for name in random.into_iter().chain(read_by_all) {
            properties = properties.set_column_compression(path(name), Compression::UNCOMPRESSED);
        }
        // Flags and counts are the same number nearly everywhere, which as a delta costs less than looking it up in a
        // dictionary for each row.
        let nearly_constant = [
            column::FLAGS,
            column::DROPPED_ATTRIBUTES_COUNT,
            column::DROPPED_EVENTS_COUNT,
            column::DROPPED_LINKS_COUNT,
            column::RESOURCE_DROPPED_ATTRIBUTES_COUNT,
            column::SCOPE_DROPPED_ATTRIBUTES_COUNT,
        ];
        for name in nearly_constant.into_iter().chain([column::START_TIME, column::DURATION]) {
            properties = properties
                .set_column_dictionary_enabled(path(name), false)
                .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
        }
        // Filters have room for a value per row while they are built, and shrink to what they hold.
        let rows = self.rows.clamp(1, ROW_GROUP_ROWS_MAX) as u64;
        for name in self.with_bloom.iter().copied().chain([column::TRACE_ID]) {
            properties = properties
                .set_column_bloom_filter_enabled(path(name), true)
                .set_column_bloom_filter_fpp(path(name), 0.01)
                .set_column_bloom_filter_max_ndv(path(name), rows);
        }
        Ok(properties.build())
    }

    fn compression(&self) -> Result<Compression, WriteError> {
        match self.origin {
            Origin::Merged if self.rows >= ZSTD_ROWS_MIN => Ok(Compression::ZSTD(ZstdLevel::try_new(1)?)),
            Origin::Merged | Origin::Flushed => Ok(Compression::LZ4_RAW),
        }
    }

    fn is_text(&self, name: &str) -> bool {
        let mut core = CORE_COLUMNS.iter();
        core.any(|core| core.field.name() == name && *core.field.data_type() == DataType::Utf8)
            || self
                .promoted
                .iter()
                .any(|attribute| &*attribute.column == name && attribute.value_type == AttributeType::Str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_sample_is_each_nth_value_of_all_arrays(
            arrays in vec(vec(option::weighted(0.7, "[a-z]{0,2}"), 0..20), 0..6),
            dense in vec(vec("[a-z]{0,2}", 0..20), 0..3),
            step in 1..9_usize,
        ) {
            let sparse = arrays.into_iter().map(StringArray::from);
            let arrays: Vec<StringArray> = sparse.chain(dense.into_iter().map(StringArray::from)).collect();
            let expected: Vec<&str> = arrays.iter().flat_map(|texts| texts.iter().flatten()).step_by(step).collect();
            prop_assert_eq!(every(step, arrays.iter()), expected);
        }
    }
}
