//! Several small files of one day as one: their row groups behind each other, copied as they are encoded.
//!
//! A merge writes a row group at a time, each as a file of its own ([`writer`](crate::storage::writer)), so that no more
//! rows than those of one group are ever decoded. Here the groups become one file. Nothing is decoded again; only a
//! promoted column that a group does not have is written, as NULLs.
//!
//! ```text
//!  group 1: trace_id name .. span.http.route          trace_id name .. span.db.system span.http.route
//!  group 2: trace_id name .. span.db.system     ->       1       1     (NULLs)           1
//!                                                        2       2      2               (NULLs)
//! ```

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, AsArray, new_null_array},
    datatypes::Schema,
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::ParquetRecordBatchReaderBuilder,
        arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves},
    },
    basic::{Compression, ZstdLevel},
    bloom_filter::Sbbf,
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{
        metadata::{
            KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, RowGroupMetaData,
        },
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
};

use crate::{
    model::{
        keys::AttributeKeys,
        promotion::PromotedAttribute,
        schema::{CORE_COLUMNS, column, promoted_field},
    },
    storage::{
        footer::{SORT_METADATA, VERSION_METADATA},
        order::SORT_ORDER,
        trace_filter::TraceFilterBuilder,
        writer::{ColumnRange, FORMAT_VERSION, WriteError, WrittenFile, end_of_file},
    },
};

/// One file with the rows of all `parts`, in order. They are of one day, and a promoted column has the same type in all.
///
/// # Errors
/// Parts of which one is not a file of [`writer`](crate::storage::writer), or two contradict each other.
pub fn stitch(mut parts: Vec<WrittenFile>) -> Result<WrittenFile, WriteError> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return Ok(only);
    }
    let Some(first) = parts.first() else { return Err(general("no parts to stitch")) };
    let date = first.date;
    let promoted = promoted_of(&parts)?;
    let mut keys = first.keys.clone();
    parts.iter().skip(1).for_each(|part| keys.merge(&part.keys));
    let ranges = ranges_of(&parts);
    let rows = parts.iter().map(|part| part.rows).sum();

    let bytes_max = parts.iter().map(|part| part.bytes.len()).sum();
    let mut out = Output::new(&promoted, bytes_max)?;
    for part in parts {
        // The part's bytes go when its groups have been copied.
        out.append(&part.bytes)?;
    }
    let (bytes, traces) = out.finish(&keys)?;
    Ok(WrittenFile { bytes, rows, date, ranges, promoted, keys, traces })
}

fn promoted_of(parts: &[WrittenFile]) -> Result<Vec<PromotedAttribute>, WriteError> {
    let mut promoted: Vec<PromotedAttribute> = Vec::new();
    for attribute in parts.iter().flat_map(|part| &part.promoted) {
        match promoted.iter().find(|known| known.column == attribute.column) {
            None => promoted.push(attribute.clone()),
            Some(known) if known == attribute => {}
            Some(_) => return Err(general(&format!("column {} has two types", attribute.column))),
        }
    }
    promoted.sort_by(|a, b| a.column.cmp(&b.column));
    Ok(promoted)
}

fn ranges_of(parts: &[WrittenFile]) -> Vec<ColumnRange> {
    let mut ranges: Vec<ColumnRange> = Vec::new();
    for range in parts.iter().flat_map(|part| &part.ranges) {
        match ranges.iter_mut().find(|known| known.column == range.column) {
            Some(known) => {
                known.min = known.min.min(range.min);
                known.max = known.max.max(range.max);
            }
            None => ranges.push(*range),
        }
    }
    ranges
}

/// The file that grows.
struct Output {
    schema: Arc<Schema>,
    file: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    groups: usize,
    traces: TraceFilterBuilder,
}

impl Output {
    fn new(promoted: &[PromotedAttribute], bytes_max: usize) -> Result<Self, WriteError> {
        let core = CORE_COLUMNS.iter().map(|core| Arc::clone(&core.field));
        let promoted = promoted.iter().map(|attribute| Arc::new(promoted_field(attribute)));
        let schema = Arc::new(Schema::new(core.chain(promoted).collect::<Vec<_>>()));
        let properties = WriterProperties::builder()
            .set_created_by(concat!("tracehouse ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties);
        let writer = ArrowWriter::try_new_with_options(Vec::with_capacity(bytes_max), Arc::clone(&schema), options)?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(Self { schema, file, factory, groups: 0, traces: TraceFilterBuilder::default() })
    }

    fn append(&mut self, bytes: &Bytes) -> Result<(), WriteError> {
        self.add_traces(bytes)?;
        // Read as a mask, the counts of encodings would be lost on the way to the new file, and with them the word that a
        // dictionary has all values of its column.
        let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
        let metadata = ParquetMetaDataReader::new()
            .with_metadata_options(Some(options))
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(bytes)?;
        for (index, group) in metadata.row_groups().iter().enumerate() {
            let mut null_columns = self.factory.create_column_writers(self.groups)?.into_iter();
            let mut target = self.file.next_row_group()?;
            for field in self.schema.fields() {
                let leaves = leaves_of(group, field.name());
                if leaves.is_empty() {
                    let nulls = new_null_array(field.data_type(), usize::try_from(group.num_rows()).unwrap_or(0));
                    for leaf in compute_leaves(field, &nulls)? {
                        let mut writer = null_columns.next().ok_or_else(|| general("more leaves than columns"))?;
                        writer.write(&leaf)?;
                        writer.close()?.append_to_row_group(&mut target)?;
                    }
                    continue;
                }
                for leaf in leaves {
                    // The same number of leaves as in the schema: core columns have one shape, promoted ones are one.
                    null_columns.next();
                    copy(bytes, &metadata, (index, leaf), &mut target)?;
                }
            }
            target.close()?;
            self.groups += 1;
        }
        Ok(())
    }

    fn add_traces(&mut self, bytes: &Bytes) -> Result<(), WriteError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
        let ids = ProjectionMask::columns(builder.parquet_schema(), [column::TRACE_ID]);
        for rows in builder.with_projection(ids).build()? {
            let rows = rows?;
            let ids =
                rows.column(0).as_fixed_size_binary_opt().ok_or_else(|| general("trace ids have another type"))?;
            (0..ids.len()).for_each(|row| self.traces.add(ids.value(row)));
        }
        Ok(())
    }

    fn finish(mut self, keys: &AttributeKeys) -> Result<(Bytes, Option<Range<u64>>), WriteError> {
        for (key, value) in [(VERSION_METADATA, FORMAT_VERSION.to_string()), (SORT_METADATA, SORT_ORDER.to_owned())] {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let traces = end_of_file(&mut self.file, self.traces, keys)?;
        Ok((Bytes::from(self.file.into_inner()?), traces))
    }
}

/// The leaf columns of a group that belong to the top-level column `name`.
fn leaves_of(group: &RowGroupMetaData, name: &str) -> Vec<usize> {
    let root = |leaf: usize| group.column(leaf).column_path().parts().first().map(String::as_str);
    (0..group.num_columns()).filter(|leaf| root(*leaf) == Some(name)).collect()
}

fn copy(
    bytes: &Bytes,
    metadata: &ParquetMetaData,
    (group, leaf): (usize, usize),
    target: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
) -> Result<(), WriteError> {
    let rows = metadata.row_group(group).num_rows();
    let column = metadata.row_group(group).column(leaf);
    let close = ColumnCloseResult {
        bytes_written: u64::try_from(column.compressed_size()).unwrap_or(0),
        rows_written: u64::try_from(rows).unwrap_or(0),
        metadata: column.clone(),
        bloom_filter: Sbbf::read_from_column_chunk(column, bytes)?,
        column_index: metadata.column_index().and_then(|groups| groups.get(group)?.get(leaf)).cloned(),
        offset_index: metadata.offset_index().and_then(|groups| groups.get(group)?.get(leaf)).cloned(),
    };
    Ok(target.append_column(bytes, close)?)
}

fn general(message: &str) -> WriteError {
    ParquetError::General(message.to_owned()).into()
}
