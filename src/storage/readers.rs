//! Readers of files whose footers are kept together with their page index.
//!
//! DataFusion reads a footer without the index first and, where a predicate can use it, the index after that, for itself
//! alone: every query parses it anew. Here both are read at once and kept in the runtime's cache.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::Result,
    datasource::physical_plan::{ParquetFileReaderFactory, parquet::CachedParquetFileReaderFactory},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use datafusion_datasource::PartitionedFile;
use futures::future::BoxFuture;
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::Result as ParquetResult,
    file::metadata::ParquetMetaData,
};

/// Makes the readers of a scan.
#[derive(Debug)]
pub(crate) struct IndexedReaders(pub(crate) CachedParquetFileReaderFactory);

impl ParquetFileReaderFactory for IndexedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let reader = self.0.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(IndexedReader(reader)))
    }
}

struct IndexedReader(Box<dyn AsyncFileReader + Send>);

impl AsyncFileReader for IndexedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.0.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.0.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        // The options would ask for the footer alone; without them, all of it is read and kept.
        self.0.get_metadata(None)
    }
}
