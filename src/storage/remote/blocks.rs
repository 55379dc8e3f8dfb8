//! Bytes of data files in memory and on the disk of this machine, in blocks of equal length.
//!
//! A read names ranges of one file. Its blocks are looked for in memory, then on disk; what is in neither is fetched,
//! neighbours together in one request, and whoever wants the same block meanwhile waits for that request. The library
//! that keeps the blocks evicts what is used least, checks what it reads from disk, and survives a crash; a damaged or
//! lost block is fetched again.
//!
//! ```text
//!   ranges      [--]        [------------]     [-]
//!   blocks    |  a  |  b  |  c  |  d  |  e  |  f  |  g  |
//!   known        -           x
//!   requests  [ a ]         -     [ d, e, f ]
//! ```
//!
//! *On disk* (`<local folder>/cache`): the library's own files, sized by `cache.disk_bytes_max`. *Who deletes*: the
//! library, to make room; anyone may delete the folder while the process does not run.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    ops::Range,
    path::Path as FsPath,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder as _, Error as CacheError, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy,
};
use futures::{
    FutureExt as _, TryFutureExt as _,
    future::{BoxFuture, Shared, try_join_all},
};
use object_store::{Error as ObjectError, Result, path::Path};
use parking_lot::Mutex;
use twox_hash::XxHash3_128;

use super::{
    ReadCounters,
    bucket::{BucketAccess, Part},
};
use crate::config::CacheSettings;

/// Length of a block. A footer of a large file fits; a column chunk takes some.
const BLOCK_BYTES: u64 = 128 * 1024;

/// Most neighbouring blocks in one request, so that large reads run side by side.
const RUN_BLOCKS_MAX: u64 = 64;

/// Unwanted blocks between wanted ones that are fetched along, because a request costs more than they do.
const GAP_BLOCKS_MAX: u64 = 4;

/// Memory that a block takes besides its bytes.
const BLOCK_OVERHEAD_BYTES: usize = 128;

/// Least memory for blocks: those on their way to the disk.
const MEMORY_BYTES_MIN: usize = 4 * 1024 * 1024;

/// Most of the disk that the library frees at once.
const ERASE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a read gave.
#[derive(Debug)]
pub(in crate::storage) struct Read {
    /// The bytes of each range, fewer than asked for at the object's end.
    pub(super) ranges: Vec<Bytes>,
    /// Length of the whole object.
    pub(super) object_bytes: u64,
}

/// Names a block: its file's path, hashed, and its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockKey {
    file: u128,
    index: u64,
}

impl Code for BlockKey {
    fn encode(&self, writer: &mut impl io::Write) -> Result<(), CacheError> {
        self.file.encode(writer)?;
        self.index.encode(writer)
    }

    fn decode(reader: &mut impl io::Read) -> Result<Self, CacheError> {
        Ok(Self { file: u128::decode(reader)?, index: u64::decode(reader)? })
    }

    fn estimated_size(&self) -> usize {
        size_of::<u128>() + size_of::<u64>()
    }
}

/// A block: [`BLOCK_BYTES`] of a file, fewer at its end.
#[derive(Clone, Debug)]
struct Block {
    bytes: Bytes,
    object_bytes: u64,
}

impl Code for Block {
    fn encode(&self, writer: &mut impl io::Write) -> Result<(), CacheError> {
        self.object_bytes.encode(writer)?;
        self.bytes.encode(writer)
    }

    fn decode(reader: &mut impl io::Read) -> Result<Self, CacheError> {
        Ok(Self { object_bytes: u64::decode(reader)?, bytes: Bytes::decode(reader)? })
    }

    fn estimated_size(&self) -> usize {
        self.object_bytes.estimated_size() + self.bytes.estimated_size()
    }
}

/// A request that is on its way: the blocks from one index on.
type Flight = Shared<BoxFuture<'static, Result<Arc<Vec<Block>>, Arc<ObjectError>>>>;

/// Blocks that are kept, and requests for blocks that are on their way.
#[derive(Debug)]
pub(in crate::storage) struct BlockCache {
    kept: HybridCache<BlockKey, Block>,
    /// By block, with the index of the flight's first block.
    flights: Arc<Mutex<HashMap<BlockKey, (u64, Flight)>>>,
}

impl BlockCache {
    /// Opens the cache; `None` if the settings keep nothing.
    pub(in crate::storage) async fn open(
        settings: &CacheSettings,
        folder: &FsPath,
    ) -> Result<Option<Self>, CacheError> {
        let memory_bytes = settings.memory_bytes_max.as_usize();
        let disk_bytes = settings.disk_bytes_max.as_usize();
        if memory_bytes == 0 && disk_bytes == 0 {
            return Ok(None);
        }
        let builder = HybridCacheBuilder::new()
            .with_name("blocks")
            // What is only in memory would be gone after a crash.
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(memory_bytes.max(MEMORY_BYTES_MIN))
            .with_weighter(|_: &BlockKey, block: &Block| block.bytes.len() + BLOCK_OVERHEAD_BYTES)
            .storage();
        let builder = if disk_bytes == 0 {
            builder
        } else {
            let device = FsDeviceBuilder::new(folder).with_capacity(disk_bytes).build()?;
            let erase_bytes = (disk_bytes / 16).clamp(2 * BLOCK_BYTES as usize, ERASE_BYTES_MAX);
            builder.with_engine_config(BlockEngineConfig::new(device).with_block_size(erase_bytes))
        };
        Ok(Some(Self { kept: builder.build().await?, flights: Arc::default() }))
    }

    /// Returns when everything is on disk that is on its way there; nothing is kept on disk from now on.
    pub(in crate::storage) async fn close(&self) -> Result<(), CacheError> {
        self.kept.close().await
    }

    /// Reads ranges of a data file, from here where they are kept.
    pub(super) async fn read(
        &self,
        bucket: &Arc<BucketAccess>,
        location: &Path,
        ranges: &[Range<u64>],
        counters: &Arc<ReadCounters>,
    ) -> Result<Read> {
        let file = XxHash3_128::oneshot(location.as_ref().as_bytes());
        let wanted: BTreeSet<u64> = ranges.iter().filter(|range| range.start < range.end).flat_map(blocks_of).collect();
        let mut found = self.kept_blocks(bucket, file, &wanted, counters).await;
        let missing: Vec<u64> = wanted.iter().copied().filter(|index| !found.contains_key(index)).collect();
        if !missing.is_empty() {
            ReadCounters::add(&counters.bucket_blocks, missing.len() as u64);
            bucket.metrics().count_cache_blocks("bucket", missing.len());
            let flights = self.flights_for(bucket, location, file, &missing, counters);
            let landed = try_join_all(flights.iter().map(|(_, flight)| flight.clone()));
            let landed = landed.await.map_err(|shared| unshared(location, &shared))?;
            for ((first, _), blocks) in flights.iter().zip(landed) {
                found.extend((*first..).zip(blocks.iter().cloned()));
            }
        }
        let object_bytes = found.values().next().map_or(0, |block| block.object_bytes);
        let ranges = ranges.iter().map(|range| assemble(location, range, &found)).collect::<Result<_>>()?;
        Ok(Read { ranges, object_bytes })
    }

    /// The wanted blocks that are in memory or on disk.
    async fn kept_blocks(
        &self,
        bucket: &BucketAccess,
        file: u128,
        wanted: &BTreeSet<u64>,
        counters: &ReadCounters,
    ) -> HashMap<u64, Block> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut from_disk = Vec::new();
        for index in wanted {
            let key = BlockKey { file, index: *index };
            match self.kept.memory().get(&key) {
                Some(entry) => {
                    found.insert(*index, entry.value().clone());
                }
                None if self.kept.is_hybrid() => {
                    from_disk.push(self.kept.get(&key).map(move |entry| (key.index, entry)));
                }
                None => {}
            }
        }
        let in_memory = found.len();
        for (index, entry) in futures::future::join_all(from_disk).await {
            // A block that cannot be read from disk is fetched like one that is not there.
            if let Ok(Some(entry)) = entry {
                found.insert(index, entry.value().clone());
            }
        }
        let on_disk = found.len() - in_memory;
        ReadCounters::add(&counters.memory_blocks, in_memory as u64);
        ReadCounters::add(&counters.disk_blocks, on_disk as u64);
        bucket.metrics().count_cache_blocks("memory", in_memory);
        bucket.metrics().count_cache_blocks("disk", on_disk);
        found
    }

    /// Requests that bring all of the missing blocks: those that are on their way, and new ones for the rest.
    fn flights_for(
        &self,
        bucket: &Arc<BucketAccess>,
        location: &Path,
        file: u128,
        missing: &[u64],
        counters: &Arc<ReadCounters>,
    ) -> Vec<(u64, Flight)> {
        let mut flights = self.flights.lock();
        let mut wanted: Vec<(u64, Flight)> = Vec::new();
        let mut absent = Vec::new();
        for index in missing {
            match flights.get(&BlockKey { file, index: *index }) {
                Some((first, _)) if wanted.last().is_some_and(|(last, _)| last == first) => {}
                Some((first, flight)) => wanted.push((*first, flight.clone())),
                // A flight can have landed since the caller looked.
                None => match self.kept.memory().get(&BlockKey { file, index: *index }) {
                    Some(entry) => wanted.push((*index, landed(entry.value().clone()))),
                    None => absent.push(*index),
                },
            }
        }
        for run in runs(&absent) {
            let flight = self.fetch(Arc::clone(bucket), location.clone(), file, run.clone(), Arc::clone(counters));
            for index in run.clone() {
                flights.entry(BlockKey { file, index }).or_insert_with(|| (run.start, flight.clone()));
            }
            wanted.push((run.start, flight));
        }
        wanted
    }

    /// One request for the blocks of `run`. It goes on when whoever asked goes away, since others may wait for it.
    fn fetch(
        &self,
        bucket: Arc<BucketAccess>,
        location: Path,
        file: u128,
        run: Range<u64>,
        counters: Arc<ReadCounters>,
    ) -> Flight {
        let (kept, flights) = (self.kept.clone(), Arc::clone(&self.flights));
        let task = tokio::spawn(async move {
            let outcome = bucket.read(&location, run.start * BLOCK_BYTES..run.end * BLOCK_BYTES, &counters).await;
            let blocks = outcome.map(|part| Arc::new(split(&part))).map_err(Arc::new);
            if let Ok(blocks) = &blocks {
                for (index, block) in run.clone().zip(blocks.iter()) {
                    kept.insert(BlockKey { file, index }, block.clone());
                }
            }
            let mut flights = flights.lock();
            for index in run.clone() {
                let key = BlockKey { file, index };
                if flights.get(&key).is_some_and(|(first, _)| *first == run.start) {
                    flights.remove(&key);
                }
            }
            drop(flights);
            blocks
        });
        let ended = |error: tokio::task::JoinError| Arc::new(ObjectError::JoinError { source: error });
        task.map_err(ended).map(|joined| joined.and_then(|blocks| blocks)).boxed().shared()
    }
}

fn landed(block: Block) -> Flight {
    futures::future::ready(Ok(Arc::new(vec![block]))).boxed().shared()
}

/// The blocks that a range lies in.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// Runs of blocks that are fetched together, from indices in rising order.
fn runs(absent: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for index in absent {
        match runs.last_mut() {
            Some(run) if *index - run.end <= GAP_BLOCKS_MAX && *index + 1 - run.start <= RUN_BLOCKS_MAX => {
                run.end = *index + 1;
            }
            _ => runs.push(*index..*index + 1),
        }
    }
    runs
}

/// The blocks of a part that begins with one.
fn split(part: &Part) -> Vec<Block> {
    let of_chunk = |chunk: &[u8]| {
        // Copied, or one block that stays would keep the whole part in memory.
        Block { bytes: Bytes::copy_from_slice(chunk), object_bytes: part.object_bytes }
    };
    part.bytes.chunks(BLOCK_BYTES as usize).map(of_chunk).collect()
}

/// The bytes of a range out of its blocks.
fn assemble(location: &Path, range: &Range<u64>, found: &HashMap<u64, Block>) -> Result<Bytes> {
    let mut pieces = Vec::new();
    for index in blocks_of(range) {
        let Some(block) = found.get(&index) else { break };
        let start = index * BLOCK_BYTES;
        let from = range.start.saturating_sub(start).min(block.bytes.len() as u64) as usize;
        let until = (range.end - start).min(block.bytes.len() as u64) as usize;
        pieces.push(block.bytes.slice(from..until.max(from)));
    }
    let length: usize = pieces.iter().map(Bytes::len).sum();
    if length == 0 && range.start < range.end {
        let source = format!("range {range:?} begins after the end of {location}").into();
        return Err(ObjectError::Generic { store: "bucket", source });
    }
    if pieces.len() == 1 {
        return Ok(pieces.remove(0));
    }
    let mut bytes = BytesMut::with_capacity(length);
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    Ok(bytes.freeze())
}

/// The error of a request that several waited for, for one of them.
fn unshared(location: &Path, shared: &Arc<ObjectError>) -> ObjectError {
    match shared.as_ref() {
        ObjectError::NotFound { .. } => {
            ObjectError::NotFound { path: location.to_string(), source: Box::new(Arc::clone(shared)) }
        }
        _ => ObjectError::Generic { store: "bucket", source: Box::new(Arc::clone(shared)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_fetched_together_and_small_gaps_along() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3, 4]).as_slice(), std::slice::from_ref(&(3..5)));
        assert_eq!(runs(&[0, 1, 2, 7, 20]), [0..8, 20..21]);
        let many: Vec<u64> = (0..100).collect();
        assert_eq!(runs(&many), [0..64, 64..100]);
    }

    #[test]
    fn a_range_is_put_together_from_its_blocks() {
        let bytes: Bytes = (0..BLOCK_BYTES as usize * 2 + 10).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let part = Part { bytes: bytes.clone(), object_bytes: bytes.len() as u64 };
        let found: HashMap<u64, Block> = (0..).zip(split(&part)).collect();
        assert_eq!(found.len(), 3);
        let end = bytes.len() as u64;
        for range in [0..1, 5..9, BLOCK_BYTES - 1..BLOCK_BYTES + 1, 0..end, end - 1..end + 100, 0..0] {
            let expected = bytes.slice(range.start as usize..(range.end as usize).min(bytes.len()));
            assert_eq!(assemble(&Path::from("x"), &range, &found).unwrap(), expected, "{range:?}");
        }
        assert!(assemble(&Path::from("x"), &(end..end + 1), &found).is_err());
    }
}
