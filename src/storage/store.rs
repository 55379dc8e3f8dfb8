//! Access to the place where everything durable but the write-ahead log lies: a folder or a bucket.
//!
//! A [`Store`] is an [`ObjectStore`] with three promises added: what [`Store::put`] wrote is durable when it returns,
//! [`Store::put_new`] creates or leaves alone but never overwrites, and half-written objects are never visible. Buckets
//! keep them by themselves; on a local disk [`LocalDisk`] does. Paths are relative to the store's root.
//!
//! A bucket can be away for hours. Files for it are [staged](Store::staged) on this machine first, so that what writes
//! them never waits; readers find them under the names that they will have ([`remote`](crate::storage::remote)).

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    Error as ObjectError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, WriteMultipart, path::Path,
    prefix::PrefixStore,
};
use tracing::warn;
use uuid::Uuid;

use crate::{
    config::{Bucket, ByteSize, DataLocation, Settings},
    error::{Error, ErrorKind},
    metrics::Metrics,
    storage::{
        local_disk::LocalDisk,
        remote::{
            ReadCounters, RemoteObjects, blocks::BlockCache, bucket::BucketAccess, connect::connect, staged::Staged,
        },
    },
};

/// The folder for files that wait for their upload, below the folder of what stays on this machine.
const STAGED_FOLDER: &str = "staged";

/// The folder for blocks of files, likewise.
const CACHE_FOLDER: &str = "cache";

/// Parts of one file that are uploaded at once.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of a local store cannot be made or opened.
    #[error("data folder {folder:?} cannot be used: {source}")]
    Folder {
        /// As given.
        folder: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The settings do not lead to a bucket.
    #[error("{bucket} cannot be used: {source}")]
    Bucket {
        /// As given.
        bucket: String,
        /// What is wrong.
        source: Box<ObjectError>,
    },
    /// The folder for blocks of files cannot be used.
    #[error("cache folder {folder:?} cannot be used: {source}")]
    Cache {
        /// Below the folder of what stays on this machine.
        folder: PathBuf,
        /// What the library said.
        source: foyer::Error,
    },
    /// The store did not do what was asked, or did not say that it did.
    #[error("cannot {action} {path}: {source}")]
    Failed {
        /// `read`, `write`, `list`, `delete`.
        action: &'static str,
        /// The object or folder.
        path: Path,
        /// What the store said.
        source: Box<ObjectError>,
    },
    /// The store answers, and does not take what is written: there is no such bucket, or no permission.
    #[error("{store} takes no writes: {source}")]
    TakesNoWrites {
        /// The store, as it describes itself.
        store: String,
        /// What it said.
        source: Box<ObjectError>,
    },
    /// The store overwrites where it was told not to, so that two writers would destroy each other's commits.
    #[error(
        "{store} does not honour conditional writes: {detail}; a store that keeps the first of two writers is needed"
    )]
    NoConditionalPut {
        /// The store, as it describes itself.
        store: String,
        /// What it did instead.
        detail: String,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Failed { .. } => ErrorKind::Unavailable,
            StoreError::Folder { .. }
            | StoreError::Bucket { .. }
            | StoreError::Cache { .. }
            | StoreError::TakesNoWrites { .. }
            | StoreError::NoConditionalPut { .. } => ErrorKind::InvalidArgument,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}

/// What became of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutNew {
    /// The object is there with our bytes.
    Created,
    /// An object was there before, and is unchanged. It can be our own, if an earlier try got through unnoticed.
    AlreadyExists,
}

/// The folder or bucket under which all tables lie. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalDisk>>,
    remote: Option<Remote>,
    metadata_cache_bytes_max: Option<usize>,
    /// What the settings call it, if they do.
    name: Option<Arc<str>>,
}

/// What a store in a bucket has besides its objects.
#[derive(Clone, Debug)]
struct Remote {
    objects: RemoteObjects,
    part_bytes: usize,
}

impl Store {
    /// The store that the settings name: a folder, which is created if absent, or a bucket.
    ///
    /// Requests to a bucket run on the caller's runtime, whoever makes them later.
    pub async fn open(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Self, StoreError> {
        match &settings.data {
            DataLocation::Folder(folder) => Self::local_with(folder, settings),
            DataLocation::Bucket(bucket) => {
                Ok(Self::remote(prefixed(bucket, settings)?, settings, metrics).await?.named(bucket))
            }
        }
    }

    /// The same store for reading, beside a server on this machine or without one: nothing of it is put on this disk.
    pub async fn open_to_read(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Self, StoreError> {
        match &settings.data {
            DataLocation::Folder(folder) => Self::local_with(folder, settings),
            DataLocation::Bucket(bucket) => {
                let mut settings = settings.clone();
                settings.cache.disk_bytes_max = ByteSize::from_bytes(0);
                Ok(Self::over(prefixed(bucket, &settings)?, &settings, metrics, None).await?.named(bucket))
            }
        }
    }

    /// A store at the root of `objects`, a bucket, with the limits and the caches of the settings.
    pub async fn remote(
        objects: Arc<dyn ObjectStore>,
        settings: &Settings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let folder = settings.local_folder().join(STAGED_FOLDER);
        let staged = Staged::open(&folder).map_err(|source| StoreError::Folder { folder, source })?;
        Self::over(objects, settings, metrics, Some(Arc::new(staged))).await
    }

    async fn over(
        objects: Arc<dyn ObjectStore>,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        staged: Option<Arc<Staged>>,
    ) -> Result<Self, StoreError> {
        let folder = settings.local_folder().join(CACHE_FOLDER);
        let blocks = BlockCache::open(&settings.cache, &folder).await;
        let blocks = blocks.map_err(|source| StoreError::Cache { folder, source })?;
        let objects = RemoteObjects {
            bucket: Arc::new(BucketAccess::new(objects, &settings.store, Arc::clone(metrics))),
            staged,
            blocks: blocks.map(Arc::new),
            counters: Arc::default(),
        };
        let remote = Remote { objects: objects.clone(), part_bytes: settings.store.part_bytes.as_usize() };
        let metadata_cache_bytes_max = Some(settings.cache.metadata_bytes_max.as_usize());
        Ok(Self { objects: Arc::new(objects), local: None, remote: Some(remote), metadata_cache_bytes_max, name: None })
    }

    fn named(self, bucket: &Bucket) -> Self {
        Self { name: Some(bucket.to_string().into()), ..self }
    }

    /// As the settings call it, or as the objects describe themselves.
    fn name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.objects.to_string(), ToString::to_string)
    }

    /// A store in a folder of the local disk, which is created if absent.
    pub fn local(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into();
        let disk = LocalDisk::open(&folder).map_err(|source| StoreError::Folder { folder, source })?;
        let disk = Arc::new(disk);
        Ok(Self {
            objects: Arc::<LocalDisk>::clone(&disk),
            local: Some(disk),
            remote: None,
            metadata_cache_bytes_max: None,
            name: None,
        })
    }

    fn local_with(folder: &std::path::Path, settings: &Settings) -> Result<Self, StoreError> {
        let metadata_cache_bytes_max = Some(settings.cache.metadata_bytes_max.as_usize());
        Ok(Self { metadata_cache_bytes_max, ..Self::local(folder)? })
    }

    /// A store at the root of `objects`, whose writes are durable once they return.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, local: None, remote: None, metadata_cache_bytes_max: None, name: None }
    }

    /// A store below `prefix` of `objects`, whose writes are durable once they return.
    pub fn with_prefix(objects: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self::new(Arc::new(PrefixStore::new(objects, prefix)))
    }

    /// The objects, for readers and for writers of large files; its writes keep the same promises.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// The objects, with what is read of them counted by `counters`.
    pub fn counting(&self, counters: Arc<ReadCounters>) -> Arc<dyn ObjectStore> {
        match &self.remote {
            Some(remote) => Arc::new(remote.objects.counting(counters)),
            None => self.objects(),
        }
    }

    /// Where files wait for their upload; `None` if the store is not a bucket, and files are written to it at once.
    pub fn staged(&self) -> Option<&Arc<Staged>> {
        self.remote.as_ref()?.objects.staged.as_ref()
    }

    /// Ends the use of the disk for parts of files, so that the next process finds what this one has read.
    pub async fn close(&self) {
        let Some(blocks) = self.remote.as_ref().and_then(|remote| remote.objects.blocks.as_ref()) else { return };
        if let Err(error) = blocks.close().await {
            warn!(%error, "cannot write all that was read to the disk");
        }
    }

    /// Most memory for footers and page indexes of the files, where the settings say so.
    pub fn metadata_cache_bytes_max(&self) -> Option<usize> {
        self.metadata_cache_bytes_max
    }

    /// The root folder on the local disk, if that is where the store is.
    pub fn local_folder(&self) -> Option<&std::path::Path> {
        self.local.as_ref().map(|disk| disk.root())
    }

    /// The address under which query plans refer to this store; [`Store::objects`] is registered for it.
    pub fn url() -> ObjectStoreUrl {
        // The constant is parsed by a test below; the fallback is the local file system's address.
        ObjectStoreUrl::parse("tracehouse://store").unwrap_or_else(|_| ObjectStoreUrl::local_filesystem())
    }

    /// Writes an object, replacing any before it, and returns when it is durable.
    ///
    /// After an error the object can be there or not.
    pub async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(path, bytes.into()).await.map_err(failed("write", path)).map(|_| ())
    }

    /// Writes a file that nobody else writes, in parts if it is large, and returns when it is durable.
    ///
    /// After an error the file can be there or not.
    pub async fn put_file(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let part_bytes = self.remote.as_ref().map_or(usize::MAX, |remote| remote.part_bytes);
        if bytes.len() <= part_bytes {
            return self.put(path, bytes).await;
        }
        let upload = self.objects.put_multipart(path).await.map_err(failed("write", path))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, part_bytes);
        for start in (0..bytes.len()).step_by(part_bytes) {
            if let Err(error) = parts.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await {
                // Parts that stay behind are invisible, and the bucket's rules delete them.
                let _ = parts.abort().await;
                return Err(failed("write", path)(error));
            }
            parts.put(bytes.slice(start..bytes.len().min(start + part_bytes)));
        }
        // Finishing takes the upload back if a part of it fails.
        parts.finish().await.map_err(failed("write", path)).map(|_| ())
    }

    /// Writes an object if none is there, atomically, and returns when it is durable.
    ///
    /// After an error the object can be there or not; look before anything else.
    pub async fn put_new(&self, path: &Path, bytes: Bytes) -> Result<PutNew, StoreError> {
        match self.objects.put_opts(path, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(PutNew::Created),
            // S3 reports the lost race as a failed precondition where others have a code of their own.
            Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Ok(PutNew::AlreadyExists),
            Err(source) => Err(failed("write", path)(source)),
        }
    }

    /// Makes sure that an object found in the store survives a crash, where its writer may not have got that far.
    pub async fn ensure_durable(&self, path: &Path) -> Result<(), StoreError> {
        match &self.local {
            Some(disk) => disk.sync_object(path).await.map_err(failed("write", path)),
            None => Ok(()),
        }
    }

    /// The bytes of an object, `None` if there is none.
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let bytes = match self.objects.get(path).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("read", path)(source)),
        }
    }

    /// Part of the bytes of an object that exists.
    pub async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.objects.get_range(path, range).await.map_err(failed("read", path))
    }

    /// The objects below a folder, at any depth, in no particular order.
    pub fn list(&self, folder: &Path) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.objects.list(Some(folder)).map_err(failed("list", folder)).boxed()
    }

    /// The folders directly below a folder.
    pub async fn list_folders(&self, folder: &Path) -> Result<Vec<Path>, StoreError> {
        match self.objects.list_with_delimiter(Some(folder)).await {
            Ok(listing) => Ok(listing.common_prefixes),
            Err(ObjectError::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(failed("list", folder)(source)),
        }
    }

    /// Deletes an object; one that is already gone counts as deleted.
    pub async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("delete", path)(source)),
        }
    }

    /// Finds out at start whether the store keeps the first of two writers of one object, and refuses it otherwise.
    pub async fn verify_conditional_put(&self) -> Result<(), StoreError> {
        let refused = |detail: &str| StoreError::NoConditionalPut { store: self.name(), detail: detail.to_owned() };
        let path = Path::from(format!(".probe/{}", Uuid::new_v4()));
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        let verdict = async {
            match self.put_new(&path, first.clone()).await {
                Ok(PutNew::Created) => {}
                Ok(PutNew::AlreadyExists) => return Err(refused("a new object was said to exist")),
                Err(error) if is_not_implemented(&error) => return Err(refused("they are not implemented")),
                Err(StoreError::Failed { source, .. }) if is_refusal(&source) => {
                    return Err(StoreError::TakesNoWrites { store: self.name(), source });
                }
                Err(error) => return Err(error),
            }
            let second_put = self.put_new(&path, second).await?;
            let stored = self.get(&path).await?;
            match (second_put, stored) {
                (_, Some(bytes)) if bytes != first => Err(refused("the second writer's bytes replaced the first's")),
                (PutNew::Created, _) => Err(refused("the second of two writers was told that it created the object")),
                (PutNew::AlreadyExists, None) => Err(refused("an object just written is not there")),
                (PutNew::AlreadyExists, Some(_)) => Ok(()),
            }
        };
        let verdict = verdict.await;
        // A probe left behind does no harm; the verdict counts.
        let _ = self.delete(&path).await;
        verdict
    }

    /// Deletes half-written files that crashed processes left on a local disk, if they are older than a day.
    pub async fn clean_temporary(&self, now_unix_nano: i64) -> Result<(), StoreError> {
        match &self.local {
            Some(disk) => {
                let folder = disk.temporary_folder().to_owned();
                let cleaned = disk.clean_temporary(now_unix_nano).await;
                cleaned.map_err(|source| StoreError::Folder { folder, source })
            }
            None => Ok(()),
        }
    }
}

/// A client for the settings' part of a bucket.
fn prefixed(bucket: &Bucket, settings: &Settings) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let objects = connect(bucket, &settings.store)?;
    match bucket.prefix.as_str() {
        "" => Ok(objects),
        prefix => Ok(Arc::new(PrefixStore::new(objects, Path::from(prefix)))),
    }
}

fn is_not_implemented(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    matches!(**source, ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. })
}

/// Whether the store has answered, so that to ask again later would not help.
fn is_refusal(error: &ObjectError) -> bool {
    use ObjectError::{NotFound, PermissionDenied, Unauthenticated};
    matches!(error, NotFound { .. } | PermissionDenied { .. } | Unauthenticated { .. })
}

fn failed(action: &'static str, path: &Path) -> impl Fn(ObjectError) -> StoreError + Send + Sync + 'static {
    let path = path.clone();
    move |source| StoreError::Failed { action, path: path.clone(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn the_address_of_the_store_is_its_own() {
        assert_eq!(Store::url().as_str(), "tracehouse://store/");
    }

    #[tokio::test]
    async fn a_new_object_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for store in [Store::local(folder.path()).unwrap(), Store::new(Arc::new(InMemory::new()))] {
            store.verify_conditional_put().await.unwrap();
            let path = Path::from("a/b/c");
            assert_eq!(store.put_new(&path, Bytes::from("1")).await.unwrap(), PutNew::Created);
            assert_eq!(store.put_new(&path, Bytes::from("2")).await.unwrap(), PutNew::AlreadyExists);
            assert_eq!(store.get(&path).await.unwrap().unwrap(), "1");
            store.ensure_durable(&path).await.unwrap();
            store.put(&path, Bytes::from("345")).await.unwrap();
            assert_eq!(store.get_range(&path, 1..2).await.unwrap(), "4");
            assert_eq!(store.list_folders(&Path::from("a")).await.unwrap(), [Path::from("a/b")]);
            store.delete(&path).await.unwrap();
            store.delete(&path).await.unwrap();
            assert_eq!(store.get(&path).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_prefix_is_part_of_every_path() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = Store::with_prefix(Arc::clone(&objects), Path::from("x/y"));
        store.put(&Path::from("z"), Bytes::from("1")).await.unwrap();
        assert_eq!(Store::new(objects).get(&Path::from("x/y/z")).await.unwrap().unwrap(), "1");
    }
}
