//! The local disk as an object store whose writes are durable once they return.
//!
//! `object_store`'s own local store neither syncs nor keeps half-written files out of the folders that readers list.
//! Here a file is written in `<root>/.temporary`, synced, moved to its place in one step (a rename, or a hard link
//! where the name must be new), and its folder is synced. Folders on the way are synced once per process.
//!
//! After a failed sync nobody knows what is on the disk, and a later sync that succeeds proves nothing, because the
//! kernel drops the pages it could not write. So the first failure ends all writing by this process.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    CopyMode, CopyOptions, Error as ObjectError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart, local::LocalFileSystem, path::Path,
};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::crashpoint;

const TEMPORARY: &str = ".temporary";
const TEMPORARY_AGE_MAX_NANO: i128 = 24 * 3600 * 1_000_000_000;

/// A folder of the local disk with durable, atomic writes.
#[derive(Clone, Debug)]
pub(super) struct LocalDisk {
    objects: Arc<LocalFileSystem>,
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct Writer {
    root: PathBuf,
    temporary: PathBuf,
    /// Folders whose own entry, and those of all folders above, are known to be on disk.
    synced_folders: Mutex<HashSet<PathBuf>>,
    sync_failed: AtomicBool,
}

impl LocalDisk {
    /// Opens the folder, and creates it if absent.
    pub(super) fn open(root: &FsPath) -> io::Result<Self> {
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(&temporary)?;
        let root = fs::canonicalize(root)?;
        let temporary = root.join(TEMPORARY);
        for folder in root.ancestors() {
            // Folders above the data folder may not be ours to open; those that are get synced.
            if File::open(folder).and_then(|folder| folder.sync_all()).is_ok() {
                crashpoint::synced(folder);
            }
        }
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        let synced_folders = Mutex::new(HashSet::from([root.clone()]));
        let writer = Writer { root, temporary, synced_folders, sync_failed: AtomicBool::new(false) };
        Ok(Self { objects: Arc::new(objects), writer: Arc::new(writer) })
    }

    /// The folder, as an absolute path.
    pub(super) fn root(&self) -> &FsPath {
        &self.writer.root
    }

    /// Where half-written files are.
    pub(super) fn temporary_folder(&self) -> &FsPath {
        &self.writer.temporary
    }

    /// Syncs a file that exists, and its folders.
    pub(super) async fn sync_object(&self, location: &Path) -> Result<()> {
        let path = self.objects.path_to_filesystem(location)?;
        self.blocking(move |writer| {
            writer.check_not_failed()?;
            writer.synced(File::open(&path).and_then(|file| file.sync_all()), &path)?;
            let folder = parent(&path)?;
            writer.make_folder(folder)?;
            writer.sync_folder(folder)
        })
        .await
    }

    /// Deletes temporary files older than a day.
    pub(super) async fn clean_temporary(&self, now_unix_nano: i64) -> io::Result<()> {
        let writer = Arc::clone(&self.writer);
        tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(&writer.temporary)? {
                let entry = entry?;
                let modified = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                let age_nano = i128::from(now_unix_nano).saturating_sub_unsigned(modified.as_nanos());
                if age_nano > TEMPORARY_AGE_MAX_NANO {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Writer) -> Result<T> + Send + 'static) -> Result<T> {
        let writer = Arc::clone(&self.writer);
        tokio::task::spawn_blocking(move || work(&writer)).await?
    }
}

impl Writer {
    fn new_temporary(&self) -> Result<Temporary> {
        let path = self.temporary.join(Uuid::new_v4().to_string());
        let create = || File::options().write(true).create_new(true).open(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.temporary).map_err(|source| generic(&self.temporary, source))?;
                create()
            }
            other => other,
        };
        let file = file.map_err(|source| generic(&path, source))?;
        Ok(Temporary { file, path })
    }

    /// Syncs the temporary file, moves it to `destination`, and syncs the folders there.
    fn publish(&self, temporary: &Temporary, destination: &FsPath, mode: &PutMode) -> Result<PutResult> {
        self.check_not_failed()?;
        self.synced(temporary.file.sync_all(), &temporary.path)?;
        let folder = parent(destination)?;
        self.make_folder(folder)?;
        match self.move_into_place(temporary, destination, mode) {
            Err(ObjectError::NotFound { .. }) => {
                // Someone removed the empty folder since it was last synced.
                self.synced_folders.lock().remove(folder);
                self.make_folder(folder)?;
                self.move_into_place(temporary, destination, mode)?;
            }
            other => other?,
        }
        self.sync_folder(folder)?;
        Ok(PutResult { e_tag: None, version: None })
    }

    fn move_into_place(&self, temporary: &Temporary, destination: &FsPath, mode: &PutMode) -> Result<()> {
        let moved = match mode {
            PutMode::Overwrite => fs::rename(&temporary.path, destination),
            PutMode::Create => fs::hard_link(&temporary.path, destination),
            PutMode::Update(_) => {
                return Err(ObjectError::NotImplemented {
                    operation: "put of an updated version".to_owned(),
                    implementer: "local disk".to_owned(),
                });
            }
        };
        moved.map_err(|source| {
            let path = destination.display().to_string();
            match source.kind() {
                io::ErrorKind::AlreadyExists => ObjectError::AlreadyExists { path, source: source.into() },
                io::ErrorKind::NotFound => ObjectError::NotFound { path, source: source.into() },
                _ => generic(destination, source),
            }
        })
    }

    /// Creates a folder below the root, if absent, and syncs the entries that lead to it.
    fn make_folder(&self, folder: &FsPath) -> Result<()> {
        if self.synced_folders.lock().contains(folder) {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(|source| generic(folder, source))?;
        for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            self.sync_folder(above)?;
        }
        self.synced_folders.lock().insert(folder.to_owned());
        Ok(())
    }

    fn sync_folder(&self, folder: &FsPath) -> Result<()> {
        self.synced(File::open(folder).and_then(|opened| opened.sync_all()), folder)
    }

    fn synced(&self, outcome: io::Result<()>, path: &FsPath) -> Result<()> {
        outcome.inspect(|()| crashpoint::synced(path)).map_err(|source| {
            self.sync_failed.store(true, Ordering::SeqCst);
            generic(path, source)
        })
    }

    fn check_not_failed(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::SeqCst) {
            let reason = "an earlier sync to disk failed, so nothing more is written; a restart is needed";
            return Err(ObjectError::Generic { store: "local disk", source: reason.into() });
        }
        Ok(())
    }
}

/// A file on its way to its place; whatever is left of it goes away with this.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn append(&mut self, payload: &PutPayload) -> Result<()> {
        let written = payload.iter().try_for_each(|part| self.file.write_all(part));
        written.map_err(|source| generic(&self.path, source))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[async_trait]
impl ObjectStore for LocalDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let destination = self.objects.path_to_filesystem(location)?;
        self.blocking(move |writer| {
            writer.check_not_failed()?;
            let mut temporary = writer.new_temporary()?;
            temporary.append(&payload)?;
            writer.publish(&temporary, &destination, &options.mode)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let destination = self.objects.path_to_filesystem(location)?;
        let temporary = self.blocking(Writer::new_temporary).await?;
        let parts = Arc::new(Mutex::new(Parts { temporary: Some(temporary), next: 0, waiting: Vec::new() }));
        Ok(Box::new(LocalUpload { disk: self.clone(), destination, parts, part_count: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    /// Reads what is asked for alone: on a disk, what lies between costs more than another read.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (path, ranges) = (self.objects.path_to_filesystem(location)?, ranges.to_vec());
        self.blocking(move |_| {
            let mut file = match File::open(&path) {
                Err(source) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(ObjectError::NotFound { path: path.display().to_string(), source: source.into() });
                }
                file => file.map_err(|source| generic(&path, source))?,
            };
            let read = |range: &Range<u64>| read_range(&mut file, range).map_err(|source| generic(&path, source));
            ranges.iter().map(read).collect()
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    /// Sorted, as buckets list: whoever reads a log from an offset on relies on the order.
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.objects.list_with_offset(prefix, offset);
        let sorted = async move {
            let mut objects: Vec<ObjectMeta> = listed.try_collect().await?;
            objects.sort_unstable_by(|left, right| left.location.cmp(&right.location));
            Ok::<_, ObjectError>(stream::iter(objects.into_iter().map(Ok)))
        };
        stream::once(sorted).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.objects.get(from).await?.bytes().await?;
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, bytes.into(), mode.into()).await.map(|_| ())
    }
}

impl fmt::Display for LocalDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local disk at {}", self.writer.root.display())
    }
}

/// A file written part by part, in order, whatever the order in which the parts' futures run.
#[derive(Debug)]
struct LocalUpload {
    disk: LocalDisk,
    destination: PathBuf,
    parts: Arc<Mutex<Parts>>,
    part_count: usize,
}

#[derive(Debug)]
struct Parts {
    /// `None` once the upload ended.
    temporary: Option<Temporary>,
    next: usize,
    waiting: Vec<(usize, PutPayload)>,
}

impl Parts {
    fn add(&mut self, index: usize, payload: PutPayload) -> Result<()> {
        let temporary = self.temporary.as_mut().ok_or_else(upload_ended)?;
        self.waiting.push((index, payload));
        while let Some(at) = self.waiting.iter().position(|(index, _)| *index == self.next) {
            let (_, payload) = self.waiting.swap_remove(at);
            temporary.append(&payload)?;
            self.next += 1;
        }
        Ok(())
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let index = self.part_count;
        self.part_count += 1;
        let (disk, parts) = (self.disk.clone(), Arc::clone(&self.parts));
        async move { disk.blocking(move |_| parts.lock().add(index, payload)).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (destination, part_count) = (self.destination.clone(), self.part_count);
        let parts = Arc::clone(&self.parts);
        self.disk
            .blocking(move |writer| {
                let mut parts = parts.lock();
                let temporary = parts.temporary.take().ok_or_else(upload_ended)?;
                if parts.next != part_count {
                    return Err(generic(&destination, io::Error::other("a part of the upload was never written")));
                }
                writer.publish(&temporary, &destination, &PutMode::Overwrite)
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let parts = Arc::clone(&self.parts);
        self.disk
            .blocking(move |_| {
                parts.lock().temporary = None;
                Ok(())
            })
            .await
    }
}

fn upload_ended() -> ObjectError {
    ObjectError::Generic { store: "local disk", source: "the upload has ended".into() }
}

/// Reads a part of a file, into memory that is not written before.
fn read_range(file: &mut File, range: &Range<u64>) -> io::Result<Bytes> {
    let length = range.end.saturating_sub(range.start);
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.seek(SeekFrom::Start(range.start))?;
    if file.take(length).read_to_end(&mut bytes)? as u64 == length {
        return Ok(bytes.into());
    }
    let ended = format!("bytes {} to {} are beyond the end of the file", range.start, range.end);
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, ended))
}

fn parent(path: &FsPath) -> Result<&FsPath> {
    path.parent().ok_or_else(|| generic(path, io::Error::other("not a file's path")))
}

fn generic(path: &FsPath, source: io::Error) -> ObjectError {
    ObjectError::Generic { store: "local disk", source: Box::new(DiskError { path: path.to_owned(), source }) }
}

#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {source}")]
struct DiskError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use object_store::buffered::BufWriter;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn no_half_written_file_is_left_or_listed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        let path = Path::from("tenants/t/spans/date=2026-11-21/x.parquet");
        let mut upload = disk.put_multipart_opts(&path, PutMultipartOptions::default()).await.unwrap();
        upload.put_part(PutPayload::from_static(b"abc")).await.unwrap();
        let listed: Vec<_> = disk.list(Some(&Path::from("tenants"))).try_collect().await.unwrap();
        assert!(listed.is_empty());
        upload.put_part(PutPayload::from_static(b"def")).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(disk.get(&path).await.unwrap().bytes().await.unwrap(), "abcdef");

        let mut upload = disk.put_multipart_opts(&path, PutMultipartOptions::default()).await.unwrap();
        upload.put_part(PutPayload::from_static(b"ghi")).await.unwrap();
        upload.abort().await.unwrap();
        assert!(upload.complete().await.is_err());
        disk.put_opts(&path, PutPayload::from_static(b"x"), PutMode::Create.into()).await.unwrap_err();
        assert_eq!(disk.get(&path).await.unwrap().bytes().await.unwrap(), "abcdef");
        assert_eq!(fs::read_dir(disk.temporary_folder()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn ranges_come_in_the_order_in_which_they_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        let path = Path::from("tenants/t/x.parquet");
        let bytes: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
        disk.put(&path, PutPayload::from(bytes.clone())).await.unwrap();
        let ranges = [70_000..99_999, 3..3, 0..40_000, 39_990..40_010, 99_999..100_000];
        let parts = disk.get_ranges(&path, &ranges).await.unwrap();
        for (part, range) in parts.iter().zip(&ranges) {
            assert_eq!(part, &bytes[range.start as usize..range.end as usize], "{range:?}");
        }
        assert_eq!(parts.len(), ranges.len());
        let beyond = disk.get_ranges(&path, &[0..10, 99_000..100_001]).await.unwrap_err();
        assert!(beyond.to_string().ends_with("bytes 99000 to 100001 are beyond the end of the file"), "{beyond}");
        let missing = disk.get_ranges(&Path::from("tenants/t/y.parquet"), &ranges).await.unwrap_err();
        assert!(matches!(missing, ObjectError::NotFound { .. }), "{missing}");
    }

    #[tokio::test]
    async fn parts_land_in_order_when_their_futures_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        let path = Path::from("x");
        let mut upload = disk.put_multipart_opts(&path, PutMultipartOptions::default()).await.unwrap();
        let first = upload.put_part(PutPayload::from_static(b"1"));
        let second = upload.put_part(PutPayload::from_static(b"2"));
        let never = upload.put_part(PutPayload::from_static(b"3"));
        second.await.unwrap();
        first.await.unwrap();
        drop(never);
        assert!(upload.complete().await.is_err());

        let mut writer = BufWriter::with_capacity(Arc::new(disk.clone()), path.clone(), 10);
        for _ in 0..100 {
            writer.write_all(b"0123456").await.unwrap();
        }
        writer.shutdown().await.unwrap();
        assert_eq!(disk.get(&path).await.unwrap().bytes().await.unwrap(), "0123456".repeat(100));
    }

    #[tokio::test]
    async fn a_folder_that_vanished_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        disk.put(&Path::from("a/b/c"), "1".into()).await.unwrap();
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        fs::remove_dir_all(folder.path().join(TEMPORARY)).unwrap();
        disk.put(&Path::from("a/b/c"), "2".into()).await.unwrap();
        assert_eq!(disk.get(&Path::from("a/b/c")).await.unwrap().bytes().await.unwrap(), "2");
    }

    #[tokio::test]
    async fn nothing_is_written_after_a_failed_sync() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        let failure = disk.blocking(|writer| writer.synced(Err(io::Error::other("no")), FsPath::new("x")));
        failure.await.unwrap_err();
        let error = disk.put(&Path::from("a"), "1".into()).await.unwrap_err();
        assert!(error.to_string().contains("restart"), "{error}");
    }

    #[tokio::test]
    async fn old_temporary_files_are_cleaned_and_young_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        fs::write(disk.temporary_folder().join("left"), "x").unwrap();
        disk.clean_temporary(0).await.unwrap();
        assert_eq!(fs::read_dir(disk.temporary_folder()).unwrap().count(), 1);
        disk.clean_temporary(i64::MAX).await.unwrap();
        assert_eq!(fs::read_dir(disk.temporary_folder()).unwrap().count(), 0);
    }
}
