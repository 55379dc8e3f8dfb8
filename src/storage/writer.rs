//! Spans to Parquet.
//!
//! ```text
//! rows     those of one UTC day, in the order of `order`
//! columns  model::schema's core columns, then the promoted columns that hold a value, by name; `date` is not among them
//! groups   131,072 rows; pages up to 8,192 rows; page index for all of them
//! codec    zstd 1
//! ids      plain, without dictionary; bloom filter on trace_id in each row group
//! start    delta; duration: byte stream split; other columns: dictionary
//! stats    row groups and pages of scalar columns; none on the leaves of maps and lists, nor on span ids, where
//!          they never prune, nor on columns of doubles with a NaN, where they would prune too much
//! footer   tracehouse.version  the number of this layout, FORMAT_VERSION
//!          tracehouse.sort     order::SORT_ORDER
//!          tracehouse.keys     which attributes are in the file: `keys`
//! ```
//!
//! A file is written once and never changed; whoever lists it in the table owns its deletion. A torn file has no footer and
//! is in no table.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt32Array},
    compute::take,
    datatypes::{Field, Float64Type, Int64Type, Schema, SchemaRef, UInt32Type},
    error::ArrowError,
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowWriterOptions, compute_leaves},
    },
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use crate::{
    model::{
        attributes::AttributeScope,
        batch::SpanBatch,
        gather::gather,
        promotion::PromotedAttribute,
        schema::{CORE_COLUMNS, Table, column},
    },
    storage::{
        keys::{FileKeys, KEYS_METADATA, KeyCollector},
        order::{self, DayRows, SORT_ORDER},
        promoted::promoted_attribute,
    },
};

/// The number of the layout above.
pub const FORMAT_VERSION: u32 = 1;

/// The footer key of [`FORMAT_VERSION`].
pub const VERSION_METADATA: &str = "tracehouse.version";

/// The footer key of the sort order.
pub const SORT_METADATA: &str = "tracehouse.sort";

/// Rows of a row group.
pub const ROW_GROUP_ROWS_MAX: usize = 131_072;

/// The columns of which a file's statistics are recorded: exactly these, for every file.
pub const STATS_COLUMNS: [&str; 2] = [column::START_TIME, column::DURATION];

const PAGE_ROWS_MAX: usize = 8_192;

/// Promoted columns with so many different values that a dictionary does not prune and a bloom filter does.
const BLOOM_COLUMNS: [&str; 4] = ["span.user.id", "span.url.full", "span.http.url", "span.client.address"];

/// Why spans could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Gathering rows failed.
    #[error("cannot gather the rows of a file: {0}")]
    Gather(#[from] ArrowError),
    /// Encoding failed.
    #[error("cannot encode a parquet file: {0}")]
    Encode(#[from] ParquetError),
}

impl From<WriteError> for crate::error::Error {
    fn from(error: WriteError) -> Self {
        Self::new(crate::error::ErrorKind::Internal, error.to_string()).with_source(error)
    }
}

/// The range of values of a column in a file; none of [`STATS_COLUMNS`] is ever NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnRange {
    /// The column.
    pub column: &'static str,
    /// The smallest value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
}

/// A file, complete and in memory.
#[derive(Clone, Debug)]
pub struct WrittenFile {
    /// Its content.
    pub bytes: Bytes,
    /// Number of spans.
    pub rows: usize,
    /// Its partition: days since the Unix epoch.
    pub date: i32,
    /// Ranges of [`STATS_COLUMNS`], in that order.
    pub ranges: Vec<ColumnRange>,
    /// The promoted columns that it has.
    pub promoted: Vec<PromotedAttribute>,
    /// The attributes that it holds.
    pub keys: FileKeys,
}

/// Writes one file for each day on which spans of the batch start.
pub fn write_files(batch: &SpanBatch) -> Result<Vec<WrittenFile>, WriteError> {
    order::days(batch).iter().map(|day| write_file(batch, day)).collect()
}

/// Writes the file of one day; `day` comes from [`order::days`] of the same batch.
pub fn write_file(batch: &SpanBatch, day: &DayRows) -> Result<WrittenFile, WriteError> {
    let rows = UInt32Array::from(day.rows.clone());
    let gather = Gather::new(batch, &rows)?;
    let promoted = gather.promoted()?;
    let keys = gather.keys(&promoted);
    let schema = file_schema(&promoted);
    let properties = properties(batch, day, &keys, &promoted, &gather.with_nan(&promoted))?;
    let options = ArrowWriterOptions::new().with_properties(properties);
    let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
    let (mut file, factory) = writer.into_serialized_writer()?;
    for (index, start) in (0..rows.len()).step_by(ROW_GROUP_ROWS_MAX).enumerate() {
        let group_rows = rows.slice(start, ROW_GROUP_ROWS_MAX.min(rows.len() - start));
        let gather = Gather::new(batch, &group_rows)?;
        let mut columns = factory.create_column_writers(index)?.into_iter();
        let mut group = file.next_row_group()?;
        // Column by column, so that one gathered column at a time is in memory.
        for field in schema.fields() {
            let values = gather.column(field.name())?;
            for leaf in compute_leaves(field, &values)? {
                let Some(mut writer) = columns.next() else {
                    return Err(ParquetError::General("more leaves than columns".into()).into());
                };
                writer.write(&leaf)?;
                writer.close()?.append_to_row_group(&mut group)?;
            }
        }
        group.close()?;
    }
    let bytes = Bytes::from(file.into_inner()?);
    let ranges = STATS_COLUMNS.iter().map(|column| gather.range(column)).collect::<Result<_, _>>()?;
    Ok(WrittenFile { bytes, rows: rows.len(), date: day.date, ranges, promoted, keys })
}

fn file_schema(promoted: &[PromotedAttribute]) -> SchemaRef {
    let core = CORE_COLUMNS.iter().map(|core| Arc::clone(&core.field));
    let promoted = promoted.iter().map(|attribute| Arc::new(crate::model::schema::promoted_field(attribute)));
    Arc::new(Schema::new(core.chain(promoted).collect::<Vec<_>>()))
}

fn properties(
    batch: &SpanBatch,
    day: &DayRows,
    keys: &FileKeys,
    promoted: &[PromotedAttribute],
    with_nan: &[&str],
) -> Result<WriterProperties, WriteError> {
    let path = |name: &str| ColumnPath::new(vec![name.to_owned()]);
    let metadata = vec![
        KeyValue::new(VERSION_METADATA.to_owned(), FORMAT_VERSION.to_string()),
        KeyValue::new(SORT_METADATA.to_owned(), SORT_ORDER.to_owned()),
        KeyValue::new(KEYS_METADATA.to_owned(), keys.to_json()),
    ];
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("tracehouse ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(metadata))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_statistics_enabled(EnabledStatistics::None);
    let scalar = CORE_COLUMNS.iter().filter(|core| !core.field.data_type().is_nested()).map(|core| core.field.name());
    for name in scalar.map(String::as_str).chain(promoted.iter().map(|attribute| &*attribute.column)) {
        let statistics = match name {
            column::SPAN_ID | column::PARENT_SPAN_ID => EnabledStatistics::None,
            _ if with_nan.contains(&name) => EnabledStatistics::None,
            _ => EnabledStatistics::Page,
        };
        properties = properties.set_column_statistics_enabled(path(name), statistics);
        if BLOOM_COLUMNS.contains(&name) {
            // Distinct values are not counted; a quarter of the rows is what such keys tend to have.
            let distinct = ROW_GROUP_ROWS_MAX.min(day.rows.len()) / 4 + 1;
            properties = properties
                .set_column_bloom_filter_enabled(path(name), true)
                .set_column_bloom_filter_fpp(path(name), 0.01)
                .set_column_bloom_filter_max_ndv(path(name), distinct as u64);
        }
    }
    for id in [column::TRACE_ID, column::SPAN_ID, column::PARENT_SPAN_ID] {
        properties =
            properties.set_column_dictionary_enabled(path(id), false).set_column_encoding(path(id), Encoding::PLAIN);
    }
    for (name, encoding) in
        [(column::START_TIME, Encoding::DELTA_BINARY_PACKED), (column::DURATION, Encoding::BYTE_STREAM_SPLIT)]
    {
        properties =
            properties.set_column_dictionary_enabled(path(name), false).set_column_encoding(path(name), encoding);
    }
    let largest_group = day.rows.chunks(ROW_GROUP_ROWS_MAX).map(|rows| order::trace_count(batch, rows)).max();
    properties = properties
        .set_column_bloom_filter_enabled(path(column::TRACE_ID), true)
        .set_column_bloom_filter_fpp(path(column::TRACE_ID), 0.01)
        .set_column_bloom_filter_max_ndv(path(column::TRACE_ID), largest_group.unwrap_or(1) as u64);
    Ok(properties.build())
}

/// Some rows of a batch, in the flat shape, column by column.
struct Gather<'a> {
    batch: &'a SpanBatch,
    rows: &'a UInt32Array,
    resources: UInt32Array,
    scopes: UInt32Array,
}

impl<'a> Gather<'a> {
    fn new(batch: &'a SpanBatch, rows: &'a UInt32Array) -> Result<Self, ArrowError> {
        let indexes = |name: &str| -> Result<UInt32Array, ArrowError> {
            Ok(take(&batch.spans()[name], rows, None)?.as_primitive::<UInt32Type>().clone())
        };
        let (resources, scopes) = (indexes(column::RESOURCE_INDEX)?, indexes(column::SCOPE_INDEX)?);
        Ok(Self { batch, rows, resources, scopes })
    }

    /// The table with this column, and the rows of it.
    fn source(&self, name: &str) -> Option<(&ArrayRef, &UInt32Array)> {
        [
            (self.batch.spans(), self.rows),
            (self.batch.resources(), &self.resources),
            (self.batch.scopes(), &self.scopes),
        ]
        .into_iter()
        .find_map(|(table, rows)| Some((table.column_by_name(name)?, rows)))
    }

    fn column(&self, name: &str) -> Result<ArrayRef, ArrowError> {
        let Some((values, rows)) = self.source(name) else {
            return Err(ArrowError::SchemaError(format!("span batch has no column {name}")));
        };
        gather(values, rows)
    }

    /// The promoted columns that hold a value in some of the rows, by name.
    fn promoted(&self) -> Result<Vec<PromotedAttribute>, ArrowError> {
        let core = CORE_COLUMNS.len();
        let mut promoted = Vec::new();
        for field in self.batch.flat_schema().fields().iter().skip(core) {
            let Some((values, rows)) = self.source(field.name()) else { continue };
            if rows.values().iter().any(|row| values.is_valid(*row as usize)) {
                promoted.push(promoted_attribute(field).ok_or_else(|| not_promoted(field))?);
            }
        }
        Ok(promoted)
    }

    /// The promoted columns that hold a NaN. Statistics leave it out, and queries take it for the largest number.
    fn with_nan<'p>(&self, promoted: &'p [PromotedAttribute]) -> Vec<&'p str> {
        let holds_nan = |name: &str| {
            let Some((values, rows)) = self.source(name) else { return false };
            let Some(floats) = values.as_primitive_opt::<Float64Type>() else { return false };
            rows.values().iter().any(|row| floats.is_valid(*row as usize) && floats.value(*row as usize).is_nan())
        };
        promoted.iter().map(|attribute| &*attribute.column).filter(|name| holds_nan(name)).collect()
    }

    fn keys(&self, promoted: &[PromotedAttribute]) -> FileKeys {
        let mut keys = FileKeys::default();
        let distinct = |rows: &UInt32Array| {
            let mut rows = rows.values().to_vec();
            rows.sort_unstable();
            rows.dedup();
            rows
        };
        for scope in [AttributeScope::Resource, AttributeScope::Scope, AttributeScope::Span] {
            let mut collector = KeyCollector::default();
            for attribute in promoted.iter().filter(|attribute| attribute.scope == scope) {
                collector.add_promoted(&attribute.key, attribute.value_type);
            }
            let rows = match Table::of_scope(scope) {
                Some(Table::Resources) => distinct(&self.resources),
                Some(Table::Scopes) => distinct(&self.scopes),
                Some(Table::Spans) | None => self.rows.values().to_vec(),
            };
            if let Some((map, _)) = scope.map_column().and_then(|name| self.source(name)) {
                collector.add_residual(map.as_map(), rows.into_iter().map(|row| row as usize));
            }
            keys.set_scope(scope, collector.finish());
        }
        keys
    }

    fn range(&self, column: &'static str) -> Result<ColumnRange, ArrowError> {
        let values = self.column(column)?;
        let values = values.as_primitive::<Int64Type>();
        let (min, max) = (arrow::compute::min(values), arrow::compute::max(values));
        Ok(ColumnRange { column, min: min.unwrap_or_default(), max: max.unwrap_or_default() })
    }
}

fn not_promoted(field: &Field) -> ArrowError {
    ArrowError::SchemaError(format!("{} of type {} is not an attribute column", field.name(), field.data_type()))
}
