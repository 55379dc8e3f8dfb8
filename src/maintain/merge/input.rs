//! A file that is merged: its footer, and any of its rows.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::RecordBatch,
    compute::concat_batches,
    datatypes::{DataType, SchemaRef},
};
use bytes::Bytes;
use futures::TryStreamExt;
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection},
        async_reader::ParquetRecordBatchStream,
    },
    file::metadata::{PageIndexPolicy, ParquetMetaData},
};

use crate::{
    catalog::LiveFile,
    error::Result,
    maintain::{
        failed_to_read,
        merge::{checked::read_checked, reader::StoredFile, runs::Keep},
    },
    model::schema::column,
    storage::store::Store,
};

/// Rows that are decoded at once where all rows are read.
const BATCH_ROWS: usize = 8_192;

/// A file that is merged.
#[derive(Debug)]
pub(crate) struct Input {
    file: Arc<LiveFile>,
    keep: Keep,
    reader: StoredFile,
    metadata: ArrowReaderMetadata,
    row_bytes: u64,
}

impl Input {
    /// Reads the footer of a file of `store`, and nothing else.
    pub(crate) async fn open(store: &Store, file: Arc<LiveFile>, keep: Keep) -> Result<Self> {
        Self::read_footer(store, file, keep, None).await
    }

    /// Makes sure that a file of `store` is what was written, and reads its footer. Of `room_bytes` of memory it takes what its bytes
    /// need, if they fit.
    pub(super) async fn open_checked(
        store: &Store,
        file: Arc<LiveFile>,
        keep: Keep,
        room_bytes: &mut u64,
    ) -> Result<Self> {
        let held = read_checked(store, &file, room_bytes).await?;
        Self::read_footer(store, file, keep, held).await
    }

    async fn read_footer(store: &Store, file: Arc<LiveFile>, keep: Keep, held: Option<Bytes>) -> Result<Self> {
        let (path, size_bytes) = (file.location.clone(), file.size_bytes);
        let mut reader = StoredFile { objects: store.objects(), path, size_bytes, held };
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load_async(&mut reader, options)
            .await
            .map_err(|cause| failed_to_read(&file, cause.into()))?;
        let row_bytes = row_bytes(metadata.metadata());
        Ok(Self { file, keep, reader, metadata, row_bytes })
    }

    pub(crate) fn file(&self) -> &Arc<LiveFile> {
        &self.file
    }

    pub(crate) fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    pub(super) fn keep(&self) -> &Keep {
        &self.keep
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// An estimate of the bytes that a row has in memory.
    pub(super) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// All rows, with these columns only.
    pub(crate) fn columns(&self, names: &[&str]) -> Result<ParquetRecordBatchStream<StoredFile>> {
        let builder = self.builder();
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        let stream = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
        stream.map_err(|cause| failed_to_read(&self.file, cause.into()))
    }

    /// Some rows with all columns; `ranges` are in order and do not overlap.
    pub(super) async fn read(&self, ranges: &[Range<usize>]) -> Result<RecordBatch> {
        let failed = |cause: parquet::errors::ParquetError| failed_to_read(&self.file, cause.into());
        let rows: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let selection = RowSelection::from_consecutive_ranges(ranges.iter().cloned(), self.rows());
        let stream = self.builder().with_row_selection(selection).with_batch_size(rows.max(1)).build();
        let batches: Vec<RecordBatch> = stream.map_err(failed)?.try_collect().await.map_err(failed)?;
        concat_batches(self.schema(), &batches).map_err(|cause| failed_to_read(&self.file, cause.into()))
    }

    fn builder(&self) -> ParquetRecordBatchStreamBuilder<StoredFile> {
        ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), self.metadata.clone())
    }
}

/// The columns by which rows are sorted and found.
pub(super) const KEY_COLUMNS: [&str; 2] = [column::TRACE_ID, column::START_TIME];

/// What a row takes in memory, on average over the row group with the largest rows.
///
/// Texts in a dictionary are counted each time they occur, as they are decoded.
fn row_bytes(metadata: &ParquetMetaData) -> u64 {
    let groups = metadata.row_groups().iter().enumerate().map(|(index, group)| {
        let encoded = group.columns().iter().map(|column| column.uncompressed_size().max(0).unsigned_abs());
        let pages = metadata.offset_index().and_then(|groups| groups.get(index));
        let texts = pages.into_iter().flatten().filter_map(|pages| pages.unencoded_byte_array_data_bytes());
        let texts: u64 = texts.flatten().map(|bytes| bytes.max(&0).unsigned_abs()).sum();
        (encoded.sum::<u64>() + texts) / group.num_rows().max(1).unsigned_abs()
    });
    // Offsets, validity and numbers of some forty columns.
    groups.max().unwrap_or(0) + 400
}

/// Whether both types are the same but for what a reader adds to names of fields inside.
pub(super) fn is_same_type(a: &DataType, b: &DataType) -> bool {
    a == b || a.equals_datatype(b)
}

#[cfg(test)]
mod tests {
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;
    use crate::{
        model::{
            builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, SpanFields, Value},
            ids::{SpanId, TraceId},
            promotion,
        },
        storage::writer::{Origin, write_files},
    };

    /// The estimate for rows whose only attribute is a text of so many bytes, the same in all.
    fn estimated(text_bytes: usize) -> u64 {
        let mut builder = SpanBatchBuilder::new(&promotion::standard());
        let resource = builder.push_resource(&ResourceFields::default(), &[]).unwrap();
        let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
        let text = "x".repeat(text_bytes);
        for number in 1..100_u64 {
            let span = SpanFields {
                trace_id: TraceId::from_bytes(u128::from(number).to_be_bytes()),
                span_id: SpanId::from_bytes(number.to_be_bytes()),
                parent_span_id: None,
                trace_state: "",
                flags: 0,
                name: "op",
                kind: 2,
                status_code: 0,
                status_message: "",
                start_time_unix_nano: 5,
                duration_nano: 1,
                dropped_attributes_count: 0,
                dropped_events_count: 0,
                dropped_links_count: 0,
            };
            let attributes = [Attribute { key: "text", value: Value::Str(&text) }];
            builder.push_span((resource, scope), &span, &attributes, [].into_iter(), [].into_iter()).unwrap();
        }
        let file = write_files(&[builder.finish().unwrap()], Origin::Merged).unwrap().remove(0);
        assert!(file.bytes.len() < 50_000, "the text is stored once");
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        row_bytes(&reader.parse_and_finish(&file.bytes).unwrap())
    }

    #[test]
    fn texts_count_as_often_as_they_are_decoded() {
        let (small, large) = (estimated(10), estimated(100_000));
        assert!(small < 2_000, "{small}");
        assert!((100_000..110_000).contains(&large), "{large}");
    }
}
