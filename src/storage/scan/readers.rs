//! Readers of files whose footers are kept together with their page index.
//!
//! DataFusion reads a footer without the index first and, where a predicate can use it, the index after that, for itself
//! alone: every query parses it anew. Here both are read at once and kept in the runtime's cache. An error keeps its cause, of
//! which DataFusion's own reader keeps the text alone: a store that does not answer is no broken file.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::{Result, runtime::SpawnedTask},
    datasource::physical_plan::{
        ParquetFileReaderFactory,
        parquet::{CachedParquetFileReaderFactory, metadata::DFParquetMetadata},
    },
    error::DataFusionError,
    execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache},
    object_store::{ObjectMeta, ObjectStore, path::Path},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use datafusion_datasource::PartitionedFile;
use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::{ParquetError, Result as ParquetResult},
    file::metadata::ParquetMetaData,
};

use crate::storage::{
    apart::{ColumnsApart, ReadApart},
    scan::{
        changed_footer, coded_text,
        items::{self, ItemsAsked, LeftOut},
        sparse_items::SparseItems,
    },
};

/// The metric of bytes that are read, which DataFusion's readers count, too.
const BYTES_SCANNED: &str = "bytes_scanned";

/// Makes the readers of a scan.
#[derive(Debug)]
pub(crate) struct IndexedReaders {
    files: CachedParquetFileReaderFactory,
    objects: Arc<dyn ObjectStore>,
    cache: Arc<FileMetadataCache>,
    form: Form,
    loading: Loading,
}

/// Whose items are being read, so that each are read once.
type Loading = Arc<Mutex<HashMap<Path, Arc<tokio::sync::Mutex<()>>>>>;

/// In which form files are read.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) text: TextForm,
    /// Whether the numbers of rows are read beside the columns.
    pub(crate) numbers_rows: bool,
    /// What is read of events and links.
    pub(crate) items: Arc<ItemsAsked>,
    /// Whether rows are numbered, so that lists that few rows have are kept ([`SparseItems`]).
    pub(crate) by_row: bool,
    /// The columns that are read apart, if any are.
    pub(crate) apart: Option<Arc<ColumnsApart>>,
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
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, cache: Arc<FileMetadataCache>, form: Form) -> Self {
        let files = CachedParquetFileReaderFactory::new(Arc::clone(&objects), Arc::clone(&cache));
        Self { files, objects, cache, form, loading: Loading::default() }
    }

    /// Readers of the same files in another form.
    pub(crate) fn reading(&self, form: Form) -> Self {
        let loading = Arc::clone(&self.loading);
        Self { loading, ..Self::new(Arc::clone(&self.objects), Arc::clone(&self.cache), form) }
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
        let meta = file.object_meta.clone();
        let counted = |_: &Arc<ColumnsApart>| ReadApart::new(metrics, partition_index, BYTES_SCANNED);
        let read_apart = self.form.apart.as_ref().map(counted);
        let reader = self.files.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        let (objects, cache) = (Arc::clone(&self.objects), Arc::clone(&self.cache));
        let (form, loading) = (self.form.clone(), Arc::clone(&self.loading));
        Ok(Box::new(IndexedReader { reader, objects, cache, meta, metadata_size_hint, form, loading, read_apart }))
    }
}

struct IndexedReader {
    reader: Box<dyn AsyncFileReader + Send>,
    objects: Arc<dyn ObjectStore>,
    /// Where footers are kept, also those that are changed.
    cache: Arc<FileMetadataCache>,
    meta: ObjectMeta,
    metadata_size_hint: Option<usize>,
    form: Form,
    loading: Loading,
    read_apart: Option<ReadApart>,
}

impl IndexedReader {
    async fn read_footer(&mut self) -> ParquetResult<Arc<ParquetMetaData>> {
        let footer = DFParquetMetadata::new(&self.objects, &self.meta)
            .with_metadata_size_hint(self.metadata_size_hint)
            .with_file_metadata_cache(Some(Arc::clone(&self.cache)));
        footer.fetch_metadata().await.map_err(in_parquet)
    }

    /// The footer in the form that is asked for.
    async fn changed_footer(&mut self) -> ParquetResult<Arc<ParquetMetaData>> {
        let stored = self.read_footer().await?;
        let left_out = self.form.items.left_out(&stored);
        let Some(change) = self.form.change(&left_out) else { return Ok(stored) };
        let footer = match changed_footer::kept(&self.cache, &self.meta, &change) {
            Some(kept) => kept,
            None => {
                let mut changed = match left_out.is_empty() && !self.form.by_row {
                    true => stored.as_ref().clone(),
                    false => left_out.narrowed(&stored, &changed_footer::changed_name(&self.meta, &change))?,
                };
                if self.form.text == TextForm::Coded {
                    changed = coded_text::with_codes(changed)?;
                }
                if self.form.numbers_rows {
                    changed = changed_footer::numbered(changed, &self.meta.location)?;
                }
                changed_footer::keep(&self.cache, &self.meta, &change, changed)
            }
        };
        if let (Some(apart), Some(read)) = (&self.form.apart, &self.read_apart) {
            apart.opened(&self.meta.location, &footer, &self.objects, read);
        }
        if self.form.by_row {
            let items = Arc::clone(&self.form.items);
            for list in items.in_parts() {
                self.keep_items(&footer, &changed_footer::changed_name(&self.meta, &change), list).await?;
            }
        }
        Ok(footer)
    }

    /// Reads the items of a list where few rows have some, unless they are kept already.
    async fn keep_items(&mut self, footer: &Arc<ParquetMetaData>, name: &Path, list: &str) -> ParquetResult<()> {
        let name = items::name_of_items(name, list);
        if self.cache.get(&name).is_some() {
            return Ok(());
        }
        let loading = Arc::clone(self.loading.lock().entry(name.clone()).or_default());
        let _alone = loading.lock().await;
        if self.cache.get(&name).is_some() {
            return Ok(());
        }
        let items = match SparseItems::ranges(footer, list) {
            None => SparseItems::Many,
            Some(ranges) => {
                let parts = self.reader.get_byte_ranges(ranges.clone()).await?;
                let parts = ranges.into_iter().map(|range| range.start).zip(parts).collect();
                let (footer, list) = (Arc::clone(footer), list.to_owned());
                let decoding = SpawnedTask::spawn(async move { SparseItems::decode(footer, &list, parts) });
                decoding.join().await.map_err(|lost| ParquetError::External(Box::new(lost)))??
            }
        };
        self.cache.put(&name, CachedFileMetadataEntry::new(self.meta.clone(), Arc::new(items)));
        Ok(())
    }
}

impl Form {
    /// The name of the change of footers, if there is any.
    fn change(&self, left_out: &LeftOut) -> Option<String> {
        let parts = [
            (self.text == TextForm::Coded).then(|| "coded-text".to_owned()),
            (!left_out.is_empty()).then(|| left_out.name()),
            self.by_row.then(|| "by-row".to_owned()),
            (self.numbers_rows && !self.by_row).then(|| "numbered".to_owned()),
        ];
        parts.into_iter().flatten().reduce(|name, part| format!("{name}-{part}"))
    }
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
        async move { self.changed_footer().await }.boxed()
    }
}

/// The error of a footer as that of a file.
fn in_parquet(error: DataFusionError) -> ParquetError {
    match error {
        DataFusionError::ParquetError(error) => *error,
        DataFusionError::ObjectStore(error) => ParquetError::External(error),
        other => ParquetError::External(Box::new(other)),
    }
}
