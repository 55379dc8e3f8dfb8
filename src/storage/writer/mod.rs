//! Spans to Parquet.
//!
//! ```text
//! rows     those of one UTC day, in the order of `order`
//! columns  model::schema's core columns, then the promoted columns that hold a value, by name; `date` is not among them
//! groups   131,072 rows; pages up to 8,192 rows, which an offset index finds
//! codec    zstd 1 in merged files of 16,384 rows or more, else lz4; none for span_id, starts and durations, which it makes
//!          hardly smaller
//! ids      plain, without dictionary
//! blooms   in each row group: trace_id, and promoted texts of which most differ
//! numbers  start, duration, flags and counts of what was dropped: delta; other columns: dictionary
//! stats    row groups and pages of numbers and booleans, and row groups of texts in merged files; none on the leaves of
//!          maps and lists, nor on ids, where they never prune, nor on columns of doubles with a NaN, where they
//!          would prune too much
//! traces   behind the row groups, a filter of their ids: `trace_filter`
//! footer   version, sort order, attributes: `footer`
//! ```
//!
//! On the reference workload, whose spans have 406 bytes as OTLP, a span takes 35 bytes in a merged file. Of these, 23 % are
//! its id, which is random, 11 % the id of its parent, 10 % its start and 11 % its duration; texts of queries follow with
//! 3 %, and everything else has less. `src/storage/README.md` has the share of each column and what other layouts cost and save,
//! as `benches/storage` shows them; `tests/it/maintain/bytes_per_span.rs` keeps a merged span below 50 bytes.
//!
//! A flushed file lives until it is merged with its neighbours, so it is written in the cheaper way: without statistics of
//! texts and with lz4 a million spans cost 1.9 seconds of CPU instead of 2.3, at 39 bytes per span instead of 35, and a file
//! of 300 spans 8 ms instead of 13. What is merged stays, and is worth more work.
//!
//! Pages have no checksums, which the library does not write; the table's log has one of each file.
//!
//! A file is written once and never changed; whoever lists it in the table owns its deletion. A torn file has no footer and
//! is in no table.

mod gather;
mod layout;

use arrow::{array::AsArray, error::ArrowError};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowWriterOptions, compute_leaves},
    },
    errors::ParquetError,
    file::{metadata::KeyValue, writer::SerializedFileWriter},
};
use std::{io::Write, ops::Range, sync::Arc};

use self::{
    gather::Gather,
    layout::{Layout, file_schema},
};
use crate::{
    model::{
        batch::SpanBatch,
        gather::Place,
        keys::{AttributeKeys, KeyCollectors},
        promotion::PromotedAttribute,
        schema::column,
    },
    storage::{
        footer::KEYS_METADATA,
        order::{self, DayRows},
        trace_filter::TraceFilterBuilder,
    },
};

/// The number of the layout above.
pub const FORMAT_VERSION: u32 = 1;

/// Rows of a row group.
pub const ROW_GROUP_ROWS_MAX: usize = 131_072;

/// The columns of which a file's statistics are recorded: exactly these, for every file.
pub const STATS_COLUMNS: [&str; 2] = [column::START_TIME, column::DURATION];

/// How a file comes to be, and so how long it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a buffer: it is merged soon.
    Flushed,
    /// From other files: it stays, if it is large.
    Merged,
}

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
    pub keys: AttributeKeys,
    /// Where in it the filter of its traces is, for [`TRACES_TAG`](crate::storage::trace_filters::TRACES_TAG).
    pub traces: Option<Range<u64>>,
}

/// Writes one file for each day on which spans of the batches start.
pub fn write_files(batches: &[SpanBatch], origin: Origin) -> Result<Vec<WrittenFile>, WriteError> {
    let batches = SpanBatch::with_one_type_per_column(batches)?;
    order::days(&batches).iter().map(|day| write_file(&batches, day, origin)).collect()
}

/// Writes the file of one day; `day` comes from [`order::days`] of the same batches, whose columns agree in their types.
pub fn write_file(batches: &[SpanBatch], day: &DayRows, origin: Origin) -> Result<WrittenFile, WriteError> {
    let rows = day.rows.as_slice();
    let gather = Gather::new(batches, rows);
    let promoted = gather.promoted()?;
    let keys = keys_of(batches, rows);
    let schema = file_schema(&promoted);
    let with_bloom = gather.with_many_values(&promoted);
    let layout = Layout {
        promoted: &promoted,
        with_nan: &gather.with_nan(&promoted),
        with_bloom: &with_bloom,
        rows: rows.len(),
        origin,
    };
    let options = ArrowWriterOptions::new().with_properties(layout.properties()?);
    let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
    let (mut file, factory) = writer.into_serialized_writer()?;
    for (index, group_rows) in rows.chunks(ROW_GROUP_ROWS_MAX).enumerate() {
        let gather = Gather::new(batches, group_rows);
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
    let mut traces = TraceFilterBuilder::default();
    let ids: Vec<_> = batches.iter().map(|batch| batch.spans()[column::TRACE_ID].as_fixed_size_binary()).collect();
    rows.iter().for_each(|(batch, row)| traces.add(ids[*batch].value(*row)));
    let traces = end_of_file(&mut file, traces, &keys)?;
    let bytes = Bytes::from(file.into_inner()?);
    let ranges = STATS_COLUMNS.iter().map(|column| gather.range(column)).collect::<Result<_, _>>()?;
    Ok(WrittenFile { bytes, rows: rows.len(), date: day.date, ranges, promoted, keys, traces })
}

fn keys_of(batches: &[SpanBatch], rows: &[Place]) -> AttributeKeys {
    // In the order in which they came: neighbours are alike then, and in the same lines of the cache.
    let mut held: Vec<Vec<bool>> = batches.iter().map(|batch| vec![false; batch.num_spans()]).collect();
    rows.iter().for_each(|(batch, row)| held[*batch][*row] = true);
    let mut collectors = KeyCollectors::default();
    for (batch, held) in batches.iter().zip(held) {
        let rows: Vec<u32> = (0_u32..).zip(held).filter_map(|(row, is_held)| is_held.then_some(row)).collect();
        collectors.add_batch(batch, &rows);
    }
    collectors.finish()
}

/// Writes what comes behind the row groups, the footer apart. Returns where the filter of traces is.
pub(super) fn end_of_file<W: Write + Send>(
    file: &mut SerializedFileWriter<W>,
    traces: TraceFilterBuilder,
    keys: &AttributeKeys,
) -> Result<Option<Range<u64>>, WriteError> {
    file.append_key_value_metadata(KeyValue::new(KEYS_METADATA.to_owned(), keys.to_json()));
    let Some(filter) = traces.finish() else { return Ok(None) };
    let start = file.bytes_written() as u64;
    file.write_all(&filter).map_err(|cause| ParquetError::External(Box::new(cause)))?;
    Ok(Some(start..start + filter.len() as u64))
}
