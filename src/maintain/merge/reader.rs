//! Ranges of an object in the store, for the Parquet reader.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::{ParquetError, Result},
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
};

/// How much of a file's end is fetched at first, in bytes.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// A file in the store.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    pub(crate) size_bytes: u64,
    /// All of its bytes, if they are in memory.
    pub(crate) held: Option<Bytes>,
}

impl StoredFile {
    /// A range of the bytes in memory; `None` if there are none, or fewer.
    fn held(&self, range: &Range<u64>) -> Option<Bytes> {
        let bytes = self.held.as_ref()?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
    }
}

fn failed(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            match self.held(&range) {
                Some(bytes) => Ok(bytes),
                None => self.objects.get_range(&self.path, range).await.map_err(failed),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            match ranges.iter().map(|range| self.held(range)).collect::<Option<Vec<_>>>() {
                Some(parts) => Ok(parts),
                None => self.objects.get_ranges(&self.path, &ranges).await.map_err(failed),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size_bytes = self.size_bytes;
            let reader = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .with_prefetch_hint(Some(FOOTER_BYTES_GUESS));
            Ok(Arc::new(reader.load_and_finish(self, size_bytes).await?))
        }
        .boxed()
    }
}
