//! Which files are merged next.
//!
//! Files of one day are merged with their neighbours in time of about the same size, so that each byte is rewritten once
//! per size class and a file keeps a narrow range of time:
//!
//! ```text
//!  class        0          1           2            3          done
//!  size     < 256 KiB   < 2 MiB    < 16 MiB   < a third of file_bytes_max   (with fan_in = 8)
//!           ########    ########   ########         never merged again
//!              8 -> 1      8 -> 1      8 -> 1
//! ```
//!
//! From a third on, no three would fit into one: merging two would write every byte once more to halve the number of files.
//!
//! A day that got no file for `settle_age` is *settled*: what is left of it is merged in one go, but never a large file
//! with a few small ones. So a settled day has full files and at most a handful of others, each at least
//! [`SETTLED_RATIO`] times as large as all smaller ones together, however slowly late spans trickle in.
//!
//! The choice depends on the snapshot alone. Several compactors avoid each other by starting at different days.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;

use crate::catalog::{LiveFile, Snapshot};

/// Files smaller than this are all of the first class, in bytes.
const FIRST_CLASS_BYTES: u64 = 256 << 10;

/// How much larger than all smaller files of a settled day a file must be to be left alone.
const SETTLED_RATIO: u64 = 4;

/// Most files in one merge.
const FILES_MAX: usize = 64;

/// Most merges in one commit.
const SETS_MAX: usize = 64;

/// When files are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickPolicy {
    /// Size up to which files are merged, in bytes; files from a third of it on are done.
    pub(crate) file_bytes_max: u64,
    /// Files of one class that are merged at once.
    pub(crate) fan_in: usize,
    /// Age of the newest file of a day from which on the rest of the day is merged, in milliseconds.
    pub(crate) settle_age_milli: i64,
    /// Largest merge of the small lane, in bytes of its inputs.
    pub(crate) small_bytes_max: u64,
}

/// Merges of different sizes go their own ways, so that a large one never holds up the small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Merges up to `compaction.small_bytes_max`.
    Small,
    /// The others.
    Large,
}

/// Files of one day to merge.
#[derive(Clone, Debug)]
pub(crate) struct MergeSet {
    pub(crate) files: Vec<Arc<LiveFile>>,
}

impl MergeSet {
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// What one look at a table needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickContext {
    pub(crate) policy: PickPolicy,
    pub(crate) lane: Lane,
    pub(crate) now_unix_milli: i64,
    /// A number of this process: at which day it starts.
    pub(crate) salt: u64,
}

/// The next merges of a table, to be committed together; none if there is nothing to do. `skip` says which files to leave
/// alone.
pub(crate) fn pick(snapshot: &Snapshot, context: PickContext, skip: impl Fn(&LiveFile) -> bool) -> Vec<MergeSet> {
    let mut days: BTreeMap<NaiveDate, Vec<Arc<LiveFile>>> = BTreeMap::new();
    for file in snapshot.files().filter(|file| !skip(file)) {
        if let Some(date) = file.date {
            days.entry(date).or_default().push(Arc::clone(file));
        }
    }
    let PickPolicy { small_bytes_max, .. } = context.policy;
    let mut picked: Vec<MergeSet> = Vec::new();
    let start = if days.is_empty() { 0 } else { (context.salt % days.len() as u64) as usize };
    let days: Vec<Vec<Arc<LiveFile>>> = days.into_values().collect();
    let mut bytes = 0;
    for files in days.iter().cycle().skip(start).take(days.len()) {
        for set in of_day(files, context) {
            let lane = if set.bytes() <= small_bytes_max { Lane::Small } else { Lane::Large };
            let is_full = match context.lane {
                Lane::Small => bytes + set.bytes() > small_bytes_max || picked.len() >= SETS_MAX,
                Lane::Large => !picked.is_empty(),
            };
            if is_full && !picked.is_empty() {
                return picked;
            }
            if lane == context.lane {
                bytes += set.bytes();
                picked.push(set);
            }
        }
    }
    picked
}

/// The merges of one day, of which no file is in two.
fn of_day(files: &[Arc<LiveFile>], context: PickContext) -> Vec<MergeSet> {
    let policy = context.policy;
    let newest = files.iter().map(|file| file.modified_unix_milli).max().unwrap_or_default();
    let mut open: Vec<Arc<LiveFile>> =
        files.iter().filter(|file| file.size_bytes < policy.file_bytes_max / 3).map(Arc::clone).collect();
    if context.now_unix_milli.saturating_sub(newest) >= policy.settle_age_milli {
        return settled(open, policy);
    }
    open.sort_by_key(|file| (file.start_range_unix_nano(), Arc::clone(&file.path)));
    let mut classes: BTreeMap<u32, Vec<Arc<LiveFile>>> = BTreeMap::new();
    for file in open {
        classes.entry(class(file.size_bytes, policy.fan_in)).or_default().push(file);
    }
    let mut sets = Vec::new();
    for files in classes.into_values() {
        for neighbours in files.chunks_exact(policy.fan_in.max(2)) {
            sets.extend(within(neighbours.iter().map(Arc::clone), policy));
        }
    }
    sets
}

/// 0 for files below the first size, 1 below `fan_in` times that, and so on.
fn class(size_bytes: u64, fan_in: usize) -> u32 {
    let ratio = size_bytes / FIRST_CLASS_BYTES;
    ratio.checked_ilog((fan_in.max(2)) as u64).map_or(0, |class| class + 1)
}

/// What is left of a settled day.
fn settled(mut files: Vec<Arc<LiveFile>>, policy: PickPolicy) -> Vec<MergeSet> {
    files.sort_by_key(|file| (file.size_bytes, Arc::clone(&file.path)));
    let mut smaller = 0;
    let mut count = 0;
    for (index, file) in files.iter().enumerate() {
        if index > 0 && file.size_bytes <= SETTLED_RATIO * smaller {
            count = index + 1;
        }
        smaller += file.size_bytes;
    }
    files.truncate(count);
    within(files.into_iter(), policy).into_iter().collect()
}

/// The first of `files` that fit into one output, if they are at least two.
fn within(files: impl Iterator<Item = Arc<LiveFile>>, policy: PickPolicy) -> Option<MergeSet> {
    let mut bytes = 0;
    let fitting = files.take(FILES_MAX).take_while(|file| {
        bytes += file.size_bytes;
        bytes <= policy.file_bytes_max
    });
    let files: Vec<Arc<LiveFile>> = fitting.collect();
    (files.len() >= 2).then_some(MergeSet { files })
}
