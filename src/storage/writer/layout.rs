//! Schema and Parquet properties of a file.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{Schema, SchemaRef},
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
        writer::{FORMAT_VERSION, ROW_GROUP_ROWS_MAX, WriteError},
    },
};

const PAGE_ROWS_MAX: usize = 8_192;

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
    /// Most rows that a row group will have.
    pub(super) group_rows_max: usize,
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
    let step = count.div_ceil(SAMPLE_VALUES).max(1);
    let sample: Vec<&str> = texts.flat_map(|texts| texts.iter().flatten()).step_by(step).collect();
    let distinct: HashSet<&str> = sample.iter().copied().collect();
    sample.len() >= 16 && distinct.len() * 4 > sample.len()
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
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_data_page_row_count_limit(PAGE_ROWS_MAX)
            .set_statistics_enabled(EnabledStatistics::None);
        let core = CORE_COLUMNS.iter().filter(|core| !core.field.data_type().is_nested());
        let core = core.map(|core| core.field.name().as_str());
        for name in core.chain(self.promoted.iter().map(|attribute| &*attribute.column)) {
            let statistics = match name {
                column::SPAN_ID | column::PARENT_SPAN_ID => EnabledStatistics::None,
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
        for (name, encoding) in
            [(column::START_TIME, Encoding::DELTA_BINARY_PACKED), (column::DURATION, Encoding::BYTE_STREAM_SPLIT)]
        {
            properties =
                properties.set_column_dictionary_enabled(path(name), false).set_column_encoding(path(name), encoding);
        }
        // Filters have room for a value per row while they are built, and shrink to what they hold.
        let rows = self.group_rows_max.clamp(1, ROW_GROUP_ROWS_MAX) as u64;
        for name in self.with_bloom.iter().copied().chain([column::TRACE_ID]) {
            properties = properties
                .set_column_bloom_filter_enabled(path(name), true)
                .set_column_bloom_filter_fpp(path(name), 0.01)
                .set_column_bloom_filter_max_ndv(path(name), rows);
        }
        Ok(properties.build())
    }
}
