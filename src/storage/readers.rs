//! Readers of files whose footers are kept together with their page index.
//!
//! DataFusion reads a footer without the index first and, where a predicate can use it, the index after that, for itself
//! alone: every query parses it anew. Here both are read at once and kept in the runtime's cache.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::Result,
    datasource::physical_plan::{ParquetFileReaderFactory, parquet::CachedParquetFileReaderFactory},
    execution::cache::cache_manager::FileMetadataCache,
    object_store::{ObjectMeta, ObjectStore},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use datafusion_datasource::PartitionedFile;
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::Result as ParquetResult,
    file::metadata::ParquetMetaData,
};

use crate::storage::coded_text;

/// Makes the readers of a scan.
#[derive(Debug)]
pub(crate) struct IndexedReaders {
    files: CachedParquetFileReaderFactory,
    cache: Arc<FileMetadataCache>,
    text: TextForm,
}

/// What the readers make of text that a file has as codes of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextForm {
    /// Text.
    Plain,
    /// A dictionary and codes ([`coded_text`]).
    Coded,
}

impl IndexedReaders {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, cache: Arc<FileMetadataCache>, text: TextForm) -> Self {
        Self { files: CachedParquetFileReaderFactory::new(objects, Arc::clone(&cache)), cache, text }
    }
}

impl ParquetFileReaderFactory for IndexedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let coded = (self.text == TextForm::Coded).then(|| (Arc::clone(&self.cache), file.object_meta.clone()));
        let reader = self.files.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(IndexedReader { reader, coded }))
    }
}

struct IndexedReader {
    reader: Box<dyn AsyncFileReader + Send>,
    /// Where changed footers are kept, and of which file, if text is read as codes.
    coded: Option<(Arc<FileMetadataCache>, ObjectMeta)>,
}

impl AsyncFileReader for IndexedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        // The options would ask for the footer alone; without them, all of it is read and kept.
        let Some((cache, file)) = &self.coded else { return self.reader.get_metadata(None) };
        if let Some(kept) = coded_text::kept(cache, file) {
            return future::ready(Ok(kept)).boxed();
        }
        let reading = self.reader.get_metadata(None);
        async move { coded_text::keep(cache, file, reading.await?.as_ref()) }.boxed()
    }
}
