//! A bucket as a store, as the rest of the process sees it: one [`ObjectStore`].
//!
//! ```text
//!   get(path, range)
//!     |-- waits for its upload?      staged::Staged     file on this machine
//!     |-- range of a data file?      blocks::BlockCache memory -> disk -> one request per run of missing blocks
//!     |                              with no cache, one per run of near ranges; either way bounded, a slow one sent twice
//!     '-- anything else              the service's client, counted
//!   put, list, delete                the service's client, counted
//! ```
//!
//! Data files never change once they are written and their names are never used again, which makes their bytes safe to
//! keep; the table's log is always read from the bucket.
//!
//! Absent on purpose: a listing that knows of staged files. Only the views that name them read them.

pub(super) mod blocks;
pub(super) mod bucket;
pub(super) mod connect;
pub mod staged;

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, coalesce_ranges, path::Path,
};

use self::{blocks::BlockCache, bucket::BucketAccess, staged::Staged};

/// Where the bytes came from that someone read.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// Blocks of files that were in memory.
    pub memory_blocks: AtomicU64,
    /// Blocks that were on the disk of this machine.
    pub disk_blocks: AtomicU64,
    /// Blocks that came from the bucket, or that another reader was fetching already.
    pub bucket_blocks: AtomicU64,
    /// Requests for parts of files that were sent to the bucket.
    pub requests: AtomicU64,
    /// Bytes that they brought.
    pub request_bytes: AtomicU64,
}

impl ReadCounters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// A bucket with what waits for it and what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct RemoteObjects {
    pub(super) bucket: Arc<BucketAccess>,
    pub(super) staged: Option<Arc<Staged>>,
    pub(super) blocks: Option<Arc<BlockCache>>,
    /// Of whoever reads by this value.
    pub(super) counters: Arc<ReadCounters>,
}

impl RemoteObjects {
    /// The same objects, with reads counted apart.
    pub(super) fn counting(&self, counters: Arc<ReadCounters>) -> Self {
        Self { counters, ..self.clone() }
    }

    async fn read_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Option<blocks::Read>> {
        if !is_data_file(location) {
            return Ok(None);
        }
        match &self.blocks {
            Some(blocks) => blocks.read(&self.bucket, location, ranges, &self.counters).await.map(Some),
            None => self.read_each_time(location, ranges).await.map(Some),
        }
    }

    /// Reads ranges without keeping them, neighbours in one request.
    async fn read_each_time(&self, location: &Path, ranges: &[Range<u64>]) -> Result<blocks::Read> {
        let object_bytes = &AtomicU64::new(0);
        let fetch = |range| async move {
            let part = self.bucket.read(location, range, &self.counters).await?;
            object_bytes.store(part.object_bytes, Ordering::Relaxed);
            Ok::<_, ObjectError>(part.bytes)
        };
        let ranges = coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await?;
        Ok(blocks::Read { ranges, object_bytes: object_bytes.load(Ordering::Relaxed) })
    }
}

/// Whether an object is a data file of a table, which never changes.
fn is_data_file(location: &Path) -> bool {
    location.extension() == Some("parquet") && !location.parts().any(|part| part.as_ref() == "_delta_log")
}

/// The range, if that is all that is asked for.
fn plain_range(options: &GetOptions) -> Option<Range<u64>> {
    let is_plain = options.if_match.is_none()
        && options.if_none_match.is_none()
        && options.if_modified_since.is_none()
        && options.if_unmodified_since.is_none()
        && options.version.is_none()
        && !options.head;
    match &options.range {
        Some(GetRange::Bounded(range)) if is_plain => Some(range.clone()),
        _ => None,
    }
}

#[async_trait]
impl ObjectStore for RemoteObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.bucket.counted("put", self.bucket.objects().put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket.counted("multipart", self.bucket.objects().put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(staged) = self.staged.as_ref().filter(|staged| staged.holds(location)) {
            match staged.objects().get_opts(location, options.clone()).await {
                // It has just been uploaded.
                Err(ObjectError::NotFound { .. }) => {}
                other => return other,
            }
        }
        if let Some(range) = plain_range(&options)
            && let Some(read) = self.read_ranges(location, std::slice::from_ref(&range)).await?
        {
            let bytes = read.ranges.into_iter().next().unwrap_or_default();
            let range = range.start..range.start + bytes.len() as u64;
            let meta = ObjectMeta {
                location: location.clone(),
                // Files never change, so nobody needs to know.
                last_modified: DateTime::UNIX_EPOCH,
                size: read.object_bytes,
                e_tag: None,
                version: None,
            };
            let payload = GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed());
            return Ok(GetResult { payload, meta, range, attributes: object_store::Attributes::default() });
        }
        self.bucket.counted("get", self.bucket.objects().get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(staged) = self.staged.as_ref().filter(|staged| staged.holds(location)) {
            match staged.objects().get_ranges(location, ranges).await {
                Err(ObjectError::NotFound { .. }) => {}
                other => return other,
            }
        }
        match self.read_ranges(location, ranges).await? {
            Some(read) => Ok(read.ranges),
            None => self.bucket.counted("get", self.bucket.objects().get_ranges(location, ranges)).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.bucket.count_stream("delete", self.bucket.objects().delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.bucket.count_stream("list", self.bucket.objects().list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.bucket.count_stream("list", self.bucket.objects().list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.bucket.counted("list", self.bucket.objects().list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.bucket.counted("copy", self.bucket.objects().copy_opts(from, to, options)).await
    }
}

impl fmt::Display for RemoteObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket.objects().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_files_are_kept() {
        assert!(is_data_file(&Path::from("tenants/t/spans/date=2026-11-21/x.parquet")));
        assert!(!is_data_file(&Path::from("tenants/t/spans/_delta_log/00000000000000000010.checkpoint.parquet")));
        assert!(!is_data_file(&Path::from("tenants/t/spans/_delta_log/00000000000000000010.json")));
    }
}
