//! Files that are written and wait on this machine for their upload.
//!
//! ```text
//! <local folder>/staged/tenants/<tenant>/spans/date=2026-11-21/<uuid>.parquet     under the name it gets in the bucket
//! ```
//!
//! *Who writes*: a flush. *Who deletes*: the upload, once the table lists the file; and every start, as a whole.
//! Nothing here is synced or read after a crash: the spans are in the write-ahead log until they are in the table, and
//! are replayed from there. *Torn writes*: a file is known by its name only after it was written.

use std::{
    collections::HashMap,
    io,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{
    Error as ObjectError, ObjectStore, ObjectStoreExt as _, Result, local::LocalFileSystem, path::Path,
};
use parking_lot::RwLock;

/// The files that wait.
#[derive(Debug)]
pub struct Staged {
    root: PathBuf,
    objects: LocalFileSystem,
    bytes_of: RwLock<HashMap<Path, u64>>,
}

impl Staged {
    /// Opens the folder, and creates it if absent. What is in it stays there and is not known; see [`Staged::clear`].
    pub(in crate::storage) fn open(root: &FsPath) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let objects = LocalFileSystem::new_with_prefix(root).map_err(io::Error::other)?;
        Ok(Self { root: root.to_owned(), objects, bytes_of: RwLock::default() })
    }

    /// Deletes what a process left that is gone.
    pub async fn clear(self: &Arc<Self>) -> io::Result<()> {
        let staged = Arc::clone(self);
        let clear = move || {
            staged.bytes_of.write().clear();
            for entry in std::fs::read_dir(&staged.root)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(clear).await.map_err(io::Error::other)?
    }

    /// Keeps a file under the name that it will have in the bucket.
    pub async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        self.objects.put(path, bytes.into()).await?;
        self.bytes_of.write().insert(path.clone(), length);
        Ok(())
    }

    /// The bytes of a file that waits.
    pub async fn get(&self, path: &Path) -> Result<Bytes> {
        self.objects.get(path).await?.bytes().await
    }

    /// Forgets a file, which is in the bucket now or is not needed.
    pub async fn remove(&self, path: &Path) -> Result<()> {
        self.bytes_of.write().remove(path);
        match self.objects.delete(path).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a file waits here.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.bytes_of.read().contains_key(path)
    }

    /// Number of files that wait, and their size in bytes.
    pub fn load(&self) -> (usize, u64) {
        let files = self.bytes_of.read();
        (files.len(), files.values().sum())
    }

    /// The files, for readers.
    pub(super) fn objects(&self) -> &dyn ObjectStore {
        &self.objects
    }
}
