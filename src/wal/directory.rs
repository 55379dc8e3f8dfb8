//! The folder of a log: its lock, its files, and what makes changes to it durable.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{WalError, error::Result, segment::parse_file_name};
use crate::crashpoint;

const LOCK: &str = "LOCK";

/// A folder that this process has locked for as long as the value lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

/// Closing the file would not do: a child of this process has a copy of it from its birth until it becomes another program.
impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be unlocked is unlocked with the last copy.
        let _ = self.lock.unlock();
    }
}

impl Directory {
    /// Creates the folder if it is missing, durably, and locks it for the one writer.
    pub(super) fn create_and_lock(path: &Path) -> Result<Self> {
        create_durably(path).map_err(WalError::io("create folder", path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(WalError::io("open", &lock_path))?;
        Self::locked(path, lock.try_lock(), lock)
    }

    /// Locks an existing folder against writers; other readers may share it. Changes nothing on disk.
    pub(super) fn lock_shared(path: &Path) -> Result<Self> {
        let lock_path = path.join(LOCK);
        let lock = File::open(&lock_path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => WalError::NotALog { dir: path.to_owned() },
            _ => WalError::io("open", &lock_path)(error),
        })?;
        Self::locked(path, lock.try_lock_shared(), lock)
    }

    fn locked(path: &Path, outcome: Result<(), TryLockError>, lock: File) -> Result<Self> {
        match outcome {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(WalError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(WalError::io("lock", path)(error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the creation, renaming and removal of files in the folder durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }

    /// The segments in the folder with the sequences in their names, oldest first.
    pub(super) fn segment_files(&self) -> Result<Vec<(u64, PathBuf)>> {
        let fail = || WalError::io("list", &self.path);
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fail())? {
            let path = entry.map_err(fail())?.path();
            if let Some(first_sequence) = parse_file_name(&path) {
                segments.push((first_sequence, path));
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Cuts a segment to `intact_bytes` and makes the part from `synced_bytes` on durable, by writing it again.
    ///
    /// Syncing alone would not do: after a failed sync the kernel may show bytes that it has given up writing.
    pub(super) fn rewrite_end(&self, path: &Path, synced_bytes: u64, intact_bytes: u64) -> Result<()> {
        let rewrite = || {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            file.set_len(intact_bytes)?;
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(synced_bytes))?;
            file.read_to_end(&mut end)?;
            file.seek(SeekFrom::Start(synced_bytes))?;
            file.write_all(&end)?;
            file.sync_all()?;
            crashpoint::synced(path);
            Ok(())
        };
        rewrite().map_err(WalError::io("rewrite the end of", path))
    }
}

/// Removes a file, which may be gone already.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Creates a folder and its parents. Each new one is an entry of its parent, which is synced.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| is_missing(folder)).collect();
    fs::create_dir_all(path)?;
    for folder in missing {
        match folder.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new("."))?,
            Some(parent) => sync_folder(parent)?,
            None => {}
        }
    }
    Ok(())
}

fn is_missing(folder: &Path) -> bool {
    !folder.as_os_str().is_empty() && !folder.exists()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    crashpoint::synced(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_lock_in_a_child_process_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::create_and_lock(folder.path()).unwrap();
        assert!(matches!(Directory::create_and_lock(folder.path()), Err(WalError::Locked { .. })));
        let copy = directory.lock.try_clone().unwrap();
        drop(directory);
        drop(Directory::create_and_lock(folder.path()).unwrap());
        drop(copy);
    }
}
