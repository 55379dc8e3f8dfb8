//! The loss of power, simulated: what was written and never synced is gone, or there in part, and what was acknowledged
//! is there once.
//!
//! [`Disk`] hears of every sync that the log and the tables' store make, and knows from that what a disk holds for
//! certain: the bytes that a file had when it was synced, and the entries that a folder had when it was synced. At some
//! syncs it lays down what a cut of power at that moment would leave. Everything else happens for real, in a folder.
//!
//! ```text
//!  strict    only what is certain: unsynced bytes, files, renames and deletions never happened
//!  ragged    each unsynced change of an entry happened or did not; unsynced bytes are there, gone, cut short or zeros
//! ```
//!
//! `TRACEHOUSE_POWER_CUTS` sets how many cuts are tried, `TRACEHOUSE_POWER_SEED` the seed, which a failure prints.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env,
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arrow::array::{AsArray, RecordBatch};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tracehouse::{
    crashpoint::{self, SyncWatch},
    storage::store::Store,
};

use crate::ingest::{House, quiet};

const CUTS: u64 = 40;

/// A life has some 100 syncs, and two places for a cut at each; one in so many is tried.
const RARITY: u32 = 16;
const WRITES: u64 = 40;
const WRITE_SPANS: u64 = 10;

/// A file as long as it exists: inode numbers are used again.
type FileId = (u64, SystemTime);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(FileId),
    Folder,
}

/// What is certain to be on the disk below a folder.
#[derive(Debug, Default)]
struct Certain {
    content: HashMap<FileId, Vec<u8>>,
    entries: HashMap<PathBuf, BTreeMap<OsString, Entry>>,
}

/// What a cut has left, and up to which span was acknowledged before it.
#[derive(Debug)]
struct Wreck {
    folder: TempDir,
    acknowledged: u64,
    name: String,
}

#[derive(Debug)]
struct Disk {
    root: PathBuf,
    certain: Certain,
    random: StdRng,
    /// One in so many syncs is followed by a cut.
    rarity: u32,
    wrecks: Vec<Wreck>,
    syncs: u64,
}

fn file_id(metadata: &fs::Metadata) -> FileId {
    (metadata.ino(), metadata.created().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// The entries of a folder now. What is deleted meanwhile is not there.
fn entries_of(folder: &Path) -> BTreeMap<OsString, Entry> {
    let Ok(listed) = fs::read_dir(folder) else { return BTreeMap::new() };
    let entry = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let kind = if metadata.is_dir() { Entry::Folder } else { Entry::File(file_id(&metadata)) };
        Some((entry.file_name(), kind))
    };
    listed.filter_map(|found| entry(found.ok()?)).collect()
}

impl Disk {
    /// A disk that has been quiet: everything below `root` is certain.
    fn new(root: &Path, seed: u64, rarity: u32) -> Self {
        let root = fs::canonicalize(root).unwrap();
        let (certain, random) = (Certain::default(), StdRng::seed_from_u64(seed));
        let mut disk = Self { root: root.clone(), certain, random, rarity, wrecks: Vec::new(), syncs: 0 };
        disk.settle(&root);
        disk
    }

    fn settle(&mut self, folder: &Path) {
        let entries = entries_of(folder);
        for (name, entry) in &entries {
            let path = folder.join(name);
            match entry {
                Entry::Folder => self.settle(&path),
                Entry::File(id) => _ = self.certain.content.insert(*id, fs::read(&path).unwrap()),
            }
        }
        self.certain.entries.insert(folder.to_owned(), entries);
    }

    /// Hears that a file or folder was synced.
    fn synced(&mut self, path: &Path, acknowledged: u64) {
        let Ok(path) = fs::canonicalize(path) else { return };
        if !path.starts_with(&self.root) {
            return;
        }
        self.syncs += 1;
        if self.random.random_ratio(1, self.rarity) {
            self.cut(acknowledged, &format!("before sync {} of {}", self.syncs, path.display()));
        }
        if path.is_dir() {
            self.certain.entries.insert(path.clone(), entries_of(&path));
        } else if let Ok(metadata) = fs::metadata(&path) {
            self.certain.content.insert(file_id(&metadata), fs::read(&path).unwrap());
        }
        if self.random.random_ratio(1, self.rarity) {
            self.cut(acknowledged, &format!("after sync {} of {}", self.syncs, path.display()));
        }
    }

    fn cut(&mut self, acknowledged: u64, moment: &str) {
        let is_ragged = self.random.random_bool(0.5);
        let folder = tempfile::tempdir().unwrap();
        let root = self.root.clone();
        self.lay_down(&root, folder.path(), is_ragged);
        let name = format!("{} cut {moment}", if is_ragged { "ragged" } else { "strict" });
        self.wrecks.push(Wreck { folder, acknowledged, name });
    }

    fn lay_down(&mut self, from: &Path, to: &Path, is_ragged: bool) {
        fs::create_dir_all(to).unwrap();
        let certain = self.certain.entries.get(from).cloned().unwrap_or_default();
        let now = if is_ragged { entries_of(from) } else { BTreeMap::new() };
        let names: HashSet<&OsString> = certain.keys().chain(now.keys()).collect();
        let mut names: Vec<&OsString> = names.into_iter().collect();
        names.sort();
        for name in names {
            let of_now = is_ragged && self.random.random_bool(0.5);
            let Some(entry) = (if of_now { now.get(name) } else { certain.get(name) }) else { continue };
            match entry {
                Entry::Folder => self.lay_down(&from.join(name), &to.join(name), is_ragged),
                Entry::File(id) => {
                    let bytes = self.bytes_of(*id, &from.join(name), is_ragged);
                    fs::write(to.join(name), bytes).unwrap();
                }
            }
        }
    }

    fn bytes_of(&mut self, id: FileId, path: &Path, is_ragged: bool) -> Vec<u8> {
        let mut bytes = self.certain.content.get(&id).cloned().unwrap_or_default();
        let is_same = fs::metadata(path).is_ok_and(|metadata| file_id(&metadata) == id);
        if !is_ragged || !is_same {
            return bytes;
        }
        let now = fs::read(path).unwrap_or_default();
        // Files are appended to, or written anew under another name; nothing overwrites bytes with other bytes.
        if now.len() > bytes.len() {
            let end = self.random.random_range(bytes.len()..=now.len());
            bytes.extend_from_slice(&now[bytes.len()..end]);
            if self.random.random_bool(0.3) {
                bytes.resize(now.len(), 0);
            }
        }
        bytes
    }
}

/// Hears of all syncs while the guard lives.
fn watch(disk: &Arc<Mutex<Disk>>, acknowledged: &Arc<AtomicU64>) -> SyncWatch {
    let (disk, acknowledged) = (Arc::clone(disk), Arc::clone(acknowledged));
    crashpoint::watch_syncs(move |path| {
        // Before the lock: what is acknowledged while another sync is looked at may be missing in this cut.
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        disk.lock().synced(path, acknowledged);
    })
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// The numbers of all spans that a query sees, from the buffer and from the bytes of the live files.
async fn visible(house: &House, folder: &Path) -> Vec<u64> {
    let view = house.view().await;
    let number = |id: &[u8]| u64::from_be_bytes(id.try_into().unwrap());
    let numbers = |batch: &RecordBatch| -> Vec<u64> {
        batch["span_id"].as_fixed_size_binary().iter().map(|id| number(id.unwrap())).collect()
    };
    let mut found: Vec<u64> = view.buffered().flat_map(|batch| numbers(batch.spans())).collect();
    for file in view.snapshot().files() {
        let path = folder.join(file.location.as_ref());
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap().build().unwrap();
        found.extend(reader.flat_map(|batch| numbers(&batch.unwrap())));
    }
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_of_power_at_any_moment_loses_and_doubles_nothing_that_was_acknowledged() {
    let (cuts, seed) = (setting("TRACEHOUSE_POWER_CUTS", CUTS), setting("TRACEHOUSE_POWER_SEED", 7));
    let mut random = StdRng::seed_from_u64(seed);
    let mut folder = tempfile::tempdir().unwrap();
    let (mut tried, mut life, mut next) = (0, 0, 1);
    while tried < cuts {
        life += 1;
        let first = next;
        let acknowledged = Arc::new(AtomicU64::new(first - 1));
        let disk = Arc::new(Mutex::new(Disk::new(folder.path(), random.random(), RARITY)));
        let watch = watch(&disk, &acknowledged);
        let house = House::open(folder.path(), quiet()).await;
        let before = visible(&house, folder.path()).await;
        for number in 0..WRITES {
            house.write(next..next + WRITE_SPANS, u128::from(next)).await.unwrap();
            next += WRITE_SPANS;
            acknowledged.store(next - 1, Ordering::SeqCst);
            if number % 9 == life % 9 {
                house.ingest.flush().await.unwrap();
            }
        }
        house.ingest.shutdown().await.unwrap();
        drop(house);
        drop(watch);
        let wrecks = std::mem::take(&mut disk.lock().wrecks);
        assert!(!wrecks.is_empty(), "seed {seed}: no cut among {} syncs", disk.lock().syncs);
        for wreck in &wrecks {
            let context = format!("seed {seed}, life {life}, {}", wreck.name);
            let store = Store::local(wreck.folder.path()).unwrap();
            let opened = House::try_open(wreck.folder.path(), quiet(), store).await;
            let house = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
            let found = visible(&house, wreck.folder.path()).await;
            assert!(found.is_sorted_by(|left, right| left < right), "{context}: a span is there twice");
            let found: HashSet<u64> = found.into_iter().collect();
            let missing: Vec<u64> =
                before.iter().copied().chain(first..=wreck.acknowledged).filter(|span| !found.contains(span)).collect();
            assert!(missing.is_empty(), "{context}: {missing:?} are gone");
            tried += 1;
        }
        // The next life begins with what a cut has left of this one.
        let picked = random.random_range(0..wrecks.len());
        folder = wrecks.into_iter().nth(picked).unwrap().folder;
    }
}
